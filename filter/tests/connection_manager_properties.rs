//! What holds for whatever happens to the connection manager.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod connection_manager;

use connection_manager::{Far, Worker, World, adaptive, changed};
use proptest::prelude::*;
use serde_json::json;
use wsferry::connection_manager::{Evidence, Link, RequestWindow, Verdict};
use wsferry::time::{Time, jittered};

/// A piece of a story: so many requests so far apart, then a change of the far end.
fn stories() -> impl Strategy<Value = Vec<(u32, u64, Far)>> {
    let far = prop_oneof![
        3 => (0u64..400).prop_map(Far::Works),
        2 => Just(Far::Down),
        1 => Just(Far::Silent),
        1 => Just(Far::NoConverter),
    ];
    prop::collection::vec(
        (0u32..40, prop_oneof![0u64..10, 0u64..500, 0u64..20_000], far),
        1..40,
    )
}

proptest! {
    /// Whatever happens: the tunnel settles, mode always uses no plain HTTP, mode adaptive never waits
    /// or refuses, and what is in flight comes down to nothing.
    #[test]
    fn any_story_keeps_the_promises(story in stories(), always in any::<bool>()) {
        let mode = if always { "always" } else { "adaptive" };
        let world = World::new(Far::Works(5));
        let mut worker = Worker::new(&world, &changed(&[("mode", json!(mode))]));
        for (count, every, far) in story {
            world.far.set(far);
            worker.connected &= matches!(far, Far::Works(_) | Far::Silent);
            worker.requests(count, every);
        }
        let waited: Vec<_> = worker.resolved.clone();
        for (_, verdict, _) in waited {
            if let Verdict::WebSocket(_, ticket) = verdict {
                worker.finish(ticket, Evidence::Passed);
            }
        }
        worker.run_until(worker.now + 10_000);
        for name in worker.decisions.keys() {
            let wrong = if always { name.starts_with("http") } else { !name.starts_with("http ") && name != "websocket up" };
            prop_assert!(!wrong, "{mode}: {name}");
        }
        if !always {
            prop_assert_eq!(worker.manager.tunnel(0).unwrap().in_flight(), 0);
        }
    }

    /// With a far end that works, a tunnel once opened stays for `close.within_ms`.
    #[test]
    fn any_traffic_opens_and_closes_without_flapping(
        gaps in prop::collection::vec(prop_oneof![0u64..50, 0u64..1_000, 0u64..15_000], 1..400),
    ) {
        let world = World::new(Far::Works(5));
        let mut worker = Worker::new(&world, &adaptive());
        for gap in gaps {
            worker.complete_request();
            worker.run_until(worker.now + gap);
        }
        let opened = worker.links.iter().filter(|(_, link)| matches!(link, Link::Up { .. }));
        let mut last = None;
        for &(at, _) in opened {
            if let Some(last) = last {
                prop_assert!(at - last >= 10_000, "{:?}", worker.links);
            }
            last = Some(at);
        }
    }

    /// A constant rate never opens and closes in turns: at most one opening, at most one end.
    #[test]
    fn a_constant_rate_settles(every in 1u64..12_000) {
        let world = World::new(Far::Works(5));
        let mut worker = Worker::new(&world, &adaptive());
        worker.requests(100, every);
        prop_assert!(worker.links.len() <= 2, "{:?}", worker.links);
        let up = matches!(worker.link(), Link::Up { .. });
        prop_assert_eq!(up, every <= 249, "5 within 1,000 ms: {:?}", worker.links);
    }

    /// Jitter shortens, by no more than its part, and reaches both ends.
    #[test]
    fn jitter_keeps_its_bounds(ms in 0u32.., percent in 0u32..=90, random in any::<u32>()) {
        let cut = u64::from(ms) * u64::from(percent) / 100;
        let result = u64::from(jittered(ms, percent, random));
        prop_assert!(result <= u64::from(ms) && result >= u64::from(ms) - cut);
        prop_assert_eq!(jittered(ms, percent, 0), ms);
        prop_assert_eq!(u64::from(jittered(ms, percent, u32::MAX)), u64::from(ms) - cut);
    }

    /// The window against the list of all times.
    #[test]
    fn the_request_window_remembers_the_last(
        capacity in 1u32..12,
        gaps in prop::collection::vec(0u64..5, 0..60),
    ) {
        let mut window = RequestWindow::new(capacity);
        let mut all = Vec::new();
        let mut now = 0;
        for gap in gaps {
            now += gap;
            window.push(Time(now));
            all.push(Time(now));
            for requests in 1..=capacity {
                let expected = all.len().checked_sub(requests as usize).map(|index| all[index]);
                prop_assert_eq!(window.last_but(requests), expected);
            }
            prop_assert_eq!(window.last_but(capacity + 1), None);
        }
    }
}
