//! What a converter does about header lists that the other end doesn't accept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod converter;
mod owned;

use std::sync::Arc;

use converter::{End, closed_by, far, near, request, response, settings};
use owned::Owned;

use wsferry::Error;
use wsferry::config::{Config, FieldPolicy, Limits};
use wsferry::converter::{Converter, Counts, MaskKeys};
use wsferry::error::http2_code;
use wsferry::message::{Fields, Http2Id, Message, RequestHead, Settings, WireId};
use wsferry::{cbor, http2, websocket};

struct NoKeys;

impl MaskKeys for NoKeys {
    fn next_key(&mut self) -> [u8; 4] {
        [0; 4]
    }
}

/// A near end whose local codec and whose peer are played by this crate's own writers.
struct Near {
    converter: Converter,
    codec: http2::Writer,
    codec_reader: http2::Reader,
}

impl Near {
    fn new() -> Self {
        let config = Arc::new(Config::parse(br#"{"role": "near"}"#).unwrap());
        let mut near = Self {
            converter: Converter::new(&config),
            codec: http2::Writer::new(http2::Sender::Client),
            codec_reader: http2::Reader::new(http2::Sender::Server, &Limits::default()),
        };
        let mut preface = Vec::new();
        near.codec
            .message(&Message::Settings(&Settings::new()), &mut preface);
        near.converter.http2_input(&preface, &mut NoKeys);
        near
    }

    /// The other end sends these settings.
    fn peer_settings(&mut self, id: u16, value: u32) {
        let mut settings = Settings::new();
        settings.set(id, value);
        let mut writer = websocket::Writer::new(websocket::Sender::Server);
        let mut bytes = Vec::new();
        let open = writer.begin(&mut bytes, 0);
        cbor::Encoder::new(&Arc::new(FieldPolicy::default()))
            .encode(&Message::Settings(&settings), &mut bytes);
        writer.finish(open, &mut bytes, &mut NoKeys);
        self.converter.websocket_input(&mut bytes, &mut NoKeys);
        assert_eq!(self.converter.closed(), None);
    }

    /// The codec opens a stream with one field of so many bytes; the resets that come back.
    fn request(&mut self, stream: u32, value: usize) -> Vec<(u32, u32)> {
        let value = vec![b'v'; value];
        let fields = Fields::from_iter([(b"x-large".as_slice(), value.as_slice())]);
        let head = RequestHead {
            method: b"GET",
            scheme: b"http",
            authority: b"app.example",
            path: b"/",
            protocol: None,
            fields: &fields,
        };
        let mut bytes = Vec::new();
        let request = Message::Request {
            stream: Http2Id(stream),
            end: true,
            head,
        };
        self.codec.message(&request, &mut bytes);
        self.converter.http2_input(&bytes, &mut NoKeys);
        self.resets()
    }

    /// What the codec is told of its streams' ends.
    fn resets(&mut self) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        self.converter.take_http2_output(&mut out);
        let (mut input, mut resets) = (out.as_slice(), Vec::new());
        while let Some(event) = self.codec_reader.next(&mut input).unwrap() {
            if let http2::Event::Message(Message::Reset { stream, code }) = event {
                resets.push((stream.0, code));
            }
        }
        resets
    }

    /// The streams that went out to the other end.
    fn requests_sent(&mut self) -> Vec<u16> {
        let mut out = Vec::new();
        self.converter.take_websocket_output(&mut out);
        let mut reader = websocket::Reader::new(websocket::Sender::Client, 1 << 20);
        let mut decoder = cbor::Decoder::new(&Limits::default());
        let (mut position, mut streams) = (0, Vec::new());
        while let Some(event) = reader.next(&mut out, &mut position).unwrap() {
            let websocket::Event::Payload(range) = event else {
                continue;
            };
            let mut payload = &out[range];
            while let Some(message) = decoder.next(&mut payload).unwrap() {
                if let Message::Request {
                    stream: WireId(stream),
                    ..
                } = message
                {
                    streams.push(stream);
                }
            }
        }
        streams
    }
}

/// No WebSocket came of the handshake: what waited for it may be sent again (RFC 9113 §8.7).
#[test]
fn what_waited_for_a_handshake_that_failed_was_never_sent() {
    let mut near = Near::new();
    assert_eq!(near.request(1, 10), []);
    assert_eq!(near.request(3, 10), []);
    near.converter.refuse();
    let refused = http2_code::REFUSED_STREAM;
    assert_eq!(near.resets(), [(1, refused), (3, refused)]);
}

#[test]
fn a_header_list_above_the_peers_limit_is_refused_here_and_harms_no_other_stream() {
    // x-large and the pseudo-header fields cost 7 + 32, and 42 + 43 + 53 + 38.
    const REST: usize = 39 + 42 + 43 + 53 + 38;
    let mut near = Near::new();
    near.peer_settings(Settings::MAX_HEADER_LIST_SIZE, 4096);
    assert_eq!(near.request(1, 4096 - REST), []);
    assert_eq!(
        near.request(3, 4096 - REST + 1),
        [(3, http2_code::INTERNAL_ERROR)]
    );
    assert_eq!(near.request(5, 10), []);
    assert_eq!(near.requests_sent(), [0, 1]);
    assert_eq!(near.converter.open_streams(), 2);
    assert_eq!(near.converter.closed(), None);
    let counts = near.converter.take_counts();
    assert_eq!(
        counts,
        Counts {
            streams_header_list_too_big: 1,
            streams_opened: 2,
            ..counts
        }
    );
}

#[test]
fn responses_and_trailers_above_the_peers_limit_are_refused_here() {
    // Of a response, :status and its value cost 42; of both, x and the rest 33 more than the value.
    for (trailers, value, refused) in [
        (false, 4096 - 42 - 33, false),
        (false, 4096 - 42 - 32, true),
        (true, 4096 - 33, false),
        (true, 4096 - 32, true),
    ] {
        let mut far = End::new(r#"{"role": "far"}"#);
        far.peer(&[Owned::Settings(vec![(6, 4096)]), request(0, true)]);
        far.codec(&[settings(), Owned::Ack]);
        let fields = vec![(b"x".to_vec(), vec![b'v'; value], false)];
        let (stream, status, end) = (1, 200, true);
        far.codec(&match trailers {
            true => vec![response(1, false), Owned::Trailers { stream, fields }],
            false => vec![Owned::Response {
                stream,
                end,
                status,
                fields,
            }],
        });
        let too_big = far.converter.take_counts().streams_header_list_too_big;
        assert_eq!(too_big, u64::from(refused), "{trailers} {value}");
    }
}

#[test]
fn without_a_limit_of_the_peer_only_this_ends_own_counts() {
    let mut near = Near::new();
    near.peer_settings(Settings::INITIAL_WINDOW_SIZE, 1 << 20);
    assert_eq!(near.request(1, 65_536), []);
    assert_eq!(near.requests_sent(), [0]);
}

/// A list of 80 KiB that is some 20 bytes on the wire.
fn references(mut head: Owned) -> Owned {
    if let Owned::Request { fields, .. } | Owned::Response { fields, .. } = &mut head {
        *fields = vec![(b"x-large".to_vec(), vec![b'x'; 8_000], false); 10];
    }
    if let Owned::Response { status, .. } = &mut head {
        *status = 103;
    }
    head
}

/// A WebAssembly VM without memory ends, and with it whatever else it has.
#[test]
fn small_messages_do_not_become_more_than_memory_holds() {
    let mut far = far(0);
    let mut bytes = far.peer_bytes(&[references(request(0, true))]);
    let (first, count) = (bytes.len(), 2_000);
    for stream in 1..count {
        bytes.extend(far.peer_bytes(&[references(request(stream, true))]));
    }
    assert!(bytes.len() - first < 100_000, "{}", bytes.len());
    far.converter.websocket_input(&mut bytes, &mut NoKeys);
    assert_eq!(closed_by(&far), Some(Error::ExcessiveLoad));
    let mut out = Vec::new();
    far.converter.take_http2_output(&mut out);
    assert!(out.len() < 70 << 20, "{}", out.len());
}

#[test]
fn interim_responses_do_not_become_more_than_memory_holds() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    let mut bytes = Vec::new();
    for _ in 0..2_000 {
        bytes.extend(near.peer_bytes(&[references(response(0, false))]));
    }
    near.converter.websocket_input(&mut bytes, &mut NoKeys);
    assert_eq!(closed_by(&near), Some(Error::ExcessiveLoad));
}

/// Lawful, if it comes in several callbacks.
#[test]
fn what_becomes_of_many_messages_may_be_large() {
    let mut far = far(0);
    let mut total = 0;
    for stream in 0..2_000 {
        let mut bytes = far.peer_bytes(&[references(request(stream, true))]);
        far.converter.websocket_input(&mut bytes, &mut NoKeys);
        let mut out = Vec::new();
        far.converter.take_http2_output(&mut out);
        total += out.len();
    }
    assert!(far.converter.closed().is_none() && total > 128 << 20, "{total}");
}

/// The codec has a table, too: two bytes for a list of 4 KB, which enters no table here.
#[test]
fn what_the_codec_says_does_not_become_more_than_memory_holds() {
    let mut far = far(1);
    // :status: 103 and authorization, which enter the table of HPACK (RFC 7541 section 6.2.1), and then references.
    let mut first = [&[0x48, 3][..], b"103", &[0x57, 0x7f, 0xa1, 0x1e]].concat();
    first.extend([b'!'; 127 + 0x21 + (0x1e << 7)]);
    let frame = |payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[1, 4, 0, 0, 0, 1], payload].concat()
    };
    let mut bytes = frame(&first);
    for _ in 0..20_000 {
        bytes.extend(frame(&[0xbf, 0xbe]));
    }
    far.converter.http2_input(&bytes, &mut NoKeys);
    assert_eq!(closed_by(&far), Some(Error::ExcessiveLoad));
    let mut out = Vec::new();
    far.converter.take_websocket_output(&mut out);
    assert!(out.len() < 70 << 20, "{}", out.len());
}
