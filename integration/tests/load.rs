//! Many requests, slow readers and hostile peers: nothing stops the others, and a converter's memory
//! stays bounded. The allocator of this binary counts what converters hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use integration::bad_input::message_to;
use integration::chunking::Chunking;
use integration::end::{Closed, End, NativeEnd};
use integration::pair::Joint;
use integration::play::play;
use integration::raw::{Codec, Frame, Line, data, settings, window_update};
use integration::scenario::{Scenario, pattern_bytes};
use integration::suite::{FAR, NEAR};
use integration::traffic::{Exchange, Message, Plan, Windows, check};

/// Counts bytes that are allocated and not freed while a converter runs.
struct Counting;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn note(bytes: isize) {
    if INSIDE.get() {
        HELD.set(HELD.get() + bytes);
        MOST.set(MOST.get().max(HELD.get()));
    }
}

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An end whose memory is counted, that of its buffers for input and output with it.
struct Counted(NativeEnd);

fn inside<T>(work: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let result = work();
    INSIDE.set(false);
    result
}

impl Counted {
    fn new(configuration: &str) -> Self {
        inside(|| Self(NativeEnd::new(configuration)))
    }
}

impl End for Counted {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        // What is handed over belongs to the other side.
        let mut output = inside(|| {
            let mut output = Vec::new();
            self.0.http2_input(input, &mut output);
            output
        });
        websocket.append(&mut output);
        inside(|| drop(output));
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        let mut output = inside(|| {
            let mut output = Vec::new();
            self.0.websocket_input(input, &mut output);
            output
        });
        http2.append(&mut output);
        inside(|| drop(output));
    }

    fn http2_end(&mut self, websocket: &mut Vec<u8>) {
        self.0.http2_end(websocket);
    }

    fn websocket_end(&mut self, http2: &mut Vec<u8>) {
        self.0.websocket_end(http2);
    }

    fn closed(&self) -> Option<Closed> {
        self.0.closed()
    }

    fn finished(&self) -> bool {
        self.0.finished()
    }
}

/// Bytes that converters held at most while `work` ran.
fn most(work: impl FnOnce()) -> isize {
    HELD.set(0);
    MOST.set(0);
    work();
    MOST.get()
}

fn as_is() -> Joint {
    Joint {
        chunking: Chunking::AsIs,
        record: false,
    }
}

fn scenario(json: &str) -> Scenario {
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_thousand_requests_are_in_flight_at_once() {
    let scenario = scenario(
        r#"{"name": "thousand", "at_once": 1000,
            "request": {"method": "POST", "path": "/echo", "fields": [["accept", "*/*"]], "body": [{"pattern": 500}]},
            "response": {"status": 200, "fields": [["content-type", "text/plain"]], "body": [{"pattern": 700}]}}"#,
    );
    let bytes = most(|| {
        play(&scenario, Counted::new(NEAR), Counted::new(FAR), &as_is());
    });
    println!("{bytes} bytes at most");
    // Two ends with 1,000 streams each, and what passes at once.
    assert!(bytes < 2 << 20, "{bytes} bytes");
}

#[test]
fn bodies_of_64_mib_leave_memory_flat() {
    let scenario = scenario(
        r#"{"name": "bulk", "request": {"method": "POST", "path": "/", "body": [{"pattern": 67108864}]},
            "response": {"status": 200, "body": [{"pattern": 67108864}], "early": true}}"#,
    );
    let bytes = most(|| {
        play(&scenario, Counted::new(NEAR), Counted::new(FAR), &as_is());
    });
    println!("{bytes} bytes at most");
    assert!(bytes < 1 << 20, "{bytes} bytes");
}

fn message(body: Option<Vec<(usize, u64)>>, read_pause: u64) -> Message {
    Message {
        fields: Vec::new(),
        body,
        trailers: None,
        read_pause,
    }
}

fn exchange(at: u64, response: Message) -> Exchange {
    Exchange {
        at,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        request: message(None, 0),
        interim: Vec::new(),
        status: 200,
        response,
        after_request: true,
        reset: None,
    }
}

#[test]
fn a_slow_reader_stops_only_its_own_stream() {
    let windows = Windows {
        stream: 65_535,
        connection: 1 << 20,
        frame: 16_384,
        table: 4_096,
    };
    // The first takes 4 MiB, with two seconds between two reads; the others come and go meanwhile.
    let mut exchanges = vec![exchange(0, message(Some(vec![(4 << 20, 0)]), 2_000))];
    exchanges.extend((0..200).map(|number| exchange(number, message(Some(vec![(50_000, 0)]), 0))));
    let plan = Plan {
        client: windows,
        server: windows,
        max_streams: None,
        exchanges,
        goaway_at: None,
        pings: Vec::new(),
    };
    let times = Rc::new(Cell::new(0));
    let bytes = most(|| {
        let pair = check(&plan, Counted::new(NEAR), Counted::new(FAR), &as_is());
        times.set(pair.inputs());
    });
    println!("{bytes} bytes at most, {} inputs", times.get());
    assert!(bytes < 1 << 20, "{bytes} bytes");
}

#[test]
fn a_hundred_thousand_requests_one_after_the_other_leave_memory_flat() {
    // Stream identifiers of the wire wrap on the way.
    let request = |number: u32| {
        let mut fields = vec![];
        for (name, value) in [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ] {
            fields.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        fields.push((b"x-number".to_vec(), number.to_string().into_bytes()));
        fields
    };
    let mut after_first = 0;
    let bytes = most(|| {
        let mut line = Line::connect(Counted::new(NEAR), Counted::new(FAR), &Chunking::AsIs);
        for number in 0..100_000u32 {
            let stream = 1 + 2 * number;
            line.client.headers(stream, &request(number), true);
            line.settle();
            let arrived = line.server.take_exchange();
            let [
                Frame::Headers {
                    stream: far, fields, ..
                },
            ] = arrived.as_slice()
            else {
                panic!("{arrived:?}");
            };
            assert_eq!(fields.last(), request(number).last());
            line.server
                .headers(*far, &vec![(b":status".to_vec(), b"204".to_vec())], true);
            line.settle();
            assert_eq!(line.client.take_exchange().len(), 1);
            line.traffic = integration::pair::Traffic::default();
            if number == 1_000 {
                after_first = MOST.get();
            }
        }
        assert_eq!(line.near.0.converter().open_streams(), 0);
        assert_eq!(line.far.0.converter().open_streams(), 0);
    });
    println!("{after_first}, then {bytes} bytes at most");
    assert!(
        bytes < after_first + 64 * 1024,
        "{after_first}, then {bytes} bytes"
    );
}

/// Bytes that a far end keeps of a WebSocket that is idle after what `work` did.
fn kept(work: impl FnOnce(&mut Line<NativeEnd, Counted>)) -> isize {
    HELD.set(0);
    let mut line = Line::connect(NativeEnd::new(NEAR), Counted::new(FAR), &Chunking::AsIs);
    work(&mut line);
    assert_eq!(line.far.0.converter().open_streams(), 0);
    inside(|| line.far.0.drop_buffers());
    HELD.get()
}

#[test]
fn an_idle_websocket_keeps_little_of_what_it_was() {
    let head = |extra: &[(&str, String)]| {
        let plain = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ];
        let plain = plain.map(|(name, value)| (name, value.to_owned()));
        let all = plain.iter().chain(extra);
        all.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect::<Vec<_>>()
    };
    let answer = |line: &mut Line<NativeEnd, Counted>| {
        line.settle();
        let arrived = line.server.take_exchange();
        for frame in &arrived {
            if let Frame::Headers { stream, .. } = frame {
                let status = vec![(b":status".to_vec(), b"204".to_vec())];
                line.server.headers(*stream, &status, true);
            }
        }
        line.settle();
        line.client.take_exchange();
        arrived.len()
    };
    let small = kept(|line| {
        line.client.headers(1, &head(&[]), true);
        assert_eq!(answer(line), 1);
    });
    let burst = kept(|line| {
        for number in 0..10_000 {
            line.client.headers(1 + 2 * number, &head(&[]), true);
        }
        assert_eq!(answer(line), 10_000);
    });
    // A megabyte for the codec, of references to a few large values.
    let large = kept(|line| {
        let extra: Vec<_> = ["x-a", "x-b", "x-c", "x-d"]
            .map(|name| (name, "v".repeat(7_000)))
            .into();
        for number in 0..40 {
            line.client.headers(1 + 2 * number, &head(&extra), true);
        }
        assert_eq!(answer(line), 40);
    });
    println!("{small} bytes after one request, {burst} after ten thousand at once, {large} after a megabyte");
    for bytes in [burst, large] {
        assert!(
            bytes < small + 256 * 1024,
            "{bytes} bytes, {small} after one request"
        );
    }
}

/// A request of that stream.
fn request(stream: u16) -> Vec<u8> {
    with_stream(0x88, 0, stream, &[0xf4, 0, 1, 0x61, b'a', 0x61, b'/', 0x80])
}

/// A reset of that stream.
fn reset(stream: u16) -> Vec<u8> {
    with_stream(0x83, 4, stream, &[8])
}

/// A message of this type whose second item is a stream.
fn with_stream(array: u8, kind: u8, stream: u16, rest: &[u8]) -> Vec<u8> {
    let [high, low] = stream.to_be_bytes();
    let mut message = vec![array, kind];
    match stream {
        0..24 => message.push(low),
        24..256 => message.extend([0x18, low]),
        _ => message.extend([0x19, high, low]),
    }
    message.extend(rest);
    message
}

/// What a hostile near end sends to a far end: messages over and over, whether they are answered or not.
fn flood(payloads: impl IntoIterator<Item = Vec<u8>>) -> (isize, Option<Closed>) {
    let mut closed = None;
    let bytes = most(|| {
        let mut end = Counted::new(FAR);
        let mut http2 = Vec::new();
        for payload in payloads {
            http2.clear();
            end.websocket_input(&message_to(false, &payload), &mut http2);
        }
        closed = end.closed();
    });
    (bytes, closed)
}

#[test]
fn floods_are_bounded() {
    let gone = [request(0), reset(0)].concat();
    for (name, first, payload) in [
        ("acknowledgements", &[][..], &b"\x81\x07"[..]),
        ("settings", &[], b"\x82\x06\xa0"),
        ("credits for the connection", &[], b"\x83\x05\x20\x01"),
        ("credits for a stream that is gone", &gone, b"\x83\x05\x00\x01"),
        ("resets of a stream that is gone", &gone, b"\x83\x04\x00\x08"),
        ("unknown types", &[], b"\x82\x18\x40\x00"),
        ("goaways", &[], b"\x83\x08\x00\x00"),
    ] {
        let payloads = std::iter::repeat_n(payload.repeat(1_000), 500);
        let (bytes, closed) = flood(std::iter::once(first.to_vec()).chain(payloads));
        println!("{name}: {bytes} bytes at most, {closed:?}");
        assert!(bytes < 4 << 20, "{name}: {bytes} bytes");
    }
    // Requests that are taken back at once; stream identifiers wrap on the way.
    let (bytes, closed) = flood((0..100_000u32).map(|number| {
        let stream = (number % 0x1_0000) as u16;
        [request(stream), reset(stream)].concat()
    }));
    println!("requests with resets: {bytes} bytes at most, {closed:?}");
    assert_eq!(closed, None, "requests with resets");
    assert!(bytes < 4 << 20, "requests with resets: {bytes} bytes");
    // More streams than are allowed.
    let bytes = most(|| {
        let mut end = Counted::new(FAR);
        let mut http2 = Vec::new();
        for stream in 0..60_000u16 {
            http2.clear();
            end.websocket_input(&message_to(false, &request(stream)), &mut http2);
            assert!(end.0.converter().open_streams() <= 16_384);
        }
        // Nothing moves the other way here, so the refusals pile up till it is too much.
        let closed = end.closed().expect("a close");
        assert_eq!(closed.label.as_deref(), Some("excessive_load"));
    });
    println!("60,000 requests: {bytes} bytes at most");
    assert!(bytes < 8 << 20, "{bytes} bytes");
    // Pings that nobody answers.
    let ping = integration::bad_input::frame(0x89, Some([0; 4]), &[7; 125]);
    let bytes = most(|| {
        let mut end = Counted::new(FAR);
        let mut http2 = Vec::new();
        for _ in 0..100_000 {
            end.websocket_input(&ping, &mut http2);
        }
    });
    assert!(bytes < 1 << 20, "pings: {bytes} bytes");
}

#[test]
fn a_header_bomb_is_refused_before_it_is_copied() {
    // An entry of nearly 8 KiB, then requests that name it 255 times each: 2 MiB for 300 bytes.
    let value = vec![b'v'; 8_000];
    let mut entering = vec![
        0x88, 0, 0, 0xf5, 0, 1, 0x61, b'a', 0x61, b'/', 0x82, 0x61, b'x', 0x79,
    ];
    entering.extend((value.len() as u16).to_be_bytes());
    entering.extend(value);
    let mut bomb = vec![0x88, 0, 1, 0xf5, 0, 1, 0x61, b'a', 0x61, b'/', 0x98, 0xff];
    bomb.extend([2; 255]);
    let mut closed = None;
    let bytes = most(|| {
        let mut end = Counted::new(FAR);
        let mut http2 = Vec::new();
        end.websocket_input(&message_to(false, &entering), &mut http2);
        assert_eq!(end.closed(), None);
        end.websocket_input(&message_to(false, &bomb), &mut http2);
        closed = end.closed();
    });
    assert_eq!(closed.map(|closed| closed.code), Some(1008));
    println!("{bytes} bytes at most");
    assert!(bytes < 1 << 20, "{bytes} bytes");
}

#[test]
fn a_codec_that_keeps_sending_to_a_full_window_is_its_own_concern() {
    // A local codec that breaks flow control is broken; memory stays bounded all the same.
    let bytes = most(|| {
        let mut client = Codec::new(false);
        client.output.extend_from_slice(integration::raw::PREFACE);
        client.output.extend(settings(&[]));
        let mut line = Line::new(
            client,
            Counted::new(NEAR),
            Counted::new(FAR),
            Codec::server(),
            &Chunking::AsIs,
        );
        line.settle();
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ];
        let head = head
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .to_vec();
        line.client.headers(1, &head, false);
        for _ in 0..64 {
            line.client.output.extend(data(1, &pattern_bytes(1 << 16), false));
            line.client.output.extend(window_update(0, 1));
            line.settle();
        }
    });
    assert!(bytes < 1 << 20, "{bytes} bytes");
}
