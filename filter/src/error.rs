//! Everything that can be wrong with received bytes, and the one table to wire codes.

use std::fmt;

/// What was wrong with received bytes. Each has one line in [`Error::codes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Error {
    // WebSocket, RFC 6455
    /// A reserved bit of a frame header is set and no extension was negotiated (§5.2).
    ReservedBits,
    /// A reserved opcode: 3-7 or 11-15 (§5.2).
    ReservedOpcode,
    /// A text frame; `wsferry.v1` is binary only (§7.4.1, 1003).
    TextFrame,
    /// A client's frame without a mask (§5.1).
    UnmaskedFrame,
    /// A server's frame with a mask (§5.1).
    MaskedFrame,
    /// A control frame with FIN clear (§5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (§5.5).
    ControlTooLong,
    /// A payload length in more bytes than it needs, or with its top bit set (§5.2).
    PayloadLength,
    /// A continuation frame with nothing to continue, or a new message inside a fragmented one (§5.4).
    Fragmentation,
    /// A Close frame with a body of one byte, with a code that must not be sent (§7.4), or with a reason that isn't
    /// UTF-8 (§5.5.1).
    CloseFrame,
    /// A message of more than `max_message_bytes`.
    MessageTooBig,

    // CBOR, RFC 8949, and the messages in it
    /// Not well-formed, indefinite or nested too deep, or cut off by the end of the WebSocket message.
    CborMalformed,
    /// Well-formed, but not of the form of PROTOCOL.md: wrong type, length, range or UTF-8.
    MessageForm,
    /// A message type below 64 that this version doesn't know.
    MessageType,
    /// A reference to a slot or a learned name that is empty, or to an entry of another kind.
    BadReference,
    /// An entry too large for the field table, or a learned name over 64 bytes.
    EntryTooBig,
    /// A field name or value that HTTP doesn't allow (RFC 9110 §5.1, §5.5).
    InvalidField,
    /// More fields or more header bytes than the configured limit.
    HeaderListTooBig,

    // Streams
    /// A message for a stream that was never opened.
    UnknownStream,
    /// A request with the identifier of a stream that is still open, or of the latest request again.
    StreamInUse,
    /// A message that its stream's state doesn't allow: data after the end, a second response, …
    StreamState,
    /// Messages that make this side answer more than it can send, or that stand for more than it can hold; too many
    /// settings without answer, `goaway`s or requests.
    ExcessiveLoad,
    /// More data than the window allows (RFC 9113 §6.9.1).
    WindowOverrun,
    /// A credit of zero or one that takes a window over 2^31-1 (RFC 9113 §6.9.1).
    InvalidCredit,
    /// A parameter outside its range (RFC 9113 §6.5.2).
    InvalidSetting,

    // HTTP/2, RFC 9113, from the local Envoy's own codec
    /// No client preface (§3.4).
    Http2Preface,
    /// A frame of more than the announced size, or of a size its type can't have (§4.2).
    Http2FrameSize,
    /// A frame that its place, flags or stream don't allow.
    Http2Protocol,
    /// GOAWAY with an error (§6.8): the codec takes nothing more, and has nothing more to say.
    Http2Goaway,
    /// HPACK (RFC 7541) that can't be decoded.
    Hpack,
    /// A message without the pseudo-header fields it needs, or with ones it mustn't have (§8.3). Resets its stream alone.
    Http2Malformed,
    /// A header list over the configured limit, from the local codec. Resets its stream alone.
    Http2HeaderListTooBig,
}

/// What an [`Error`] means on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// HTTP/2 error code for the streams that it ends (RFC 9113 §7).
    pub http2: u32,
    /// WebSocket close code (RFC 6455 §7.4.1).
    pub close: u16,
    /// Name in logs, in the Close frame's reason and in the counter `protocol_errors_NAME`.
    pub label: &'static str,
}

/// HTTP/2 error codes (RFC 9113 §7).
pub mod http2_code {
    /// Graceful shutdown.
    pub const NO_ERROR: u32 = 0;
    /// Unspecific protocol error.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// Unexpected internal error.
    pub const INTERNAL_ERROR: u32 = 2;
    /// Flow-control limits exceeded.
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    /// Nothing of the request was processed; it may be sent again.
    pub const REFUSED_STREAM: u32 = 7;
    /// Compression state can't be kept.
    pub const COMPRESSION_ERROR: u32 = 9;
    /// The peer behaves in a way that makes excessive load.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// WebSocket close codes (RFC 6455 §7.4.1).
pub mod close_code {
    /// The purpose was fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The endpoint goes away.
    pub const GOING_AWAY: u16 = 1001;
    /// Protocol error.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A type of data that can't be accepted.
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// Data that isn't what its type says.
    pub const INVALID_PAYLOAD: u16 = 1007;
    /// Against the endpoint's policy: a limit of its configuration.
    pub const POLICY_VIOLATION: u16 = 1008;
    /// A message too big to process.
    pub const MESSAGE_TOO_BIG: u16 = 1009;
    /// An unexpected condition on this side.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// Never sent: a Close frame without a code (§7.1.5).
    pub const NO_STATUS: u16 = 1005;
    /// Never sent: the connection ended without a Close frame (§7.1.5).
    pub const ABNORMAL: u16 = 1006;
}

impl Error {
    /// Every error, for tables, counters and tests.
    pub const ALL: [Self; 32] = [
        Self::ReservedBits,
        Self::ReservedOpcode,
        Self::TextFrame,
        Self::UnmaskedFrame,
        Self::MaskedFrame,
        Self::FragmentedControl,
        Self::ControlTooLong,
        Self::PayloadLength,
        Self::Fragmentation,
        Self::CloseFrame,
        Self::MessageTooBig,
        Self::CborMalformed,
        Self::MessageForm,
        Self::MessageType,
        Self::BadReference,
        Self::EntryTooBig,
        Self::InvalidField,
        Self::HeaderListTooBig,
        Self::UnknownStream,
        Self::StreamInUse,
        Self::StreamState,
        Self::ExcessiveLoad,
        Self::WindowOverrun,
        Self::InvalidCredit,
        Self::InvalidSetting,
        Self::Http2Preface,
        Self::Http2FrameSize,
        Self::Http2Protocol,
        Self::Http2Goaway,
        Self::Hpack,
        Self::Http2Malformed,
        Self::Http2HeaderListTooBig,
    ];

    /// The error that a Close frame's reason names, if it is a label.
    pub fn of_label(reason: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|error| error.codes().label.as_bytes() == reason)
    }

    /// The table from errors to wire codes.
    pub const fn codes(self) -> Codes {
        use close_code::*;
        use http2_code as h2;
        const fn codes(http2: u32, close: u16, label: &'static str) -> Codes {
            Codes { http2, close, label }
        }
        match self {
            Self::ReservedBits => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "reserved_bits"),
            Self::ReservedOpcode => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "reserved_opcode"),
            Self::TextFrame => codes(h2::PROTOCOL_ERROR, UNSUPPORTED_DATA, "text_frame"),
            Self::UnmaskedFrame => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "unmasked_frame"),
            Self::MaskedFrame => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "masked_frame"),
            Self::FragmentedControl => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "fragmented_control"),
            Self::ControlTooLong => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "control_too_long"),
            Self::PayloadLength => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "payload_length"),
            Self::Fragmentation => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "fragmentation"),
            Self::CloseFrame => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "close_frame"),
            Self::MessageTooBig => codes(h2::ENHANCE_YOUR_CALM, MESSAGE_TOO_BIG, "message_too_big"),
            Self::CborMalformed => codes(h2::PROTOCOL_ERROR, INVALID_PAYLOAD, "cbor_malformed"),
            Self::MessageForm => codes(h2::PROTOCOL_ERROR, INVALID_PAYLOAD, "message_form"),
            Self::MessageType => codes(h2::PROTOCOL_ERROR, INVALID_PAYLOAD, "message_type"),
            Self::BadReference => codes(h2::COMPRESSION_ERROR, INVALID_PAYLOAD, "bad_reference"),
            Self::EntryTooBig => codes(h2::COMPRESSION_ERROR, INVALID_PAYLOAD, "entry_too_big"),
            Self::InvalidField => codes(h2::PROTOCOL_ERROR, INVALID_PAYLOAD, "invalid_field"),
            Self::HeaderListTooBig => codes(h2::ENHANCE_YOUR_CALM, POLICY_VIOLATION, "header_list_too_big"),
            Self::UnknownStream => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "unknown_stream"),
            Self::StreamInUse => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "stream_in_use"),
            Self::StreamState => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "stream_state"),
            Self::ExcessiveLoad => codes(h2::ENHANCE_YOUR_CALM, POLICY_VIOLATION, "excessive_load"),
            Self::WindowOverrun => codes(h2::FLOW_CONTROL_ERROR, PROTOCOL_ERROR, "window_overrun"),
            Self::InvalidCredit => codes(h2::FLOW_CONTROL_ERROR, PROTOCOL_ERROR, "invalid_credit"),
            Self::InvalidSetting => codes(h2::PROTOCOL_ERROR, PROTOCOL_ERROR, "invalid_setting"),
            Self::Http2Preface => codes(h2::PROTOCOL_ERROR, INTERNAL_ERROR, "http2_preface"),
            Self::Http2FrameSize => codes(h2::INTERNAL_ERROR, INTERNAL_ERROR, "http2_frame_size"),
            Self::Http2Protocol => codes(h2::PROTOCOL_ERROR, INTERNAL_ERROR, "http2_protocol"),
            Self::Http2Goaway => codes(h2::INTERNAL_ERROR, INTERNAL_ERROR, "http2_goaway"),
            Self::Hpack => codes(h2::COMPRESSION_ERROR, INTERNAL_ERROR, "hpack"),
            Self::Http2Malformed => codes(h2::PROTOCOL_ERROR, INTERNAL_ERROR, "http2_malformed"),
            Self::Http2HeaderListTooBig => {
                codes(h2::INTERNAL_ERROR, INTERNAL_ERROR, "http2_header_list_too_big")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.codes().label)
    }
}

impl std::error::Error for Error {}
