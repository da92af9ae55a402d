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

use connection_manager::{
    Far, Worker, World, adaptive, assert_after_no_room, changed, up, with_and_without_another_way,
};
use serde_json::json;
use wsferry::connection_manager::{
    Config, ConnectionManager, Evidence, Link, ProbeFailure, ProbeKind, Reason, Verdict,
};
use wsferry::time::Time;

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
    // Nor do they stand for the one that is under way.
    while worker.probe.is_none() {
        worker.run_until(worker.now + 10);
    }
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    assert!(!tunnel.probe_answered(first, now, 0));
    assert!(!tunnel.probe_failed(first, ProbeFailure::NoConverter, now, 0));
    assert!(matches!(worker.link(), Link::Opening { .. }));
}

#[test]
fn the_round_trip_is_a_moving_average() {
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    let mut now = 0;
    for (sample, average) in [
        // The one that opens takes the handshake besides.
        (60, None),
        (20, Some(20)),
        (100, Some(30)),
        (20, Some(28)),
        (28, Some(28)),
        (29, Some(29)),
        (28, Some(28)),
        (0, Some(24)),
    ] {
        tunnel.poll(Time(now), 0);
        let id = tunnel.probe_sent(Time(now));
        now += sample;
        assert!(tunnel.probe_answered(id, Time(now), 0));
        assert_eq!(tunnel.round_trip_ms(), average, "after {sample}");
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
    tunnel.websocket_ended(Time(now + 1), Time(now + 1));
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

/// The host gives probes up after `timeout_ms`: the process was stopped, say.
#[test]
fn a_probe_that_seems_to_take_longer_than_its_time_out_is_not_measured() {
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    for (sent, answered, average) in [
        (0, 1_001, None),
        (2_000, 3_000, Some(1_000)),
        (4_000, 90_000, Some(1_000)),
    ] {
        tunnel.poll(Time(sent), 0);
        let id = tunnel.probe_sent(Time(sent));
        assert!(tunnel.probe_answered(id, Time(answered), 0));
        assert!(matches!(tunnel.link(), Link::Up { .. }));
        assert_eq!(tunnel.round_trip_ms(), average, "sent at {sent}");
    }
}

/// A circuit breaker of the tunnel's cluster, say: that is for requests to find out, and those that have another way take it.
#[test]
fn a_probe_that_finds_no_room_says_nothing_of_the_far_end() {
    for (config, has_other_way) in with_and_without_another_way() {
        let world = World::new(Far::Works(5));
        let mut worker = up(&world, &config);
        let mut now = worker.time();
        let tunnel = worker.manager.tunnel(0).unwrap();
        // More in a row than failures would take it out of use.
        for number in 1..=5 {
            let id = tunnel.probe_sent(now);
            assert!(tunnel.probe_failed(id, ProbeFailure::Unsent, now, 0));
            assert_after_no_room(tunnel.request(number, now), has_other_way);
            assert_eq!(tunnel.poll(now.after(999), 0), None, "once a second");
            now = now.after(1_000);
            assert_eq!(tunnel.poll(now, 0), Some(ProbeKind::KeepAlive));
        }
        let id = tunnel.probe_sent(now);
        assert!(tunnel.probe_answered(id, now, 0));
        assert!(matches!(
            tunnel.request(9, now),
            Verdict::WebSocket(Reason::Up, _)
        ));
    }
    // One that would have opened the WebSocket has failed like any other.
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    tunnel.poll(Time(0), 0);
    let id = tunnel.probe_sent(Time(0));
    assert!(tunnel.probe_failed(id, ProbeFailure::Unsent, Time(1), 0));
    assert!(matches!(tunnel.link(), Link::Backoff { .. }));
}

/// `failures.consecutive` counts what follows a request or a probe that passed.
#[test]
fn probes_that_fail_after_a_request_has_passed_are_counted_from_one() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    for failures in 1..=3 {
        assert!(
            matches!(tunnel.link(), Link::Up { .. }),
            "after {} failures",
            failures - 1
        );
        let id = tunnel.probe_sent(now);
        assert!(tunnel.probe_failed(id, ProbeFailure::TimedOut, now, 0));
    }
    assert!(matches!(tunnel.link(), Link::Backoff { .. }));
}

/// Of many the host lets some go on, and the others when it wakes (`plugin`).
#[test]
fn requests_that_need_wait_no_longer_are_work_for_at_once() {
    let mut manager = always();
    let tunnel = manager.tunnel(0).unwrap();
    assert_eq!(tunnel.poll(Time(10), 0), Some(ProbeKind::Open));
    let id = tunnel.probe_sent(Time(10));
    for waiter in 1..=2 {
        assert!(matches!(tunnel.request(waiter, Time(10)), Verdict::Wait(_)));
    }
    assert!(tunnel.wake() > Some(Time(10)));
    assert!(tunnel.probe_answered(id, Time(20), 0));
    assert!(tunnel.resolve(Time(20)).is_some());
    assert!(tunnel.wake() <= Some(Time(20)), "{:?}", tunnel.wake());
    assert!(tunnel.resolve(Time(20)).is_some());
    assert!(tunnel.wake() > Some(Time(20)), "{:?}", tunnel.wake());
}
