//! Frames as bytes: what each becomes, wherever the input is cut, and what is wrong with the wrong ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod http2_support;

use http2_support::{Owned, merge, own, read, read_all, write};
use wsferry::Error;
use wsferry::config::Limits;
use wsferry::http2::frame::PREFACE;
use wsferry::http2::{Event, Reader, Sender, Writer};
use wsferry::message::{Http2Id, Message, Settings};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals that enter no table.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            wsferry::http2::hpack::integer::encode(0, 0x7f, text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

fn from_client(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frames.concat());
    bytes
}

fn client(frames: &[Vec<u8>]) -> (Vec<Owned>, Option<Error>) {
    read_all(Sender::Client, &from_client(frames))
}

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "example.org"),
    (":path", "/a?b=c"),
];

fn get(stream: u32, end: bool) -> Owned {
    Owned::Request {
        stream,
        end,
        method: b"GET".to_vec(),
        scheme: b"https".to_vec(),
        authority: b"example.org".to_vec(),
        path: b"/a?b=c".to_vec(),
        protocol: None,
        fields: vec![],
    }
}

fn data(stream: u32, end: bool, payload: &[u8]) -> Owned {
    Owned::Data {
        stream,
        end,
        payload: payload.to_vec(),
    }
}

fn padding(stream: u32, bytes: u32) -> Owned {
    Owned::Padding { stream, bytes }
}

/// Frames of every type, in every form, and what they are.
fn everything() -> (Vec<u8>, Vec<Owned>) {
    let request = block(GET);
    let (head, tail) = request.split_at(20);
    let mut padded_priority = vec![3, 0x80, 0, 0, 7, 200];
    padded_priority.extend(&request);
    padded_priority.extend([0; 3]);
    let mut priority = vec![0, 0, 0, 0, 15];
    priority.extend(head);
    let settings = [
        0, 1, 0, 0, 0x20, 0, // table
        0x4d, 0x44, 0, 0, 0, 1, // an extension's
        0, 4, 0, 1, 0, 0, // window
        0, 99, 0, 0, 0, 9, // unknown
        0, 4, 0, 2, 0, 0, // window again
        0, 8, 0, 0, 0, 1, // extended CONNECT
    ];
    let frames = [
        frame(SETTINGS, 0, 0, &settings),
        frame(SETTINGS, ACK, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 1, 0]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &request),
        frame(PRIORITY, 0, 2, &[0; 5]),
        frame(
            HEADERS,
            END_HEADERS | PADDED | WITH_PRIORITY,
            0x8000_0003,
            &padded_priority,
        ),
        frame(DATA, 0, 3, b"hello"),
        frame(DATA, 0, 3, b""),
        frame(DATA, PADDED, 3, b"\x02wor\0\0"),
        frame(DATA, PADDED, 3, b"\0ld"),
        frame(DATA, PADDED, 3, b"\0"),
        frame(0xbe, 0xff, 3, b"an extension"),
        frame(DATA, PADDED | END_STREAM, 3, b"\x03\0\0\0"),
        frame(HEADERS, WITH_PRIORITY, 5, &priority),
        frame(CONTINUATION, 0, 5, &[]),
        frame(CONTINUATION, 0, 5, &tail[..1]),
        frame(CONTINUATION, END_HEADERS, 5, &tail[1..]),
        frame(DATA, 0, 5, &[b'x'; 3_000]),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, &block(&[("t", "1")])),
        frame(PING, 0, 0, b"01234567"),
        frame(PING, ACK, 0, b"abcdefgh"),
        frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]),
        frame(WINDOW_UPDATE, 0, 3, &[0x7f, 0xff, 0xff, 0xff]),
        frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        frame(GOAWAY, 0, 0, b"\0\0\0\x05\0\0\0\x02why"),
        frame(DATA, END_STREAM, 7, b""),
    ];
    let events = vec![
        Owned::Settings(vec![(1, 0x2000), (4, 0x20000), (8, 1)]),
        Owned::Ack,
        Owned::Credit {
            stream: None,
            bytes: 256,
        },
        get(1, true),
        get(3, false),
        data(3, false, b"hello"),
        padding(3, 3),
        data(3, false, b"wor"),
        padding(3, 1),
        data(3, false, b"ld"),
        padding(3, 1),
        padding(3, 4),
        data(3, true, b""),
        get(5, false),
        data(5, false, &[b'x'; 3_000]),
        Owned::Trailers {
            stream: 5,
            fields: vec![(b"t".to_vec(), b"1".to_vec(), false)],
        },
        Owned::Ping(*b"01234567"),
        Owned::PingAck(*b"abcdefgh"),
        Owned::Reset { stream: 5, code: 8 },
        Owned::Credit {
            stream: Some(3),
            bytes: 0x7fff_ffff,
        },
        Owned::Goaway { last: None, code: 0 },
        Owned::Goaway {
            last: Some(5),
            code: 2,
        },
        data(7, true, b""),
    ];
    (from_client(&frames), events)
}

#[test]
fn every_frame_is_understood() {
    let (bytes, events) = everything();
    assert_eq!(read_all(Sender::Client, &bytes), (events, None));
}

#[test]
fn every_split_point_gives_the_same() {
    let (bytes, events) = everything();
    for split in 0..=bytes.len() {
        let (first, second) = bytes.split_at(split);
        let mut reader = Reader::new(Sender::Client, &Limits::default());
        let (mut found, error) = read(&mut reader, first);
        assert_eq!(error, None);
        let (rest, error) = read(&mut reader, second);
        assert_eq!(error, None);
        found.extend(rest);
        assert_eq!(merge(found), events, "cut at {split}");
    }
    for size in [1, 2, 7, 64] {
        let mut reader = Reader::new(Sender::Client, &Limits::default());
        let found = bytes
            .chunks(size)
            .flat_map(|chunk| read(&mut reader, chunk).0)
            .collect();
        assert_eq!(merge(found), events, "in pieces of {size}");
    }
}

#[test]
fn data_passes_as_it_comes() {
    let mut reader = Reader::new(Sender::Server, &Limits::default());
    let bytes = frame(DATA, END_STREAM | PADDED, 1, b"\x01abcdef\0");
    let step = |reader: &mut Reader, range| read(reader, &bytes[range]).0;
    assert_eq!(step(&mut reader, 0..9), []);
    assert_eq!(step(&mut reader, 9..10), [padding(1, 2)]);
    assert_eq!(step(&mut reader, 10..12), [data(1, false, b"ab")]);
    assert_eq!(step(&mut reader, 12..16), [data(1, true, b"cdef")]);
    assert_eq!(step(&mut reader, 16..17), []);
    // The end comes with the header of an empty frame, and payloads are not copied.
    assert_eq!(
        read(&mut reader, &frame(DATA, END_STREAM, 1, b"")).0,
        [data(1, true, b"")]
    );
    let bytes = frame(DATA, 0, 1, b"borrowed");
    let mut input = bytes.as_slice();
    match reader.next(&mut input).unwrap() {
        Some(Event::Message(Message::Data { payload, .. })) => assert_eq!(payload.as_ptr(), &bytes[9]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_preface_is_noticed_at_its_first_wrong_byte() {
    for wrong in 0..PREFACE.len() {
        let mut bytes = PREFACE.to_vec();
        bytes[wrong] ^= 1;
        assert_eq!(
            read_all(Sender::Client, &bytes[..wrong]),
            (vec![], None),
            "byte {wrong}"
        );
        assert_eq!(
            read_all(Sender::Client, &bytes[..=wrong]),
            (vec![], Some(Error::Http2Preface))
        );
    }
    assert_eq!(
        read_all(Sender::Server, PREFACE).1,
        Some(Error::Http2FrameSize),
        "no server's"
    );
}

#[test]
fn malformed_frames_give_the_right_error() {
    use Error::{Hpack, Http2FrameSize as Size, Http2Protocol as Protocol};
    let request = block(GET);
    let large = vec![0; 16_385];
    for (name, frames, error) in [
        ("large DATA", vec![frame(DATA, 0, 1, &large)], Size),
        ("large unknown", vec![frame(0x77, 0, 1, &large)], Size),
        (
            "large HEADERS",
            vec![frame(HEADERS, END_HEADERS, 1, &large)],
            Size,
        ),
        ("DATA on 0", vec![frame(DATA, 0, 0, b"x")], Protocol),
        ("DATA on an even stream", vec![frame(DATA, 0, 2, b"x")], Protocol),
        (
            "HEADERS on 0",
            vec![frame(HEADERS, END_HEADERS, 0, &request)],
            Protocol,
        ),
        (
            "HEADERS on an even stream",
            vec![frame(HEADERS, END_HEADERS, 4, &request)],
            Protocol,
        ),
        (
            "RST_STREAM on 0",
            vec![frame(RST_STREAM, 0, 0, &[0; 4])],
            Protocol,
        ),
        ("PRIORITY on 0", vec![frame(PRIORITY, 0, 0, &[0; 5])], Protocol),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], Protocol),
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], Protocol),
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Protocol),
        (
            "WINDOW_UPDATE on an even stream",
            vec![frame(WINDOW_UPDATE, 0, 2, &[0, 0, 0, 1])],
            Protocol,
        ),
        (
            "PUSH_PROMISE",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            Protocol,
        ),
        ("PRIORITY of 4", vec![frame(PRIORITY, 0, 1, &[0; 4])], Size),
        ("RST_STREAM of 5", vec![frame(RST_STREAM, 0, 1, &[0; 5])], Size),
        ("PING of 7", vec![frame(PING, 0, 0, &[0; 7])], Size),
        ("GOAWAY of 7", vec![frame(GOAWAY, 0, 0, &[0; 7])], Size),
        (
            "WINDOW_UPDATE of 3",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            Size,
        ),
        ("SETTINGS of 5", vec![frame(SETTINGS, 0, 0, &[0; 5])], Size),
        ("SETTINGS ACK of 6", vec![frame(SETTINGS, ACK, 0, &[0; 6])], Size),
        (
            "increment of 0",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0x80, 0, 0, 0])],
            Protocol,
        ),
        ("DATA without pad length", vec![frame(DATA, PADDED, 1, b"")], Size),
        (
            "DATA of nothing but too much padding",
            vec![frame(DATA, PADDED, 1, b"\x01")],
            Protocol,
        ),
        (
            "HEADERS without pad length",
            vec![frame(HEADERS, PADDED | END_HEADERS, 1, b"")],
            Size,
        ),
        (
            "HEADERS with too much padding",
            vec![frame(HEADERS, PADDED | END_HEADERS, 1, b"\x02\x82")],
            Protocol,
        ),
        (
            "HEADERS without its priority",
            vec![frame(HEADERS, WITH_PRIORITY | END_HEADERS, 1, &[0; 4])],
            Size,
        ),
        (
            "CONTINUATION of nothing",
            vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
            Protocol,
        ),
        (
            "CONTINUATION of another stream",
            vec![
                frame(HEADERS, 0, 1, &request),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ],
            Protocol,
        ),
        (
            "DATA in a header block",
            vec![frame(HEADERS, 0, 1, &request), frame(DATA, 0, 1, &[])],
            Protocol,
        ),
        (
            "an extension in a header block",
            vec![frame(HEADERS, 0, 1, &request), frame(0x77, 0, 1, &[])],
            Protocol,
        ),
        (
            "CONTINUATION after the end",
            vec![
                frame(HEADERS, 0, 1, &request),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ],
            Protocol,
        ),
        (
            "broken HPACK",
            vec![frame(HEADERS, END_HEADERS, 1, &[0x80])],
            Hpack,
        ),
    ] {
        assert_eq!(client(&frames).1, Some(error), "{name}");
        // Also byte by byte.
        let mut reader = Reader::new(Sender::Client, &Limits::default());
        let bytes = from_client(&frames);
        let found = bytes.chunks(1).find_map(|byte| read(&mut reader, byte).1);
        assert_eq!(found, Some(error), "{name}, byte by byte");
    }
}

#[test]
fn settings_are_validated() {
    let setting = |id: u16, value: u32| {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(SETTINGS, 0, 0, &payload)
    };
    for (sender, id, value, good) in [
        (Sender::Client, 1, u32::MAX, true),
        (Sender::Client, 2, 0, true),
        (Sender::Client, 2, 1, true),
        (Sender::Client, 2, 2, false),
        (Sender::Server, 2, 0, true),
        (Sender::Server, 2, 1, false),
        (Sender::Client, 3, 0, true),
        (Sender::Client, 4, 0x7fff_ffff, true),
        (Sender::Client, 4, 0x8000_0000, false),
        (Sender::Client, 5, 16_383, false),
        (Sender::Client, 5, 16_384, true),
        (Sender::Client, 5, 16_777_215, true),
        (Sender::Client, 5, 16_777_216, false),
        (Sender::Client, 6, u32::MAX, true),
        (Sender::Server, 8, 1, true),
        (Sender::Server, 8, 2, false),
    ] {
        let mut bytes = match sender {
            Sender::Client => PREFACE.to_vec(),
            Sender::Server => vec![],
        };
        bytes.extend(setting(id, value));
        let expected = if good {
            (vec![Owned::Settings(vec![(id, value)])], None)
        } else {
            (vec![], Some(Error::Http2Protocol))
        };
        assert_eq!(read_all(sender, &bytes), expected, "{sender:?} {id} {value}");
    }
}

fn headers(sender: Sender, end: bool, fields: &[(&str, &str)]) -> Owned {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    let mut bytes = match sender {
        Sender::Client => PREFACE.to_vec(),
        Sender::Server => vec![],
    };
    bytes.extend(frame(HEADERS, flags, 1, &block(fields)));
    let (mut events, error) = read_all(sender, &bytes);
    assert_eq!((events.len(), error), (1, None), "{fields:?}");
    events.remove(0)
}

#[test]
fn malformed_messages_harm_their_stream_alone() {
    use Sender::{Client, Server};
    let malformed = Owned::Malformed {
        stream: 1,
        error: Error::Http2Malformed,
    };
    let m = (":method", "GET");
    let s = (":status", "200");
    for (sender, end, fields) in [
        (Client, false, vec![("a", "b")]),
        (Client, false, vec![]),
        (Server, false, vec![("a", "b")]),
        (Client, true, vec![s]),
        (Server, true, vec![m]),
        (Client, true, vec![m, s]),
        (Server, true, vec![s, m]),
        (Server, true, vec![s, (":path", "/")]),
        (Client, true, vec![(":path", "/"), (":scheme", "http")]),
        (Client, true, vec![m, m]),
        (Server, true, vec![s, s]),
        (Client, true, vec![m, (":path", "/"), (":path", "/")]),
        (Client, true, vec![m, ("a", "b"), (":path", "/")]),
        (Client, true, vec![("a", "b"), m]),
        (Client, true, vec![m, (":unknown", "x")]),
        (Client, true, vec![m, (":", "x")]),
        (Client, true, vec![(":method", "")]),
        (Client, true, vec![(":method", "GE T")]),
        (Client, true, vec![(":method", "GÉT")]),
        (Client, true, vec![m, (":scheme", "ht/tp")]),
        (Client, true, vec![m, (":protocol", "")]),
        (Client, true, vec![m, (":protocol", "web socket")]),
        (Client, true, vec![m, (":path", "/\r\nx: y")]),
        (Client, true, vec![m, ("Upper", "x")]),
        (Client, true, vec![m, ("a b", "x")]),
        (Client, true, vec![m, ("a:b", "x")]),
        (Client, true, vec![m, ("é", "x")]),
        (Client, true, vec![m, ("a\0", "x")]),
        (Client, true, vec![m, ("", "x")]),
        (Client, true, vec![m, ("a", "x\0")]),
        (Client, true, vec![m, ("a", "x\ry")]),
        (Client, true, vec![m, ("a", "\nx")]),
        (Server, true, vec![(":status", "20")]),
        (Server, true, vec![(":status", "2000")]),
        (Server, true, vec![(":status", "099")]),
        (Server, true, vec![(":status", "600")]),
        (Server, true, vec![(":status", "2x0")]),
        (Server, true, vec![(":status", "")]),
    ] {
        assert_eq!(
            headers(sender, end, &fields),
            malformed,
            "{sender:?} {end} {fields:?}"
        );
    }
}

#[test]
fn unusual_messages_pass() {
    let line = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec(), false);
    let fields = [
        (":path", "*"),
        (":method", "M-SEARCH"),
        ("set-cookie", "a"),
        ("x!#$%&'*+-.^_`|~", " é\t\u{7f} "),
        ("set-cookie", ""),
    ];
    assert_eq!(
        headers(Sender::Client, false, &fields),
        Owned::Request {
            stream: 1,
            end: false,
            method: b"M-SEARCH".to_vec(),
            scheme: vec![],
            authority: vec![],
            path: b"*".to_vec(),
            protocol: None,
            fields: vec![
                line("set-cookie", "a"),
                line("x!#$%&'*+-.^_`|~", " é\t\u{7f} "),
                line("set-cookie", ""),
            ],
        }
    );
    let connect = headers(
        Sender::Client,
        false,
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
        ],
    );
    match connect {
        Owned::Request { protocol, .. } => assert_eq!(protocol.as_deref(), Some(&b"websocket"[..])),
        other => panic!("{other:?}"),
    }
    for status in [100, 103, 200, 599] {
        let text = status.to_string();
        let response = Owned::Response {
            stream: 1,
            end: false,
            status,
            fields: vec![],
        };
        assert_eq!(headers(Sender::Server, false, &[(":status", &text)]), response);
    }
    let empty = Owned::Trailers {
        stream: 1,
        fields: vec![],
    };
    assert_eq!(headers(Sender::Server, true, &[]), empty);
}

/// A request whose list has `fields` fields beside `:method` and `bytes` bytes in all.
fn request_of(fields: usize, bytes: usize) -> Vec<u8> {
    let mut list = vec![(":method".to_owned(), "GET".to_owned())];
    let mut left = bytes - 42;
    for index in 0..fields {
        let size = left / (fields - index);
        list.push(("n".to_owned(), "v".repeat(size - 33)));
        left -= size;
    }
    let borrowed: Vec<_> = list.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    block(&borrowed)
}

fn in_frames(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunks = block.chunks(16_384).peekable();
    let mut kind = HEADERS;
    while let Some(chunk) = chunks.next() {
        let flags = if chunks.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags, stream, chunk));
        kind = CONTINUATION;
    }
    bytes
}

#[test]
fn header_lists_are_limited_and_the_state_stays_right() {
    let limits = Limits {
        max_header_list_bytes: 20_000,
        max_header_fields: 50,
        ..Limits::default()
    };
    let too_big = |stream| Owned::Malformed {
        stream,
        error: Error::Http2HeaderListTooBig,
    };
    let mut reader = Reader::new(Sender::Client, &limits);
    assert_eq!(read(&mut reader, PREFACE), (vec![], None));
    let accepts = |reader: &mut Reader, block: &[u8]| {
        let (events, error) = read(reader, &in_frames(1, block));
        assert_eq!((events.len(), error), (1, None));
        events[0] != too_big(1)
    };
    assert!(accepts(&mut reader, &request_of(10, 20_000)));
    assert!(!accepts(&mut reader, &request_of(10, 20_001)));
    assert!(accepts(&mut reader, &request_of(49, 5_000)));
    assert!(!accepts(&mut reader, &request_of(50, 5_000)));

    // Few bytes that refer to a large entry; what follows them in the same block still enters the table.
    let mut bomb = vec![0x82, 0x40, 1, b'b', 0x7f];
    bomb.extend([0xa1, 0x1e]); // 127 + 0x21 + (0x1e << 7) = 4000
    bomb.extend([b'v'; 4_000]);
    bomb.extend([0xbe; 10_000]);
    bomb.extend(b"\x40\x05after\x01x");
    assert_eq!(read(&mut reader, &in_frames(3, &bomb)), (vec![too_big(3)], None));
    let (events, error) = read(&mut reader, &in_frames(5, &[0x82, 0xbe]));
    assert_eq!(error, None);
    match &events[..] {
        [Owned::Request { fields, .. }] => assert_eq!(*fields, [(b"after".to_vec(), b"x".to_vec(), false)]),
        other => panic!("{other:?}"),
    }

    // The encoded block is limited too, and the frames that it comes in.
    let long = vec![0x82; 40_001];
    assert_eq!(
        read(&mut reader, &in_frames(7, &long)).1,
        Some(Error::Http2FrameSize)
    );
    let mut reader = Reader::new(Sender::Server, &limits);
    read(&mut reader, &frame(HEADERS, 0, 1, &[]));
    let empty = frame(CONTINUATION, 0, 1, &[]);
    assert_eq!(read(&mut reader, &empty.repeat(128)), (vec![], None));
    assert_eq!(read(&mut reader, &empty).1, Some(Error::Http2FrameSize));
}

#[test]
fn a_table_shrinks_at_once_and_grows_with_the_ack() {
    let line = (b"x".to_vec(), b"y".to_vec(), false);
    let trailers = Owned::Trailers {
        stream: 1,
        fields: vec![line],
    };
    let mut writer = Writer::new(Sender::Server);
    let block = |writer: &mut Writer| {
        let mut out = Vec::new();
        write(writer, &trailers, &mut out);
        out.split_off(9)
    };
    let announce = |writer: &mut Writer, size| {
        let mut settings = Settings::new();
        settings.set(Settings::HEADER_TABLE_SIZE, size);
        writer.apply_settings(&settings);
    };
    announce(&mut writer, 100);
    announce(&mut writer, 50);
    announce(&mut writer, 200);
    assert_eq!(block(&mut writer), b"\x3f\x13\0\x01x\x01y", "50");
    write(&mut writer, &Owned::Ack, &mut Vec::new());
    assert_eq!(block(&mut writer), b"\x3f\x45\x40\x01x\x01y", "100");
    write(&mut writer, &Owned::Ack, &mut Vec::new());
    write(&mut writer, &Owned::Ack, &mut Vec::new());
    assert_eq!(block(&mut writer), b"\x3f\x13\x3f\xa9\x01\xbe", "50, then 200");
}

/// Type, flags, stream and length of each frame.
fn outline(mut bytes: &[u8]) -> Vec<(u8, u8, u32, usize)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        frames.push((bytes[3], bytes[4], stream, length));
        bytes = &bytes[9 + length..];
    }
    frames
}

#[test]
fn frames_are_written_as_large_as_the_receiver_takes_them() {
    let mut writer = Writer::new(Sender::Server);
    let body = vec![b'x'; 50_000];
    let mut out = Vec::new();
    write(&mut writer, &data(1, true, &body), &mut out);
    let expected = [
        (DATA, 0, 1, 16_384),
        (DATA, 0, 1, 16_384),
        (DATA, 0, 1, 16_384),
        (DATA, 1, 1, 848),
    ];
    assert_eq!(outline(&out), expected);

    let trailers = Owned::Trailers {
        stream: 3,
        fields: vec![(b"t".to_vec(), body.clone(), false)],
    };
    // Index 0, a name of one byte, a length of four bytes, and the value.
    let length = 1 + 2 + 4 + 50_000;
    out.clear();
    write(&mut writer, &trailers, &mut out);
    assert_eq!(
        outline(&out),
        [
            (HEADERS, END_STREAM, 3, 16_384),
            (CONTINUATION, 0, 3, 16_384),
            (CONTINUATION, 0, 3, 16_384),
            (CONTINUATION, END_HEADERS, 3, length - 3 * 16_384),
        ]
    );
    assert_eq!(read_all(Sender::Server, &out), (vec![trailers.clone()], None));

    let mut settings = Settings::new();
    settings.set(Settings::MAX_FRAME_SIZE, 1 << 20);
    writer.apply_settings(&settings);
    // Larger ones from the ACK on.
    out.clear();
    write(&mut writer, &data(1, false, &body), &mut out);
    assert_eq!(outline(&out).len(), 4);
    write(&mut writer, &Owned::Ack, &mut Vec::new());
    out.clear();
    write(&mut writer, &data(1, false, &body), &mut out);
    write(&mut writer, &trailers, &mut out);
    let all = END_STREAM | END_HEADERS;
    assert_eq!(outline(&out), [(DATA, 0, 1, 50_000), (HEADERS, all, 3, length)]);

    // A block that fills a frame exactly needs no other.
    let mut writer = Writer::new(Sender::Server);
    let exact = Owned::Trailers {
        stream: 3,
        fields: vec![(b"t".to_vec(), vec![b'x'; 16_384 - 6], false)],
    };
    out.clear();
    write(&mut writer, &exact, &mut out);
    assert_eq!(outline(&out), [(HEADERS, all, 3, 16_384)]);
}

#[test]
fn a_client_begins_with_the_preface_once() {
    for first in [
        Owned::Ping([1; 8]),
        Owned::PingAck([1; 8]),
        Owned::Settings(vec![(4, 70_000)]),
    ] {
        let mut writer = Writer::new(Sender::Client);
        let mut out = Vec::new();
        write(&mut writer, &first, &mut out);
        write(&mut writer, &first, &mut out);
        assert!(out.starts_with(PREFACE));
        assert_eq!(
            read_all(Sender::Client, &out),
            (vec![first.clone(), first.clone()], None)
        );
        let mut server = Vec::new();
        write(&mut Writer::new(Sender::Server), &first, &mut server);
        assert_eq!(read_all(Sender::Server, &server), (vec![first], None));
    }
}

#[test]
fn small_frames_are_byte_for_byte_right() {
    let mut writer = Writer::new(Sender::Server);
    for (event, bytes) in [
        (Owned::Ack, frame(SETTINGS, ACK, 0, &[])),
        (
            Owned::Settings(vec![(3, 100), (300, 1)]),
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100, 1, 44, 0, 0, 0, 1]),
        ),
        (
            Owned::Reset { stream: 9, code: 7 },
            frame(RST_STREAM, 0, 9, &[0, 0, 0, 7]),
        ),
        (
            Owned::Credit {
                stream: None,
                bytes: 513,
            },
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 2, 1]),
        ),
        (
            Owned::Goaway { last: None, code: 1 },
            frame(GOAWAY, 0, 0, &[0x7f, 255, 255, 255, 0, 0, 0, 1]),
        ),
        (
            Owned::Goaway {
                last: Some(0),
                code: 2,
            },
            frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]),
        ),
        (data(3, true, b""), frame(DATA, END_STREAM, 3, b"")),
        (data(3, false, b""), vec![]),
        (
            Owned::Response {
                stream: 3,
                end: true,
                status: 204,
                fields: vec![],
            },
            frame(HEADERS, END_STREAM | END_HEADERS, 3, &[0x89]),
        ),
        (
            Owned::Response {
                stream: 3,
                end: false,
                status: 103,
                fields: vec![(b"link".to_vec(), b"x".to_vec(), true)],
            },
            frame(HEADERS, END_HEADERS, 3, b"\x08\x03103\x1f\x1e\x01x"),
        ),
    ] {
        let mut out = Vec::new();
        write(&mut writer, &event, &mut out);
        assert_eq!(out, bytes, "{event:?}");
    }
    // An event borrows nothing that it must not: the reader can be asked again.
    let mut reader = Reader::new(Sender::Server, &Limits::default());
    let bytes = frame(RST_STREAM, 0, 9, &[0, 0, 0, 7]).repeat(2);
    let mut input = bytes.as_slice();
    while let Some(event) = reader.next(&mut input).unwrap() {
        assert_eq!(own(&event), Owned::Reset { stream: 9, code: 7 });
        assert_eq!(
            event,
            Event::Message(Message::Reset {
                stream: Http2Id(9),
                code: 7
            })
        );
    }
}
