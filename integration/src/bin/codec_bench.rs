//! The converter alone, natively and as the built `.wasm` in wasmtime: nanoseconds a header list, and
//! gigabytes of bodies a second, for each of the four steps of a request and its response; and natively
//! the memory that idle streams take.
//!
//! Prints one JSON object: `{step: {"native": {...}, "wasm": {...}}}`. `--quick` measures shorter.
//! wasmtime isn't Envoy's V8: take the ratio to native, not the number.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use integration::end::{End, NativeEnd};
use integration::raw::{PREFACE, frame, settings, window_update};
use integration::suite::{FAR, NEAR};
use integration::wasm_end::WasmEnd;
use integration::wasm_host::Vm;
use loona_hpack::Encoder;
use serde_json::{Value, json};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Largest HTTP/2 window, bytes: nothing here waits for credit.
const WINDOW: u32 = 0x7fff_ffff;
const FRAME_BYTES: usize = 16 * 1024;
/// DATA frames in one input, as many as fit what Envoy hands over at once.
const FRAMES: usize = 8;
/// Exchanges on one connection before the next one.
const EXCHANGES: u32 = 2_000;
/// Inputs of bodies on one connection: below [`WINDOW`] in all.
const BODIES: usize = 4_000;

/// The four steps, in the order in which a request and its response take them.
const STEPS: [&str; 4] = [
    "codec_near_to_websocket",
    "codec_far_to_http2",
    "codec_far_to_websocket",
    "codec_near_to_http2",
];

/// Streams of [`idle_streams`].
const IDLE: u32 = 10_000;

/// Bytes that are allocated at the moment.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Counts what is held; everything else is the system's.
struct Counting;

// SAFETY: passes every call on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one step took.
#[derive(Default, Clone, Copy)]
struct Cost {
    time: Duration,
    header_lists: u32,
    bytes: u64,
}

/// Both ends of a connection, with what each step has cost.
struct Pair {
    near: Box<dyn End>,
    far: Box<dyn End>,
    costs: [Cost; 4],
}

impl Pair {
    /// After both codecs' settings, with the largest windows.
    fn connect(near: Box<dyn End>, far: Box<dyn End>) -> Self {
        let mut pair = Self {
            near,
            far,
            costs: [Cost::default(); 4],
        };
        let settings = settings(&[(4, WINDOW)]);
        let window = window_update(0, WINDOW - 65_535);
        let ack = frame(SETTINGS, ACK, 0, &[]);
        pair.request(&[PREFACE, &settings, &window].concat());
        pair.response(&[&settings[..], &ack, &window].concat());
        pair.request(&ack);
        pair.check();
        pair.costs = [Cost::default(); 4];
        pair
    }

    /// Carries bytes of the client's codec and returns what the server's codec gets.
    fn request(&mut self, input: &[u8]) -> Vec<u8> {
        let (mut websocket, mut http2) = (Vec::new(), Vec::new());
        let [first, second, ..] = &mut self.costs;
        first.time += timed(|| self.near.http2_input(input, &mut websocket));
        second.time += timed(|| self.far.websocket_input(&websocket, &mut http2));
        http2
    }

    /// Carries bytes of the server's codec and returns what the client's codec gets.
    fn response(&mut self, input: &[u8]) -> Vec<u8> {
        let (mut websocket, mut http2) = (Vec::new(), Vec::new());
        let [.., third, fourth] = &mut self.costs;
        third.time += timed(|| self.far.http2_input(input, &mut websocket));
        fourth.time += timed(|| self.near.websocket_input(&websocket, &mut http2));
        http2
    }

    /// The built module doesn't say that it has closed: what comes out of it has to be looked at, too.
    fn check(&self) {
        assert_eq!(self.near.closed(), None, "the near end has closed");
        assert_eq!(self.far.closed(), None, "the far end has closed");
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// A browser's request: all the same but the path's end and the request id.
fn request_block(encoder: &mut Encoder<'_>, number: u32) -> Vec<u8> {
    let path = format!("/api/notifications?since={number}");
    let id = format!("{number:08x}-7c1e-4c5a-9d1b-0a2b3c4d5e6f");
    let fields: [(&str, &str); 13] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app.example"),
        (":path", &path),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
        ),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
        (
            "authorization",
            "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        ),
        (
            "cookie",
            "session=dGhlIHNhbXBsZSBub25jZQ; theme=dark; locale=en-GB",
        ),
        ("referer", "https://app.example/dashboard"),
        ("sec-fetch-mode", "cors"),
        ("x-request-id", &id),
    ];
    encoder.encode(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

fn response_block(encoder: &mut Encoder<'_>, number: u32) -> Vec<u8> {
    let length = format!("{}", 200 + number % 50);
    let fields: [(&str, &str); 7] = [
        (":status", "200"),
        ("server", "nginx"),
        ("date", "Sun, 22 Nov 2026 18:00:00 GMT"),
        ("content-type", "application/json"),
        ("content-length", &length),
        ("cache-control", "private, no-cache"),
        ("vary", "accept-encoding"),
    ];
    encoder.encode(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// Requests without body and responses without body, one after the other.
fn header_lists(pair: &mut Pair) {
    let (mut client, mut server) = (Encoder::new(), Encoder::new());
    for number in 0..EXCHANGES {
        let block = request_block(&mut client, number);
        let stream = number * 2 + 1;
        let request = pair.request(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block));
        assert!(!request.is_empty(), "request {number} doesn't arrive");
        // The stream's number on the far side is the converter's choice; the frame is the last there is.
        let there = u32::from_be_bytes(request[5..9].try_into().unwrap());
        let block = response_block(&mut server, number);
        let response = pair.response(&frame(HEADERS, END_STREAM | END_HEADERS, there, &block));
        assert!(!response.is_empty(), "response {number} doesn't arrive");
    }
    pair.check();
    for cost in &mut pair.costs {
        cost.header_lists = EXCHANGES;
    }
}

/// An upload and a download on one stream at the same time.
fn bodies(pair: &mut Pair) {
    let block = request_block(&mut Encoder::new(), 0);
    let request = pair.request(&frame(HEADERS, END_HEADERS, 1, &block));
    let there = u32::from_be_bytes(request[5..9].try_into().unwrap());
    let block = response_block(&mut Encoder::new(), 0);
    pair.response(&frame(HEADERS, END_HEADERS, there, &block));
    pair.costs = [Cost::default(); 4];
    let up = frame(DATA, 0, 1, &[b'x'; FRAME_BYTES]).repeat(FRAMES);
    let down = frame(DATA, 0, there, &[b'x'; FRAME_BYTES]).repeat(FRAMES);
    for number in 0..BODIES {
        for arrived in [pair.request(&up), pair.response(&down)] {
            assert!(
                arrived.len() >= FRAME_BYTES * FRAMES,
                "input {number} doesn't arrive"
            );
        }
    }
    pair.check();
    for cost in &mut pair.costs {
        cost.bytes = (FRAME_BYTES * FRAMES * BODIES) as u64;
    }
}

/// What requests that wait for their answer hold, bytes a stream, at each end.
fn idle_streams() -> Value {
    let mut pair = native();
    let mut encoder = Encoder::new();
    let mut held = [0_usize; 2];
    for number in 0..IDLE {
        let block = request_block(&mut encoder, number);
        let request = frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &block);
        let mut websocket = Vec::with_capacity(4096);
        let mut http2 = Vec::with_capacity(4096);
        let before = HELD.load(Ordering::Relaxed);
        pair.near.http2_input(&request, &mut websocket);
        let between = HELD.load(Ordering::Relaxed);
        pair.far.websocket_input(&websocket, &mut http2);
        let after = HELD.load(Ordering::Relaxed);
        held[0] = (held[0] + between).saturating_sub(before);
        held[1] = (held[1] + after).saturating_sub(between);
    }
    pair.check();
    let each = |bytes: usize| (bytes as f64 / f64::from(IDLE)).round();
    json!({"near_bytes_per_stream": each(held[0]), "far_bytes_per_stream": each(held[1])})
}

fn native() -> Pair {
    Pair::connect(Box::new(NativeEnd::new(NEAR)), Box::new(NativeEnd::new(FAR)))
}

fn wasm() -> Pair {
    let start = |configuration| {
        Rc::new(RefCell::new(
            Vm::start(configuration).unwrap_or_else(|error| panic!("{error:?}")),
        ))
    };
    let (near, far) = WasmEnd::connect(&start(NEAR), &start(FAR)).expect("a handshake");
    Pair::connect(Box::new(near), Box::new(far))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(connect: fn() -> Pair, rounds: usize) -> [Value; 4] {
    let mut lists: [Vec<f64>; 4] = Default::default();
    let mut bytes: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        let mut pair = connect();
        header_lists(&mut pair);
        for (all, cost) in lists.iter_mut().zip(pair.costs) {
            all.push(cost.time.as_nanos() as f64 / f64::from(cost.header_lists));
        }
        let mut pair = connect();
        bodies(&mut pair);
        for (all, cost) in bytes.iter_mut().zip(pair.costs) {
            all.push(cost.bytes as f64 / cost.time.as_nanos() as f64);
        }
    }
    std::array::from_fn(|step| {
        json!({
            "ns_per_header_list": median(lists[step].clone()),
            "gigabytes_per_second": median(bytes[step].clone()),
        })
    })
}

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--quick") {
        1
    } else {
        5
    };
    let mut steps: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
    for (kind, connect) in [("native", native as fn() -> Pair), ("wasm", wasm)] {
        for (step, value) in STEPS.into_iter().zip(measure(connect, rounds)) {
            steps.entry(step).or_default().insert(kind, value);
        }
    }
    steps
        .entry("codec_idle_streams")
        .or_default()
        .insert("native", idle_streams());
    println!("{}", json!(steps));
}
