//! Frames of RFC 6455 §5: its examples, every cut, every breach.
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

use proptest::prelude::*;
use websocket::{CountedKeys, LIMIT, Seen, feed, read, read_pieces, write_message};
use wsferry::Error;
use wsferry::websocket::{ControlPayload, Event, Reader, Sender, Writer, apply_mask};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;

/// A frame in its shortest form, made byte by byte as RFC 6455 §5.2 draws it.
fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mask = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(mask | len as u8),
        len @ 126..65_536 => {
            bytes.push(mask | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(mask | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key.iter().flatten());
    let masked = payload
        .iter()
        .enumerate()
        .map(|(i, byte)| byte ^ key.map_or(0, |key| key[i % 4]));
    bytes.extend(masked);
    bytes
}

fn server(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, None, payload)
}

fn payload(bytes: &[u8]) -> Seen {
    Seen::Payload(bytes.to_vec())
}

/// What comes of bytes that break a rule: the error, and nothing after it.
#[track_caller]
fn assert_fails(sender: Sender, bytes: &[u8], error: Error) {
    let seen = read(sender, bytes);
    assert_eq!(seen.last(), Some(&Seen::Failed(error)), "{seen:?}");
    let cut = read_pieces(sender, bytes.chunks(1));
    assert_eq!(cut.last(), Some(&Seen::Failed(error)), "byte by byte: {cut:?}");
}

#[test]
fn examples_of_rfc_6455_5_7() {
    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(read(Sender::Server, &ping), [Seen::Ping(b"Hello".to_vec())]);
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read(Sender::Client, &pong), [Seen::Pong(b"Hello".to_vec())]);

    let medium = [&[0x82, 0x7E, 0x01, 0x00][..], &[7; 256]].concat();
    assert_eq!(
        read(Sender::Server, &medium),
        [payload(&[7; 256]), Seen::MessageEnd]
    );
    let large = [&[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0][..], &[9; 65_536]].concat();
    assert_eq!(
        read(Sender::Server, &large),
        [payload(&[9; 65_536]), Seen::MessageEnd]
    );

    // The text examples, as binary messages: here text frames are refused.
    assert_fails(
        Sender::Server,
        &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f],
        Error::TextFrame,
    );
    let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(
        read(Sender::Client, &masked),
        [payload(b"Hello"), Seen::MessageEnd]
    );
    let fragmented = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    assert_eq!(
        read(Sender::Server, &fragmented),
        [payload(b"Hello"), Seen::MessageEnd]
    );
}

/// A connection with a bit of everything.
fn conversation(key: Option<[u8; 4]>) -> (Vec<u8>, Vec<Seen>) {
    let long = (0..300_u32).map(|i| i as u8).collect::<Vec<_>>();
    let bytes = [
        frame(FIN | BINARY, key, b"one"),
        frame(FIN | PING, key, b"are you there?"),
        frame(BINARY, key, b"two, in"),
        frame(FIN | PONG, key, b""),
        frame(0, key, b""),
        frame(0, key, &long),
        frame(FIN | PING, key, &[0xFF; 125]),
        frame(FIN, key, b" pieces"),
        frame(FIN | BINARY, key, b""),
        frame(FIN | CLOSE, key, b"\x03\xe8bye"),
        // Nothing counts after Close.
        frame(0xFF, key, b"ignored"),
    ];
    let seen = vec![
        payload(b"one"),
        Seen::MessageEnd,
        Seen::Ping(b"are you there?".to_vec()),
        payload(b"two, in"),
        Seen::Pong(Vec::new()),
        payload(&long),
        Seen::Ping(vec![0xFF; 125]),
        payload(b" pieces"),
        Seen::MessageEnd,
        Seen::MessageEnd,
        Seen::Close(Some(1000), b"bye".to_vec()),
    ];
    (bytes.concat(), seen)
}

#[test]
fn every_cut_gives_the_same_events() {
    for (sender, key) in [(Sender::Client, Some(KEY)), (Sender::Server, None)] {
        let (bytes, expected) = conversation(key);
        for cut in 0..=bytes.len() {
            let (before, after) = bytes.split_at(cut);
            assert_eq!(read_pieces(sender, [before, after]), expected, "cut at {cut}");
        }
        for size in 1..20 {
            assert_eq!(
                read_pieces(sender, bytes.chunks(size)),
                expected,
                "pieces of {size}"
            );
        }
    }
}

#[test]
fn a_header_is_judged_as_soon_as_it_shows_what_is_wrong() {
    // One byte each, and no more will ever come.
    for (first, error) in [
        (0xC2, Error::ReservedBits),
        (0xA2, Error::ReservedBits),
        (0x92, Error::ReservedBits),
        (0x81, Error::TextFrame),
        (0x01, Error::TextFrame),
        (0x08, Error::FragmentedControl),
        (0x09, Error::FragmentedControl),
        (0x0A, Error::FragmentedControl),
    ] {
        assert_fails(Sender::Server, &[first], error);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_fails(Sender::Server, &[FIN | opcode], Error::ReservedOpcode);
    }
    assert_fails(Sender::Client, &[0x82, 0x05], Error::UnmaskedFrame);
    assert_fails(Sender::Client, &[0x88, 0x00], Error::UnmaskedFrame);
    assert_fails(Sender::Server, &[0x82, 0x85], Error::MaskedFrame);
    for opcode in [CLOSE, PING, PONG] {
        assert_fails(Sender::Server, &[FIN | opcode, 126], Error::ControlTooLong);
        assert_fails(Sender::Server, &[FIN | opcode, 127], Error::ControlTooLong);
    }
}

#[test]
fn lengths_take_their_shortest_form() {
    let fails = |bytes: &[u8]| assert_fails(Sender::Server, bytes, Error::PayloadLength);
    fails(&[0x82, 126, 0, 0]);
    fails(&[0x82, 126, 0, 125]);
    fails(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 126]);
    fails(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]);
    // The top bit, and not an overflow of what came before.
    fails(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    fails(&[0x82, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    // Right forms at the borders.
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let seen = read(Sender::Server, &server(FIN | BINARY, &vec![1; len]));
        assert_eq!(seen.last(), Some(&Seen::MessageEnd), "{len}");
    }
}

#[test]
fn fragmentation_rules() {
    assert_fails(
        Sender::Server,
        &server(FIN, b"nothing to continue"),
        Error::Fragmentation,
    );
    assert_fails(
        Sender::Server,
        &server(0, b"nothing to continue"),
        Error::Fragmentation,
    );
    let new_inside = [server(BINARY, b"a"), server(FIN | BINARY, b"b")].concat();
    assert_fails(Sender::Server, &new_inside, Error::Fragmentation);
    let after_end = [server(BINARY, b"a"), server(FIN, b"b"), server(FIN, b"c")].concat();
    assert_fails(Sender::Server, &after_end, Error::Fragmentation);
    let text_inside = [server(BINARY, b"a"), server(FIN | 1, b"b")].concat();
    assert_fails(Sender::Server, &text_inside, Error::TextFrame);
}

#[test]
fn the_limit_holds_for_all_fragments_before_their_payload() {
    let at_limit = [server(BINARY, &vec![0; LIMIT - 10]), server(FIN, &[0; 10])].concat();
    let seen = read(Sender::Server, &at_limit);
    assert_eq!(seen, [payload(&vec![0; LIMIT]), Seen::MessageEnd]);
    // Only the headers are there: the payload that they announce is enough.
    let over = server(FIN | BINARY, &vec![0; LIMIT + 1]);
    assert_fails(Sender::Server, &over[..10], Error::MessageTooBig);
    let over_by_fragment = [server(BINARY, &vec![0; LIMIT]), server(FIN, &[0])].concat();
    assert_fails(
        Sender::Server,
        &over_by_fragment[..over_by_fragment.len() - 1],
        Error::MessageTooBig,
    );
    // Beyond 32 bits, where a cast of wasm32 would wrap: 2^32, 2^32 + 1, 2^63 - 1.
    for length in [1_u64 << 32, (1 << 32) + 1, (1 << 63) - 1] {
        let header = [&[0x82, 127][..], &length.to_be_bytes()].concat();
        assert_fails(Sender::Server, &header, Error::MessageTooBig);
        let as_fragment = [
            server(BINARY, b"a"),
            [&[0x80, 127][..], &length.to_be_bytes()].concat(),
        ]
        .concat();
        assert_fails(Sender::Server, &as_fragment, Error::MessageTooBig);
    }
    // Messages don't add up.
    let two = [
        server(FIN | BINARY, &vec![0; LIMIT]),
        server(FIN | BINARY, &vec![0; LIMIT]),
    ]
    .concat();
    assert_eq!(read(Sender::Server, &two).len(), 4);
}

#[test]
fn close_frames() {
    let close = |body: &[u8]| read(Sender::Server, &server(FIN | CLOSE, body));
    assert_eq!(close(b""), [Seen::Close(None, Vec::new())]);
    let longest = [&1000_u16.to_be_bytes()[..], &[b'x'; ControlPayload::MAX_REASON]].concat();
    assert_eq!(close(&longest), [Seen::Close(Some(1000), vec![b'x'; 123])]);
    assert_eq!(close(&[3]), [Seen::Failed(Error::CloseFrame)]);
    assert_eq!(
        close(b"\x03\xe8\xc3"),
        [Seen::Failed(Error::CloseFrame)],
        "half a character"
    );
    assert_eq!(
        close("\u{3}\u{7f}".as_bytes()),
        [Seen::Failed(Error::CloseFrame)],
        "895 is no code"
    );
    for code in 0..=u16::MAX {
        let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let expected = if allowed {
            Seen::Close(Some(code), Vec::new())
        } else {
            Seen::Failed(Error::CloseFrame)
        };
        assert_eq!(close(&code.to_be_bytes()), [expected], "{code}");
    }
    // Inside a fragmented message, too.
    let inside = [server(BINARY, b"a"), server(FIN | CLOSE, b"")].concat();
    assert_eq!(
        read(Sender::Server, &inside),
        [payload(b"a"), Seen::Close(None, Vec::new())]
    );
}

#[test]
fn nothing_is_read_after_an_error() {
    let mut reader = Reader::new(Sender::Server, LIMIT);
    let mut seen = Vec::new();
    feed(&mut reader, &[0xF2], &mut seen);
    feed(&mut reader, &server(FIN | BINARY, b"well-formed"), &mut seen);
    assert_eq!(seen, [Seen::Failed(Error::ReservedBits)]);
}

#[test]
fn payload_is_unmasked_in_place_and_nothing_else_is_touched() {
    let mut bytes = [
        frame(FIN | BINARY, Some(KEY), b"Hello"),
        frame(FIN | BINARY, Some(KEY), b"World"),
    ]
    .concat();
    let before = bytes.clone();
    let mut reader = Reader::new(Sender::Client, LIMIT);
    let mut position = 0;
    let event = reader.next(&mut bytes, &mut position).unwrap();
    assert_eq!(event, Some(Event::Payload(6..11)));
    assert_eq!(position, 11);
    assert_eq!(&bytes[6..11], b"Hello");
    assert_eq!(bytes[..6], before[..6]);
    assert_eq!(bytes[11..], before[11..]);
}

#[test]
fn masks_at_every_offset_and_length() {
    let plain = (0..200_u32).map(|i| (i * 7) as u8).collect::<Vec<_>>();
    for start in 0..20 {
        for end in start..plain.len() {
            let mut bytes = plain.clone();
            let next = apply_mask(&mut bytes[start..end], KEY);
            for (i, byte) in bytes.iter().enumerate() {
                let key = if (start..end).contains(&i) {
                    KEY[(i - start) % 4]
                } else {
                    0
                };
                assert_eq!(*byte, plain[i] ^ key, "{start}..{end} at {i}");
            }
            assert_eq!(next, std::array::from_fn(|i| KEY[(end - start + i) % 4]));
        }
    }
}

#[test]
fn writer_makes_the_shortest_header_whatever_was_expected() {
    for sender in [Sender::Client, Sender::Server] {
        for len in [1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for expected in [0, 125, 126, 65_535, 65_536, 1 << 20] {
                let bytes = (0..len).map(|i| i as u8).collect::<Vec<_>>();
                let mut out = b"before".to_vec();
                write_message(sender, &bytes, expected, &mut out);
                let key = (sender == Sender::Client).then(|| {
                    use wsferry::websocket::MaskKeys;
                    CountedKeys(7).next_key()
                });
                let wanted = [&b"before"[..], &frame(FIN | BINARY, key, &bytes)].concat();
                assert!(out == wanted, "{sender:?}, {len} bytes, {expected} expected");
            }
        }
    }
}

#[test]
fn writer_removes_an_empty_message_and_asks_for_no_key() {
    struct NoKeys;
    impl wsferry::websocket::MaskKeys for NoKeys {
        fn next_key(&mut self) -> [u8; 4] {
            panic!("a key for nothing")
        }
    }
    let mut out = b"before".to_vec();
    let mut writer = Writer::new(Sender::Client);
    let open = writer.begin(&mut out, 1_000);
    writer.finish(open, &mut out, &mut NoKeys);
    assert_eq!(out, b"before");
    // A server needs none at all.
    let mut writer = Writer::new(Sender::Server);
    let open = writer.begin(&mut out, 1);
    out.push(b'x');
    writer.finish(open, &mut out, &mut NoKeys);
    writer.ping(b"p", &mut out, &mut NoKeys);
    assert_eq!(out, b"before\x82\x01x\x89\x01p");
}

#[test]
fn writer_makes_control_frames() {
    let made = |write: &dyn Fn(&mut Writer, &mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut Writer::new(Sender::Server), &mut out);
        out
    };
    let keys = || CountedKeys(1);
    assert_eq!(
        made(&|w, out| w.ping(b"Hello", out, &mut keys())),
        server(FIN | PING, b"Hello")
    );
    assert_eq!(
        made(&|w, out| w.pong(b"", out, &mut keys())),
        server(FIN | PONG, b"")
    );
    assert_eq!(
        made(&|w, out| w.pong(&[1; 200], out, &mut keys())),
        server(FIN | PONG, &[1; 125]),
        "cut off"
    );
    assert_eq!(
        made(&|w, out| w.close(Some(1001), "restart", out, &mut keys())),
        server(FIN | CLOSE, b"\x03\xe9restart")
    );
    assert_eq!(
        made(&|w, out| w.close(None, "unsaid", out, &mut keys())),
        [0x88, 0]
    );
    for never_sent in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        assert_eq!(
            made(&|w, out| w.close(Some(never_sent), "unsaid", out, &mut keys())),
            [0x88, 0],
            "{never_sent}"
        );
    }
    // 61 characters of two bytes fill 122 of 123 bytes; the next one would be cut in two.
    let reason = "ä".repeat(100);
    let close = made(&|w, out| w.close(Some(1000), &reason, out, &mut keys()));
    assert_eq!(
        read(Sender::Server, &close),
        [Seen::Close(Some(1000), "ä".repeat(61).into_bytes())]
    );
}

#[derive(Debug, Clone)]
enum Part {
    Message(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..400);
    let control = || prop::collection::vec(any::<u8>(), 0..=125);
    let part = prop_oneof![
        3 => prop::collection::vec(bytes(), 1..5).prop_map(Part::Message),
        1 => control().prop_map(Part::Ping),
        1 => control().prop_map(Part::Pong),
    ];
    prop::collection::vec(part, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is sent, however it is fragmented and cut, arrives.
    #[test]
    fn any_traffic_arrives(parts in parts(), key in any::<Option<[u8; 4]>>(), cuts in prop::collection::vec(1_usize..50, 1..20)) {
        let sender = if key.is_some() { Sender::Client } else { Sender::Server };
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for part in &parts {
            match part {
                Part::Message(fragments) => {
                    for (i, fragment) in fragments.iter().enumerate() {
                        let opcode = if i == 0 { BINARY } else { 0 };
                        let fin = if i + 1 == fragments.len() { FIN } else { 0 };
                        bytes.extend(frame(fin | opcode, key, fragment));
                    }
                    let whole = fragments.concat();
                    if !whole.is_empty() {
                        expected.push(Seen::Payload(whole));
                    }
                    expected.push(Seen::MessageEnd);
                }
                Part::Ping(payload) => {
                    bytes.extend(frame(FIN | PING, key, payload));
                    expected.push(Seen::Ping(payload.clone()));
                }
                Part::Pong(payload) => {
                    bytes.extend(frame(FIN | PONG, key, payload));
                    expected.push(Seen::Pong(payload.clone()));
                }
            }
        }
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for size in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(read_pieces(sender, pieces), expected);
    }

    /// Random bytes never do more than fail, and say the same however they are cut.
    #[test]
    fn any_bytes_are_judged_alike_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        client in any::<bool>(),
        size in 1_usize..40,
    ) {
        let sender = if client { Sender::Client } else { Sender::Server };
        prop_assert_eq!(read_pieces(sender, bytes.chunks(size)), read(sender, &bytes));
    }
}
