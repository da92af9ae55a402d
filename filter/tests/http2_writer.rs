//! What the writer writes, byte for byte.

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
use http2_support::{Owned, data, own, read_all, started, write};
use wsferry::config::Limits;
use wsferry::http2::frame::PREFACE;
use wsferry::http2::{Event, Sender, Writer};
use wsferry::message::{Http2Id, Message, Settings};

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

    // The smallest size that can be announced is the one that nobody has to.
    let mut writer = Writer::new(Sender::Server);
    let mut settings = Settings::new();
    settings.set(Settings::MAX_FRAME_SIZE, 16_384);
    writer.apply_settings(&settings);
    write(&mut writer, &Owned::Ack, &mut Vec::new());
    out.clear();
    write(&mut writer, &data(1, false, &body[..16_385]), &mut out);
    assert_eq!(outline(&out), [(DATA, 0, 1, 16_384), (DATA, 0, 1, 1)]);

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
            read_all(Sender::Client, &out[PREFACE.len()..]),
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
        (
            Owned::Request {
                stream: 3,
                end: false,
                method: b"CONNECT".to_vec(),
                scheme: vec![],
                authority: b"a".to_vec(),
                path: vec![],
                protocol: None,
                fields: vec![],
            },
            frame(HEADERS, END_HEADERS, 3, b"\x02\x07CONNECT\x01\x01a"),
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
    let mut reader = started(Sender::Server, &Limits::default());
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

/// A PING frame is as long as DATA with eight bytes.
#[test]
fn a_ping_isnt_taken_for_data_that_has_left() {
    for ack in [false, true] {
        let mut writer = Writer::new(Sender::Server);
        let mut out = Vec::new();
        write(&mut writer, &data(1, false, b"12345678"), &mut out);
        assert_eq!(out, frame(DATA, 0, 1, b"12345678"));
        out.clear();
        match ack {
            true => writer.ping_ack(*b"opaque..", &mut out),
            false => writer.ping(*b"opaque..", &mut out),
        }
        write(&mut writer, &data(1, false, b"more"), &mut out);
        let flags = if ack { ACK } else { 0 };
        let expected = [frame(PING, flags, 0, b"opaque.."), frame(DATA, 0, 1, b"more")];
        assert_eq!(out, expected.concat());
    }
}
