//! What the converters of one plugin on one worker share: configuration, metrics, the clock.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::host::{self, StreamKind};
use super::metrics::Metrics;
use super::shared_target::SharedTarget;
use crate::config::{Attachment, Config};
use crate::time::Time;
use log::error;

/// Between two hand-overs of metrics, milliseconds.
const TICK: u32 = 1_000;

/// The same while WebSockets wait for their end.
const CLOSING_TICK: u32 = 100;

/// What of the scratch buffer is kept for the next callback, bytes.
const MAX_SCRATCH: usize = 1 << 20;

/// What the connections of one plugin on one worker have in common.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) metrics: Metrics,
    scratch: Cell<Vec<u8>>,
    closing: RefCell<Vec<Closing>>,
    /// Of the timer, milliseconds.
    tick: Cell<u32>,
}

/// A context whose stream or connection has to be ended.
struct Closing {
    context_id: u32,
    at: Time,
}

impl Shared {
    /// # Errors
    /// What Envoy doesn't give, for the log.
    pub(super) fn new(config: Config) -> Result<Self, String> {
        let metrics =
            Metrics::define(&config.metrics_prefix).map_err(|status| format!("no metrics: {status}"))?;
        host::set_tick_period(TICK).map_err(|status| format!("no timer: {status}"))?;
        Ok(Self {
            config: Arc::new(config),
            metrics,
            scratch: Cell::default(),
            closing: RefCell::default(),
            tick: Cell::new(TICK),
        })
    }

    /// Memory for what a callback writes, see [`Shared::put_scratch`].
    pub(super) fn take_scratch(&self) -> Vec<u8> {
        self.scratch.take()
    }

    /// Keeps a buffer's memory for the next callback, if there is none that is larger.
    pub(super) fn put_scratch(&self, mut buffer: Vec<u8>) {
        let other = self.scratch.take();
        if buffer.capacity() > MAX_SCRATCH || buffer.capacity() < other.capacity() {
            buffer = other;
        }
        buffer.clear();
        self.scratch.set(buffer);
    }

    /// What Envoy's contexts of this plugin are.
    pub(super) fn stream_kind(&self) -> StreamKind {
        match self.config.attachment {
            Attachment::Http => StreamKind::Http,
            Attachment::Network(_) => StreamKind::Connection,
        }
    }

    /// Has the stream or connection of this context ended, at the first tick after so many milliseconds.
    ///
    /// Never in the callback that wants it: Envoy ends it before what the callback has written is on its way, and the
    /// Close frame would be lost. And with 0 only once the last answer is written: the next tick may be that of another
    /// connection, and comes at any moment.
    pub(super) fn end_later(&self, context_id: u32, milliseconds: u32) {
        let at = host::now().after(milliseconds);
        if let Ok(mut closing) = self.closing.try_borrow_mut() {
            closing.retain(|one| one.context_id != context_id);
            closing.push(Closing { context_id, at });
        }
        self.set_tick(CLOSING_TICK);
    }

    /// Tells the connection managers of a near end's tunnel that its next request needs another WebSocket.
    pub(super) fn tell_end(&self) {
        if let Some(tunnel) = &self.config.tunnel {
            SharedTarget::of(tunnel).end();
        }
    }

    /// This context is gone, or needs no end any more.
    pub(super) fn end_no_more(&self, context_id: u32) {
        if let Ok(mut closing) = self.closing.try_borrow_mut() {
            closing.retain(|one| one.context_id != context_id);
        }
    }

    pub(super) fn tick(&self) {
        self.metrics.flush();
        for context_id in self.take_due() {
            let ended =
                host::set_effective_context(context_id).and_then(|()| host::close_stream(self.stream_kind()));
            if let Err(status) = ended {
                error!("#{context_id}: can't be ended: {status}");
            }
        }
    }

    /// The streams whose time has come; of many the first, and the others with the next tick. Slows the ticks down where
    /// none is left.
    fn take_due(&self) -> Vec<u32> {
        let Ok(mut closing) = self.closing.try_borrow_mut() else {
            return Vec::new();
        };
        let now = host::now();
        let due = closing
            .extract_if(.., |one| one.at <= now)
            .take(host::MOST_AT_ONCE)
            .map(|one| one.context_id)
            .collect();
        if closing.is_empty() {
            self.set_tick(TICK);
        }
        due
    }

    /// Envoy begins the period anew, so it is set only where it changes: with a new connection every now and then it would
    /// never come to its end.
    fn set_tick(&self, milliseconds: u32) {
        if self.tick.replace(milliseconds) != milliseconds
            && let Err(status) = host::set_tick_period(milliseconds)
        {
            error!("can't set the timer: {status}");
        }
    }
}
