//! The field lines of one header block, sorted into what a message has (RFC 9113 §8).

use crate::config::Limits;
use crate::error::Error;
use crate::field_rules::{is_name, is_token, is_value};
use crate::http2::Sender;
use crate::message::{FIELD_OVERHEAD, Field, Fields, MAX_STRING, RequestHead};

/// What a header block turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Request,
    Response { status: u16 },
    Trailers,
}

/// Collects one header list at a time, in memory that is reused. Once something is wrong with the list,
/// nothing more of it is copied.
///
/// It refuses whatever the other end of a WebSocket would refuse in the CBOR message: here it harms one
/// stream, there it would close the WebSocket.
#[derive(Debug)]
pub(super) struct HeaderList {
    max_bytes: usize,
    max_fields: usize,
    /// So far, as RFC 9113 §6.5.2 counts them; pseudo-header fields are included in both.
    bytes: usize,
    count: usize,
    fault: Option<Error>,
    /// Bits of [`pseudo`]: those that were there.
    seen: u8,
    method: Vec<u8>,
    scheme: Vec<u8>,
    authority: Vec<u8>,
    path: Vec<u8>,
    protocol: Vec<u8>,
    status: Vec<u8>,
    fields: Fields,
}

mod pseudo {
    pub(super) const METHOD: u8 = 1;
    pub(super) const SCHEME: u8 = 2;
    pub(super) const AUTHORITY: u8 = 4;
    pub(super) const PATH: u8 = 8;
    pub(super) const PROTOCOL: u8 = 16;
    pub(super) const STATUS: u8 = 32;
}

impl HeaderList {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self {
            max_bytes: limits.max_header_list_bytes,
            max_fields: limits.max_header_fields,
            bytes: 0,
            count: 0,
            fault: None,
            seen: 0,
            method: Vec::new(),
            scheme: Vec::new(),
            authority: Vec::new(),
            path: Vec::new(),
            protocol: Vec::new(),
            status: Vec::new(),
            fields: Fields::new(),
        }
    }

    /// Forgets the last list. The pseudo-header fields are overwritten as they come.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
        self.count = 0;
        self.fault = None;
        self.seen = 0;
        self.fields.clear();
    }

    /// The list is what it was, pseudo-header fields included.
    pub(super) fn comes_again(&mut self) {
        self.fields.comes_again();
    }

    pub(super) fn add(&mut self, field: Field<'_>) {
        if self.fault.is_some() {
            return;
        }
        let bytes = field.name.len().saturating_add(field.value.len());
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(FIELD_OVERHEAD);
        self.count = self.count.saturating_add(1);
        let is_too_long = field.name.len().max(field.value.len()) > MAX_STRING;
        if is_too_long || self.bytes > self.max_bytes || self.count > self.max_fields {
            self.fault = Some(Error::Http2HeaderListTooBig);
        } else if !self.place(field) {
            self.fault = Some(Error::Http2Malformed);
        }
    }

    /// Whether the field could be where and what it is.
    fn place(&mut self, field: Field<'_>) -> bool {
        if !is_value(field.value) {
            return false;
        }
        if field.name.first() == Some(&b':') {
            return self.place_pseudo(field);
        }
        let named = is_name(field.name);
        if named {
            self.fields.push(field.name, field.value, field.sensitive);
        }
        named
    }

    fn place_pseudo(&mut self, field: Field<'_>) -> bool {
        let value = field.value;
        let (bit, part, fits) = match field.name {
            b":method" => (pseudo::METHOD, &mut self.method, is_token(value)),
            b":scheme" => (pseudo::SCHEME, &mut self.scheme, value.iter().all(is_scheme_byte)),
            b":authority" => (pseudo::AUTHORITY, &mut self.authority, true),
            b":path" => (pseudo::PATH, &mut self.path, true),
            b":protocol" => (pseudo::PROTOCOL, &mut self.protocol, is_token(value)),
            b":status" => (pseudo::STATUS, &mut self.status, true),
            _ => return false,
        };
        let fits = fits && self.seen & bit == 0 && self.fields.is_empty();
        if fits {
            self.seen |= bit;
            part.clear();
            part.extend_from_slice(value);
        }
        fits
    }

    /// What the finished list is, sent by `sender` with END_STREAM or not.
    ///
    /// Beyond what tells the messages apart, the rules for a request's parts (§8.3.1) are left to the
    /// codec at the other end, which answers them the way that its HTTP server does.
    ///
    /// # Errors
    /// [`Error::Http2Malformed`] or [`Error::Http2HeaderListTooBig`], of this stream alone.
    pub(super) fn finish(&self, sender: Sender, end: bool) -> Result<Shape, Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        match sender {
            _ if self.seen == 0 && end => Ok(Shape::Trailers),
            Sender::Client if self.is_request() => Ok(Shape::Request),
            Sender::Server if self.seen == pseudo::STATUS => match self.status.as_slice() {
                // HTTP/2 has no 101 (§8.6).
                b"101" => Err(Error::Http2Malformed),
                [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => Ok(Shape::Response {
                    status: [a, b, c].into_iter().fold(0, |status: u16, digit| {
                        status
                            .wrapping_mul(10)
                            .wrapping_add(u16::from(digit.wrapping_sub(b'0')))
                    }),
                }),
                _ => Err(Error::Http2Malformed),
            },
            _ => Err(Error::Http2Malformed),
        }
    }

    fn is_request(&self) -> bool {
        let has = |bit| self.seen & bit != 0;
        let protocol_fits = !has(pseudo::PROTOCOL) || !self.protocol.is_empty();
        has(pseudo::METHOD) && !has(pseudo::STATUS) && !self.method.is_empty() && protocol_fits
    }

    /// The list as a request; [`HeaderList::finish`] has said that it is one.
    pub(super) fn request_head(&self) -> RequestHead<'_> {
        let part = |bit, part| {
            if self.seen & bit != 0 { part } else { &[][..] }
        };
        RequestHead {
            method: part(pseudo::METHOD, &self.method),
            scheme: part(pseudo::SCHEME, &self.scheme),
            authority: part(pseudo::AUTHORITY, &self.authority),
            path: part(pseudo::PATH, &self.path),
            protocol: (self.seen & pseudo::PROTOCOL != 0).then_some(self.protocol.as_slice()),
            fields: &self.fields,
        }
    }

    /// The regular fields.
    pub(super) const fn fields(&self) -> &Fields {
        &self.fields
    }
}

/// RFC 3986 §3.1.
const fn is_scheme_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}
