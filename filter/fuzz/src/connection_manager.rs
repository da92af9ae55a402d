//! The connection manager of one worker, driven as the plugin drives it.

use std::collections::BTreeMap;

use wsferry::connection_manager::config::{Config, Mode, TunnelConfig};
use wsferry::connection_manager::{
    ConnectionManager, Evidence, Link, ProbeFailure, ProbeId, ProbeKind, Reason, Ticket, Tunnel, Verdict,
    Waiter, Way,
};
use wsferry::time::Time;

/// Bytes: a configuration in three, then events in three each; see [`tunnel_config`] and [`Worker::happens`].
pub fn connection_manager(data: &[u8]) {
    let [mode, times, amounts, events @ ..] = data else {
        return;
    };
    let mut worker = Worker::new(&tunnel_config(*mode, *times, *amounts));
    for event in events.chunks_exact(3) {
        let [kind, first, second] = [event[0], event[1], event[2]];
        worker.passes(kind >> 4, second);
        worker.happens(kind & 15, first, second);
        if first & 1 == 0 || worker.is_due() {
            worker.tick(first, second);
        }
        worker.keeps_count();
    }
}

/// One tunnel. Each choice is of small numbers, or of what is far from the others.
fn tunnel_config(mode: u8, times: u8, amounts: u8) -> Config {
    let bit = |byte: u8, place: u8, choices: [u32; 2]| choices[usize::from(byte >> place & 1)];
    let name = ["always", "adaptive", "never"][usize::from(mode % 3)];
    let eager = name != "never" && mode & 8 != 0;
    let slow = if mode & 16 != 0 {
        r#","max_round_trip_ms":5"#
    } else {
        ""
    };
    let max_wait_ms = [0, 1, 50, 5_000][usize::from(times & 3)];
    let (interval_ms, timeout_ms) = (bit(times, 2, [100, 5_000]), bit(times, 3, [10, 1_000]));
    let (consecutive, stable_ms) = (1 + (times >> 4 & 3), bit(times, 6, [0, 100]));
    let (open, close) = (1 + (amounts & 7), 1 + (amounts >> 3 & 1));
    let close_ms = bit(amounts, 4, [60_000, 20_000]);
    let max_in_flight = 1 + (amounts >> 5) * 3;
    let json = format!(
        r#"{{"role":"connection_manager","tunnels":[{{
            "name":"t","mode":"{name}","eager":{eager},"max_wait_ms":{max_wait_ms},"no_converter_ttl_ms":1000,
            "probe":{{"cluster":"c","interval_ms":{interval_ms},"timeout_ms":{timeout_ms}}},
            "open":{{"requests":{open},"within_ms":1000}},
            "close":{{"requests":{close},"within_ms":{close_ms}}},
            "load":{{"max_in_flight":{max_in_flight}{slow}}},
            "failures":{{"consecutive":{consecutive},"base_backoff_ms":10,"max_backoff_ms":3600000,
                "stable_ms":{stable_ms}}}
        }}]}}"#
    );
    Config::parse(json.as_bytes()).expect("a configuration")
}

/// A worker with one tunnel, which is driven as the plugin drives it.
struct Worker {
    config: TunnelConfig,
    manager: ConnectionManager,
    now: Time,
    /// The requests in the tunnel.
    inside: Vec<Ticket>,
    /// The requests that wait, and until when at most.
    waiting: BTreeMap<Waiter, Time>,
    last_waiter: Waiter,
    /// Probes that nothing has become of yet, some of them long given up.
    probes: Vec<ProbeId>,
}

impl Worker {
    /// As many probes as are remembered: all but the last are late.
    const MOST_PROBES: usize = 64;
    /// As often as a timer may find something to do without time passing.
    const MOST_TURNS: usize = 8;

    fn new(config: &Config) -> Self {
        // There is a past that a WebSocket may have ended in.
        let now = Time(1_000_000);
        Self {
            config: config.tunnels[0].clone(),
            manager: ConnectionManager::new(config, now),
            now,
            inside: Vec::new(),
            waiting: BTreeMap::new(),
            last_waiter: 0,
            probes: Vec::new(),
        }
    }

    fn tunnel(&mut self) -> &mut Tunnel {
        self.manager.tunnel(0).expect("a tunnel")
    }

    /// From no time to some hours.
    fn passes(&mut self, kind: u8, many: u8) {
        let many = u32::from(many);
        let steps = [0, 1, many, many * 20, many * 1_000, many * 60_000];
        self.now = self.now.after(steps[usize::from(kind) % steps.len()]);
    }

    /// Kinds 0 to 3: a request comes. 4 and 5: one in the tunnel ends. 6: one that waits gives up. 7 and 8: a
    /// probe is answered. 9: a probe fails. 10: a WebSocket ends. 11: another worker finds no converter. 12: a
    /// handshake is refused. Others: nothing.
    fn happens(&mut self, kind: u8, first: u8, second: u8) {
        let (now, random) = (self.now, random(first, second));
        match kind {
            0..=3 => self.request(),
            4 | 5 if !self.inside.is_empty() => {
                let ticket = self.inside.swap_remove(usize::from(first) % self.inside.len());
                let evidence = [
                    Evidence::Passed,
                    Evidence::Failed,
                    Evidence::Retried,
                    Evidence::Unsent,
                ];
                if let Some(evidence) = evidence.get(usize::from(second & 3)) {
                    self.tunnel().observe(ticket, *evidence, now, random);
                }
                self.tunnel().leave();
            }
            6 => {
                if let Some((waiter, _)) = self.waiting.pop_first() {
                    self.tunnel().forget(waiter);
                }
            }
            7..=9 if !self.probes.is_empty() => {
                let id = self.probes.swap_remove(usize::from(first) % self.probes.len());
                if kind == 9 {
                    let failures = [
                        ProbeFailure::TimedOut,
                        ProbeFailure::Broken,
                        ProbeFailure::NoConverter,
                        ProbeFailure::Unsent,
                    ];
                    let failure = failures[usize::from(second) % failures.len()];
                    self.tunnel().probe_failed(id, failure, now, random);
                } else {
                    self.tunnel().probe_answered(id, now, random);
                }
            }
            10 => {
                let at = now.0 - u64::from(second) * 7;
                self.tunnel().websocket_ended(Time(at), now);
            }
            11 => self.tunnel().no_converter(now.after(u32::from(second) * 100)),
            12 => {
                let at = now.0 - u64::from(second) * 7;
                self.tunnel().handshake_refused(Time(at), now);
            }
            _ => {}
        }
    }

    fn request(&mut self) {
        let mode = self.config.mode;
        if let Some(decision) = self.manager.request_at_any_time(Some(0)) {
            assert!(mode != Mode::Always && decision.way == Way::Http, "{decision}");
            return;
        }
        self.last_waiter += 1;
        let verdict = self.manager.request(Some(0), self.last_waiter, self.now);
        match verdict {
            Verdict::WebSocket(reason, ticket) => {
                assert!(mode != Mode::Never && self.is_up(), "{mode:?} {verdict:?}");
                // Mode adaptive enters no tunnel that it suspects.
                assert!(mode == Mode::Always || reason == Reason::Up, "{reason:?}");
                self.inside.push(ticket);
            }
            Verdict::Http(_) => assert!(mode != Mode::Always, "{verdict:?}"),
            Verdict::Refuse(_) => assert!(mode == Mode::Always, "{verdict:?}"),
            Verdict::Wait(until) => {
                assert!(mode == Mode::Always, "{mode:?} waits");
                assert!(until <= self.now.after(self.config.max_wait_ms));
                self.waiting.insert(self.last_waiter, until);
            }
        }
    }

    fn is_up(&mut self) -> bool {
        matches!(self.tunnel().link(), Link::Up { .. })
    }

    fn is_due(&self) -> bool {
        self.manager.wake().is_some_and(|wake| wake <= self.now)
    }

    /// The plugin's timer: what is due is done, and then nothing is due before time passes.
    fn tick(&mut self, first: u8, second: u8) {
        for _ in 0..Self::MOST_TURNS {
            self.probe(first, second);
            self.resolve();
            if !self.is_due() {
                let now = self.now;
                assert!(self.waiting.values().all(|until| *until > now), "waits too long");
                return;
            }
        }
        let (link, wake) = (self.tunnel().link(), self.manager.wake());
        panic!("the timer never rests: {link:?}, {wake:?} at {:?}", self.now);
    }

    /// Sends a probe, or leaves it to another worker, which asks the target already.
    fn probe(&mut self, first: u8, second: u8) {
        let now = self.now;
        let Some(kind) = self.tunnel().poll(now, random(first, second)) else {
            return;
        };
        assert!(self.config.mode != Mode::Never, "a probe in mode never");
        if kind == ProbeKind::Open && first & 2 != 0 {
            self.tunnel().postpone(now.after(20));
            return;
        }
        let id = self.tunnel().probe_sent(now);
        if self.probes.len() == Self::MOST_PROBES {
            self.probes.clear();
        }
        self.probes.push(id);
    }

    fn resolve(&mut self) {
        while let Some((_, waiter, verdict)) = self.manager.resolve(self.now) {
            assert!(self.waiting.remove(&waiter).is_some(), "{waiter} doesn't wait");
            match verdict {
                Verdict::WebSocket(_, ticket) => {
                    assert!(self.is_up(), "{verdict:?}");
                    self.inside.push(ticket);
                }
                Verdict::Refuse(_) => {}
                Verdict::Http(_) | Verdict::Wait(_) => panic!("{verdict:?} after waiting"),
            }
        }
    }

    /// Who has entered is counted until it leaves, and who waits isn't forgotten.
    fn keeps_count(&mut self) {
        assert_eq!(self.tunnel().in_flight() as usize, self.inside.len());
        assert!(
            self.waiting.is_empty() || self.manager.wake().is_some(),
            "a request waits without a timer"
        );
        self.tunnel().take_transition();
    }
}

fn random(first: u8, second: u8) -> u32 {
    u32::from_be_bytes([first, second, 0, 0])
}
