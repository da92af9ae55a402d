//! Requests from far: what precedes HTTP/2, and where one ends and the other begins.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;

use wsferry::Error;
use wsferry::config::Config;
use wsferry::converter::{Converter, MaskKeys};
use wsferry::http2::frame::PREFACE;
use wsferry::message::{Message, Settings};
use wsferry::{http2, websocket};

/// What the near Envoy dials with, and the far one's answer and keep-alive.
const ASK: &[u8] = b"GET /reverse_connections/request HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
const GRANT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const PING: &[u8] = b"RPING";

struct NoKeys;

impl MaskKeys for NoKeys {
    fn next_key(&mut self) -> [u8; 4] {
        [0; 4]
    }
}

fn converter(role: &str) -> Converter {
    let json = format!(r#"{{"role": "{role}", "requests_from": "far"}}"#);
    Converter::new(&Arc::new(Config::parse(json.as_bytes()).unwrap()))
}

/// Both ends; what their codecs say is given to them as it comes, in pieces of so many bytes.
struct Ends {
    near: Converter,
    far: Converter,
    piece: usize,
}

impl Ends {
    fn new(piece: usize) -> Self {
        Self {
            near: converter("near"),
            far: converter("far"),
            piece,
        }
    }

    /// Whatever the far codec sends; returns what reaches near's.
    fn far_says(&mut self, bytes: &[u8]) -> Vec<u8> {
        cross(&mut self.far, &mut self.near, bytes, self.piece)
    }

    /// Whatever the near codec sends; returns what reaches far's.
    fn near_says(&mut self, bytes: &[u8]) -> Vec<u8> {
        cross(&mut self.near, &mut self.far, bytes, self.piece)
    }
}

fn cross(from: &mut Converter, to: &mut Converter, bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut arrived, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        from.http2_input(piece, &mut NoKeys);
        from.take_websocket_output(&mut out);
        to.websocket_input(&mut out, &mut NoKeys);
        to.take_http2_output(&mut out);
        arrived.extend_from_slice(&out);
    }
    assert_eq!((from.closed(), to.closed()), (None, None));
    arrived
}

fn settings(sender: http2::Sender) -> Vec<u8> {
    let mut bytes = Vec::new();
    http2::Writer::new(sender).message(&Message::Settings(&Settings::new()), &mut bytes);
    bytes
}

#[test]
fn what_precedes_http2_passes_as_it_is() {
    for piece in [1, 2, 3, 7, 1_000] {
        let mut ends = Ends::new(piece);
        assert_eq!(ends.near_says(ASK), ASK);
        assert_eq!(ends.far_says(GRANT), GRANT);
        for _ in 0..3 {
            assert_eq!(ends.far_says(PING), PING);
            assert_eq!(ends.near_says(PING), PING);
        }
        // The last echo crosses the first request, and comes in one piece with what follows it.
        let begun = [PING, &settings(http2::Sender::Client)].concat();
        let arrived = ends.far_says(&begun);
        assert!(arrived.starts_with(&[PING, PREFACE].concat()), "{arrived:?}");
        let answer = [PING, &settings(http2::Sender::Server)].concat();
        let arrived = ends.near_says(&answer);
        assert_eq!(&arrived[..PING.len()], PING);
        // A frame of settings, in HTTP/2.
        assert_eq!(arrived[PING.len() + 3], 4, "{arrived:?}");
    }
}

#[test]
fn what_begins_like_http2_and_is_none_passes() {
    for piece in [1, 4, 1_000] {
        let mut ends = Ends::new(piece);
        let text = b"PRI * HTTP/2.0\r\n\r\nPRIPRI * HTTP/1.1 PING\r\n";
        assert_eq!(ends.far_says(text), text);
    }
}

#[test]
fn the_end_of_a_piece_that_may_begin_http2_waits_for_the_next() {
    let mut ends = Ends::new(1_000);
    assert_eq!(ends.far_says(b"RP"), b"R");
    assert_eq!(ends.far_says(b"ING"), b"PING");
}

#[test]
fn as_much_as_64_kib_pass_at_a_time() {
    for (bytes, error) in [(65_536, None), (65_537, Some(Error::Http2Preface))] {
        let mut near = converter("near");
        near.http2_input(&vec![b'x'; bytes], &mut NoKeys);
        assert_eq!(near.closed().and_then(|closed| closed.error), error, "{bytes}");
    }
}

#[test]
fn nothing_is_sent_while_all_of_a_piece_may_begin_http2() {
    let mut ends = Ends::new(1_000);
    ends.far.http2_input(b"PRI", &mut NoKeys);
    let mut sent = Vec::new();
    ends.far.take_websocket_output(&mut sent);
    assert_eq!(sent, b"");
}

#[test]
fn text_without_end_is_no_prelude() {
    let mut far = converter("far");
    far.http2_input(&vec![b'x'; 70_000], &mut NoKeys);
    assert_eq!(far.closed().unwrap().error, Some(Error::Http2Preface));
}

/// A WebSocket Ping that comes before HTTP/2 is answered, and no codec is asked for an echo.
#[test]
fn a_ping_before_http2_is_answered_with_what_passes_next() {
    for (role, peer) in [
        ("near", websocket::Sender::Server),
        ("far", websocket::Sender::Client),
    ] {
        let mut converter = converter(role);
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        websocket::Writer::new(peer).ping(b"still ok", &mut bytes, &mut NoKeys);
        converter.websocket_input(&mut bytes, &mut NoKeys);
        converter.take_http2_output(&mut out);
        assert_eq!(out, b"", "{role}");
        converter.http2_input(PING, &mut NoKeys);
        converter.take_websocket_output(&mut out);
        let pong = out.windows(8).any(|window| window == b"still ok");
        assert!(pong, "{role}: {out:?}");
    }
}

/// What a fresh end of `role` makes of its codec's bytes, given to `to`; why that closes.
fn refused(role: &str, bytes: &[u8], to: &mut Converter) -> Option<Error> {
    let (mut from, mut out) = (converter(role), Vec::new());
    from.http2_input(bytes, &mut NoKeys);
    from.take_websocket_output(&mut out);
    to.websocket_input(&mut out, &mut NoKeys);
    to.closed().unwrap().error
}

#[test]
fn text_is_over_when_http2_has_begun() {
    let mut ends = Ends::new(1_000);
    ends.far_says(&settings(http2::Sender::Client));
    ends.near_says(&settings(http2::Sender::Server));
    assert_eq!(refused("far", GRANT, &mut ends.near), Some(Error::MessageType));
    assert_eq!(refused("near", PING, &mut ends.far), Some(Error::MessageType));
}

#[test]
fn who_answers_does_not_begin() {
    let mut far = converter("far");
    let error = refused("near", &settings(http2::Sender::Server), &mut far);
    assert_eq!(error, Some(Error::StreamState));
}

/// What isn't HTTP/2 yet would take it for an answer of its own.
#[test]
fn a_far_end_that_closes_before_http2_tells_its_codec_nothing() {
    for error in [false, true] {
        let mut far = converter("far");
        let mut out = Vec::new();
        if error {
            refused("near", &settings(http2::Sender::Server), &mut far);
        } else {
            let (mut bytes, mut writer) = (Vec::new(), websocket::Writer::new(websocket::Sender::Client));
            writer.close(Some(1000), "", &mut bytes, &mut NoKeys);
            far.websocket_input(&mut bytes, &mut NoKeys);
        }
        assert!(far.closed().is_some() && far.is_before_client());
        far.websocket_end();
        far.take_http2_output(&mut out);
        assert_eq!(out, b"");
    }
}

#[test]
fn a_small_limit_of_header_lists_is_none_for_what_precedes_http2() {
    let json = br#"{"role": "far", "requests_from": "far", "limits": {"max_header_list_bytes": 4096}}"#;
    let mut far = Converter::new(&Arc::new(Config::parse(json).unwrap()));
    let mut near = converter("near");
    let (mut out, mut got) = (Vec::new(), Vec::new());
    near.http2_input(&[b'x'; 64 * 1024], &mut NoKeys);
    near.take_websocket_output(&mut out);
    far.websocket_input(&mut out, &mut NoKeys);
    far.take_http2_output(&mut got);
    assert_eq!((far.closed(), got.len()), (None, 64 * 1024));
}

/// Until then it can't be made to say something.
#[test]
fn a_codec_that_makes_requests_has_begun_with_its_preface() {
    let mut far = converter("far");
    far.http2_input(PING, &mut NoKeys);
    assert!(far.is_before_client());
    far.http2_input(&settings(http2::Sender::Client), &mut NoKeys);
    assert!(!far.is_before_client());
}
