//! What the writer writes, the reader reads: random messages, cut anywhere.

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

use http2_support::{Line, Owned, merge, read, read_all, write};
use proptest::collection::vec;
use proptest::prelude::*;
use wsferry::config::Limits;
use wsferry::http2::{Reader, Sender, Writer};
use wsferry::message::Settings;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(vec!["cookie", "content-type", "etag", "x-request-id", "grpc-status"])
            .prop_map(|name| name.as_bytes().to_vec()),
        1 => "[a-z0-9!#$%&'*+.^_`|~-]{1,40}".prop_map(String::into_bytes),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no NUL, CR, LF", |byte| ![0, b'\r', b'\n'].contains(byte));
    prop_oneof![
        3 => prop::sample::select(vec!["", "a", "application/grpc", "gzip, deflate"])
            .prop_map(|value| value.as_bytes().to_vec()),
        2 => vec(byte.clone(), 0..80),
        1 => vec(byte, 400..3_000),
    ]
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    vec((name(), value(), prop::bool::weighted(0.1)), 0..12)
}

fn stream() -> impl Strategy<Value = u32> {
    (0_u32..1 << 30).prop_map(|n| 2 * n + 1)
}

fn request() -> impl Strategy<Value = Owned> {
    let part = || prop_oneof![Just(Vec::new()), "[!-~]{1,60}".prop_map(String::into_bytes)];
    let scheme = prop_oneof![Just(String::new()), "[a-z][a-z0-9+.-]{0,8}"].prop_map(String::into_bytes);
    let method = prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), "[A-Z]{1,12}"];
    (
        stream(),
        any::<bool>(),
        method,
        (scheme, part(), part()),
        prop::option::weighted(0.1, "[a-z]{1,12}"),
        lines(),
    )
        .prop_map(
            |(stream, end, method, (scheme, authority, path), protocol, fields)| Owned::Request {
                stream,
                end,
                method: method.into_bytes(),
                scheme,
                authority,
                path,
                protocol: protocol.map(String::into_bytes),
                fields,
            },
        )
}

fn response() -> impl Strategy<Value = Owned> {
    (stream(), any::<bool>(), 100_u16..600, lines()).prop_map(|(stream, end, status, fields)| {
        Owned::Response {
            stream,
            end,
            status,
            fields,
        }
    })
}

fn common() -> impl Strategy<Value = Owned> {
    let credit = (prop::option::of(stream()), 1_u32..1 << 31);
    let settings = (
        any::<u32>(),
        Just(0_u32),
        any::<u32>(),
        0_u32..1 << 31,
        16_384_u32..1 << 24,
    );
    let payload = prop_oneof![4 => vec(any::<u8>(), 0..300), 1 => vec(any::<u8>(), 16_000..70_000)];
    prop_oneof![
        4 => (stream(), any::<bool>(), payload).prop_map(|(stream, end, payload)| Owned::Data {
            stream, end, payload }),
        1 => (stream(), lines()).prop_map(|(stream, fields)| Owned::Trailers { stream, fields }),
        1 => (stream(), any::<u32>()).prop_map(|(stream, code)| Owned::Reset { stream, code }),
        1 => credit.prop_map(|(stream, bytes)| Owned::Credit { stream, bytes }),
        1 => settings.prop_map(|(table, push, streams, window, frame)| Owned::Settings(
            vec![(1, table), (2, push), (3, streams), (4, window), (5, frame), (6, table), (8, 1)])),
        1 => Just(Owned::Ack),
        1 => (prop::option::of(0_u32..(1 << 31) - 1), any::<u32>())
            .prop_map(|(last, code)| Owned::Goaway { last, code }),
        1 => any::<[u8; 8]>().prop_map(Owned::Ping),
        1 => any::<[u8; 8]>().prop_map(Owned::PingAck),
    ]
}

/// A direction: whose it is, and what it says.
fn direction() -> impl Strategy<Value = (Sender, Vec<Owned>)> {
    prop_oneof![
        vec(prop_oneof![2 => request(), 3 => common()], 0..25).prop_map(|list| (Sender::Client, list)),
        vec(prop_oneof![2 => response(), 3 => common()], 0..25).prop_map(|list| (Sender::Server, list)),
    ]
}

/// What the writer leaves out: an empty piece that ends nothing.
fn is_nothing(event: &Owned) -> bool {
    matches!(event, Owned::Data { end: false, payload, .. } if payload.is_empty())
}

fn expected(events: &[Owned]) -> Vec<Owned> {
    merge(
        events
            .iter()
            .filter(|event| !is_nothing(event))
            .cloned()
            .collect(),
    )
}

fn written(sender: Sender, events: &[Owned], table: u32) -> Vec<u8> {
    let mut writer = Writer::new(sender);
    let mut out = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if index % 5 == 3 {
            let mut settings = Settings::new();
            settings.set(
                Settings::HEADER_TABLE_SIZE,
                table.wrapping_mul(index as u32) % 4_097,
            );
            writer.apply_settings(&settings);
        }
        write(&mut writer, event, &mut out);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read((sender, events) in direction(), table in any::<u32>()) {
        let bytes = written(sender, &events, table);
        let (read, error) = read_all(sender, &bytes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(merge(read), expected(&events));
    }

    #[test]
    fn cuts_make_no_difference(
        (sender, events) in direction(),
        sizes in vec(prop_oneof![1_usize..12, 1_usize..5_000], 1..40),
    ) {
        let bytes = written(sender, &events, 4_096);
        let mut reader = Reader::new(sender, &Limits::default());
        let mut all = Vec::new();
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            let (events, error) = read(&mut reader, chunk);
            prop_assert_eq!(error, None);
            all.extend(events);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(merge(all), expected(&events));
    }
}
