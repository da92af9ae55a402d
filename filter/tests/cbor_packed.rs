//! Values with runs of base64url: what they cost, and that they arrive as they were.

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

use std::sync::Arc;

use cbor::{Model, Owned, assert_same, decode_all};
use ciborium::Value;
use proptest::prelude::*;
use wsferry::cbor::{Decoder, Encoder};
use wsferry::config::{FieldPolicy, Limits};

/// Carries a value that doesn't enter and returns it as CBOR.
fn carry(value: &[u8]) -> (Value, usize) {
    let sent = Owned::Trailers {
        stream: 0,
        fields: vec![(b"a".to_vec(), value.to_vec(), true)],
    };
    let bytes = sent.encode(&mut Encoder::new(&Arc::new(FieldPolicy::default())));
    let received = decode_all(&mut Decoder::new(&Limits::default()), &bytes).unwrap();
    assert_same(&sent, &received[0]);
    assert_eq!(Model::default().decode(&bytes), received);
    let message: Value = ciborium::from_reader(&bytes[..]).unwrap();
    let value = message.as_array().unwrap()[2].as_array().unwrap()[1].clone();
    let mut written = Vec::new();
    ciborium::into_writer(&value, &mut written).unwrap();
    (value, written.len())
}

fn pieces(value: &[u8]) -> Option<Vec<Value>> {
    match carry(value).0 {
        Value::Tag(21, pieces) => Some(pieces.as_array().unwrap().clone()),
        Value::Bytes(_) => None,
        other => panic!("unexpected {other:?}"),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn tokens_travel_as_the_bytes_they_stand_for() {
    // Base64url that isn't a multiple of four characters long: the rest is text.
    let token = "Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhIn0.sig";
    let header = br#"{"alg":"ES256","typ":"JWT"}"#;
    assert_eq!(
        pieces(token.as_bytes()),
        Some(vec![
            text("Bearer "),
            Value::Bytes(header.to_vec()),
            text(".eyJzdWIiOiJhIn0.sig"),
        ])
    );
    let jwt = format!(
        "Bearer {}.{}.{}",
        "eyJh".repeat(9),
        "c3Vi".repeat(105),
        "_-9Z".repeat(85)
    );
    let (_, written) = carry(jwt.as_bytes());
    assert!(written * 100 < jwt.len() * 78, "{written} of {}", jwt.len());
}

#[test]
fn other_values_travel_as_bytes() {
    for value in [
        "",
        "short",
        "Bearer mF_9.B5f-4.1JqM",
        // One character less than is worth it.
        "abcdefghijklmnopqrstuvw",
        "session=abcdefghijklmnopqrstuvw; theme=dark",
        // Not ASCII, so its pieces might be no text.
        "abcdefghijklmnopqrstuvwxyz0123456789\u{e9}",
    ] {
        assert_eq!(pieces(value.as_bytes()), None, "{value}");
    }
    assert_eq!(pieces(b"abcdefghijklmnopqrstuvwx\xff"), None);
    let decoded = data_encoding::BASE64URL_NOPAD.decode(b"abcdefghijklmnopqrstuvwx");
    assert_eq!(
        pieces(b"abcdefghijklmnopqrstuvwx"),
        Some(vec![Value::Bytes(decoded.unwrap())])
    );
}

#[test]
fn many_runs_end_in_text() {
    let value = vec!["abcdefghijklmnopqrstuvwxyz01"; 60].join(" ");
    let pieces = pieces(value.as_bytes()).unwrap();
    assert!(pieces.len() <= 23, "{}", pieces.len());
    assert!(matches!(pieces.last(), Some(Value::Text(_))));
}

#[test]
fn values_that_come_again_are_written_as_before() {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = 1_u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    // Each with others of the same length that differ in one byte, wherever that is.
    let mut values = Vec::new();
    for round in 0..40 {
        let length = 1 + random(if round % 4 == 0 { 5_000 } else { 400 });
        let mut value: Vec<u8> = (0..length).map(|_| ALPHABET[random(64)]).collect();
        value[random(length)] = b".; \xe9"[round % 4];
        for _ in 0..3 {
            let mut other = value.clone();
            other[random(length)] = b'!';
            values.push(other);
        }
        values.push(value);
    }
    let carried: Vec<_> = values.iter().map(|value| carry(value).0).collect();
    let mut encoder = Encoder::new(&Arc::new(FieldPolicy::default()));
    let mut decoder = Decoder::new(&Limits::default());
    let mut model = Model::default();
    for _ in 0..2_000 {
        let sent = random(values.len());
        let message = Owned::Trailers {
            stream: 0,
            fields: vec![(b"a".to_vec(), values[sent].clone(), true)],
        };
        let bytes = message.encode(&mut encoder);
        let received = decode_all(&mut decoder, &bytes).unwrap();
        assert_same(&message, &received[0]);
        assert_eq!(model.decode(&bytes), received);
        let written: Value = ciborium::from_reader(&bytes[..]).unwrap();
        assert_eq!(
            written.as_array().unwrap()[2].as_array().unwrap()[1],
            carried[sent]
        );
    }
}

proptest! {
    #[test]
    fn nothing_gets_longer_or_changes(
        value in "([A-Za-z0-9_-]{0,60}[ -~]{0,3}){0,8}|[ -~]{0,80}"
    ) {
        let (_, written) = carry(value.as_bytes());
        let mut bytes = Vec::new();
        ciborium::into_writer(&Value::Bytes(value.clone().into_bytes()), &mut bytes).unwrap();
        prop_assert!(written <= bytes.len(), "{written} > {} for {value:?}", bytes.len());
    }

    #[test]
    fn any_bytes_round_trip(value in proptest::collection::vec(1_u8..=255, 0..200)) {
        let value: Vec<u8> = value.into_iter().filter(|byte| !b"\r\n".contains(byte)).collect();
        carry(&value);
    }
}
