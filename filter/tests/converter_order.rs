//! Orders of calls that a warmed-up tunnel seldom sees: late data, ends that cross what is under way, answers that wait.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod converter;
mod owned;

use converter::{End, Sent, credit, data, goaway, near, request, response, settings};
use owned::Owned;
use wsferry::Error;

fn goaway_lasts(messages: &[Owned]) -> Vec<u32> {
    let last = |message: &Owned| match message {
        Owned::Goaway { last, .. } => Some(last.unwrap_or(u32::MAX)),
        _ => None,
    };
    messages.iter().filter_map(last).collect()
}

/// Data of a stream that the other end has just reset.
#[test]
fn late_data_of_a_reset_stream_in_small_frames_closes_nothing() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, false), request(3, false)]);
    near.peer(&[settings()]);
    near.codec(&[Owned::Ack]);
    near.peer(&[Owned::Reset { stream: 0, code: 8 }]);
    // Under way while the codec didn't know: 6,000 messages of 5 bytes, 30,000 of a window of 65,535.
    let late: Vec<_> = (0..6000).map(|_| data(1, false, b"hello")).collect();
    near.codec(&late);
    assert_eq!(near.converter.closed(), None);
    assert_eq!(near.converter.open_streams(), 1);
}

/// The same far: a client cancels a stream of small events.
#[test]
fn late_data_at_the_far_end() {
    let mut far = End::new(r#"{"role": "far"}"#);
    far.peer(&[settings(), request(0, true), request(1, true)]);
    far.codec(&[settings(), Owned::Ack, response(1, false), response(3, false)]);
    far.peer(&[Owned::Reset { stream: 0, code: 8 }]);
    for _ in 0..6 {
        let late: Vec<_> = (0..1000).map(|_| data(1, false, b"event")).collect();
        far.codec(&late);
    }
    assert_eq!(far.converter.closed(), None);
}

/// RFC 9113 §6.8: the last stream must not go up.
#[test]
fn a_second_goaway_never_names_a_later_stream() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true), request(3, true)]);
    let mut got = near.peer(&[
        settings(),
        response(1, true),
        Owned::Goaway {
            last: Some(1),
            code: 0,
        },
    ]);
    near.codec(&[Owned::Ack]);
    let mut close = near.close_frame(1001);
    got.extend(near.websocket(&mut close));
    let lasts = goaway_lasts(&got);
    assert!(lasts.is_sorted_by(|a, b| a >= b), "{lasts:?}");
}

/// The same with a stream that the first goaway refused.
#[test]
fn a_second_goaway_after_a_refusal() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true), request(3, true)]);
    let mut got = near.peer(&[
        settings(),
        Owned::Goaway {
            last: Some(0),
            code: 0,
        },
    ]);
    let mut text = vec![0x81, 0x00];
    got.extend(near.websocket(&mut text));
    let lasts = goaway_lasts(&got);
    assert!(lasts.is_sorted_by(|a, b| a >= b), "{lasts:?}");
}

/// Whatever the other end says: the codec takes a later one for an error of the connection.
#[test]
fn goaways_that_take_back_are_not_passed_on() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true), request(3, true)]);
    let goaway = |last| Owned::Goaway { last, code: 0 };
    let got = near.peer(&[
        settings(),
        goaway(None),
        goaway(Some(0)),
        goaway(Some(1)),
        goaway(None),
    ]);
    assert_eq!(goaway_lasts(&got), [u32::MAX, 1, 1, 1]);
}

/// What crossed the far codec's goaway.
#[test]
fn a_request_that_crossed_goaway_is_not_open_for_ever() {
    let mut far = End::new(r#"{"role": "far"}"#);
    far.peer(&[settings(), request(0, true)]);
    far.codec(&[
        settings(),
        Owned::Ack,
        Owned::Goaway {
            last: Some(1),
            code: 0,
        },
    ]);
    // near has sent this before it read the goaway, and forgets it when it does.
    far.peer(&[request(1, true)]);
    far.codec(&[response(1, true)]);
    assert_eq!(far.converter.open_streams(), 0);
    far.converter.websocket_end();
    assert_eq!(far.converter.closed().unwrap().code, 1001);
}

/// The codec opened it before it had read the goaway, and forgets it when it does.
#[test]
fn a_request_that_crosses_goaway_is_not_open_at_a_near_end_either() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    near.peer(&[Owned::Goaway {
        last: Some(0),
        code: 0,
    }]);
    // Nor do the frames behind it harm anyone.
    assert_eq!(near.sent(&[request(3, false)]), []);
    // The codec gets its window back, and for that the other end is asked for a turn.
    let sent = near.sent(&[data(3, false, b"body"), Owned::Reset { stream: 3, code: 8 }]);
    assert!(matches!(sent[..], [Sent::Ping(_)]), "{sent:?}");
    assert!(near.converter.closed().is_none());
    near.peer(&[response(0, true)]);
    assert_eq!(near.converter.open_streams(), 0);
    near.converter.websocket_end();
    assert_eq!(near.converter.closed().unwrap().code, 1001);
}

fn near_with_three() -> End {
    let mut near = near();
    near.sent(&[request(1, true), request(3, true), request(5, true)]);
    near
}

/// As RFC 9113 §6.8 has it, and not as one far behind it: what is processed isn't to be sent again.
#[test]
fn a_goaway_of_a_stream_that_is_yet_to_come_covers_all() {
    for last in [3, 100, 2 + 32_767] {
        let mut near = near();
        near.sent(&[request(1, true), request(3, true), request(5, true)]);
        let told = near.peer(&[Owned::Goaway {
            last: Some(last),
            code: 0,
        }]);
        assert_eq!(goaway_lasts(&told), [u32::MAX], "{last}");
        assert_eq!(near.converter.open_streams(), 3);
    }
    let mut near = near();
    near.sent(&[request(1, true), request(3, true), request(5, true)]);
    near.peer(&[Owned::Goaway {
        last: Some(65_535),
        code: 0,
    }]);
    assert_eq!(near.converter.open_streams(), 0);
    // As far ahead as behind.
    let mut near = near_with_three();
    let last = Some(2 + 32_768);
    assert_eq!(goaway_lasts(&near.peer(&[Owned::Goaway { last, code: 0 }])), [0]);
    assert_eq!(near.converter.open_streams(), 0);
}

/// What the codec says of streams that a goaway has refused.
#[test]
fn frames_of_a_stream_that_goaway_refused_stay_here() {
    let mut near = near();
    near.sent(&[request(1, true), request(3, false)]);
    near.peer(&[Owned::Goaway {
        last: Some(0),
        code: 0,
    }]);
    // The codec gets its window back, and for that the other end is asked for a turn.
    let sent = near.sent(&[data(3, false, b"body"), credit(Some(3), 10), data(3, true, b"")]);
    assert!(matches!(sent[..], [Sent::Ping(_)]), "{sent:?}");
    assert!(near.converter.closed().is_none());
}

/// What is still under way isn't the other end's answer to Close.
#[test]
fn streams_of_a_near_end_wait_for_its_close_frame() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true)]);
    near.peer(&[settings(), response(0, false)]);
    near.codec(&[Owned::Ack]);
    let mut text = vec![0x81, 0x00];
    let first = near.websocket(&mut text);
    assert!(
        !first.iter().any(|m| matches!(m, Owned::Reset { .. })),
        "{first:?}"
    );
    let second = near.peer(&[data(0, false, b"more")]);
    assert!(!near.converter.close_sent());
    assert!(
        !second.iter().any(|m| matches!(m, Owned::Reset { .. })),
        "{second:?}"
    );
}

/// Smaller, then larger, both without ack.
#[test]
fn a_larger_window_counts_at_once_also_behind_a_smaller_one() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true)]);
    near.peer(&[settings(), Owned::Ack, response(0, false)]);
    near.codec(&[
        Owned::Ack,
        Owned::Settings(vec![(4, 1000)]),
        Owned::Settings(vec![(4, 50_000)]),
    ]);
    near.peer(&[Owned::Ack, data(0, false, &[0; 20_000]), Owned::Ack]);
    assert_eq!(near.converter.closed(), None);
}

/// Those of the other end count, not the converter's own.
#[test]
fn sixteen_settings_may_be_without_answer() {
    let mut far = End::new(r#"{"role": "far"}"#);
    far.converter.begin();
    far.peer(&vec![settings(); 16]);
    assert_eq!(far.converter.closed(), None);
}

/// Each is held against all open streams.
#[test]
fn sixteen_goaways_of_the_other_end_are_enough() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true)]);
    near.peer(&[settings()]);
    near.peer(&vec![goaway(None, 0); 16]);
    assert_eq!(near.converter.closed(), None);
    near.peer(&[goaway(None, 0)]);
    assert_eq!(converter::closed_by(&near), Some(Error::ExcessiveLoad));
}

/// A client's goaway says nothing of a client's streams (RFC 9113 §6.8).
#[test]
fn a_server_codec_hears_no_goaway() {
    let mut far = End::new(r#"{"role": "far"}"#);
    far.peer(&[settings(), request(0, true)]);
    far.codec(&[settings(), Owned::Ack]);
    for last in [None, Some(0)] {
        let got = far.peer(&[Owned::Goaway { last, code: 0 }]);
        assert_eq!(goaway_lasts(&got), [0_u32; 0], "{got:?}");
        assert!(far.converter.is_going_away());
    }
}

/// Each is given back to the connection and to its stream.
#[test]
fn small_padded_frames_close_nothing() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, false)]);
    near.peer(&[settings()]);
    near.codec(&[Owned::Ack]);
    let padded = [0, 0, 2, 0, 8, 0, 0, 0, 1, 0, b'x'];
    near.http2(&padded.repeat(3000));
    assert_eq!(near.converter.closed(), None);
}

/// The codec has no turn while late data of streams that it has reset arrives.
#[test]
fn stray_data_in_many_reads_closes_nothing() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[
        Owned::Settings(vec![(4, 6 << 20)]),
        Owned::Credit {
            stream: None,
            bytes: 1 << 30,
        },
        request(1, true),
        request(3, true),
    ]);
    near.peer(&[settings(), Owned::Ack, response(0, false), response(1, false)]);
    near.codec(&[Owned::Ack, Owned::Reset { stream: 1, code: 8 }]);
    for _ in 0..5800 {
        near.peer(&[data(0, false, &[0; 1000])]);
    }
    assert_eq!(near.converter.closed(), None);
}

/// A request that comes after the end was never sent, and the codec is to know it.
#[test]
fn requests_after_the_end_are_refused_as_not_sent() {
    let mut near = End::new(r#"{"role": "near"}"#);
    near.codec(&[settings(), request(1, true)]);
    near.peer(&[settings(), response(0, true)]);
    near.codec(&[Owned::Ack]);
    let mut close = near.close_frame(1000);
    let mut got = near.websocket(&mut close);
    near.codec(&[request(3, true)]);
    near.converter.websocket_end();
    got.extend(near.websocket(&mut []));
    assert!(
        got.iter()
            .any(|m| matches!(m, Owned::Goaway { last: Some(1), .. })
                || matches!(m, Owned::Reset { stream: 3, code: 7 })),
        "{got:?}"
    );
}

/// The codec would take it for an error.
#[test]
fn an_ack_of_nothing_is_ignored() {
    let mut far = End::new(r#"{"role": "far"}"#);
    far.peer(&[settings()]);
    far.codec(&[settings(), Owned::Ack]);
    assert!(far.peer(&[Owned::Ack]).contains(&Owned::Ack));
    assert_eq!(far.peer(&[Owned::Ack]), []);
    assert_eq!(far.converter.closed(), None);
}

/// It takes nothing more: nobody is to wait until that shows.
#[test]
fn a_codec_that_gives_the_connection_up_ends_it_for_all() {
    for role in ["near", "far"] {
        let mut end = End::new(&format!(r#"{{"role": "{role}"}}"#));
        end.peer(&[settings()]);
        end.codec(&[settings(), Owned::Ack, Owned::Goaway { last: None, code: 0 }]);
        assert_eq!(end.converter.closed(), None);
        let websocket = end.codec(&[Owned::Goaway {
            last: Some(0),
            code: 9,
        }]);
        assert_eq!(end.converter.closed().unwrap().error, Some(Error::Http2Goaway));
        assert!(end.converter.close_sent());
        assert!(websocket.ends_with(b"http2_goaway"));
    }
}

/// A longer one is an error of the whole connection for Envoy's codec.
#[test]
fn a_string_that_no_codec_takes_costs_its_stream_alone() {
    for (bytes, streams) in [(65_536, 1), (65_537, 0)] {
        let mut long = request(1, true);
        if let Owned::Request { path, .. } = &mut long {
            *path = vec![b'/'; bytes];
        }
        let mut near = End::new(r#"{"role": "near"}"#);
        near.codec(&[settings()]);
        near.codec(std::slice::from_ref(&long));
        assert_eq!(
            (near.converter.closed(), near.converter.open_streams()),
            (None, streams)
        );
        // One that has it from its other end is not to blame.
        let mut far = End::new(r#"{"role": "far"}"#);
        far.peer(&[settings(), long]);
        let error = far.converter.closed().and_then(|closed| closed.error);
        assert_eq!(error, (streams == 0).then_some(Error::HeaderListTooBig));
    }
}

/// Once half of the names are learned, others are on second sight: when the list comes for the second time as it was.
#[test]
fn a_name_that_is_learned_late_is_learned_once() {
    let mut near = near();
    let mut stream = 1;
    let mut cross = |names: &[String]| {
        let mut sent = request(stream, true);
        stream += 2;
        let field = |name: &String| (name.clone().into_bytes(), b"1".to_vec(), true);
        let expected: Vec<_> = names.iter().map(field).collect();
        if let Owned::Request { fields, .. } = &mut sent {
            *fields = expected.clone();
        }
        match &near.sent(&[sent])[..] {
            [Sent::Message(Owned::Request { fields, .. })] => assert_eq!(*fields, expected),
            other => panic!("{other:?}"),
        }
    };
    (0..3).for_each(|_| cross(&[]));
    cross(&(0..128).map(|number| format!("x-{number}")).collect::<Vec<_>>());
    for name in ["late", "later"] {
        (0..4).for_each(|_| cross(&[name.to_owned()]));
    }
    cross(&["late", "later"].map(str::to_owned));
}
