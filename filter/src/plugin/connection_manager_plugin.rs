//! The connection manager as a plugin: its timer, the answers to its probes, its requests.
//!
//! Envoy's main thread has an instance too. It gets no streams, and a call from there fails inside
//! Envoy before anything is dialled, since main has no connections to the tunnel's internal listener.
//! So an instance is taken for a worker's once it has seen a stream or an answer, and only a worker's
//! counts and logs. With `eager`, main's instance asks in vain at the pace of the back-off; it gives
//! back its turn to ask the target at once.

use std::rc::Rc;

use super::connection_manager_context::ConnectionManagerContext;
use super::connection_manager_shared::Shared;
use super::host::{self, Map, Status};
use super::interface::{Plugin, Stream};
use crate::connection_manager::Config;

/// One for each plugin and thread.
pub(super) struct ConnectionManagerPlugin(Rc<Shared>);

impl ConnectionManagerPlugin {
    /// # Errors
    /// See [`Shared::new`].
    pub(super) fn new(config: Config) -> Result<Self, Status> {
        let shared = Rc::new(Shared::new(config)?);
        shared.settle();
        Ok(Self(shared))
    }
}

impl Plugin for ConnectionManagerPlugin {
    fn tick(&self) {
        let shared = &self.0;
        let due = shared.with_state(|state| {
            // The host's timer goes on with its period until it is set again.
            state.armed = None;
            state.due_probes()
        });
        for (place, kind) in due.unwrap_or_default() {
            shared.probe(place, kind);
        }
        shared.settle();
        shared.resolve();
    }

    fn http_call_response(&self, token: u32, has_headers: bool) {
        let shared = &self.0;
        let status = if has_headers { call_status() } else { None };
        shared.probe_ended(token, status);
        // Who waits goes on with the next tick, in a millisecond. Here Envoy is reading from the connection that the request
        // would take, and its HTTP/2 codec (1.40) then loses the trailers of one that has no body.
        shared.settle();
    }

    fn stream(&self, context_id: u32) -> Box<dyn Stream> {
        self.0.with_state(|state| state.is_worker = true);
        Box::new(ConnectionManagerContext::new(context_id, &self.0))
    }
}

/// Status of the response to a call.
fn call_status() -> Option<u16> {
    let value = host::header(Map::CallResponse, ":status").ok()??;
    std::str::from_utf8(&value).ok()?.parse().ok()
}
