//! What this end of the WebSocket sends.

use super::control::is_sendable_close_code;
use super::frame::{Header, Opcode};
use super::{ControlPayload, MaskKeys, Sender, apply_mask};

/// Makes frames, each message in one (RFC 6455 §5.4 leaves fragmenting to the sender). The payload is
/// made where it is sent from: [`Writer::begin`] leaves room for the header, the caller appends the
/// payload, [`Writer::finish`] fills in the header and masks.
#[derive(Debug)]
pub struct Writer {
    sender: Sender,
}

/// A message that [`Writer::begin`] began; nothing but its payload may be appended until
/// [`Writer::finish`].
#[derive(Debug)]
#[must_use = "a message without its header is no frame"]
pub struct OpenMessage {
    header_at: usize,
    payload_at: usize,
}

impl Writer {
    /// `sender`: which end this is.
    pub fn new(sender: Sender) -> Self {
        Self { sender }
    }

    /// Begins a binary message at the end of `out`; `expected` is a guess of its payload length in
    /// bytes (a wrong one costs a move).
    pub fn begin(&mut self, out: &mut Vec<u8>, expected: usize) -> OpenMessage {
        let header_at = out.len();
        let (header, len) = self.header(Opcode::Binary, expected, [0; 4]).encode();
        out.extend(header.iter().take(len));
        OpenMessage {
            header_at,
            payload_at: out.len(),
        }
    }

    /// Payload bytes so far.
    pub fn payload_len(&self, open: &OpenMessage, out: &[u8]) -> usize {
        out.len().saturating_sub(open.payload_at)
    }

    /// Writes the frame header in its shortest form and masks the payload if the sender is a client.
    /// An empty message is removed.
    pub fn finish(&mut self, open: OpenMessage, out: &mut Vec<u8>, mask_keys: &mut dyn MaskKeys) {
        let payload_len = self.payload_len(&open, out);
        if payload_len == 0 {
            out.truncate(open.header_at);
            return;
        }
        let key = self.next_key(mask_keys);
        if self.sender == Sender::Client {
            apply_mask(out.get_mut(open.payload_at..).unwrap_or_default(), key);
        }
        let (header, len) = self.header(Opcode::Binary, payload_len, key).encode();
        // Moves the payload only if the guess was of another length class.
        out.splice(open.header_at..open.payload_at, header.into_iter().take(len));
    }

    /// Appends a Ping; what is longer than [`ControlPayload::MAX`] is cut off.
    pub fn ping(&mut self, payload: &[u8], out: &mut Vec<u8>, mask_keys: &mut dyn MaskKeys) {
        self.control(Opcode::Ping, payload.into(), out, mask_keys);
    }

    /// Appends a Pong; what is longer than [`ControlPayload::MAX`] is cut off.
    pub fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>, mask_keys: &mut dyn MaskKeys) {
        self.control(Opcode::Pong, payload.into(), out, mask_keys);
    }

    /// Appends a Close. Without a code, or with one that must not be sent (RFC 6455 §7.4.1: 1005, 1006,
    /// 1015), its body is empty. What of the reason exceeds [`ControlPayload::MAX_REASON`] bytes is cut
    /// off between characters.
    pub fn close(
        &mut self,
        code: Option<u16>,
        reason: &str,
        out: &mut Vec<u8>,
        mask_keys: &mut dyn MaskKeys,
    ) {
        let mut payload = ControlPayload::new();
        if let Some(code) = code.filter(|code| is_sendable_close_code(*code)) {
            let end = reason.floor_char_boundary(ControlPayload::MAX_REASON);
            payload.push(&code.to_be_bytes());
            payload.push(reason.as_bytes().get(..end).unwrap_or_default());
        }
        self.control(Opcode::Close, payload, out, mask_keys);
    }

    fn control(
        &mut self,
        opcode: Opcode,
        mut payload: ControlPayload,
        out: &mut Vec<u8>,
        mask_keys: &mut dyn MaskKeys,
    ) {
        let key = self.next_key(mask_keys);
        if self.sender == Sender::Client {
            apply_mask(payload.as_mut(), key);
        }
        let (header, len) = self.header(opcode, payload.len(), key).encode();
        out.extend(header.iter().take(len));
        out.extend_from_slice(&payload);
    }

    fn header(&self, opcode: Opcode, payload_len: usize, key: [u8; 4]) -> Header {
        Header {
            fin: true,
            opcode,
            mask: (self.sender == Sender::Client).then_some(key),
            payload: u64::try_from(payload_len).unwrap_or(u64::MAX),
        }
    }

    /// A server has no use for a key and takes none.
    fn next_key(&self, mask_keys: &mut dyn MaskKeys) -> [u8; 4] {
        match self.sender {
            Sender::Client => mask_keys.next_key(),
            Sender::Server => [0; 4],
        }
    }
}
