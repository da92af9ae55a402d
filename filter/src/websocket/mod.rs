//! WebSocket (RFC 6455): frames and the opening handshake, nothing else. Binary messages only, no
//! extensions.
//!
//! [`Reader`] takes the bytes of the other end and unmasks them where they lie; [`Writer`] frames and
//! masks what is to be sent in the buffer in which it was made. Neither copies a payload.

mod control;
mod frame;
pub mod handshake;
pub mod http1;
mod mask;
mod reader;
mod writer;

pub use control::ControlPayload;
pub use mask::{MaskKeys, apply_mask};
pub use reader::{Event, Reader};
pub use writer::{OpenMessage, Writer};

/// Which end of the WebSocket sends: a client masks, a server doesn't (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The end that made the handshake.
    Client,
    /// The end that answered it.
    Server,
}
