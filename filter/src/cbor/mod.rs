//! Messages as CBOR (RFC 8949), the way `wsferry.v1` writes them; see `filter/PROTOCOL.md`.

mod decoder;
mod encoder;

pub use decoder::Decoder;
pub use encoder::Encoder;
