//! The opening handshake (RFC 6455 §4; over HTTP/2 and HTTP/3, RFC 8441 and RFC 9220): what is asked,
//! what is granted, and why not.
//!
//! Envoy, or [`super::http1`], has parsed the headers, lower-cased their names and seen to `host`; what is left is
//! here.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::message::Fields;

/// The subprotocol that both ends must name: without it there is no converter at the other end.
pub const SUBPROTOCOL: &str = "wsferry.v1";

/// The only version of RFC 6455 (§4.1).
pub const VERSION: &str = "13";

/// A near end's `user-agent` (RFC 9110 §10.1.5). Some firewalls refuse requests without one.
pub const USER_AGENT: &str = concat!("wsferry/", env!("CARGO_PKG_VERSION"));

/// What the key is hashed with (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a key before base64 (RFC 6455 §4.1).
const KEY_BYTES: usize = 16;

/// `sec-websocket-key` of fresh random bytes (RFC 6455 §4.1).
pub fn key(random: [u8; KEY_BYTES]) -> String {
    STANDARD.encode(random)
}

/// `sec-websocket-accept` that answers a key (RFC 6455 §4.2.2).
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// A request as Envoy or [`super::http1`] presents it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHeaders<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// It came as an extended CONNECT over HTTP/2 or HTTP/3, which Envoy presents as GET with
    /// `upgrade`; there is no key then (RFC 8441 §5).
    pub extended_connect: bool,
    /// All fields; pseudo-header fields among them do no harm.
    pub fields: &'a Fields,
}

/// A response as Envoy or [`super::http1`] presents it.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHeaders<'a> {
    /// `:status`.
    pub status: u16,
    /// All fields; pseudo-header fields among them do no harm.
    pub fields: &'a Fields,
}

/// A handshake that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// `sec-websocket-accept` for the response; none where there was no key.
    pub accept: Option<String>,
}

/// Why a request gets no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Another method than GET.
    Method,
    /// No `upgrade: websocket`, or no `connection: upgrade`.
    Upgrade,
    /// `sec-websocket-version` isn't 13.
    Version,
    /// `sec-websocket-key` is missing, repeated, or not base64 of 16 bytes.
    Key,
    /// The client doesn't offer `wsferry.v1`.
    Subprotocol,
    /// A browser's `origin` that isn't allowed.
    Origin,
    /// Another path. Where Envoy has parsed the request, its routes see to that.
    Path,
    /// No HTTP/1.1 request, or not one that can be a handshake: with a body, or without `host`. Envoy sees to that
    /// where it has parsed the request.
    Malformed,
    /// A head of more bytes or fields than are taken. Envoy has limits of its own where it has parsed the request.
    HeadTooLarge,
}

impl Refusal {
    /// Every refusal, for counters and tests.
    pub const ALL: [Self; 9] = [
        Self::Method,
        Self::Upgrade,
        Self::Version,
        Self::Key,
        Self::Subprotocol,
        Self::Origin,
        Self::Path,
        Self::Malformed,
        Self::HeadTooLarge,
    ];

    /// HTTP status of the answer (RFC 6455 §4.2.2, §4.4; RFC 6585 §5).
    pub const fn status(self) -> u16 {
        match self {
            Self::Method | Self::Upgrade | Self::Version => 426,
            Self::Key | Self::Subprotocol | Self::Malformed => 400,
            Self::Origin => 403,
            Self::Path => 404,
            Self::HeadTooLarge => 431,
        }
    }

    /// Fields of the answer that tell what would have been right. Over HTTP/2 and HTTP/3 `upgrade`
    /// must not be sent (RFC 9113 §8.2.2); Envoy leaves it out there.
    pub const fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method | Self::Upgrade => &[("upgrade", "websocket"), ("connection", "upgrade")],
            Self::Version => &[
                ("upgrade", "websocket"),
                ("connection", "upgrade"),
                ("sec-websocket-version", VERSION),
            ],
            Self::Key
            | Self::Subprotocol
            | Self::Origin
            | Self::Path
            | Self::Malformed
            | Self::HeadTooLarge => &[],
        }
    }

    /// Name in logs and in the counter `handshakes_refused_NAME`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Upgrade => "upgrade",
            Self::Version => "version",
            Self::Key => "key",
            Self::Subprotocol => "subprotocol",
            Self::Origin => "origin",
            Self::Path => "path",
            Self::Malformed => "malformed",
            Self::HeadTooLarge => "head_too_large",
        }
    }
}

impl fmt::Display for Refusal {
    /// The text that the client gets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket handshake is a GET",
            Self::Upgrade => "only WebSocket handshakes are served here",
            Self::Version => "sec-websocket-version must be 13",
            Self::Key => "sec-websocket-key must be base64 of 16 bytes",
            Self::Subprotocol => "the subprotocol wsferry.v1 must be offered",
            Self::Origin => "this origin is not allowed",
            Self::Path => "there is no WebSocket at this path",
            Self::Malformed => "this is no HTTP/1.1 request for a WebSocket",
            Self::HeadTooLarge => "the request's head is too large",
        })
    }
}

impl std::error::Error for Refusal {}

/// Checks a client's handshake (RFC 6455 §4.2.1). Nothing but a handshake for [`SUBPROTOCOL`] passes.
/// `allowed_origins` is compared byte for byte.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_request(request: &RequestHeaders<'_>, allowed_origins: &[String]) -> Result<Accepted, Refusal> {
    let fields = request.fields;
    if request.method != b"GET" {
        return Err(Refusal::Method);
    }
    if !has_token(fields, "upgrade", "websocket") || !has_token(fields, "connection", "upgrade") {
        return Err(Refusal::Upgrade);
    }
    if only_value(fields, "sec-websocket-version") != Some(VERSION.as_bytes()) {
        return Err(Refusal::Version);
    }
    let accept = if request.extended_connect {
        None
    } else {
        let key = only_value(fields, "sec-websocket-key")
            .and_then(valid_key)
            .ok_or(Refusal::Key)?;
        Some(accept(key))
    };
    if !offers_subprotocol(fields) {
        return Err(Refusal::Subprotocol);
    }
    let allowed = |origin: &[u8]| allowed_origins.iter().any(|one| one.as_bytes() == origin);
    if !values(fields, "origin").all(allowed) {
        return Err(Refusal::Origin);
    }
    Ok(Accepted { accept })
}

/// Why a server's answer is no WebSocket for [`SUBPROTOCOL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeError {
    /// Another status than 101.
    Status,
    /// `upgrade` isn't `websocket`.
    Upgrade,
    /// No `connection: upgrade`.
    Connection,
    /// `sec-websocket-accept` doesn't answer the key.
    Accept,
    /// An extension was granted that nobody asked for.
    Extension,
    /// A WebSocket server, but no converter: `wsferry.v1` wasn't granted.
    Subprotocol,
    /// No HTTP/1.1 response. Envoy sees to that where it parses the response.
    Malformed,
    /// A head of more bytes or fields than are taken. Envoy has limits of its own where it parses the response.
    HeadTooLarge,
    /// The connection ended before the answer was complete.
    NoAnswer,
}

impl HandshakeError {
    /// Every error, for counters and tests.
    pub const ALL: [Self; 9] = [
        Self::Status,
        Self::Upgrade,
        Self::Connection,
        Self::Accept,
        Self::Extension,
        Self::Subprotocol,
        Self::Malformed,
        Self::HeadTooLarge,
        Self::NoAnswer,
    ];

    /// Name in logs and in the counter `handshakes_refused_NAME`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Upgrade => "upgrade",
            Self::Connection => "connection",
            Self::Accept => "accept",
            Self::Extension => "extension",
            Self::Subprotocol => "subprotocol",
            Self::Malformed => "malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::NoAnswer => "no_answer",
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "the status is not 101",
            Self::Upgrade => "the answer has no `upgrade: websocket`",
            Self::Connection => "the answer has no `connection: upgrade`",
            Self::Accept => "sec-websocket-accept does not answer the key",
            Self::Extension => "an extension was granted that was not offered",
            Self::Subprotocol => "no converter there: the subprotocol wsferry.v1 was not granted",
            Self::Malformed => "the answer is no HTTP/1.1 response",
            Self::HeadTooLarge => "the answer's head is too large",
            Self::NoAnswer => "the connection ended before the answer was complete",
        })
    }
}

impl std::error::Error for HandshakeError {}

/// Checks a server's answer (RFC 6455 §4.1). `expected_accept`: [`accept`] of the key that was sent.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_response(response: &ResponseHeaders<'_>, expected_accept: &str) -> Result<(), HandshakeError> {
    let fields = response.fields;
    if response.status != 101 {
        return Err(HandshakeError::Status);
    }
    if !only_value(fields, "upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(HandshakeError::Upgrade);
    }
    if !has_token(fields, "connection", "upgrade") {
        return Err(HandshakeError::Connection);
    }
    if only_value(fields, "sec-websocket-accept") != Some(expected_accept.as_bytes()) {
        return Err(HandshakeError::Accept);
    }
    if tokens(fields, "sec-websocket-extensions").next().is_some() {
        return Err(HandshakeError::Extension);
    }
    if only_value(fields, "sec-websocket-protocol") != Some(SUBPROTOCOL.as_bytes()) {
        return Err(HandshakeError::Subprotocol);
    }
    Ok(())
}

/// The key, if it is one.
fn valid_key(value: &[u8]) -> Option<&str> {
    let key = std::str::from_utf8(value).ok()?;
    // Room for what a key of the right length may decode to; anything longer is an error before it
    // is decoded.
    let mut decoded = [0; KEY_BYTES + 2];
    let len = STANDARD.decode_slice(key, &mut decoded).ok()?;
    (len == KEY_BYTES).then_some(key)
}

/// Case counts in the names of subprotocols (RFC 6455 §11.5), unlike in those of upgrades.
fn offers_subprotocol(fields: &Fields) -> bool {
    tokens(fields, "sec-websocket-protocol").any(|token| token == SUBPROTOCOL.as_bytes())
}

fn has_token(fields: &Fields, name: &str, wanted: &str) -> bool {
    tokens(fields, name).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The members of a list that may stand on several lines (RFC 9110 §5.6.1): empty ones don't count.
fn tokens<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    values(fields, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The value of a field that must stand there once, without the space around it.
fn only_value<'a>(fields: &'a Fields, name: &'a str) -> Option<&'a [u8]> {
    let mut values = values(fields, name);
    values.next().filter(|_| values.next().is_none())
}

fn values<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name == name.as_bytes())
        .map(|field| field.value.trim_ascii())
}
