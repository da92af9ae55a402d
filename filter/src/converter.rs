//! Joins the HTTP/2 connection of the local codec and the WebSocket connection to the other end.

use std::sync::Arc;

use crate::config::Config;
use crate::error::Error;
pub use crate::websocket::MaskKeys;

/// Both directions of one connection. Order of calls, for each chunk that arrives on either side:
/// one of the inputs, then [`Converter::take_websocket_output`] after `http2_input` or
/// [`Converter::take_http2_output`] after `websocket_input`. What one input has to say the other
/// way stays in the other output until that side's next call; the converter sees to it that there
/// is one (it sends a PING and waits for the answer).
///
/// No call fails: what was wrong is in [`Converter::closed`], and later input is ignored.
pub struct Converter {
    config: Arc<Config>,
}

/// Why and by whom a WebSocket was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Close code sent or received; [`crate::error::close_code::NO_STATUS`] or
    /// [`crate::error::close_code::ABNORMAL`] where there was none.
    pub code: u16,
    /// The other end closed first.
    pub by_peer: bool,
    /// What was wrong with the bytes, where that is the reason.
    pub error: Option<Error>,
}

/// What happened since the counts were last taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// WebSocket data messages received.
    pub messages_in: u64,
    /// WebSocket data messages sent.
    pub messages_out: u64,
    /// WebSocket bytes received, frame headers included.
    pub websocket_bytes_in: u64,
    /// WebSocket bytes sent, frame headers included.
    pub websocket_bytes_out: u64,
    /// Streams opened.
    pub streams_opened: u64,
    /// Streams reset by either end.
    pub streams_reset: u64,
    /// Header lists sent: bytes of names and values before encoding.
    pub header_bytes_before: u64,
    /// The same header lists, bytes of their CBOR messages.
    pub header_bytes_after: u64,
}

impl Converter {
    /// A converter before its first byte; the WebSocket handshake is done.
    pub fn new(config: &Arc<Config>) -> Self {
        Self {
            config: Arc::clone(config),
        }
    }

    /// Takes bytes from the local HTTP/2 codec.
    pub fn http2_input(&mut self, _input: &[u8], _mask_keys: &mut dyn MaskKeys) {
        let _ = &self.config;
    }

    /// Takes bytes from the WebSocket, unmasking them in place.
    pub fn websocket_input(&mut self, _input: &mut [u8], _mask_keys: &mut dyn MaskKeys) {}

    /// The local codec has ended its direction; a Close frame joins the WebSocket output.
    pub fn http2_end(&mut self, _mask_keys: &mut dyn MaskKeys) {}

    /// The other end has ended its direction, with or without Close.
    pub fn websocket_end(&mut self) {}

    /// Moves what is to be sent to the local codec into `out`, which is cleared first.
    pub fn take_http2_output(&mut self, out: &mut Vec<u8>) {
        out.clear();
    }

    /// Moves what is to be sent over the WebSocket into `out`, which is cleared first.
    pub fn take_websocket_output(&mut self, out: &mut Vec<u8>) {
        out.clear();
    }

    /// Set once either side has closed: no more messages will be converted.
    pub fn closed(&self) -> Option<Closed> {
        None
    }

    /// Whether the Close frame of this side has been taken from the WebSocket output; after it, the
    /// stream can be ended.
    pub fn close_sent(&self) -> bool {
        false
    }

    /// Streams that are open now.
    pub fn open_streams(&self) -> usize {
        0
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        Counts::default()
    }
}
