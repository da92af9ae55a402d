//! HTTP/2 (RFC 9113) bytes to messages and back, one direction of a connection at a time.
//!
//! This is a translation, not an endpoint: streams, windows and settings are kept by the two real codecs
//! at the ends, so there is no stream state here.

use crate::config::Limits;
use crate::error::Error;
use crate::message::{Http2Id, Message, Settings};

/// Whose bytes these are: a client's begin with the preface (RFC 9113 §3.4) and carry requests; a
/// server's carry responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Opens the streams.
    Client,
    /// Answers.
    Server,
}

/// What a [`Reader`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A step of an exchange or of the connection.
    Message(Message<'a, Http2Id>),
    /// PING without ACK: its sender waits for the same bytes back (RFC 9113 §6.7).
    Ping([u8; 8]),
    /// PING with ACK.
    PingAck([u8; 8]),
    /// Flow-controlled bytes that are no payload (RFC 9113 §6.1): to be given back to the sender.
    Padding {
        /// The stream whose window they count in, beside the connection's.
        stream: Http2Id,
        /// 1 to 256 bytes for each DATA frame.
        bytes: u32,
    },
    /// A header block that harms only its stream, malformed or too big. It is consumed and the HPACK
    /// state is right.
    Malformed {
        /// The stream to reset.
        stream: Http2Id,
        /// [`Error::Http2Malformed`] or [`Error::Http2HeaderListTooBig`].
        error: Error,
    },
}

/// Bytes of one sender to events.
#[derive(Debug)]
pub struct Reader {
    sender: Sender,
}

impl Reader {
    /// A reader before the first byte of `sender`.
    pub fn new(sender: Sender, _limits: &Limits) -> Self {
        Self { sender }
    }

    /// Takes bytes from the front of `input` and returns the next event, or `None` once all of `input`
    /// has been taken (a partial frame is kept inside).
    ///
    /// # Errors
    /// Those of the connection; after one, nothing more can be read.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<Event<'a>>, Error> {
        let _ = self.sender;
        *input = &[];
        Ok(None)
    }
}

/// Messages to bytes of one sender.
#[derive(Debug)]
pub struct Writer {
    sender: Sender,
}

impl Writer {
    /// A writer that speaks as `sender`; a client's first output begins with the preface.
    pub fn new(sender: Sender) -> Self {
        Self { sender }
    }

    /// Appends the frames of `message`.
    pub fn message(&mut self, _message: &Message<'_, Http2Id>, _out: &mut Vec<u8>) {
        let _ = self.sender;
    }

    /// Appends a PING.
    pub fn ping(&mut self, _opaque: [u8; 8], _out: &mut Vec<u8>) {}

    /// Appends a PING with ACK.
    pub fn ping_ack(&mut self, _opaque: [u8; 8], _out: &mut Vec<u8>) {}

    /// What the receiver of these bytes has announced: HEADER_TABLE_SIZE and MAX_FRAME_SIZE count, the
    /// rest is ignored.
    pub fn apply_settings(&mut self, _settings: &Settings) {}
}
