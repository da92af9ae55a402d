//! Bytes that nobody should send: errors, and never a panic, a loop or a message that can't be carried.

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

use std::sync::Arc;

use http2_support::frames::{begun, frame};
use http2_support::messages::{direction, written};
use proptest::collection::vec;
use proptest::prelude::*;
use wsferry::Error;
use wsferry::cbor;
use wsferry::config::{FieldPolicy, Limits};
use wsferry::http2::{Event, Reader, Sender, Writer};
use wsferry::message::{Http2Id, Message, WireId};

/// Small, so that they are met.
fn limits() -> Limits {
    Limits {
        max_header_list_bytes: 4_096,
        max_header_fields: 16,
        ..Limits::default()
    }
}

/// Reads `chunks` to their end or the first error. Each message must be one that CBOR carries and that
/// a writer writes.
fn read(sender: Sender, chunks: &[&[u8]]) -> Result<usize, Error> {
    let mut reader = Reader::new(sender, &limits());
    let mut writer = Writer::new(sender);
    let mut encoder = cbor::Encoder::new(&Arc::new(FieldPolicy::default()));
    let mut decoder = cbor::Decoder::new(&limits());
    let mut events = 0;
    for chunk in chunks {
        let mut input = *chunk;
        while let Some(event) = reader.next(&mut input)? {
            events += 1;
            match event {
                Event::Message(message) => {
                    writer.message(&message, &mut Vec::new());
                    carry(&mut encoder, &mut decoder, message);
                }
                Event::Padding { bytes, .. } => assert!((1..=256).contains(&bytes)),
                Event::Malformed { error, .. } => assert!(matches!(
                    error,
                    Error::Http2Malformed | Error::Http2HeaderListTooBig
                )),
                Event::Ping(_) | Event::PingAck(_) => {}
            }
        }
        assert!(input.is_empty());
    }
    Ok(events)
}

fn carry(encoder: &mut cbor::Encoder, decoder: &mut cbor::Decoder, message: Message<'_, Http2Id>) {
    let message = message.with_stream(|stream| WireId(stream.0 as u16));
    let mut bytes = Vec::new();
    encoder.encode(&message, &mut bytes);
    let mut input = bytes.as_slice();
    let decoded = decoder.next(&mut input);
    // What is sensitive is known by its name there, and settings of one hop stay behind.
    let alike = match (&decoded, &message) {
        (Ok(Some(Message::Request { .. })), Message::Request { .. })
        | (Ok(Some(Message::Response { .. })), Message::Response { .. })
        | (Ok(Some(Message::Settings(_))), Message::Settings(_))
        | (Ok(Some(Message::Trailers { .. })), Message::Trailers { .. }) => true,
        (Ok(Some(decoded)), message) => decoded == message,
        _ => false,
    };
    assert!(alike, "{message:?} became {decoded:?}");
}

/// The bytes, cut at random.
fn cut<'b>(bytes: &'b [u8], sizes: &[usize]) -> Vec<&'b [u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        chunks.push(chunk);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    chunks
}

/// A field line that is often right: names and values of a dictionary, in every representation.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        4 => prop::sample::select(vec![":method", "GET", ":path", "/", ":status", "200", "204", ":scheme",
            "http", ":protocol", "x", "cookie", "X", "", ":authority", "a b", "\u{e9}", "\n"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..60),
    ]
    .prop_map(|text| [&[text.len() as u8], text.as_slice()].concat());
    prop_oneof![
        4 => (128_u8..=255).prop_map(|indexed| vec![indexed]),
        4 => (prop::sample::select(vec![0x00, 0x10, 0x40]), text.clone(), text.clone())
            .prop_map(|(literal, name, value)| [vec![literal], name, value].concat()),
        3 => (prop::sample::select(vec![0x00, 0x10, 0x40]), 1_u8..15, text)
            .prop_map(|(literal, name, value)| [vec![literal | name], value].concat()),
        1 => vec(any::<u8>(), 1..4),
    ]
}

fn sender() -> impl Strategy<Value = Sender> {
    prop_oneof![Just(Sender::Client), Just(Sender::Server)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(sender in sender(), noise in vec(any::<u8>(), 0..600), sizes in vec(1_usize..50, 1..9)) {
        let _ = read(sender, &cut(&noise, &sizes));
        let bytes = [begun(sender), noise].concat();
        let _ = read(sender, &cut(&bytes, &sizes));
    }

    #[test]
    fn random_frames(
        sender in sender(),
        frames in vec((0_u8..11, any::<u8>(), 0_u32..6, vec(any::<u8>(), 0..40)), 0..30),
        sizes in vec(1_usize..50, 1..9),
    ) {
        let mut bytes = begun(sender);
        for (kind, flags, stream, payload) in frames {
            bytes.extend(frame(kind, flags, stream, &payload));
        }
        let _ = read(sender, &cut(&bytes, &sizes));
    }

    #[test]
    fn random_header_blocks(
        sender in sender(),
        blocks in vec((vec(line(), 0..8), any::<bool>()), 1..12),
        sizes in vec(1_usize..50, 1..9),
    ) {
        let mut bytes = begun(sender);
        for (lines, end) in blocks {
            bytes.extend(frame(1, 4 | u8::from(end), 1, &lines.concat()));
        }
        let cut = read(sender, &cut(&bytes, &sizes));
        prop_assert_eq!(cut, read(sender, &[&bytes]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn right_bytes_with_faults(
        (sender, events) in direction(),
        faults in vec((any::<prop::sample::Index>(), 0_usize..3, any::<u8>()), 1..6),
        sizes in vec(1_usize..5_000, 1..9),
    ) {
        let mut bytes = written(sender, &events, 4_096);
        for (place, fault, byte) in faults {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match fault {
                0 => bytes[place] ^= byte,
                1 => bytes.insert(place, byte),
                _ => drop(bytes.drain(place..(place + usize::from(byte)).min(bytes.len()))),
            }
        }
        let _ = read(sender, &cut(&bytes, &sizes));
    }
}
