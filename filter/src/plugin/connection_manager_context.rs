//! One request of listener `ingress`: its way is decided, and what becomes of it is observed.

use std::rc::Rc;

use super::connection_manager_shared::{Shared, Told, undecided};
use super::connection_manager_state::Seat;
use super::host::{self, Map, Status};
use super::interface::Stream;
use crate::connection_manager::{Decision, Evidence, Way};
use log::error;
use proxy_wasm::types::Action;

/// What the address of an internal listener begins with, as Envoy writes it. The tunnel's is one.
const INTERNAL_ADDRESS: &[u8] = b"envoy://";

/// What Envoy's details of a response begin with where the other side's connection or stream, or the way to it, failed.
const UPSTREAM_RESET: &[u8] = b"upstream_reset_";

/// A request and its response.
pub(super) struct ConnectionManagerContext {
    id: u32,
    shared: Rc<Shared>,
    state: State,
    decision: Option<Decision>,
}

enum State {
    /// Not in a tunnel, and never was.
    Outside,
    /// Waits for the tunnel at this place, or has waited and doesn't know yet what it was told.
    Waiting(usize),
    /// In a tunnel.
    Seated(Seat),
}

impl ConnectionManagerContext {
    pub(super) fn new(id: u32, shared: &Rc<Shared>) -> Self {
        Self {
            id,
            shared: Rc::clone(shared),
            state: State::Outside,
            decision: None,
        }
    }

    fn decide(&mut self) -> Result<Action, Status> {
        let Some(told) = self.shared.request(self.id)? else {
            return Err(Status::UNIMPLEMENTED);
        };
        match told {
            Told::Wait(place) => {
                self.state = State::Waiting(place);
                Ok(Action::Pause)
            }
            Told::Go(decision, seat) => {
                self.decision = Some(decision);
                if let Some(seat) = seat {
                    self.state = State::Seated(seat);
                }
                self.shared.publish(decision, seat)?;
                match decision.way {
                    Way::Refuse => {
                        self.shared.refuse(decision)?;
                        Ok(Action::Pause)
                    }
                    Way::WebSocket | Way::Http => Ok(Action::Continue),
                }
            }
        }
    }

    /// Learns what it was told while it waited.
    fn catch_up(&mut self) {
        if let State::Waiting(_) = self.state
            && let Some((decision, seat)) = self.shared.take_told(self.id)
        {
            self.decision = Some(decision);
            self.state = seat.map_or(State::Outside, State::Seated);
        }
    }

    /// The end, whatever ended it. Doing it twice does no harm.
    fn end(&mut self) {
        self.catch_up();
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Outside => {}
            State::Waiting(place) => self.shared.forget(place, self.id),
            State::Seated(seat) => {
                if let Some(evidence) = evidence() {
                    self.shared.observe(seat, evidence);
                }
                self.shared.leave(seat);
            }
        }
    }
}

/// When Envoy has the context deleted, where it doesn't call `proxy_on_done` before that.
impl Drop for ConnectionManagerContext {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the end of a request shows of the tunnel. Envoy says that it tried more than once, but not why; or that it made the
/// response itself, and why. At the end, so that Envoy need not call the filter for
/// the response: a call costs more than all of this.
fn evidence() -> Option<Evidence> {
    let attempts = property(&["upstream", "request_attempt_count"]);
    let attempts = attempts.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    if attempts.is_some_and(|bytes| u64::from_le_bytes(bytes) > 1) {
        return Some(Evidence::Retried);
    }
    let details = property(&["response", "code_details"])?;
    if details == b"via_upstream" {
        return Some(Evidence::Passed);
    }
    let is_overflow = details.starts_with(UPSTREAM_RESET) && says(&details, b"{overflow}");
    if !is_overflow && !broken(&details) {
        return None;
    }
    // Not every route need lead into the tunnel. Where nobody was asked, a probe finds out.
    match property(&["upstream", "address"]) {
        Some(address) if address.starts_with(INTERNAL_ADDRESS) => Some(match is_overflow {
            true => Evidence::Unsent,
            false => Evidence::Failed,
        }),
        Some(address) if !address.is_empty() => None,
        _ => Some(Evidence::Retried),
    }
}

fn property(path: &[&str]) -> Option<Vec<u8>> {
    host::property(path).ok().flatten()
}

/// Whether Envoy's details of a response speak of a broken connection or of a cluster that can't be used, and not of a
/// reset or a time-out of this request alone, nor of what another filter asked elsewhere.
fn broken(details: &[u8]) -> bool {
    if details == b"no_healthy_upstream" || details == b"cluster_not_found" {
        return true;
    }
    details.starts_with(UPSTREAM_RESET)
        && [
            &b"connection_termination"[..],
            b"connection_failure",
            b"connection_timeout",
            b"refused_stream",
        ]
        .iter()
        .any(|word| says(details, word))
}

fn says(details: &[u8], word: &[u8]) -> bool {
    details.windows(word.len()).any(|window| window == word)
}

impl Stream for ConnectionManagerContext {
    fn request_headers(&mut self, _end_of_stream: bool) -> Action {
        match self.decide() {
            Ok(action) => action,
            Err(status) => {
                error!("connection manager #{}: can't decide: {status}", self.id);
                undecided(self.id);
                Action::Pause
            }
        }
    }

    /// Only for `debug_response_header`: near-adaptive.yaml doesn't let Envoy call it.
    fn response_headers(&mut self, _end_of_stream: bool) -> Action {
        self.catch_up();
        if let (Some(name), Some(decision)) = (&self.shared.config.debug_response_header, self.decision) {
            let shown = host::replace_header(Map::Response, name, decision.as_str());
            if let Err(status) = shown {
                error!(
                    "connection manager #{}: can't show the decision: {status}",
                    self.id
                );
            }
        }
        Action::Continue
    }

    fn done(&mut self) {
        self.end();
    }
}
