//! Hosts and drivers that run the converter as tests do: natively, and as the built `.wasm`.
//!
//! ```text
//! h2 client ─► near End ─► far End ─► h2 server          (and back)
//! ```
//!
//! An [`end::End`] is one end of a tunnel as bytes; [`pair`] joins two of them with real HTTP/2 on
//! both sides; [`wasm_host`] stands in for Envoy where the end is the built module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

pub mod bad_input;
pub mod chunking;
pub mod end;
pub mod exact;
pub mod pair;
pub mod play;
pub mod raw;
pub mod scenario;
pub mod suite;
pub mod traffic;
pub mod wasm_connection;
pub mod wasm_end;
pub mod wasm_host;
