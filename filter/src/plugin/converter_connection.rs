//! The converter as a network filter: a connection that carries a WebSocket, handshake included.
//!
//! ```text
//!        from the client (downstream data)        to the client (upstream data)        next filter
//! near   HTTP/2 ─► GET, then WebSocket frames     101, WebSocket frames ─► HTTP/2      tcp_proxy
//! far    GET, WebSocket frames ─► HTTP/2          HTTP/2 ─► 101, WebSocket frames      HTTP connection manager
//! ```
//!
//! A filter can't write by itself: it replaces what passes. So whoever has to get an answer gets it in place of
//! the first bytes that pass his way, and these are provoked: the local codec is given the beginning of an HTTP/2
//! connection, to which it answers at once, with its settings or with the acknowledgement of those it got.

use std::rc::Rc;
use std::sync::Arc;

use super::converter_shared::Shared;
use super::host::{self, Buffer, Status};
use super::interface::Connection;
use super::metrics::Metrics;
use super::shared_target::SharedTarget;
use super::websocket::{Direction, Side, WebSocket, log, may_be_transient, peer};
use crate::config::{Handshake, Role};
use crate::time::Time;
use crate::websocket::handshake::{self, HandshakeError, Refusal, ResponseHeaders};
use crate::websocket::http1::{self, HeadError, MAX_HEAD_BYTES, Request, Response};
use log::Level;
use proxy_wasm::types::Action;

/// Most bytes that a near end holds for the other end while the handshake is under way. Until a codec gets
/// settings it sends at most 64 KiB of bodies (RFC 9113 §6.9.2), so this is a matter of header lists.
const MAX_HELD: usize = 16 << 20;

const FROM_CLIENT: Buffer = Buffer::DownstreamData;
const TO_CLIENT: Buffer = Buffer::UpstreamData;

/// The connection of one WebSocket.
pub(super) struct ConverterConnection {
    id: u32,
    shared: Rc<Shared>,
    handshake: Arc<Handshake>,
    /// When the handshake began.
    begun_at: Option<Time>,
    state: State,
}

enum State {
    /// Before anything was said. A near end's codec speaks once tcp_proxy is connected to the other end.
    New,
    /// Near end: the request is out.
    Asked(Box<Asked>),
    /// Far end: the response that goes out with the first bytes of the codec.
    Granted {
        response: String,
        websocket: Box<WebSocket>,
    },
    /// After a complete handshake.
    Open(Box<WebSocket>),
    /// There is no WebSocket: what passes goes nowhere. `response` is what a far end's client still has to get.
    Refused { response: String },
}

/// A handshake whose answer isn't complete.
struct Asked {
    /// The `sec-websocket-accept` that is expected.
    accept: String,
    /// What has come of the answer.
    answer: Vec<u8>,
    /// What the codec has sent. Converted once the answer is there, behind which the other end's settings may stand: until
    /// they are known, header lists aren't held to its limits.
    held: Vec<u8>,
    /// The codec has ended its direction.
    held_end: bool,
    /// Bytes of interim responses that have come.
    interim: usize,
}

impl Asked {
    /// Where an answer that opens the WebSocket ends, `None` while it isn't complete. Interim responses are
    /// dropped, as many as a head may have bytes. An error comes with the status, 0 if there is none.
    fn check(&mut self) -> Result<Option<usize>, (u16, HandshakeError)> {
        let mut begin = 0_usize;
        loop {
            let head = self.answer.get(begin..).unwrap_or_default();
            let parsed = Response::parse(head)
                .map_err(|error| (Response::status_of(head).unwrap_or(0), error.into()))?;
            let Some((response, length)) = parsed else {
                self.answer.drain(..begin);
                return Ok(None);
            };
            let end = begin.saturating_add(length);
            if response.is_interim() {
                begin = end;
                self.interim = self.interim.saturating_add(length);
                if self.interim > MAX_HEAD_BYTES {
                    return Err((response.status, HeadError::TooLarge.into()));
                }
                continue;
            }
            let headers = ResponseHeaders {
                status: response.status,
                fields: &response.fields,
            };
            return handshake::check_response(&headers, &self.accept)
                .map(|()| Some(end))
                .map_err(|error| (response.status, error));
        }
    }
}

impl ConverterConnection {
    pub(super) fn new(id: u32, shared: &Rc<Shared>, handshake: &Arc<Handshake>) -> Self {
        Self {
            id,
            shared: Rc::clone(shared),
            handshake: Arc::clone(handshake),
            begun_at: None,
            state: State::New,
        }
    }

    fn role(&self) -> Role {
        self.shared.config.role
    }

    fn log(&self, level: Level, text: &str) {
        log(self.role(), self.id, level, text);
    }

    fn take_state(&mut self) -> State {
        let response = String::new();
        std::mem::replace(&mut self.state, State::Refused { response })
    }

    /// From now on the handshake has its time to complete.
    fn handshake_begins(&mut self) {
        self.begun_at = Some(host::now());
        self.shared.end_later(self.id, self.handshake.timeout_ms);
    }

    /// Sends the request in place of what the codec has sent, which waits for the answer (RFC 6455 §4.1).
    fn ask(&mut self, size: usize, end: bool) -> Result<(), Status> {
        let mut random = [0; 16];
        host::random(&mut random)?;
        let key = handshake::key(random);
        let held = host::buffer(FROM_CLIENT, size)?;
        let Handshake {
            authority,
            path,
            fields,
            ..
        } = &*self.handshake;
        let request = http1::request(authority, path, &key, fields);
        host::replace_buffer(FROM_CLIENT, request.as_bytes())?;
        self.handshake_begins();
        self.state = State::Asked(Box::new(Asked {
            accept: handshake::accept(&key),
            answer: Vec::new(),
            held,
            held_end: end,
            interim: 0,
        }));
        Ok(())
    }

    /// More of what waits for the answer.
    fn hold(&mut self, size: usize, end: bool) -> Result<(), Status> {
        let State::Asked(asked) = &mut self.state else {
            return Ok(());
        };
        asked.held.extend(host::buffer(FROM_CLIENT, size)?);
        asked.held_end |= end;
        if asked.held.len() > MAX_HELD {
            self.log(Level::Warn, "handshake given up: too much waits for its answer");
            self.shared.metrics.refused(HandshakeError::NoAnswer.label());
            self.take_state();
            self.shared.tell_end();
            self.shared.end_later(self.id, 0);
        }
        host::replace_buffer(FROM_CLIENT, &[])
    }

    /// A piece of the answer, or all of it and what comes behind it.
    fn answered(&mut self, mut asked: Box<Asked>, bytes: &[u8], end: bool) -> Result<(), Status> {
        asked.answer.extend_from_slice(bytes);
        let end_of_head = match asked.check() {
            Ok(Some(end)) => end,
            Ok(None) if end => return self.denied(*asked, 0, HandshakeError::NoAnswer),
            Ok(None) => {
                self.state = State::Asked(asked);
                return host::replace_buffer(TO_CLIENT, &[]);
            }
            Err((status, error)) => return self.denied(*asked, status, error),
        };
        let Asked {
            mut answer,
            mut held,
            held_end,
            ..
        } = *asked;
        self.shared.end_no_more(self.id);
        let mut websocket = WebSocket::new(self.id, &self.shared);
        websocket.opened(&format!("to {}", peer("upstream")));
        let rest = answer.get_mut(end_of_head..).unwrap_or_default();
        websocket.take(Side::WebSocket, rest, end);
        if websocket.is_left() {
            // Nothing of what was held has been sent.
            websocket.refuse();
        } else {
            websocket.take(Side::Http2, &mut held, held_end);
        }
        websocket.begin();
        let given = websocket.give(Side::WebSocket, TO_CLIENT, b"");
        self.state = State::Open(websocket);
        given
    }

    /// The other end opens no WebSocket. The codec's requests can go elsewhere: none of them was sent.
    fn denied(&mut self, mut asked: Asked, status: u16, error: HandshakeError) -> Result<(), Status> {
        self.shared.metrics.refused(error.label());
        let peer = peer("upstream");
        let text = match status {
            0 => format!("handshake failed, from {peer}: {error}"),
            status => format!("handshake failed, status {status} from {peer}: {error}"),
        };
        self.log(Level::Warn, &text);
        let moment = error == HandshakeError::NoAnswer || may_be_transient(status);
        if let Some(tunnel) = &self.shared.config.tunnel
            && !moment
        {
            SharedTarget::of(tunnel).refuse();
        }
        self.shared.tell_end();
        self.shared.end_later(self.id, 0);
        let mut websocket = WebSocket::new(self.id, &self.shared);
        websocket.take(Side::Http2, &mut asked.held, asked.held_end);
        websocket.refuse();
        websocket.give(Side::WebSocket, TO_CLIENT, b"")
    }

    /// A piece of the request, or all of it and what comes behind it. Nothing but a handshake for `wsferry.v1`
    /// gets through (RFC 6455 §4.2).
    fn requested(&mut self, size: usize, end: bool) -> Result<Action, Status> {
        let mut bytes = host::buffer(FROM_CLIENT, size)?;
        let checked = match Request::parse(&bytes) {
            // What is there stays in Envoy's buffer.
            Ok(None) => {
                if end {
                    self.shared.end_later(self.id, 0);
                }
                return Ok(Action::Pause);
            }
            Ok(Some((request, length))) => request
                .check(&self.handshake.path, &self.shared.config.allowed_origins)
                .map(|accept| (accept, length)),
            Err(error) => Err(error.into()),
        };
        self.shared.end_no_more(self.id);
        let mut websocket = WebSocket::new(self.id, &self.shared);
        match checked {
            Ok((accept, length)) => {
                let rest = bytes.get_mut(length..).unwrap_or_default();
                websocket.take(Side::WebSocket, rest, end);
                websocket.begin();
                let given = websocket.give(Side::WebSocket, FROM_CLIENT, b"");
                let response = http1::switching_protocols(&accept);
                self.state = State::Granted { response, websocket };
                given?;
            }
            Err(refusal) => {
                self.refuse(refusal);
                websocket.begin();
                websocket.give(Side::WebSocket, FROM_CLIENT, b"")?;
            }
        }
        Ok(Action::Continue)
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.shared.metrics.refused(refusal.label());
        let (peer, status) = (peer("source"), refusal.status());
        self.log(
            Level::Warn,
            &format!("handshake from {peer} refused with {status}: {refusal}"),
        );
        self.state = State::Refused {
            response: http1::refusal(refusal),
        };
        // At the latest, if the codec says nothing that the response could go out with.
        self.shared
            .end_later(self.id, self.shared.config.close_timeout_ms);
    }

    fn client_sends(&mut self, size: usize, end: bool) -> Result<Action, Status> {
        match (&mut self.state, self.shared.config.role) {
            (State::New, Role::Near) => self.ask(size, end)?,
            (State::New, Role::Far) => return self.requested(size, end),
            (State::Asked(_), _) => self.hold(size, end)?,
            (State::Granted { websocket, .. } | State::Open(websocket), _) => {
                websocket.pass(FROM_CLIENT, Direction::Request, size, end)?;
            }
            (State::Refused { .. }, _) => host::replace_buffer(FROM_CLIENT, &[])?,
        }
        Ok(Action::Continue)
    }

    fn client_gets(&mut self, size: usize, end: bool) -> Result<Action, Status> {
        // Before the state is taken, which has to be there if this fails.
        let mut bytes = match self.state {
            State::Asked(_) | State::Granted { .. } => host::buffer(TO_CLIENT, size)?,
            State::New | State::Open(_) | State::Refused { .. } => Vec::new(),
        };
        match self.take_state() {
            State::New => {
                self.state = State::New;
                host::replace_buffer(TO_CLIENT, &[])?;
            }
            State::Asked(asked) => self.answered(asked, &bytes, end)?,
            State::Granted {
                response,
                mut websocket,
            } => {
                websocket.opened(&format!("from {}", peer("source")));
                websocket.take(Side::Http2, &mut bytes, end);
                let given = websocket.give(Side::Http2, TO_CLIENT, response.as_bytes());
                self.state = State::Open(websocket);
                given?;
            }
            State::Open(mut websocket) => {
                let passed = websocket.pass(TO_CLIENT, Direction::Response, size, end);
                self.state = State::Open(websocket);
                passed?;
            }
            State::Refused { response } => {
                host::replace_buffer(TO_CLIENT, response.as_bytes())?;
                if !response.is_empty() {
                    self.shared.end_later(self.id, 0);
                }
            }
        }
        Ok(Action::Continue)
    }

    /// What follows a callback, whatever came of it.
    fn finish(&mut self, result: Result<Action, Status>) -> Action {
        if let State::Open(websocket) = &mut self.state {
            websocket.watch_end();
        }
        result.unwrap_or_else(|status| {
            // A host function failed that never does. Nothing may pass unconverted.
            self.log(Level::Error, &format!("can't convert: {status}"));
            self.end();
            self.shared.end_later(self.id, 0);
            Action::Pause
        })
    }

    /// The connection is over, whoever ended it, or nothing more may pass.
    fn end(&mut self) {
        let state = self.take_state();
        self.shared.end_no_more(self.id);
        let timed_out = self
            .begun_at
            .is_some_and(|begun_at| host::now() >= begun_at.after(self.handshake.timeout_ms));
        if matches!(state, State::New | State::Asked(_)) {
            self.shared.tell_end();
        }
        match state {
            State::Open(websocket) => websocket.end(),
            State::Granted { mut websocket, .. } => {
                websocket.opened(&format!("from {}", peer("source")));
                websocket.end();
            }
            State::Asked(_) | State::New if timed_out => {
                self.shared.metrics.refused(Metrics::TIMEOUT);
                let text = format!("no handshake within {} ms", self.handshake.timeout_ms);
                self.log(Level::Warn, &text);
            }
            State::Asked(_) => {
                let error = HandshakeError::NoAnswer;
                self.shared.metrics.refused(error.label());
                self.log(Level::Warn, &format!("handshake failed: {error}"));
            }
            // Nobody has asked for anything.
            State::New | State::Refused { .. } => {}
        }
    }
}

impl Connection for ConverterConnection {
    fn begun(&mut self) -> Action {
        if self.role() == Role::Far {
            self.handshake_begins();
        }
        Action::Continue
    }

    fn downstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        let result = self.client_sends(size, end_of_stream);
        self.finish(result)
    }

    fn upstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        let result = self.client_gets(size, end_of_stream);
        self.finish(result)
    }

    fn done(&mut self) {
        self.end();
    }
}
