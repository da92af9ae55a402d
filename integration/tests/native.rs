//! The scenarios over the converter of this build.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use integration::end::NativeEnd;
use integration::suite::{FAR, NEAR, play_all, play_all_exactly, play_split_everywhere};

fn ends() -> (NativeEnd, NativeEnd) {
    (NativeEnd::new(NEAR), NativeEnd::new(FAR))
}

#[test]
fn every_scenario_passes() {
    play_all(ends);
}

#[test]
fn every_scenario_is_exact() {
    play_all_exactly(ends);
}

#[test]
fn small_scenarios_pass_wherever_bytes_are_cut() {
    play_split_everywhere(1, ends);
}
