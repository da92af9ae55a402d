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

mod cbor;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use cbor::Owned;
use cbor::traffic::Traffic;
use proptest::test_runner::{RngAlgorithm, TestRng};
use wsferry::Error;
use wsferry::cbor::{Decoder, Encoder};
use wsferry::config::{FieldPolicy, Limits, MESSAGE_BYTES};
use wsferry::message::WireId;

/// Counts what the current thread allocates.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that ends has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        if change > 0 {
            CALLS.set(CALLS.get() + 1);
            PEAK.set(PEAK.get().max(held.get()));
        }
    });
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of `work`, and the most it held, bytes.
fn measured(work: impl FnOnce()) -> (usize, isize) {
    CALLS.set(0);
    let before = HELD.get();
    PEAK.set(before);
    work();
    (CALLS.get(), PEAK.get() - before)
}

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
    let before = HELD.get();
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
    let held = HELD.get() - before;
    assert!(held < 520_000, "{held} bytes");
}

#[test]
fn encoders_are_bounded_too() {
    let before = HELD.get();
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
    let held = HELD.get() - before;
    assert!(held < 256 * 1024, "{held} bytes");
}
