//! The fuzz targets on their committed seeds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Runs a target on each of its seeds, and on each seed with its end cut off.
fn seeds(name: &str, target: fn(&[u8])) {
    let directory = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("seeds") {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        target(&bytes);
        target(&bytes[..bytes.len() / 2]);
        count += 1;
    }
    assert!(count > 0, "{directory} is empty");
}

#[test]
fn http2_reader() {
    seeds("http2_reader", targets::http2_reader);
}

#[test]
fn hpack_decoder() {
    seeds("hpack_decoder", targets::hpack_decoder);
}

#[test]
fn cbor_decoder() {
    seeds("cbor_decoder", targets::cbor_decoder);
}

#[test]
fn websocket_reader() {
    seeds("websocket_reader", targets::websocket_reader);
}

#[test]
fn handshake() {
    seeds("handshake", targets::handshake);
}

#[test]
fn converter() {
    seeds("converter", targets::converter);
}

#[test]
fn connection_manager() {
    seeds("connection_manager", targets::connection_manager);
}
