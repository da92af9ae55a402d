//! wsferry carries ordinary HTTP between two Envoys over a few long-lived WebSockets.
//!
//! The way of a byte, near to far:
//!
//! ```text
//! HTTP/2 bytes ─► http2::Reader ─► message ─► cbor::Encoder ─► websocket::Writer ─► WebSocket bytes
//! HTTP/2 bytes ◄─ http2::Writer ◄─ message ◄─ cbor::Decoder ◄─ websocket::Reader ◄─ WebSocket bytes
//! ```
//!
//! [`converter::Converter`] joins the two chains of one connection and keeps what both need: the
//! streams, their windows, and what must be said "the other way". Everything here is sans-I/O: bytes
//! in, bytes out, no clock, no randomness, no host calls. Only `plugin` (wasm32) talks to Envoy.
//!
//! The wire protocol is described in `filter/PROTOCOL.md`.

mod bytes;
pub mod cbor;
pub mod config;
pub mod config_reader;
pub mod connection_manager;
pub mod converter;
pub mod error;
mod field_rules;
pub mod http2;
mod known_strings;
pub mod message;
#[cfg(target_arch = "wasm32")]
mod plugin;
mod repeat;
pub mod time;
pub mod websocket;

pub use error::Error;
