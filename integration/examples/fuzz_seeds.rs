//! Makes seeds of real traffic, for the fuzz targets that take such: `cargo run -p integration --example fuzz_seeds`. Those of
//! `handshake` and `connection_manager` are written by hand.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::PathBuf;

use integration::bad_input::payloads;
use integration::pair::Traffic;
use integration::suite::native_traffic;
use wsferry::websocket::Sender;

/// Scenarios whose traffic is small and of many kinds.
const SCENARIOS: [&str; 14] = [
    "get",
    "post_empty_body",
    "delete_with_body",
    "early_hints",
    "request_trailers",
    "trailers_both_repeated",
    "repeated_fields",
    "obs_text_values",
    "values_that_look_typed",
    "paths_with_common_prefixes",
    "credentials",
    "extended_connect",
    "grpc_unary",
    "origin_resets_response",
];

/// Where a chunk of the converter's target is cut, bytes.
const CHUNK: usize = 200;

fn main() {
    for name in SCENARIOS {
        seeds_of(name, &native_traffic(name));
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../filter/fuzz/seeds")
        .join(target);
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join(name), bytes).expect("a file");
}

fn with(prefix: &[u8], bytes: &[u8]) -> Vec<u8> {
    [prefix, bytes].concat()
}

fn seeds_of(name: &str, traffic: &Traffic) {
    // Flag 2: the preface is there. Pieces of 7 bytes.
    write(
        "http2_reader",
        &format!("{name}_client"),
        &with(&[2, 7], &traffic.client_http2),
    );
    write(
        "http2_reader",
        &format!("{name}_server"),
        &with(&[1, 7], &traffic.server_http2),
    );
    write(
        "websocket_reader",
        &format!("{name}_near"),
        &with(&[0, 5], &traffic.near_websocket),
    );
    write(
        "websocket_reader",
        &format!("{name}_far"),
        &with(&[1, 5], &traffic.far_websocket),
    );
    for (end, http2) in [
        ("client", &traffic.client_http2),
        ("server", &traffic.server_http2),
    ] {
        let mut seed = Vec::new();
        for block in header_blocks(http2) {
            if let Ok(length) = u8::try_from(block.len()) {
                seed.push(length);
                seed.extend(block);
            }
        }
        write("hpack_decoder", &format!("{name}_{end}"), &seed);
    }
    for (end, websocket, sender) in [
        ("near", &traffic.near_websocket, Sender::Client),
        ("far", &traffic.far_websocket, Sender::Server),
    ] {
        let mut seed = vec![3];
        for message in payloads(websocket, sender) {
            seed.extend((message.len() as u16).to_be_bytes());
            seed.extend(message);
        }
        write("cbor_decoder", &format!("{name}_{end}"), &seed);
    }
    write(
        "converter",
        &format!("{name}_near"),
        &with(&[0], &steps(&traffic.client_http2, &traffic.far_websocket)),
    );
    write(
        "converter",
        &format!("{name}_far"),
        &with(&[1], &steps(&traffic.server_http2, &traffic.near_websocket)),
    );
}

/// Both inputs in turns.
fn steps(http2: &[u8], websocket: &[u8]) -> Vec<u8> {
    let mut steps = Vec::new();
    let (mut first, mut second) = (http2.chunks(CHUNK), websocket.chunks(CHUNK));
    loop {
        let pieces = [(0, first.next()), (1, second.next())];
        for (kind, piece) in &pieces {
            if let Some(piece) = piece {
                steps.push(*kind);
                steps.extend((piece.len() as u16).to_be_bytes());
                steps.extend(*piece);
            }
        }
        if pieces.iter().all(|piece| piece.1.is_none()) {
            steps.extend([2, 3]);
            return steps;
        }
    }
}

/// Payloads of HEADERS frames.
fn header_blocks(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    if let Some(rest) = bytes.strip_prefix(integration::raw::PREFACE) {
        bytes = rest;
    }
    let mut blocks = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes[3] == 1 {
            blocks.push(bytes[9..9 + length].to_vec());
        }
        bytes = &bytes[9 + length..];
    }
    blocks
}
