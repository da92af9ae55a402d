//! The drivers by themselves: every scenario passes where nothing is converted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use integration::end::Transparent;
use integration::suite::{play_all, play_all_exactly};

#[test]
fn every_scenario_passes_without_converters() {
    play_all(|| (Transparent, Transparent));
}

#[test]
fn every_scenario_is_exact_without_converters() {
    play_all_exactly(|| (Transparent, Transparent));
}
