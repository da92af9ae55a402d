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
use wsferry::http2::hpack::Decoder;

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
