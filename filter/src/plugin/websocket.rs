//! One WebSocket from its handshake to its end, whichever kind of filter its bytes pass.

use std::rc::Rc;

use super::converter_shared::Shared;
use super::host::{self, Buffer, Status};
use super::mask_keys::RandomKeys;
use crate::config::Role;
use crate::converter::{Closed, Closer, Converter, Counts};
use crate::error::close_code;
use crate::time::Time;
use log::{Level, log};

/// How long a far end that is an HTTP filter waits for the other end's first message, milliseconds: as long as the network filter
/// does for the handshake by default.
const SILENCE_MS: u32 = 10_000;

/// A converter, and what Envoy is told of it.
pub(super) struct WebSocket {
    /// Of the context that it belongs to.
    id: u32,
    shared: Rc<Shared>,
    converter: Converter,
    mask_keys: RandomKeys,
    /// `None` before the handshake is complete.
    opened_at: Option<Time>,
    totals: Counts,
    end: End,
    /// The tunnel's connection managers know that this one takes no more requests.
    told: bool,
}

/// How far the end of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not in sight.
    Open,
    /// The local codec has said nothing yet: without that it ends after [`SILENCE_MS`].
    Silent,
    /// Closed by either end: it ends at the latest after `close_timeout_ms`.
    Closing,
    /// Nothing is waited for any more: it ends with the next tick.
    Done,
}

/// The way of bytes through Envoy, as seen from the client of the HTTP stream or of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// What a direction brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The local codec's bytes.
    Http2,
    /// The other end's bytes.
    WebSocket,
}

impl Side {
    pub(super) const fn of(role: Role, direction: Direction) -> Self {
        match (role, direction) {
            (Role::Near, Direction::Request) | (Role::Far, Direction::Response) => Self::Http2,
            (Role::Near, Direction::Response) | (Role::Far, Direction::Request) => Self::WebSocket,
        }
    }
}

/// Logs a line of the context `id`.
pub(super) fn log(role: Role, id: u32, level: Level, text: &str) {
    let role = match role {
        Role::Near => "near",
        Role::Far => "far",
    };
    log!(level, "{role} #{id}: {text}");
}

impl WebSocket {
    /// Before the handshake is complete.
    pub(super) fn new(id: u32, shared: &Rc<Shared>) -> Box<Self> {
        Box::new(Self {
            id,
            shared: Rc::clone(shared),
            converter: Converter::new(&shared.config),
            mask_keys: RandomKeys::new(),
            opened_at: None,
            totals: Counts::default(),
            end: End::Open,
            told: false,
        })
    }

    /// The handshake is complete.
    pub(super) fn opened(&mut self, peer: &str) {
        self.opened_at = Some(host::now());
        self.shared.metrics.opened();
        let text = format!("WebSocket opened {peer}");
        log(self.shared.config.role, self.id, Level::Info, &text);
    }

    /// Until the other end has sent something, an HTTP filter has no bytes towards the local codec in whose place it could begin;
    /// and as long as that is silent, no keepalive looks after the WebSocket.
    pub(super) fn await_codec(&mut self) {
        self.end = End::Silent;
        self.shared.end_later(self.id, SILENCE_MS);
    }

    /// What passes in a direction: `size` bytes of the buffer in, converted, and out in their place.
    pub(super) fn pass(
        &mut self,
        buffer: Buffer,
        direction: Direction,
        size: usize,
        end: bool,
    ) -> Result<(), Status> {
        let side = Side::of(self.shared.config.role, direction);
        let mut input = host::buffer(buffer, size)?;
        self.take(side, &mut input, end);
        self.give(side, buffer, b"")
    }

    /// Converts what one side has sent, whose output waits for [`WebSocket::give`].
    pub(super) fn take(&mut self, side: Side, input: &mut [u8], end: bool) {
        // Before that the output may have to wait, and what is lent would be gone for others.
        if self.opened_at.is_some() {
            let memory = self.shared.take_scratch();
            match side {
                Side::Http2 => self.converter.lend_websocket_output(memory),
                Side::WebSocket => self.converter.lend_http2_output(memory),
            }
        }
        let keys = &mut self.mask_keys;
        match side {
            Side::Http2 => {
                if !input.is_empty() {
                    if self.end == End::Silent {
                        self.end = End::Open;
                        self.shared.end_no_more(self.id);
                    }
                    self.converter.http2_input(input, keys);
                }
                if end {
                    self.converter.http2_end(keys);
                }
            }
            Side::WebSocket => {
                if !input.is_empty() {
                    self.converter.websocket_input(input, keys);
                }
                if end {
                    self.converter.websocket_end();
                }
            }
        }
    }

    /// Replaces a buffer by `before` and what became of what this side has sent.
    pub(super) fn give(&mut self, side: Side, buffer: Buffer, before: &[u8]) -> Result<(), Status> {
        let mut out = Vec::new();
        match side {
            Side::Http2 => self.converter.take_websocket_output(&mut out),
            Side::WebSocket => self.converter.take_http2_output(&mut out),
        }
        let replaced = if before.is_empty() {
            host::replace_buffer(buffer, &out)
        } else {
            host::replace_buffer(buffer, &[before, out.as_slice()].concat())
        };
        self.shared.put_scratch(out);
        self.count();
        replaced
    }

    /// See [`Converter::begin`].
    pub(super) fn begin(&mut self) {
        self.converter.begin();
    }

    /// See [`Converter::refuse`]. What waited for the handshake counts for nothing.
    pub(super) fn refuse(&mut self) {
        self.converter.refuse();
        self.converter.take_counts();
    }

    /// Whether the other end has closed or ended it.
    pub(super) fn is_left(&self) -> bool {
        self.converter
            .closed()
            .is_some_and(|closed| closed.by != Closer::ThisEnd)
    }

    /// Sees to it that a closed connection ends: with the next tick if the Close frame is out and no
    /// answer to it is worth a wait, because it is the answer or because the other end broke the
    /// protocol (RFC 6455 §7.1.7), or if there is no way to have it out; else after the time it has to answer (§7.1.1).
    pub(super) fn watch_end(&mut self) {
        self.watch_requests();
        let Some(closed) = self.converter.closed() else {
            return;
        };
        // Who closes the TCP connection is the server.
        let answered = closed.by == Closer::OtherEnd && self.shared.config.role == Role::Far;
        let over = (answered || closed.error.is_some()) && self.converter.close_sent()
            || self.converter.is_before_client();
        let (end, milliseconds) = match (self.end, over) {
            (End::Open | End::Silent | End::Closing, true) => (End::Done, 0),
            (End::Open | End::Silent, false) => (End::Closing, self.shared.config.close_timeout_ms),
            (End::Closing, false) | (End::Done, _) => return,
        };
        self.end = end;
        self.shared.end_later(self.id, milliseconds);
    }

    /// Sees to it that the connection managers know when this one takes no more requests.
    pub(super) fn watch_requests(&mut self) {
        if self.converter.is_going_away() || self.converter.closed().is_some() {
            self.tell_end();
        }
    }

    fn tell_end(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.shared.tell_end();
        }
    }

    /// It is over, whoever ended it.
    pub(super) fn end(mut self: Box<Self>) {
        self.tell_end();
        let Some(opened_at) = self.opened_at else {
            return;
        };
        self.converter.websocket_end();
        self.count();
        // There is one after `websocket_end`.
        let Some(closed) = self.converter.closed() else {
            return;
        };
        self.shared.end_no_more(self.id);
        let (level, text) = self.summary(&closed, host::now().since(opened_at));
        self.shared.metrics.closed(&closed, level == Level::Warn);
        self.shared.metrics.flush();
        log(self.shared.config.role, self.id, level, &text);
    }

    fn count(&mut self) {
        let new = self.converter.take_counts();
        self.shared.metrics.add(&new);
        let totals = &mut self.totals;
        for (total, new) in [
            (&mut totals.messages_in, new.messages_in),
            (&mut totals.messages_out, new.messages_out),
            (&mut totals.websocket_bytes_in, new.websocket_bytes_in),
            (&mut totals.websocket_bytes_out, new.websocket_bytes_out),
            (&mut totals.streams_opened, new.streams_opened),
            (&mut totals.streams_reset, new.streams_reset),
        ] {
            *total = total.saturating_add(new);
        }
    }

    fn summary(&self, closed: &Closed, milliseconds: u64) -> (Level, String) {
        // Envoy ends connections that are idle or too old without giving anyone a chance to say Close.
        let is_orderly = matches!(
            closed.code,
            close_code::NORMAL | close_code::GOING_AWAY | close_code::NO_STATUS | close_code::ABNORMAL
        );
        let is_silent = self.end == End::Silent && milliseconds >= u64::from(SILENCE_MS);
        // After a goaway streams that are open run to their end or are given up by their clients, the last of them as Envoy
        // hangs up, of which nobody is told.
        let is_cut_off = self.converter.cut_off() > 0 && !self.converter.is_going_away();
        let level = match closed.error {
            None if is_orderly && !is_cut_off && !is_silent => Level::Info,
            _ => Level::Warn,
        };
        let how = match (closed.by, closed.code) {
            (Closer::Nobody, close_code::GOING_AWAY) => "without Close, after goaway".to_owned(),
            (Closer::Nobody, _) => "without Close".to_owned(),
            (Closer::OtherEnd, code) => format!("by the other end with {code}"),
            (Closer::ThisEnd, code) => format!("by this end with {code}"),
        };
        let why = match closed.error.or(closed.told) {
            Some(error) => format!(" ({error})"),
            None if is_silent => format!(" (no message within {SILENCE_MS} ms)"),
            None => String::new(),
        };
        let totals = &self.totals;
        let text = format!(
            "WebSocket closed {how}{why} after {}.{:03} s: streams {}, reset {}, cut off {}; messages in {}, \
             out {}; bytes in {}, out {}",
            milliseconds / 1_000,
            milliseconds % 1_000,
            totals.streams_opened,
            totals.streams_reset,
            self.converter.cut_off(),
            totals.messages_in,
            totals.messages_out,
            totals.websocket_bytes_in,
            totals.websocket_bytes_out,
        );
        (level, text)
    }
}

/// Address of `source` or `upstream`, for logs.
pub(super) fn peer(whose: &str) -> String {
    match host::property(&[whose, "address"]) {
        Ok(Some(address)) => String::from_utf8_lossy(&address).into_owned(),
        Ok(None) | Err(_) => "an unknown address".to_owned(),
    }
}

/// Whether a refused handshake says more about the moment than about the target: a server or a load
/// balancer that is overloaded or restarts.
pub(super) const fn may_be_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429) || status >= 500
}
