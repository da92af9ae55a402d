//! The filter as Envoy runs it (wasm32 only): the one part that talks to the host.
//!
//! ```text
//! exports     what Envoy calls, through the SDK
//! root        makes a plugin of its configuration
//!
//! connection_manager_plugin   one for each worker: its timer and its probes
//! connection_manager_context  one for each request: its way is decided, its end observed
//! connection_manager_shared   what they share: decisions, probes, what other workers know
//! connection_manager_state    what a worker knows and counts, and when it wants to be woken
//!
//! converter_plugin       one for each worker: makes connections or streams
//! converter_connection   the converter as a network filter: a connection, whose handshake it makes or answers
//! converter_context      the converter as an HTTP filter: an HTTP stream, whose handshake Envoy parses
//! websocket              one WebSocket: the way into the converter, what is counted, how it ends
//! converter_shared       what they share: configuration, metrics, the clock
//!
//! interface      what plugins, streams and connections are to Envoy
//! shared_target  what workers and converters tell each other of a tunnel's target
//! metrics, connection_manager_metrics, mask_keys
//! host           what is called of Envoy
//! ```

mod connection_manager_context;
mod connection_manager_metrics;
mod connection_manager_plugin;
mod connection_manager_shared;
mod connection_manager_state;
mod converter_connection;
mod converter_context;
mod converter_plugin;
mod converter_shared;
mod exports;
mod host;
mod interface;
mod mask_keys;
mod metrics;
mod root;
mod shared_target;
mod websocket;

/// The target's own allocator, dlmalloc, is larger and takes longer.
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();
