//! What the converter says to the other end.

use std::collections::VecDeque;

use super::lend;
use crate::cbor;
use crate::config::MESSAGE_BYTES;
use crate::error::Error;
use crate::message::{FIELD_OVERHEAD, Fields, Message, WireId};
use crate::websocket::{self, ControlPayload, OpenMessage};

use super::header_size::header_bytes;
use super::{Counts, MaskKeys};

/// Content of the Pings that ask for an echo.
const ECHO: [u8; 8] = *b"wsferry\0";

/// Pings and settings under way at once, at most.
const MAX_UNDER_WAY: usize = 16;

/// Room for what surrounds the payload or the fields of a message: type, stream, lengths, method.
const MESSAGE_OVERHEAD: usize = 64;

/// The bytes for the other end.
pub struct WebSocketSide {
    writer: websocket::Writer,
    encoder: cbor::Encoder,
    out: Vec<u8>,
    /// Length of what in `out` came of the codec's bytes, where that could not leave at once; answers come behind it.
    held: usize,
    open: Option<OpenMessage>,
    data: Option<LastData>,
    /// Payloads of Pings that haven't been answered, oldest first; `None` for an echo.
    pings: VecDeque<Option<[u8; 8]>>,
    /// Initial windows that the other end hasn't acknowledged, oldest first.
    unacknowledged: VecDeque<Option<u32>>,
    pong: Option<ControlPayload>,
    close: Close,
}

/// The data that was written last, if nothing has been written since.
#[derive(Debug, Clone, Copy)]
struct LastData {
    stream: WireId,
    /// Where its message begins in the output, and ends with it.
    start: usize,
}

/// How far this side's Close frame has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    No,
    Wanted { code: Option<u16>, reason: &'static str },
    Written,
    Taken,
}

impl WebSocketSide {
    pub fn new(sender: websocket::Sender, encoder: cbor::Encoder) -> Self {
        Self {
            writer: websocket::Writer::new(sender),
            encoder,
            out: Vec::new(),
            held: 0,
            open: None,
            data: None,
            pings: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            pong: None,
            close: Close::No,
        }
    }

    /// Bytes that wait to be taken; an answer that isn't written yet counts as one.
    pub fn waiting(&self) -> usize {
        let unwritten = self.pong.is_some() || matches!(self.close, Close::Wanted { .. });
        self.out.len().saturating_add(usize::from(unwritten))
    }

    /// The same without what the codec's own bytes became, which may wait for the handshake.
    pub fn answers_waiting(&self) -> usize {
        self.waiting().saturating_sub(self.held)
    }

    /// To be called when the codec's turn is over.
    pub fn hold(&mut self) {
        self.held = self.out.len();
    }

    /// See [`super::Converter::lend_websocket_output`].
    pub fn lend(&mut self, memory: Vec<u8>) {
        lend(&mut self.out, memory);
    }

    /// Moves the output out, with its memory.
    pub fn take(&mut self, out: &mut Vec<u8>) {
        self.held = 0;
        *out = std::mem::take(&mut self.out);
        if self.close == Close::Written {
            self.close = Close::Taken;
        }
    }

    /// Begins a WebSocket message of about `expected` bytes.
    pub fn begin(&mut self, expected: usize) {
        self.open = Some(self.writer.begin(&mut self.out, expected));
    }

    /// Ends the WebSocket message; one with nothing in it is never sent.
    pub fn finish(&mut self, keys: &mut dyn MaskKeys, counts: &mut Counts) {
        self.data = None;
        if let Some(open) = self.open.take() {
            if self.writer.payload_len(&open, &self.out) > 0 {
                counts.messages_out = counts.messages_out.wrapping_add(1);
            }
            self.writer.finish(open, &mut self.out, keys);
        }
    }

    /// Adds a message to the WebSocket message that is open, or to a new one where it is too large. The codec's frames are
    /// of 16 KiB, so no message is larger than a WebSocket message may be.
    pub fn send(&mut self, message: Message<'_, WireId>, keys: &mut dyn MaskKeys, counts: &mut Counts) {
        if self.ends_last_data(&message) {
            return;
        }
        let most = most_encoded(&message);
        let written = self
            .open
            .as_ref()
            .map_or(0, |open| self.writer.payload_len(open, &self.out));
        if written > 0 && written.saturating_add(most) > MESSAGE_BYTES {
            self.finish(keys, counts);
            self.begin(most);
        }
        let start = self.out.len();
        self.encoder.encode(&message, &mut self.out);
        self.data = match message {
            Message::Data { stream, .. } => Some(LastData { stream, start }),
            _ => None,
        };
        if let Some(before) = header_bytes(&message) {
            let after = u64::try_from(self.out.len().saturating_sub(start)).unwrap_or(u64::MAX);
            counts.header_bytes_before = counts.header_bytes_before.wrapping_add(before);
            counts.header_bytes_after = counts.header_bytes_after.wrapping_add(after);
        }
    }

    /// The end of a body is often told after its last byte, in a frame of its own: then that byte's message tells it.
    fn ends_last_data(&mut self, message: &Message<'_, WireId>) -> bool {
        let Message::Data {
            stream,
            end: true,
            payload: [],
        } = message
        else {
            return false;
        };
        let last = self.data.filter(|last| last.stream == *stream);
        let data = last.and_then(|last| self.out.get_mut(last.start..));
        data.is_some_and(cbor::end_data)
    }

    /// The codec's PING, as a Ping between two WebSocket messages. Of too many the oldest is
    /// forgotten, as if lost.
    pub fn forward_ping(&mut self, opaque: [u8; 8], keys: &mut dyn MaskKeys, counts: &mut Counts) {
        self.finish(keys, counts);
        self.ping(Some(opaque), keys);
        self.begin(0);
    }

    /// Makes the other end send something at once, so that what waits for the codec can go.
    pub fn request_echo(&mut self, keys: &mut dyn MaskKeys) {
        if !self.pings.contains(&None) {
            self.ping(None, keys);
        }
    }

    fn ping(&mut self, opaque: Option<[u8; 8]>, keys: &mut dyn MaskKeys) {
        if self.pings.len() >= MAX_UNDER_WAY {
            self.pings.pop_front();
        }
        self.pings.push_back(opaque);
        self.writer.ping(&opaque.unwrap_or(ECHO), &mut self.out, keys);
    }

    /// The PINGs of the codec that a Pong answers: the latest with its content, and all before it, for
    /// a Pong may answer only the latest of several Pings (RFC 6455 §5.5.3).
    pub fn pong_received(&mut self, payload: &[u8]) -> impl Iterator<Item = [u8; 8]> + use<'_> {
        let answered = self
            .pings
            .iter()
            .rposition(|ping| ping.unwrap_or(ECHO) == payload)
            .map_or(0, |found| found.saturating_add(1));
        self.pings.drain(..answered).flatten()
    }

    /// A Ping is answered when this direction has its turn; of several the latest (RFC 6455 §5.5.3).
    pub fn answer_ping(&mut self, payload: ControlPayload) {
        self.pong = Some(payload);
    }

    /// Notes settings that are being sent, with their initial window.
    ///
    /// # Errors
    /// [`Error::Http2Protocol`] if the codec changes them again and again without waiting.
    pub fn await_ack(&mut self, initial_window: Option<u32>) -> Result<(), Error> {
        if self.unacknowledged.len() >= MAX_UNDER_WAY {
            return Err(Error::Http2Protocol);
        }
        self.unacknowledged.push_back(initial_window);
        Ok(())
    }

    /// The other end knows the oldest settings; `None` if there are none. The initial window that it may use now, if they
    /// had one: the largest of theirs and of those that are under way, since a larger one counts at once.
    pub fn acknowledged(&mut self) -> Option<Option<u32>> {
        let oldest = self.unacknowledged.pop_front()?;
        let under_way = self.unacknowledged.iter().flatten().copied().max();
        Some(oldest.map(|bytes| bytes.max(under_way.unwrap_or_default())))
    }

    pub fn request_close(&mut self, code: Option<u16>, reason: &'static str) {
        self.close = Close::Wanted { code, reason };
    }

    pub fn close_taken(&self) -> bool {
        self.close == Close::Taken
    }

    /// Writes the answers that waited for this direction's turn.
    pub fn flush_answers(&mut self, keys: &mut dyn MaskKeys) {
        if let Some(pong) = self.pong.take() {
            self.writer.pong(&pong, &mut self.out, keys);
        }
        if let Close::Wanted { code, reason } = self.close {
            self.writer.close(code, reason, &mut self.out, keys);
            self.close = Close::Written;
        }
    }
}

/// Upper bound for a message's length in CBOR, bytes: a field's heads take less than its share of
/// the list's overhead.
fn most_encoded(message: &Message<'_, WireId>) -> usize {
    let bytes = match message {
        Message::Request { head, .. } => {
            let protocol = head.protocol.unwrap_or_default();
            [head.method, head.scheme, head.authority, head.path, protocol]
                .iter()
                .fold(head.fields.list_size(), |sum, value| {
                    sum.saturating_add(value.len()).saturating_add(FIELD_OVERHEAD)
                })
        }
        Message::Response { fields, .. } | Message::Trailers { fields, .. } => Fields::list_size(fields),
        Message::Data { payload, .. } | Message::Raw(payload) => payload.len(),
        Message::Settings(settings) => settings.len().saturating_mul(8),
        Message::Reset { .. } | Message::Credit { .. } | Message::Ack | Message::Goaway { .. } => 0,
    };
    bytes.saturating_add(MESSAGE_OVERHEAD)
}
