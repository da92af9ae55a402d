//! What the requests of one worker's connection manager share: decisions, the probes, and what other workers know.

use std::cell::RefCell;

use super::connection_manager_state::{Call, Seat, State, failed};
use super::host::{self, Map, Status};
use super::shared_target::SharedTarget;
use crate::connection_manager::config::Mode;
use crate::connection_manager::{
    Claim, Config, Decision, Evidence, Link, ProbeFailure, ProbeId, ProbeKind, Subject, Target, Tunnel,
    Verdict, Way,
};
use crate::time::Time;
use log::{error, info};

/// A worker whose turn it isn't looks again after so many milliseconds.
const WAIT_MS: u32 = 20;

/// Filter state with the decision, as `wasm.wsferry.decision`.
const DECISION_PROPERTY: &str = "wsferry.decision";

/// Where a route names its tunnel: `metadata: {filter_metadata: {wsferry: {tunnel: NAME}}}`.
const ROUTE_TUNNEL: [&str; 5] = ["xds", "route_metadata", "filter_metadata", "wsferry", "tunnel"];

/// Value of the decision header for requests in a tunnel; those that go over plain HTTP have none.
const WEBSOCKET: &str = "websocket";

/// The same in a tunnel of mode always, which must not fall back to
/// plain HTTP.
const WEBSOCKET_ONLY: &str = "websocket_only";

/// What a request is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    /// Go, with a seat if it is in the tunnel.
    Go(Decision, Option<Seat>),
    /// Wait for the tunnel at this place.
    Wait(usize),
}

/// What the plugin and its streams have in common. There is one thread.
pub(super) struct Shared {
    pub(super) config: Config,
    /// In the order of the tunnels.
    targets: Vec<SharedTarget>,
    state: RefCell<State>,
}

impl Shared {
    /// # Errors
    /// What Envoy answers that can't share data or define metrics.
    pub(super) fn new(config: Config) -> Result<Self, Status> {
        // What main's instance makes first, workers find: so two of them can't both be the first.
        let targets: Vec<_> = config
            .tunnels
            .iter()
            .map(|tunnel| SharedTarget::of(&tunnel.name))
            .collect();
        for target in &targets {
            target.make()?;
        }
        Ok(Self {
            state: RefCell::new(State::new(&config)?),
            targets,
            config,
        })
    }

    pub(super) fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        match self.state.try_borrow_mut() {
            Ok(mut state) => Some(work(&mut state)),
            Err(_) => {
                error!("connection manager: called from within itself");
                None
            }
        }
    }

    /// To be called after anything that happened.
    pub(super) fn settle(&self) {
        self.with_state(|state| {
            state.report();
            state.arm(Some(host::now()));
        });
    }

    /// Decides for a request and makes the decision known. Nothing is told where that is impossible.
    pub(super) fn request(&self, context_id: u32) -> Result<Option<Told>, Status> {
        let needs = self.with_state(|state| {
            let manager = &state.manager;
            let of_route = manager.needs_route_metadata();
            (manager.needs_authority(), manager.needs_path(), of_route)
        });
        let (needs_authority, needs_path, needs_route_metadata) = needs.unwrap_or_default();
        let field = |needed, name| match needed {
            true => host::header(Map::Request, name).map(Option::unwrap_or_default),
            false => Ok(Vec::new()),
        };
        let authority = field(needs_authority, ":authority")?;
        let path = field(needs_path, ":path")?;
        let route_tunnel = match needs_route_metadata {
            // A value that is no text names no tunnel.
            true => host::property(&ROUTE_TUNNEL).ok().flatten().unwrap_or_default(),
            false => Vec::new(),
        };
        let subject = Subject {
            authority: &authority,
            path: &path,
            route_tunnel: &route_tunnel,
        };
        let told = self.with_state(|state| {
            let place = state.manager.find(subject);
            if let Some(decision) = state.manager.request_at_any_time(place) {
                state.arm_for(place, None);
                return Some(Told::Go(decision, None));
            }
            // What belongs to no tunnel has been decided.
            let place = place?;
            let now = host::now();
            if let (Some(tunnel), Some(target)) = (state.manager.tunnel(place), self.targets.get(place)) {
                heed_others(tunnel, target, now);
            }
            let verdict = state.manager.request(Some(place), context_id, now);
            let told = told(place, verdict);
            // Most requests change nothing that the timer has to know.
            state.report_on(place);
            state.arm_for(Some(place), Some(now));
            Some(told)
        });
        Ok(told.flatten())
    }

    /// Writes a decision where routes and access logs look for it. The effective context is the
    /// request's.
    pub(super) fn publish(&self, decision: Decision, seat: Option<Seat>) -> Result<(), Status> {
        let mode = seat
            .and_then(|seat| self.config.tunnels.get(seat.place))
            .map(|tunnel| tunnel.mode);
        let name = &self.config.decision_header;
        match (decision.way, mode) {
            // The filter never chooses plain HTTP there, and the route mustn't do so either.
            (Way::WebSocket, Some(Mode::Always)) => host::replace_header(Map::Request, name, WEBSOCKET_ONLY)?,
            (Way::WebSocket, _) => host::replace_header(Map::Request, name, WEBSOCKET)?,
            // Whatever is changed has Envoy look for the route again: so only where a client has sent one.
            (Way::Http, _)
                if !self.config.client_header_removed && host::header(Map::Request, name)?.is_some() =>
            {
                host::remove_header(Map::Request, name)?;
            }
            (Way::Http | Way::Refuse, _) => {}
        }
        if decision.way == Way::Http && !self.config.publishes_http {
            return Ok(());
        }
        host::set_property(DECISION_PROPERTY, decision.as_str().as_bytes())
    }

    /// Answers the request of the effective context. Envoy shows this filter no response of its own.
    pub(super) fn refuse(&self, decision: Decision) -> Result<(), Status> {
        let reason = decision.reason.as_str();
        let mut fields = vec![("content-type", "text/plain")];
        if let Some(name) = &self.config.debug_response_header {
            fields.push((name, decision.as_str()));
        }
        host::send_local_response(
            503,
            &format!("wsferry_{reason}"),
            &fields,
            &format!("wsferry: no WebSocket for this request: {reason}\n"),
        )
    }

    /// What a request that waited has been told, once it has.
    pub(super) fn take_told(&self, context_id: u32) -> Option<(Decision, Option<Seat>)> {
        self.with_state(|state| state.told.remove(&context_id)).flatten()
    }

    /// What a request in the tunnel shows.
    pub(super) fn observe(&self, seat: Seat, evidence: Evidence) {
        self.with_state(|state| {
            let (now, random) = (host::now(), state.random());
            if evidence != Evidence::Passed {
                state.metrics.request_failed();
            }
            let Some(tunnel) = state.manager.tunnel(seat.place) else {
                return;
            };
            tunnel.observe(seat.ticket, evidence, now, random);
            state.report_on(seat.place);
            state.arm_for(Some(seat.place), Some(now));
        });
    }

    /// A request in the tunnel has come to its end.
    pub(super) fn leave(&self, seat: Seat) {
        self.with_state(|state| {
            if let Some(tunnel) = state.manager.tunnel(seat.place) {
                tunnel.leave();
            }
            state.arm_for(Some(seat.place), None);
        });
    }

    /// A request that waits for a tunnel is gone.
    pub(super) fn forget(&self, place: usize, context_id: u32) {
        self.with_state(|state| {
            if let Some(tunnel) = state.manager.tunnel(place) {
                tunnel.forget(context_id);
            }
        });
    }

    /// Sends a probe, if no other worker is asking the same. The effective context is the plugin's.
    pub(super) fn probe(&self, place: usize, kind: ProbeKind) {
        let (Some(tunnel), Some(target)) = (self.config.tunnels.get(place), self.targets.get(place)) else {
            return;
        };
        let turn = match kind {
            ProbeKind::KeepAlive => None,
            ProbeKind::Open => match self.may_open(place) {
                None => return,
                turn => turn,
            },
        };
        let probe = &tunnel.probe;
        let headers = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", probe.authority.as_str()),
            (":path", probe.path.as_str()),
        ];
        let sent_at = host::now();
        let sent = self.with_state(|state| {
            state.metrics.probe_sent();
            if kind == ProbeKind::Open {
                state.asked(place, Some(sent_at));
            }
            Some(state.manager.tunnel(place)?.probe_sent(sent_at))
        });
        let Some(id) = sent.flatten() else {
            return;
        };
        // Not while the state is borrowed. Its answer, even one at once, comes after this callback.
        match host::http_call(&probe.cluster, &headers, probe.timeout_ms) {
            Ok(token) => {
                self.with_state(|state| {
                    state.calls.push(Call {
                        token,
                        place,
                        probe: id,
                        turn,
                        sent_at,
                    });
                });
            }
            Err(status) => {
                self.probe_unsent(place, id, status);
                target.fail(false, turn);
            }
        }
    }

    /// Envoy refused to send a probe.
    fn probe_unsent(&self, place: usize, id: ProbeId, status: Status) {
        let Some(config) = self.config.tunnels.get(place) else {
            return;
        };
        let cluster = &config.probe.cluster;
        let failure = match status {
            Status::BAD_ARGUMENT => ProbeFailure::Broken,
            // So says Envoy where its own answer would come at once: of a cluster that takes no request.
            _ => ProbeFailure::Unsent,
        };
        self.with_state(|state| {
            let (now, random) = (host::now(), state.random());
            state.asked(place, None);
            state.metrics.probe_ended(Err(failure), 0);
            if let Some(tunnel) = state.manager.tunnel(place) {
                tunnel.probe_failed(id, failure, now, random);
            }
            match failure {
                ProbeFailure::Unsent if state.is_worker => info!(
                    "tunnel {}: probe not sent, a circuit breaker of cluster {cluster} is full or it has no healthy host",
                    config.name
                ),
                ProbeFailure::Broken if state.is_worker => {
                    error!(
                        "tunnel {}: can't send a probe, there is no cluster {cluster}",
                        config.name
                    );
                }
                // Main's instance asks before there are clusters.
                _ => {}
            }
        });
    }

    /// A handshake may be refused only after its probe was given up: what counts is that it was, not how fast.
    fn read_late_answer(&self, place: usize, target: &SharedTarget, ttl_ms: u32) {
        let asked_at = self.with_state(|state| state.asked_at(place));
        let refused = target.news().refused;
        let until = refused.after(ttl_ms);
        if let Some(asked_at) = asked_at.flatten()
            && refused >= asked_at
            && until > host::now()
            && !target.has()
        {
            target.store(Target::Lacks { until });
        }
    }

    /// This worker's turn to ask the target; if it isn't its turn, its tunnel knows.
    fn may_open(&self, place: usize) -> Option<Target> {
        let (Some(config), Some(target)) = (self.config.tunnels.get(place), self.targets.get(place)) else {
            return None;
        };
        self.read_late_answer(place, target, config.no_converter_ttl_ms);
        let now = host::now();
        let claim = target.claim(now, config.probe.timeout_ms, config.no_converter_ttl_ms);
        self.with_state(|state| {
            let tunnel = state.manager.tunnel(place)?;
            match claim {
                Claim::Granted(turn) => return Some(turn),
                Claim::Wait { .. } => tunnel.postpone(now.after(WAIT_MS)),
                Claim::Lacks { until } => tunnel.no_converter(until),
            }
            None
        })
        .flatten()
    }

    /// A probe was answered with that status, or not at all.
    pub(super) fn probe_ended(&self, token: u32, status: Option<u16>) {
        let call = self.with_state(|state| {
            let index = state.calls.iter().position(|call| call.token == token)?;
            Some(state.calls.swap_remove(index))
        });
        let Some(call) = call.flatten() else {
            return;
        };
        let target = self.targets.get(call.place);
        let (Some(config), Some(target)) = (self.config.tunnels.get(call.place), target) else {
            return;
        };
        let now = host::now();
        let took = now.since(call.sent_at);
        let timeout_ms = u64::from(config.probe.timeout_ms);
        let result = match status {
            Some(200..=299) => Ok(()),
            // Not where other workers' WebSockets work: not every server of several is alike.
            _ if !target.has() && target.news().refused >= call.sent_at => Err(ProbeFailure::NoConverter),
            Some(504) => Err(ProbeFailure::TimedOut),
            // Begun and not complete, as where the WebSocket's window is full.
            None if took >= timeout_ms => Err(ProbeFailure::TimedOut),
            _ => Err(ProbeFailure::Broken),
        };
        self.with_state(|state| {
            let random = state.random();
            state.is_worker |= result.is_ok();
            // Where it took longer this worker stood still.
            state.metrics.probe_ended(result, took.min(timeout_ms));
            // Only one that was given up may yet have its handshake refused.
            if result != Err(ProbeFailure::TimedOut) {
                state.asked(call.place, None);
            }
            let Some(tunnel) = state.manager.tunnel(call.place) else {
                return;
            };
            match result {
                Ok(()) => {
                    target.store(Target::Has);
                    tunnel.probe_answered(call.probe, now, random);
                }
                Err(failure) => {
                    tunnel.probe_failed(call.probe, failure, now, random);
                    match (failure, tunnel.link()) {
                        (ProbeFailure::NoConverter, Link::NoConverter { .. }) => {
                            target.store(Target::Lacks {
                                until: now.after(config.no_converter_ttl_ms),
                            })
                        }
                        _ => target.fail(state.is_worker, call.turn),
                    }
                }
            }
            if let (Err(failure), true) = (result, state.is_worker) {
                let name = &config.name;
                let text = match failure {
                    ProbeFailure::TimedOut => {
                        format!(
                            "tunnel {name}: probe not answered within {} ms",
                            config.probe.timeout_ms
                        )
                    }
                    ProbeFailure::Broken | ProbeFailure::Unsent => match status {
                        Some(status) => format!("tunnel {name}: probe failed, status {status}"),
                        None => format!("tunnel {name}: probe cut off"),
                    },
                    ProbeFailure::NoConverter => format!("tunnel {name}: probe failed, no converter"),
                };
                info!("{text}");
            }
        });
    }

    /// Lets those go on that have waited long enough; of many the first, and the others with the next tick. The last
    /// thing that a tick does: what follows would be done in their names.
    pub(super) fn resolve(&self) {
        for _ in 0..host::MOST_AT_ONCE {
            let next = self.with_state(|state| {
                let (place, waiter, verdict) = state.manager.resolve(host::now())?;
                let told = told(place, verdict);
                if let Told::Go(decision, seat) = told {
                    state.told.insert(waiter, (decision, seat));
                }
                Some((waiter, told))
            });
            let Some((waiter, Told::Go(decision, seat))) = next.flatten() else {
                return;
            };
            let done = host::set_effective_context(waiter)
                .and_then(|()| self.publish(decision, seat))
                .and_then(|()| match seat {
                    Some(_) => host::continue_request(),
                    None => self.refuse(decision),
                });
            if let Err(status) = done {
                failed(&format!("can't let #{waiter} go on"), status);
                undecided(waiter);
            }
        }
    }
}

/// Refuses the request of the effective context, whose decision can't be made known: without one the client's own header
/// might choose the way.
pub(super) fn undecided(context_id: u32) {
    let sent = host::send_local_response(503, "wsferry_undecided", &[], "no decision\n");
    if let Err(status) = sent {
        failed(&format!("#{context_id} can't be refused"), status);
    }
}

fn told(place: usize, verdict: Verdict) -> Told {
    let Some(decision) = verdict.decision() else {
        return Told::Wait(place);
    };
    let seat = match verdict {
        Verdict::WebSocket(_, ticket) => Some(Seat { place, ticket }),
        Verdict::Http(_) | Verdict::Wait(_) | Verdict::Refuse(_) => None,
    };
    Told::Go(decision, seat)
}

/// What a request has to know that has become known elsewhere.
fn heed_others(tunnel: &mut Tunnel, target: &SharedTarget, now: Time) {
    match tunnel.link() {
        // Not left to the requests that fail: what becomes of them may show only much later.
        Link::Up { .. } => {
            let news = target.news();
            tunnel.handshake_refused(news.refused, now);
            tunnel.websocket_ended(news.ended, now);
        }
        // In mode always this request would be refused, while another worker's WebSocket works.
        Link::NoConverter { until } if now < until && target.has() => tunnel.no_converter(now),
        _ => {}
    }
}
