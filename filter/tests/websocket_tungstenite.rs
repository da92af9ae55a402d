//! An independent WebSocket implementation reads what is written here, and writes what is read here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod websocket;

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Message, WebSocket};
use websocket::{CountedKeys, Seen, read, read_pieces, write_message};
use wsferry::websocket::{Sender, Writer, handshake};

/// A stream of what was sent to it, whose reader finds `incoming`.
struct Recorded {
    incoming: Cursor<Vec<u8>>,
    sent: Vec<u8>,
}

impl Read for Recorded {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.incoming.read(buf)
    }
}

impl Write for Recorded {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.sent.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Their end: the opposite of `ours`.
fn peer_of(ours: Sender, incoming: Vec<u8>) -> WebSocket<Recorded> {
    let role = match ours {
        Sender::Client => Role::Server,
        Sender::Server => Role::Client,
    };
    let stream = Recorded {
        incoming: Cursor::new(incoming),
        sent: Vec::new(),
    };
    let config = WebSocketConfig::default().accept_unmasked_frames(false);
    WebSocket::from_raw_socket(stream, role, Some(config))
}

/// Their end, and who sends what we read from it.
fn sender_of_peer(ours: Sender) -> Sender {
    match ours {
        Sender::Client => Sender::Server,
        Sender::Server => Sender::Client,
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn they_read_what_we_write() {
    for ours in [Sender::Client, Sender::Server] {
        let lengths = [
            1, 2, 3, 4, 7, 8, 9, 125, 126, 127, 1_000, 65_535, 65_536, 1_000_000,
        ];
        let mut out = Vec::new();
        let mut writer = Writer::new(ours);
        for len in lengths {
            write_message(ours, &pattern(len), 100, &mut out);
            writer.ping(&pattern(len.min(125)), &mut out, &mut CountedKeys(3));
            writer.pong(&[], &mut out, &mut CountedKeys(4));
        }
        writer.close(Some(1009), "too much", &mut out, &mut CountedKeys(5));
        let mut peer = peer_of(ours, out);
        for len in lengths {
            assert_eq!(
                peer.read().unwrap(),
                Message::Binary(pattern(len).into()),
                "{len}"
            );
            assert_eq!(peer.read().unwrap(), Message::Ping(pattern(len.min(125)).into()));
            assert_eq!(peer.read().unwrap(), Message::Pong(Bytes::new()));
        }
        let Message::Close(Some(CloseFrame { code, reason })) = peer.read().unwrap() else {
            panic!("no Close");
        };
        assert_eq!((u16::from(code), reason.as_str()), (1009, "too much"));
        // What they answered of their own: a Pong for each Ping (only the last need be sent), a Close.
        peer.flush().unwrap_or_default();
        let answers = read(sender_of_peer(ours), &peer.get_ref().sent);
        assert!(answers.contains(&Seen::Pong(pattern(125))), "{answers:?}");
        assert_eq!(
            answers.last(),
            Some(&Seen::Close(Some(1009), b"too much".to_vec()))
        );
    }
}

#[test]
fn we_read_what_they_write() {
    for ours in [Sender::Client, Sender::Server] {
        let mut peer = peer_of(ours, Vec::new());
        let mut expected = Vec::new();
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000] {
            peer.send(Message::Binary(pattern(len).into())).unwrap();
            peer.send(Message::Ping(pattern(len.min(125)).into())).unwrap();
            if len > 0 {
                expected.push(Seen::Payload(pattern(len)));
            }
            expected.push(Seen::MessageEnd);
            expected.push(Seen::Ping(pattern(len.min(125))));
        }
        // Fragmented by hand, with a Ping inside.
        let data = |bytes: &'static [u8], opcode, fin| {
            Message::Frame(Frame::message(bytes, OpCode::Data(opcode), fin))
        };
        peer.send(data(b"three ", Data::Binary, false)).unwrap();
        peer.send(Message::Frame(Frame::ping(&b"inside"[..]))).unwrap();
        peer.send(data(b"small ", Data::Continue, false)).unwrap();
        peer.send(data(b"pieces", Data::Continue, true)).unwrap();
        expected.push(Seen::Payload(b"three ".to_vec()));
        expected.push(Seen::Ping(b"inside".to_vec()));
        expected.push(Seen::Payload(b"small pieces".to_vec()));
        expected.push(Seen::MessageEnd);
        peer.close(Some(CloseFrame {
            code: 4_000.into(),
            reason: "done".into(),
        }))
        .unwrap();
        peer.flush().unwrap();
        expected.push(Seen::Close(Some(4_000), b"done".to_vec()));
        let sent = &peer.get_ref().sent;
        assert!(read(sender_of_peer(ours), sent) == expected, "at once");
        for size in [1, 3, 4_096, 16_384] {
            assert!(
                read_pieces(sender_of_peer(ours), sent.chunks(size)) == expected,
                "pieces of {size}"
            );
        }
    }
}

#[test]
fn they_derive_the_same_accept_value() {
    let key = handshake::key([0xA5; 16]);
    assert_eq!(
        handshake::accept(&key),
        tungstenite::handshake::derive_accept_key(key.as_bytes())
    );
}

proptest! {
    #[test]
    fn any_message_crosses(bytes in prop::collection::vec(any::<u8>(), 1..5_000), expected in 0_usize..100_000, client in any::<bool>()) {
        let ours = if client { Sender::Client } else { Sender::Server };
        let mut out = Vec::new();
        write_message(ours, &bytes, expected, &mut out);
        let mut peer = peer_of(ours, out);
        prop_assert_eq!(peer.read().unwrap(), Message::Binary(bytes.clone().into()));
        peer.send(Message::Binary(bytes.clone().into())).unwrap();
        let seen = read(sender_of_peer(ours), &peer.get_ref().sent);
        prop_assert_eq!(seen, [Seen::Payload(bytes), Seen::MessageEnd]);
    }
}
