//! Messages that must be refused, each with the error that PROTOCOL.md says.

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

use cbor::traffic::Traffic;
use cbor::{Owned, decode_all, decode_pieces};
use ciborium::{Value, cbor};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::sync::Arc;
use wsferry::Error::{self, *};
use wsferry::cbor::{Decoder, Encoder};
use wsferry::config::{FieldPolicy, Limits};

fn decoder() -> Decoder {
    Decoder::new(&Limits::default())
}

fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// The result for a sequence of messages, at once; and byte by byte it must be the same.
fn decode(messages: &[Value]) -> Result<Vec<Owned>, Error> {
    let bytes: Vec<u8> = messages.iter().flat_map(write).collect();
    let at_once = decode_all(&mut decoder(), &bytes);
    let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
    let single = decode_pieces(&mut decoder(), &pieces);
    assert_eq!(single.map(Owned::joined), at_once.clone().map(Owned::joined));
    at_once
}

fn bytes(text: &[u8]) -> Value {
    Value::Bytes(text.to_vec())
}

/// A request with these items in place of authority, path and fields.
fn request(authority: Value, path: Value, fields: Value) -> Value {
    Value::Array(vec![
        0.into(),
        0.into(),
        true.into(),
        0.into(),
        0.into(),
        authority,
        path,
        fields,
    ])
}

fn trailers(fields: Vec<Value>) -> Value {
    Value::Array(vec![3.into(), 0.into(), Value::Array(fields)])
}

fn array() -> Value {
    Value::Array(Vec::new())
}

#[track_caller]
fn refused(message: Result<Value, ciborium::value::Error>, error: Error) {
    let message = message.unwrap();
    assert_eq!(decode(std::slice::from_ref(&message)), Err(error), "{message:?}");
}

#[test]
fn types() {
    for unknown in 10..64 {
        refused(cbor!([unknown, 0]), MessageType);
    }
    for skipped in [64, 65, 255, 65_536, u64::MAX] {
        assert_eq!(
            decode(&[
                cbor!([skipped, { "a" => [1.5, null] }]).unwrap(),
                cbor!([7]).unwrap()
            ]),
            Ok(vec![Owned::Ack])
        );
    }
    for other in [
        cbor!(7),
        cbor!("x"),
        cbor!({ 7 => 7 }),
        cbor!([]),
        cbor!(["x"]),
        cbor!([9]),
        cbor!([9, "RPING"]),
        cbor!([-1]),
        cbor!(null),
    ] {
        refused(other, MessageForm);
    }
}

#[test]
fn forms() {
    for message in [
        // Too few or too many items.
        cbor!([0, 0, true, 0, 0, "", ""]),
        cbor!([0, 0, true, 0, 0, "", "", [], "websocket", 1]),
        cbor!([1, 0, true, 200]),
        cbor!([1, 0, true, 200, [], 0]),
        cbor!([2, 0, true]),
        cbor!([2, 0, true, 0, 0]),
        cbor!([3, 0]),
        cbor!([4, 0]),
        cbor!([5, 0]),
        cbor!([6]),
        cbor!([7, 0]),
        cbor!([8, 0]),
        // Streams.
        cbor!([4, 65_536, 0]),
        cbor!([4, (-1), 0]),
        cbor!([3, 65_536, []]),
        cbor!([5, (-2), 1]),
        cbor!([5, 65_536, 1]),
        cbor!([5, null, 1]),
        cbor!([8, (-1), 0]),
        cbor!([8, 65_536, 0]),
        cbor!([8, false, 0]),
        cbor!([0, "0", true, 0, 0, "", "", []]),
        // `end`.
        cbor!([0, 0, 1, 0, 0, "", "", []]),
        cbor!([1, 0, null, 200, []]),
        // Request line.
        cbor!([0, 0, true, 8, 0, "", "", []]),
        cbor!([0, 0, true, (-1), 0, "", "", []]),
        cbor!([0, 0, true, 0, 2, "", "", []]),
        cbor!([0, 0, true, 0, 0, (-1), "", []]),
        cbor!([0, 0, true, 0, 0, null, "", []]),
        cbor!([0, 0, true, 0, 0, ["a", "b"], "", []]),
        cbor!([0, 0, true, 0, 0, "", [], []]),
        cbor!([0, 0, true, 0, 0, "", ["/"], []]),
        cbor!([0, 0, true, 0, 0, "", ["/", "a"], []]),
        cbor!([0, 0, true, 0, 0, "", [["/"], "a"], []]),
        cbor!([0, 0, true, 0, 0, "", "", [], 0]),
        cbor!([0, 0, true, 0, 0, "", "", {}]),
        // Status.
        cbor!([1, 0, true, 99, []]),
        cbor!([1, 0, true, 1000, []]),
        cbor!([1, 0, true, "200", []]),
        // Fields.
        cbor!([3, 0, ["a"]]),
        cbor!([3, 0, ["a", "b", "c"]]),
        cbor!([3, 0, [["a"], "b"]]),
        cbor!([3, 0, [null, "b"]]),
        cbor!([3, 0, ["a", null]]),
        cbor!([3, 0, ["a", (-1)]]),
        cbor!([3, 0, ["a", 1.5]]),
        cbor!([3, 0, ["a", []]]),
        cbor!([3, 0, ["a", [1, 2]]]),
        cbor!([3, 0, ["a", ["b"]]]),
        cbor!([3, 0, ["a", {}]]),
        cbor!([3, 0, ["a", (1_u64 << 63)]]),
        // Numbers.
        cbor!([4, 0, (1_u64 << 32)]),
        cbor!([8, 0, (1_u64 << 32)]),
        cbor!([6, { 4 => (1_u64 << 32) }]),
        cbor!([6, { 4 => "1" }]),
        cbor!([6, { "4" => 1 }]),
        cbor!([6, []]),
        // Data.
        cbor!([2, 65_536, true, ""]),
        cbor!([2, 0, 0, ""]),
        cbor!([2, 0, true, "text"]),
    ] {
        refused(message, MessageForm);
    }
    // Typed values.
    for value in [
        Value::Tag(1, Box::new(253_402_300_800_u64.into())),
        Value::Tag(1, Box::new((-1).into())),
        Value::Tag(1, Box::new(1.5.into())),
        Value::Tag(37, Box::new(bytes(&[0; 15]))),
        Value::Tag(37, Box::new(bytes(&[0; 17]))),
        Value::Tag(37, Box::new(Value::Text("x".repeat(16)))),
        Value::Tag(2, Box::new(bytes(&[1]))),
    ] {
        refused(Ok(trailers(vec!["a".into(), value.clone()])), MessageForm);
        refused(
            Ok(trailers(vec!["a".into(), Value::Array(vec![value])])),
            MessageForm,
        );
    }
    // Packed values: pieces are text or bytes, and none of it enters.
    for value in [
        bytes(b"abc"),
        "abc".into(),
        Value::Array(vec![1.into()]),
        Value::Array(vec![bytes(b"abc"), Value::Bool(true)]),
    ] {
        let value = Value::Tag(21, Box::new(value));
        refused(Ok(trailers(vec!["a".into(), value])), MessageForm);
    }
    let entered = Value::Array(vec![Value::Tag(21, Box::new(Value::Array(Vec::new())))]);
    // Arrays and tags nest too deep for it.
    refused(Ok(trailers(vec!["a".into(), entered])), CborMalformed);
    let line_end = Value::Tag(21, Box::new(Value::Array(vec!["a\nb".into()])));
    refused(Ok(trailers(vec!["a".into(), line_end])), InvalidField);
    // Four characters for three bytes: what is below the limit on the wire is above it in the header list.
    let long = Value::Tag(21, Box::new(Value::Array(vec![bytes(&[0; 80 * 1024])])));
    refused(Ok(trailers(vec!["a".into(), long])), HeaderListTooBig);
    // Text that isn't UTF-8; ciborium won't write that.
    let bad_text = [0x83, 3, 0, 0x82, 0x61, b'a', 0x62, 0xc3, 0x28];
    assert_eq!(decode_all(&mut decoder(), &bad_text), Err(MessageForm));
}

#[test]
fn credit_and_settings() {
    refused(cbor!([5, 0, 0]), InvalidCredit);
    refused(cbor!([5, 0, (1_u64 << 31)]), InvalidCredit);
    refused(cbor!([5, (-1), 0]), InvalidCredit);
    refused(cbor!([5, (-1), (u64::MAX)]), InvalidCredit);
    let twice = |id: u64| {
        Value::Array(vec![
            6.into(),
            Value::Map(vec![(id.into(), 1.into()), (id.into(), 1.into())]),
        ])
    };
    refused(Ok(twice(4)), MessageForm);
    refused(Ok(twice(1 << 40)), MessageForm);
    let many = |count: u64| {
        Value::Array(vec![
            6.into(),
            Value::Map((0..count).map(|id| (id.into(), 1.into())).collect()),
        ])
    };
    refused(Ok(many(33)), MessageForm);
    // 1 and 5 belong to one hop and are passed over, as are identifiers beyond 16 bits.
    let expected: Vec<(u16, u32)> = (0..32)
        .filter(|id| ![1, 5].contains(id))
        .map(|id| (id, 1))
        .collect();
    assert_eq!(decode(&[many(32)]), Ok(vec![Owned::Settings(expected)]));
    // Each message has its own.
    let one_after_the_other = [cbor!([6, { 3 => 1 }]).unwrap(), cbor!([6, { 4 => 2 }]).unwrap()];
    assert_eq!(
        decode(&one_after_the_other),
        Ok(vec![Owned::Settings(vec![(3, 1)]), Owned::Settings(vec![(4, 2)])])
    );
    assert_eq!(
        decode(&[cbor!([6, { 65_536 => 1, 65_535 => (u32::MAX), 3 => 0 }]).unwrap()]),
        Ok(vec![Owned::Settings(vec![(65_535, u32::MAX), (3, 0)])])
    );
}

#[test]
fn references() {
    let entered = || request("a".into(), "/".into(), cbor!(["x", "1"]).unwrap());
    // Slots: 0 `:authority`, 1 `:path`, 2 `x`.
    let good = request(0.into(), 1.into(), cbor!([2, (-1), "2"]).unwrap());
    assert_eq!(decode(&[entered(), good]).unwrap().len(), 2);
    for bad in [
        request(1.into(), 1.into(), array()),
        request(2.into(), 1.into(), array()),
        request(0.into(), 0.into(), array()),
        request(0.into(), 2.into(), array()),
        request(3.into(), 1.into(), array()),
        request(0.into(), 3.into(), array()),
        request(256.into(), 1.into(), array()),
        request((1_u64 << 32).into(), 1.into(), array()),
        request(0.into(), Value::Array(vec![0.into(), bytes(b"x")]), array()),
        request(0.into(), Value::Array(vec![9.into(), bytes(b"x")]), array()),
        trailers(vec![0.into()]),
        trailers(vec![1.into()]),
        trailers(vec![3.into()]),
        trailers(vec![258.into()]),
        trailers(vec![u64::MAX.into()]),
        trailers(vec![(-2).into(), "1".into()]),
        trailers(vec![(-257).into(), "1".into()]),
        trailers(vec![(-1 - (1_i64 << 32)).into(), "1".into()]),
    ] {
        assert_eq!(decode(&[entered(), bad.clone()]), Err(BadReference), "{bad:?}");
    }
    // An empty authority or path enters nothing.
    let empty = request("".into(), "".into(), array());
    let after = request("a".into(), Value::Array(vec!["".into(), bytes(b"/x")]), array());
    let first = request(0.into(), bytes(b"/"), array());
    let second = request(0.into(), 1.into(), array());
    assert_eq!(decode(&[empty.clone(), after.clone(), first]).unwrap().len(), 3);
    assert_eq!(decode(&[empty, after, second]), Err(BadReference));
}

#[test]
fn a_list_that_comes_again_enters_and_learns_again() {
    let response = cbor!([1, 0, true, 200, ["x", "1"]]).unwrap();
    let twice = [response.clone(), response];
    for second in [Value::from(1), Value::from(-2)] {
        let fields = match second.as_integer() {
            Some(slot) if i128::from(slot) < 0 => vec![second, "2".into()],
            _ => vec![second],
        };
        let messages = [&twice[..], &[trailers(fields)]].concat();
        assert_eq!(decode(&messages).unwrap().len(), 3);
    }
}

#[test]
fn invalid_fields() {
    for name in [
        "", ":path", ":x", "Upper", "a b", "a:b", "a(b", "a\"b", "a\0", "a\n", "ä", "a/b", "a\x7f",
    ] {
        for name in [Value::from(name), bytes(name.as_bytes())] {
            refused(Ok(trailers(vec![name, "1".into()])), InvalidField);
        }
    }
    for value in ["\0", "a\rb", "a\n", "\r\n"] {
        for value in [Value::from(value), bytes(value.as_bytes())] {
            refused(Ok(trailers(vec!["a".into(), value.clone()])), InvalidField);
            refused(Ok(request(value.clone(), "/".into(), array())), InvalidField);
            refused(Ok(request("a".into(), value.clone(), array())), InvalidField);
        }
        let suffix = Value::Array(vec!["/".into(), bytes(value.as_bytes())]);
        refused(Ok(request("a".into(), suffix, array())), InvalidField);
        // Behind the path that slot 1 holds.
        let entered = request("a".into(), "/".into(), array());
        let suffix = Value::Array(vec![1.into(), bytes(value.as_bytes())]);
        let refers = request(0.into(), suffix, array());
        assert_eq!(decode(&[entered, refers]), Err(InvalidField), "{value:?}");
        refused(cbor!([0, 0, true, value, 0, "", "", []]), InvalidField);
        refused(cbor!([0, 0, true, 0, value, "", "", []]), InvalidField);
        refused(cbor!([0, 0, true, 0, 0, "", "", [], value]), InvalidField);
    }
    refused(cbor!([0, 0, true, "", 0, "", "", []]), InvalidField);
    refused(cbor!([0, 0, true, "G T", 0, "", "", []]), InvalidField);
    refused(cbor!([0, 0, true, 0, 0, "", "", [], ""]), InvalidField);
    // Every other byte passes.
    let all: Vec<u8> = (1..=255).filter(|byte| ![b'\r', b'\n'].contains(byte)).collect();
    let passing = trailers(vec!["!#$%&'*+-.^_`|~09az".into(), bytes(&all)]);
    assert_eq!(
        decode(&[passing]),
        Ok(vec![Owned::Trailers {
            stream: 0,
            fields: vec![(b"!#$%&'*+-.^_`|~09az".to_vec(), all, true)]
        }])
    );
}

#[test]
fn entries_and_names_that_are_too_big() {
    let name = "n".repeat(64);
    let largest = "v".repeat(8 * 1024 - 32 - 64);
    assert!(decode(&[trailers(vec![name.clone().into(), largest.clone().into()])]).is_ok());
    refused(
        Ok(trailers(vec![name.into(), format!("{largest}v").into()])),
        EntryTooBig,
    );
    refused(Ok(trailers(vec!["n".repeat(65).into(), "v".into()])), EntryTooBig);
    // Not learned, a name may have any length.
    assert!(decode(&[trailers(vec![bytes(&[b'n'; 65]), "v".into()])]).is_ok());
    let path = "/".repeat(8 * 1024 - 32 - 5);
    assert!(decode(&[request("".into(), path.clone().into(), array())]).is_ok());
    refused(
        Ok(request("".into(), format!("{path}/").into(), array())),
        EntryTooBig,
    );
    // Spelt out and not entered, a value is bounded by the header list alone.
    assert!(decode(&[trailers(vec!["a".into(), bytes(&[b'v'; 60_000])])]).is_ok());
}

#[test]
fn header_list_limits_are_exact() {
    let limits = Limits {
        max_header_list_bytes: 4_096,
        max_header_fields: 16,
        ..Limits::default()
    };
    let decode = |message: &Value| decode_all(&mut Decoder::new(&limits), &write(message));
    // RFC 9113 §6.5.2: names, values and 32 for each; pseudo-header fields too.
    let pseudo = ":methodGET".len() + ":schemehttp".len() + ":authoritya".len() + ":path/".len() + 4 * 32;
    let rest = 4_096 - pseudo - 32 - 1;
    let of = |length: usize| {
        let fields = Value::Array(vec!["x".into(), bytes(&vec![b'v'; length])]);
        request("a".into(), "/".into(), fields)
    };
    assert!(decode(&of(rest)).is_ok());
    assert_eq!(decode(&of(rest + 1)), Err(HeaderListTooBig));
    let many = |count: usize| {
        let fields = (0..count).flat_map(|_| [bytes(b"x"), bytes(b"")]).collect();
        request("a".into(), "/".into(), Value::Array(fields))
    };
    assert!(decode(&many(12)).is_ok());
    assert_eq!(decode(&many(13)), Err(HeaderListTooBig));
    // An absent one doesn't count.
    let fields = (0..13).flat_map(|_| [bytes(b"x"), bytes(b"")]).collect();
    assert!(decode(&request("".into(), "/".into(), Value::Array(fields))).is_ok());
    // A response has `:status`.
    let response = |count: usize| {
        let fields = (0..count).flat_map(|_| [bytes(b"x"), 1.into()]).collect();
        Value::Array(vec![
            1.into(),
            0.into(),
            true.into(),
            200.into(),
            Value::Array(fields),
        ])
    };
    assert!(decode(&response(15)).is_ok());
    assert_eq!(decode(&response(16)), Err(HeaderListTooBig));
}

/// No codec takes a longer one, whatever else is in the list.
#[test]
fn names_and_values_have_at_most_64_kib() {
    let field =
        |name: usize, value: usize| trailers(vec![bytes(&vec![b'n'; name]), bytes(&vec![b'v'; value])]);
    for (name, value) in [(65_536, 1), (1, 65_536)] {
        assert!(decode(&[field(name, value)]).is_ok());
    }
    for (name, value) in [(65_537, 1), (1, 65_537)] {
        refused(Ok(field(name, value)), HeaderListTooBig);
    }
}

#[test]
fn a_message_may_be_twice_as_long_as_its_header_list() {
    let limits = Limits {
        max_header_list_bytes: 4_096,
        ..Limits::default()
    };
    let pieces = Value::Array(vec!["x".into(); 4_000]);
    let message = write(&trailers(vec!["a".into(), Value::Tag(21, Box::new(pieces))]));
    assert!(message.len() > 8_000);
    assert!(decode_all(&mut Decoder::new(&limits), &message).is_ok());
}

#[test]
fn the_first_and_the_last_status_pass() {
    for status in [100, 999] {
        let head = cbor!([1, 0, false, status, []]).unwrap();
        let fields = vec![];
        let response = Owned::Response {
            stream: 0,
            end: false,
            status,
            fields,
        };
        assert_eq!(decode(&[head]), Ok(vec![response]));
    }
}

#[test]
fn reference_bombs() {
    // Eight entries of 8 KiB, then thousands of references to them in a few kilobytes.
    let mut messages = Vec::new();
    for entry in 0..8 {
        let value = "v".repeat(8 * 1024 - 32 - 1);
        messages.push(trailers(vec!["x".into(), value.into()]));
        assert!(decode(&messages).is_ok(), "{entry}");
    }
    let bomb = |count: u64| trailers((0..count).map(|slot| (slot % 8).into()).collect());
    let with = |message| [&messages[..], &[message]].concat();
    assert!(decode(&with(bomb(12))).is_ok());
    assert_eq!(decode(&with(bomb(13))), Err(HeaderListTooBig));
    assert_eq!(decode(&with(bomb(16_000))), Err(HeaderListTooBig));
    // Small ones run into the number of fields.
    let small = |count: u64| {
        let fields = std::iter::once("y".into())
            .chain([1.into()])
            .chain((0..count).flat_map(|_| [Value::from(-1), 1.into()]));
        trailers(fields.collect())
    };
    assert!(decode(&[small(255)]).is_ok());
    assert_eq!(decode(&[small(256)]), Err(HeaderListTooBig));
    // A long path out of a short reference.
    let path = request("".into(), "/".repeat(8_000).into(), array());
    let long = request(
        "".into(),
        Value::Array(vec![0.into(), bytes(&[b'x'; 91_000])]),
        array(),
    );
    assert_eq!(decode(&[path, long]), Err(HeaderListTooBig));
}

#[test]
fn one_message_is_bounded() {
    let limits = Limits {
        max_message_bytes: 16 << 20,
        ..Limits::default()
    };
    let large = |payload: usize, kind: u64| {
        let mut bytes = write(&Value::Array(vec![kind.into(), 0.into(), false.into()]));
        bytes[0] = 0x84;
        bytes.extend_from_slice(&[0x5a]);
        bytes.extend_from_slice(&u32::try_from(payload).unwrap().to_be_bytes());
        bytes.resize(bytes.len() + payload, b'x');
        bytes
    };
    // Data and skipped messages aren't kept, so only the WebSocket message limits them.
    let data = large(5 << 20, 2);
    let skipped = large(5 << 20, 20);
    let skipped = [&[skipped[0], 0x18, 64], &skipped[2..]].concat();
    for pieces in [64 << 20, 10_000] {
        let chunks = |bytes| <[u8]>::chunks(bytes, pieces).collect::<Vec<_>>();
        let received = decode_pieces(&mut Decoder::new(&limits), &chunks(&data)).unwrap();
        assert_eq!(Owned::joined(received).len(), 1);
        assert_eq!(
            decode_pieces(&mut Decoder::new(&limits), &chunks(&skipped)),
            Ok(Vec::new())
        );
        // Any other is refused before that.
        let trailers = [&[0x83, 3, 0, 0x82, 0x61, b'x'], &data[4..]].concat();
        assert_eq!(
            decode_pieces(&mut Decoder::new(&limits), &chunks(&trailers)),
            Err(MessageTooBig)
        );
    }
    let mut decoder = Decoder::new(&limits);
    let mut sent = 0;
    let piece = [&[0x83, 3, 0, 0x9a, 0, 0xff, 0xff, 0xff][..], &[0; 10_000]].concat();
    let mut result = decoder.next(&mut &piece[..]).map(|_| ());
    while result.is_ok() {
        sent += 10_000;
        // PROTOCOL.md §12.
        assert!(sent <= 2 * limits.max_header_list_bytes, "keeps {sent} bytes");
        result = decoder.next(&mut &[0; 10_000][..]).map(|_| ());
    }
    assert_eq!(result, Err(MessageTooBig));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_all(&mut decoder(), &bytes);
        let pieces: Vec<&[u8]> = bytes.chunks(3).collect();
        let _ = decode_pieces(&mut decoder(), &pieces);
    }

    #[test]
    fn mutations_never_panic_and_pieces_make_no_difference(
        seed in any::<[u8; 32]>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        size in 1_usize..40,
    ) {
        let mut encoder = Encoder::new(&Arc::new(FieldPolicy::default()));
        let mut traffic = Traffic::new(TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let mut bytes: Vec<u8> = (0..8).flat_map(|_| traffic.message().encode(&mut encoder)).collect();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let at_once = decode_all(&mut decoder(), &bytes);
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        let in_pieces = decode_pieces(&mut decoder(), &pieces);
        prop_assert_eq!(at_once.map(Owned::joined), in_pieces.map(Owned::joined));
    }
}
