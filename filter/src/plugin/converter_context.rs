//! The converter as an HTTP filter: an HTTP stream of Envoy whose bodies are an HTTP/2 connection on one side and a
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

use super::converter_shared::Shared;
use super::host::{self, Buffer, Map, Status, StreamKind};
use super::interface::Stream;
use super::metrics::Metrics;
use super::shared_target::SharedTarget;
use super::websocket::{Direction, Side, WebSocket, log, may_be_transient, peer};
use crate::config::Role;
use crate::message::Fields;
use crate::websocket::handshake::{self, HandshakeError, RequestHeaders, ResponseHeaders};
use log::Level;
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
        websocket: Box<WebSocket>,
    },
    /// After a complete handshake.
    Open(Box<WebSocket>),
    /// There is no WebSocket: whatever the request brings goes nowhere, whatever answers it passes.
    Refused,
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
        log(self.role(), self.id, level, text);
    }

    fn handshake(&self, accept: Option<String>) -> State {
        State::Handshake {
            accept,
            websocket: WebSocket::new(self.id, &self.shared),
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
        if value(&fields, "user-agent").is_empty() {
            host::replace_header(MAP, "user-agent", handshake::USER_AGENT)?;
        }
        self.state = self.handshake(Some(handshake::accept(&key)));
        Ok(Action::Continue)
    }

    /// Checks the far end's answer and makes of it what tcp_proxy takes for an open tunnel; or makes
    /// sure that it takes it for none.
    fn near_response(&mut self, accept: &str, mut websocket: Box<WebSocket>) -> Result<(), Status> {
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
            self.shared.tell_end();
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
        websocket.opened(&format!("to {}", peer("upstream")));
        self.state = State::Open(websocket);
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
    fn far_response(&mut self, accept: Option<&str>, mut websocket: Box<WebSocket>) -> Result<(), Status> {
        const MAP: Map = Map::Response;
        let fields = host::headers(MAP)?;
        let status = status(&fields);
        if status != 200 {
            self.shared.metrics.refused(Metrics::UPSTREAM);
            self.log(
                Level::Warn,
                &format!(
                    "handshake from {} failed, answered with {status} behind the filter",
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
        websocket.opened(&format!("from {}", peer("source")));
        websocket.await_codec();
        self.state = State::Open(websocket);
        Ok(())
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
                if let Err(status) = host::close_stream(StreamKind::Http) {
                    self.log(Level::Error, &format!("can't end the stream: {status}"));
                }
                Action::Pause
            }
        }
    }

    fn body(&mut self, direction: Direction, size: usize, end_of_stream: bool) -> Action {
        let buffer = match direction {
            Direction::Request => Buffer::RequestBody,
            Direction::Response => Buffer::ResponseBody,
        };
        let result = match (&mut self.state, direction) {
            (State::Open(websocket) | State::Handshake { websocket, .. }, _) => {
                websocket.pass(buffer, direction, size, end_of_stream)
            }
            (State::Refused, Direction::Response) => Ok(()),
            (State::Refused | State::New, _) => host::replace_buffer(buffer, &[]),
        };
        if let Err(status) = result {
            return self.fail("can't convert", status);
        }
        self.watch_end();
        Action::Continue
    }

    /// Trailers end a direction whose last body callback didn't say so.
    fn trailers(&mut self, direction: Direction) -> Action {
        let side = Side::of(self.role(), direction);
        if let State::Open(websocket) | State::Handshake { websocket, .. } = &mut self.state {
            websocket.take(side, &mut [], true);
        }
        self.watch_end();
        Action::Continue
    }

    /// A near end can't end its stream.
    fn watch_end(&mut self) {
        let role = self.role();
        match (&mut self.state, role) {
            (State::Open(websocket), Role::Far) => websocket.watch_end(),
            (State::Open(websocket), Role::Near) => websocket.watch_requests(),
            _ => {}
        }
    }

    /// The stream is over, whoever ended it.
    fn end(&mut self) {
        match std::mem::replace(&mut self.state, State::Refused) {
            State::Open(websocket) => websocket.end(),
            State::Handshake { .. } => {
                self.shared.tell_end();
                if self.role() == Role::Near {
                    let error = HandshakeError::NoAnswer;
                    self.shared.metrics.refused(error.label());
                    self.log(Level::Warn, &format!("handshake failed: {error}"));
                }
            }
            State::New | State::Refused => {}
        }
    }
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
            (State::Handshake { accept, websocket }, Role::Near) => {
                self.near_response(accept.as_deref().unwrap_or_default(), websocket)
            }
            (State::Handshake { accept, websocket }, Role::Far) => {
                self.far_response(accept.as_deref(), websocket)
            }
            // A second head: none of ours.
            (State::Open(websocket), _) => {
                self.state = State::Open(websocket);
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
