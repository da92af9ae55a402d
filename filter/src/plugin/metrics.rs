//! Envoy metrics, `wasmcustom.PREFIX_NAME`. Counted in memory of the VM and handed to Envoy once a
//! second and at the end of a connection, since each hand-over is a call out of the sandbox.

use std::cell::Cell;

use super::host::{self, MetricKind, Status};
use crate::converter::{Closed, Counts};
use crate::error::{Error, close_code};
use crate::websocket::handshake::{HandshakeError, Refusal};

/// Close codes that have a counter each; all others share `websockets_closed_other`.
const CLOSE_CODES: [u16; 10] = [
    close_code::NORMAL,
    close_code::GOING_AWAY,
    close_code::PROTOCOL_ERROR,
    close_code::UNSUPPORTED_DATA,
    close_code::NO_STATUS,
    close_code::ABNORMAL,
    close_code::INVALID_PAYLOAD,
    close_code::POLICY_VIOLATION,
    close_code::MESSAGE_TOO_BIG,
    close_code::INTERNAL_ERROR,
];

/// A counter or a gauge, and what Envoy doesn't know of yet.
pub(super) struct Metric {
    id: u32,
    pending: Cell<i64>,
}

impl Metric {
    /// One that Envoy knows as `id`.
    pub(super) const fn new(id: u32) -> Self {
        let pending = Cell::new(0);
        Self { id, pending }
    }

    pub(super) fn add(&self, offset: i64) {
        self.pending.set(self.pending.get().saturating_add(offset));
    }

    fn count(&self, number: u64) {
        self.add(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Whether there is anything to hand over.
    pub(super) fn is_dirty(&self) -> bool {
        self.pending.get() != 0
    }

    /// Hands over to Envoy what isn't zero.
    pub(super) fn flush(&self) {
        let pending = self.pending.take();
        if pending != 0 && host::increment_metric(self.id, pending).is_err() {
            self.pending.set(pending);
        }
    }
}

/// Counters that differ in the last part of their names.
struct Family<Key> {
    members: Vec<(Key, Metric)>,
}

impl<Key: PartialEq> Family<Key> {
    fn get(&self, key: &Key) -> Option<&Metric> {
        self.members
            .iter()
            .find(|member| member.0 == *key)
            .map(|member| &member.1)
    }

    fn count(&self, key: &Key) {
        if let Some(metric) = self.get(key) {
            metric.add(1);
        }
    }
}

/// All metrics of one plugin on one worker.
pub(super) struct Metrics {
    websockets_open: Metric,
    websockets_opened: Metric,
    websockets_closed: Family<u16>,
    websockets_closed_other: Metric,
    websockets_broken: Metric,
    handshakes_refused: Family<&'static str>,
    protocol_errors: Family<Error>,
    messages_in: Metric,
    messages_out: Metric,
    websocket_bytes_in: Metric,
    websocket_bytes_out: Metric,
    streams_opened: Metric,
    streams_reset: Metric,
    header_bytes_before: Metric,
    header_bytes_after: Metric,
}

impl Metrics {
    /// Label of a request that came to a near end and isn't what its converter can use.
    pub(super) const NO_TUNNEL: &'static str = "no_tunnel";
    /// Label of a far end whose upstream didn't connect, or didn't answer with 200 behind the filter.
    pub(super) const UPSTREAM: &'static str = "upstream";
    /// Label of a handshake that didn't complete in time, where the filter makes or answers it itself.
    pub(super) const TIMEOUT: &'static str = "timeout";

    /// Makes them known to Envoy, at 0.
    pub(super) fn define(prefix: &str) -> Result<Self, Status> {
        let define =
            |kind, name: &str| host::define_metric(kind, &format!("{prefix}_{name}")).map(Metric::new);
        let counter = |name: &str| define(MetricKind::Counter, name);
        let mut refusals = Refusal::ALL.map(Refusal::label).to_vec();
        // Each end has its reasons, and some are the same.
        let others = HandshakeError::ALL.map(HandshakeError::label);
        for label in others
            .into_iter()
            .chain([Self::NO_TUNNEL, Self::UPSTREAM, Self::TIMEOUT])
        {
            if !refusals.contains(&label) {
                refusals.push(label);
            }
        }
        Ok(Self {
            websockets_open: define(MetricKind::Gauge, "websockets_open")?,
            websockets_opened: counter("websockets_opened")?,
            websockets_closed: family(CLOSE_CODES, |code| counter(&format!("websockets_closed_{code}")))?,
            websockets_closed_other: counter("websockets_closed_other")?,
            websockets_broken: counter("websockets_broken")?,
            handshakes_refused: family(refusals, |label| counter(&format!("handshakes_refused_{label}")))?,
            protocol_errors: family(Error::ALL, |error| counter(&format!("protocol_errors_{error}")))?,
            messages_in: counter("messages_in")?,
            messages_out: counter("messages_out")?,
            websocket_bytes_in: counter("websocket_bytes_in")?,
            websocket_bytes_out: counter("websocket_bytes_out")?,
            streams_opened: counter("streams_opened")?,
            streams_reset: counter("streams_reset")?,
            header_bytes_before: counter("header_bytes_before")?,
            header_bytes_after: counter("header_bytes_after")?,
        })
    }

    /// A handshake was refused, by this end or by the other one.
    pub(super) fn refused(&self, label: &'static str) {
        self.handshakes_refused.count(&label);
    }

    /// A handshake is complete.
    pub(super) fn opened(&self) {
        self.websockets_opened.add(1);
        self.websockets_open.add(1);
    }

    /// A WebSocket has ended; broken: with requests under way, or not as it should.
    pub(super) fn closed(&self, closed: &Closed, is_broken: bool) {
        self.websockets_open.add(-1);
        self.websockets_broken.add(i64::from(is_broken));
        self.websockets_closed
            .get(&closed.code)
            .unwrap_or(&self.websockets_closed_other)
            .add(1);
        if let Some(error) = &closed.error {
            self.protocol_errors.count(error);
        }
    }

    /// What a converter has counted.
    pub(super) fn add(&self, counts: &Counts) {
        for (metric, number) in [
            (&self.messages_in, counts.messages_in),
            (&self.messages_out, counts.messages_out),
            (&self.websocket_bytes_in, counts.websocket_bytes_in),
            (&self.websocket_bytes_out, counts.websocket_bytes_out),
            (&self.streams_opened, counts.streams_opened),
            (&self.streams_reset, counts.streams_reset),
            (&self.header_bytes_before, counts.header_bytes_before),
            (&self.header_bytes_after, counts.header_bytes_after),
        ] {
            metric.count(number);
        }
        for (error, number) in [
            (Error::Http2Malformed, counts.streams_malformed),
            (Error::Http2HeaderListTooBig, counts.streams_header_list_too_big),
        ] {
            // Each is looked for among all errors, which a callback has no time for.
            if number > 0
                && let Some(metric) = self.protocol_errors.get(&error)
            {
                metric.count(number);
            }
        }
    }

    /// Hands over to Envoy what isn't zero.
    pub(super) fn flush(&self) {
        let single = [
            &self.websockets_open,
            &self.websockets_opened,
            &self.websockets_closed_other,
            &self.websockets_broken,
            &self.messages_in,
            &self.messages_out,
            &self.websocket_bytes_in,
            &self.websocket_bytes_out,
            &self.streams_opened,
            &self.streams_reset,
            &self.header_bytes_before,
            &self.header_bytes_after,
        ];
        single.into_iter().for_each(Metric::flush);
        self.websockets_closed
            .members
            .iter()
            .for_each(|(_, metric)| metric.flush());
        self.handshakes_refused
            .members
            .iter()
            .for_each(|(_, metric)| metric.flush());
        self.protocol_errors
            .members
            .iter()
            .for_each(|(_, metric)| metric.flush());
    }
}

fn family<Key: Copy>(
    keys: impl IntoIterator<Item = Key>,
    define: impl Fn(Key) -> Result<Metric, Status>,
) -> Result<Family<Key>, Status> {
    let members = keys
        .into_iter()
        .map(|key| Ok((key, define(key)?)))
        .collect::<Result<_, Status>>()?;
    Ok(Family { members })
}

/// A plugin that goes, with a new configuration say, leaves its counts.
impl Drop for Metrics {
    fn drop(&mut self) {
        self.flush();
    }
}
