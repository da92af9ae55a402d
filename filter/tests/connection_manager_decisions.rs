//! When a tunnel is opened and let go, and which way requests go, while the far end does its part.
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

use std::collections::BTreeMap;

use connection_manager::{Far, Worker, World, adaptive, changed, up};
use serde_json::json;
use wsferry::connection_manager::{Decision, Evidence, Link, Reason, Verdict, Way};
use wsferry::time::Time;

#[test]
fn cold_requests_go_over_http_and_busy_ones_open_the_tunnel() {
    let world = World::new(Far::Works(20));
    let mut worker = Worker::new(&world, &adaptive());
    for _ in 0..4 {
        assert_eq!(worker.complete_request(), Verdict::Http(Reason::Cold));
    }
    worker.run_until(1_000);
    assert_eq!(
        worker.complete_request(),
        Verdict::Http(Reason::Cold),
        "4 in 1,000 ms and one after"
    );
    assert_eq!(world.handshakes.get(), 0);
    worker.requests(3, 1);
    assert_eq!(
        worker.complete_request(),
        Verdict::Http(Reason::Opening),
        "the fifth within 1,000 ms"
    );
    worker.run_until(worker.now + 19);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Opening));
    worker.run_until(worker.now + 1);
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
    assert_eq!(world.handshakes.get(), 1);
}

#[test]
fn an_idle_tunnel_is_let_go_and_an_eager_one_is_not() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.run_until(9_000);
    assert!(matches!(worker.link(), Link::Up { .. }));
    worker.run_until(12_000);
    assert_eq!(worker.link(), Link::Idle);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Cold));
    let quiet = worker.now;
    assert_eq!(worker.manager.wake(), None, "nothing to do");
    worker.run_until(quiet + 100_000);

    let mut eager = Worker::new(&world, &changed(&[("eager", json!(true))]));
    eager.run_until(5);
    assert!(matches!(eager.link(), Link::Up { .. }), "open before any request");
    eager.run_until(1_000_000);
    assert!(matches!(eager.link(), Link::Up { .. }));
    assert_eq!(eager.links.len(), 2, "opened once: {:?}", eager.links);
}

#[test]
fn a_tunnel_with_requests_in_it_is_not_let_go() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    let Verdict::WebSocket(_, ticket) = worker.request() else {
        panic!("is up");
    };
    worker.run_until(100_000);
    assert!(matches!(worker.link(), Link::Up { .. }));
    worker.finish(ticket, Evidence::Passed);
    worker.run_until(100_001);
    assert_eq!(worker.link(), Link::Idle);
}

#[test]
fn a_slow_tunnel_is_left_alone_until_it_is_quick_again() {
    let load = json!({"max_round_trip_ms": 100});
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("load", load)]));
    world.far.set(Far::Works(250));
    worker.requests(300, 100);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Slow));
    // Between the half and the whole it stays as it is.
    world.far.set(Far::Works(80));
    worker.requests(500, 100);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Slow));
    world.far.set(Far::Works(20));
    worker.requests(500, 100);
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
    world.far.set(Far::Works(80));
    worker.requests(500, 100);
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
}

#[test]
fn a_tunnel_is_slow_above_its_limit_until_it_is_below_half_of_it() {
    let load = json!({"max_round_trip_ms": 100});
    let config = changed(&[("eager", json!(true)), ("load", load)]);
    let slow_after = |samples: &[u64]| {
        let mut worker = Worker::new(&World::new(Far::Silent), &config);
        let tunnel = worker.manager.tunnel(0).unwrap();
        let opening = [250];
        for sample in opening.iter().chain(samples) {
            let id = tunnel.probe_sent(Time(0));
            tunnel.probe_answered(id, Time(*sample), 0);
        }
        let average = tunnel.round_trip_ms().unwrap_or_default();
        (average, worker.request() == Verdict::Http(Reason::Slow))
    };
    assert_eq!(slow_after(&[]), (0, false), "the handshake is no round trip");
    assert_eq!(slow_after(&[100]), (100, false));
    assert_eq!(slow_after(&[101]), (101, true));
    assert_eq!(slow_after(&[101, 0, 0, 0, 0, 0]), (50, true));
    assert_eq!(slow_after(&[101, 0, 0, 0, 0, 0, 7]), (44, false));
}

#[test]
fn the_smallest_limit_is_reached_from_above_too() {
    let load = json!({"max_round_trip_ms": 1});
    let world = World::new(Far::Works(2));
    let mut worker = up(&world, &changed(&[("load", load)]));
    worker.requests(100, 100);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Slow));
    world.far.set(Far::Works(0));
    worker.requests(500, 100);
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
}

/// Nor does what an earlier WebSocket took count.
#[test]
fn a_tunnel_that_is_opened_is_measured_at_once() {
    let load = json!({"max_round_trip_ms": 100});
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("load", load)]));
    worker.run_until(worker.now + 10);
    assert_eq!(worker.manager.tunnel(0).unwrap().round_trip_ms(), Some(5));
    world.far.set(Far::Works(250));
    worker.requests(300, 100);
    assert_eq!(worker.complete_request(), Verdict::Http(Reason::Slow));
    worker.run_until(worker.now + 600_000);
    assert_eq!(worker.link(), Link::Idle);
    world.far.set(Far::Works(20));
    worker.requests(10, 10);
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
}

#[test]
fn what_is_too_much_for_the_tunnel_goes_over_http() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("load", json!({"max_in_flight": 3}))]));
    let tickets: Vec<_> = (0..3)
        .map(|_| match worker.request() {
            Verdict::WebSocket(_, ticket) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(worker.request(), Verdict::Http(Reason::InFlight));
    worker.finish(tickets[0], Evidence::Passed);
    assert!(matches!(worker.request(), Verdict::WebSocket(..)));
    assert_eq!(worker.request(), Verdict::Http(Reason::InFlight));
}

#[test]
fn an_opened_tunnel_stays_although_most_of_its_requests_are_older() {
    let world = World::new(Far::Works(5));
    let close = json!({"requests": 20, "within_ms": 60_000});
    let mut worker = Worker::new(&world, &changed(&[("close", close)]));
    worker.requests(20, 2_000);
    worker.run_until(90_000);
    worker.requests(5, 1);
    let opened = worker.now;
    worker.run_until(opened + 59_000);
    assert!(matches!(worker.link(), Link::Up { .. }), "{:?}", worker.links);
    worker.run_until(opened + 60_000);
    assert_eq!(worker.link(), Link::Idle);
}

#[test]
fn a_tunnel_that_is_open_is_let_go_by_its_requests_whatever_rate_they_reach() {
    let world = World::new(Far::Works(5));
    let close = json!({"requests": 5, "within_ms": 10_000});
    let mut worker = up(&world, &changed(&[("close", close)]));
    worker.run_until(5_000);
    worker.requests(5, 200);
    worker.run_until(14_999);
    assert!(matches!(worker.link(), Link::Up { .. }), "{:?}", worker.links);
    worker.run_until(15_000);
    assert_eq!(worker.link(), Link::Idle, "the last but four came at 5,000 ms");
}

#[test]
fn mode_always_waits_for_the_first_websocket() {
    let world = World::new(Far::Works(100));
    let config = changed(&[("mode", json!("always")), ("max_wait_ms", json!(1000))]);
    let mut worker = Worker::new(&world, &config);
    assert_eq!(worker.request(), Verdict::Wait(Time(1_000)));
    assert_eq!(worker.request(), Verdict::Wait(Time(1_000)));
    worker.run_until(100);
    let [
        (1, Verdict::WebSocket(Reason::Waited, _), 100),
        (2, Verdict::WebSocket(..), 100),
    ] = worker.resolved[..]
    else {
        panic!("{:?}", worker.resolved);
    };
    assert_eq!(worker.manager.tunnel(0).unwrap().in_flight(), 2);
    assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
}

#[test]
fn mode_always_refuses_after_the_wait_and_never_uses_http() {
    for far in [Far::Down, Far::Silent, Far::NoConverter] {
        let world = World::new(far);
        let config = changed(&[("mode", json!("always")), ("max_wait_ms", json!(700))]);
        let mut worker = Worker::new(&world, &config);
        let Verdict::Wait(until) = worker.request() else {
            panic!("{:?}", worker.link());
        };
        assert_eq!(until, Time(700));
        worker.run_until(10_000);
        let (waiter, verdict, at) = worker.resolved[0];
        assert_eq!(waiter, 1);
        if far == Far::NoConverter {
            assert_eq!((verdict, at), (Verdict::Refuse(Reason::NoConverter), 1));
            assert_eq!(
                worker.request(),
                Verdict::Refuse(Reason::NoConverter),
                "known by now"
            );
        } else {
            assert_eq!((verdict, at), (Verdict::Refuse(Reason::WaitOver), 700));
        }
    }
    let world = World::new(Far::Down);
    let config = changed(&[("mode", json!("always")), ("max_wait_ms", json!(0))]);
    let mut worker = Worker::new(&world, &config);
    assert_eq!(worker.request(), Verdict::Refuse(Reason::Opening));
    let config = changed(&[("mode", json!("always")), ("load", json!({"max_in_flight": 2}))]);
    let mut worker = Worker::new(&world, &config);
    worker.request();
    worker.request();
    assert_eq!(worker.request(), Verdict::Refuse(Reason::TooManyWaiting));
    worker.manager.tunnel(0).unwrap().forget(1);
    assert!(matches!(worker.request(), Verdict::Wait(_)), "one gave up");
}

#[test]
fn mode_never_uses_http_and_sends_nothing() {
    let world = World::new(Far::Works(1));
    let mut worker = Worker::new(&world, &changed(&[("mode", json!("never"))]));
    worker.requests(1_000, 1);
    assert_eq!(
        worker.decisions,
        BTreeMap::from([("http mode_never".to_owned(), 1_000)])
    );
    assert_eq!(world.handshakes.get(), 0);
    assert_eq!(worker.manager.wake(), None);
}

#[test]
fn decisions_are_counted() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.manager.request(None, 0, Time(0));
    assert!(!worker.manager.counts().is_empty());
    let mut counts: Vec<_> = worker
        .manager
        .counts()
        .take()
        .map(|(decision, count)| (decision.to_string(), count))
        .collect();
    counts.sort();
    let seen: BTreeMap<_, _> = counts.iter().cloned().collect();
    assert_eq!(seen["http no_tunnel"], 1);
    assert_eq!(seen["http cold"], 4);
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 9);
    assert!(worker.manager.counts().is_empty());
    assert_eq!(worker.manager.counts().take().count(), 0);
}

#[test]
fn a_decision_reads_as_its_way_and_its_reason() {
    for way in Way::ALL {
        for reason in Reason::ALL {
            let text = Decision { way, reason }.to_string();
            assert_eq!(text, format!("{} {}", way.as_str(), reason.as_str()));
        }
    }
}

#[test]
fn what_is_decided_at_any_time_is_what_would_be_decided_with_it() {
    for mode in ["always", "adaptive", "never"] {
        let world = World::new(Far::Works(1));
        let mut worker = Worker::new(&world, &changed(&[("mode", json!(mode))]));
        for place in [None, Some(0), Some(1)] {
            let with_time = worker.manager.request(place, 0, Time(0)).decision();
            let without = worker.manager.request_at_any_time(place);
            assert_eq!(
                without.is_some(),
                place != Some(0) || mode == "never",
                "{mode} {place:?}"
            );
            assert!(without.is_none() || without == with_time, "{mode} {place:?}");
        }
        let no_tunnel = Decision {
            way: Way::Http,
            reason: Reason::NoTunnel,
        };
        let counted = worker
            .manager
            .counts()
            .take()
            .find(|(decision, _)| *decision == no_tunnel);
        assert_eq!(counted, Some((no_tunnel, 4)), "each is counted");
    }
}

#[test]
fn a_tunnel_that_is_out_of_use_for_a_time_needs_no_time_to_say_so() {
    for (far, reason) in [
        (Far::NoConverter, Reason::NoConverter),
        (Far::Down, Reason::Backoff),
    ] {
        for mode in ["adaptive", "always"] {
            let world = World::new(far);
            let backoff = json!({"base_backoff_ms": 60_000, "max_backoff_ms": 60_000});
            let config = changed(&[("mode", json!(mode)), ("failures", backoff)]);
            let mut worker = Worker::new(&world, &config);
            worker.requests(8, 10);
            let tunnel = worker.manager.tunnel(0).unwrap();
            let expected = (mode == "adaptive").then_some(reason);
            assert_eq!(tunnel.request_at_any_time(), expected, "{mode} {far:?}");
        }
    }
}

#[test]
fn requests_keep_a_tunnel_wanted_while_it_is_out_of_use() {
    let world = World::new(Far::NoConverter);
    let mut worker = Worker::new(&world, &adaptive());
    worker.requests(8, 10);
    // Each is dated when the time is next known, once a second here.
    for second in 1..=50 {
        for _ in 0..10 {
            let reason = worker.manager.tunnel(0).unwrap().request_at_any_time();
            assert_eq!(reason, Some(Reason::NoConverter), "second {second}");
        }
        worker.run_until(worker.now + 1_000);
        worker.manager.tunnel(0).unwrap().poll(Time(worker.now), 0);
    }
    world.far.set(Far::Works(5));
    worker.run_until(60_070);
    assert!(matches!(worker.link(), Link::Up { .. }), "{:?}", worker.links);
    // And no longer than `close` says.
    worker.run_until(60_100);
    assert_eq!(worker.link(), Link::Idle);
}

#[test]
fn a_request_while_a_tunnel_is_out_of_use_counts_once() {
    let world = World::new(Far::NoConverter);
    // `close` asks for two.
    for (requests, left) in [(1, None), (2, Some(Reason::NoConverter))] {
        let mut worker = Worker::new(&world, &adaptive());
        worker.requests(8, 10);
        let last = worker.now;
        worker.run_until(5_000);
        let tunnel = worker.manager.tunnel(0).unwrap();
        for _ in 0..requests {
            assert_eq!(tunnel.request_at_any_time(), Some(Reason::NoConverter));
        }
        tunnel.poll(Time(5_000), 0);
        worker.run_until(last + 10_000);
        let tunnel = worker.manager.tunnel(0).unwrap();
        assert_eq!(tunnel.request_at_any_time(), left, "{requests}");
    }
}

#[test]
fn no_request_alone_makes_a_tunnel_wanted_that_is_out_of_use() {
    let world = World::new(Far::NoConverter);
    let mut worker = Worker::new(&world, &adaptive());
    worker.requests(8, 10);
    worker.run_until(worker.now + 15_000);
    assert!(
        matches!(worker.link(), Link::NoConverter { .. }),
        "{:?}",
        worker.links
    );
    let tunnel = worker.manager.tunnel(0).unwrap();
    assert_eq!(
        tunnel.request_at_any_time(),
        None,
        "let go: its rate counts again"
    );
    assert_eq!(worker.request(), Verdict::Http(Reason::NoConverter));
    worker.run_until(61_000);
    assert_eq!(worker.link(), Link::Idle);
}

#[test]
fn a_client_that_gives_up_leaves_the_others_waiting() {
    let world = World::new(Far::Works(100));
    let mut worker = Worker::new(&world, &changed(&[("mode", json!("always"))]));
    for _ in 0..3 {
        worker.request();
    }
    worker.manager.tunnel(0).unwrap().forget(2);
    worker.run_until(100);
    let waiters: Vec<_> = worker.resolved.iter().map(|resolved| resolved.0).collect();
    assert_eq!(waiters, [1, 3]);
}

/// Envoy's numbers, of 32 bits, begin again.
#[test]
fn a_client_gives_up_after_the_numbers_have_wrapped() {
    for gone in [u32::MAX - 1, u32::MAX, 1, 2] {
        let world = World::new(Far::Down);
        let mut worker = Worker::new(
            &world,
            &changed(&[("mode", json!("always")), ("max_wait_ms", json!(1))]),
        );
        let tunnel = worker.manager.tunnel(0).unwrap();
        let mut all = vec![u32::MAX - 1, u32::MAX, 1, 2];
        for waiter in &all {
            assert!(matches!(tunnel.request(*waiter, Time(0)), Verdict::Wait(_)));
        }
        tunnel.forget(gone);
        all.retain(|waiter| *waiter != gone);
        let left: Vec<_> = std::iter::from_fn(|| tunnel.resolve(Time(1)))
            .map(|(waiter, _)| waiter)
            .collect();
        assert_eq!(left, all);
    }
}

#[test]
fn a_tunnel_that_a_request_waits_for_is_not_let_go() {
    let world = World::new(Far::Down);
    let config = changed(&[
        ("mode", json!("always")),
        ("max_wait_ms", json!(5000)),
        ("close", json!({"requests": 1, "within_ms": 1000})),
    ]);
    let mut worker = Worker::new(&world, &config);
    worker.request();
    worker.run_until(1_500);
    world.far.set(Far::Works(5));
    worker.run_until(4_500);
    assert!(
        matches!(worker.resolved[..], [(1, Verdict::WebSocket(..), _)]),
        "{:?}",
        worker.resolved
    );
}

#[test]
fn requests_that_waited_are_counted_when_they_are_let_in() {
    let world = World::new(Far::Works(100));
    let mut worker = Worker::new(&world, &changed(&[("mode", json!("always"))]));
    worker.request();
    assert!(worker.manager.counts().is_empty());
    worker.run_until(100);
    let counts = worker.manager.counts().take();
    let counts: Vec<_> = counts
        .map(|(decision, count)| (decision.to_string(), count))
        .collect();
    assert_eq!(counts, [("websocket waited".to_owned(), 1)]);
}
