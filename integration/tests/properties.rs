//! Random HTTP/2 traffic over the native converters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use integration::chunking::Chunking;
use integration::end::{NativeEnd, Transparent};
use integration::pair::Joint;
use integration::suite::{FAR, NEAR};
use integration::traffic::{Exchange, Message, Plan, Windows, check};
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>, bool)>> {
    let name = prop_oneof![
        // Names that come again and again, names that don't.
        prop::sample::select(vec![
            "x-a",
            "cookie",
            "set-cookie",
            "accept",
            "date",
            "x-request-id"
        ])
        .prop_map(str::to_owned),
        "x-[a-z0-9]{1,40}",
    ];
    let value = prop_oneof![
        prop::sample::select(vec![
            "",
            "0",
            "42",
            "007",
            "gzip, deflate",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
        "[!-~]{1,30}".prop_map(String::into_bytes),
        vec(0x80u8..=0xff, 1..20),
        "[a-z]{500,3000}".prop_map(String::into_bytes),
    ];
    vec((name, value, prop::bool::weighted(0.1)), 0..8)
}

fn body() -> impl Strategy<Value = Option<Vec<(usize, u64)>>> {
    let length = prop_oneof![Just(0usize), 1usize..200, 1usize..20_000, 1usize..150_000];
    // An empty piece in the middle would be an empty frame, which Envoy's codecs don't send.
    let piece = (length, prop_oneof![3 => Just(0u64), 1 => 0u64..50]);
    weighted(0.8, vec(piece, 0..4)).prop_map(|body| {
        body.map(|mut pieces: Vec<(usize, u64)>| {
            pieces.retain(|piece| piece.0 > 0);
            pieces
        })
    })
}

fn message() -> impl Strategy<Value = Message> {
    let pause = prop_oneof![4 => Just(0u64), 1 => 0u64..20];
    (fields(), body(), of(fields()), pause).prop_map(|(fields, body, trailers, read_pause)| Message {
        fields,
        trailers: trailers.filter(|trailers| body.is_some() && !trailers.is_empty()),
        body,
        read_pause,
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"]);
    let code = prop::sample::select(vec![1u32, 2, 7, 8, 11, 0x77]);
    (
        prop_oneof![Just(0u64), 0u64..60],
        method,
        "/[a-z0-9/]{0,40}(\\?[a-z=&%0-9]{0,30})?",
        message(),
        vec(prop::sample::select(vec![100u16, 102, 103]), 0..3),
        prop::sample::select(vec![200u16, 201, 302, 404, 418, 500]),
        message(),
        any::<bool>(),
        weighted(0.3, (any::<bool>(), 0u64..80, code)),
    )
        .prop_map(
            |(at, method, path, request, interim, status, response, after_request, reset)| Exchange {
                at,
                method: method.to_owned(),
                path,
                request,
                interim,
                status,
                response,
                after_request,
                reset,
            },
        )
}

fn windows() -> impl Strategy<Value = Windows> {
    (
        // Smaller windows still make a round trip of every few bytes, and minutes of a plan with large bodies.
        prop_oneof![Just(65_535u32), 64u32..2_000, 0x1_0000u32..0x10_0000],
        prop_oneof![Just(65_535u32), 65_535u32..0x20_0000],
        prop_oneof![Just(16_384u32), 16_384u32..100_000],
        prop_oneof![Just(4_096u32), Just(0u32), 0u32..20_000],
    )
        .prop_map(|(stream, connection, frame, table)| Windows {
            stream,
            connection,
            frame,
            table,
        })
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        windows(),
        windows(),
        weighted(0.3, 1u32..10),
        vec(exchange(), 1..30),
        weighted(0.2, 0u64..80),
        vec(0u64..40, 0..4),
    )
        .prop_map(
            |(client, server, max_streams, exchanges, goaway_at, pings)| Plan {
                client,
                server,
                max_streams,
                exchanges,
                goaway_at,
                pings,
            },
        )
}

fn chunking() -> impl Strategy<Value = Chunking> {
    prop_oneof![
        3 => Just(Chunking::AsIs),
        3 => any::<u64>().prop_map(Chunking::random),
    ]
}

/// The same plans each time, so that a run fails for what has changed; `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` ask for others and for more.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            default.cases
        } else {
            cases
        },
        rng_seed: match default.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            asked => asked,
        },
        ..default
    }
}

fn native() -> (NativeEnd, NativeEnd) {
    (NativeEnd::new(NEAR), NativeEnd::new(FAR))
}

proptest! {
    #![proptest_config(config(16))]

    /// The plans themselves: what h2 doesn't do alone, converters needn't do.
    #[test]
    fn traffic_arrives_without_converters(plan in plan(), chunking in chunking()) {
        check(&plan, Transparent, Transparent, &Joint { chunking, record: false });
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn traffic_arrives_as_it_was_sent(plan in plan(), chunking in chunking()) {
        let (near, far) = native();
        check(&plan, near, far, &Joint { chunking, record: false });
    }
}
