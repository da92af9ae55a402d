//! Random messages.

use proptest::collection::vec;
use proptest::prelude::*;
use wsferry::http2::{Sender, Writer};
use wsferry::message::Settings;

use super::{Owned, OwnedField, write};

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

fn lines() -> impl Strategy<Value = Vec<OwnedField>> {
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
    (
        stream(),
        any::<bool>(),
        (100_u16..1000).prop_filter("in HTTP/2", |status| *status != 101),
        lines(),
    )
        .prop_map(|(stream, end, status, fields)| Owned::Response {
            stream,
            end,
            status,
            fields,
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
pub fn direction() -> impl Strategy<Value = (Sender, Vec<Owned>)> {
    prop_oneof![
        vec(prop_oneof![2 => request(), 3 => common()], 0..25).prop_map(|list| (Sender::Client, list)),
        vec(prop_oneof![2 => response(), 3 => common()], 0..25).prop_map(|list| (Sender::Server, list)),
    ]
}

/// The bytes of `events` after empty SETTINGS, with some changes of the table's size among them.
pub fn written(sender: Sender, events: &[Owned], table: u32) -> Vec<u8> {
    let mut writer = Writer::new(sender);
    let mut out = Vec::new();
    write(&mut writer, &Owned::Settings(vec![]), &mut out);
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
