//! The neutral middle: what an HTTP/2 frame and a CBOR message have in common.
//!
//! Both sides borrow: a [`Message`] lives as long as the buffers of the reader that made it, so that
//! converting a message copies each byte once and allocates nothing in the steady state.

use std::fmt;

use crate::repeat::Revision;

/// One step of an HTTP exchange, or of the connection that carries it.
///
/// `Id` is the identifier of a stream on the side the message belongs to: [`Http2Id`] for HTTP/2
/// frames, [`WireId`] for CBOR messages. [`crate::converter`] translates between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a, Id> {
    /// Opens a stream.
    Request {
        /// The stream that it opens.
        stream: Id,
        /// No data and no trailers follow.
        end: bool,
        /// Request line and fields.
        head: RequestHead<'a>,
    },
    /// Response head: zero or more interim ones (1xx), then the final one.
    Response {
        /// The stream that it answers.
        stream: Id,
        /// No data and no trailers follow.
        end: bool,
        /// Status code, 100 to 999. Those from 600 on are no one's (RFC 9110 §15), but Envoy's codecs pass them.
        status: u16,
        /// Response fields.
        fields: &'a Fields,
    },
    /// A piece of a body, of any length; `end` with an empty payload is common.
    Data {
        /// The stream it belongs to.
        stream: Id,
        /// The last piece, and no trailers follow.
        end: bool,
        /// The bytes.
        payload: &'a [u8],
    },
    /// Trailer fields; they end their direction.
    Trailers {
        /// The stream it belongs to.
        stream: Id,
        /// Trailer fields.
        fields: &'a Fields,
    },
    /// Ends a stream in both directions at once.
    Reset {
        /// The stream it ends.
        stream: Id,
        /// HTTP/2 error code (RFC 9113 §7).
        code: u32,
    },
    /// More bytes of data may be sent (RFC 9113 §6.9).
    Credit {
        /// The stream, or `None` for the connection as a whole.
        stream: Option<Id>,
        /// 1 to 2^31-1 bytes.
        bytes: u32,
    },
    /// Parameters of the sender (RFC 9113 §6.5).
    Settings(&'a Settings),
    /// The receiver's answer to [`Message::Settings`], once they are in force.
    Ack,
    /// The sender takes no streams after `last` (RFC 9113 §6.8).
    Goaway {
        /// The last stream that was or will be processed; `None`: it isn't known yet, every open
        /// stream may go on (HTTP/2's 2^31-1).
        last: Option<Id>,
        /// HTTP/2 error code.
        code: u32,
    },
    /// What precedes HTTP/2 where the far end makes the requests: not converted.
    Raw(&'a [u8]),
}

/// Stream identifier in HTTP/2 frames, 1 to 2^31-1 (RFC 9113 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Http2Id(pub u32);

/// Stream identifier in CBOR messages: per opener 0, 1, 2 …, wrapping at 2^16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireId(pub u16);

/// The pseudo-header fields of a request (RFC 9113 §8.3.1) and its fields.
///
/// `scheme`, `authority` and `path` are empty where the request has none: no request has an empty
/// one that differs from an absent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// `:method`, never empty.
    pub method: &'a [u8],
    /// `:scheme`, empty for a plain CONNECT.
    pub scheme: &'a [u8],
    /// `:authority`.
    pub authority: &'a [u8],
    /// `:path`, empty for a plain CONNECT.
    pub path: &'a [u8],
    /// `:protocol` of an extended CONNECT (RFC 8441 §4).
    pub protocol: Option<&'a [u8]>,
    /// Everything that isn't a pseudo-header field, in order.
    pub fields: &'a Fields,
}

/// A field line: name and value, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Lower case (RFC 9113 §8.2.1).
    pub name: &'a [u8],
    /// Any bytes but NUL, CR and LF.
    pub value: &'a [u8],
    /// Must not enter any compression state (RFC 7541 §7.1.3).
    pub sensitive: bool,
}

/// A list of fields in one buffer, reused from message to message.
#[derive(Default, Clone)]
pub struct Fields {
    bytes: Vec<u8>,
    ends: Vec<FieldEnds>,
    revision: Option<Revision>,
}

/// The fields alone: lists that are equal look equal.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Equal fields; the revision is no part of them.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.ends == other.ends
    }
}

impl Eq for Fields {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FieldEnds {
    name: usize,
    value: usize,
    sensitive: bool,
}

/// What a field costs on top of its bytes in a header list and in a table (RFC 9113 §6.5.2,
/// RFC 7541 §4.1), in bytes.
pub const FIELD_OVERHEAD: usize = 32;

/// Longest name or value of a field, pseudo-header fields included, in bytes. Envoy's HTTP/2 codec (nghttp2) takes a longer one,
/// not Huffman-coded, for an error of the whole connection.
pub const MAX_STRING: usize = 65_536;

impl Fields {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            revision: None,
        }
    }

    /// Forgets the fields and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.revision = None;
    }

    /// Set where a reader has found that it reads the same list as before.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The list, and the head that it is a part of, are as they were when this was last called; a change ends that.
    pub(crate) fn comes_again(&mut self) {
        self.revision.get_or_insert_with(Revision::next);
    }

    /// Adds a field at the end. Limits are the caller's to check, with [`Fields::list_size`] and
    /// [`Fields::len`], before it has anything copied.
    pub fn push(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        self.revision = None;
        self.bytes.extend_from_slice(name);
        let name = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push(FieldEnds {
            name,
            value: self.bytes.len(),
            sensitive,
        });
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |ends| {
            let name = self.bytes.get(start..ends.name).unwrap_or_default();
            let value = self.bytes.get(ends.name..ends.value).unwrap_or_default();
            start = ends.value;
            Field {
                name,
                value,
                sensitive: ends.sensitive,
            }
        })
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Size as RFC 9113 §6.5.2 counts it, in bytes: names, values and 32 for each field.
    pub fn list_size(&self) -> usize {
        self.bytes
            .len()
            .saturating_add(self.ends.len().saturating_mul(FIELD_OVERHEAD))
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(fields: I) -> Self {
        let mut list = Self::new();
        for (name, value) in fields {
            list.push(name, value, false);
        }
        list
    }
}

/// Parameters by identifier. HTTP/2's are below 256 (RFC 9113 §6.5.2), wsferry's own from 256 on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<(u16, u32)>,
}

impl Settings {
    /// SETTINGS_HEADER_TABLE_SIZE, bytes: of one hop, never on the wire.
    pub const HEADER_TABLE_SIZE: u16 = 1;
    /// SETTINGS_ENABLE_PUSH.
    pub const ENABLE_PUSH: u16 = 2;
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// SETTINGS_INITIAL_WINDOW_SIZE, bytes.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// SETTINGS_MAX_FRAME_SIZE, bytes: of one hop, never on the wire.
    pub const MAX_FRAME_SIZE: u16 = 5;
    /// SETTINGS_MAX_HEADER_LIST_SIZE, bytes.
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3).
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    /// How many parameters a message may hold.
    pub const MAX_ENTRIES: usize = 32;

    /// No parameters.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Forgets the parameters and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The last value given for `id`.
    pub fn get(&self, id: u16) -> Option<u32> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.0 == id)
            .map(|entry| entry.1)
    }

    /// Sets `id`, in its old place if it has one.
    pub fn set(&mut self, id: u16, value: u32) {
        match self.entries.iter_mut().find(|entry| entry.0 == id) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((id, value)),
        }
    }

    /// Identifiers and values, in the order in which they were set.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u16, u32)> + '_ {
        self.entries.iter().copied()
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a, Id> Message<'a, Id> {
    /// The same message with another stream identifier; a GOAWAY's `last` and a connection's credit
    /// are passed to `other` too where they name a stream.
    pub fn with_stream<New>(self, other: impl FnOnce(Id) -> New) -> Message<'a, New> {
        match self {
            Self::Request { stream, end, head } => Message::Request {
                stream: other(stream),
                end,
                head,
            },
            Self::Response {
                stream,
                end,
                status,
                fields,
            } => Message::Response {
                stream: other(stream),
                end,
                status,
                fields,
            },
            Self::Data { stream, end, payload } => Message::Data {
                stream: other(stream),
                end,
                payload,
            },
            Self::Trailers { stream, fields } => Message::Trailers {
                stream: other(stream),
                fields,
            },
            Self::Reset { stream, code } => Message::Reset {
                stream: other(stream),
                code,
            },
            Self::Credit { stream, bytes } => Message::Credit {
                stream: stream.map(other),
                bytes,
            },
            Self::Settings(settings) => Message::Settings(settings),
            Self::Ack => Message::Ack,
            Self::Goaway { last, code } => Message::Goaway {
                last: last.map(other),
                code,
            },
            Self::Raw(bytes) => Message::Raw(bytes),
        }
    }
}
