//! Bytes that a peer must not send, and what an end must do about them: close that WebSocket with this
//! code and reason, reset its streams, touch nothing else.

use serde::Deserialize;
use wsferry::websocket;

use crate::end::End;
use crate::raw::{Codec, Frame, data};

/// What an end is given.
#[derive(Debug, Clone)]
pub enum Step {
    /// Bytes from the WebSocket.
    WebSocket(Vec<u8>),
    /// Bytes from the local codec.
    Http2(Vec<u8>),
    /// The codec opens a stream with this request head; for a near end.
    Request {
        /// Identifier.
        stream: u32,
        /// END_STREAM.
        end: bool,
    },
    /// The codec answers with 200; for a far end.
    Response {
        /// Identifier.
        stream: u32,
        /// END_STREAM.
        end: bool,
    },
}

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    /// For messages.
    pub name: String,
    /// Who gets it.
    pub near: bool,
    /// In order; the last is the bad one.
    pub steps: Vec<Step>,
    /// Close code.
    pub close: u16,
    /// Name of the error.
    pub label: String,
}

/// A WebSocket frame (RFC 6455 §5.2) with every part at will.
pub fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    bytes.extend(mask.into_iter().flatten());
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(index, byte)| byte ^ key[index % 4]),
    );
    bytes
}

/// The mask of hand-made client frames.
pub const KEY: [u8; 4] = [0x12, 0x9a, 0xfe, 0x01];

/// A binary message as an end of the other role sends it.
pub fn message_to(near: bool, payload: &[u8]) -> Vec<u8> {
    frame(0x82, (!near).then_some(KEY), payload)
}

/// Payloads of the messages in WebSocket bytes that are right, each in one piece.
///
/// # Panics
/// They aren't right, for the filter's own reader.
pub fn payloads(bytes: &[u8], sender: websocket::Sender) -> Vec<Vec<u8>> {
    let mut reader = websocket::Reader::new(sender, 1 << 20);
    let (mut bytes, mut position) = (bytes.to_vec(), 0);
    let (mut all, mut one) = (Vec::new(), Vec::new());
    while let Some(event) = reader.next(&mut bytes, &mut position).expect("valid frames") {
        match event {
            websocket::Event::Payload(range) => one.extend_from_slice(&bytes[range]),
            websocket::Event::MessageEnd => all.push(std::mem::take(&mut one)),
            _ => {}
        }
    }
    all
}

/// Hexadecimal with spaces, in which `XX*N` is a byte N times, as in the vectors.
pub fn hex(text: &str) -> Vec<u8> {
    let byte = |text: &str| u8::from_str_radix(text, 16).expect("hexadecimal");
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match word.split_once('*') {
            Some((one, times)) => {
                bytes.extend(std::iter::repeat_n(byte(one), times.parse().expect("a number")));
            }
            None => bytes.extend((0..word.len() / 2).map(|index| byte(&word[2 * index..2 * index + 2]))),
        }
    }
    bytes
}

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    steps: Vec<VectorStep>,
}

#[derive(Deserialize)]
struct VectorStep {
    direction: String,
    hex: String,
    error: Option<VectorError>,
}

#[derive(Deserialize)]
struct VectorError {
    close: u16,
    label: String,
}

/// The cases of `filter/vectors/invalid.json`.
pub fn vectors() -> Vec<Case> {
    let vectors: Vectors =
        serde_json::from_str(include_str!("../../filter/vectors/invalid.json")).expect("vectors");
    vectors
        .cases
        .into_iter()
        .map(|vector| {
            let last = vector.steps.last().expect("a step");
            let error = last.error.as_ref().expect("an error at last");
            let near = last.direction == "far_to_near";
            let steps = vector
                .steps
                .iter()
                .filter(|step| step.direction == last.direction)
                .map(|step| Step::WebSocket(message_to(near, &hex(&step.hex))))
                .collect();
            Case {
                name: format!("vector {}", vector.name),
                near,
                steps,
                close: error.close,
                label: error.label.clone(),
            }
        })
        .collect()
}

fn case(name: &str, near: bool, steps: Vec<Step>, close: u16, label: &str) -> Case {
    Case {
        name: name.to_owned(),
        near,
        steps,
        close,
        label: label.to_owned(),
    }
}

/// Frames that RFC 6455 forbids.
pub fn websocket_frames() -> Vec<Case> {
    let far = |name: &str, bytes: Vec<u8>, close, label: &str| {
        case(name, false, vec![Step::WebSocket(bytes)], close, label)
    };
    let near = |name: &str, bytes: Vec<u8>, close, label: &str| {
        case(name, true, vec![Step::WebSocket(bytes)], close, label)
    };
    let ack = hex("8107");
    let huge = [&[0x82, 0xff][..], &[0, 0, 0, 0, 1, 0, 0, 0], &KEY].concat();
    let top_bit = [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1][..], &KEY].concat();
    let long_form = [&[0x82, 0xfe, 0, 2][..], &KEY, &[0; 2]].concat();
    let longer_form = [&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 200][..], &KEY, &[0; 200]].concat();
    // Each fragment is within the limit, both together aren't.
    let fragments = [
        frame(
            0x02,
            Some(KEY),
            &[&hex("82184059 ffff")[..], &[0; 0xffff]].concat(),
        ),
        [&[0x80, 0xff][..], &0x10_0000u64.to_be_bytes(), &KEY].concat(),
    ]
    .concat();
    let mut cases = vec![
        far("text", frame(0x81, Some(KEY), b"hello"), 1003, "text_frame"),
        far(
            "a text fragment",
            frame(0x01, Some(KEY), b"hello"),
            1003,
            "text_frame",
        ),
        far("no mask", frame(0x82, None, &ack), 1002, "unmasked_frame"),
        far(
            "a Ping without mask",
            frame(0x89, None, b""),
            1002,
            "unmasked_frame",
        ),
        near("a mask", frame(0x82, Some(KEY), &ack), 1002, "masked_frame"),
        far(
            "a fragmented Ping",
            frame(0x09, Some(KEY), b"x"),
            1002,
            "fragmented_control",
        ),
        far(
            "a Ping of 126 bytes",
            frame(0x89, Some(KEY), &[0; 126]),
            1002,
            "control_too_long",
        ),
        far("a top bit", top_bit, 1002, "payload_length"),
        far("2 bytes in the 16 bit form", long_form, 1002, "payload_length"),
        far(
            "200 bytes in the 64 bit form",
            longer_form,
            1002,
            "payload_length",
        ),
        far(
            "a continuation of nothing",
            frame(0x80, Some(KEY), &ack),
            1002,
            "fragmentation",
        ),
        far(
            "a message inside a message",
            [frame(0x02, Some(KEY), &ack), frame(0x82, Some(KEY), &ack)].concat(),
            1002,
            "fragmentation",
        ),
        far("a message of 16 MiB", huge, 1009, "message_too_big"),
        far("fragments of more than 1 MiB", fragments, 1009, "message_too_big"),
        far(
            "a Close of one byte",
            frame(0x88, Some(KEY), &[3]),
            1002,
            "close_frame",
        ),
        far(
            "a Close that isn't UTF-8",
            frame(0x88, Some(KEY), &[3, 232, 0xff]),
            1002,
            "close_frame",
        ),
    ];
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let bytes = frame(0x88, Some(KEY), &code.to_be_bytes());
        cases.push(far(&format!("Close {code}"), bytes, 1002, "close_frame"));
    }
    for bit in [0x40, 0x20, 0x10] {
        let bytes = frame(0x82 | bit, Some(KEY), &ack);
        cases.push(far(
            &format!("reserved bit {bit:#x}"),
            bytes,
            1002,
            "reserved_bits",
        ));
        let bytes = frame(0x82 | bit, None, &ack);
        cases.push(near(
            &format!("reserved bit {bit:#x}, near"),
            bytes,
            1002,
            "reserved_bits",
        ));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let bytes = frame(0x80 | opcode, Some(KEY), &ack);
        cases.push(far(&format!("opcode {opcode}"), bytes, 1002, "reserved_opcode"));
    }
    cases
}

/// A request on stream 0, and one with its body open.
const GET: &str = "880000f50001 61 65 612f 80";
const POST: &str = "880000f40101 61 65 612f 80";

/// Messages that streams and windows forbid.
pub fn streams() -> Vec<Case> {
    let far = |name: &str, messages: &[&str], close, label: &str| {
        let steps = messages
            .iter()
            .map(|message| Step::WebSocket(message_to(false, &hex(message))))
            .collect();
        case(name, false, steps, close, label)
    };
    let near = |name: &str, before: Vec<Step>, messages: &[&str], close, label: &str| {
        let mut steps = before;
        steps.extend(
            messages
                .iter()
                .map(|message| Step::WebSocket(message_to(true, &hex(message)))),
        );
        case(name, true, steps, close, label)
    };
    let open = || {
        vec![Step::Request {
            stream: 1,
            end: false,
        }]
    };
    // 16,384 bytes of data four times and 1 more: one over the initial window of 65,535.
    let piece = format!("840200f4594000 {}", "00*16384");
    let over = [POST, piece.as_str(), &piece, &piece, &piece];
    let other_way = format!("840200f4594000 {}", "00*16384");
    vec![
        far("data on stream 0", &["840200f44101"], 1002, "unknown_stream"),
        far("trailers on stream 0", &["83030080"], 1002, "unknown_stream"),
        far("reset of stream 0", &["83040008"], 1002, "unknown_stream"),
        far("credit for stream 0", &["83050001"], 1002, "unknown_stream"),
        far(
            "data on a stream to come",
            &[GET, "840201f44101"],
            1002,
            "unknown_stream",
        ),
        far("stream 0 twice", &[POST, POST], 1002, "stream_in_use"),
        far(
            "data after the request's end",
            &[GET, "840200f44101"],
            1002,
            "stream_state",
        ),
        far(
            "an end twice",
            &[POST, "840200f540", "840200f540"],
            1002,
            "stream_state",
        ),
        far(
            "trailers twice",
            &[POST, "83030080", "83030080"],
            1002,
            "stream_state",
        ),
        far("trailers after the end", &[GET, "83030080"], 1002, "stream_state"),
        far(
            "a response from a near end",
            &[POST, "850100f418c880"],
            1002,
            "stream_state",
        ),
        far("one byte over the window", &over, 1002, "window_overrun"),
        far("a credit of 0", &[POST, "83050000"], 1002, "invalid_credit"),
        far(
            "a credit of 2^31 for the connection",
            &["8305201a80000000"],
            1002,
            "invalid_credit",
        ),
        far(
            "credits over 2^31-1",
            &["8305201a7fffffff"],
            1002,
            "invalid_credit",
        ),
        far(
            "an initial window of 2^31",
            &["8206a1041a80000000"],
            1002,
            "invalid_setting",
        ),
        near("a request from a far end", vec![], &[GET], 1002, "stream_state"),
        near(
            "a response to nothing",
            vec![],
            &["850100f518c880"],
            1002,
            "unknown_stream",
        ),
        near(
            "data before the response",
            open(),
            &["840200f44101"],
            1002,
            "stream_state",
        ),
        near(
            "trailers before the response",
            open(),
            &["83030080"],
            1002,
            "stream_state",
        ),
        near(
            "two responses",
            open(),
            &["850100f418c880", "850100f418c880"],
            1002,
            "stream_state",
        ),
        near(
            "an interim response that ends",
            open(),
            &["850100f5186480"],
            1002,
            "stream_state",
        ),
        near(
            "data after the response's end",
            open(),
            &["850100f518c880", "840200f44101"],
            1002,
            "stream_state",
        ),
        near(
            "an interim response after the final one",
            open(),
            &["850100f418c880", "850100f4186480"],
            1002,
            "stream_state",
        ),
        near(
            "one byte over the client's window",
            open(),
            &["850100f418c880", &other_way, &other_way, &other_way, &other_way],
            1002,
            "window_overrun",
        ),
    ]
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut cases = websocket_frames();
    cases.extend(streams());
    cases.extend(vectors());
    cases
}

/// The Close frame in WebSocket output, if there is one: code and reason. Frames are taken apart here
/// and not by the code under test.
///
/// # Panics
/// The output isn't whole frames, or something follows the Close.
pub fn close_frame(mut bytes: &[u8], masked: bool) -> Option<(u16, String)> {
    while !bytes.is_empty() {
        let opcode = bytes[0] & 0x0f;
        assert_eq!(bytes[0] & 0x70, 0, "reserved bits");
        assert_eq!(bytes[1] & 0x80 != 0, masked, "masking");
        let (length, mut at) = match bytes[1] & 0x7f {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (
                u64::from_be_bytes(bytes[2..10].try_into().expect("8 bytes")) as usize,
                10,
            ),
            length => (usize::from(length), 2),
        };
        let mut key = [0; 4];
        if masked {
            key.copy_from_slice(&bytes[at..at + 4]);
            at += 4;
        }
        let payload: Vec<u8> = bytes[at..at + length]
            .iter()
            .enumerate()
            .map(|(index, byte)| byte ^ key[index % 4])
            .collect();
        bytes = &bytes[at + length..];
        if opcode == 8 {
            assert!(bytes.is_empty(), "bytes after the Close frame");
            let code = payload
                .get(..2)
                .map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
            let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec());
            return Some((code, reason.expect("a reason in UTF-8")));
        }
    }
    None
}

/// Runs a case on an end before its first byte; gives what the codec was told.
///
/// # Panics
/// The end didn't close as it must.
pub fn run(case: &Case, end: &mut impl End) -> Vec<Frame> {
    // The windows that the cases count on are HTTP/2's initial ones.
    let mut codec = Codec::new(!case.near);
    if case.near {
        codec.output.extend_from_slice(crate::raw::PREFACE);
    }
    codec.output.extend(crate::raw::settings(&[]));
    let mut websocket = Vec::new();
    let mut http2 = Vec::new();
    let mut opened = Vec::new();
    for step in &case.steps {
        match step {
            Step::WebSocket(bytes) => {
                http2.clear();
                end.websocket_input(bytes, &mut http2);
                codec.input(&http2);
            }
            Step::Http2(bytes) => codec.output.extend_from_slice(bytes),
            Step::Request { stream, end } => {
                opened.push(*stream);
                codec.headers(*stream, &request(), *end);
            }
            Step::Response { stream, end } => {
                codec.headers(*stream, &vec![(b":status".to_vec(), b"200".to_vec())], *end);
            }
        }
        // Only what the codec has to say moves the other direction: a Close has to bring that about.
        let output = std::mem::take(&mut codec.output);
        if !output.is_empty() {
            end.http2_input(&output, &mut websocket);
        }
    }
    let name = &case.name;
    assert_eq!(
        close_frame(&websocket, case.near),
        Some((case.close, case.label.clone())),
        "{name}: the Close frame"
    );
    // Whatever comes afterwards is ignored, and the codec's streams are reset.
    http2.clear();
    end.websocket_input(&message_to(case.near, &hex(GET)), &mut http2);
    codec.input(&http2);
    websocket.clear();
    end.http2_input(&data(1, b"late", true), &mut websocket);
    assert_eq!(websocket, b"", "{name}: bytes after the Close");
    let told: Vec<Frame> = codec.received.drain(..).collect();
    for frame in &told {
        if let Frame::Headers {
            stream, end: false, ..
        } = frame
            && !case.near
        {
            opened.push(*stream);
        }
    }
    for stream in opened {
        let ended = told.iter().any(|frame| match frame {
            Frame::Reset { stream: reset, .. } => *reset == stream,
            // A stream that ended both ways before needs no reset.
            Frame::Headers {
                stream: ended, end, ..
            }
            | Frame::Data {
                stream: ended, end, ..
            } => case.near && *end && *ended == stream,
            _ => false,
        });
        assert!(ended, "{name}: stream {stream} is left open: {told:?}");
    }
    told
}

fn request() -> crate::raw::Fields {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "e"),
        (":path", "/"),
    ]
    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
    .to_vec()
}
