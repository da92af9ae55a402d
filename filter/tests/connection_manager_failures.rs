//! What the connection manager does about a far end that fails, is slow, or has no converter.
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
    Claim, Config, ConnectionManager, Evidence, Link, ProbeFailure, ProbeKind, Reason, Target, Time, Verdict,
};

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
    let Verdict::WebSocket(_, ticket) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    worker.finish(ticket, Evidence::Failed);
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
    tunnel.handshake_refused(1, now);
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
    let now = worker.time();
    let tunnel = worker.manager.tunnel(0).unwrap();
    tunnel.handshake_refused(1, now);
    assert_eq!(tunnel.request(1, now), Verdict::Http(Reason::Suspect));
    let probe = tunnel.probe_sent(now);
    tunnel.probe_answered(probe, now, 0);
    tunnel.handshake_refused(1, now);
    assert!(matches!(
        tunnel.request(2, now),
        Verdict::WebSocket(Reason::Up, _)
    ));
    tunnel.handshake_refused(2, now);
    assert_eq!(tunnel.request(3, now), Verdict::Http(Reason::Suspect));
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
    assert!(
        matches!(asking.claim(Time(0).after(0), 300, TTL), Claim::Wait { .. }),
        "a small step back of the clock"
    );
    let until = Time(200_000);
    let lacks = Target::Lacks { until };
    assert_eq!(lacks.claim(Time(190_000), 300, TTL), Claim::Lacks { until });
    assert_eq!(lacks.claim(Time(20_000), 300, TTL), Claim::Lacks { until });
    assert!(
        matches!(lacks.claim(Time(19_999), 300, TTL), Claim::Granted(_)),
        "it would be left alone for longer than it ever is: the clock was set back"
    );
    for (before, after) in [
        (Target::Unknown, Target::Unknown),
        (asking, Target::Unknown),
        (Target::Has, Target::Unknown),
        (lacks, lacks),
    ] {
        assert_eq!(before.after_failure(), after);
    }
    for target in [Target::Unknown, asking, Target::Has, lacks] {
        assert_eq!(Target::decode(&target.encode()), target);
    }
    for bytes in [&[][..], &[9; 9], &[1; 8]] {
        assert_eq!(Target::decode(bytes), Target::Unknown);
    }
}

/// The next request would open another one: that is for a probe to do, as at first.
#[test]
fn the_end_of_a_websocket_is_mended_by_a_probe() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.run_until(worker.now + 100);
    let Verdict::WebSocket(_, before) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    let end = |worker: &mut Worker, mark, at| {
        let now = worker.time();
        worker
            .manager
            .tunnel(0)
            .unwrap()
            .websocket_ended(mark, Time(at), now);
    };
    let ended = worker.now;
    worker.connected = false;
    end(&mut worker, 1, ended);
    assert_eq!(worker.request(), Verdict::Http(Reason::Suspect));
    // What was under way in the old one passes, and says nothing of the next.
    worker.finish(before, Evidence::Passed);
    assert_eq!(worker.request(), Verdict::Http(Reason::Suspect));
    let handshakes = world.handshakes.get();
    worker.run_until(worker.now + 10);
    assert_eq!(
        world.handshakes.get(),
        handshakes,
        "the first probe after it made one at once"
    );
    assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
    // The same end again, and one from before the probe, say nothing new.
    end(&mut worker, 1, ended);
    end(&mut worker, 2, ended - 1);
    assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
    // A far end that ends each at once isn't asked again and again.
    let handshakes = world.handshakes.get();
    for mark in 10..2_010 {
        worker.connected = false;
        let now = worker.now;
        end(&mut worker, mark, now);
        worker.requests(1, 1);
    }
    let more = world.handshakes.get() - handshakes;
    assert!((1..=3).contains(&more), "{more} in two seconds");
}

/// It passed through the WebSocket that said goaway meanwhile, and there is no other one yet.
#[test]
fn a_probe_that_was_under_way_when_its_websocket_ended_mends_nothing() {
    let world = World::new(Far::Works(50));
    let mut worker = up(&world, &adaptive());
    while worker.probe.is_none() {
        worker.requests(1, 10);
    }
    worker.run_until(worker.now + 10);
    let now = worker.time();
    worker.manager.tunnel(0).unwrap().websocket_ended(1, now, now);
    assert_eq!(worker.request(), Verdict::Http(Reason::Suspect));
    worker.run_until(worker.now + 45);
    assert_eq!(
        worker.request(),
        Verdict::Http(Reason::Suspect),
        "its answer is no proof"
    );
    worker.run_until(worker.now + 1_100);
    assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
}

/// Mode always has no other way where no request waits, and a tunnel that isn't open nothing to mend.
#[test]
fn the_end_of_a_websocket_changes_nothing_else() {
    let world = World::new(Far::Works(5));
    let mut always = up(&world, &json!({"mode": "always", "max_wait_ms": 0}));
    let now = always.time();
    always.manager.tunnel(0).unwrap().websocket_ended(1, now, now);
    assert!(matches!(always.request(), Verdict::WebSocket(Reason::Up, _)));
    let mut cold = Worker::new(&world, &adaptive());
    cold.manager.tunnel(0).unwrap().websocket_ended(1, now, now);
    assert_eq!(cold.request(), Verdict::Http(Reason::Cold));
    assert!(cold.probe.is_none());
}

/// What the next request would be sent into may be there again a moment later.
#[test]
fn in_mode_always_requests_wait_out_the_end_of_a_websocket() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("mode", json!("always"))]));
    worker.resolved.clear();
    world.far.set(Far::Down);
    let now = worker.time();
    worker.manager.tunnel(0).unwrap().websocket_ended(1, now, now);
    let waiting: Vec<_> = (0..5).map(|_| worker.request()).collect();
    assert!(
        waiting.iter().all(|verdict| matches!(verdict, Verdict::Wait(_))),
        "{waiting:?}"
    );
    worker.run_until(worker.now + 1_000);
    assert_eq!(worker.resolved, []);
    world.far.set(Far::Works(5));
    worker.run_until(worker.now + 3_000);
    assert_eq!(worker.resolved.len(), 5);
    for (_, verdict, _) in &worker.resolved {
        assert!(
            matches!(verdict, Verdict::WebSocket(Reason::Waited, _)),
            "{verdict:?}"
        );
    }
}

/// A far end that drains may say goaway in every WebSocket.
#[test]
fn in_mode_always_websockets_of_one_answer_each_do() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("mode", json!("always"))]));
    for mark in 1..=20 {
        let now = worker.time();
        worker.manager.tunnel(0).unwrap().websocket_ended(mark, now, now);
        assert!(matches!(worker.request(), Verdict::Wait(_)));
        // The probe's own one ends, too, before its answer is here.
        worker.run_until(worker.now + 2);
        let now = worker.time();
        worker
            .manager
            .tunnel(0)
            .unwrap()
            .websocket_ended(1_000 + mark, now, now);
        worker.run_until(worker.now + 10);
        let (_, verdict, _) = worker.resolved.pop().expect("it waits no longer");
        assert!(
            matches!(verdict, Verdict::WebSocket(Reason::Waited, _)),
            "{verdict:?}"
        );
        worker.manager.tunnel(0).unwrap().leave();
    }
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

/// In mode always, where none waits, requests enter a tunnel that a probe has made suspect, and may be first to prove it.
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

fn always() -> ConnectionManager {
    let config = json!({"role": "connection_manager", "tunnels": [
        {"name": "far", "mode": "always", "eager": true, "probe": {"cluster": "tunnel"}}
    ]});
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    ConnectionManager::new(&config, Time(0))
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

#[test]
fn a_lease_that_ends_later_than_any_is_from_before_the_clock_was_set_back() {
    let now = Time(1_000_000);
    let longest = now.after(300).after(120_000);
    let asking = |until| Target::Asking { until }.claim(now, 300, 60_000);
    assert_eq!(asking(longest), Claim::Wait { until: longest });
    let new = Target::Asking {
        until: now.after(300),
    };
    assert_eq!(asking(longest.after(1)), Claim::Granted(new));
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
