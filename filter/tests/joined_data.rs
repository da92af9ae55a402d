//! Pieces of a body that lie side by side are joined: DATA frames for the local codec, and the end of a body with its last
//! data for the other end. Whatever the pieces, what arrives is what was sent.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use wsferry::config::Config;
use wsferry::converter::{Converter, MaskKeys};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Largest HTTP/2 window, bytes: nothing here waits for credit.
const WINDOW: u32 = 0x7fff_ffff;
/// What the client's codec takes in a frame, bytes.
const CLIENT_FRAME: usize = 65_536;

struct Keys(u8);

impl MaskKeys for Keys {
    fn next_key(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(1);
        [self.0, 1, 2, 3]
    }
}

/// An HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        frames.push(Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes(bytes[5..9].try_into().unwrap()),
            payload: bytes[9..9 + length].to_vec(),
        });
        bytes = &bytes[9 + length..];
    }
    frames
}

/// Both ends, with a codec's bytes on either side.
struct Pair {
    near: Converter,
    far: Converter,
    keys: Keys,
    /// From the client's codec to the far end's, and back: not yet converted by the second converter.
    websocket: [Vec<u8>; 2],
}

impl Pair {
    /// After both codecs' settings and three requests, on streams 1, 3 and 5.
    fn connect() -> Self {
        let converter = |config: &[u8]| Converter::new(&Arc::new(Config::parse(config).unwrap()));
        let mut pair = Self {
            near: converter(br#"{"role": "near"}"#),
            far: converter(br#"{"role": "far"}"#),
            keys: Keys(0),
            websocket: [Vec::new(), Vec::new()],
        };
        let setting = |id: u16, value: usize| {
            let value = u32::try_from(value).unwrap();
            [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat()
        };
        let window = frame(WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        let ack = frame(SETTINGS, ACK, 0, &[]);
        let client = [setting(4, WINDOW as usize), setting(5, CLIENT_FRAME)].concat();
        let server = setting(4, WINDOW as usize);
        pair.client(&[PREFACE, &frame(SETTINGS, 0, 0, &client), &window].concat());
        pair.at_server();
        pair.server(&[&frame(SETTINGS, 0, 0, &server)[..], &ack, &window].concat());
        pair.at_client();
        // `:method: GET`, `:scheme: http`, `:path: /` of the static table.
        let request = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &[0x82, 0x86, 0x84]);
        pair.client(&[&ack[..], &request(1), &request(3), &request(5)].concat());
        pair.at_server();
        let response = |stream| frame(HEADERS, END_HEADERS, stream, &[0x88]);
        pair.server(&[response(1), response(3), response(5)].concat());
        pair.at_client();
        pair
    }

    fn client(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        self.near.http2_input(bytes, &mut self.keys);
        self.near.take_websocket_output(&mut out);
        self.websocket[0].extend(out);
    }

    fn server(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        self.far.http2_input(bytes, &mut self.keys);
        self.far.take_websocket_output(&mut out);
        self.websocket[1].extend(out);
    }

    fn at_server(&mut self) -> Vec<Frame> {
        let mut out = Vec::new();
        self.far
            .websocket_input(&mut std::mem::take(&mut self.websocket[0]), &mut self.keys);
        self.far.take_http2_output(&mut out);
        assert_eq!(self.far.closed(), None);
        frames(&out)
    }

    /// As much of what is under way as `most`, bytes.
    fn at_client_in_pieces(&mut self, most: usize) -> Vec<Frame> {
        let mut out = Vec::new();
        let mut all = Vec::new();
        for piece in std::mem::take(&mut self.websocket[1]).chunks_mut(most) {
            self.near.websocket_input(piece, &mut self.keys);
            self.near.take_http2_output(&mut out);
            all.extend(frames(&out));
        }
        assert_eq!(self.near.closed(), None);
        all
    }

    fn at_client(&mut self) -> Vec<Frame> {
        self.at_client_in_pieces(usize::MAX)
    }
}

fn data(frames: &[Frame]) -> Vec<(u32, usize, bool)> {
    let data = frames.iter().filter(|frame| frame.kind == DATA);
    data.map(|frame| (frame.stream, frame.payload.len(), frame.flags & END_STREAM != 0))
        .collect()
}

#[test]
fn the_end_of_a_body_travels_with_its_last_data() {
    let mut pair = Pair::connect();
    pair.server(&[frame(DATA, 0, 1, &[b'x'; 1024]), frame(DATA, END_STREAM, 1, &[])].concat());
    // Two bytes of WebSocket, two of extended length; an array of four, data, stream 0, true, three of length.
    assert_eq!(pair.websocket[1].len(), 4 + 7 + 1024);
    assert_eq!(pair.websocket[1][4..8], [0x84, 2, 0, 0xf5]);
    assert_eq!(data(&pair.at_client()), [(1, 1024, true)]);
}

#[test]
fn what_lies_between_keeps_an_end_apart() {
    let body = |stream| frame(DATA, 0, stream, b"body");
    let end = |stream| frame(DATA, END_STREAM, stream, &[]);
    let ping = frame(PING, 0, 0, b"12345678");
    let mut pair = Pair::connect();
    pair.server(&[body(1), body(3), end(1), ping.clone(), end(3)].concat());
    assert_eq!(
        data(&pair.at_client()),
        [(1, 4, false), (3, 4, false), (1, 0, true), (3, 0, true)]
    );
    // Nor is anything changed that has left already.
    let mut pair = Pair::connect();
    pair.server(&body(1));
    assert_eq!(data(&pair.at_client()), [(1, 4, false)]);
    pair.server(&end(1));
    assert_eq!(data(&pair.at_client()), [(1, 0, true)]);
}

#[test]
fn a_frame_of_the_same_size_isnt_taken_for_data_that_has_left() {
    let mut pair = Pair::connect();
    pair.server(&frame(DATA, 0, 1, b"body"));
    assert_eq!(data(&pair.at_client()), [(1, 4, false)]);
    let reset = frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]);
    pair.server(&[reset, frame(DATA, 0, 1, b"more")].concat());
    let frames = pair.at_client();
    assert_eq!((frames[0].kind, frames[0].stream), (RST_STREAM, 3));
    assert_eq!(frames[0].payload, [0, 0, 0, 8]);
    assert_eq!(data(&frames), [(1, 4, false)]);
}

#[test]
fn the_end_is_told_by_the_last_frame() {
    let mut pair = Pair::connect();
    let most = frame(DATA, 0, 1, &[b'x'; 16_000]).repeat(4);
    pair.server(&[most, frame(DATA, END_STREAM, 1, &[b'x'; 2_000])].concat());
    assert_eq!(
        data(&pair.at_client()),
        [(1, CLIENT_FRAME, false), (1, 464, true)]
    );
}

#[test]
fn frames_for_the_codec_are_as_large_as_it_takes_them() {
    let mut pair = Pair::connect();
    pair.server(&frame(DATA, 0, 1, &[b'x'; 16_384]).repeat(9));
    assert_eq!(
        data(&pair.at_client()),
        [
            (1, CLIENT_FRAME, false),
            (1, CLIENT_FRAME, false),
            (1, 16_384, false)
        ]
    );
    // The server's codec has announced nothing.
    let mut upload = frame(HEADERS, END_HEADERS, 7, &[0x83, 0x86, 0x84]);
    upload.extend(frame(DATA, 0, 7, &[b'x'; 5_000]).repeat(4));
    pair.client(&upload);
    let at_server = data(&pair.at_server());
    assert_eq!(at_server, [(7, 16_384, false), (7, 3_616, false)]);
}

/// What a server's codec does, in this order: bytes of a body, its end, a PING.
#[derive(Debug, Clone)]
enum Doing {
    Data { stream: u32, bytes: usize },
    End { stream: u32, bytes: usize },
    Ping,
}

fn doing() -> impl Strategy<Value = Doing> {
    let stream = prop_oneof![Just(1_u32), Just(3), Just(5)];
    let bytes = prop_oneof![Just(0_usize), 1..40_usize, 1_000..16_384_usize];
    prop_oneof![
        8 => (stream.clone(), bytes.clone()).prop_map(|(stream, bytes)| Doing::Data { stream, bytes }),
        1 => (stream, bytes).prop_map(|(stream, bytes)| Doing::End { stream, bytes }),
        1 => Just(Doing::Ping),
    ]
}

proptest! {
    #[test]
    fn what_arrives_is_what_was_sent(
        doings in proptest::collection::vec((doing(), any::<bool>()), 1..60),
        server_piece in prop_oneof![Just(usize::MAX), 1..3_000_usize],
        client_piece in prop_oneof![Just(usize::MAX), 1..3_000_usize],
    ) {
        let mut pair = Pair::connect();
        let mut sent: BTreeMap<u32, (Vec<u8>, bool)> = BTreeMap::new();
        let mut received = sent.clone();
        let mut out = Vec::new();
        let mut serial = 0_u8;
        for (doing, deliver) in doings {
            match doing {
                Doing::Ping => out.extend(frame(PING, 0, 0, b"12345678")),
                Doing::Data { stream, bytes } | Doing::End { stream, bytes } => {
                    let body = sent.entry(stream).or_default();
                    if body.1 {
                        continue;
                    }
                    let payload: Vec<u8> = (0..bytes)
                        .map(|_| {
                            serial = serial.wrapping_mul(5).wrapping_add(113);
                            serial
                        })
                        .collect();
                    body.0.extend(&payload);
                    body.1 = matches!(doing, Doing::End { .. });
                    out.extend(frame(DATA, if body.1 { END_STREAM } else { 0 }, stream, &payload));
                }
            }
            if deliver {
                for piece in std::mem::take(&mut out).chunks(server_piece) {
                    pair.server(piece);
                }
                take(&pair.at_client_in_pieces(client_piece), &mut received);
            }
        }
        pair.server(&out);
        take(&pair.at_client_in_pieces(client_piece), &mut received);
        sent.retain(|_, (bytes, end)| *end || !bytes.is_empty());
        prop_assert_eq!(received, sent);
    }
}

/// Adds what has arrived.
fn take(frames: &[Frame], received: &mut BTreeMap<u32, (Vec<u8>, bool)>) {
    for frame in frames {
        if frame.kind == DATA {
            assert!(frame.payload.len() <= CLIENT_FRAME);
            let body = received.entry(frame.stream).or_default();
            assert!(!body.1, "data behind the end");
            body.0.extend(&frame.payload);
            body.1 = frame.flags & END_STREAM != 0;
        }
    }
}
