//! Metrics of the connection manager, `wasmcustom.PREFIX_NAME`. Counted in memory of the VM and
//! handed to Envoy once a second, since each hand-over is a call out of the sandbox.

use std::cell::Cell;

use super::host::{self, MetricKind, Status};
use super::metrics::Metric;
use crate::connection_manager::{Config, Decision, ProbeFailure, Reason, Way};

/// Metrics of one worker; gauges are summed over the workers by Envoy.
pub(super) struct ConnectionManagerMetrics {
    /// `decisions_WAY_REASON`.
    decisions: Vec<(Decision, u32)>,
    /// `tunnel_NAME_up`: workers on which it is up.
    up: Vec<Gauge>,
    /// `tunnel_requests_failed`: requests that the tunnel could not send, whose connection broke, or that Envoy sent more
    /// than once.
    requests_failed: Metric,
    probes_sent: Metric,
    probes_answered: Metric,
    probes_timed_out: Metric,
    probes_broken: Metric,
    probes_no_converter: Metric,
    probes_unsent: Metric,
    /// `probe_round_trip_ms`, a histogram.
    round_trip: u32,
}

struct Gauge {
    id: u32,
    set: Cell<bool>,
}

impl ConnectionManagerMetrics {
    /// Makes them known to Envoy, at 0.
    pub(super) fn define(config: &Config) -> Result<Self, Status> {
        let define =
            |kind, name: &str| host::define_metric(kind, &format!("{}_{name}", config.metrics_prefix));
        let counter = |name: &str| define(MetricKind::Counter, name).map(Metric::new);
        let mut decisions = Vec::new();
        for decision in possible() {
            let name = format!("decisions_{}_{}", decision.way.as_str(), decision.reason.as_str());
            decisions.push((decision, define(MetricKind::Counter, &name)?));
        }
        let mut up = Vec::new();
        for tunnel in &config.tunnels {
            up.push(Gauge {
                id: define(MetricKind::Gauge, &format!("tunnel_{}_up", tunnel.name))?,
                set: Cell::new(false),
            });
        }
        Ok(Self {
            decisions,
            up,
            requests_failed: counter("tunnel_requests_failed")?,
            probes_sent: counter("probes_sent")?,
            probes_answered: counter("probes_answered")?,
            probes_timed_out: counter("probes_timed_out")?,
            probes_broken: counter("probes_broken")?,
            probes_no_converter: counter("probes_no_converter")?,
            probes_unsent: counter("probes_unsent")?,
            round_trip: define(MetricKind::Histogram, "probe_round_trip_ms")?,
        })
    }

    pub(super) fn up(&self, place: usize, is_up: bool) {
        if let Some(gauge) = self.up.get(place) {
            gauge.show(is_up);
        }
    }

    pub(super) fn request_failed(&self) {
        self.requests_failed.add(1);
    }

    pub(super) fn probe_sent(&self) {
        self.probes_sent.add(1);
    }

    pub(super) fn probe_ended(&self, result: Result<(), ProbeFailure>, milliseconds: u64) {
        match result {
            Ok(()) => {
                self.probes_answered.add(1);
                let _ = host::record_metric(self.round_trip, milliseconds);
            }
            Err(ProbeFailure::TimedOut) => self.probes_timed_out.add(1),
            Err(ProbeFailure::Broken) => self.probes_broken.add(1),
            Err(ProbeFailure::NoConverter) => self.probes_no_converter.add(1),
            Err(ProbeFailure::Unsent) => self.probes_unsent.add(1),
        }
    }

    fn counters(&self) -> [&Metric; 7] {
        [
            &self.requests_failed,
            &self.probes_sent,
            &self.probes_answered,
            &self.probes_timed_out,
            &self.probes_broken,
            &self.probes_no_converter,
            &self.probes_unsent,
        ]
    }

    /// Whether there is anything to hand over.
    pub(super) fn is_dirty(&self) -> bool {
        self.counters().iter().any(|counter| counter.is_dirty())
    }

    /// Hands over to Envoy what isn't zero.
    pub(super) fn flush(&self, counts: &mut crate::connection_manager::DecisionCounts) {
        for (decision, count) in counts.take() {
            let metric = self.decisions.iter().find(|(other, _)| *other == decision);
            if let Some(&(_, id)) = metric {
                let _ = host::increment_metric(id, i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        self.counters().into_iter().for_each(Metric::flush);
    }
}

impl Gauge {
    fn show(&self, set: bool) {
        if self.set.replace(set) != set {
            let _ = host::increment_metric(self.id, if set { 1 } else { -1 });
        }
    }
}

/// A plugin that goes, with a new configuration say, takes its share of the gauges along.
impl Drop for ConnectionManagerMetrics {
    fn drop(&mut self) {
        self.up.iter().for_each(|gauge| gauge.show(false));
    }
}

/// The decisions that there are.
fn possible() -> impl Iterator<Item = Decision> {
    let of = |way: Way| {
        Reason::ALL
            .into_iter()
            .filter(move |&reason| match way {
                Way::WebSocket => matches!(reason, Reason::Up | Reason::Suspect | Reason::Waited),
                Way::Http => !matches!(
                    reason,
                    Reason::Up | Reason::Waited | Reason::WaitOver | Reason::TooManyWaiting
                ),
                Way::Refuse => matches!(
                    reason,
                    Reason::Opening
                        | Reason::Backoff
                        | Reason::NoConverter
                        | Reason::WaitOver
                        | Reason::TooManyWaiting
                ),
            })
            .map(move |reason| Decision { way, reason })
    };
    Way::ALL.into_iter().flat_map(of)
}
