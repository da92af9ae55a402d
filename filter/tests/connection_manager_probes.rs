//! What probes show, and which of them.
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

use connection_manager::{Far, Worker, World, adaptive, changed, up};
use serde_json::json;
use wsferry::connection_manager::{
    Config, ConnectionManager, Evidence, Link, ProbeFailure, ProbeKind, Reason, Time, Verdict,
};

fn always() -> ConnectionManager {
    let config = json!({"role": "connection_manager", "tunnels": [
        {"name": "far", "mode": "always", "eager": true, "probe": {"cluster": "tunnel"}}
    ]});
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    ConnectionManager::new(&config, Time(0))
}

#[test]
fn slow_probes_and_handshakes_that_never_end_keep_requests_on_http() {
    for far in [Far::Silent, Far::Works(299 + 1), Far::Works(10_000)] {
        let world = World::new(far);
        let mut worker = Worker::new(&world, &adaptive());
        worker.requests(2_000, 10);
        assert!(
            worker.decisions.keys().all(|name| name.starts_with("http ")),
            "{far:?}: {:?}",
            worker.decisions
        );
        assert!(world.handshakes.get() < 10, "{far:?}: {}", world.handshakes.get());
    }
}

#[test]
fn so_many_probes_in_a_row_take_the_tunnel_out() {
    let world = World::new(Far::Works(5));
    let mut worker = up(
        &world,
        &changed(&[("failures", json!({"consecutive": 2})), ("eager", json!(true))]),
    );
    for _ in 0..10 {
        // One is lost now and then, the next one passes.
        while worker.probe.is_none() {
            worker.run_until(worker.now + 1);
        }
        worker.probe.as_mut().unwrap().2 = Err(ProbeFailure::TimedOut);
        worker.run_until(worker.now + 500);
        assert!(matches!(worker.link(), Link::Up { .. }));
    }
    world.far.set(Far::Silent);
    let start = worker.now;
    let mut suspect = 0;
    while matches!(worker.link(), Link::Up { .. }) && worker.now < start + 5_000 {
        if worker.request() == Verdict::Http(Reason::Suspect) {
            suspect += 1;
        }
        worker.run_until(worker.now + 1);
    }
    assert!(matches!(worker.link(), Link::Backoff { .. }));
    assert!(
        (295..=305).contains(&suspect),
        "as long as one more probe takes: {suspect}"
    );
}

#[test]
fn a_probe_that_was_under_way_when_the_state_changed_proves_nothing() {
    let world = World::new(Far::Works(50));
    let mut worker = up(&world, &adaptive());
    let Verdict::WebSocket(_, ticket) = worker.request() else {
        panic!("is up");
    };
    worker.finish(ticket, Evidence::Failed);
    worker.probe.as_mut().expect("suspect: asked at once").2 = Err(ProbeFailure::Broken);
    let until = worker.time().after(60_000);
    worker.manager.tunnel(0).unwrap().no_converter(until);
    worker.run_until(worker.now + 1_000);
    assert_eq!(worker.link(), Link::NoConverter { until });
}

#[test]
fn late_answers_of_earlier_probes_are_ignored() {
    let world = World::new(Far::Silent);
    let mut worker = Worker::new(&world, &changed(&[("eager", json!(true))]));
    let (first, at, _) = worker.probe.unwrap();
    // The host says nothing at all: the probe is lost a second after its time-out.
    worker.probe = None;
    worker.run_until(at + 1_000);
    assert!(
        matches!(worker.link(), Link::Backoff { .. }),
        "{:?}",
        worker.link()
    );
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    assert!(!tunnel.probe_answered(first, now, 0));
    assert!(!tunnel.probe_failed(first, ProbeFailure::NoConverter, now, 0));
    assert!(matches!(worker.link(), Link::Backoff { .. }));
}

#[test]
fn the_round_trip_is_a_moving_average() {
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    let mut now = 0;
    for (sample, average) in [
        (20, 20),
        (100, 30),
        (20, 28),
        (28, 28),
        (29, 29),
        (28, 28),
        (0, 24),
    ] {
        tunnel.poll(Time(now), 0);
        let id = tunnel.probe_sent(Time(now));
        now += sample;
        assert!(tunnel.probe_answered(id, Time(now), 0));
        assert_eq!(tunnel.round_trip_ms(), Some(average), "after {sample}");
    }
}

#[test]
fn a_probe_that_fails_in_time_matters() {
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    tunnel.poll(Time(0), 0);
    let id = tunnel.probe_sent(Time(0));
    assert!(tunnel.probe_failed(id, ProbeFailure::Broken, Time(1), 0));
}

#[test]
fn a_probe_that_is_answered_after_the_end_of_its_websocket_matters() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.run_until(worker.now + 100);
    let now = worker.now;
    let tunnel = worker.manager.tunnel(0).unwrap();
    let id = tunnel.probe_sent(Time(now));
    tunnel.websocket_ended(1, Time(now + 1), Time(now + 1));
    assert!(tunnel.probe_answered(id, Time(now + 2), 0));
}

#[test]
fn a_probe_that_is_postponed_is_wanted_when_its_time_comes() {
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    assert_eq!(tunnel.poll(Time(0), 0), Some(ProbeKind::Open));
    tunnel.postpone(Time(50));
    assert_eq!(tunnel.poll(Time(49), 0), None);
    assert_eq!(tunnel.wake(), Some(Time(50)));
    assert_eq!(tunnel.poll(Time(50), 0), Some(ProbeKind::Open));
}

/// It may have passed through the very connection that the request finds broken later.
#[test]
fn a_probe_that_passes_takes_no_evidence_from_requests_under_way() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    let Verdict::WebSocket(Reason::Up, ticket) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    worker.run_until(worker.now + 3_000);
    world.far.set(Far::Silent);
    worker.finish(ticket, Evidence::Failed);
    assert_eq!(worker.request(), Verdict::Http(Reason::Suspect));
}

/// They may have passed through the connection that the suspicion was about.
#[test]
fn requests_that_enter_a_suspect_tunnel_say_nothing_after_a_probe_has_passed() {
    let world = World::new(Far::Works(5));
    let mut worker = up(
        &world,
        &changed(&[("mode", json!("always")), ("max_wait_ms", json!(0))]),
    );
    let Verdict::WebSocket(Reason::Up, first) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    worker.finish(first, Evidence::Failed);
    let Verdict::WebSocket(Reason::Suspect, second) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    worker.run_until(worker.now + 5);
    worker.finish(second, Evidence::Failed);
    assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
}

/// In mode where none waits, requests enter a tunnel that a probe has made suspect, and may be first to prove it.
#[test]
fn a_request_that_passes_ends_the_suspicion_of_a_probe() {
    let world = World::new(Far::Works(5));
    let mut worker = up(
        &world,
        &changed(&[("mode", json!("always")), ("max_wait_ms", json!(0))]),
    );
    world.far.set(Far::Silent);
    // Three in a row would take it out.
    for _ in 0..5 {
        let ticket = loop {
            match worker.request() {
                Verdict::WebSocket(Reason::Suspect, ticket) => break ticket,
                Verdict::WebSocket(..) => worker.manager.tunnel(0).unwrap().leave(),
                other => panic!("{other:?}"),
            }
            worker.run_until(worker.now + 50);
        };
        worker.finish(ticket, Evidence::Passed);
        assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
        worker.manager.tunnel(0).unwrap().leave();
    }
}
