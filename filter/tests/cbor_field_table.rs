//! What enters the field table, what doesn't, and what it costs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod cbor;
mod hex;

use std::sync::Arc;

use cbor::traffic::Traffic;
use cbor::{Model, Owned, OwnedField, assert_same, decode_all, http_date};
use ciborium::Value;
use hex::hex;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use wsferry::Error;
use wsferry::cbor::{Decoder, Encoder};
use wsferry::config::{Credentials, FieldPolicy, Limits};

/// An encoder, the decoder at its other end, and the model beside it.
struct Pair {
    encoder: Encoder,
    decoder: Decoder,
    model: Model,
}

impl Pair {
    fn new(policy: FieldPolicy) -> Self {
        Self {
            encoder: Encoder::new(&Arc::new(policy)),
            decoder: Decoder::new(&Limits::default()),
            model: Model::default(),
        }
    }

    /// Carries a message and returns its CBOR.
    fn carry(&mut self, message: &Owned) -> Vec<u8> {
        let bytes = message.encode(&mut self.encoder);
        let received = decode_all(&mut self.decoder, &bytes).unwrap();
        assert_eq!(received.len(), 1);
        assert_same(message, &received[0]);
        assert_eq!(self.model.decode(&bytes), received);
        bytes
    }

    fn field(&mut self, name: &str, value: &str, sensitive: bool) -> Vec<u8> {
        self.carry(&Owned::Trailers {
            stream: 0,
            fields: vec![(name.as_bytes().to_vec(), value.as_bytes().to_vec(), sensitive)],
        })
    }

    /// Carries a request and returns the item of its path.
    fn path(&mut self, path: &str) -> Value {
        let bytes = self.carry(&request(path, Vec::new()));
        let message: Value = ciborium::from_reader(&bytes[..]).unwrap();
        message.as_array().unwrap()[6].clone()
    }

    fn authority(&mut self, authority: &[u8]) {
        let mut sent = request("/", Vec::new());
        if let Owned::Request { authority: value, .. } = &mut sent {
            *value = authority.to_vec();
        }
        self.carry(&sent);
    }

    fn holds(&self, secret: &[u8]) -> bool {
        self.model
            .entries
            .iter()
            .any(|(_, _, value)| contains(value, secret))
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn request(path: &str, fields: Vec<OwnedField>) -> Owned {
    Owned::Request {
        stream: 0,
        end: true,
        method: b"GET".to_vec(),
        scheme: b"https".to_vec(),
        authority: b"example.org".to_vec(),
        path: path.as_bytes().to_vec(),
        protocol: None,
        fields,
    }
}

#[test]
fn credentials_never_enter() {
    let mut pair = Pair::new(FieldPolicy::new(Credentials::None, ["x-api-key"]));
    let names = [
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
    ];
    for name in names {
        let secret = format!("secret of {name}");
        for _ in 0..20 {
            let bytes = pair.field(name, &secret, false);
            assert!(
                contains(&bytes, secret.as_bytes()),
                "{name} is spelt out each time"
            );
        }
        // What looks like a number travels as bytes too, so that the next hop knows.
        let numeric = pair.field(name, "12345", false);
        assert!(contains(&numeric, b"12345"));
        assert!(!pair.holds(secret.as_bytes()) && !pair.holds(b"12345"));
    }
    // Sensitive fields of any name neither.
    for _ in 0..20 {
        let bytes = pair.field("x-token", "another-secret", true);
        assert!(contains(&bytes, b"another-secret"));
    }
    assert!(!pair.holds(b"another-secret"));
    assert_eq!(pair.model.inserted, 0);
    // The same value, no longer sensitive, isn't taken from anywhere but the message.
    let open = pair.field("x-token", "another-secret", false);
    assert!(contains(&open, b"another-secret"));
}

#[test]
fn cookies_enter_by_default_unless_they_are_marked() {
    let mut pair = Pair::new(FieldPolicy::default());
    pair.field("cookie", "session=1234567890", false);
    let again = pair.field("cookie", "session=1234567890", false);
    assert_eq!(again.len(), 5, "a reference");
    for name in ["authorization", "proxy-authorization", "set-cookie"] {
        for _ in 0..3 {
            let bytes = pair.field(name, "spelt out", false);
            assert!(contains(&bytes, b"spelt out"), "{name}");
        }
    }
    for _ in 0..3 {
        let bytes = pair.field("cookie", "id=7", true);
        assert!(contains(&bytes, b"id=7"));
    }
    assert_eq!(pair.model.inserted, 1);
}

#[test]
fn a_sensitive_field_never_becomes_a_reference_even_when_entered() {
    let mut pair = Pair::new(FieldPolicy::default());
    for _ in 0..3 {
        pair.field("x-token", "value-that-was-entered", false);
    }
    assert!(pair.holds(b"value-that-was-entered"));
    let bytes = pair.field("x-token", "value-that-was-entered", true);
    assert!(contains(&bytes, b"value-that-was-entered"));
}

#[test]
fn credentials_enter_where_the_operator_says_so() {
    let mut pair = Pair::new(FieldPolicy::new(Credentials::All, []));
    pair.field("cookie", "session=1234567890", false);
    let again = pair.field("cookie", "session=1234567890", false);
    assert_eq!(again.len(), 5, "a reference");
    // Envoy's codec marks every authorization as never to be indexed: the operator knows better. What
    // has entered arrives without the mark.
    let fields = vec![(b"authorization".to_vec(), b"Bearer 1234567890".to_vec(), true)];
    let marked = Owned::Trailers { stream: 0, fields };
    for length in [36, 5] {
        let bytes = marked.encode(&mut pair.encoder);
        assert_eq!(bytes.len(), length, "spelt out, then a reference");
        let received = decode_all(&mut pair.decoder, &bytes).unwrap();
        assert_eq!(pair.model.decode(&bytes), received);
    }
    for _ in 0..3 {
        let other = pair.field("x-token", "marked-by-its-sender", true);
        assert!(contains(&other, b"marked-by-its-sender"), "only credentials");
    }
    let mut kept_out = Pair::new(FieldPolicy::new(Credentials::All, ["authorization"]));
    for _ in 0..3 {
        let bytes = kept_out.field("authorization", "Bearer 1234567890", true);
        assert!(contains(&bytes, b"Bearer 1234567890"));
    }
}

#[test]
fn pseudo_header_fields_can_be_kept_out() {
    let mut pair = Pair::new(FieldPolicy::new(Credentials::default(), [":path", ":authority"]));
    for _ in 0..5 {
        pair.path("/users/1/orders");
    }
    assert_eq!(pair.model.inserted, 0);
}

#[test]
fn repeated_requests_shrink_to_references() {
    let mut pair = Pair::new(FieldPolicy::default());
    let fields: Vec<OwnedField> = [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:141.0)"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
    ]
    .map(|(name, value)| (name.into(), value.into(), false))
    .to_vec();
    let first = pair.carry(&request("/api/poll", fields.clone()));
    let second = pair.carry(&request("/api/poll", fields));
    assert!(first.len() > 130);
    assert_eq!(second, hex("88 00 00 f5 00 01 00 01 83 02 03 04"));
}

#[test]
fn unique_values_soon_stop_entering() {
    let mut pair = Pair::new(FieldPolicy::default());
    for serial in 0..1_000 {
        pair.field("x-trace", &format!("trace-{serial}"), false);
        pair.field("x-number", &serial.to_string(), false);
        pair.field("x-date", &http_date(serial), false);
    }
    assert_eq!(pair.model.inserted, 9, "three of each name");
    // Until one comes for the second time.
    pair.field("x-trace", "trace-990", false);
    assert!(pair.holds(b"trace-990"));
}

#[test]
fn unique_authorities_soon_stop_entering() {
    let mut pair = Pair::new(FieldPolicy::new(Credentials::default(), [":path"]));
    for serial in 0..100 {
        pair.authority(format!("{serial}.example").as_bytes());
    }
    assert_eq!(pair.model.inserted, 3);
}

/// PROTOCOL.md §6: two more for each reference, and never more than 32.
#[test]
fn what_is_referred_to_lets_more_values_enter() {
    for (references, expected) in [(0, 3), (1, 5), (2, 7), (14, 31), (15, 33), (100, 33)] {
        let mut fields = Pair::new(FieldPolicy::default());
        let mut authorities = Pair::new(FieldPolicy::new(Credentials::default(), [":path"]));
        let first = std::iter::repeat_n("first".to_owned(), 1 + references);
        for value in first.chain((0..100).map(|serial| format!("v{serial}"))) {
            fields.field("x", &value, false);
            authorities.authority(value.as_bytes());
        }
        assert_eq!(fields.model.inserted, expected, "{references} references");
        assert_eq!(authorities.model.inserted, expected, "{references} references");
    }
}

#[test]
fn authorities_and_paths_that_are_no_text_or_too_large_travel_as_bytes() {
    let mut pair = Pair::new(FieldPolicy::default());
    let large = vec![b'a'; 8 * 1024];
    for value in [&b"caf\xe9.example"[..], &large] {
        let mut sent = request("/", Vec::new());
        if let Owned::Request { authority, path, .. } = &mut sent {
            *authority = value.to_vec();
            *path = [b"/", value].concat();
        }
        for _ in 0..3 {
            pair.carry(&sent);
        }
        // Nor do paths share such a beginning.
        for end in [&b"/1"[..], b"/2", b"/3"] {
            if let Owned::Request { path, .. } = &mut sent {
                *path = [b"/", value, end].concat();
            }
            pair.carry(&sent);
        }
    }
    assert_eq!(pair.model.inserted, 0);
}

#[test]
fn names_of_up_to_64_bytes_are_learned() {
    let mut pair = Pair::new(FieldPolicy::default());
    pair.field(&"n".repeat(65), "1", true);
    assert_eq!(pair.model.learned, 0);
    pair.field(&"n".repeat(64), "1", true);
    assert_eq!(pair.model.learned, 1);
}

#[test]
fn unique_names_leave_the_learned_ones_alone() {
    let mut pair = Pair::new(FieldPolicy::default());
    pair.field("x-useful", "1", false);
    for serial in 0..5_000 {
        pair.field(&format!("x-{serial}"), "", false);
    }
    assert_eq!(pair.model.learned, 128);
    // `[3, 0, [-1, b'unique']]`, or with a reference to the pair.
    let useful = pair.field("x-useful", "unique-value", true);
    assert!(useful.starts_with(&[0x83, 3, 0, 0x82, 0x20]), "{useful:02x?}");
    for _ in 0..2 {
        pair.field("x-seen-twice", "", false);
    }
    assert_eq!(pair.model.learned, 129);
}

#[test]
fn names_ring_goes_round() {
    let mut pair = Pair::new(FieldPolicy::default());
    for round in 0..3 {
        for serial in 0..300 {
            for _ in 0..2 {
                pair.field(&format!("x-{round}-{serial}"), "v", true);
            }
        }
    }
    assert!(pair.model.learned > 3 * 256, "{}", pair.model.learned);
}

#[test]
fn entries_ring_goes_round_by_number_and_by_size() {
    for (length, count) in [(10, 2_000), (3_000, 300)] {
        let mut pair = Pair::new(FieldPolicy::default());
        for serial in 0..count {
            let value = format!("{serial:0length$}");
            for _ in 0..2 {
                pair.field("x-v", &format!("v{value}"), false);
            }
        }
        assert!(pair.model.inserted >= count, "{}", pair.model.inserted);
        assert!(pair.model.evicted > 250, "{}", pair.model.evicted);
    }
}

#[test]
fn exactly_the_entries_that_were_not_evicted_can_be_referred_to() {
    // How long and how many.
    for values in [
        &[(10, 20)][..],
        &[(10, 600)],
        &[(1_000, 100)],
        &[(1_000, 300)],
        &[(3_000, 100)],
        &[(10, 2_000), (8_000, 7)],
    ] {
        let run = || {
            let mut pair = Pair::new(FieldPolicy::default());
            for &(length, count) in values {
                for serial in 0..count {
                    for _ in 0..2 {
                        pair.field("x-v", &format!("v{serial:0length$}"), false);
                    }
                }
            }
            pair
        };
        let refer = |pair: &mut Pair, slot: u8| {
            let mut bytes = vec![0x83, 3, 0, 0x81];
            ciborium::into_writer(&slot, &mut bytes).unwrap();
            decode_all(&mut pair.decoder, &bytes)
        };
        let mut pair = run();
        let entries = pair.model.entries.clone();
        for (slot, name, value) in &entries {
            let fields = vec![(name.clone(), value.clone(), false)];
            let expected = Owned::Trailers { stream: 0, fields };
            assert_eq!(refer(&mut pair, *slot), Ok(vec![expected]), "{values:?}");
        }
        let before = entries[0].0.wrapping_sub(1);
        let after = entries[entries.len() - 1].0.wrapping_add(1);
        for slot in [before, after] {
            let gone = refer(&mut run(), slot) == Err(Error::BadReference);
            assert_eq!(gone, entries.len() < 256, "{values:?} {slot}");
        }
    }
}

#[test]
fn large_values_and_bytes_are_spelt_out() {
    let mut pair = Pair::new(FieldPolicy::default());
    let fits = "v".repeat(8 * 1024 - 32 - 3);
    let too_big = "v".repeat(8 * 1024 - 32 - 2);
    for _ in 0..4 {
        pair.field("x-v", &too_big, false);
        let bytes = Owned::Trailers {
            stream: 0,
            fields: vec![(b"x-b".to_vec(), vec![0xff, 0xfe], false)],
        };
        pair.carry(&bytes);
        // A long name can't be entered with a typed value either.
        pair.field(&"n".repeat(8 * 1024 - 32), "1", false);
    }
    assert_eq!(pair.model.inserted, 0);
    pair.field("x-v", &fits, false);
    assert_eq!(pair.model.inserted, 1);
}

#[test]
fn paths_share_their_beginnings() {
    let mut pair = Pair::new(FieldPolicy::default());
    let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let text = |text: &str| Value::Text(text.to_owned());
    assert_eq!(pair.path("/users/17/orders"), text("/users/17/orders"));
    // `:authority` is slot 0.
    assert_eq!(pair.path("/users/17/orders"), Value::from(1));
    // A beginning that comes back is entered.
    assert_eq!(
        pair.path("/users/17/items"),
        Value::Array(vec![text("/users/17/"), bytes("items")])
    );
    assert_eq!(
        pair.path("/users/17/peers"),
        Value::Array(vec![2.into(), bytes("peers")])
    );
    // A whole path that comes back is entered whole.
    assert_eq!(pair.path("/users/17/peers"), text("/users/17/peers"));
    assert_eq!(pair.path("/users/17/peers"), Value::from(3));
    // Never split in front of nothing, and short beginnings don't pay.
    assert_eq!(pair.path("/users/17/"), Value::from(2));
    assert_eq!(pair.path("/a/b"), text("/a/b"));
    assert_eq!(pair.path("/a/c"), text("/a/c"));
}

#[test]
fn typed_values_keep_their_bytes() {
    let typed = |value: &str| {
        let mut pair = Pair::new(FieldPolicy::default());
        let bytes = pair.field("x", value, false);
        let message: Value = ciborium::from_reader(&bytes[..]).unwrap();
        let value = message.as_array().unwrap()[2].as_array().unwrap()[1].clone();
        // Typed values stand alone or in an array of one.
        value
            .as_array()
            .map_or(value.is_integer() || value.is_tag(), |_| true)
    };
    for value in [
        "0",
        "1",
        "9",
        "10",
        "23",
        "24",
        "255",
        "256",
        "65536",
        "4294967296",
        "9223372036854775807",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Thu, 29 Feb 2024 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "00000000-0000-0000-0000-000000000000",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    ] {
        assert!(typed(value), "{value}");
    }
    for value in [
        "",
        "00",
        "01",
        "-1",
        "+1",
        "1.0",
        " 1",
        "1 ",
        "9223372036854775808",
        "18446744073709551616",
        "00000000000000000001",
        "1e3",
        "1:",
        "1/",
        "٣",
        // Obsolete forms, wrong weekdays, days that don't exist, before 1970.
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Mon, 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 gmt",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:60 GMT",
        "Thu, 30 Feb 2024 23:59:59 GMT",
        "Wed, 31 Dec 1969 23:59:59 GMT",
        "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bfg",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf",
        "{81d4fae-7dec-11d0-a765-00a0c91e6bf}",
        "f81d4fae7-dec-11d0-a765-00a0c91e6bf6",
    ] {
        assert!(!typed(value), "{value}");
    }
}

proptest! {
    #[test]
    fn integers_round_trip(value in any::<u64>(), shift in 0_u32..64) {
        let mut pair = Pair::new(FieldPolicy::default());
        for _ in 0..3 {
            pair.field("x", &(value >> shift).to_string(), false);
        }
    }

    #[test]
    fn dates_round_trip(seconds in 0_u64..253_402_300_800) {
        let mut pair = Pair::new(FieldPolicy::default());
        let bytes = pair.field("x", &http_date(seconds), false);
        prop_assert!(bytes.len() < 18, "{:?}", bytes);
    }

    #[test]
    fn what_looks_typed_round_trips(
        value in "[0-9]{1,21}|[0-9a-fA-F]{8}(-[0-9a-f]{4}){3}-[0-9a-fg]{12}|[A-Z][a-z]{2}, [0-3][0-9] (Jan|Feb|Dec) [0-9]{4} [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT"
    ) {
        let mut pair = Pair::new(FieldPolicy::default());
        for _ in 0..2 {
            pair.field("x", &value, false);
        }
    }
}

#[test]
fn encoding_is_deterministic() {
    let run = || {
        let mut encoder = Encoder::new(&Arc::new(FieldPolicy::default()));
        let mut traffic = Traffic::new(TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]));
        (0..500)
            .flat_map(|_| traffic.message().encode(&mut encoder))
            .collect::<Vec<u8>>()
    };
    assert!(run() == run());
}
