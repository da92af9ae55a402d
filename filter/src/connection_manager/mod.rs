//! Which way a request goes: through the WebSocket, or over plain HTTP.
//!
//! The connection manager is an HTTP filter of listener `ingress`. It writes its decision into a
//! request header that routes match. Everything here is pure: the time, the randomness and the shared
//! knowledge are arguments, and what is to be done comes back as a value; `plugin` does it.
//!
//! # What it knows, and from where
//!
//! - **Each worker decides from what it knows itself.** Envoy's connection pools belong to workers, so
//!   each has WebSockets of its own, which work or fail apart from those of the others. Request rates
//!   are counted by worker too: `open` is reached by the requests of one worker.
//! - What all workers share is whether the target has a converter ([`Target`]), because the answer is
//!   the same for all and asking costs the target a handshake; and when a WebSocket ended.
//! - Whether a tunnel works is found out by a **probe**, a small request through the tunnel that the
//!   far end's inner listener answers itself. The first one opens the WebSocket, the others keep it
//!   alive and measure. No request waits for a probe but in mode always.
//! - Requests in the tunnel tell as well, when they end: one that could not be sent, or whose connection to the near
//!   converter broke, makes the tunnel *suspect*. At once the next requests go over plain HTTP and a probe is sent, which
//!   decides. So a broken tunnel costs about as many requests as were in it, and a single bad moment
//!   costs no back-off. One that Envoy sent more than once does the same, at most once a second: it may have been repeated
//!   for a fault of its own.
//! - So does the end of a WebSocket, or its goaway, of which the near converter tells: the next request would open
//!   another one, and couldn't be sent if that fails. All workers hear of it, and each probes its own; but no more often than
//!   once a second.
//!
//! # What never happens
//!
//! - In mode always, plain HTTP. In mode never, a probe.
//! - In mode adaptive, a request into a tunnel that isn't known to work; so it isn't requests that
//!   open WebSockets, and a target without converter sees one handshake per `no_converter_ttl_ms`.
//! - Flapping: a tunnel that was opened for its request rate stays for at least `close.within_ms`, and
//!   opening takes a higher rate than keeping.
//!
//! # Time
//!
//! A tunnel that dies silently (no reset, no answers) is out of use after at most `probe.interval_ms` +
//! `probe.timeout_ms`: the first probe that times out makes it suspect. Jitter only shortens.

pub mod config;
mod decision;
mod request_window;
mod target;
mod tunnel;

pub use config::Config;
pub use decision::{Decision, Evidence, Reason, Ticket, Verdict, Way};
pub use request_window::RequestWindow;
pub use target::{Claim, Target};
pub use tunnel::{Link, ProbeFailure, ProbeId, ProbeKind, Transition, Tunnel, Waiter};

use crate::time::Time;

/// What of a request says which tunnel it belongs to. What no tunnel needs may be left empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    /// `:authority`.
    pub authority: &'a [u8],
    /// `:path`.
    pub path: &'a [u8],
    /// The tunnel that the metadata of its route names.
    pub route_tunnel: &'a [u8],
}

/// The tunnels of one worker.
#[derive(Debug)]
pub struct ConnectionManager {
    tunnels: Vec<Tunnel>,
    needs_authority: bool,
    needs_path: bool,
    needs_route_metadata: bool,
    counts: DecisionCounts,
}

/// Decisions by way and reason, since they were last taken.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DecisionCounts {
    counts: Vec<(Decision, u64)>,
}

impl DecisionCounts {
    /// Counts one. There are few kinds, so that a list is as good as a table.
    fn add(&mut self, decision: Decision) {
        match self.counts.iter_mut().find(|(other, _)| *other == decision) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.counts.push((decision, 1)),
        }
    }

    /// Decisions that occurred, and how often; their counts begin again at 0.
    pub fn take(&mut self) -> impl Iterator<Item = (Decision, u64)> + '_ {
        self.counts
            .iter_mut()
            .filter(|(_, count)| *count > 0)
            .map(|(decision, count)| (*decision, std::mem::take(count)))
    }

    /// Whether there is anything to take.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|&(_, count)| count == 0)
    }
}

impl ConnectionManager {
    /// All tunnels at start.
    pub fn new(config: &Config, now: Time) -> Self {
        let matchers = || config.tunnels.iter().map(|tunnel| &tunnel.matcher);
        Self {
            needs_authority: matchers().any(config::Matcher::needs_authority),
            needs_path: matchers().any(config::Matcher::needs_path),
            needs_route_metadata: matchers().any(config::Matcher::needs_route_metadata),
            tunnels: config
                .tunnels
                .iter()
                .map(|tunnel| Tunnel::new(tunnel.clone(), now))
                .collect(),
            counts: DecisionCounts::default(),
        }
    }

    /// Whether any tunnel looks at `:authority`; otherwise it needn't be fetched.
    pub fn needs_authority(&self) -> bool {
        self.needs_authority
    }

    /// Whether any tunnel looks at `:path`; otherwise it needn't be fetched.
    pub fn needs_path(&self) -> bool {
        self.needs_path
    }

    /// Whether any tunnel looks at the metadata of the route; otherwise it needn't be fetched.
    pub fn needs_route_metadata(&self) -> bool {
        self.needs_route_metadata
    }

    /// The place of the tunnel that a request belongs to: the first that matches.
    pub fn find(&self, request: Subject<'_>) -> Option<usize> {
        self.tunnels
            .iter()
            .position(|tunnel| tunnel.config().matcher.matches(request))
    }

    /// Decides for a request that no time is needed for: one of no tunnel, or of one that
    /// [`Tunnel::request_at_any_time`] knows the way of. For others [`ConnectionManager::request`] does. Asking for the
    /// time is a call to the host.
    pub fn request_at_any_time(&mut self, tunnel: Option<usize>) -> Option<Decision> {
        let reason = match tunnel.and_then(|place| self.tunnels.get_mut(place)) {
            Some(tunnel) => tunnel.request_at_any_time()?,
            None => Reason::NoTunnel,
        };
        let decision = Decision {
            way: Way::Http,
            reason,
        };
        self.counts.add(decision);
        Some(decision)
    }

    /// Decides for a request; `tunnel` is what [`ConnectionManager::find`] gave.
    pub fn request(&mut self, tunnel: Option<usize>, waiter: Waiter, now: Time) -> Verdict {
        let verdict = match tunnel.and_then(|place| self.tunnels.get_mut(place)) {
            Some(tunnel) => tunnel.request(waiter, now),
            None => Verdict::Http(Reason::NoTunnel),
        };
        if let Some(decision) = verdict.decision() {
            self.counts.add(decision);
        }
        verdict
    }

    /// The next waiting request, of any tunnel, that need wait no longer; with its tunnel's place.
    pub fn resolve(&mut self, now: Time) -> Option<(usize, Waiter, Verdict)> {
        let (place, (waiter, verdict)) = self
            .tunnels
            .iter_mut()
            .enumerate()
            .find_map(|(place, tunnel)| Some((place, tunnel.resolve(now)?)))?;
        if let Some(decision) = verdict.decision() {
            self.counts.add(decision);
        }
        Some((place, waiter, verdict))
    }

    /// A tunnel by its place.
    pub fn tunnel(&mut self, place: usize) -> Option<&mut Tunnel> {
        self.tunnels.get_mut(place)
    }

    /// All tunnels, in order.
    pub fn tunnels(&mut self) -> impl ExactSizeIterator<Item = &mut Tunnel> + '_ {
        self.tunnels.iter_mut()
    }

    /// When the first tunnel has something to do, if nothing else happens.
    pub fn wake(&self) -> Option<Time> {
        self.tunnels.iter().filter_map(Tunnel::wake).min()
    }

    /// Decisions since they were last taken.
    pub fn counts(&mut self) -> &mut DecisionCounts {
        &mut self.counts
    }
}
