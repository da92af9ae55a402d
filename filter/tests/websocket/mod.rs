//! What the tests of WebSocket frames share.

use wsferry::Error;
use wsferry::websocket::{Event, MaskKeys, Reader, Sender, Writer};

pub const LIMIT: usize = 1 << 20;

/// Keys that differ from frame to frame, the same in every run.
pub struct CountedKeys(pub u32);

impl MaskKeys for CountedKeys {
    fn next_key(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_mul(0x9E37_79B1).wrapping_add(0x7F4A_7C15);
        self.0.to_be_bytes()
    }
}

/// What a reader says, with the bytes in place of their ranges, pieces of a payload joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Payload(Vec<u8>),
    MessageEnd,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
    Failed(Error),
}

/// Feeds `reader` one piece and adds what it says. Stops at an error.
pub fn feed(reader: &mut Reader, piece: &[u8], seen: &mut Vec<Seen>) {
    let mut input = piece.to_vec();
    let mut position = 0;
    loop {
        match reader.next(&mut input, &mut position) {
            Ok(None) => {
                assert_eq!(position, input.len(), "None says that all was taken");
                return;
            }
            Ok(Some(Event::Payload(range))) => {
                assert!(!range.is_empty() && range.end <= position);
                let piece = &input[range];
                match seen.last_mut() {
                    Some(Seen::Payload(payload)) => payload.extend_from_slice(piece),
                    _ => seen.push(Seen::Payload(piece.to_vec())),
                }
            }
            Ok(Some(Event::MessageEnd)) => seen.push(Seen::MessageEnd),
            Ok(Some(Event::Ping(payload))) => seen.push(Seen::Ping(payload.to_vec())),
            Ok(Some(Event::Pong(payload))) => seen.push(Seen::Pong(payload.to_vec())),
            Ok(Some(Event::Close { code, reason })) => seen.push(Seen::Close(code, reason.to_vec())),
            Err(error) => {
                seen.push(Seen::Failed(error));
                return;
            }
        }
    }
}

/// Everything that `bytes` say, given at once.
pub fn read(sender: Sender, bytes: &[u8]) -> Vec<Seen> {
    read_pieces(sender, [bytes])
}

/// Everything that the pieces say.
pub fn read_pieces<'a>(sender: Sender, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut reader = Reader::new(sender, LIMIT);
    let mut seen = Vec::new();
    for piece in pieces {
        feed(&mut reader, piece, &mut seen);
        if matches!(seen.last(), Some(Seen::Failed(_))) {
            break;
        }
    }
    seen
}

/// A whole message as [`Writer`] makes it.
pub fn write_message(sender: Sender, payload: &[u8], expected: usize, out: &mut Vec<u8>) {
    let mut writer = Writer::new(sender);
    let open = writer.begin(out, expected);
    out.extend_from_slice(payload);
    assert_eq!(writer.payload_len(&open, out), payload.len());
    writer.finish(open, out, &mut CountedKeys(7));
}
