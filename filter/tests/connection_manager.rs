//! The connection manager's decisions, in virtual time, against a far end that can fail in every way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;
use serde_json::{Value, json};
use wsferry::connection_manager::{
    Claim, Clock, Config, ConnectionManager, Evidence, Link, ProbeFailure, ProbeId, ProbeKind, Reason,
    RequestWindow, Target, Ticket, Time, Verdict, jittered,
};

/// What the far end does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Far {
    /// Answers after so many milliseconds.
    Works(u64),
    /// Refuses connections.
    Down,
    /// Takes connections and says nothing.
    Silent,
    /// An ordinary HTTP server.
    NoConverter,
}

/// What all workers of one Envoy share, and the far end that they talk to.
struct World {
    far: Cell<Far>,
    target: Cell<Target>,
    handshakes: Cell<u32>,
    handshake_times: std::cell::RefCell<Vec<u64>>,
}

impl World {
    fn new(far: Far) -> Rc<Self> {
        Rc::new(Self {
            far: Cell::new(far),
            target: Cell::default(),
            handshakes: Cell::new(0),
            handshake_times: std::cell::RefCell::default(),
        })
    }
}

/// One worker with one tunnel, driven as the plugin drives it.
struct Worker {
    world: Rc<World>,
    manager: ConnectionManager,
    now: u64,
    random: u32,
    /// Has a WebSocket.
    connected: bool,
    probe: Option<(ProbeId, u64, Result<(), ProbeFailure>)>,
    decisions: BTreeMap<String, u32>,
    resolved: Vec<(u32, Verdict, u64)>,
    links: Vec<(u64, Link)>,
    next_waiter: u32,
}

impl Worker {
    fn new(world: &Rc<World>, tunnel: &Value) -> Self {
        let mut tunnel = tunnel.clone();
        tunnel["name"] = json!("far");
        tunnel["probe"]["cluster"] = json!("tunnel");
        let json = json!({"role": "connection_manager", "tunnels": [tunnel]});
        let config = Config::parse(json.to_string().as_bytes()).unwrap();
        let mut worker = Self {
            world: Rc::clone(world),
            manager: ConnectionManager::new(&config, Time(0)),
            now: 0,
            random: 0x1234_5678,
            connected: false,
            probe: None,
            decisions: BTreeMap::new(),
            resolved: Vec::new(),
            links: Vec::new(),
            next_waiter: 0,
        };
        worker.settle();
        worker
    }

    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random
    }

    fn link(&mut self) -> Link {
        self.manager.tunnel(0).unwrap().link()
    }

    fn time(&self) -> Time {
        Time(self.now)
    }

    /// Does what is to be done now.
    fn settle(&mut self) {
        let random = self.random();
        let now = self.time();
        if let Some(kind) = self.manager.tunnel(0).unwrap().poll(now, random) {
            self.send_probe(kind);
        }
        while let Some((_, waiter, verdict)) = self.manager.resolve(now) {
            self.note(verdict);
            self.resolved.push((waiter, verdict, self.now));
        }
        if let Some(transition) = self.manager.tunnel(0).unwrap().take_transition() {
            self.links.push((self.now, transition.to));
        }
    }

    fn send_probe(&mut self, kind: ProbeKind) {
        let now = self.time();
        let tunnel = self.manager.tunnel(0).unwrap();
        let config = tunnel.config().clone();
        if kind == ProbeKind::Open {
            match self.world.target.get().claim(now, config.probe.timeout_ms) {
                Claim::Granted(target) => self.world.target.set(target),
                Claim::Wait { until } => return tunnel.postpone(Time(self.now + 50).min(until)),
                Claim::Lacks { until } => return tunnel.no_converter(until),
            }
        }
        let id = tunnel.probe_sent(now);
        let (delay, result) = self.exchange();
        self.probe = Some((id, self.now + delay, result));
    }

    /// Something small goes to the far end and back.
    fn exchange(&mut self) -> (u64, Result<(), ProbeFailure>) {
        let timeout = u64::from(self.manager.tunnel(0).unwrap().config().probe.timeout_ms);
        let far = self.world.far.get();
        if !self.connected && far != Far::Down {
            self.world.handshakes.set(self.world.handshakes.get() + 1);
            self.world.handshake_times.borrow_mut().push(self.now);
        }
        let (delay, result) = match far {
            Far::Works(delay) if delay < timeout => (delay, Ok(())),
            Far::Works(_) | Far::Silent => (timeout, Err(ProbeFailure::TimedOut)),
            Far::Down => (1, Err(ProbeFailure::Broken)),
            Far::NoConverter => (1, Err(ProbeFailure::NoConverter)),
        };
        self.connected = result.is_ok();
        (delay, result)
    }

    fn deliver_probe(&mut self) {
        let Some((id, _, result)) = self.probe.take() else {
            return;
        };
        let (now, random) = (self.time(), self.random());
        let tunnel = self.manager.tunnel(0).unwrap();
        let ttl = tunnel.config().no_converter_ttl_ms;
        match result {
            Ok(()) => {
                tunnel.probe_answered(id, now, random);
                self.world.target.set(Target::Has);
            }
            Err(failure) => {
                tunnel.probe_failed(id, failure, now, random);
                self.world.target.set(match failure {
                    ProbeFailure::NoConverter => Target::Lacks {
                        until: now.after(ttl),
                    },
                    _ => Target::Unknown,
                });
            }
        }
    }

    /// Lets everything happen that is due up to `end`.
    fn run_until(&mut self, end: u64) {
        for _ in 0..1_000_000 {
            let probe = self.probe.as_ref().map(|&(_, at, _)| at);
            let wake = self.manager.wake().map(|time| time.0.max(self.now));
            let Some(next) = [probe, wake].into_iter().flatten().min().filter(|&t| t <= end) else {
                self.now = end;
                return;
            };
            self.now = next;
            if probe.is_some_and(|at| at <= self.now) {
                self.deliver_probe();
            }
            self.settle();
        }
        panic!("never at rest: {:?}", self.link());
    }

    fn note(&mut self, verdict: Verdict) {
        let name = verdict.decision().map_or("wait".to_owned(), |d| d.to_string());
        *self.decisions.entry(name).or_default() += 1;
    }

    fn request(&mut self) -> Verdict {
        self.next_waiter += 1;
        let verdict = self.manager.request(Some(0), self.next_waiter, self.time());
        self.note(verdict);
        self.settle();
        verdict
    }

    /// A request and all that follows from it, at once; a response takes no time here.
    fn complete_request(&mut self) -> Verdict {
        let verdict = self.request();
        if let Verdict::WebSocket(_, ticket) = verdict {
            let (_, result) = self.exchange();
            let evidence = match result {
                Ok(()) => Evidence::Passed,
                Err(_) => Evidence::Failed,
            };
            self.finish(ticket, evidence);
        }
        verdict
    }

    fn finish(&mut self, ticket: Ticket, evidence: Evidence) {
        let (now, random) = (self.time(), self.random());
        let tunnel = self.manager.tunnel(0).unwrap();
        tunnel.observe(ticket, evidence, now, random);
        tunnel.leave();
        self.settle();
    }

    /// `count` requests, `every` milliseconds apart; the last verdict.
    fn requests(&mut self, count: u32, every: u64) -> Option<Verdict> {
        (0..count)
            .map(|_| {
                let verdict = self.complete_request();
                self.run_until(self.now + every);
                verdict
            })
            .last()
    }
}

fn adaptive() -> Value {
    json!({
        "open": {"requests": 5, "within_ms": 1000},
        "close": {"requests": 2, "within_ms": 10000},
        "probe": {"interval_ms": 2000, "timeout_ms": 300},
        "failures": {"consecutive": 3, "base_backoff_ms": 500, "max_backoff_ms": 8000, "stable_ms": 5000},
        "no_converter_ttl_ms": 60000,
    })
}

fn changed(changes: &[(&str, Value)]) -> Value {
    let mut config = adaptive();
    for (name, value) in changes {
        config[*name] = value.clone();
    }
    config
}

/// A worker whose tunnel is up.
fn up(world: &Rc<World>, config: &Value) -> Worker {
    let mut worker = Worker::new(world, config);
    worker.requests(8, 10);
    worker.run_until(worker.now + 50);
    assert!(matches!(worker.link(), Link::Up { .. }), "{:?}", worker.link());
    worker
}

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
    assert_eq!(worker.manager.tunnel(0).unwrap().round_trip_ms(), Some(20));
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
        world.handshakes.get() - before <= 2,
        "a request and a probe at most"
    );
    assert!(worker.now - at < 60_000);
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
fn decisions_are_counted() {
    let world = World::new(Far::Works(5));
    let mut worker = up(&world, &adaptive());
    worker.manager.request(None, 0, Time(0));
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
fn one_worker_asks_while_the_others_wait() {
    let (now, later) = (Time(1_000), Time(1_300));
    let Claim::Granted(asking) = Target::Unknown.claim(now, 300) else {
        panic!("nobody asks");
    };
    assert_eq!(asking, Target::Asking { until: later });
    assert_eq!(asking.claim(Time(1_299), 300), Claim::Wait { until: later });
    assert!(
        matches!(asking.claim(later, 300), Claim::Granted(_)),
        "the other one is dead"
    );
    assert!(
        matches!(asking.claim(Time(0).after(0), 300), Claim::Wait { .. }),
        "a small step back of the clock"
    );
    let lacks = Target::Lacks {
        until: Time(200_000_000),
    };
    assert!(
        matches!(lacks.claim(now, 300), Claim::Granted(_)),
        "no ttl is that long: the clock was set back"
    );
    for target in [Target::Unknown, asking, Target::Has, lacks] {
        assert_eq!(Target::decode(&target.encode()), target);
    }
    for bytes in [&[][..], &[9; 9], &[1; 8]] {
        assert_eq!(Target::decode(bytes), Target::Unknown);
    }
}

#[test]
fn the_clock_never_goes_back() {
    let mut clock = Clock::default();
    assert_eq!(clock.now(1_000), Time(1_000));
    assert_eq!(clock.now(400), Time(1_000));
    assert_eq!(clock.now(450), Time(1_050));
    assert_eq!(clock.now(2_000), Time(2_600));
}

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
