//! The drivers by themselves: every scenario passes where nothing is converted.

use integration::chunking::Chunking;
use integration::end::Transparent;
use integration::exact::play_exactly;
use integration::pair::Joint;
use integration::play::{h2_can_send, play};
use integration::scenario::{Level, Scenario, all};

fn in_memory() -> impl Iterator<Item = Scenario> {
    all()
        .into_iter()
        .filter(|scenario| scenario.only.contains(&Level::Memory))
}

#[test]
fn every_scenario_passes_without_converters() {
    for scenario in in_memory().filter(h2_can_send) {
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

#[test]
fn every_scenario_is_exact_without_converters() {
    for scenario in in_memory() {
        println!("{}", scenario.name);
        play_exactly(&scenario, Transparent, Transparent, &Chunking::random(1));
    }
}
