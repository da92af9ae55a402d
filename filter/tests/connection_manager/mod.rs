//! Workers that are driven as the plugin drives them, in virtual time, against a far end that can fail in
//! every way.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value, json};
use wsferry::connection_manager::{
    Claim, Config, ConnectionManager, Evidence, Link, ProbeFailure, ProbeId, ProbeKind, Reason, Target,
    Ticket, Verdict,
};
use wsferry::time::Time;

/// What the far end does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Far {
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
pub struct World {
    pub far: Cell<Far>,
    target: Cell<Target>,
    pub handshakes: Cell<u32>,
    pub handshake_times: RefCell<Vec<u64>>,
}

impl World {
    pub fn new(far: Far) -> Rc<Self> {
        Rc::new(Self {
            far: Cell::new(far),
            target: Cell::default(),
            handshakes: Cell::new(0),
            handshake_times: RefCell::default(),
        })
    }
}

/// One worker with one tunnel, driven as the plugin drives it.
pub struct Worker {
    pub world: Rc<World>,
    pub manager: ConnectionManager,
    pub now: u64,
    random: u32,
    /// Has a WebSocket.
    pub connected: bool,
    pub probe: Option<(ProbeId, u64, Result<(), ProbeFailure>)>,
    /// What was granted for it, if it is to open the tunnel.
    pub turn: Option<Target>,
    pub decisions: BTreeMap<String, u32>,
    pub resolved: Vec<(u32, Verdict, u64)>,
    pub links: Vec<(u64, Link)>,
    next_waiter: u32,
}

impl Worker {
    pub fn new(world: &Rc<World>, tunnel: &Value) -> Self {
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
            turn: None,
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

    pub fn link(&mut self) -> Link {
        self.manager.tunnel(0).unwrap().link()
    }

    pub fn time(&self) -> Time {
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
        let mut turn = None;
        if kind == ProbeKind::Open {
            let (lease, ttl) = (config.probe.timeout_ms, config.no_converter_ttl_ms);
            match self.world.target.get().claim(now, lease, ttl) {
                Claim::Granted(target) => {
                    self.world.target.set(target);
                    turn = Some(target);
                }
                Claim::Wait { until } => return tunnel.postpone(Time(self.now + 50).min(until)),
                Claim::Lacks { until } => return tunnel.no_converter(until),
            }
        }
        let id = tunnel.probe_sent(now);
        let (delay, result) = self.exchange();
        self.probe = Some((id, self.now + delay, result));
        self.turn = turn;
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
                self.world.target.set(match (failure, tunnel.link()) {
                    (ProbeFailure::NoConverter, Link::NoConverter { .. }) => Target::Lacks {
                        until: now.after(ttl),
                    },
                    _ => self.world.target.get().after_failure(self.turn),
                });
            }
        }
    }

    /// Lets everything happen that is due up to `end`.
    pub fn run_until(&mut self, end: u64) {
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

    pub fn request(&mut self) -> Verdict {
        self.next_waiter += 1;
        let verdict = match self.manager.request_at_any_time(Some(0)) {
            Some(decision) => Verdict::Http(decision.reason),
            None => self.manager.request(Some(0), self.next_waiter, self.time()),
        };
        self.note(verdict);
        self.settle();
        verdict
    }

    /// A request and all that follows from it, at once; a response takes no time here.
    pub fn complete_request(&mut self) -> Verdict {
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

    pub fn finish(&mut self, ticket: Ticket, evidence: Evidence) {
        let (now, random) = (self.time(), self.random());
        let tunnel = self.manager.tunnel(0).unwrap();
        tunnel.observe(ticket, evidence, now, random);
        tunnel.leave();
        self.settle();
    }

    /// `count` requests, `every` milliseconds apart; the last verdict.
    pub fn requests(&mut self, count: u32, every: u64) -> Option<Verdict> {
        (0..count)
            .map(|_| {
                let verdict = self.complete_request();
                self.run_until(self.now + every);
                verdict
            })
            .last()
    }
}

pub fn adaptive() -> Value {
    json!({
        "open": {"requests": 5, "within_ms": 1000},
        "close": {"requests": 2, "within_ms": 10000},
        "probe": {"interval_ms": 2000, "timeout_ms": 300},
        "failures": {"consecutive": 3, "base_backoff_ms": 500, "max_backoff_ms": 8000, "stable_ms": 5000},
        "no_converter_ttl_ms": 60000,
    })
}

pub fn changed(changes: &[(&str, Value)]) -> Value {
    let mut config = adaptive();
    for (name, value) in changes {
        config[*name] = value.clone();
    }
    config
}

/// Each kind of tunnel that requests enter, and whether they have another way.
pub fn with_and_without_another_way() -> [(Value, bool); 3] {
    let always =
        |max_wait_ms: u32| changed(&[("mode", json!("always")), ("max_wait_ms", json!(max_wait_ms))]);
    [(adaptive(), true), (always(0), false), (always(5_000), false)]
}

/// Checks a verdict of a tunnel which had no room a moment ago.
pub fn assert_after_no_room(verdict: Verdict, has_other_way: bool) {
    match has_other_way {
        true => assert_eq!(verdict, Verdict::Http(Reason::Suspect)),
        false => assert!(
            matches!(verdict, Verdict::WebSocket(Reason::Up, _)),
            "{verdict:?}"
        ),
    }
}

/// A worker whose tunnel is up.
pub fn up(world: &Rc<World>, config: &Value) -> Worker {
    let mut worker = Worker::new(world, config);
    worker.requests(8, 10);
    worker.run_until(worker.now + 50);
    assert!(matches!(worker.link(), Link::Up { .. }), "{:?}", worker.link());
    worker
}
