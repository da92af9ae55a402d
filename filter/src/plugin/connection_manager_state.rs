//! What the connection manager of one worker knows and counts, by the clock, and when it wants to be woken.

use std::collections::HashMap;

use super::connection_manager_metrics::ConnectionManagerMetrics;
use super::host::{self, Status};
use super::mask_keys::RandomKeys;
use crate::connection_manager::{
    Config, ConnectionManager, Decision, Link, ProbeId, ProbeKind, Target, Ticket, Transition,
};
use crate::converter::MaskKeys;
use crate::time::Time;
use log::{Level, error, log};

/// Counts go to Envoy at the latest after so many milliseconds.
const FLUSH_MS: u32 = 1_000;

/// A request's place in a tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) place: usize,
    pub(super) ticket: Ticket,
}

/// Of one worker, or of Envoy's main thread.
pub(super) struct State {
    pub(super) manager: ConnectionManager,
    random: RandomKeys,
    pub(super) metrics: ConnectionManagerMetrics,
    pub(super) calls: Vec<Call>,
    /// By tunnel: when a probe that was to open it was last sent; none once one was answered.
    asked_at: Vec<Option<Time>>,
    /// What requests that waited are told, until they come for it.
    pub(super) told: HashMap<u32, (Decision, Option<Seat>)>,
    /// When the timer goes off, if it is set.
    pub(super) armed: Option<Time>,
    /// It has a period.
    ticking: bool,
    /// When counts were last handed over.
    flushed: Time,
    pub(super) is_worker: bool,
}

/// A plugin that goes, with a new configuration say, leaves its counts.
impl Drop for State {
    fn drop(&mut self) {
        if self.is_worker {
            self.metrics.flush(self.manager.counts());
        }
    }
}

/// A probe under way.
pub(super) struct Call {
    pub(super) token: u32,
    pub(super) place: usize,
    pub(super) probe: ProbeId,
    /// What was granted for it, if it is to open the tunnel.
    pub(super) turn: Option<Target>,
    pub(super) sent_at: Time,
}

pub(super) fn failed(what: &str, status: Status) {
    error!("connection manager: {what}: {status}");
}

impl State {
    /// Of a worker that has seen nothing yet, or of main.
    pub(super) fn new(config: &Config) -> Result<Self, Status> {
        let now = host::now();
        Ok(Self {
            manager: ConnectionManager::new(config, now),
            random: RandomKeys::new(),
            metrics: ConnectionManagerMetrics::define(config)?,
            calls: Vec::new(),
            asked_at: vec![None; config.tunnels.len()],
            told: HashMap::default(),
            armed: None,
            ticking: false,
            flushed: now,
            is_worker: false,
        })
    }

    pub(super) fn random(&mut self) -> u32 {
        u32::from_le_bytes(self.random.next_key())
    }

    pub(super) fn due_probes(&mut self) -> Vec<(usize, ProbeKind)> {
        let (now, random) = (host::now(), self.random());
        self.manager
            .tunnels()
            .enumerate()
            .filter_map(|(place, tunnel)| Some((place, tunnel.poll(now, random)?)))
            .collect()
    }

    /// A probe that is to open a tunnel was sent at that time, or answered.
    pub(super) fn asked(&mut self, place: usize, at: Option<Time>) {
        if let Some(asked_at) = self.asked_at.get_mut(place) {
            *asked_at = at;
        }
    }

    /// When this worker asked a tunnel's target, if it wasn't answered in time.
    pub(super) fn asked_at(&self, place: usize) -> Option<Time> {
        self.asked_at.get(place).copied().flatten()
    }

    /// What has changed goes to the log and the gauges.
    pub(super) fn report(&mut self) {
        let tunnels = self.manager.tunnels().len();
        (0..tunnels).for_each(|place| self.report_on(place));
    }

    /// The same of one tunnel.
    pub(super) fn report_on(&mut self, place: usize) {
        let is_worker = self.is_worker;
        let Some(tunnel) = self.manager.tunnel(place) else {
            return;
        };
        let Some(Transition { from, to }) = tunnel.take_transition() else {
            return;
        };
        let was_up = matches!(from, Link::Up { .. });
        let is_up = matches!(to, Link::Up { .. });
        if is_up != was_up {
            self.metrics.up(place, is_up);
        }
        if !is_worker || from == to {
            return;
        }
        let (level, how_long) = match to {
            Link::Backoff { until } | Link::NoConverter { until } => {
                let left = until.since(host::now());
                (Level::Warn, format!(" for {left} ms"))
            }
            Link::Idle | Link::Opening { .. } | Link::Up { .. } => (Level::Info, String::new()),
        };
        let (name, from, to) = (&tunnel.config().name, from.as_str(), to.as_str());
        log!(level, "tunnel {name}: {from} -> {to}{how_long}");
    }

    /// The host's timer goes on with its period as long as it has one.
    fn disarm(&mut self) {
        if self.armed.is_none()
            && std::mem::take(&mut self.ticking)
            && let Err(status) = host::set_tick_period(0)
        {
            failed("can't stop the timer", status);
        }
    }

    /// After something that concerns one tunnel, or none: see [`State::arm`]. The timer goes off in time for the others.
    pub(super) fn arm_for(&mut self, place: Option<usize>, now: Option<Time>) {
        let wake = match self.armed {
            None => self.manager.wake(),
            Some(_) => place.and_then(|place| self.manager.tunnel(place)?.wake()),
        };
        self.arm_by(wake, now);
    }

    /// Hands a worker's counts over once a second, and sets the timer for what comes next. Where the timer goes off
    /// in time anyway, it needs no look at the clock.
    pub(super) fn arm(&mut self, now: Option<Time>) {
        self.arm_by(self.manager.wake(), now);
    }

    fn arm_by(&mut self, wake: Option<Time>, now: Option<Time>) {
        let is_dirty = self.is_worker && (!self.manager.counts().is_empty() || self.metrics.is_dirty());
        let flush = is_dirty.then(|| self.flushed.after(FLUSH_MS));
        let Some(next) = [wake, flush].into_iter().flatten().min() else {
            return self.disarm();
        };
        if self.armed.is_some_and(|armed| armed <= next) {
            return;
        }
        let now = now.unwrap_or_else(host::now);
        if flush.is_some_and(|flush| now >= flush) {
            self.metrics.flush(self.manager.counts());
            self.flushed = now;
            return self.arm(Some(now));
        }
        let period = u32::try_from(next.since(now)).unwrap_or(u32::MAX).max(1);
        match host::set_tick_period(period) {
            Ok(()) => {
                self.armed = Some(next);
                self.ticking = true;
            }
            Err(status) => failed("can't set the timer", status),
        }
    }
}
