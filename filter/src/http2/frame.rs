//! Frame headers (RFC 9113 §4.1), and what can be said of a frame from its header alone.

use crate::error::Error;

/// What a client's bytes begin with (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header, bytes.
pub const HEADER_BYTES: usize = 9;

/// Largest payload before any SETTINGS_MAX_FRAME_SIZE, bytes (RFC 9113 §6.5.2).
pub const DEFAULT_MAX_FRAME_BYTES: usize = 16_384;

/// Largest payload that a SETTINGS_MAX_FRAME_SIZE can allow, bytes.
pub const LARGEST_MAX_FRAME_BYTES: usize = 16_777_215;

/// The highest stream identifier; in GOAWAY it says that the last stream isn't known yet (RFC 9113 §6.8).
pub const LAST_STREAM: u32 = 0x7fff_ffff;

/// Flags; what a bit means depends on the type of the frame (RFC 9113 §6).
pub mod flag {
    /// DATA, HEADERS: the sender says no more on this stream.
    pub const END_STREAM: u8 = 0x01;
    /// SETTINGS, PING.
    pub const ACK: u8 = 0x01;
    /// HEADERS, CONTINUATION: the header block ends here.
    pub const END_HEADERS: u8 = 0x04;
    /// DATA, HEADERS: a pad length comes first, and padding last.
    pub const PADDED: u8 = 0x08;
    /// HEADERS: five bytes of priority come before the header block.
    pub const PRIORITY: u8 = 0x20;
}

/// Frame types (RFC 9113 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Body bytes.
    Data,
    /// A header block, or its beginning.
    Headers,
    /// Deprecated; skipped.
    Priority,
    /// Ends a stream.
    ResetStream,
    /// Parameters of the sender, or the answer to them.
    Settings,
    /// Never allowed: no end of ours enables it.
    PushPromise,
    /// Asks for the same bytes back, or gives them.
    Ping,
    /// No streams after a certain one.
    Goaway,
    /// Credit for data.
    WindowUpdate,
    /// The rest of a header block.
    Continuation,
    /// An extension's; skipped (RFC 9113 §5.5).
    Unknown(u8),
}

impl Kind {
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::ResetStream,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::Goaway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            other => Self::Unknown(other),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Priority => 2,
            Self::ResetStream => 3,
            Self::Settings => 4,
            Self::PushPromise => 5,
            Self::Ping => 6,
            Self::Goaway => 7,
            Self::WindowUpdate => 8,
            Self::Continuation => 9,
            Self::Unknown(other) => other,
        }
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of payload that follow, below 2^24.
    pub length: usize,
    /// The type.
    pub kind: Kind,
    /// See [`flag`].
    pub flags: u8,
    /// The stream, or 0 for the connection; the reserved bit is dropped.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads a header; any nine bytes are one.
    pub fn load(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).unwrap_or(usize::MAX),
            kind: Kind::from_code(kind),
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & LAST_STREAM,
        }
    }

    /// The nine bytes. A length of 2^24 or more doesn't fit; the writer makes none.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, l0, l1, l2] = u32::try_from(self.length).unwrap_or_default().to_be_bytes();
        let [s0, s1, s2, s3] = (self.stream & LAST_STREAM).to_be_bytes();
        [l0, l1, l2, self.kind.code(), self.flags, s0, s1, s2, s3]
    }

    /// Whether a bit of [`flag`] is set.
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Refuses lengths and streams that the type can't have, before any of the payload is kept.
    ///
    /// # Errors
    /// [`Error::Http2FrameSize`] above `max_length` or where the type has a fixed length (§4.2);
    /// [`Error::Http2Protocol`] for the wrong stream, and for PUSH_PROMISE. Streams are a client's, thus
    /// odd (§5.1.1): nothing can be said on others but PRIORITY.
    pub fn check(self, max_length: usize) -> Result<(), Error> {
        let stream_fits = match self.kind {
            Kind::Data | Kind::Headers | Kind::ResetStream | Kind::Continuation => self.stream & 1 == 1,
            Kind::WindowUpdate => self.stream == 0 || self.stream & 1 == 1,
            Kind::Settings | Kind::Ping | Kind::Goaway => self.stream == 0,
            Kind::Priority => self.stream != 0,
            Kind::PushPromise => false,
            Kind::Unknown(_) => true,
        };
        let length_fits = match self.kind {
            Kind::Priority => self.length == 5,
            Kind::ResetStream | Kind::WindowUpdate => self.length == 4,
            Kind::Settings if self.has(flag::ACK) => self.length == 0,
            Kind::Settings => self.length.is_multiple_of(6),
            Kind::Ping => self.length == 8,
            Kind::Goaway => self.length >= 8,
            _ => true,
        };
        if !stream_fits {
            Err(Error::Http2Protocol)
        } else if !length_fits || self.length > max_length {
            Err(Error::Http2FrameSize)
        } else {
            Ok(())
        }
    }
}
