//! The drivers by themselves: every scenario passes where nothing is converted.

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
