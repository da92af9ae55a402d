//! HPACK (RFC 7541): header blocks to field lines and back.
//!
//! Our own, because in here it must be free of panics, bounded in everything it keeps, quick inside
//! wasm, and write straight into the reused buffers of a message; no published crate is all of that.

mod decoder;
mod encoder;
pub mod huffman;
pub mod integer;
mod table;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use table::{DynamicTable, STATIC, static_name};

/// Size of a dynamic table before any SETTINGS_HEADER_TABLE_SIZE, bytes (RFC 9113 §6.5.2). Nothing else
/// is announced for the blocks that are decoded here, and no larger table is used for those encoded.
pub const TABLE_BYTES: usize = 4_096;
