//! Frames as bytes.

use wsferry::http2::Sender;
use wsferry::http2::frame::PREFACE;
use wsferry::http2::hpack::integer;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals that enter no table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer::encode(0, 0x7f, text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// What the bytes of a sender begin with: its preface, the last part of which is SETTINGS.
pub fn begun(sender: Sender) -> Vec<u8> {
    let mut bytes = match sender {
        Sender::Client => PREFACE.to_vec(),
        Sender::Server => Vec::new(),
    };
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}
