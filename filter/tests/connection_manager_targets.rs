//! What the connection manager does about a target without converter, which all workers share.
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
use wsferry::connection_manager::{Claim, Evidence, Link, ProbeFailure, ProbeKind, Reason, Target, Verdict};
use wsferry::time::Time;

#[test]
fn a_target_without_converter_is_asked_once_per_ttl_by_all_workers_together() {
    let world = World::new(Far::NoConverter);
    let mut workers: Vec<_> = (0..4).map(|_| Worker::new(&world, &adaptive())).collect();
    for step in 0..60_000u64 {
        for worker in &mut workers {
            let verdict = worker.complete_request();
            assert!(matches!(verdict, Verdict::Http(_)), "{verdict:?}");
            worker.run_until(step * 10);
        }
    }
    let times = world.handshake_times.borrow();
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= 60_000),
        "{times:?}"
    );
    assert!(
        (10..=11).contains(&times.len()),
        "asked again each time: {times:?}"
    );
}

/// One server of several may have no converter, or none at the moment.
#[test]
fn one_refused_handshake_is_no_verdict_where_a_websocket_has_worked() {
    let world = World::new(Far::Works(5));
    let mut worker = Worker::new(&world, &adaptive());
    worker.requests(500, 10);
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    // That of another worker; this one's WebSocket is asked.
    tunnel.handshake_refused(now, now);
    assert_eq!(tunnel.poll(now, 0), Some(ProbeKind::KeepAlive));
    let first = tunnel.probe_sent(now);
    tunnel.probe_failed(first, ProbeFailure::NoConverter, now, 0);
    assert!(matches!(tunnel.link(), Link::Up { .. }));
    assert_eq!(tunnel.poll(now, 0), Some(ProbeKind::KeepAlive));
    let second = tunnel.probe_sent(now);
    tunnel.probe_failed(second, ProbeFailure::NoConverter, now, 0);
    assert!(matches!(tunnel.link(), Link::NoConverter { .. }));
}

/// A probe that was under way in the WebSocket that broke has met no refusal.
#[test]
fn a_refused_handshake_behind_a_broken_probe_is_no_verdict_either() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("failures", json!({"consecutive": 9}))]));
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    for (failure, is_verdict) in [
        (ProbeFailure::Broken, false),
        (ProbeFailure::NoConverter, false),
        (ProbeFailure::Broken, false),
        (ProbeFailure::NoConverter, false),
        (ProbeFailure::NoConverter, true),
    ] {
        let id = tunnel.probe_sent(now);
        assert!(tunnel.probe_failed(id, failure, now, 0));
        assert_eq!(matches!(tunnel.link(), Link::NoConverter { .. }), is_verdict);
    }
}

#[test]
fn a_refused_handshake_is_heeded_once() {
    let world = World::new(Far::Works(5));
    let mut worker = Worker::new(&world, &adaptive());
    worker.requests(500, 10);
    let (before, now) = (Time(worker.now - 1), worker.time());
    let tunnel = worker.manager.tunnel(0).unwrap();
    tunnel.handshake_refused(before, now);
    assert_eq!(tunnel.request(1, now), Verdict::Http(Reason::Suspect));
    let probe = tunnel.probe_sent(now);
    tunnel.probe_answered(probe, now, 0);
    tunnel.handshake_refused(before, now);
    assert!(matches!(
        tunnel.request(2, now),
        Verdict::WebSocket(Reason::Up, _)
    ));
    tunnel.handshake_refused(now, now);
    assert_eq!(tunnel.request(3, now), Verdict::Http(Reason::Suspect));
}

#[test]
fn a_refused_handshake_from_before_the_websocket_says_nothing() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    let Link::Up { since } = tunnel.link() else {
        panic!("{:?}", tunnel.link());
    };
    tunnel.handshake_refused(since, now);
    assert!(matches!(
        tunnel.request(1, now),
        Verdict::WebSocket(Reason::Up, _)
    ));
    tunnel.handshake_refused(since.after(1), now);
    assert_eq!(tunnel.request(2, now), Verdict::Http(Reason::Suspect));
}

#[test]
fn a_target_that_gets_a_converter_is_used_after_the_ttl() {
    let world = World::new(Far::NoConverter);
    let mut worker = Worker::new(&world, &adaptive());
    worker.requests(500, 10);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::NoConverter));
    world.far.set(Far::Works(5));
    worker.requests(6_000, 10);
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
    // And one that loses it while it is in use.
    world.far.set(Far::NoConverter);
    worker.connected = false;
    let (before, at) = (world.handshakes.get(), worker.now);
    worker.requests(1_000, 10);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::NoConverter));
    assert!(
        world.handshakes.get() - before <= 3,
        "a request and two probes at most"
    );
    assert!(worker.now - at < 60_000);
}

#[test]
fn one_worker_asks_while_the_others_wait() {
    const TTL: u32 = 60_000;
    let (now, later) = (Time(1_000), Time(1_300));
    let Claim::Granted(asking) = Target::Unknown.claim(now, 300, TTL) else {
        panic!("nobody asks");
    };
    assert_eq!(asking, Target::Asking { until: later });
    assert_eq!(asking.claim(Time(1_299), 300, TTL), Claim::Wait { until: later });
    assert!(
        matches!(asking.claim(later, 300, TTL), Claim::Granted(_)),
        "the other one is dead"
    );
    let until = Time(200_000);
    let lacks = Target::Lacks { until };
    assert_eq!(lacks.claim(Time(199_999), 300, TTL), Claim::Lacks { until });
    assert!(matches!(lacks.claim(until, 300, TTL), Claim::Granted(_)));
    let others = Target::Asking { until: Time(1_301) };
    for (before, turn, after) in [
        (Target::Unknown, None, Target::Unknown),
        (Target::Has, None, Target::Unknown),
        (Target::Has, Some(asking), Target::Unknown),
        (asking, Some(asking), Target::Unknown),
        (asking, None, asking),
        (others, Some(asking), others),
        (lacks, Some(asking), lacks),
    ] {
        assert_eq!(before.after_failure(turn), after);
    }
    for target in [Target::Unknown, asking, Target::Has, lacks] {
        assert_eq!(Target::decode(&target.encode()), target);
    }
    for bytes in [&[][..], &[9; 9], &[1; 8]] {
        assert_eq!(Target::decode(bytes), Target::Unknown);
    }
}

/// A configuration with shorter times may come while a longer one's are stored. Other workers may be a second ahead.
#[test]
fn what_is_to_last_longer_than_it_ever_does_is_over() {
    let now = Time(1_000_000);
    let granted = Claim::Granted(Target::Asking {
        until: now.after(300),
    });
    let until = now.after(300).after(1_000);
    let asking = |until| Target::Asking { until }.claim(now, 300, 60_000);
    assert_eq!(asking(until), Claim::Wait { until });
    assert_eq!(asking(until.after(1)), granted);
    let until = now.after(60_000).after(1_000);
    let lacks = |until| Target::Lacks { until }.claim(now, 300, 60_000);
    assert_eq!(lacks(until), Claim::Lacks { until });
    assert_eq!(lacks(until.after(1)), granted);
}

/// What passes between them shows that a WebSocket works: the next refusal is the first of its own row.
#[test]
fn refusals_with_something_that_passed_between_them_are_no_verdict() {
    let world = World::new(Far::Works(5));
    let always = changed(&[("mode", json!("always")), ("max_wait_ms", json!(0))]);
    let mut worker = up(&world, &always);
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    for number in 1..=6 {
        let probe = tunnel.probe_sent(now);
        assert!(tunnel.probe_failed(probe, ProbeFailure::NoConverter, now, 0));
        assert!(matches!(tunnel.link(), Link::Up { .. }), "refusal {number}");
        if number % 2 == 0 {
            let Verdict::WebSocket(Reason::Suspect, ticket) = tunnel.request(number, now) else {
                panic!("no request waits");
            };
            tunnel.observe(ticket, Evidence::Passed, now, 0);
        } else {
            let probe = tunnel.probe_sent(now);
            assert!(tunnel.probe_answered(probe, now, 0));
        }
    }
}

/// What was wrong before is of another server.
#[test]
fn a_target_that_gets_a_converter_begins_with_the_base_back_off() {
    let config = changed(&[("jitter_percent", json!(0)), ("eager", json!(true))]);
    let world = World::new(Far::Down);
    let mut worker = Worker::new(&world, &config);
    worker.run_until(4_000);
    world.far.set(Far::NoConverter);
    while !matches!(worker.link(), Link::NoConverter { .. }) {
        worker.run_until(worker.now + 10);
    }
    world.far.set(Far::Down);
    while !matches!(worker.link(), Link::Backoff { .. }) {
        worker.run_until(worker.now + 10);
    }
    let Some(&(at, Link::Backoff { until })) = worker.links.last() else {
        panic!("{:?}", worker.links);
    };
    assert_eq!(until.0 - at, 500, "{:?}", worker.links);
}
