//! The driver by itself: every scenario passes where nothing is converted.

use integration::chunking::Chunking;
use integration::end::Transparent;
use integration::pair::Joint;
use integration::play::{h2_can_send, play};
use integration::scenario::{Level, all};

#[test]
fn every_scenario_passes_without_converters() {
    for scenario in all() {
        if !scenario.only.contains(&Level::Memory) || !h2_can_send(&scenario) {
            println!("{}: skipped", scenario.name);
            continue;
        }
        println!("{}", scenario.name);
        for chunking in [Chunking::AsIs, Chunking::random(1)] {
            let joint = Joint {
                chunking,
                record: false,
            };
            play(&scenario, Transparent, Transparent, &joint);
        }
    }
}
