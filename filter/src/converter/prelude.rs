//! What precedes HTTP/2 where the far end makes the requests.
//!
//! Such a connection is dialled by the end that will answer, so both Envoys first agree on what it is for, in HTTP/1.1,
//! and keep it alive until the first request by a word that they send back and forth. That isn't converted: it
//! passes as it is, in messages of its own.

use crate::config::RAW_BYTES;
use crate::error::Error;
use crate::http2::Sender;
use crate::http2::frame::PREFACE;

/// One direction of a connection until HTTP/2 begins in it.
pub(super) struct Prelude {
    codec: Sender,
    /// What may be the beginning of HTTP/2, and isn't complete.
    held: Vec<u8>,
}

/// What some input of the local codec is.
pub(super) struct Part {
    /// Passes as it is.
    pub(super) raw: Vec<u8>,
    /// Where HTTP/2 has begun, its first bytes.
    pub(super) http2: Option<Vec<u8>>,
}

impl Prelude {
    pub(super) const fn new(codec: Sender) -> Self {
        Self {
            codec,
            held: Vec::new(),
        }
    }

    /// Takes bytes of the local codec.
    ///
    /// # Errors
    /// [`Error::Http2Preface`] for more than [`RAW_BYTES`] bytes at a time without HTTP/2.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<Part, Error> {
        let mut raw = std::mem::take(&mut self.held);
        raw.extend_from_slice(input);
        let rest = raw.split_off(self.http2_at(&raw).min(raw.len()));
        if raw.len() > RAW_BYTES {
            return Err(Error::Http2Preface);
        }
        let begun = match self.codec {
            Sender::Client => rest.starts_with(PREFACE),
            Sender::Server => !rest.is_empty(),
        };
        if begun {
            return Ok(Part {
                raw,
                http2: Some(rest),
            });
        }
        self.held = rest;
        Ok(Part { raw, http2: None })
    }

    /// Where HTTP/2 begins, or may begin if more bytes follow: a client's with the preface (RFC 9113 §3.4), a server's
    /// with a frame of less than 64 KiB, so with a zero, which no text has.
    fn http2_at(&self, bytes: &[u8]) -> usize {
        let begins = |at: &usize| match self.codec {
            Sender::Client => bytes.get(*at..).is_some_and(|rest| {
                let most = rest.len().min(PREFACE.len());
                rest.get(..most) == PREFACE.get(..most)
            }),
            Sender::Server => bytes.get(*at) == Some(&0),
        };
        (0..bytes.len()).find(begins).unwrap_or(bytes.len())
    }
}
