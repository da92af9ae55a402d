//! What the connection manager does about a far end that fails, and when it tries again.
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

use connection_manager::{
    Far, Worker, World, adaptive, assert_after_no_room, changed, up, with_and_without_another_way,
};
use serde_json::json;
use wsferry::connection_manager::{Evidence, Link, Reason, Verdict};

#[test]
fn the_far_end_stops_and_comes_back() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.run_until(6_000);
    world.far.set(Far::Down);
    worker.connected = false;
    worker.decisions.clear();
    // 200 requests a second for 3 s without it, then for 6 s with it.
    worker.requests(600, 5);
    assert_eq!(
        worker.decisions["websocket up"], 1,
        "one finds out: {:?}",
        worker.decisions
    );
    assert_eq!(
        worker.decisions.values().sum::<u32>(),
        600,
        "{:?}",
        worker.decisions
    );
    world.far.set(Far::Works(5));
    worker.decisions.clear();
    let last = worker.requests(1200, 5).unwrap();
    assert!(matches!(last, Verdict::WebSocket(Reason::Up, _)), "{last:?}");
    let used = worker.decisions["websocket up"];
    assert!(
        used > 700,
        "back after at most 4 s of back-off: {:?}",
        worker.decisions
    );
}

#[test]
fn many_failures_of_one_broken_connection_count_once() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    let tickets: Vec<_> = (0..20)
        .map(|_| match worker.request() {
            Verdict::WebSocket(_, ticket) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    worker.connected = false;
    for ticket in tickets {
        worker.finish(ticket, Evidence::Failed);
    }
    assert!(matches!(worker.link(), Link::Up { .. }));
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Suspect));
    worker.run_until(worker.now + 5);
    assert!(
        matches!(worker.complete_request(), Verdict::WebSocket(Reason::Up, _)),
        "the probe passed over a new WebSocket"
    );
    assert_eq!(worker.manager.tunnel(0).unwrap().in_flight(), 0);
}

#[test]
fn requests_that_keep_failing_take_the_tunnel_out_although_probes_pass() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    for failures in 1..=3 {
        let Verdict::WebSocket(_, ticket) = worker.request() else {
            panic!("{:?} after {failures}", worker.link());
        };
        worker.finish(ticket, Evidence::Failed);
        worker.run_until(worker.now + 10);
    }
    assert!(matches!(worker.link(), Link::Backoff { .. }));
    // Back again, it has three once more.
    while !matches!(worker.link(), Link::Up { .. }) {
        worker.run_until(worker.now + 10);
    }
    for _ in 0..2 {
        let Verdict::WebSocket(_, ticket) = worker.request() else {
            panic!("{:?}", worker.link());
        };
        worker.finish(ticket, Evidence::Failed);
        worker.run_until(worker.now + 10);
    }
    assert!(matches!(worker.link(), Link::Up { .. }));
    // One that passes between them makes the run begin again.
    let mut worker = up(&world, &adaptive());
    for round in 0..6 {
        let Verdict::WebSocket(_, ticket) = worker.request() else {
            panic!("{:?} in {round}", worker.link());
        };
        worker.finish(ticket, Evidence::Failed);
        worker.run_until(worker.now + 10);
        if round % 2 == 1 {
            worker.complete_request();
        }
    }
    assert!(matches!(worker.link(), Link::Up { .. }));
}

/// Envoy doesn't say why it sent a request again.
#[test]
fn requests_that_are_sent_again_cost_a_probe_a_second_and_nothing_else() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.run_until(worker.now + 1_000);
    worker.decisions.clear();
    for _ in 0..200 {
        if let Verdict::WebSocket(_, ticket) = worker.request() {
            worker.finish(ticket, Evidence::Retried);
        }
        worker.run_until(worker.now + 20);
    }
    assert!(matches!(worker.link(), Link::Up { .. }));
    let suspect = worker.decisions.get("http suspect").copied().unwrap_or_default();
    assert!(suspect <= 5, "{:?}", worker.decisions);
    // Where it is the tunnel that has failed, the probe tells.
    worker.run_until(worker.now + 1_000);
    let Verdict::WebSocket(_, ticket) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    world.far.set(Far::Down);
    worker.connected = false;
    worker.finish(ticket, Evidence::Retried);
    assert!(matches!(worker.request(), Verdict::Http(_)));
    worker.run_until(worker.now + 100);
    assert!(matches!(worker.link(), Link::Backoff { .. }));
}

#[test]
fn a_tunnel_that_dies_silently_is_left_in_time() {
    for offset in (0..2_000).step_by(97) {
        let world = World::new(Far::Works(5));
        let mut worker = up(&world, &adaptive());
        worker.run_until(3_000 + offset);
        world.far.set(Far::Silent);
        let silent = worker.now;
        let mut last_used = silent;
        while worker.now < silent + 6_000 {
            // Such a request hangs: it gives no evidence.
            if let Verdict::WebSocket(..) = worker.request() {
                last_used = worker.now;
            }
            worker.run_until(worker.now + 5);
        }
        assert!(last_used - silent <= 2_000 + 300, "{} ms", last_used - silent);
    }
}

#[test]
fn backoff_doubles_up_to_its_limit_and_forgets_after_a_stable_time() {
    let config = changed(&[("jitter_percent", json!(0)), ("eager", json!(true))]);
    let world = World::new(Far::Down);
    let mut worker = Worker::new(&world, &config);
    worker.run_until(60_000);
    let delays = |worker: &Worker| -> Vec<u64> {
        worker
            .links
            .iter()
            .filter_map(|&(at, link)| match link {
                Link::Backoff { until } => Some(until.0 - at),
                _ => None,
            })
            .collect()
    };
    let seen = delays(&worker);
    assert_eq!(seen[..6], [500, 1_000, 2_000, 4_000, 8_000, 8_000]);

    // Up for less than `stable_ms`: it goes on where it was.
    world.far.set(Far::Works(1));
    while !matches!(worker.link(), Link::Up { .. }) {
        worker.run_until(worker.now + 100);
    }
    let fall = |worker: &mut Worker| {
        worker.links.clear();
        worker.world.far.set(Far::Down);
        worker.connected = false;
        worker.run_until(worker.now + 2_500);
        delays(worker)[0]
    };
    assert_eq!(fall(&mut worker), 8_000);
    world.far.set(Far::Works(1));
    worker.run_until(worker.now + 20_000);
    assert_eq!(fall(&mut worker), 500);
}

/// A request that waits sees the tunnel tried again.
#[test]
fn in_mode_always_a_backoff_is_at_most_half_of_the_wait() {
    let config = changed(&[
        ("jitter_percent", json!(0)),
        ("eager", json!(true)),
        ("mode", json!("always")),
        ("max_wait_ms", json!(3_000)),
    ]);
    let world = World::new(Far::Down);
    let mut worker = Worker::new(&world, &config);
    worker.run_until(30_000);
    let longest = worker.links.iter().filter_map(|&(at, link)| match link {
        Link::Backoff { until } => Some(until.0 - at),
        _ => None,
    });
    assert_eq!(longest.max(), Some(1_500));
}

/// `stable_ms`: a tunnel that worked for so long begins again with the base (docs/configuration.md).
#[test]
fn a_tunnel_that_was_let_go_after_it_was_stable_begins_with_the_base() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    // An outage with several back-offs.
    world.far.set(Far::Down);
    worker.connected = false;
    worker.requests(1000, 20);
    world.far.set(Far::Works(5));
    worker.requests(1000, 20);
    assert!(matches!(worker.link(), Link::Up { .. }));
    // It works for 60 s (stable_ms is 5 s), then nobody wants it for a while.
    worker.requests(600, 100);
    assert!(matches!(worker.link(), Link::Up { .. }));
    worker.run_until(worker.now + 60_000);
    assert_eq!(worker.link(), Link::Idle);
    // A new day; the far end is just away.
    world.far.set(Far::Down);
    worker.connected = false;
    worker.links.clear();
    worker.requests(8, 10);
    let Some((at, Link::Backoff { until })) = worker
        .links
        .iter()
        .find(|(_, link)| matches!(link, Link::Backoff { .. }))
        .copied()
    else {
        panic!("{:?}", worker.links)
    };
    assert!(
        until.0 - at <= 500,
        "base_backoff_ms is 500, back-off of {} ms",
        until.0 - at
    );
}

/// What finds no room in a circuit breaker: a probe looks where there is another way, and it is no failure.
#[test]
fn requests_that_find_no_room_cost_a_probe_where_there_is_another_way() {
    for (config, has_other_way) in with_and_without_another_way() {
        let world = World::new(Far::Works(5));
        let mut worker = up(&world, &config);
        for round in 0..5 {
            worker.run_until(worker.now + 1_000);
            let Verdict::WebSocket(Reason::Up, ticket) = worker.request() else {
                panic!("{:?} in round {round}", worker.link());
            };
            worker.finish(ticket, Evidence::Unsent);
            assert_after_no_room(worker.request(), has_other_way);
        }
    }
}
