//! The bodies of the fuzz targets. `filter/tests/fuzz_seeds.rs` runs them on the committed seeds.
//!
//! Beyond "it doesn't panic" each target checks what must hold for any bytes: it makes no difference
//! where they are cut, and what was read can be written and is read again the same. That of the
//! connection manager, which reads no bytes, makes events of them and checks what it promises whatever happens.

mod connection_manager;
mod converter;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

pub use connection_manager::connection_manager;
pub use converter::converter;
use wsferry::config::{FieldPolicy, Limits};
use wsferry::converter::MaskKeys;
use wsferry::error::Error;
use wsferry::message::{Fields, Message, WireId};
use wsferry::{cbor, http2, websocket};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An event in a form that doesn't depend on where bytes were cut.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// Consecutive pieces of one stream's data are one.
    Data {
        stream: u32,
        end: bool,
        bytes: Vec<u8>,
    },
    /// The hash of anything else, so that a bomb of references stays small here.
    Other(u64),
    Failed(Error),
}

fn other(event: &impl std::fmt::Debug) -> Event {
    let mut hasher = DefaultHasher::new();
    format!("{event:?}").hash(&mut hasher);
    Event::Other(hasher.finish())
}

fn push_data(events: &mut Vec<Event>, of: u32, piece: &[u8], ends: bool) {
    if let Some(Event::Data { stream, end, bytes }) = events.last_mut()
        && *stream == of
        && !*end
    {
        bytes.extend_from_slice(piece);
        *end = ends;
    } else if ends || !piece.is_empty() {
        events.push(Event::Data {
            stream: of,
            end: ends,
            bytes: piece.to_vec(),
        });
    }
}

/// `bytes` in pieces of `size`, or whole for 0.
fn cut(bytes: &[u8], size: u8) -> impl Iterator<Item = &[u8]> {
    let size = match size {
        0 => bytes.len().max(1),
        size => usize::from(size),
    };
    bytes.chunks(size)
}

struct ZeroKeys;

impl MaskKeys for ZeroKeys {
    fn next_key(&mut self) -> [u8; 4] {
        [0; 4]
    }
}

/// Bytes: sender and preface, size of the pieces, then what the codec sends.
pub fn http2_reader(data: &[u8]) {
    let [flags, size, rest @ ..] = data else { return };
    let sender = match flags & 1 {
        0 => http2::Sender::Client,
        _ => http2::Sender::Server,
    };
    let mut bytes = Vec::new();
    if sender == http2::Sender::Client && flags & 2 == 0 {
        bytes.extend_from_slice(PREFACE);
    }
    bytes.extend_from_slice(rest);
    let mut written = Vec::new();
    let whole = http2_events(sender, cut(&bytes, 0), Some(&mut written));
    let pieces = http2_events(sender, cut(&bytes, *size), None);
    assert_eq!(whole, pieces, "cut in pieces of {size}");
    // PINGs, padding and malformed blocks aren't messages, so the rest is compared by itself.
    let (messages, written) = written
        .into_iter()
        .fold((Vec::new(), Vec::new()), |mut all, one| {
            all.0.push(one.0);
            all.1.extend(one.1);
            all
        });
    let again = http2_events(sender, cut(&written, 0), None);
    let joined = |events: Vec<Event>| {
        let mut joined = Vec::new();
        for event in events {
            match event {
                Event::Data { stream, end, bytes } => push_data(&mut joined, stream, &bytes, end),
                event => joined.push(event),
            }
        }
        joined
    };
    assert_eq!(joined(messages), joined(again), "written and read again");
}

/// Reads events; `written` gets each message and the frames that a writer makes of it.
fn http2_events<'a>(
    sender: http2::Sender,
    pieces: impl Iterator<Item = &'a [u8]>,
    mut written: Option<&mut Vec<(Event, Vec<u8>)>>,
) -> Vec<Event> {
    let mut reader = http2::Reader::new(sender, &Limits::default());
    let mut writer = http2::Writer::new(sender);
    let mut events = Vec::new();
    for mut piece in pieces {
        loop {
            match reader.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(http2::Event::Message(message))) => {
                    if let Some(written) = &mut written {
                        let mut bytes = Vec::new();
                        writer.message(&message, &mut bytes);
                        let mut one = Vec::new();
                        push_message(&mut one, &message, |id| id.0);
                        written.extend(one.pop().map(|event| (event, bytes)));
                    }
                    push_message(&mut events, &message, |id| id.0);
                }
                Ok(Some(event)) => events.push(other(&event)),
                Err(error) => {
                    events.push(Event::Failed(error));
                    return events;
                }
            }
        }
    }
    events
}

/// The same with every field sensitive: an encoder may keep any field out of its table, and the decoder
/// then takes it for sensitive.
fn push_sensitive(events: &mut Vec<Event>, message: &Message<'_, WireId>) {
    let marked = |fields: &Fields| {
        let mut marked = Fields::new();
        for field in fields.iter() {
            marked.push(field.name, field.value, true);
        }
        marked
    };
    let mut message = *message;
    let all = match &message {
        Message::Request { head, .. } => marked(head.fields),
        Message::Response { fields, .. } | Message::Trailers { fields, .. } => marked(fields),
        _ => Fields::new(),
    };
    match &mut message {
        Message::Request { head, .. } => head.fields = &all,
        Message::Response { fields, .. } | Message::Trailers { fields, .. } => *fields = &all,
        _ => {}
    }
    push_message(events, &message, |id| u32::from(id.0));
}

fn push_message<Id: Copy + std::fmt::Debug>(
    events: &mut Vec<Event>,
    message: &Message<'_, Id>,
    number: impl Fn(Id) -> u32,
) {
    match message {
        Message::Data { stream, end, payload } => push_data(events, number(*stream), payload, *end),
        message => events.push(other(message)),
    }
}

/// Bytes: header blocks, each with its length before it.
pub fn hpack_decoder(mut data: &[u8]) {
    let mut decoder = http2::hpack::Decoder::new();
    let mut encoder = http2::hpack::Encoder::new();
    let mut second = http2::hpack::Decoder::new();
    while let [length, rest @ ..] = data {
        let (block, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let mut fields = Fields::new();
        let result = decoder.decode(block, |field| {
            fields.push(field.name, field.value, field.sensitive)
        });
        if result.is_err() {
            return;
        }
        let mut again = Vec::new();
        encoder.begin(&mut again);
        for field in fields.iter() {
            encoder.field(field, &mut again);
        }
        let mut decoded = Fields::new();
        second
            .decode(&again, |field| {
                decoded.push(field.name, field.value, field.sensitive)
            })
            .expect("what was encoded can be decoded");
        assert_eq!(fields, decoded, "encoded and decoded again");
    }
}

/// Bytes: size of the pieces, then WebSocket messages, each with its length in two bytes before it.
pub fn cbor_decoder(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    let mut written = Vec::new();
    let whole = cbor_events(rest, 0, Some(&mut written));
    let pieces = cbor_events(rest, *size, None);
    assert_eq!(whole, pieces, "cut in pieces of {size}");
    let mut decoder = cbor::Decoder::new(&Limits::default());
    for (before, bytes) in &written {
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while let Some(message) = decoder.next(&mut rest).expect("what was encoded can be decoded") {
            push_sensitive(&mut events, &message);
        }
        assert!(events.last() == before.as_ref(), "encoded and decoded again");
    }
}

fn cbor_events(
    mut data: &[u8],
    size: u8,
    mut written: Option<&mut Vec<(Option<Event>, Vec<u8>)>>,
) -> Vec<Event> {
    let mut decoder = cbor::Decoder::new(&Limits::default());
    let mut encoder = cbor::Encoder::new(&Arc::new(FieldPolicy::default()));
    let mut events = Vec::new();
    while let [high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (message, rest) = rest.split_at(length.min(rest.len()));
        data = rest;
        for mut piece in cut(message, size) {
            loop {
                match decoder.next(&mut piece) {
                    Ok(None) => break,
                    Ok(Some(message)) => {
                        if let Some(written) = &mut written {
                            let mut bytes = Vec::new();
                            encoder.encode(&message, &mut bytes);
                            let mut one = Vec::new();
                            push_sensitive(&mut one, &message);
                            written.push((one.pop(), bytes));
                        }
                        push_message(&mut events, &message, |id| u32::from(id.0));
                    }
                    Err(error) => {
                        events.push(Event::Failed(error));
                        return events;
                    }
                }
            }
        }
        if let Err(error) = decoder.end_of_message() {
            events.push(Event::Failed(error));
            return events;
        }
        events.push(other(&"end of message"));
    }
    events
}

/// Bytes: sender, size of the pieces, then what that sender sends.
pub fn websocket_reader(data: &[u8]) {
    let [flags, size, rest @ ..] = data else { return };
    let sender = match flags & 1 {
        0 => websocket::Sender::Client,
        _ => websocket::Sender::Server,
    };
    let whole = websocket_events(sender, rest, 0);
    let pieces = websocket_events(sender, rest, *size);
    assert_eq!(whole, pieces, "cut in pieces of {size}");
    // What came, in frames of our own.
    let mut writer = websocket::Writer::new(sender);
    let mut written = Vec::new();
    let mut messages = Vec::new();
    let mut payload = Vec::new();
    for event in whole {
        match event {
            Event::Data { bytes, .. } => payload = bytes,
            Event::Other(hash) if Event::Other(hash) == other(&websocket::Event::MessageEnd) => {
                if payload.is_empty() {
                    continue;
                }
                let open = writer.begin(&mut written, payload.len());
                written.extend_from_slice(&payload);
                writer.finish(open, &mut written, &mut ZeroKeys);
                messages.push(std::mem::take(&mut payload));
            }
            _ => {}
        }
    }
    let again: Vec<_> = websocket_events(sender, &written, 0)
        .into_iter()
        .filter_map(|event| match event {
            Event::Data { bytes, .. } => Some(bytes),
            Event::Failed(error) => panic!("what was written can be read: {error}"),
            Event::Other(_) => None,
        })
        .collect();
    assert_eq!(messages, again, "written and read again");
}

fn websocket_events(sender: websocket::Sender, bytes: &[u8], size: u8) -> Vec<Event> {
    let mut reader = websocket::Reader::new(sender, 64 * 1024);
    let mut events = Vec::new();
    for piece in cut(bytes, size) {
        let mut piece = piece.to_vec();
        let mut position = 0;
        loop {
            match reader.next(&mut piece, &mut position) {
                Ok(None) => break,
                Ok(Some(websocket::Event::Payload(range))) => {
                    push_data(&mut events, 0, &piece[range], false);
                }
                Ok(Some(event)) => events.push(other(&event)),
                Err(error) => {
                    events.push(Event::Failed(error));
                    return events;
                }
            }
        }
    }
    events
}

/// Bytes: the head of a handshake's request or response, and what follows it.
pub fn handshake(data: &[u8]) {
    let allowed = ["https://app.example".to_owned()];
    heads(data, |bytes| {
        let parsed = websocket::http1::Request::parse(bytes)?;
        Ok(parsed.map(|(request, length)| {
            let checked = request.check("/wsferry", &allowed);
            assert!(checked.as_ref().map_or(true, |accept| accept.len() == 28));
            ((request.fields, checked.is_ok()), length)
        }))
    });
    heads(data, |bytes| {
        let parsed = websocket::http1::Response::parse(bytes)?;
        Ok(parsed.map(|(response, length)| ((response.status, response.fields), length)))
    });
}

/// However its bytes come, a head is the same, and nobody waits for more of one that is refused.
fn heads<T: PartialEq + std::fmt::Debug>(
    data: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, websocket::http1::HeadError>,
) {
    let whole = parse(data);
    let first = (0..=data.len())
        .map(|length| parse(&data[..length]))
        .find(|parsed| *parsed != Ok(None))
        .unwrap_or(Ok(None));
    match (&whole, &first) {
        (Err(_), Err(_)) => {}
        _ => assert_eq!(whole, first),
    }
    if let Ok(Some((_, length))) = whole {
        assert!(length <= websocket::http1::MAX_HEAD_BYTES.min(data.len()));
        assert_eq!(parse(&data[..length]), whole);
    }
}
