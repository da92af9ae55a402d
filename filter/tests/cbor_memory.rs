//! What encoding and decoding allocate: nothing in the steady state, and never more than the limits allow.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod allocations;
mod cbor;

use std::sync::Arc;

use allocations::{held, measured};
use cbor::Owned;
use cbor::traffic::Traffic;
use proptest::test_runner::{RngAlgorithm, TestRng};
use wsferry::Error;
use wsferry::cbor::{Decoder, Encoder};
use wsferry::config::{FieldPolicy, Limits, MESSAGE_BYTES};
use wsferry::message::WireId;

fn traffic(seed: u8) -> Traffic {
    Traffic::new(TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

#[test]
fn nothing_is_allocated_in_the_steady_state() {
    let mut encoder = Encoder::new(&Arc::new(FieldPolicy::default()));
    let mut decoder = Decoder::new(&Limits::default());
    let mut out = Vec::with_capacity(1 << 20);
    let mut traffic = traffic(1);
    let mut carry = |message: &Owned| {
        message.lend(|message| {
            measured(|| {
                out.clear();
                encoder.encode(message, &mut out);
                let mut input = &out[..];
                while decoder.next(&mut input).unwrap().is_some() {}
            })
            .0
        })
    };
    let largest = Owned::Trailers {
        stream: 0,
        fields: vec![(b"x".to_vec(), vec![b'v'; 300], false); 250],
    };
    carry(&largest);
    for _ in 0..5_000 {
        carry(&traffic.message());
    }
    let calls: usize = (0..5_000).map(|_| carry(&traffic.message())).sum();
    assert_eq!(calls, 0);
}

/// What a decoder may hold at most: a partial message while it grows, the field table (stored in at most
/// twice its size), names, a header list and its pseudo-header fields.
const MOST: isize = 2 * MESSAGE_BYTES as isize + 1024 * 1024;

fn decode_in(decoder: &mut Decoder, bytes: &[u8], size: usize) -> Result<(), Error> {
    for mut input in bytes.chunks(size) {
        while decoder.next(&mut input)?.is_some() {}
    }
    decoder.end_of_message()
}

#[test]
fn hostile_input_stays_within_the_limits() {
    let string = |front: &[u8], length: u32| [front, &[0x5a], &length.to_be_bytes()].concat();
    let filled = |front: &[u8], length: u32| {
        let mut bytes = string(front, length);
        bytes.resize(bytes.len() + length as usize, b'x');
        bytes
    };
    let mut bomb = Vec::new();
    for _ in 0..8 {
        bomb.extend_from_slice(&[0x83, 3, 0, 0x82, 0x61, b'x', 0x79, 0x1f, 0xdf]);
        bomb.resize(bomb.len() + 0x1fdf, b'v');
    }
    bomb.extend_from_slice(&[0x83, 3, 0, 0x99, 0x80, 0]);
    bomb.resize(bomb.len() + 0x8000, 3);
    let inputs = [
        bomb,
        // Announced and not there.
        string(&[0x83, 3, 0, 0x82, 0x61, b'x'], 1 << 20),
        [0x83, 3, 0, 0x9b, 0, 0, 0, 0, 0, 0x10, 0, 0].to_vec(),
        [0x82, 6, 0xba, 0, 7, 0, 0].to_vec(),
        // Announced and there.
        filled(&[0x83, 3, 0, 0x82, 0x61, b'x'], 1 << 20),
        filled(&[0x83, 3, 0, 0x82, 0x61, b'x'], (1 << 20) - 20),
        [&[0x83, 3, 0, 0x9a, 0, 0x0f, 0, 0][..], &[0x40; 0xf_0000]].concat(),
        // Data and skipped messages, of 1 MiB in all.
        filled(&[0x84, 2, 0, 0xf5], (1 << 20) - 20),
        filled(&[0x82, 0x18, 64], (1 << 20) - 20),
        [&[0x82, 0x18, 64, 0x9a, 0, 0x0f, 0, 0][..], &[0; 0xf_0000]].concat(),
    ];
    for (number, bytes) in inputs.iter().enumerate() {
        for size in [1, 1_000, usize::MAX] {
            let mut decoder = Decoder::new(&Limits::default());
            let (_, peak) = measured(|| {
                let _ = decode_in(&mut decoder, bytes, size);
            });
            assert!(peak <= MOST, "input {number} in pieces of {size}: {peak} bytes");
            let passed_on = number >= 7;
            assert!(
                !passed_on || peak < 10_000,
                "input {number} isn't kept: {peak} bytes"
            );
        }
    }
}

#[test]
fn a_large_message_leaves_no_large_buffer_behind() {
    let before = held();
    let mut decoder = Decoder::new(&Limits {
        max_header_list_bytes: 512 * 1024,
        ..Limits::default()
    });
    // Eight fields of 50,000 bytes.
    let length = 50_000_u16;
    let mut field = [&[0x41, b'x', 0x59][..], &length.to_be_bytes()].concat();
    field.resize(field.len() + usize::from(length), b'x');
    let bytes = [&[0x83, 3, 0, 0x90][..], &field.repeat(8)].concat();
    assert_eq!(decode_in(&mut decoder, &bytes, 10_000), Ok(()));
    drop(bytes);
    // The header list stays, the message it came in doesn't.
    let held = held() - before;
    assert!(held < 520_000, "{held} bytes");
}

#[test]
fn encoders_are_bounded_too() {
    let before = held();
    let mut encoder = Encoder::new(&Arc::new(FieldPolicy::default()));
    let mut out = Vec::new();
    let mut serial = 0_u32;
    let mut calls = 0;
    for round in 0..8_000 {
        serial += 1;
        // In twos, so that each name is learned and each value enters.
        let mut fields = wsferry::message::Fields::new();
        for _ in 0..2 {
            let name = format!("x-{}", serial % 7_000);
            fields.push(name.as_bytes(), format!("{serial:04000}").as_bytes(), false);
        }
        let message = wsferry::message::Message::Trailers {
            stream: WireId(0),
            fields: &fields,
        };
        out.clear();
        let (allocations, _) = measured(|| encoder.encode(&message, &mut out));
        calls += if round < 1_000 { 0 } else { allocations };
    }
    assert_eq!(calls, 0, "the indexes stay as they are");
    drop(out);
    let held = held() - before;
    assert!(held < 256 * 1024, "{held} bytes");
}

#[test]
fn what_is_kept_of_long_strings_is_bounded() {
    let before = held();
    let mut encoder = Encoder::new(&Arc::new(FieldPolicy::default()));
    for serial in 0..500 {
        let value = format!("{serial:08}").repeat(500);
        let fields = vec![(b"x".to_vec(), value.into_bytes(), true)];
        Owned::Trailers { stream: 0, fields }.encode(&mut encoder);
    }
    let held = held() - before;
    assert!(held < 128 * 1024, "{held} bytes");
}
