//! What concerns a connection and not one exchange: PINGs, GOAWAY, refusals, the end. Native and built.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::cell::RefCell;
use std::rc::Rc;

use integration::chunking::Chunking;
use integration::end::{End, NativeEnd};
use integration::raw::{Fields, Frame, Line, goaway, ping};
use integration::suite::{FAR, NEAR};
use integration::wasm_end::WasmEnd;
use integration::wasm_host::Vm;

const NEAR_ANSWERS: &str = r#"{"role": "near", "requests_from": "far"}"#;
const FAR_ASKS: &str = r#"{"role": "far", "requests_from": "far"}"#;

/// The end where requests are made, and the other one.
type Ends = (Box<dyn End>, Box<dyn End>);

/// Runs a check on native pairs and on pairs of built modules, with requests from near and with requests from far.
fn on_all(check: impl Fn(&mut Line<Box<dyn End>, Box<dyn End>>)) {
    on_all_and_who_asks(|line, _| check(line));
}

/// The same for a check that has to know whether it is near that makes the requests.
fn on_all_and_who_asks(check: impl Fn(&mut Line<Box<dyn End>, Box<dyn End>>, bool)) {
    let vm = |configuration| Rc::new(RefCell::new(Vm::start(configuration).expect("a VM")));
    for chunking in [Chunking::AsIs, Chunking::Bytes] {
        let native =
            |asks, answers| -> Ends { (Box::new(NativeEnd::new(asks)), Box::new(NativeEnd::new(answers))) };
        let (near, far) = WasmEnd::connect(&vm(NEAR), &vm(FAR)).unwrap();
        let (near_answers, far_asks) = WasmEnd::connect(&vm(NEAR_ANSWERS), &vm(FAR_ASKS)).unwrap();
        let ends: [(bool, Ends); 4] = [
            (true, native(NEAR, FAR)),
            (false, native(FAR_ASKS, NEAR_ANSWERS)),
            (true, (Box::new(near), Box::new(far))),
            (false, (Box::new(far_asks), Box::new(near_answers))),
        ];
        for (near_asks, (asks, answers)) in ends {
            let mut line = Line::connect(asks, answers, &chunking);
            line.client.received.clear();
            line.server.received.clear();
            check(&mut line, near_asks);
        }
    }
}

fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

fn get(path: &str) -> Fields {
    fields(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app.example"),
        (":path", path),
    ])
}

/// Plays one small exchange, to see that all is well.
fn exchange(line: &mut Line<Box<dyn End>, Box<dyn End>>, stream: u32) {
    line.client.headers(stream, &get("/"), true);
    line.settle();
    let arrived = line.server.take_exchange();
    let [Frame::Headers { stream: far, .. }] = arrived.as_slice() else {
        panic!("a request arrives: {arrived:?}");
    };
    line.server.headers(*far, &fields(&[(":status", "204")]), true);
    line.settle();
    let expected = Frame::Headers {
        stream,
        fields: fields(&[(":status", "204")]),
        end: true,
    };
    assert_eq!(line.client.take_exchange(), [expected]);
}

#[test]
fn pings_are_answered_on_both_sides() {
    on_all(|line| {
        line.client.output.extend(ping(*b"client 1"));
        line.client.output.extend(ping(*b"client 2"));
        line.server.output.extend(ping(*b"server 1"));
        line.settle();
        let has = |codec: &integration::raw::Codec, opaque: &[u8; 8]| {
            codec.received.contains(&Frame::PingAck(*opaque))
        };
        assert!(has(&line.client, b"client 1"));
        assert!(has(&line.client, b"client 2"));
        assert!(has(&line.server, b"server 1"));
        exchange(line, 1);
    });
}

#[test]
fn a_malformed_request_costs_its_stream_alone() {
    on_all(|line| {
        for (stream, bad) in [
            (1, fields(&[(":method", "GET"), ("X-Upper", "1")])),
            (3, fields(&[(":scheme", "http"), (":path", "/")])),
            (5, fields(&[(":method", "GET"), (":method", "PUT")])),
            (7, fields(&[(":method", "G T"), (":path", "/")])),
            (9, fields(&[("x-before", "1"), (":method", "GET")])),
            (11, fields(&[(":method", "GET"), ("x-line", "a\r\nb")])),
        ] {
            line.client.headers(stream, &bad, true);
            // Nothing but the answer itself brings it back.
            line.settle();
            let reset = line.client.take_exchange();
            assert_eq!(reset, [Frame::Reset { stream, code: 1 }]);
            assert_eq!(line.server.take_exchange(), []);
        }
        exchange(line, 13);
    });
}

#[test]
fn a_header_list_over_the_limit_costs_its_stream_alone() {
    on_all(|line| {
        let mut large = get("/");
        large.extend((0..9).map(|number| (format!("x-{number}").into_bytes(), vec![b'v'; 12_000])));
        line.client.headers(1, &large, true);
        line.settle();
        assert_eq!(line.client.take_exchange(), [Frame::Reset { stream: 1, code: 2 }]);
        let mut many = get("/");
        many.extend((0..300).map(|number| (format!("x-{number}").into_bytes(), b"1".to_vec())));
        line.client.headers(3, &many, true);
        line.settle();
        assert_eq!(line.client.take_exchange(), [Frame::Reset { stream: 3, code: 2 }]);
        assert_eq!(line.server.take_exchange(), []);
        exchange(line, 5);
    });
}

#[test]
fn goaway_reaches_the_other_side() {
    on_all(|line| {
        exchange(line, 1);
        line.client.output.extend(goaway(0, 0));
        line.settle();
        // A client's is of no stream of its own, and a server that hears it may say nothing more.
        assert_eq!(line.server.take_exchange(), []);
        line.client.headers(3, &get("/3"), true);
        line.client.headers(5, &get("/5"), true);
        line.settle();
        let streams: Vec<u32> = line
            .server
            .take_exchange()
            .iter()
            .filter_map(|frame| match frame {
                Frame::Headers { stream, .. } => Some(*stream),
                _ => None,
            })
            .collect();
        // First the warning, then the stream that is the last.
        line.server.output.extend(goaway(0x7fff_ffff, 0));
        line.server.output.extend(goaway(streams[0], 0));
        line.settle();
        let goaways: Vec<Frame> = line.client.take_exchange();
        assert_eq!(
            goaways,
            [
                Frame::Goaway {
                    last: 0x7fff_ffff,
                    code: 0
                },
                Frame::Goaway { last: 3, code: 0 }
            ]
        );
        // What was accepted is answered.
        line.server
            .headers(streams[0], &fields(&[(":status", "200")]), true);
        line.settle();
        assert_eq!(line.client.take_exchange().len(), 1);
    });
}

/// Where Envoy tells the filter that its pool hangs up.
#[test]
fn a_codec_that_hangs_up_after_goaway_is_going_away() {
    for (goaways, code) in [(vec![], 1000), (vec![goaway(0x7fff_ffff, 0)], 1001)] {
        let (near, far) = (NativeEnd::new(NEAR), NativeEnd::new(FAR));
        let mut line = Line::connect(near, far, &Chunking::AsIs);
        line.server.output.extend(goaways.concat());
        line.settle();
        let mut websocket = Vec::new();
        line.near.http2_end(&mut websocket);
        let close = integration::bad_input::close_frame(&websocket, true);
        assert_eq!(close.map(|close| close.0), Some(code), "{goaways:?}");
    }
}

/// Envoy's pool hangs up after a GOAWAY, when its last stream has ended, and nobody can say Close.
#[test]
fn an_end_without_close_is_orderly_after_goaway() {
    for (goaways, open, code) in [
        (vec![], false, 1006),
        (vec![goaway(0x7fff_ffff, 0)], false, 1001),
        (vec![goaway(0x7fff_ffff, 0), goaway(1, 0)], false, 1001),
        // Stream 3 was refused.
        (vec![goaway(0x7fff_ffff, 0), goaway(1, 0)], true, 1001),
        (vec![goaway(0x7fff_ffff, 0)], true, 1006),
    ] {
        let (near, far) = (NativeEnd::new(NEAR), NativeEnd::new(FAR));
        let mut line = Line::connect(near, far, &Chunking::AsIs);
        line.client.headers(1, &get("/1"), true);
        if open {
            line.client.headers(3, &get("/3"), true);
        }
        line.settle();
        line.server.output.extend(goaways.concat());
        line.server.headers(1, &fields(&[(":status", "204")]), true);
        line.settle();
        for end in [&mut line.near, &mut line.far] {
            end.websocket_end(&mut Vec::new());
            let closed = end.closed().map(|closed| closed.code);
            assert_eq!(closed, Some(code), "{goaways:?} {open}");
        }
    }
}

#[test]
fn the_end_of_one_codec_resets_the_streams_of_the_other() {
    on_all_and_who_asks(|line, near_asks| {
        line.client.headers(1, &get("/"), false);
        line.settle();
        line.server.take_exchange();
        let (mut websocket, mut http2) = (Vec::new(), Vec::new());
        line.near.http2_end(&mut websocket);
        assert_eq!(
            integration::bad_input::close_frame(&websocket, near_asks).map(|close| close.0),
            Some(1000)
        );
        line.far.websocket_input(&websocket, &mut http2);
        line.far.websocket_end(&mut http2);
        line.server.input(&http2);
        let told = line.server.take_exchange();
        assert!(
            told.iter().any(|frame| matches!(frame, Frame::Reset { .. })),
            "{told:?}"
        );
        // Envoy up to 1.37 never ends a connection in which something waits for a codec that has hung up.
        let mut late = Vec::new();
        line.near.websocket_end(&mut late);
        assert_eq!(late, b"");
    });
}

#[test]
fn a_broken_websocket_resets_the_streams_of_both_sides() {
    on_all(|line| {
        line.client.headers(1, &get("/"), false);
        line.settle();
        line.server.take_exchange();
        let mut http2 = Vec::new();
        line.far.websocket_end(&mut http2);
        line.server.input(&http2);
        let resets = |frames: Vec<Frame>| frames.iter().any(|frame| matches!(frame, Frame::Reset { .. }));
        assert!(resets(line.server.take_exchange()));
        http2.clear();
        line.near.websocket_end(&mut http2);
        line.client.input(&http2);
        assert!(resets(line.client.take_exchange()));
    });
}

/// A server that says it would push is an error of the connection to a client, and a server may push
/// unless it is told not to (RFC 9113 section 6.5.2).
#[test]
fn push_is_always_switched_off() {
    for near in [true, false] {
        for settings in ["8206a2 0201 0401", "8206a1 0401"] {
            let mut end = NativeEnd::new(if near { NEAR } else { FAR });
            let mut codec = if near {
                integration::raw::Codec::client()
            } else {
                integration::raw::Codec::server()
            };
            let (mut websocket, mut http2) = (Vec::new(), Vec::new());
            end.http2_input(&std::mem::take(&mut codec.output), &mut websocket);
            let settings = integration::bad_input::hex(settings);
            let message = integration::bad_input::message_to(near, &settings);
            end.websocket_input(&message, &mut http2);
            codec.input(&http2);
            let announced: Vec<(u16, u32)> = codec
                .received
                .iter()
                .filter_map(|frame| match frame {
                    Frame::Settings(entries) => Some(entries.clone()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert!(announced.contains(&(4, 1)), "{announced:?}");
            let push: Vec<_> = announced.iter().filter(|entry| entry.0 == 2).collect();
            assert!(push.last() == Some(&&(2, 0)), "{announced:?}");
            assert!(push.iter().all(|entry| entry.1 == 0), "{announced:?}");
        }
    }
}
