//! Header lists: which are messages, which harm their stream, and how large they may be.

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

use http2_support::frames::*;
use http2_support::{Owned, read, read_all, started};
use wsferry::Error;
use wsferry::config::Limits;
use wsferry::http2::{Event, Reader, Sender};
use wsferry::message::Message;

fn headers(sender: Sender, end: bool, fields: &[(&str, &str)]) -> Owned {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    let bytes = frame(HEADERS, flags, 1, &block(fields));
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
        (Server, true, vec![(":status", "1000")]),
        (Server, false, vec![(":status", "101")]),
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
    for status in [100, 103, 200, 599, 600, 999] {
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
    let mut reader = started(Sender::Client, &limits);
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

    // The frames that a block comes in are limited too; one that is much too long for its list costs its stream alone.
    let list = vec![0x82; 2 << 20];
    assert!(matches!(
        read(&mut reader, &in_frames(7, &list)),
        (events, None) if matches!(events[..], [Owned::Malformed { stream: 7, .. }])
    ));
    let mut reader = started(Sender::Server, &limits);
    read(&mut reader, &frame(HEADERS, 0, 1, &[]));
    let empty = frame(CONTINUATION, 0, 1, &[]);
    assert_eq!(read(&mut reader, &empty.repeat(128)), (vec![], None));
    assert_eq!(read(&mut reader, &empty).1, Some(Error::Http2FrameSize));
}

/// By that what follows knows that it has no more to do for it.
#[test]
fn a_list_that_comes_again_has_a_revision() {
    let mut reader = started(Sender::Client, &Limits::default());
    let mut revision = |path: &str| {
        let list = [(":method", "GET"), (":scheme", "http"), (":path", path)];
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&list));
        match reader.next(&mut &bytes[..]) {
            Ok(Some(Event::Message(Message::Request { head, .. }))) => head.fields.revision(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(revision("/a"), None);
    let of_a = revision("/a");
    assert!(of_a.is_some());
    assert_eq!(revision("/a"), of_a);
    assert_eq!(revision("/b"), None);
    assert_eq!(revision("/a"), None);
}

/// They are counted by block: a client that sends large lists all day has done nothing wrong.
#[test]
fn continuations_of_many_blocks_are_no_flood() {
    let mut reader = started(Sender::Client, &Limits::default());
    for stream in (1..400).step_by(2) {
        let frames = [
            frame(HEADERS, 0, stream, &[0x82]),
            frame(CONTINUATION, END_HEADERS, stream, &[0x86, 0x84]),
        ];
        let (events, error) = read(&mut reader, &frames.concat());
        assert_eq!((events.len(), error), (1, None), "{stream}");
    }
}
