//! What the converter says to the local codec.

use std::collections::VecDeque;

use super::lend;
use crate::error::{Error, http2_code};
use crate::http2;
use crate::message::{Http2Id, Message, Settings};

/// Content of the PINGs that ask for an echo. The codec answers PINGs from nowhere else, so it need
/// not be unique.
const ECHO: [u8; 8] = *b"wsferry\0";

/// Settings of the other end that the codec hasn't acknowledged yet, at most.
const MAX_UNACKNOWLEDGED: usize = 16;

/// Whose settings the codec has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The other end's: it is owed an `ack`.
    Peer,
    /// The converter's own, for a peer that sends none.
    Converter,
}

/// The bytes for the local codec.
pub struct Http2Side {
    writer: http2::Writer,
    out: Vec<u8>,
    settings_sent: bool,
    unacknowledged: VecDeque<Origin>,
    echo_under_way: bool,
    /// Bytes of the connection's window that the codec is owed.
    owed: u32,
    /// What streams are reset with once the WebSocket has closed.
    pub reset_code: u32,
}

impl Http2Side {
    pub fn new(sender: http2::Sender) -> Self {
        Self {
            writer: http2::Writer::new(sender),
            out: Vec::new(),
            settings_sent: false,
            unacknowledged: VecDeque::new(),
            echo_under_way: false,
            owed: 0,
            reset_code: http2_code::INTERNAL_ERROR,
        }
    }

    /// Bytes that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.out.len().saturating_add(usize::from(self.owed > 0))
    }

    /// See [`super::Converter::lend_http2_output`].
    pub fn lend(&mut self, memory: Vec<u8>) {
        lend(&mut self.out, memory);
    }

    /// Moves the output out, with its memory.
    pub fn take(&mut self, out: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut self.owed);
        if bytes > 0 {
            self.send(&Message::Credit { stream: None, bytes });
        }
        *out = std::mem::take(&mut self.out);
    }

    /// Makes room for what `input` bytes of the WebSocket become, so that bodies aren't moved again and
    /// again as the output grows. A frame header for each 16 KiB is what comes on top.
    pub fn reserve_for(&mut self, input: usize) {
        let headers = input.wrapping_shr(10);
        self.out.reserve(input.saturating_add(headers).saturating_add(64));
    }

    /// Sends anything but settings.
    pub fn send(&mut self, message: &Message<'_, Http2Id>) {
        self.begin();
        self.writer.message(message, &mut self.out);
    }

    /// Gives the codec what precedes HTTP/2.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.message(&Message::Raw(bytes), &mut self.out);
    }

    /// Settings come first (RFC 9113 §3.4); a peer that has none gets the defaults, without push.
    pub fn begin(&mut self) {
        if !self.settings_sent {
            self.settings_sent = true;
            self.unacknowledged.push_back(Origin::Converter);
            let mut settings = Settings::new();
            settings.set(Settings::ENABLE_PUSH, 0);
            self.writer.message(&Message::Settings(&settings), &mut self.out);
        }
    }

    /// Sends the other end's settings.
    ///
    /// # Errors
    /// [`Error::ExcessiveLoad`] if the codec hasn't acknowledged the ones before.
    pub fn send_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        let of_peer = self
            .unacknowledged
            .iter()
            .filter(|origin| **origin == Origin::Peer);
        if of_peer.count() >= MAX_UNACKNOWLEDGED {
            return Err(Error::ExcessiveLoad);
        }
        self.settings_sent = true;
        self.unacknowledged.push_back(Origin::Peer);
        self.writer.message(&Message::Settings(settings), &mut self.out);
        Ok(())
    }

    /// The codec has acknowledged the oldest settings; whether the other end is owed an `ack`.
    ///
    /// # Errors
    /// [`Error::Http2Protocol`] if there were none.
    pub fn settings_acknowledged(&mut self) -> Result<bool, Error> {
        self.unacknowledged
            .pop_front()
            .map(|origin| origin == Origin::Peer)
            .ok_or(Error::Http2Protocol)
    }

    /// What the codec has announced of itself.
    pub fn apply_settings(&mut self, settings: &Settings) {
        self.writer.apply_settings(settings);
    }

    pub fn ping_ack(&mut self, opaque: [u8; 8]) {
        self.begin();
        self.writer.ping_ack(opaque, &mut self.out);
    }

    /// Gives flow-controlled bytes that won't travel back to the codec (RFC 9113 §6.9): to the
    /// connection, and to the stream if it is still open.
    pub fn give_back(&mut self, stream: Option<Http2Id>, bytes: u32) {
        if bytes > 0 {
            self.owed = self.owed.saturating_add(bytes);
            if stream.is_some() {
                self.send(&Message::Credit { stream, bytes });
            }
        }
    }

    /// Makes the codec send something at once, so that what waits for the other end can go.
    pub fn request_echo(&mut self) {
        if !self.echo_under_way {
            self.echo_under_way = true;
            self.begin();
            self.writer.ping(ECHO, &mut self.out);
        }
    }

    pub fn echo_returned(&mut self) {
        self.echo_under_way = false;
    }
}
