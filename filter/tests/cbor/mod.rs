//! What the CBOR tests share: calls for whole messages, and a second, naive decoder to compare with.

#![allow(dead_code)]

#[path = "../owned/mod.rs"]
mod owned;
pub mod traffic;

use std::collections::VecDeque;

use ciborium::Value;
use wsferry::Error;
use wsferry::cbor::{Decoder, Encoder};
use wsferry::message::WireId;

pub use owned::{Owned, OwnedField};

impl Owned {
    pub fn encode(&self, encoder: &mut Encoder) -> Vec<u8> {
        let mut out = Vec::new();
        self.lend::<WireId, _>(|message| encoder.encode(message, &mut out));
        out
    }
}

/// Asserts that `received` is what was sent, and that what was sensitive still is.
pub fn assert_same(sent: &Owned, received: &Owned) {
    assert_eq!(
        sent.clone().without_sensitive(),
        received.clone().without_sensitive()
    );
    for (sent, received) in sent.fields().iter().zip(received.fields()) {
        assert!(!sent.2 || received.2, "{sent:?} is no longer sensitive");
    }
}

/// Decodes `input` as one WebSocket message that arrives at once.
pub fn decode_all(decoder: &mut Decoder, input: &[u8]) -> Result<Vec<Owned>, Error> {
    decode_pieces(decoder, &[input])
}

/// Decodes one WebSocket message that arrives in pieces; pieces of data are joined again.
pub fn decode_pieces(decoder: &mut Decoder, pieces: &[&[u8]]) -> Result<Vec<Owned>, Error> {
    let mut messages = Vec::new();
    for mut input in pieces.iter().copied() {
        while let Some(message) = decoder.next(&mut input)? {
            messages.push(Owned::from(&message));
        }
        assert!(input.is_empty(), "input was left");
    }
    decoder.end_of_message()?;
    Ok(messages)
}

/// A decoder for what a conforming sender sends, written from PROTOCOL.md with `ciborium` and plain
/// collections: slow, unlimited, and with nothing in common with the product but the document.
#[derive(Default)]
pub struct Model {
    /// Oldest first, with slots.
    pub entries: VecDeque<(u8, Vec<u8>, Vec<u8>)>,
    pub inserted: usize,
    pub names: Vec<Vec<u8>>,
    pub learned: usize,
    /// References seen.
    pub references: usize,
    /// Entries that had to go.
    pub evicted: usize,
}

impl Model {
    /// Decodes a CBOR sequence.
    pub fn decode(&mut self, mut bytes: &[u8]) -> Vec<Owned> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let before = bytes;
            let value: Value = ciborium::from_reader(&mut bytes).expect("well-formed");
            let mut again = Vec::new();
            ciborium::into_writer(&value, &mut again).expect("writes");
            assert_eq!(
                again,
                before[..before.len() - bytes.len()],
                "shortest form, definite lengths: {value:?}"
            );
            messages.push(self.message(&value));
        }
        messages
    }

    fn message(&mut self, value: &Value) -> Owned {
        let items = value.as_array().expect("an array");
        let stream = || u32::from(uint16(&items[1]));
        match (uint(&items[0]), items.len()) {
            (0, 8 | 9) => Owned::Request {
                stream: stream(),
                end: boolean(&items[2]),
                method: match &items[3] {
                    Value::Text(text) => text.clone().into_bytes(),
                    code => [
                        "GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT",
                    ][usize::try_from(uint(code)).unwrap()]
                    .as_bytes()
                    .to_vec(),
                },
                scheme: match &items[4] {
                    Value::Text(text) => text.clone().into_bytes(),
                    code => ["http", "https"][usize::try_from(uint(code)).unwrap()]
                        .as_bytes()
                        .to_vec(),
                },
                authority: self.pseudo(b":authority", &items[5], false),
                path: self.pseudo(b":path", &items[6], true),
                fields: self.fields(&items[7]),
                protocol: items
                    .get(8)
                    .map(|protocol| protocol.as_text().unwrap().as_bytes().to_vec()),
            },
            (1, 5) => Owned::Response {
                stream: stream(),
                end: boolean(&items[2]),
                status: uint16(&items[3]),
                fields: self.fields(&items[4]),
            },
            (2, 4) => Owned::Data {
                stream: stream(),
                end: boolean(&items[2]),
                payload: items[3].as_bytes().unwrap().clone(),
            },
            (3, 3) => Owned::Trailers {
                stream: stream(),
                fields: self.fields(&items[2]),
            },
            (4, 3) => Owned::Reset {
                stream: stream(),
                code: uint32(&items[2]),
            },
            (5, 3) => Owned::Credit {
                stream: (items[1] != Value::from(-1)).then(stream),
                bytes: uint32(&items[2]),
            },
            (6, 2) => Owned::Settings(
                items[1]
                    .as_map()
                    .unwrap()
                    .iter()
                    .map(|(id, value)| (uint16(id), uint32(value)))
                    .collect(),
            ),
            (7, 1) => Owned::Ack,
            (8, 3) => Owned::Goaway {
                last: (!items[1].is_null()).then(stream),
                code: uint32(&items[2]),
            },
            (9, 2) => Owned::Raw(items[1].as_bytes().unwrap().clone()),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &Value, may_split: bool) -> Vec<u8> {
        match value {
            Value::Integer(_) => self.reference(value, |entry| entry == name).1,
            Value::Text(text) => {
                if !text.is_empty() {
                    self.enter(name, text.as_bytes());
                }
                text.clone().into_bytes()
            }
            Value::Bytes(bytes) => bytes.clone(),
            Value::Array(parts) if may_split && parts.len() == 2 && !parts[0].is_bytes() => {
                let mut path = self.pseudo(name, &parts[0], false);
                path.extend_from_slice(parts[1].as_bytes().unwrap());
                path
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn fields(&mut self, value: &Value) -> Vec<OwnedField> {
        let mut items = value.as_array().unwrap().iter();
        let mut fields = Vec::new();
        while let Some(item) = items.next() {
            let name = match item {
                Value::Integer(integer) if i128::from(*integer) >= 0 => {
                    let (name, value) = self.reference(item, |name| !name.starts_with(b":"));
                    fields.push((name, value, false));
                    continue;
                }
                Value::Integer(integer) => {
                    self.names[usize::try_from(-1 - i128::from(*integer)).unwrap()].clone()
                }
                Value::Text(name) => {
                    assert!(name.len() <= 64);
                    let slot = self.learned % 256;
                    if slot < self.names.len() {
                        self.names[slot] = name.clone().into_bytes();
                    } else {
                        self.names.push(name.clone().into_bytes());
                    }
                    self.learned += 1;
                    name.clone().into_bytes()
                }
                Value::Bytes(name) => name.clone(),
                other => panic!("unexpected {other:?}"),
            };
            let (value, enters, sensitive) = match items.next().expect("a value") {
                Value::Text(text) => (text.clone().into_bytes(), true, false),
                Value::Bytes(bytes) => (bytes.clone(), false, true),
                Value::Tag(21, pieces) => (packed(pieces), false, true),
                Value::Array(items) if items.len() == 1 => (typed(&items[0]), true, false),
                value => (typed(value), false, false),
            };
            if enters {
                self.enter(&name, &value);
            }
            fields.push((name, value, sensitive));
        }
        fields
    }

    fn reference(&mut self, slot: &Value, fits: impl Fn(&[u8]) -> bool) -> (Vec<u8>, Vec<u8>) {
        self.references += 1;
        let slot = u8::try_from(uint(slot)).unwrap();
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.0 == slot)
            .expect("an entry");
        assert!(fits(&entry.1), "an entry of the wrong kind");
        (entry.1.clone(), entry.2.clone())
    }

    fn enter(&mut self, name: &[u8], value: &[u8]) {
        let size = |name: &[u8], value: &[u8]| name.len() + value.len() + 32;
        assert!(size(name, value) <= 8 * 1024);
        let slot = u8::try_from(self.inserted % 256).unwrap();
        self.inserted += 1;
        if self.entries.len() == 256 {
            self.entries.pop_front();
            self.evicted += 1;
        }
        self.entries.push_back((slot, name.to_vec(), value.to_vec()));
        while self
            .entries
            .iter()
            .map(|entry| size(&entry.1, &entry.2))
            .sum::<usize>()
            > 64 * 1024
        {
            self.entries.pop_front();
            self.evicted += 1;
        }
    }
}

/// Pieces of base64url, with another implementation of it than the product's.
fn packed(pieces: &Value) -> Vec<u8> {
    let pieces = pieces.as_array().unwrap().iter().map(|piece| match piece {
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => data_encoding::BASE64URL_NOPAD.encode(bytes),
        other => panic!("unexpected {other:?}"),
    });
    pieces.collect::<String>().into_bytes()
}

fn typed(value: &Value) -> Vec<u8> {
    match value {
        Value::Integer(_) => uint(value).to_string().into_bytes(),
        Value::Tag(1, seconds) => http_date(uint(seconds)).into_bytes(),
        Value::Tag(37, bytes) => {
            let hex: Vec<String> = bytes
                .as_bytes()
                .unwrap()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(hex.len(), 16);
            [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]]
                .map(<[String]>::concat)
                .join("-")
                .into_bytes()
        }
        other => panic!("unexpected {other:?}"),
    }
}

/// IMF-fixdate by counting days, so slow that it can be seen to be right.
pub fn http_date(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from(days % 7).unwrap()];
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [
        ("Jan", 31),
        ("Feb", 28 + u64::from(leap(year))),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let mut month = "";
    for (name, length) in months {
        month = name;
        if days < length {
            break;
        }
        days -= length;
    }
    format!(
        "{weekday}, {:02} {month} {year:04} {:02}:{:02}:{:02} GMT",
        days + 1,
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

fn uint(value: &Value) -> u64 {
    u64::try_from(i128::from(value.as_integer().expect("an integer"))).expect("unsigned")
}

fn uint16(value: &Value) -> u16 {
    u16::try_from(uint(value)).unwrap()
}

fn uint32(value: &Value) -> u32 {
    u32::try_from(uint(value)).unwrap()
}

fn boolean(value: &Value) -> bool {
    value.as_bool().unwrap()
}
