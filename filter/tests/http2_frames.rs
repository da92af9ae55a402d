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

use http2_support::frames::*;
use http2_support::{Owned, data, read, read_all, started};
use wsferry::Error;
use wsferry::config::Limits;
use wsferry::http2::frame::PREFACE;
use wsferry::http2::{Event, Reader, Sender};
use wsferry::message::Message;

fn client(frames: &[Vec<u8>]) -> (Vec<Owned>, Option<Error>) {
    read_all(Sender::Client, &frames.concat())
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
        frame(CONTINUATION, !END_HEADERS, 5, &tail[..1]),
        frame(CONTINUATION, END_HEADERS, 5, &tail[1..]),
        frame(DATA, 0, 5, &[b'x'; 3_000]),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, &block(&[("t", "1")])),
        frame(PING, 0, 0, b"01234567"),
        frame(PING, ACK, 0, b"abcdefgh"),
        frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]),
        frame(WINDOW_UPDATE, 0, 3, &[0x7f, 0xff, 0xff, 0xff]),
        frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        frame(GOAWAY, 0, 0, b"\x80\0\0\x05\0\0\0\x02why"),
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
    (frames.concat(), events)
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
        let mut reader = started(Sender::Client, &Limits::default());
        let (mut found, error) = read(&mut reader, first);
        assert_eq!(error, None);
        let (rest, error) = read(&mut reader, second);
        assert_eq!(error, None);
        found.extend(rest);
        assert_eq!(Owned::joined(found), events, "cut at {split}");
    }
    for size in [1, 2, 7, 64] {
        let mut reader = started(Sender::Client, &Limits::default());
        let found = bytes
            .chunks(size)
            .flat_map(|chunk| read(&mut reader, chunk).0)
            .collect();
        assert_eq!(Owned::joined(found), events, "in pieces of {size}");
    }
}

#[test]
fn data_passes_as_it_comes() {
    let mut reader = started(Sender::Server, &Limits::default());
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
        let from_start = |bytes: &[u8]| read(&mut Reader::new(Sender::Client, &Limits::default()), bytes);
        assert_eq!(from_start(&bytes[..wrong]), (vec![], None), "byte {wrong}");
        assert_eq!(from_start(&bytes[..=wrong]), (vec![], Some(Error::Http2Preface)));
    }
    assert_eq!(
        read_all(Sender::Server, PREFACE).1,
        Some(Error::Http2FrameSize),
        "no server's"
    );
}

/// RFC 9113 section 3.4.
#[test]
fn the_first_frame_is_settings() {
    for (sender, preface) in [(Sender::Client, PREFACE.as_slice()), (Sender::Server, &[])] {
        for first in [
            frame(PING, 0, 0, b"too soon"),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            frame(SETTINGS, ACK, 0, &[]),
            frame(0x77, 0, 0, &[]),
        ] {
            let bytes = [preface, &first].concat();
            for size in [1, bytes.len()] {
                let mut reader = Reader::new(sender, &Limits::default());
                let found = bytes.chunks(size).find_map(|chunk| read(&mut reader, chunk).1);
                assert_eq!(found, Some(Error::Http2Protocol), "{sender:?} {first:?}");
            }
        }
    }
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
        ("PING of 9", vec![frame(PING, 0, 0, &[0; 9])], Size),
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
        let mut reader = started(Sender::Client, &Limits::default());
        let bytes = frames.concat();
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
        let bytes = setting(id, value);
        let expected = if good {
            (vec![Owned::Settings(vec![(id, value)])], None)
        } else {
            (vec![], Some(Error::Http2Protocol))
        };
        assert_eq!(read_all(sender, &bytes), expected, "{sender:?} {id} {value}");
    }
}

#[test]
fn settings_say_nothing_of_those_before() {
    let window = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let streams = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]);
    let expected = vec![Owned::Settings(vec![(4, 0x10000)]), Owned::Settings(vec![(3, 9)])];
    assert_eq!(client(&[window, streams]), (expected, None));
}
