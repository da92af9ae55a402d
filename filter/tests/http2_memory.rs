//! What the tables of HPACK hold.

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

use allocations::held;
use wsferry::config::Limits;
use wsferry::http2::hpack::Decoder;
use wsferry::http2::{Event, Reader, Sender};

#[test]
fn a_table_holds_no_more_than_a_few_times_its_size() {
    let before = held();
    let mut decoder = Decoder::new();
    // A literal that enters, with a name and a value of 100 bytes each.
    let line = [&[0x40, 100][..], &[b'n'; 100], &[100], &[b'v'; 100]].concat();
    for _ in 0..10_000 {
        decoder.decode(&line, |_| {}).unwrap();
    }
    let held = held() - before;
    assert!(held < 5 * 4_096, "{held} bytes");
}

/// A name and a value of a million letters each, Huffman coded, in one list.
#[test]
fn a_long_block_leaves_no_memory_behind() {
    let mut reader = Reader::new(Sender::Client, &Limits::default());
    let mut read = |mut input: &[u8]| {
        let mut malformed = 0;
        while let Some(event) = reader.next(&mut input).unwrap() {
            malformed += usize::from(matches!(event, Event::Malformed { .. }));
        }
        malformed
    };
    read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // Eight times a, whose code is 00011 (RFC 7541 appendix B).
    let letters = [0x18, 0xc6, 0x31, 0x8c, 0x63].repeat(130_000);
    // 650,000 bytes in Huffman code: 127, and the rest in groups of seven bits.
    let string = [&[0xff, 0x91, 0xd5, 0x27][..], &letters].concat();
    let block = [&[0][..], &string, &string].concat();
    let mut frames = Vec::new();
    for (number, part) in block.chunks(16_384).enumerate() {
        let kind = if number == 0 { 1 } else { 9 };
        let flags = if part.len() < 16_384 { 4 } else { 0 };
        let [_, a, b, c] = (part.len() as u32).to_be_bytes();
        frames.extend([a, b, c, kind, flags, 0, 0, 0, 1]);
        frames.extend(part);
    }
    let before = held();
    assert_eq!(read(&frames), 1, "the list is too big");
    let left = held() - before;
    assert!(left < 100_000, "{left} bytes");
}
