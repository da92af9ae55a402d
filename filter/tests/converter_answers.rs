//! What a converter says that neither side said: answers, refusals and ends. And what it counts.
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

use converter::{
    End, NEAR, NoKeys, Sent, closed_by, credit, data, far, goaway, near, request, response, settings,
};
use owned::Owned;
use wsferry::Error;
use wsferry::converter::{Closer, Counts};
use wsferry::error::http2_code;

/// Of more, the oldest counts as lost. A Pong answers all before it (RFC 6455 section 5.5.3).
#[test]
fn sixteen_pings_may_be_under_way() {
    let mut near = near();
    for number in 0..17 {
        near.codec_ping([number; 8]);
    }
    assert_eq!(near.pong(&[0; 8]), []);
    let answers: Vec<_> = (1..17).map(|number| Owned::PingAck([number; 8])).collect();
    assert_eq!(near.pong(&[16; 8]), answers);
}

#[test]
fn a_pong_leaves_later_pings_unanswered() {
    let mut near = near();
    near.codec_ping([1; 8]);
    near.codec_ping([2; 8]);
    assert_eq!(near.pong(&[1; 8]), [Owned::PingAck([1; 8])]);
    assert_eq!(near.pong(&[2; 8]), [Owned::PingAck([2; 8])]);
}

/// Else the codec waits for answers of which it may provoke any number.
#[test]
fn refusals_that_never_leave_end_the_connection() {
    let mut near = near();
    let malformed = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x84];
    let mut error = None;
    for stream in 0..6000_u32 {
        let mut frame = malformed;
        frame[5..9].copy_from_slice(&(2 * stream + 1).to_be_bytes());
        near.http2(&frame);
        error = error.or(closed_by(&near));
    }
    assert_eq!(error, Some(Error::Http2Protocol));
}

/// It is the other end's HTTP/2 that failed: what is open isn't going to end well.
#[test]
fn a_goaway_because_of_an_error_is_no_orderly_end() {
    for (code, going_away, end) in [(http2_code::NO_ERROR, true, 1001), (2, false, 1006)] {
        let mut near = near();
        near.peer(&[goaway(None, code)]);
        assert_eq!(near.converter.is_going_away(), going_away);
        near.converter.websocket_end();
        assert_eq!(near.converter.closed().map(|closed| closed.code), Some(end));
    }
}

#[test]
fn streams_after_the_last_of_a_goaway_are_gone() {
    let mut near = near();
    near.sent(&[request(1, true), request(3, true)]);
    near.peer(&[goaway(Some(0), 0)]);
    assert_eq!(near.converter.open_streams(), 1);
    let mut far = far(2);
    far.sent(&[goaway(Some(1), 0)]);
    assert_eq!(far.converter.open_streams(), 1);
}

/// Streams that the codec has open when the WebSocket ends.
#[test]
fn streams_that_are_cut_off_are_counted_and_reset() {
    let mut far = far(3);
    far.sent(&[response(1, true)]);
    far.converter.websocket_end();
    let reset = |stream| Owned::Reset {
        stream,
        code: http2_code::INTERNAL_ERROR,
    };
    assert_eq!(far.websocket(&mut []), [reset(3), reset(5)]);
    assert_eq!(far.converter.cut_off(), 2);
    assert_eq!(far.converter.take_counts().streams_reset, 2);
}

/// Those that wait for its Close: it hangs up as soon as it has no stream left.
#[test]
fn a_codec_that_makes_requests_is_told_to_make_no_more_before_its_streams_are_reset() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    let mut close = near.close_frame(1000);
    let told = near.websocket(&mut close);
    let code = http2_code::INTERNAL_ERROR;
    assert!(told.contains(&goaway(Some(1), code)), "{told:?}");
    assert_eq!(near.sent(&[]), [Sent::Close(Some(1000))]);
    assert_eq!(near.websocket(&mut [0x89, 0]), [Owned::Reset { stream: 1, code }]);
}

#[test]
fn an_empty_close_is_answered_by_an_empty_one() {
    let mut far = far(0);
    far.websocket(&mut [0x88, 0x80, 0, 0, 0, 0]);
    assert_eq!(far.converter.closed().map(|closed| closed.code), Some(1005));
    assert_eq!(far.sent(&[]), [Sent::Close(None)]);
}

#[test]
fn a_converter_that_has_closed_says_no_second_close() {
    let mut near = near();
    let mut close = near.close_frame(1000);
    near.websocket(&mut close);
    assert_eq!(near.sent(&[]), [Sent::Close(Some(1000))]);
    near.converter.http2_end(&mut NoKeys);
    assert_eq!(near.converter.websocket_waiting(), 0);
    assert_eq!(near.converter.closed().map(|closed| closed.code), Some(1000));
}

#[test]
fn what_crosses_is_counted() {
    let mut near = near();
    near.converter.take_counts();
    let mut with_field = request(1, false);
    if let Owned::Request { fields, .. } = &mut with_field {
        *fields = vec![(b"ab".to_vec(), b"cde".to_vec(), false)];
    }
    let sent = near.codec(&[with_field, request(3, true)]);
    near.peer(&[response(0, true)]);
    near.peer(&[Owned::Reset { stream: 1, code: 8 }]);
    let counts = near.converter.take_counts();
    // GET, http, a, / and ab: cde.
    let before = (3 + 4 + 1 + 1) * 2 + 5;
    assert_eq!(
        counts,
        Counts {
            messages_in: 2,
            messages_out: 1,
            websocket_bytes_in: 9 + 6,
            websocket_bytes_out: sent.len() as u64,
            streams_opened: 2,
            streams_reset: 1,
            header_bytes_before: before,
            header_bytes_after: sent.len() as u64 - 6,
            streams_malformed: 0,
            streams_header_list_too_big: 0,
        }
    );
    assert_eq!(near.converter.take_counts(), Counts::default());
}

#[test]
fn header_lists_of_responses_and_trailers_are_counted() {
    for (message, bytes) in [
        (response(1, false), 3),
        (
            Owned::Trailers {
                stream: 1,
                fields: vec![(b"ab".to_vec(), b"cde".to_vec(), false)],
            },
            5,
        ),
    ] {
        let mut far = far(1);
        if bytes == 5 {
            far.sent(&[response(1, false)]);
        }
        far.converter.take_counts();
        far.sent(&[message]);
        let counts = far.converter.take_counts();
        assert_eq!(counts.header_bytes_before, bytes);
        assert!(counts.header_bytes_after >= bytes, "{counts:?}");
    }
}

/// RFC 9113 section 8.7: refused, so it may be sent again.
#[test]
fn a_request_of_the_codec_above_the_limit_of_streams_is_refused() {
    let mut near = End::new(r#"{"role": "near", "limits": {"max_streams": 1}}"#);
    near.sent(&[settings(), request(1, true)]);
    near.peer(&[settings()]);
    near.sent(&[Owned::Ack]);
    let sent = near.sent(&[request(3, false), data(3, true, b"late")]);
    assert!(matches!(sent[..], [Sent::Ping(_)]), "{sent:?}");
    let refused = Owned::Reset { stream: 3, code: 7 };
    assert_eq!(near.pong(b"wsferry\0"), [refused, credit(None, 4)]);
}

#[test]
fn a_request_of_the_other_end_above_the_limit_of_streams_is_refused() {
    let mut far = End::new(r#"{"role": "far", "limits": {"max_streams": 1}}"#);
    far.peer(&[settings(), request(0, true)]);
    far.sent(&[settings(), Owned::Ack]);
    let told = far.peer(&[request(1, false), data(1, true, b"late")]);
    assert!(matches!(told[..], [Owned::Ping(_)]), "{told:?}");
    let refused = Sent::Message(Owned::Reset { stream: 1, code: 7 });
    assert_eq!(far.sent(&[]), [refused, Sent::Message(credit(None, 4))]);
}

#[test]
fn a_codec_that_speaks_of_a_stream_that_never_was_ends_the_connection() {
    let mut near = near();
    near.codec(&[request(3, true), data(5, true, b"")]);
    assert_eq!(closed_by(&near), Some(Error::Http2Protocol));
}

#[test]
fn a_reset_of_the_codec_ends_its_stream() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    let reset = |stream| Owned::Reset { stream, code: 8 };
    assert_eq!(near.sent(&[reset(1)]), [Sent::Message(reset(0))]);
    assert_eq!(near.converter.open_streams(), 0);
    assert_eq!(near.converter.take_counts().streams_reset, 1);
}

#[test]
fn one_ping_at_a_time_asks_the_codec_for_a_turn() {
    let mut near = near();
    let ping = |near: &mut End| near.websocket(&mut [0x89, 1, b'p']);
    assert!(matches!(ping(&mut near)[..], [Owned::Ping(_)]));
    assert_eq!(ping(&mut near), []);
    near.codec_answers_ping();
    assert!(matches!(ping(&mut near)[..], [Owned::Ping(_)]));
}

#[test]
fn one_ping_at_a_time_asks_the_other_end_for_a_turn() {
    let mut near = near();
    near.sent(&[request(1, false), request(3, false)]);
    near.peer(&[Owned::Reset { stream: 0, code: 8 }]);
    let late = |near: &mut End| near.sent(&[data(1, false, b"late")]);
    assert!(matches!(late(&mut near)[..], [Sent::Ping(_)]));
    assert_eq!(late(&mut near), []);
    near.pong(b"wsferry\0");
    assert!(matches!(late(&mut near)[..], [Sent::Ping(_)]));
}

/// The latest of several (RFC 6455 section 5.5.3), when the codec has its turn.
#[test]
fn a_ping_of_the_other_end_is_answered() {
    let mut near = near();
    near.websocket(&mut [0x89, 1, b'a']);
    near.websocket(&mut [0x89, 1, b'b']);
    assert_eq!(near.sent(&[]), [Sent::Pong(b"b".to_vec())]);
    assert_eq!(near.sent(&[]), []);
}

#[test]
fn malformed_trailers_reset_their_stream_on_both_sides() {
    let mut near = near();
    near.sent(&[request(1, false)]);
    let sent = near.http2(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x84]);
    let reset = |stream| Owned::Reset { stream, code: 1 };
    assert_eq!(near.read(&mut sent.clone())[0], Sent::Message(reset(0)));
    assert_eq!(near.pong(b"wsferry\0"), [reset(1)]);
    assert_eq!(near.converter.open_streams(), 0);
    let counts = near.converter.take_counts();
    assert_eq!((counts.streams_malformed, counts.streams_reset), (1, 1));
}

#[test]
fn a_codec_that_opens_a_stream_again_ends_the_connection() {
    let mut near = near();
    near.codec(&[request(1, true), request(1, true)]);
    assert_eq!(closed_by(&near), Some(Error::Http2Protocol));
}

#[test]
fn streams_opened_by_the_other_end_are_counted() {
    assert_eq!(far(2).converter.take_counts().streams_opened, 2);
}

#[test]
fn the_last_stream_of_a_goaway_is_the_one_before_the_first_that_is_refused() {
    for (requests, last, sent) in [(0, 0, 65_535), (2, 0, 65_535), (2, 1, 0), (2, 3, 1), (2, 5, 1)] {
        let mut far = far(requests);
        let expected = Sent::Message(goaway(Some(sent), 0));
        assert_eq!(
            far.sent(&[goaway(Some(last), 0)]),
            [expected],
            "{requests} {last}"
        );
    }
}

#[test]
fn the_last_stream_for_the_codec_is_the_last_that_is_open_and_covered() {
    for (requests, last, told) in [
        (0, 65_535, Some(0)),
        (0, 3, None),
        (2, 65_535, Some(0)),
        (2, 0, Some(1)),
        (2, 1, Some(3)),
        (2, 9, None),
    ] {
        let mut near = near();
        for number in 0..requests {
            near.sent(&[request(2 * number + 1, true)]);
        }
        let got = near.peer(&[goaway(Some(last), 0)]);
        assert_eq!(got, [goaway(told, 0)], "{requests} {last}");
    }
}

/// However much comes at once.
#[test]
fn no_message_is_larger_than_the_smallest_limit_of_a_receiver() {
    let mut near = near();
    let window = [credit(None, 1 << 30), Owned::Settings(vec![(4, 1 << 30)])];
    near.peer(&window);
    near.sent(&[Owned::Ack, request(1, false)]);
    near.converter.take_counts();
    let body = vec![0; 16_384];
    let sent = near.sent(&vec![data(1, false, &body); 200]);
    let bytes = |sent: &Sent| match sent {
        Sent::Message(Owned::Data { payload, .. }) => payload.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(sent.iter().map(bytes).sum::<usize>(), 200 * 16_384);
    assert_eq!(near.converter.take_counts().messages_out, 4);
}

/// Else the other end could make this one keep any number.
#[test]
fn answers_that_never_leave_end_the_connection() {
    let mut far = End::new(r#"{"role": "far", "limits": {"max_streams": 1}}"#);
    far.peer(&[settings(), request(0, true)]);
    for number in 1..10_000 {
        far.peer(&[request(number, true)]);
    }
    assert_eq!(closed_by(&far), Some(Error::ExcessiveLoad));
    // However much has left before.
    let mut far = End::new(r#"{"role": "far", "limits": {"max_streams": 1}}"#);
    far.peer(&[settings(), request(0, false)]);
    far.codec(&[settings(), Owned::Ack, response(1, false)]);
    assert!(far.codec(&vec![data(1, false, &[0; 16_384]); 10]).len() > 160_000);
    for number in 1..10_000 {
        far.peer(&[request(number, true)]);
    }
    assert_eq!(closed_by(&far), Some(Error::ExcessiveLoad));
}

#[test]
fn the_first_reason_for_an_end_is_the_one_that_counts() {
    let mut far = End::new(r#"{"role": "far", "limits": {"max_streams": 1}}"#);
    far.peer(&[settings()]);
    let requests: Vec<_> = (0..10_000).map(|number| request(number, true)).collect();
    let mut bytes = [far.peer_bytes(&requests), far.close_frame(1000)].concat();
    far.websocket(&mut bytes);
    let closed = far.converter.closed().unwrap();
    assert_eq!(
        (closed.code, closed.by, closed.error),
        (1000, Closer::OtherEnd, None)
    );
}

/// It may wait for the handshake.
#[test]
fn what_the_codec_said_is_no_answer_that_never_leaves() {
    let mut near = End::new(NEAR);
    let body = vec![data(1, false, &[0; 16_000]); 8];
    let bytes = near.codec_bytes(&[vec![settings(), request(1, false)], body].concat());
    near.converter.http2_input(&bytes, &mut NoKeys);
    assert!(near.converter.websocket_waiting() > 128_000);
    near.peer(&[settings()]);
    assert_eq!(near.converter.closed(), None);
}

#[test]
fn a_codec_without_streams_is_told_to_open_none_when_the_other_end_closes() {
    let mut near = near();
    let mut close = near.close_frame(1000);
    let told = near.websocket(&mut close);
    let expected = goaway(Some(0), http2_code::INTERNAL_ERROR);
    assert!(
        matches!(&told[..], [Owned::Ping(_), last] if *last == expected),
        "{told:?}"
    );
}

/// It would hang up before the Close frame is out, which says what was wrong.
#[test]
fn a_codec_without_streams_is_asked_for_a_turn_alone_when_this_end_closes() {
    let mut near = near();
    let told = near.websocket(&mut [0x81, 0x00]);
    assert!(matches!(told[..], [Owned::Ping(_)]), "{told:?}");
}

/// What it opened meanwhile can go elsewhere, and what waited for a handshake behind which something wrong came.
#[test]
fn a_codec_is_told_that_nothing_more_is_sent_once_the_close_is_out() {
    let mut near = near();
    near.websocket(&mut [0x81, 0x00]);
    assert_eq!(near.sent(&[request(1, true)]), [Sent::Close(Some(1003))]);
    let mut answer = near.close_frame(1003);
    let told = near.websocket(&mut answer);
    assert_eq!(told, [goaway(Some(0), http2_code::NO_ERROR)]);
    assert_eq!(near.websocket(&mut [0x89, 0]), [], "it is told once");
}

#[test]
fn a_codec_hears_what_was_never_sent_when_there_is_no_websocket() {
    let mut near = End::new(NEAR);
    near.codec(&[settings(), request(1, true)]);
    near.converter.refuse();
    let told = near.websocket(&mut []);
    let refused = Owned::Reset {
        stream: 1,
        code: http2_code::REFUSED_STREAM,
    };
    assert_eq!(told[1..], [refused, goaway(Some(0), http2_code::NO_ERROR)]);
    assert_eq!(near.converter.closed().map(|closed| closed.code), Some(1006));
}

#[test]
fn a_codec_hears_which_streams_ended_with_the_websocket() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    near.converter.websocket_end();
    let reset = Owned::Reset {
        stream: 1,
        code: http2_code::INTERNAL_ERROR,
    };
    assert_eq!(
        near.websocket(&mut []),
        [goaway(Some(1), http2_code::NO_ERROR), reset]
    );
}

#[test]
fn a_codec_that_hangs_up_has_closed() {
    for (mut end, code) in [(near(), 1000), (far(0), 1001)] {
        end.converter.http2_end(&mut NoKeys);
        let closed = end.converter.closed().map(|closed| (closed.code, closed.by));
        assert_eq!(closed, Some((code, Closer::ThisEnd)));
        let mut out = Vec::new();
        end.converter.take_websocket_output(&mut out);
        assert_eq!(end.read(&mut out), [Sent::Close(Some(code))]);
    }
}

/// Credit that is owed, a stream that was refused, and settings behind a handshake during which it hung up.
#[test]
fn nothing_is_written_to_a_codec_that_has_hung_up() {
    let left = |mut end: End| {
        end.converter.http2_end(&mut NoKeys);
        end.converter.begin();
        let mut out = Vec::new();
        end.converter.take_http2_output(&mut out);
        out
    };
    let mut owing = near();
    owing.sent(&[request(1, false)]);
    owing.peer(&[Owned::Reset { stream: 0, code: 8 }]);
    owing.sent(&[data(1, true, b"late")]);
    assert_eq!(left(owing), b"");
    let mut refusing = near();
    refusing.http2(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x84]);
    assert_eq!(left(refusing), b"");
    let mut beginning = End::new(NEAR);
    let mut first = beginning.peer_bytes(&[settings()]);
    beginning.converter.websocket_input(&mut first, &mut NoKeys);
    beginning.sent(&[settings(), request(1, true)]);
    assert_eq!(left(beginning), b"");
}

/// Its last stream is one of those that a server pushes.
#[test]
fn a_goaway_of_a_client_refuses_none_of_its_requests() {
    let mut near = near();
    near.sent(&[request(1, true), request(3, true)]);
    let sent = near.sent(&[goaway(Some(0), 0)]);
    assert!(sent.contains(&Sent::Message(goaway(None, 0))), "{sent:?}");
    assert_eq!(near.converter.open_streams(), 2);
}

#[test]
fn a_close_waits_for_its_turn() {
    let mut near = near();
    let mut close = near.close_frame(1000);
    near.websocket(&mut close);
    near.converter.take_websocket_output(&mut Vec::new());
    assert!(!near.converter.close_sent());
    assert_eq!(near.sent(&[]), [Sent::Close(Some(1000))]);
}

#[test]
fn a_turn_with_nothing_to_say_is_no_message() {
    let mut near = near();
    near.converter.take_counts();
    near.sent(&[]);
    assert_eq!(near.converter.take_counts().messages_out, 0);
}

#[test]
fn many_large_header_lists_at_once_make_no_message_too_large() {
    let mut near = near();
    let large = |stream| {
        let mut message = request(stream, true);
        if let Owned::Request { fields, .. } = &mut message {
            *fields = vec![(b"x".to_vec(), vec![b'v'; 45_000], true); 2];
        }
        message
    };
    let requests: Vec<_> = (0..24).map(|number| large(2 * number + 1)).collect();
    assert_eq!(near.sent(&requests).len(), 24);
    let long = |stream| {
        let mut message = request(stream, true);
        if let Owned::Request { path, authority, .. } = &mut message {
            // Each another one: none enters the table.
            *path = format!("/{stream:0>44999}").into_bytes();
            *authority = format!("{stream:0>45000}").into_bytes();
        }
        message
    };
    let requests: Vec<_> = (24..48).map(|number| long(2 * number + 1)).collect();
    assert_eq!(near.sent(&requests).len(), 24);
}

/// The other end may answer the latest Ping alone. What has to be said would wait for ever behind one that looks like it.
#[test]
fn a_turn_is_asked_for_again_after_a_ping_that_looks_like_one_before() {
    let mut near = End::new(r#"{"role": "near", "limits": {"max_streams": 1}}"#);
    near.codec(&[settings()]);
    near.peer(&[settings(), Owned::Ack]);
    near.codec(&[Owned::Ack, request(1, false)]);
    near.codec_ping([7; 8]);
    near.codec(&[request(3, true)]);
    near.codec_ping([7; 8]);
    near.pong(&[7; 8]);
    assert_ne!(near.codec(&[request(5, true)]), b"");
}

/// The last interim status that there is.
#[test]
fn a_status_below_200_is_no_final_one() {
    let interim = |stream| Owned::Response {
        stream,
        end: false,
        status: 199,
        fields: vec![],
    };
    let mut near = near();
    near.sent(&[request(1, true)]);
    assert_eq!(
        near.peer(&[interim(0), response(0, true)]),
        [interim(1), response(1, true)]
    );
    let mut far = far(1);
    assert_eq!(
        far.sent(&[interim(1), response(1, true)]),
        [Sent::Message(interim(0)), Sent::Message(response(0, true))]
    );
}

/// As PROTOCOL.md section 11 has it: the stream's code is the error's.
#[test]
fn streams_that_an_error_of_the_other_end_ends_are_reset_with_its_code() {
    let code = http2_code::PROTOCOL_ERROR;
    let mut far = far(3);
    let told = far.peer(&[data(9, false, b"of no stream")]);
    let resets = [1, 3, 5].map(|stream| Owned::Reset { stream, code });
    assert!(told.ends_with(&resets), "{told:?}");
    assert_eq!(closed_by(&far), Some(Error::UnknownStream));

    // A client hears it when the other end has answered, and until then that no more streams are taken.
    let mut near = near();
    near.sent(&[request(1, true)]);
    let told = near.peer(&[data(9, false, b"of no stream")]);
    assert!(told.contains(&goaway(Some(1), code)), "{told:?}");
    assert!(!told.contains(&Owned::Reset { stream: 1, code }), "{told:?}");
    // What comes before the answer counts no more.
    assert_eq!(near.peer(&[response(0, true)]), []);
    assert_eq!(near.sent(&[]), [Sent::Close(Some(1002))]);
    let mut answer = near.close_frame(1002);
    assert_eq!(near.websocket(&mut answer), [Owned::Reset { stream: 1, code }]);
}

/// RFC 9113 section 3.4: whatever comes first from the other end, the codec gets settings first.
#[test]
fn a_ping_that_is_answered_before_settings_came_is_answered_behind_settings() {
    let mut near = End::new(NEAR);
    near.sent(&[settings()]);
    near.codec_ping([1; 8]);
    let told = near.pong(&[1; 8]);
    assert!(
        matches!(told[..], [Owned::Settings(_), Owned::PingAck([1, ..])]),
        "{told:?}"
    );
}

/// A near end makes the requests.
#[test]
fn a_request_of_a_far_end_is_out_of_place() {
    let mut near = near();
    near.peer(&[request(0, true)]);
    assert_eq!(closed_by(&near), Some(Error::StreamState));
    assert_eq!(near.converter.open_streams(), 0);
}

/// Whatever the order in which they lie in memory.
#[test]
fn streams_are_reset_in_the_order_of_opening() {
    let mut far = far(100);
    far.converter.websocket_end();
    let streams: Vec<_> = far
        .websocket(&mut [])
        .into_iter()
        .map(|message| match message {
            Owned::Reset { stream, .. } => stream,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(streams, (0..100).map(|number| 2 * number + 1).collect::<Vec<_>>());
}

/// However many bytes the stream's number takes.
#[test]
fn the_end_of_a_body_travels_with_its_last_data_on_any_stream() {
    let mut near = near();
    for number in 0..=256 {
        near.sent(&[request(2 * number + 1, false)]);
    }
    for number in [0, 23, 24, 255, 256] {
        let stream = 2 * number + 1;
        assert_eq!(
            near.sent(&[data(stream, false, b"body"), data(stream, true, b"")]),
            [Sent::Message(data(number, true, b"body"))]
        );
    }
}
