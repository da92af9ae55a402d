//! Messages as CBOR (RFC 8949), the way `wsferry.v1` writes them; `filter/PROTOCOL.md` describes it.
//!
//! ```text
//! CBOR ─► decoder (cuts the stream into messages, scanner) ─► header_block ─► message
//! CBOR ◄─ encoder (message forms) ◄─ insertion (what enters the tables) ◄──── message
//! ```
//!
//! Both use `field_table` (entries and learned names), `typed` (integers, dates, UUIDs), `packed` (base64url) and
//! `item` (CBOR itself).

mod decoder;
mod encoder;
mod field_table;
mod header_block;
mod insertion;
mod item;
mod packed;
mod scanner;
mod typed;

pub use decoder::Decoder;
pub use encoder::{Encoder, end_data};

/// First item of each message.
mod message_type {
    pub(super) const REQUEST: u64 = 0;
    pub(super) const RESPONSE: u64 = 1;
    pub(super) const DATA: u64 = 2;
    pub(super) const TRAILERS: u64 = 3;
    pub(super) const RESET: u64 = 4;
    pub(super) const CREDIT: u64 = 5;
    pub(super) const SETTINGS: u64 = 6;
    pub(super) const ACK: u64 = 7;
    pub(super) const GOAWAY: u64 = 8;
    pub(super) const RAW: u64 = 9;
    /// Types from here on are skipped by those who don't know them.
    pub(super) const SKIPPED: u64 = 64;
}

/// Methods that travel as their place in this list.
const METHODS: [&[u8]; 8] = [
    b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT",
];

/// Schemes that travel as their place in this list.
const SCHEMES: [&[u8]; 2] = [b"http", b"https"];

/// Names of the entries that aren't fields.
const AUTHORITY: &[u8] = b":authority";
const PATH: &[u8] = b":path";

/// Parameters of a single hop: never written, and passed over when read.
fn is_hop_setting(id: u16) -> bool {
    use crate::message::Settings;
    matches!(id, Settings::HEADER_TABLE_SIZE | Settings::MAX_FRAME_SIZE)
}
