//! The filter as Envoy runs it (wasm32 only): the one part that talks to the host.
//!
//! ```text
//! exports            what Envoy calls
//! root               what a plugin is by its configuration; metrics, the clock
//! converter_context  one for each WebSocket: its handshake, and the way into the converter
//! host               what is called of Envoy
//! ```

mod converter_context;
mod exports;
mod host;
mod mask_keys;
mod metrics;
mod root;
