//! One WebSocket: an HTTP stream of Envoy whose bodies are an HTTP/2 connection on one side and a
//! WebSocket connection on the other.
//!
//! ```text
//!            request headers                  response headers
//! near   POST ─► GET, upgrade, key         101, checked ─► 200
//! far    GET, checked ─► POST              200 ─► 101, accept
//! ```
//!
//! A far end can answer and reset its stream as any HTTP filter. A near end can't: in the upstream
//! filter chain of tcp_proxy both are "not implemented" (Envoy 1.40), and the stream would hang. So a
//! near end refuses by an answer that tcp_proxy takes for a failure, and leaves the end to the other
//! side, which closes the TCP connection after Close (RFC 6455 §7.1.1). With a server that doesn't,
//! the HTTP/2 keepalive of the local codec, which nobody answers any more, ends it.

use std::rc::Rc;

use super::exports::Stream;
use super::host::{self, Buffer, Map, Status};
use super::mask_keys::RandomKeys;
use super::metrics::Metrics;
use super::root::Shared;
use super::shared_target::SharedTarget;
use crate::config::Role;
use crate::converter::{Closed, Closer, Converter, Counts};
use crate::error::close_code;
use crate::message::Fields;
use crate::websocket::handshake::{self, RequestHeaders, ResponseHeaders};
use log::{Level, log};
use proxy_wasm::types::Action;

/// The HTTP stream of one WebSocket.
pub(super) struct ConverterContext {
    id: u32,
    shared: Rc<Shared>,
    state: State,
}

enum State {
    /// Before the request headers.
    New,
    /// Between request and response headers. `accept` is what a near end expects and what a far end
    /// sends; there is none over HTTP/2.
    Handshake {
        accept: Option<String>,
        connection: Box<Connection>,
    },
    /// After a complete handshake.
    Open(Box<Connection>),
    /// There is no WebSocket: whatever the request brings goes nowhere, whatever answers it passes.
    Refused,
}

/// What is there from the handshake on.
struct Connection {
    converter: Converter,
    mask_keys: RandomKeys,
    /// By the host's clock, nanoseconds.
    opened_at: u64,
    totals: Counts,
    end: End,
    /// Streams that were open when the other end's direction ended.
    cut_off: usize,
}

/// How far the end of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not in sight.
    Open,
    /// Closed by either end: the HTTP stream ends at the latest after `close_timeout_ms`.
    Closing,
    /// Nothing is waited for any more: the HTTP stream ends with the next tick.
    Done,
}

/// The way of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

impl ConverterContext {
    pub(super) fn new(id: u32, shared: &Rc<Shared>) -> Self {
        Self {
            id,
            shared: Rc::clone(shared),
            state: State::New,
        }
    }

    fn role(&self) -> Role {
        self.shared.config.role
    }

    fn log(&self, level: Level, text: &str) {
        let role = match self.role() {
            Role::Near => "near",
            Role::Far => "far",
        };
        log!(level, "{role} #{}: {text}", self.id);
    }

    fn handshake(&self, accept: Option<String>) -> State {
        State::Handshake {
            accept,
            connection: Box::new(Connection {
                converter: Converter::new(&self.shared.config),
                mask_keys: RandomKeys::new(),
                opened_at: 0,
                totals: Counts::default(),
                end: End::Open,
                cut_off: 0,
            }),
        }
    }

    /// Makes a handshake of tcp_proxy's request (RFC 6455 §4.1).
    fn near_request(&mut self) -> Result<Action, Status> {
        const MAP: Map = Map::Request;
        let fields = host::headers(MAP)?;
        if value(&fields, ":method") != b"POST" {
            self.state = State::Refused;
            self.shared.metrics.refused(Metrics::NO_TUNNEL);
            self.log(
                Level::Error,
                "no tunnel: tcp_proxy needs tunneling_config with use_post",
            );
            return Ok(Action::Continue);
        }
        let mut random = [0; 16];
        host::random(&mut random)?;
        let key = handshake::key(random);
        host::replace_header(MAP, ":method", "GET")?;
        for name in ["content-length", "transfer-encoding"] {
            host::remove_header(MAP, name)?;
        }
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", handshake::VERSION),
            ("sec-websocket-key", &key),
            ("sec-websocket-protocol", handshake::SUBPROTOCOL),
        ] {
            host::replace_header(MAP, name, value)?;
        }
        self.state = self.handshake(Some(handshake::accept(&key)));
        Ok(Action::Continue)
    }

    /// Checks the far end's answer and makes of it what tcp_proxy takes for an open tunnel; or makes
    /// sure that it takes it for none.
    fn near_response(&mut self, accept: &str, connection: Box<Connection>) -> Result<(), Status> {
        const MAP: Map = Map::Response;
        let fields = host::headers(MAP)?;
        let status = status(&fields);
        let response = ResponseHeaders {
            status,
            fields: &fields,
        };
        if let Err(error) = handshake::check_response(&response, accept) {
            self.shared.metrics.refused(error.label());
            self.log(
                Level::Warn,
                &format!(
                    "handshake failed, status {status} from {}: {error}",
                    peer("upstream")
                ),
            );
            if let Some(tunnel) = &self.shared.config.tunnel
                && !may_be_transient(status)
            {
                SharedTarget::of(tunnel).refuse();
            }
            return fail_tunnel(status);
        }
        host::replace_header(MAP, ":status", "200")?;
        for name in [
            "upgrade",
            "connection",
            "sec-websocket-accept",
            "sec-websocket-protocol",
        ] {
            host::remove_header(MAP, name)?;
        }
        self.open(connection, &format!("to {}", peer("upstream")));
        Ok(())
    }

    /// Lets nothing but a handshake for `wsferry.v1` through: behind the route is a raw TCP upstream.
    fn far_request(&mut self, end_of_stream: bool) -> Result<Action, Status> {
        const MAP: Map = Map::Request;
        let fields = host::headers(MAP)?;
        let protocol = host::property(&["request", "protocol"])?;
        let request = RequestHeaders {
            method: value(&fields, ":method"),
            extended_connect: matches!(protocol.as_deref(), Some(b"HTTP/2" | b"HTTP/3")),
            fields: &fields,
        };
        let checked =
            handshake::check_request(&request, &self.shared.config.allowed_origins).and_then(|accepted| {
                match end_of_stream {
                    // A WebSocket that can't carry anything.
                    true => Err(handshake::Refusal::Upgrade),
                    false => Ok(accepted),
                }
            });
        match checked {
            Ok(accepted) => {
                // The router takes its TCP upstream for a POST; that the connection manager lets the
                // 101 through is up to `upgrade` and `connection`, which stay.
                host::replace_header(MAP, ":method", "POST")?;
                self.state = self.handshake(accepted.accept);
                Ok(Action::Continue)
            }
            Err(refusal) => self.refuse(
                refusal.status(),
                refusal.label(),
                refusal.fields(),
                &refusal.to_string(),
            ),
        }
    }

    /// Makes a 101 of the TCP upstream's 200; any other status passes as it is.
    fn far_response(&mut self, accept: Option<&str>, connection: Box<Connection>) -> Result<(), Status> {
        const MAP: Map = Map::Response;
        let fields = host::headers(MAP)?;
        let status = status(&fields);
        if status != 200 {
            self.shared.metrics.refused(Metrics::UPSTREAM);
            self.log(
                Level::Warn,
                &format!(
                    "handshake from {} failed, the upstream answered {status}",
                    peer("source")
                ),
            );
            return Ok(());
        }
        host::replace_header(MAP, ":status", "101")?;
        for name in ["content-length", "transfer-encoding"] {
            host::remove_header(MAP, name)?;
        }
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-protocol", handshake::SUBPROTOCOL),
        ] {
            host::replace_header(MAP, name, value)?;
        }
        if let Some(accept) = accept {
            host::replace_header(MAP, "sec-websocket-accept", accept)?;
        }
        self.open(connection, &format!("from {}", peer("source")));
        Ok(())
    }

    fn open(&mut self, mut connection: Box<Connection>, peer: &str) {
        connection.opened_at = host::now();
        self.state = State::Open(connection);
        self.shared.metrics.opened();
        self.log(Level::Info, &format!("WebSocket opened {peer}"));
    }

    /// Answers a far end's request, with what would have been right.
    fn refuse(
        &mut self,
        status: u16,
        label: &'static str,
        fields: &[(&str, &str)],
        reason: &str,
    ) -> Result<Action, Status> {
        self.state = State::Refused;
        self.shared.metrics.refused(label);
        self.log(
            Level::Warn,
            &format!(
                "handshake from {} refused with {status}: {reason}",
                peer("source")
            ),
        );
        let mut fields = fields.to_vec();
        fields.push(("content-type", "text/plain"));
        host::send_local_response(
            status,
            &format!("wsferry_{label}"),
            &fields,
            &format!("{reason}\n"),
        )?;
        Ok(Action::Pause)
    }

    /// A host function failed that never does. Nothing of the request may pass unconverted. A near
    /// end's codec hangs up when it gets what isn't HTTP/2.
    fn fail(&mut self, what: &str, status: Status) -> Action {
        self.log(Level::Error, &format!("{what}: {status}"));
        self.end();
        self.state = State::Refused;
        match self.role() {
            Role::Near => Action::Continue,
            Role::Far => {
                if let Err(status) = host::close_stream() {
                    self.log(Level::Error, &format!("can't end the stream: {status}"));
                }
                Action::Pause
            }
        }
    }

    fn body(&mut self, direction: Direction, size: usize, end_of_stream: bool) -> Action {
        let result = match (&mut self.state, direction) {
            (State::Open(connection) | State::Handshake { connection, .. }, _) => {
                convert(connection, &self.shared, direction, size, end_of_stream)
            }
            (State::Refused, Direction::Response) => Ok(()),
            (State::Refused | State::New, _) => host::replace_buffer(direction.buffer(), &[]),
        };
        if let Err(status) = result {
            return self.fail("can't convert", status);
        }
        self.watch_end();
        Action::Continue
    }

    /// Trailers end a direction whose last body callback didn't say so.
    fn trailers(&mut self, direction: Direction) -> Action {
        if let State::Open(connection) | State::Handshake { connection, .. } = &mut self.state {
            match side(self.shared.config.role, direction) {
                Side::Http2 => connection.converter.http2_end(&mut connection.mask_keys),
                Side::WebSocket => connection.websocket_end(),
            }
        }
        self.watch_end();
        Action::Continue
    }

    /// Sees to it that a closed connection ends: with the next tick if the Close frame is out and no
    /// answer to it is worth a wait, because it is the answer or because the other end broke the
    /// protocol (RFC 6455 §7.1.7); else after the time it has to answer (§7.1.1).
    fn watch_end(&mut self) {
        if self.role() == Role::Near {
            return;
        }
        let State::Open(connection) = &mut self.state else {
            return;
        };
        let Some(closed) = connection.converter.closed() else {
            return;
        };
        let over =
            (closed.by == Closer::OtherEnd || closed.error.is_some()) && connection.converter.close_sent();
        let (end, milliseconds) = match (connection.end, over) {
            (End::Open | End::Closing, true) => (End::Done, 0),
            (End::Open, false) => (End::Closing, self.shared.config.close_timeout_ms),
            (End::Closing, false) | (End::Done, _) => return,
        };
        connection.end = end;
        self.shared.end_later(self.id, milliseconds);
    }

    /// The stream is over, whoever ended it.
    fn end(&mut self) {
        let State::Open(mut connection) = std::mem::replace(&mut self.state, State::Refused) else {
            return;
        };
        connection.websocket_end();
        connection.count(&self.shared.metrics);
        // There is one after `websocket_end`.
        let Some(closed) = connection.converter.closed() else {
            return;
        };
        self.shared.ended(self.id);
        self.shared.metrics.closed(&closed);
        self.shared.metrics.flush();
        let (level, text) = connection.summary(&closed);
        self.log(level, &text);
    }
}

impl Connection {
    /// The other end says no more.
    fn websocket_end(&mut self) {
        let open = self.converter.open_streams();
        self.cut_off = self.cut_off.max(open);
        self.converter.websocket_end();
    }

    fn count(&mut self, metrics: &Metrics) {
        let new = self.converter.take_counts();
        metrics.add(&new);
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

    fn summary(&self, closed: &Closed) -> (Level, String) {
        // Envoy ends connections that are idle or too old without giving anyone a chance to say Close.
        let lost = closed.code == close_code::ABNORMAL && self.cut_off > 0;
        let level = match (closed.code, closed.error) {
            (close_code::NORMAL | close_code::GOING_AWAY | close_code::NO_STATUS, None) => Level::Info,
            (close_code::ABNORMAL, None) if !lost => Level::Info,
            _ => Level::Warn,
        };
        let how = match (closed.by, closed.code) {
            (Closer::Nobody, close_code::GOING_AWAY) => "without Close, after goaway".to_owned(),
            (Closer::Nobody, _) => "without Close".to_owned(),
            (Closer::OtherEnd, code) => format!("by the other end with {code}"),
            (Closer::ThisEnd, code) => format!("by this end with {code}"),
        };
        let why = closed
            .error
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        let milliseconds = host::now().saturating_sub(self.opened_at) / 1_000_000;
        let totals = &self.totals;
        let text = format!(
            "WebSocket closed {how}{why} after {}.{:03} s: streams {}, reset {}, cut off {}; messages in {}, \
             out {}; bytes in {}, out {}",
            milliseconds / 1_000,
            milliseconds % 1_000,
            totals.streams_opened,
            totals.streams_reset,
            self.cut_off,
            totals.messages_in,
            totals.messages_out,
            totals.websocket_bytes_in,
            totals.websocket_bytes_out,
        );
        (level, text)
    }
}

/// Whether a refused handshake says more about the moment than about the target: a server or a load
/// balancer that is overloaded or restarts.
const fn may_be_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429) || status >= 500
}

/// What a direction brings.
enum Side {
    Http2,
    WebSocket,
}

const fn side(role: Role, direction: Direction) -> Side {
    match (role, direction) {
        (Role::Near, Direction::Request) | (Role::Far, Direction::Response) => Side::Http2,
        (Role::Near, Direction::Response) | (Role::Far, Direction::Request) => Side::WebSocket,
    }
}

impl Direction {
    const fn buffer(self) -> Buffer {
        match self {
            Self::Request => Buffer::RequestBody,
            Self::Response => Buffer::ResponseBody,
        }
    }
}

/// One piece of a body: in, converted, and out in its place.
fn convert(
    connection: &mut Connection,
    shared: &Shared,
    direction: Direction,
    size: usize,
    end_of_stream: bool,
) -> Result<(), Status> {
    let buffer = direction.buffer();
    let mut input = host::buffer(buffer, size)?;
    shared.with_scratch(|out| {
        let keys = &mut connection.mask_keys;
        match side(shared.config.role, direction) {
            Side::Http2 => {
                if !input.is_empty() {
                    connection.converter.http2_input(&input, keys);
                }
                if end_of_stream {
                    connection.converter.http2_end(keys);
                }
                connection.converter.take_websocket_output(out);
            }
            Side::WebSocket => {
                if !input.is_empty() {
                    connection.converter.websocket_input(&mut input, keys);
                }
                if end_of_stream {
                    connection.websocket_end();
                }
                connection.converter.take_http2_output(out);
            }
        }
        host::replace_buffer(buffer, out)
    })?;
    connection.count(&shared.metrics);
    Ok(())
}

impl Stream for ConverterContext {
    fn request_headers(&mut self, end_of_stream: bool) -> Action {
        let result = match self.role() {
            Role::Near => self.near_request(),
            Role::Far => self.far_request(end_of_stream),
        };
        result.unwrap_or_else(|status| self.fail("can't begin a handshake", status))
    }

    fn response_headers(&mut self, _: bool) -> Action {
        let result = match (std::mem::replace(&mut self.state, State::Refused), self.role()) {
            (State::Handshake { accept, connection }, Role::Near) => {
                self.near_response(accept.as_deref().unwrap_or_default(), connection)
            }
            (State::Handshake { accept, connection }, Role::Far) => {
                self.far_response(accept.as_deref(), connection)
            }
            // A second head: none of ours.
            (State::Open(connection), _) => {
                self.state = State::Open(connection);
                Ok(())
            }
            (State::New | State::Refused, Role::Near) => {
                host::headers(Map::Response).and_then(|fields| fail_tunnel(status(&fields)))
            }
            (State::New | State::Refused, Role::Far) => Ok(()),
        };
        match result {
            Ok(()) => Action::Continue,
            Err(status) => self.fail("can't complete a handshake", status),
        }
    }

    fn request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.body(Direction::Request, size, end_of_stream)
    }

    fn response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.body(Direction::Response, size, end_of_stream)
    }

    fn request_trailers(&mut self) -> Action {
        self.trailers(Direction::Request)
    }

    fn response_trailers(&mut self) -> Action {
        self.trailers(Direction::Response)
    }

    fn done(&mut self) {
        self.end();
    }
}

/// The only value of a field of a list; empty if it isn't there.
fn value<'a>(fields: &'a Fields, name: &str) -> &'a [u8] {
    fields
        .iter()
        .find(|field| field.name == name.as_bytes())
        .map(|field| field.value)
        .unwrap_or_default()
}

/// Sees to it that tcp_proxy doesn't take an answer of this status for an open tunnel.
fn fail_tunnel(status: u16) -> Result<(), Status> {
    if status < 300 {
        host::replace_header(Map::Response, ":status", "502")?;
    }
    Ok(())
}

/// `:status`, 0 if there is none.
fn status(fields: &Fields) -> u16 {
    std::str::from_utf8(value(fields, ":status"))
        .ok()
        .and_then(|status| status.parse().ok())
        .unwrap_or_default()
}

/// Address of `source` or `upstream`, for logs.
fn peer(whose: &str) -> String {
    match host::property(&[whose, "address"]) {
        Ok(Some(address)) => String::from_utf8_lossy(&address).into_owned(),
        Ok(None) | Err(_) => "an unknown address".to_owned(),
    }
}
