//! `filter/vectors/*.json`, and the examples and tables of PROTOCOL.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod cbor;
mod hex;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use cbor::{Owned, OwnedField, decode_all, decode_pieces};
use serde::Deserialize;
use serde_json::Value as Json;
use wsferry::Error;
use wsferry::cbor::{Decoder, Encoder};
use wsferry::config::{Config, Credentials, FieldPolicy, Limits};
use wsferry::converter::{Converter, MaskKeys};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "title")]
    _title: String,
    #[serde(rename = "description")]
    _description: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(rename = "description")]
    _description: String,
    /// The error is one of streams, windows or settings, which the CBOR decoder doesn't know.
    #[serde(default)]
    connection: bool,
    /// Far makes the requests.
    #[serde(default)]
    reversed: bool,
    /// The policy of the sender; `cookies` where nothing is said.
    credentials: Option<String>,
    #[serde(default)]
    never_enter: Vec<String>,
    steps: Vec<Step>,
}

/// One WebSocket message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    direction: Direction,
    #[serde(default, rename = "description")]
    _description: String,
    /// wsferry's encoder writes exactly these bytes.
    #[serde(default)]
    canonical: bool,
    hex: String,
    diagnostic: Option<String>,
    meaning: Option<Vec<Json>>,
    error: Option<Refusal>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
enum Direction {
    NearToFar,
    FarToNear,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    close: u16,
    label: String,
}

impl Refusal {
    fn error(&self) -> Error {
        let error = Error::ALL
            .into_iter()
            .find(|error| error.codes().label == self.label)
            .expect("a label of the table");
        assert_eq!(error.codes().close, self.close, "{}", self.label);
        error
    }
}

fn cases() -> Vec<(String, Case)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        for case in file.cases {
            cases.push((format!("{stem}/{}", case.name), case));
        }
    }
    assert!(cases.len() > 80, "{} cases", cases.len());
    cases
}

/// Hexadecimal with spaces, in which `XX*N` is a byte N times.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match word.split_once('*') {
            Some((byte, times)) => {
                let byte = hex::hex(byte);
                assert_eq!(byte.len(), 1);
                bytes.extend(std::iter::repeat_n(byte[0], times.parse().unwrap()));
            }
            None => bytes.extend(hex::hex(word)),
        }
    }
    bytes
}

/// A text, or `{"hex": …}`.
fn bytes_of(value: &Json) -> Vec<u8> {
    match value {
        Json::String(text) => text.clone().into_bytes(),
        _ => hex(value["hex"].as_str().expect("text or hex")),
    }
}

/// A field, and whether its sender had marked it.
fn field(value: &Json) -> (OwnedField, bool) {
    let parts = value.as_array().unwrap();
    let mark = parts.get(2).map(|mark| mark.as_str().unwrap());
    assert!(parts.len() <= 3 && [None, Some("sensitive"), Some("literal")].contains(&mark));
    (
        (bytes_of(&parts[0]), bytes_of(&parts[1]), mark.is_some()),
        mark == Some("sensitive"),
    )
}

fn number<T: TryFrom<u64>>(value: &Json) -> T {
    T::try_from(value.as_u64().expect("a number"))
        .ok()
        .expect("in range")
}

/// The message that a JSON object describes: as it arrives, or as it is sent.
fn message(json: &Json, sent: bool) -> Owned {
    let (kind, of) = json.as_object().unwrap().iter().next().unwrap();
    let stream = || number(&of["stream"]);
    let end = || of["end"].as_bool().unwrap();
    let fields = || -> Vec<OwnedField> {
        let fields = of["fields"].as_array().unwrap().iter().map(field);
        fields
            .map(|((name, value, literal), marked)| (name, value, if sent { marked } else { literal }))
            .collect()
    };
    match kind.as_str() {
        "request" => Owned::Request {
            stream: stream(),
            end: end(),
            method: bytes_of(&of["method"]),
            scheme: bytes_of(&of["scheme"]),
            authority: bytes_of(&of["authority"]),
            path: bytes_of(&of["path"]),
            protocol: of.get("protocol").map(bytes_of),
            fields: fields(),
        },
        "response" => Owned::Response {
            stream: stream(),
            end: end(),
            status: number(&of["status"]),
            fields: fields(),
        },
        "data" => Owned::Data {
            stream: stream(),
            end: end(),
            payload: bytes_of(&of["payload"]),
        },
        "trailers" => Owned::Trailers {
            stream: stream(),
            fields: fields(),
        },
        "reset" => Owned::Reset {
            stream: stream(),
            code: number(&of["code"]),
        },
        "credit" => Owned::Credit {
            stream: (!of["stream"].is_null()).then(stream),
            bytes: number(&of["bytes"]),
        },
        "settings" => Owned::Settings(
            of.as_array()
                .unwrap()
                .iter()
                .map(|entry| (number(&entry[0]), number(&entry[1])))
                .collect(),
        ),
        "ack" => Owned::Ack,
        "goaway" => Owned::Goaway {
            last: (!of["last"].is_null()).then(|| number(&of["last"])),
            code: number(&of["code"]),
        },
        "raw" => Owned::Raw(bytes_of(of)),
        other => panic!("unknown message {other}"),
    }
}

#[test]
fn decoding_gives_the_meaning() {
    for (name, case) in cases() {
        let mut decoders = [Direction::NearToFar, Direction::FarToNear]
            .map(|direction| (direction, Decoder::new(&Limits::default())));
        for (number, step) in case.steps.iter().enumerate() {
            let (_, decoder) = decoders.iter_mut().find(|one| one.0 == step.direction).unwrap();
            let bytes = hex(&step.hex);
            // One case at once, the next in pieces.
            let result = if number.is_multiple_of(2) {
                decode_all(decoder, &bytes)
            } else {
                let pieces: Vec<&[u8]> = bytes.chunks(5).collect();
                decode_pieces(decoder, &pieces).map(Owned::joined)
            };
            match (&step.meaning, &step.error) {
                (Some(meaning), None) => {
                    let expected: Vec<Owned> = meaning.iter().map(|json| message(json, false)).collect();
                    let expected = if number.is_multiple_of(2) {
                        expected
                    } else {
                        Owned::joined(expected)
                    };
                    assert_eq!(result, Ok(expected), "{name}, step {number}");
                }
                (None, Some(refusal)) => {
                    assert_eq!(number + 1, case.steps.len(), "{name} goes on after an error");
                    let error = refusal.error();
                    if case.connection {
                        assert!(result.is_ok(), "{name}");
                    } else {
                        assert_eq!(result, Err(error), "{name}, step {number}");
                    }
                }
                _ => panic!("{name}, step {number}: either a meaning or an error"),
            }
        }
    }
}

#[test]
fn encoding_gives_the_bytes() {
    let mut wrong = String::new();
    let mut right = 0;
    for (name, case) in cases() {
        let credentials = match case.credentials.as_deref() {
            None => Credentials::Cookies,
            Some("none") => Credentials::None,
            Some("all") => Credentials::All,
            Some(other) => panic!("{name}: credentials {other}"),
        };
        let policy = FieldPolicy::new(credentials, case.never_enter.iter().map(String::as_str));
        let mut encoders = [Direction::NearToFar, Direction::FarToNear]
            .map(|direction| (direction, Encoder::new(&Arc::new(policy.clone()))));
        for (number, step) in case.steps.iter().enumerate() {
            if !step.canonical {
                continue;
            }
            let (_, encoder) = encoders.iter_mut().find(|one| one.0 == step.direction).unwrap();
            let mut bytes = Vec::new();
            for json in step.meaning.as_ref().expect("a canonical step has a meaning") {
                bytes.extend(message(json, true).encode(encoder));
            }
            if bytes == hex(&step.hex) {
                right += 1;
            } else {
                let digits = bytes.iter().fold(String::new(), |mut digits, byte| {
                    write!(digits, "{byte:02x}").unwrap();
                    digits
                });
                writeln!(wrong, "{name}/{number} {digits}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "the encoder writes otherwise:\n{wrong}");
    assert!(right > 30, "{right} canonical steps");
}

/// Masks with nothing: the vectors hold plain payloads.
struct NoMask;

impl MaskKeys for NoMask {
    fn next_key(&mut self) -> [u8; 4] {
        [0; 4]
    }
}

/// A client's frame with one whole message (RFC 6455 §5.2).
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0xff];
    frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    if let Ok(length) = u16::try_from(payload.len()) {
        frame = vec![0x82, 0xfe, (length >> 8) as u8, length as u8];
        if length < 126 {
            frame = vec![0x82, 0x80 | length as u8];
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn a_far_converter_takes_and_refuses_the_same() {
    let config = |json: &[u8]| Arc::new(Config::parse(json).unwrap());
    let plain = config(br#"{"role": "far"}"#);
    let reversed = config(br#"{"role": "far", "requests_from": "far"}"#);
    for (name, case) in cases() {
        let mut converter = Converter::new(if case.reversed { &reversed } else { &plain });
        for (number, step) in case.steps.iter().enumerate() {
            if step.direction != Direction::NearToFar {
                continue;
            }
            converter.websocket_input(&mut frame(&hex(&step.hex)), &mut NoMask);
            let closed = converter.closed();
            match &step.error {
                None => assert_eq!(closed, None, "{name}, step {number}"),
                Some(refusal) => {
                    let closed = closed.unwrap_or_else(|| panic!("{name} isn't refused"));
                    assert_eq!(closed.error, Some(refusal.error()), "{name}");
                    assert_eq!(closed.code, refusal.close, "{name}");
                }
            }
        }
    }
}

/// A CBOR sequence in diagnostic notation (RFC 8949 §8, RFC 8610 G.2).
fn diagnostic(mut bytes: &[u8]) -> String {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let value: ciborium::Value = ciborium::from_reader(&mut bytes).expect("well-formed");
        items.push(diagnostic_of(&value));
    }
    items.join(", ")
}

fn diagnostic_of(value: &ciborium::Value) -> String {
    use ciborium::Value;
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Integer(integer) => i128::from(*integer).to_string(),
        Value::Float(float) => format!("{float:?}"),
        Value::Bool(value) => value.to_string(),
        Value::Null => "null".to_owned(),
        Value::Text(text) => serde_json::to_string(text).unwrap(),
        Value::Bytes(bytes) => {
            let plain = |byte: &u8| (32..127).contains(byte) && ![b'\'', b'\\'].contains(byte);
            if !bytes.is_empty() && bytes.iter().all(plain) {
                format!("'{}'", String::from_utf8_lossy(bytes))
            } else {
                let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("h'{}'", digits.concat())
            }
        }
        Value::Array(items) => format!("[{}]", list(items.iter().map(diagnostic_of).collect())),
        Value::Map(entries) => format!(
            "{{{}}}",
            list(
                entries
                    .iter()
                    .map(|(key, value)| format!("{}: {}", diagnostic_of(key), diagnostic_of(value)))
                    .collect()
            )
        ),
        Value::Tag(tag, inner) => format!("{tag}({})", diagnostic_of(inner)),
        other => panic!("no notation for {other:?}"),
    }
}

#[test]
fn diagnostic_notation_is_right() {
    for (name, case) in cases() {
        for (number, step) in case.steps.iter().enumerate() {
            if let Some(expected) = &step.diagnostic {
                assert_eq!(&diagnostic(&hex(&step.hex)), expected, "{name}, step {number}");
            }
        }
    }
}

fn protocol() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("PROTOCOL.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn examples_of_the_document_are_vectors_and_mean_what_they_say() {
    let cases = cases();
    let text = protocol();
    let examples: Vec<&str> = text.split("```cbor ").skip(1).collect();
    assert!(examples.len() > 10);
    for example in examples {
        let body = example.split("```").next().unwrap();
        let (vector, lines) = body.split_once('\n').unwrap();
        let is_hex = |line: &&str| line.chars().all(|c| c == ' ' || c.is_ascii_hexdigit());
        let digits: String = lines.lines().take_while(is_hex).collect();
        let notation: Vec<&str> = lines.lines().skip_while(is_hex).map(str::trim).collect();
        let bytes = hex::hex(&digits);
        assert_eq!(diagnostic(&bytes), notation.join(" "), "{vector}");
        let (case, step) = vector.rsplit_once('/').unwrap();
        let (_, case) = cases.iter().find(|one| one.0 == case).expect(vector);
        let step = &case.steps[step.parse::<usize>().unwrap()];
        assert_eq!(bytes, hex(&step.hex), "{vector}");
    }
}

#[test]
fn the_document_lists_every_error() {
    let text = protocol();
    let section = text.split("## 11. Errors").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let listed: Vec<(String, u16, u32)> = rows
        .iter()
        .map(|row| {
            (
                row[1].trim_matches('`').to_owned(),
                row[2].parse().unwrap(),
                row[3].parse().unwrap(),
            )
        })
        .collect();
    let table: Vec<(String, u16, u32)> = Error::ALL
        .iter()
        .map(|error| error.codes())
        .map(|codes| (codes.label.to_owned(), codes.close, codes.http2))
        .collect();
    assert_eq!(listed, table);
}
