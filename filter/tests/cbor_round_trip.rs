//! Messages through the encoder and back, against a second decoder written from PROTOCOL.md.

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

use ::wsferry::cbor::{Decoder, Encoder};
use cbor::traffic::Traffic;
use cbor::{Model, Owned, assert_same, decode_all, decode_pieces};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use wsferry::config::{FieldPolicy, Limits};
use wsferry::message::Message;

fn encoder() -> Encoder {
    Encoder::new(&Arc::new(FieldPolicy::default()))
}

fn decoder() -> Decoder {
    Decoder::new(&Limits::default())
}

fn traffic(seed: u8) -> Traffic {
    Traffic::new(TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

#[test]
fn long_traffic_arrives_and_the_model_agrees() {
    for seed in 0..4 {
        let (mut encoder, mut decoder, mut model) = (encoder(), decoder(), Model::default());
        let mut traffic = traffic(seed);
        for _ in 0..4_000 {
            let sent = traffic.message();
            let bytes = sent.encode(&mut encoder);
            let received = decode_all(&mut decoder, &bytes).expect("decodes");
            assert_eq!(received.len(), 1);
            assert_same(&sent, &received[0]);
            assert_eq!(model.decode(&bytes), received);
        }
        // What the test is about must have happened.
        assert!(model.inserted > 1_024, "{} inserted", model.inserted);
        assert!(model.evicted > 768, "{} evicted", model.evicted);
        assert!(model.learned > 256, "{} learned", model.learned);
        assert!(model.references > 8_000, "{} references", model.references);
    }
}

/// By that what follows knows that it has no more to do for it.
#[test]
fn a_list_that_comes_again_has_a_revision() {
    let fields = || vec![(b"x".to_vec(), b"1".to_vec(), false)];
    let request = Owned::Request {
        stream: 0,
        end: true,
        method: b"GET".to_vec(),
        scheme: b"http".to_vec(),
        authority: b"a".to_vec(),
        path: b"/".to_vec(),
        protocol: None,
        fields: fields(),
    };
    let response = |status| Owned::Response {
        stream: 0,
        end: true,
        status,
        fields: fields(),
    };
    let (mut encoder, mut decoder) = (encoder(), decoder());
    let mut revision = |message: &Owned| {
        let bytes = message.encode(&mut encoder);
        match decoder.next(&mut &bytes[..]).unwrap() {
            Some(Message::Request { head, .. }) => head.fields.revision(),
            Some(Message::Response { fields, .. }) => fields.revision(),
            other => panic!("{other:?}"),
        }
    };
    for message in [request, response(200)] {
        assert_eq!(revision(&message), None);
        // What has entered comes as a reference now.
        revision(&message);
        let known = revision(&message);
        assert!(known.is_some(), "{message:?}");
        assert_eq!(revision(&message), known);
        assert_eq!(revision(&response(404)), None);
    }
}

#[test]
fn every_split_point() {
    let (mut encoder, mut traffic) = (encoder(), traffic(9));
    // Each on a fresh table, so that it can be decoded again for each split.
    let sent: Vec<Owned> = (0..14).map(|_| traffic.message()).collect();
    let bytes: Vec<u8> = sent
        .iter()
        .flat_map(|message| message.encode(&mut encoder))
        .collect();
    let whole = decode_all(&mut decoder(), &bytes).unwrap();
    assert_eq!(whole.len(), sent.len());
    for at in 0..=bytes.len() {
        let (front, back) = bytes.split_at(at);
        let split = decode_pieces(&mut decoder(), &[front, back]).unwrap();
        assert_eq!(
            Owned::joined(split),
            Owned::joined(whole.clone()),
            "split at {at}"
        );
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let split = decode_pieces(&mut decoder(), &single).unwrap();
    assert_eq!(Owned::joined(split), Owned::joined(whole));
}

#[test]
fn every_cut_is_malformed() {
    let mut encoder = encoder();
    let mut traffic = traffic(3);
    for _ in 0..40 {
        let bytes = traffic.message().encode(&mut encoder);
        for at in (1..bytes.len()).step_by(1 + bytes.len() / 300) {
            let mut decoder = decoder();
            let mut input = &bytes[..at];
            // References into the table of other messages may fail first.
            while let Ok(Some(_)) = decoder.next(&mut input) {}
            assert!(decoder.end_of_message().is_err(), "cut at {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_of_any_size(seed in any::<[u8; 32]>(), sizes in prop::collection::vec(1_usize..200, 1..50)) {
        let (mut encoder, mut decoder) = (encoder(), decoder());
        let mut traffic = Traffic::new(TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        for _ in 0..5 {
            let sent: Vec<Owned> = (0..10).map(|_| traffic.message()).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|message| message.encode(&mut encoder)).collect();
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*size));
                pieces.push(piece);
                rest = after;
            }
            let received = Owned::joined(decode_pieces(&mut decoder, &pieces).unwrap());
            let sent = Owned::joined(sent);
            prop_assert_eq!(sent.len(), received.len());
            for (sent, received) in sent.iter().zip(&received) {
                assert_same(sent, received);
            }
        }
    }
}
