//! HTTP/2 (RFC 9113) bytes to messages and back, one direction of a connection at a time.
//!
//! This is a translation, not an endpoint: streams, windows and settings are kept by the two real codecs
//! at the ends, so there is no stream state here.

pub mod frame;
mod header_list;
pub mod hpack;
mod reader;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

use crate::error::Error;
use crate::message::{Http2Id, Message};

/// Whose bytes these are: a client's begin with the preface (RFC 9113 §3.4) and carry requests; a
/// server's carry responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Opens the streams.
    Client,
    /// Answers.
    Server,
}

impl Sender {
    /// Who gets what this one sends.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
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
