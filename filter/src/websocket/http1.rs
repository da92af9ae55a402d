//! The opening handshake's HTTP/1.1 (RFC 9112, RFC 6455 §4), for a filter that stands where nobody else
//! has parsed or will write it: heads to [`Fields`] and back. What they must say is up to
//! [`super::handshake`].

use std::fmt::{self, Write};

use super::handshake::{self, Refusal};
use crate::message::Fields;

/// Largest head that is taken, bytes, from the start line to the empty line.
pub const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most field lines of a head.
pub const MAX_HEAD_FIELDS: usize = 100;

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadError {
    /// Not what RFC 9112 allows.
    Malformed,
    /// More than [`MAX_HEAD_BYTES`] or [`MAX_HEAD_FIELDS`].
    TooLarge,
}

/// A client's request, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// As it came; case counts.
    pub method: &'a str,
    /// Request target as it came (RFC 9112 §3.2).
    pub target: &'a str,
    /// HTTP/1.1, and not 1.0, as a proxy may speak to those behind it.
    pub knows_upgrade: bool,
    /// Names are lower case, values without the space around them.
    pub fields: Fields,
}

/// A server's response, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 100 to 999.
    pub status: u16,
    /// Names are lower case, values without the space around them.
    pub fields: Fields,
}

impl<'a> Request<'a> {
    /// Reads the head that a buffer begins with, and its length in bytes; `None` while its end isn't there.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn parse(buffer: &'a [u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
        let mut request = httparse::Request::new(&mut lines);
        let Some(length) = length(request.parse(buffer), buffer)? else {
            return Ok(None);
        };
        match (request.method, request.path, request.version) {
            (Some(method), Some(target), Some(version)) => {
                let fields = fields(request.headers);
                Ok(Some((
                    Self {
                        method,
                        target,
                        knows_upgrade: version == 1,
                        fields,
                    },
                    length,
                )))
            }
            _ => Err(HeadError::Malformed),
        }
    }

    /// The target's path, without query. A server takes the absolute form too (RFC 9112 §3.2.2).
    fn path(&self) -> &str {
        let is_http = |scheme: &str| {
            ["http", "https"]
                .iter()
                .any(|known| scheme.eq_ignore_ascii_case(known))
        };
        let path = match self.target.split_once("://") {
            // What ends an authority (RFC 3986 §3.2).
            Some((scheme, rest)) if is_http(scheme) => {
                rest.find(['/', '?', '#']).and_then(|end| rest.get(end..))
            }
            _ => Some(self.target),
        };
        path.and_then(|path| path.split('?').next()).unwrap_or("/")
    }

    /// Checks a handshake: where it goes, what belongs to HTTP/1.1, and then what belongs to the WebSocket. Returns the
    /// `sec-websocket-accept` that answers it.
    ///
    /// `path` is compared to the target without its query.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, path: &str, allowed_origins: &[String]) -> Result<String, Refusal> {
        let hosts = self.fields.iter().filter(|field| field.name == b"host");
        // A body would be taken for WebSocket frames, and RFC 9112 §3.2 wants just one host.
        let body = self.fields.iter().any(|field| match field.name {
            b"content-length" => field.value != b"0",
            name => name == b"transfer-encoding",
        });
        if hosts.count() != 1 || body {
            return Err(Refusal::Malformed);
        }
        if self.path() != path {
            return Err(Refusal::Path);
        }
        if !self.knows_upgrade {
            return Err(Refusal::Upgrade);
        }
        let request = handshake::RequestHeaders {
            method: self.method.as_bytes(),
            extended_connect: false,
            fields: &self.fields,
        };
        let accepted = handshake::check_request(&request, allowed_origins)?;
        accepted.accept.ok_or(Refusal::Key)
    }
}

impl Response {
    /// Reads the head that a buffer begins with, and its length in bytes; `None` while its end isn't there.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn parse(buffer: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
        let mut response = httparse::Response::new(&mut lines);
        // A far end isn't alone: proxies and load balancers on the way answer too, and what is odd about their other lines
        // says nothing of the handshake.
        let parsed = httparse::ParserConfig::default()
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .parse_response(&mut response, buffer);
        let Some(length) = length(parsed, buffer)? else {
            return Ok(None);
        };
        match (response.code, response.version) {
            // What stands on the way may answer in HTTP/1.0, but no WebSocket is opened so.
            (Some(status), Some(version)) if status >= 100 && (version == 1 || status != 101) => {
                let fields = fields(response.headers);
                Ok(Some((Self { status, fields }, length)))
            }
            _ => Err(HeadError::Malformed),
        }
    }

    /// The status of a head that [`Response::parse`] may find wrong further on; `None` if there is no status line.
    pub fn status_of(buffer: &[u8]) -> Option<u16> {
        let mut response = httparse::Response::new(&mut []);
        // The status line is read before the first field, for which there is no room.
        let _ = response.parse(buffer);
        response.code
    }

    /// Whether another response follows this one (RFC 9110 §15.2).
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// The length of the head that was parsed, if its end is there.
fn length(parsed: httparse::Result<usize>, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => Some(length),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(_) => return Err(HeadError::Malformed),
    };
    if length.unwrap_or(buffer.len()) > MAX_HEAD_BYTES {
        return Err(HeadError::TooLarge);
    }
    Ok(length)
}

fn fields(lines: &[httparse::Header<'_>]) -> Fields {
    let mut fields = Fields::new();
    for line in lines {
        fields.push(
            line.name.to_ascii_lowercase().as_bytes(),
            line.value.trim_ascii(),
            false,
        );
    }
    fields
}

/// A near end's request (RFC 6455 §4.1). `authority`, `path` and the further `fields`, each of them `NAME: VALUE`,
/// are of the configuration, which has seen to it that they can stand there. A `user-agent` among them replaces
/// [`handshake::USER_AGENT`].
pub fn request(authority: &str, path: &str, key: &str, fields: &[String]) -> String {
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n");
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        &format!("sec-websocket-version: {}", handshake::VERSION),
        &format!("sec-websocket-key: {key}"),
        &format!("sec-websocket-protocol: {}", handshake::SUBPROTOCOL),
    ] {
        head.push_str(line);
        head.push_str("\r\n");
    }
    if !fields.iter().any(|field| field.starts_with("user-agent:")) {
        // A string takes whatever is written to it.
        _ = write!(head, "user-agent: {}\r\n", handshake::USER_AGENT);
    }
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

/// A far end's answer that opens the WebSocket (RFC 6455 §4.2.2).
pub fn switching_protocols(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: \
         {accept}\r\nsec-websocket-protocol: {}\r\n\r\n",
        handshake::SUBPROTOCOL
    )
}

/// A far end's answer that opens none; the connection is closed after it.
pub fn refusal(refusal: Refusal) -> String {
    let body = format!("{refusal}\n");
    let mut head = format!("HTTP/1.1 {} {}\r\n", refusal.status(), reason(refusal.status()));
    for (name, value) in refusal.fields() {
        // The connection's own options stand in one list below.
        if *name != "connection" {
            // A string takes whatever is written to it.
            _ = write!(head, "{name}: {value}\r\n");
        }
    }
    let options = match refusal.fields() {
        [] => "close",
        _ => "upgrade, close",
    };
    _ = write!(
        head,
        "connection: {options}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    head
}

/// The reason phrase of a [`Refusal`]'s status (RFC 9110 §15, RFC 6585 §5).
const fn reason(status: u16) -> &'static str {
    match status {
        403 => "Forbidden",
        404 => "Not Found",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        _ => "Bad Request",
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("no HTTP/1.1 head"),
            Self::TooLarge => write!(
                f,
                "a head of more than {MAX_HEAD_BYTES} bytes or {MAX_HEAD_FIELDS} fields"
            ),
        }
    }
}

impl std::error::Error for HeadError {}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed => Self::Malformed,
            HeadError::TooLarge => Self::HeadTooLarge,
        }
    }
}

impl From<HeadError> for handshake::HandshakeError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed => Self::Malformed,
            HeadError::TooLarge => Self::HeadTooLarge,
        }
    }
}
