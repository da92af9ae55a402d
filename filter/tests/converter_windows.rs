//! Settings, windows, what is given back to them, and the numbers of streams.
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

use converter::{End, FAR, NEAR, Sent, closed_by, credit, data, far, near, request, response, settings};
use owned::Owned;
use wsferry::Error;

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

/// The codec has nothing to answer otherwise, and what waits for the other end could never leave.
#[test]
fn a_codec_that_has_got_nothing_gets_settings_once() {
    let mut far = End::new(FAR);
    far.converter.begin();
    far.converter.begin();
    assert_eq!(far.websocket(&mut []), [Owned::Settings(vec![(2, 0)])]);
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

/// At either end the smaller of its own limit and the server's, also where settings don't mention it (again).
#[test]
fn a_client_is_told_how_many_streams_an_end_takes() {
    let limited = |role: &str| {
        End::new(&format!(
            r#"{{"role": "{role}", "limits": {{"max_streams": 8}}}}"#
        ))
    };
    let streams = |settings: &Owned| {
        let Owned::Settings(entries) = settings else {
            panic!("{settings:?}");
        };
        entries.iter().find(|(id, _)| *id == 3).map(|(_, value)| *value)
    };
    let (mut near, mut far) = (limited("near"), limited("far"));
    for (server, told) in [(None, 8), (Some(100), 8), (Some(5), 5), (None, 5)] {
        let of_server = Owned::Settings(server.map(|value| (3, value)).into_iter().collect());
        let got = near.peer(std::slice::from_ref(&of_server));
        assert_eq!(got.iter().filter_map(streams).next(), Some(told), "{server:?}");
        let [Sent::Message(sent)] = &far.sent(&[of_server])[..] else {
            panic!("settings alone");
        };
        assert_eq!(streams(sent), Some(told), "{server:?}");
    }
    // What a client tells is of pushed streams.
    let of_client = Owned::Settings(vec![(3, 100)]);
    let [Sent::Message(sent)] = &near.sent(std::slice::from_ref(&of_client))[..] else {
        panic!("settings alone");
    };
    assert_eq!(streams(sent), Some(100));
    assert_eq!(
        far.peer(&[of_client]).iter().filter_map(streams).next(),
        Some(100)
    );
}

/// What HTTP/2 allows in the first settings alone, like 9 (RFC 9218), would come too late, and a codec takes 32.
#[test]
fn settings_that_are_not_of_the_protocol_stay_here() {
    let mut far = End::new(FAR);
    let all = (2..=9).chain(232..=255).filter(|id| *id != 5);
    let told = far.peer(&[Owned::Settings(all.map(|id| (id, 1)).collect())]);
    let Some(Owned::Settings(got)) = told.iter().find(|message| matches!(message, Owned::Settings(_))) else {
        panic!("{told:?}");
    };
    let mut ids: Vec<_> = got.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [2, 3, 4, 6, 8]);
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
fn credit_for_a_stream_that_is_gone_is_for_nobody() {
    let mut near = near();
    near.sent(&[request(1, false), Owned::Reset { stream: 1, code: 8 }]);
    assert_eq!(near.peer(&[credit(Some(0), 10)]), []);
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

/// RFC 8441 section 3: what was said may be said again, but not taken back.
#[test]
fn extended_connect_is_announced_for_good() {
    let mut near = near();
    for value in [0, 0, 1, 1] {
        near.peer(&[Owned::Settings(vec![(8, value)])]);
        assert_eq!(closed_by(&near), None, "{value}");
    }
    near.peer(&[Owned::Settings(vec![(8, 0)])]);
    assert_eq!(closed_by(&near), Some(Error::InvalidSetting));
}
