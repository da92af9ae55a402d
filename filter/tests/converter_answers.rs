//! What a converter says that neither side said: answers, credit, refusals. And what it counts.
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

use converter::{End, NoKeys, Sent, data, request, response, settings};
use owned::Owned;
use wsferry::Error;
use wsferry::converter::{Closer, Counts};
use wsferry::error::http2_code;

const NEAR: &str = r#"{"role": "near"}"#;
const FAR: &str = r#"{"role": "far"}"#;

fn credit(stream: Option<u32>, bytes: u32) -> Owned {
    Owned::Credit { stream, bytes }
}

fn goaway(last: Option<u32>, code: u32) -> Owned {
    Owned::Goaway { last, code }
}

fn closed_by(end: &End) -> Option<Error> {
    end.converter.closed().and_then(|closed| closed.error)
}

/// A near end with the settings of both sides behind it.
fn near() -> End {
    let mut near = End::new(NEAR);
    near.sent(&[settings()]);
    near.peer(&[settings(), Owned::Ack]);
    near.sent(&[Owned::Ack]);
    near
}

/// A far end with the settings of both sides behind it, and these requests open.
fn far(requests: u32) -> End {
    let mut far = End::new(FAR);
    far.peer(&[settings()]);
    far.sent(&[settings(), Owned::Ack]);
    far.peer(&[Owned::Ack]);
    for stream in 0..requests {
        far.peer(&[request(stream, true)]);
    }
    far
}

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

#[test]
fn sixteen_settings_of_the_codec_may_be_without_answer() {
    let mut near = End::new(NEAR);
    near.codec(&vec![settings(); 16]);
    assert_eq!(near.converter.closed(), None);
    near.codec(&[settings()]);
    assert_eq!(closed_by(&near), Some(Error::Http2Protocol));
}

#[test]
fn a_seventeenth_settings_of_the_other_end_without_answer_closes() {
    let mut far = End::new(FAR);
    far.peer(&vec![settings(); 17]);
    assert_eq!(closed_by(&far), Some(Error::ExcessiveLoad));
}

#[test]
fn a_smaller_window_counts_when_its_own_settings_are_acknowledged() {
    for (bytes, error) in [(1000, None), (1001, Some(Error::WindowOverrun))] {
        let mut near = End::new(NEAR);
        let window = |bytes| Owned::Settings(vec![(4, bytes)]);
        near.codec(&[window(50_000), window(1000), request(1, true)]);
        near.peer(&[settings(), Owned::Ack, response(0, false), Owned::Ack]);
        near.peer(&[data(0, false, &vec![0; bytes])]);
        assert_eq!(closed_by(&near), error, "{bytes} bytes");
    }
}

/// The codec can't: it never sees them.
#[test]
fn data_of_a_stream_that_is_gone_is_given_back_to_the_other_end() {
    let mut near = near();
    near.sent(&[request(1, true), Owned::Reset { stream: 1, code: 8 }]);
    for bytes in [1, 300] {
        let told = near.peer(&[data(0, false, &vec![0; bytes as usize]), data(0, false, b"")]);
        assert!(matches!(told[..], [Owned::Ping(_)]), "{told:?}");
        assert_eq!(near.codec_answers_ping(), [Sent::Message(credit(None, bytes))]);
    }
}

/// The other end can't: it never sees them.
#[test]
fn data_of_a_stream_that_is_gone_is_given_back_to_the_codec() {
    let mut near = near();
    near.sent(&[request(1, false)]);
    near.peer(&[Owned::Reset { stream: 0, code: 8 }]);
    for bytes in [1, 300] {
        let sent = near.sent(&[data(1, false, &vec![0; bytes as usize]), data(1, false, b"")]);
        assert!(matches!(sent[..], [Sent::Ping(_)]), "{sent:?}");
        assert_eq!(near.pong(b"wsferry\0"), [credit(None, bytes)]);
    }
}

#[test]
fn padding_is_given_back_to_its_stream_and_the_connection() {
    let mut near = near();
    near.sent(&[request(1, false)]);
    near.http2(&[0, 0, 4, 0, 8, 0, 0, 0, 1, 2, b'x', 0, 0]);
    assert_eq!(near.pong(b"wsferry\0"), [credit(Some(1), 3), credit(None, 3)]);
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

/// The codec has nothing to answer otherwise, and what waits for the other end could never leave.
#[test]
fn a_codec_that_has_got_nothing_gets_settings_once() {
    let mut far = End::new(FAR);
    far.converter.begin();
    far.converter.begin();
    assert_eq!(far.websocket(&mut []), [Owned::Settings(vec![(2, 0)])]);
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
fn credit_of_the_codec_crosses_and_counts() {
    for (bytes, error) in [(65_545, None), (65_546, Some(Error::WindowOverrun))] {
        for (stream, wire, rest) in [(Some(1), Some(0), None), (None, None, Some(1))] {
            let mut near = near();
            near.sent(&[request(1, true)]);
            let rest = credit(rest, 1 << 20);
            let sent = near.sent(&[credit(stream, 10), rest]);
            assert_eq!(sent[0], Sent::Message(credit(wire, 10)));
            near.peer(&[response(0, false), data(0, false, &vec![0; bytes])]);
            assert_eq!(closed_by(&near), error, "{stream:?} {bytes}");
        }
    }
}

#[test]
fn credit_of_the_other_end_reaches_the_codec() {
    let mut near = near();
    near.sent(&[request(1, false)]);
    let told = near.peer(&[credit(Some(0), 10), credit(None, 20)]);
    assert_eq!(told, [credit(Some(1), 10), credit(None, 20)]);
}

#[test]
fn a_larger_window_counts_before_it_is_acknowledged() {
    let mut near = near();
    let window = Owned::Settings(vec![(4, 100_000)]);
    near.sent(&[request(1, true), credit(None, 1 << 20), window]);
    near.peer(&[response(0, false), data(0, false, &[0; 100_000])]);
    assert_eq!(near.converter.closed(), None);
}

/// 1 and 5 are of one hop; the smaller of two limits of header lists holds.
#[test]
fn settings_of_the_codec_cross_without_those_of_one_hop() {
    for (codec, sent) in [(50_000, 50_000), (98_304, 98_304), (100_000, 98_304)] {
        let mut near = End::new(NEAR);
        let of_codec = Owned::Settings(vec![(1, 0), (3, 7), (5, 20_000), (6, codec)]);
        let expected = Owned::Settings(vec![(3, 7), (6, sent)]);
        assert_eq!(near.sent(&[of_codec]), [Sent::Message(expected)]);
    }
}

#[test]
fn settings_of_the_other_end_reach_the_codec_without_those_of_one_hop() {
    for (peer, told) in [(50_000, 50_000), (100_000, 98_304)] {
        let mut far = End::new(FAR);
        let of_peer = Owned::Settings(vec![(1, 0), (3, 7), (5, 20_000), (6, peer)]);
        let expected = Owned::Settings(vec![(3, 7), (6, told), (2, 0)]);
        assert_eq!(far.peer(&[of_peer]), [expected]);
    }
}

/// Below 256 they are HTTP/2's, known here or not.
#[test]
fn settings_that_are_no_http2_stay_here() {
    let mut far = End::new(FAR);
    let mut bytes = far.peer_bytes(&[Owned::Settings(vec![(255, 1), (256, 2)])]);
    far.converter.websocket_input(&mut bytes, &mut NoKeys);
    let mut told = vec![];
    far.converter.take_http2_output(&mut told);
    let has = |setting: [u8; 6]| told.windows(6).any(|bytes| bytes == setting);
    assert!(has([0, 255, 0, 0, 0, 1]) && !has([1, 0, 0, 0, 0, 2]), "{told:?}");
}

/// The converter's own settings are nobody else's.
#[test]
fn only_settings_of_the_other_end_are_acknowledged_to_it() {
    let mut far = End::new(FAR);
    far.converter.begin();
    far.peer(&[settings()]);
    far.sent(&[settings()]);
    assert_eq!(far.sent(&[Owned::Ack]), []);
    assert_eq!(far.sent(&[Owned::Ack]), [Sent::Message(Owned::Ack)]);
    far.sent(&[Owned::Ack]);
    assert_eq!(closed_by(&far), Some(Error::Http2Protocol));
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
fn credit_for_a_stream_that_is_gone_is_for_nobody() {
    let mut near = near();
    near.sent(&[request(1, false), Owned::Reset { stream: 1, code: 8 }]);
    assert_eq!(near.peer(&[credit(Some(0), 10)]), []);
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

/// A number is left out as long as it is in use.
#[test]
fn numbers_of_streams_begin_again_behind_those_in_use() {
    let mut near = near();
    near.codec(&[request(1, true)]);
    for batch in 0..256_u32 {
        let streams = (batch * 256..batch * 256 + 256).skip(usize::from(batch == 0));
        let messages: Vec<_> = streams
            .map(|number| 2 * number + 1)
            .flat_map(|stream| [request(stream, true), Owned::Reset { stream, code: 8 }])
            .collect();
        near.codec(&messages);
        near.websocket(&mut []);
    }
    near.codec(&[request(2 * 65_536 + 1, true)]);
    let told = near.peer(&[response(0, true), response(1, true)]);
    assert_eq!(told[..2], [response(1, true), response(2 * 65_536 + 1, true)]);
}

#[test]
fn a_number_in_use_is_no_new_stream_however_the_numbers_went_on() {
    for (numbers, error) in [
        (vec![0, 1, 2, 0], Some(Error::StreamInUse)),
        (vec![2, 2], Some(Error::StreamInUse)),
        (vec![7, 3, 65_535, 0], None),
    ] {
        let mut far = far(0);
        for number in &numbers {
            far.peer(&[request(*number, true)]);
        }
        assert_eq!(closed_by(&far), error, "{numbers:?}");
    }
}

#[test]
fn a_refused_request_uses_its_number_up() {
    let mut far = End::new(r#"{"role": "far", "limits": {"max_streams": 1}}"#);
    far.peer(&[settings(), request(0, true), request(1, true), request(1, true)]);
    assert_eq!(closed_by(&far), Some(Error::StreamInUse));
}

/// A window that was made smaller may be negative (RFC 9113 section 6.9.2).
#[test]
fn empty_data_fits_a_negative_window() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    near.peer(&[response(0, false), data(0, false, &[0; 60_000])]);
    near.sent(&[Owned::Settings(vec![(4, 1000)])]);
    let told = near.peer(&[Owned::Ack, data(0, true, b"")]);
    assert_eq!(told, [Owned::Ack, data(1, true, b"")]);
}

/// 2^31 - 1 is the most (RFC 9113 section 6.9.1); what was sent makes room.
#[test]
fn credit_that_takes_a_window_above_the_largest_closes() {
    const ROOM: u32 = 0x7fff_ffff - 65_535;
    for stream in [Some(0), None] {
        for (sent, bytes, error) in [
            (0, ROOM, None),
            (0, ROOM + 1, Some(Error::InvalidCredit)),
            (5, ROOM + 5, None),
            (5, ROOM + 6, Some(Error::InvalidCredit)),
        ] {
            let mut near = near();
            near.sent(&[request(1, false), data(1, false, &vec![0; sent])]);
            near.peer(&[credit(stream, bytes)]);
            assert_eq!(closed_by(&near), error, "{stream:?} {sent} {bytes}");
        }
    }
}

#[test]
fn settings_that_take_a_window_above_the_largest_close() {
    const ROOM: u32 = 0x7fff_ffff - 65_535;
    for (window, error) in [(65_535 + 9, None), (65_535 + 10, Some(Error::InvalidCredit))] {
        let mut near = near();
        near.sent(&[request(1, false)]);
        near.peer(&[credit(Some(0), ROOM - 9), Owned::Settings(vec![(4, window)])]);
        assert_eq!(closed_by(&near), error, "{window}");
    }
}

#[test]
fn new_streams_begin_with_the_window_of_the_settings() {
    for (bytes, error) in [
        (0x7fff_ffff - 70_000, None),
        (0x7fff_ffff - 69_999, Some(Error::InvalidCredit)),
    ] {
        let mut near = near();
        near.peer(&[Owned::Settings(vec![(4, 70_000)])]);
        near.sent(&[Owned::Ack, request(1, false)]);
        near.peer(&[credit(Some(0), bytes)]);
        assert_eq!(closed_by(&near), error, "{bytes}");
    }
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
    for (requests, last, told) in [(0, 65_535, 0), (0, 3, 0), (2, 65_535, 0), (2, 0, 1), (2, 1, 3)] {
        let mut near = near();
        for number in 0..requests {
            near.sent(&[request(2 * number + 1, true)]);
        }
        let got = near.peer(&[goaway(Some(last), 0)]);
        assert_eq!(got, [goaway(Some(told), 0)], "{requests} {last}");
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
fn data_of_an_open_stream_is_given_back_by_nobody_but_the_codec() {
    let mut near = near();
    near.sent(&[request(1, true)]);
    near.peer(&[response(0, false), data(0, false, &[0; 300])]);
    assert_eq!(near.sent(&[]), []);
}

#[test]
fn data_of_streams_that_are_gone_may_go_on_for_ever() {
    let mut near = near();
    near.sent(&[request(1, true), Owned::Reset { stream: 1, code: 8 }]);
    for _ in 0..5 {
        near.peer(&[data(0, false, &[0; 30_000])]);
        near.sent(&[]);
    }
    assert_eq!(near.converter.closed(), None);
}

#[test]
fn a_smaller_window_does_not_count_before_it_is_acknowledged() {
    let mut near = near();
    near.sent(&[request(1, true), Owned::Settings(vec![(4, 1000)])]);
    near.peer(&[response(0, false), data(0, false, &[0; 60_000])]);
    assert_eq!(near.converter.closed(), None);
}

#[test]
fn a_codec_without_streams_is_asked_for_a_turn_and_told_nothing_when_the_other_end_closes() {
    let mut near = near();
    let mut close = near.close_frame(1000);
    let told = near.websocket(&mut close);
    assert!(matches!(told[..], [Owned::Ping(_)]), "{told:?}");
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
}
