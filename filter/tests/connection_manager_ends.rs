//! What the connection manager does when WebSockets end.
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
use wsferry::connection_manager::{Evidence, Reason, Verdict};
use wsferry::time::Time;

/// The next request would open another one: that is for a probe to do, as at first.
#[test]
fn the_end_of_a_websocket_is_mended_by_a_probe() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.run_until(worker.now + 100);
    let Verdict::WebSocket(_, before) = worker.request() else {
        panic!("{:?}", worker.link());
    };
    let end = |worker: &mut Worker, at| {
        let now = worker.time();
        worker.manager.tunnel(0).unwrap().websocket_ended(Time(at), now);
    };
    let ended = worker.now;
    worker.connected = false;
    end(&mut worker, ended);
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
    end(&mut worker, ended);
    end(&mut worker, ended - 1);
    assert!(matches!(worker.request(), Verdict::WebSocket(Reason::Up, _)));
    // A far end that ends each at once isn't asked again and again.
    let handshakes = world.handshakes.get();
    for _ in 0..2_000 {
        worker.connected = false;
        let now = worker.now;
        end(&mut worker, now);
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
    worker.manager.tunnel(0).unwrap().websocket_ended(now, now);
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
    always.manager.tunnel(0).unwrap().websocket_ended(now, now);
    assert!(matches!(always.request(), Verdict::WebSocket(Reason::Up, _)));
    let mut cold = Worker::new(&world, &adaptive());
    cold.manager.tunnel(0).unwrap().websocket_ended(now, now);
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
    worker.manager.tunnel(0).unwrap().websocket_ended(now, now);
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

/// The probe that opens the next one takes connecting and the handshake besides.
#[test]
fn what_replaces_a_websocket_is_no_round_trip() {
    let world = World::new(Far::Works(5));
    let load = json!({"max_round_trip_ms": 20});
    let mut worker = up(&world, &changed(&[("load", load)]));
    worker.run_until(worker.now + 10);
    world.far.set(Far::Works(250));
    let now = worker.time();
    worker.manager.tunnel(0).unwrap().websocket_ended(now, now);
    assert_eq!(worker.request(), Verdict::Http(Reason::Suspect));
    worker.run_until(worker.now + 251);
    assert_eq!(worker.manager.tunnel(0).unwrap().round_trip_ms(), Some(5));
    assert!(matches!(
        worker.complete_request(),
        Verdict::WebSocket(Reason::Up, _)
    ));
}

/// A far end that drains may say goaway in every WebSocket.
#[test]
fn in_mode_always_websockets_of_one_answer_each_do() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &changed(&[("mode", json!("always"))]));
    for _ in 0..20 {
        let now = worker.time();
        worker.manager.tunnel(0).unwrap().websocket_ended(now, now);
        assert!(matches!(worker.request(), Verdict::Wait(_)));
        // The probe's own one ends, too, before its answer is here.
        worker.run_until(worker.now + 2);
        let now = worker.time();
        worker.manager.tunnel(0).unwrap().websocket_ended(now, now);
        worker.run_until(worker.now + 4);
        let (_, verdict, _) = worker.resolved.pop().expect("it waits for no second probe");
        assert!(
            matches!(verdict, Verdict::WebSocket(Reason::Waited, _)),
            "{verdict:?}"
        );
        worker.manager.tunnel(0).unwrap().leave();
    }
}
