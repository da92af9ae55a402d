//! One tunnel on one worker.

use std::collections::VecDeque;

use super::config::{Mode, TunnelConfig};
use super::decision::{Evidence, Reason, Ticket, Verdict};
use super::request_window::RequestWindow;
use crate::time::{Time, jittered};

/// A probe that the host has said nothing about for so long after its time-out is taken for lost,
/// milliseconds.
const LOST_PROBE_GRACE_MS: u32 = 1_000;

/// WebSockets that end one after the other are replaced no faster than one in so many milliseconds.
const RENEWAL_PAUSE_MS: u32 = 1_000;

/// Does the tunnel work, as far as this worker knows?
///
/// ```text
///             wanted                         probe answered
///   Idle ───────────────► Opening ────────────────────────────────► Up
///    ▲                    │  │  ▲                                   │ │
///    │◄───not wanted──────┘  │  │ time over,                        │ │
///    │                       │  │ wanted                            │ │
///    │       probe failed    ▼  │         `consecutive` failures    │ │
///    │◄──────time over──── Backoff ◄────────────────────────────────┘ │
///    │       not wanted                                               │
///    │◄──────time over──── NoConverter ◄── handshake without wsferry, │
///    │                       └─ wanted ─► Opening      from any state │
///    │◄───────────────────────────── not wanted ──────────────────────┘
/// ```
///
/// *Wanted* is what the request rate says (or `eager`), with two thresholds so that it doesn't flap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not wanted: no probes. The WebSocket may linger until Envoy's idle time-out closes it.
    Idle,
    /// Wanted and not known to work: a probe is under way, or will be at that time.
    Opening {
        /// When a probe may be sent.
        not_before: Time,
    },
    /// A probe has passed and nothing has taken it out of use since.
    Up {
        /// Since when.
        since: Time,
    },
    /// It failed; nothing is sent until then.
    Backoff {
        /// When it is tried again.
        until: Time,
    },
    /// The target has no converter; nothing is sent until then.
    NoConverter {
        /// When it is asked again.
        until: Time,
    },
}

impl Link {
    /// Name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Opening { .. } => "opening",
            Self::Up { .. } => "up",
            Self::Backoff { .. } => "backoff",
            Self::NoConverter { .. } => "no_converter",
        }
    }
}

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// To open the WebSocket: [`super::Target::claim`] comes first.
    Open,
    /// To keep it alive and see that it works.
    KeepAlive,
}

/// Which probe an answer belongs to; late answers to earlier ones are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProbeId(u32);

/// How a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeFailure {
    /// No answer within `timeout_ms`.
    TimedOut,
    /// The tunnel or the WebSocket could not be opened or broke, or something else than the far end
    /// answered.
    Broken,
    /// The handshake was refused for good, or granted without `wsferry.v1`.
    NoConverter,
    /// The host couldn't send it: a circuit breaker of the tunnel's cluster has no room, or it has no host that may be asked.
    Unsent,
}

/// A change of [`Link`] that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: Link,
    /// After.
    pub to: Link,
}

/// Name of a waiting request, the host's context id.
pub type Waiter = u32;

#[derive(Debug, Clone, Copy)]
struct SentProbe {
    id: ProbeId,
    at: Time,
}

/// State of one tunnel on one worker. Order of calls: whatever happens is told to the method of its
/// name; then [`Tunnel::resolve`] until it gives nothing, and [`Tunnel::poll`] at the latest at
/// [`Tunnel::wake`]. Time and randomness are arguments.
#[derive(Debug)]
pub struct Tunnel {
    config: TunnelConfig,
    requests: RequestWindow,
    /// Requests that [`Tunnel::request_at_any_time`] decided for since the last [`Tunnel::poll`], which no time is known of.
    /// Only a poll ends the states in which there are any.
    undated: u32,
    wanted_since: Option<Time>,
    link: Link,
    probe: Option<SentProbe>,
    last_probe: u32,
    next_probe: Time,
    failed_requests: u32,
    failed_probes: u32,
    /// The last probe's handshake was refused.
    probe_refused: bool,
    suspect: bool,
    /// When the last probe that was answered was sent: there was a WebSocket after that.
    proven: Time,
    /// The end of a WebSocket that was heeded last.
    ended: Option<Time>,
    /// The refused handshake that was heeded last.
    refused: Option<Time>,
    /// When the last probe was due that replaces one.
    renewal: Option<Time>,
    backoffs: u32,
    generation: u32,
    in_flight: u32,
    waiting: VecDeque<(Waiter, Time)>,
    round_trip_ms: Option<u32>,
    slow: bool,
    transition: Option<Transition>,
}

impl Tunnel {
    /// A tunnel at start.
    pub fn new(config: TunnelConfig, now: Time) -> Self {
        let requests = RequestWindow::new(config.open.requests.max(config.close.requests));
        let wanted_since = config.eager.then_some(now);
        Self {
            config,
            requests,
            undated: 0,
            wanted_since,
            link: Link::Idle,
            probe: None,
            last_probe: 0,
            next_probe: now,
            failed_requests: 0,
            failed_probes: 0,
            probe_refused: false,
            suspect: false,
            proven: now,
            ended: None,
            refused: None,
            renewal: None,
            backoffs: 0,
            generation: 0,
            in_flight: 0,
            waiting: VecDeque::new(),
            round_trip_ms: None,
            slow: false,
            transition: None,
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &TunnelConfig {
        &self.config
    }

    /// Whether it works, as far as is known.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Requests of this worker in the tunnel.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Time that probes take, smoothed, milliseconds; `None` before the first answer.
    pub fn round_trip_ms(&self) -> Option<u32> {
        self.round_trip_ms
    }

    /// What changed since the last call.
    pub fn take_transition(&mut self) -> Option<Transition> {
        self.transition.take()
    }

    /// A request comes, and goes over plain HTTP for this reason whatever the time is; `None` if
    /// [`Tunnel::request`] has to decide.
    ///
    /// While a wanted tunnel is out of use for a time, requests only keep it wanted. For that they count at the next
    /// [`Tunnel::poll`], at the latest when that time is over.
    pub fn request_at_any_time(&mut self) -> Option<Reason> {
        let reason = match (self.config.mode, self.link) {
            (Mode::Never, _) => return Some(Reason::ModeNever),
            (Mode::Adaptive, Link::Backoff { .. }) => Reason::Backoff,
            (Mode::Adaptive, Link::NoConverter { .. }) => Reason::NoConverter,
            _ => return None,
        };
        // Whether it gets wanted takes exact times.
        self.wanted_since?;
        self.undated = self.undated.saturating_add(1);
        Some(reason)
    }

    /// A request comes; `waiter` names it if it has to wait.
    pub fn request(&mut self, waiter: Waiter, now: Time) -> Verdict {
        match self.config.mode {
            Mode::Never => return Verdict::Http(Reason::ModeNever),
            Mode::Adaptive | Mode::Always => self.requests.push(now),
        }
        if self.wanted_since.is_none()
            && (self.config.mode == Mode::Always || self.requests.reaches(self.config.open, now))
        {
            self.wanted_since = Some(now);
        }
        self.follow(now);
        let reason = match self.link {
            Link::Up { .. } if self.suspect => Reason::Suspect,
            Link::Up { .. } => Reason::Up,
            Link::Idle => Reason::Cold,
            Link::Opening { .. } => Reason::Opening,
            Link::Backoff { .. } => Reason::Backoff,
            Link::NoConverter { .. } => Reason::NoConverter,
        };
        match (self.config.mode, reason) {
            (Mode::Always, Reason::Up) => self.enter(reason),
            (Mode::Always, Reason::Suspect) if !self.waits() => self.enter(reason),
            (Mode::Always, _) => self.wait(waiter, reason, now),
            (_, Reason::Up) if self.in_flight >= self.config.load.max_in_flight => {
                Verdict::Http(Reason::InFlight)
            }
            (_, Reason::Up) if self.slow => Verdict::Http(Reason::Slow),
            (_, Reason::Up) => self.enter(reason),
            _ => Verdict::Http(reason),
        }
    }

    fn enter(&mut self, reason: Reason) -> Verdict {
        self.in_flight = self.in_flight.saturating_add(1);
        Verdict::WebSocket(
            reason,
            Ticket {
                generation: self.generation,
            },
        )
    }

    /// Whether requests wait for the WebSocket. Where they may, none is sent into one that is in doubt.
    fn waits(&self) -> bool {
        self.config.mode == Mode::Always && self.config.max_wait_ms > 0
    }

    fn wait(&mut self, waiter: Waiter, reason: Reason, now: Time) -> Verdict {
        if reason == Reason::NoConverter || self.config.max_wait_ms == 0 {
            return Verdict::Refuse(reason);
        }
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        if waiting >= self.config.load.max_in_flight {
            return Verdict::Refuse(Reason::TooManyWaiting);
        }
        let until = now.after(self.config.max_wait_ms);
        self.waiting.push_back((waiter, until));
        Verdict::Wait(until)
    }

    /// The next waiting request that need wait no longer.
    pub fn resolve(&mut self, now: Time) -> Option<(Waiter, Verdict)> {
        let &(waiter, until) = self.waiting.front()?;
        let verdict = match self.link {
            Link::Up { .. } if !self.suspect => self.enter(Reason::Waited),
            Link::NoConverter { .. } => Verdict::Refuse(Reason::NoConverter),
            _ if now >= until => Verdict::Refuse(Reason::WaitOver),
            _ => return None,
        };
        self.waiting.pop_front();
        Some((waiter, verdict))
    }

    /// A waiting request is gone: its client gave up.
    pub fn forget(&mut self, waiter: Waiter) {
        // Envoy's numbers go up, until they wrap. Thousands may leave at once.
        match self.waiting.binary_search_by_key(&waiter, |&(other, _)| other) {
            Ok(place) => {
                self.waiting.remove(place);
            }
            Err(_) => self.waiting.retain(|&(other, _)| other != waiter),
        }
    }

    /// A request that entered has come to its end, whatever that was.
    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What a request in the tunnel shows. Of what many requests tell of one broken connection, the
    /// first counts: the others entered before it was known. What was sent more than once is worth a probe, no more often
    /// than renewals, and doesn't count as failed: one client's odd requests take no tunnel out of use.
    pub fn observe(&mut self, ticket: Ticket, evidence: Evidence, now: Time, random: u32) {
        // Another state is another generation, and requests enter in [`Link::Up`] alone.
        if ticket.generation != self.generation {
            return;
        }
        match evidence {
            Evidence::Passed => {
                self.failed_requests = 0;
                self.failed_probes = 0;
                self.probe_refused = false;
                self.suspect = false;
            }
            Evidence::Failed => {
                self.failed_requests = self.failed_requests.saturating_add(1);
                self.suspected(now, random);
            }
            // Where there is no other way, Envoy's 503 is as good as a wait.
            Evidence::Unsent if self.config.mode != Mode::Adaptive => {}
            Evidence::Retried | Evidence::Unsent => {
                let pause_over = self
                    .renewal
                    .is_none_or(|last| now >= last.after(RENEWAL_PAUSE_MS));
                if pause_over {
                    self.doubt(now);
                }
            }
        }
    }

    /// A WebSocket to the target takes no more requests: it said goaway or ended, at that time, on this worker or
    /// another one. If it was this worker's, the next request would open another one, and fail with it if that can't
    /// be. So a probe does, as when the tunnel was opened. Each end is heeded once.
    pub fn websocket_ended(&mut self, at: Time, now: Time) {
        let heeds = self.config.mode == Mode::Adaptive || self.waits();
        let is_open = matches!(self.link, Link::Up { .. }) && heeds;
        if self.ended == Some(at) || !is_open || at < self.proven {
            return;
        }
        self.ended = Some(at);
        self.doubt(now);
    }

    /// A handshake was refused at that time, on this worker or another one. Where this worker's own WebSocket may stand
    /// since before that, a probe tells. Each refusal is heeded once.
    pub fn handshake_refused(&mut self, at: Time, now: Time) {
        if let Link::Up { since } = self.link
            && since < at
            && self.refused != Some(at)
        {
            self.refused = Some(at);
            self.doubt(now);
        }
    }

    /// Until a probe has passed, what entered before says nothing, and nothing enters that has another way or may wait.
    fn doubt(&mut self, now: Time) {
        if !self.suspect {
            self.suspect = true;
            self.next_generation();
            self.renew(now);
        }
    }

    /// A probe is due, but renewals have their pace where no request waits for them.
    fn renew(&mut self, now: Time) {
        let last = self.renewal.filter(|_| !self.waits());
        let pause_over = last.map_or(now, |last| last.after(RENEWAL_PAUSE_MS));
        self.next_probe = now.max(pause_over);
        self.renewal = Some(self.next_probe);
    }

    fn suspected(&mut self, now: Time, random: u32) {
        self.suspect = true;
        self.next_generation();
        if self.failed_requests.saturating_add(self.failed_probes) >= self.config.failures.consecutive {
            self.back_off(now, random);
        } else {
            self.next_probe = now;
        }
    }

    /// A tunnel that has worked for long begins again with the shortest back-off, whatever takes it out of use.
    fn forgive(&mut self, now: Time) {
        if let Link::Up { since } = self.link
            && now.since(since) >= u64::from(self.config.failures.stable_ms)
        {
            self.backoffs = 0;
        }
    }

    fn back_off(&mut self, now: Time, random: u32) {
        let failures = self.config.failures;
        self.forgive(now);
        let delay = 1u32
            .checked_shl(self.backoffs)
            .and_then(|factor| failures.base_backoff_ms.checked_mul(factor))
            .unwrap_or(u32::MAX)
            .min(self.longest_backoff_ms());
        self.backoffs = self.backoffs.saturating_add(1);
        self.go(Link::Backoff {
            until: now.after(jittered(delay, self.config.jitter_percent, random)),
        });
    }

    /// Where requests have no other way, it is short enough for one that waits to see the tunnel tried again.
    fn longest_backoff_ms(&self) -> u32 {
        let failures = self.config.failures;
        match self.config.mode {
            Mode::Always => (self.config.max_wait_ms >> 1)
                .max(failures.base_backoff_ms)
                .min(failures.max_backoff_ms),
            Mode::Adaptive | Mode::Never => failures.max_backoff_ms,
        }
    }

    /// Lets time pass, and says whether a probe is wanted. It stays wanted until
    /// [`Tunnel::probe_sent`] or [`Tunnel::postpone`].
    pub fn poll(&mut self, now: Time, random: u32) -> Option<ProbeKind> {
        self.requests.push_many(std::mem::take(&mut self.undated), now);
        if let Some(probe) = self.probe
            && now >= self.lost_at(probe)
        {
            self.probe_failed(probe.id, ProbeFailure::TimedOut, now, random);
        }
        if self.let_go_at().is_some_and(|time| now >= time) {
            self.wanted_since = None;
        }
        self.follow(now);
        if self.probe.is_some() {
            return None;
        }
        match self.link {
            Link::Opening { not_before } if now >= not_before => Some(ProbeKind::Open),
            Link::Up { .. } if now >= self.next_probe => Some(ProbeKind::KeepAlive),
            _ => None,
        }
    }

    /// Takes the transitions that time and wanting make.
    fn follow(&mut self, now: Time) {
        let wanted = self.wanted_since.is_some();
        match self.link {
            Link::Backoff { until } | Link::NoConverter { until } if now < until => {}
            Link::Idle | Link::Backoff { .. } | Link::NoConverter { .. } if wanted => {
                self.go(Link::Opening { not_before: now });
            }
            Link::Opening { .. } | Link::Up { .. } if wanted => {}
            Link::Idle => {}
            Link::Opening { .. } | Link::Up { .. } | Link::Backoff { .. } | Link::NoConverter { .. } => {
                self.forgive(now);
                self.go(Link::Idle);
            }
        }
    }

    fn go(&mut self, to: Link) {
        let from = self.transition.map_or(self.link, |transition| transition.from);
        self.transition = Some(Transition { from, to });
        self.link = to;
        // What is under way was sent in another state and proves nothing in this one. The probe that
        // opens a tunnel has been taken by then.
        self.probe = None;
        self.suspect = false;
        self.failed_requests = 0;
        self.failed_probes = 0;
        self.probe_refused = false;
        self.next_generation();
    }

    fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// When the tunnel is to be let go if no request comes; `None` if it isn't wanted or must stay.
    fn let_go_at(&self) -> Option<Time> {
        if self.config.eager || self.in_flight > 0 || !self.waiting.is_empty() {
            return None;
        }
        let close = self.config.close;
        let since = self.wanted_since?;
        let last = self.requests.last_but(close.requests).unwrap_or(since);
        Some(since.max(last).after(close.within_ms))
    }

    fn lost_at(&self, probe: SentProbe) -> Time {
        probe
            .at
            .after(self.config.probe.timeout_ms)
            .after(LOST_PROBE_GRACE_MS)
    }

    /// When [`Tunnel::poll`] and [`Tunnel::resolve`] have something to do, if nothing else happens.
    pub fn wake(&self) -> Option<Time> {
        let probe = match (self.probe, self.link) {
            (Some(probe), _) => Some(self.lost_at(probe)),
            (None, Link::Opening { not_before }) => Some(not_before),
            (None, Link::Up { .. }) => Some(self.next_probe),
            (None, Link::Backoff { until } | Link::NoConverter { until }) => Some(until),
            (None, Link::Idle) => self.wanted_since,
        };
        let waiter = self.waiting.front().map(|&(_, until)| match self.link {
            Link::Up { .. } if self.suspect => until,
            Link::Up { .. } | Link::NoConverter { .. } => Time(0),
            Link::Idle | Link::Opening { .. } | Link::Backoff { .. } => until,
        });
        [probe, waiter, self.let_go_at()].into_iter().flatten().min()
    }

    /// The probe that [`Tunnel::poll`] wanted is under way.
    pub fn probe_sent(&mut self, now: Time) -> ProbeId {
        self.last_probe = self.last_probe.wrapping_add(1);
        let id = ProbeId(self.last_probe);
        self.probe = Some(SentProbe { id, at: now });
        id
    }

    /// The probe that [`Tunnel::poll`] wanted has to wait: another worker asks the target.
    pub fn postpone(&mut self, until: Time) {
        if let Link::Opening { not_before } = &mut self.link {
            *not_before = until;
        }
    }

    /// The far end answered a probe: the whole tunnel works. Whether the probe still mattered.
    pub fn probe_answered(&mut self, id: ProbeId, now: Time, random: u32) -> bool {
        let Some(probe) = self.take_probe(id) else {
            return false;
        };
        let opens = matches!(self.link, Link::Opening { .. });
        if opens {
            // It took connecting, TLS and the handshake besides, and what another WebSocket took is over.
            self.round_trip_ms = None;
            self.slow = false;
            self.go(Link::Up { since: now });
        } else if self.ended.is_none_or(|at| at < self.proven)
            && let Ok(sample) = u32::try_from(now.since(probe.at))
            && sample <= self.config.probe.timeout_ms
        {
            // Nor is the one that replaces a WebSocket. Where it took longer than the host waits, this worker stood still.
            self.measured(sample);
        }
        self.failed_probes = 0;
        self.probe_refused = false;
        if !self.waits() && self.ended.is_some_and(|at| probe.at < at) {
            // It passed through the WebSocket that has ended since. Requests that have no other way needn't wait for a far
            // end whose every WebSocket takes one request.
            self.renew(now);
            return true;
        }
        self.proven = probe.at;
        if self.suspect {
            self.suspect = false;
            self.next_generation();
        }
        let interval = match opens && self.config.load.max_round_trip_ms.is_some() {
            true => 0,
            false => self.config.probe.interval_ms,
        };
        self.next_probe = now.after(jittered(interval, self.config.jitter_percent, random));
        true
    }

    /// A probe failed. Whether it still mattered. Where a WebSocket has worked until then, one refused handshake is one
    /// failure, as not every server of several is alike; a second one shows that the target has no converter.
    pub fn probe_failed(&mut self, id: ProbeId, failure: ProbeFailure, now: Time, random: u32) -> bool {
        if self.take_probe(id).is_none() {
            return false;
        }
        if failure == ProbeFailure::Unsent && matches!(self.link, Link::Up { .. }) {
            // That says nothing of the far end. But a request wouldn't be sent either: what has another way takes it until a
            // probe finds room.
            if self.config.mode == Mode::Adaptive {
                self.doubt(now);
            }
            self.next_probe = now.after(RENEWAL_PAUSE_MS);
            return true;
        }
        let is_refused = failure == ProbeFailure::NoConverter;
        let is_again = std::mem::replace(&mut self.probe_refused, is_refused);
        if is_refused && (is_again || !matches!(self.link, Link::Up { .. })) {
            self.no_converter(now.after(self.config.no_converter_ttl_ms));
        } else if matches!(self.link, Link::Up { .. }) {
            self.failed_probes = self.failed_probes.saturating_add(1);
            self.suspected(now, random);
        } else {
            self.back_off(now, random);
        }
        true
    }

    fn take_probe(&mut self, id: ProbeId) -> Option<SentProbe> {
        self.probe.take_if(|probe| probe.id == id)
    }

    /// It became known, by a request, a probe or another worker, that the target has no converter.
    pub fn no_converter(&mut self, until: Time) {
        self.backoffs = 0;
        self.go(Link::NoConverter { until });
    }

    /// Keeps a moving average, 7/8 old and 1/8 new, and the tunnel's slowness with its hysteresis.
    fn measured(&mut self, sample_ms: u32) {
        let average = match self.round_trip_ms {
            None => sample_ms,
            Some(old) => {
                let sum = u64::from(old)
                    .saturating_mul(7)
                    .saturating_add(u64::from(sample_ms));
                // Rounded up on the way up, so that the average reaches what it averages.
                let up = if sample_ms > old { 7 } else { 0 };
                u32::try_from(sum.saturating_add(up) >> 3).unwrap_or(u32::MAX)
            }
        };
        self.round_trip_ms = Some(average);
        self.slow = match self.config.load.max_round_trip_ms {
            None => false,
            Some(most) if self.slow => average.saturating_mul(2) >= most,
            Some(most) => average > most,
        };
    }
}
