//! The scenario list with every chunking, over whatever ends a driver makes.

use crate::chunking::Chunking;
use crate::end::{End, NativeEnd};
use crate::exact::play_exactly;
use crate::pair::{Joint, Traffic};
use crate::play::{h2_can_send, play};
use crate::raw::Line;
use crate::scenario::{Level, Scenario, all};

/// Bodies up to this many bytes are also played one byte at a time.
const MOST_BYTEWISE: usize = 16 * 1024;

/// Scenarios whose every split point is tried.
const SPLIT_EVERYWHERE: [&str; 6] = [
    "get",
    "post_empty_body",
    "early_hints",
    "request_trailers",
    "grpc_unary",
    "origin_resets_response",
];

/// Configuration of the near ends that drivers make.
pub const NEAR: &str = r#"{"role": "near"}"#;
/// Configuration of the far ends that drivers make.
pub const FAR: &str = r#"{"role": "far"}"#;

/// The scenarios of this level.
fn in_memory() -> Vec<Scenario> {
    let mut scenarios = all();
    scenarios.retain(|scenario| scenario.only.contains(&Level::Memory));
    scenarios
}

fn chunkings(scenario: &Scenario) -> Vec<Chunking> {
    let mut chunkings = vec![Chunking::AsIs, Chunking::random(1), Chunking::random(2)];
    if scenario.body_bytes() <= MOST_BYTEWISE {
        chunkings.push(Chunking::Bytes);
    }
    chunkings
}

/// Plays every scenario with `h2` on both sides.
///
/// # Panics
/// A scenario failed; its name is printed before.
pub fn play_all<N: End + 'static, F: End + 'static>(mut ends: impl FnMut() -> (N, F)) {
    for scenario in in_memory().iter().filter(|scenario| h2_can_send(scenario)) {
        for chunking in chunkings(scenario) {
            println!("{} {chunking:?}", scenario.name);
            let (near, far) = ends();
            let joint = Joint {
                chunking,
                record: false,
            };
            play(scenario, near, far, &joint);
        }
    }
}

/// Plays every scenario with hand-made HTTP/2.
///
/// # Panics
/// A scenario failed; its name is printed before.
pub fn play_all_exactly<N: End, F: End>(mut ends: impl FnMut() -> (N, F)) {
    for scenario in in_memory() {
        for chunking in chunkings(&scenario) {
            println!("{} {chunking:?}", scenario.name);
            let (near, far) = ends();
            play_exactly(&scenario, near, far, &chunking);
        }
    }
}

/// The scenario of this name.
///
/// # Panics
/// There is none.
pub fn scenario(name: &str) -> Scenario {
    in_memory()
        .into_iter()
        .find(|scenario| scenario.name == name)
        .unwrap_or_else(|| panic!("no scenario {name}"))
}

/// What crosses between native ends in the scenario of this name.
///
/// # Panics
/// There is none, or it failed.
pub fn native_traffic(name: &str) -> Traffic {
    let (near, far) = (NativeEnd::new(NEAR), NativeEnd::new(FAR));
    play_exactly(&scenario(name), near, far, &Chunking::AsIs)
}

/// Plays small scenarios once for each place at which each stream of bytes can be cut in two. `step`
/// leaves out places, for ends that are slow.
///
/// # Panics
/// A scenario failed; its name is printed before.
pub fn play_split_everywhere<N: End, F: End>(step: usize, mut ends: impl FnMut() -> (N, F)) {
    for name in SPLIT_EVERYWHERE {
        let scenario = &scenario(name);
        let (near, far) = ends();
        let longest = longest(&play_exactly(scenario, near, far, &Chunking::AsIs));
        println!("{name}: {longest} places");
        for place in (1..longest).step_by(step) {
            let (near, far) = ends();
            play_exactly(scenario, near, far, &Chunking::SplitAt(place));
        }
    }
}

fn longest(traffic: &Traffic) -> usize {
    [
        &traffic.client_http2,
        &traffic.near_websocket,
        &traffic.server_http2,
        &traffic.far_websocket,
    ]
    .map(Vec::len)
    .into_iter()
    .max()
    .unwrap_or_default()
}

/// A line whose settings are exchanged, and whose ends haven't been cut.
pub fn line<N: End, F: End>((near, far): (N, F)) -> Line<N, F> {
    let mut line = Line::connect(near, far, &Chunking::AsIs);
    line.client.take_exchange();
    line.server.take_exchange();
    line
}
