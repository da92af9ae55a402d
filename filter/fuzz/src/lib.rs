//! The bodies of the fuzz targets. `filter/tests/fuzz_seeds.rs` runs them on the committed seeds.
//!
//! Beyond "it doesn't panic" each target checks what must hold for any bytes: it makes no difference
//! where they are cut, and what was read can be written and is read again the same. That of the
//! connection manager, which reads no bytes, makes events of them and checks what it promises whatever happens.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use wsferry::config::{Config, FieldPolicy, Limits};
use wsferry::connection_manager::config::{Mode, TunnelConfig};
use wsferry::connection_manager::{
    self, ConnectionManager, Evidence, Link, ProbeFailure, ProbeId, ProbeKind, Reason, Ticket, Time, Tunnel,
    Verdict, Waiter, Way,
};
use wsferry::converter::{Converter, MaskKeys};
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

/// Bytes: role and direction, then steps; see [`Step`].
pub fn converter(data: &[u8]) {
    let [role, steps @ ..] = data else { return };
    let (near, reversed) = (role & 1 == 0, role & 2 != 0);
    let new = |near: bool| {
        let name = |near| if near { "near" } else { "far" };
        let json = format!(
            r#"{{"role":"{}","requests_from":"{}"}}"#,
            name(near),
            name(!reversed)
        );
        Converter::new(&Arc::new(
            Config::parse(json.as_bytes()).expect("a configuration"),
        ))
    };
    let mut tested = new(near);
    let mut peer = new(!near);
    let speaker = if near == reversed {
        http2::Sender::Client
    } else {
        http2::Sender::Server
    };
    // What precedes HTTP/2 can be anything.
    let mut codec = (!reversed).then(|| http2::Reader::new(speaker, &Limits::default()));
    let mut out = Vec::new();
    let mut rest = steps;
    while let Some((step, bytes)) = Step::next(&mut rest, near, speaker.other()) {
        match step {
            Step::Http2 => tested.http2_input(&bytes, &mut ZeroKeys),
            Step::WebSocket => {
                let mut bytes = bytes;
                tested.websocket_input(&mut bytes, &mut ZeroKeys);
            }
            Step::Http2End => tested.http2_end(&mut ZeroKeys),
            Step::WebSocketEnd => tested.websocket_end(),
        }
        if matches!(step, Step::Http2 | Step::Http2End) {
            tested.take_websocket_output(&mut out);
            peer.websocket_input(&mut out, &mut ZeroKeys);
            if let Some(error) = peer.closed().and_then(|closed| closed.error) {
                // Streams and windows are the local codec's; the form is the converter's.
                assert!(
                    matches!(
                        error,
                        Error::UnknownStream
                            | Error::StreamInUse
                            | Error::StreamState
                            | Error::WindowOverrun
                            | Error::InvalidCredit
                            | Error::InvalidSetting
                            | Error::ExcessiveLoad
                    ),
                    "the other end can't read it: {error}"
                );
            }
            peer.take_http2_output(&mut out);
        } else {
            tested.take_http2_output(&mut out);
            codec = codec.and_then(|mut codec| {
                let mut bytes = out.as_slice();
                loop {
                    match codec.next(&mut bytes) {
                        Ok(None) => return Some(codec),
                        Ok(Some(http2::Event::Message(Message::Goaway { code, .. }))) if code != 0 => {
                            return None;
                        }
                        Ok(Some(http2::Event::Malformed { error, .. })) => {
                            panic!("a malformed header block for the codec: {error}")
                        }
                        Ok(Some(_)) => {}
                        Err(error) => panic!("no HTTP/2 for the codec: {error}"),
                    }
                }
            });
        }
        let _ = (tested.closed(), tested.close_sent(), tested.take_counts());
        assert!(tested.open_streams() <= Limits::default().max_streams);
    }
}

/// A step of the converter's target: one byte of kind, and for most two bytes of length and the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Http2,
    WebSocket,
    Http2End,
    WebSocketEnd,
}

impl Step {
    /// Kinds 0 and 1: the bytes as they are. 2 and 3: the ends. 4: one HTTP/2 frame, of which type, flags
    /// and the low byte of the stream come first. 5: a binary message. 6: the codec's first bytes.
    fn next(rest: &mut &[u8], near: bool, codec: http2::Sender) -> Option<(Self, Vec<u8>)> {
        let [kind, after @ ..] = *rest else { return None };
        *rest = after;
        match kind % 7 {
            2 => return Some((Self::Http2End, Vec::new())),
            3 => return Some((Self::WebSocketEnd, Vec::new())),
            6 => {
                let mut bytes = match codec {
                    http2::Sender::Client => PREFACE.to_vec(),
                    http2::Sender::Server => Vec::new(),
                };
                bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
                return Some((Self::Http2, bytes));
            }
            _ => {}
        }
        let [high, low, after @ ..] = *rest else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(length);
        *rest = after;
        Some(match kind % 7 {
            0 => (Self::Http2, bytes.to_vec()),
            1 => (Self::WebSocket, bytes.to_vec()),
            4 => {
                let [kind, flags, stream, payload @ ..] = bytes else {
                    return Some((Self::Http2, Vec::new()));
                };
                let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
                let mut frame = vec![length[1], length[2], length[3], *kind, *flags, 0, 0, 0, *stream];
                frame.extend_from_slice(payload);
                (Self::Http2, frame)
            }
            _ => {
                let mut frame = Vec::new();
                let sender = if near {
                    websocket::Sender::Server
                } else {
                    websocket::Sender::Client
                };
                let mut writer = websocket::Writer::new(sender);
                let open = writer.begin(&mut frame, bytes.len());
                frame.extend_from_slice(bytes);
                writer.finish(open, &mut frame, &mut ZeroKeys);
                (Self::WebSocket, frame)
            }
        })
    }
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

/// Bytes: a configuration in three, then events in three each; see [`tunnel_config`] and [`Worker::happens`].
pub fn connection_manager(data: &[u8]) {
    let [mode, times, amounts, events @ ..] = data else {
        return;
    };
    let mut worker = Worker::new(&tunnel_config(*mode, *times, *amounts));
    for event in events.chunks_exact(3) {
        let [kind, first, second] = [event[0], event[1], event[2]];
        worker.passes(kind >> 4, second);
        worker.happens(kind & 15, first, second);
        if first & 1 == 0 || worker.is_due() {
            worker.tick(first, second);
        }
        worker.keeps_count();
    }
}

/// One tunnel. Each choice is of small numbers, or of what is far from the others.
fn tunnel_config(mode: u8, times: u8, amounts: u8) -> connection_manager::Config {
    let bit = |byte: u8, place: u8, choices: [u32; 2]| choices[usize::from(byte >> place & 1)];
    let name = ["always", "adaptive", "never"][usize::from(mode % 3)];
    let eager = name != "never" && mode & 8 != 0;
    let slow = if mode & 16 != 0 {
        r#","max_round_trip_ms":5"#
    } else {
        ""
    };
    let max_wait_ms = [0, 1, 50, 5_000][usize::from(times & 3)];
    let (interval_ms, timeout_ms) = (bit(times, 2, [100, 5_000]), bit(times, 3, [10, 1_000]));
    let (consecutive, stable_ms) = (1 + (times >> 4 & 3), bit(times, 6, [0, 100]));
    let (open, close) = (1 + (amounts & 7), 1 + (amounts >> 3 & 1));
    let close_ms = bit(amounts, 4, [60_000, 20_000]);
    let max_in_flight = 1 + (amounts >> 5) * 3;
    let json = format!(
        r#"{{"role":"connection_manager","tunnels":[{{
            "name":"t","mode":"{name}","eager":{eager},"max_wait_ms":{max_wait_ms},"no_converter_ttl_ms":1000,
            "probe":{{"cluster":"c","interval_ms":{interval_ms},"timeout_ms":{timeout_ms}}},
            "open":{{"requests":{open},"within_ms":1000}},
            "close":{{"requests":{close},"within_ms":{close_ms}}},
            "load":{{"max_in_flight":{max_in_flight}{slow}}},
            "failures":{{"consecutive":{consecutive},"base_backoff_ms":10,"max_backoff_ms":3600000,
                "stable_ms":{stable_ms}}}
        }}]}}"#
    );
    connection_manager::Config::parse(json.as_bytes()).expect("a configuration")
}

/// A worker with one tunnel, which is driven as the plugin drives it.
struct Worker {
    config: TunnelConfig,
    manager: ConnectionManager,
    now: Time,
    /// The requests in the tunnel.
    inside: Vec<Ticket>,
    /// The requests that wait, and until when at most.
    waiting: BTreeMap<Waiter, Time>,
    last_waiter: Waiter,
    /// Probes that nothing has become of yet, some of them long given up.
    probes: Vec<ProbeId>,
}

impl Worker {
    /// As many probes as are remembered: all but the last are late.
    const MOST_PROBES: usize = 64;
    /// As often as a timer may find something to do without time passing.
    const MOST_TURNS: usize = 8;

    fn new(config: &connection_manager::Config) -> Self {
        // There is a past that a WebSocket may have ended in.
        let now = Time(1_000_000);
        Self {
            config: config.tunnels[0].clone(),
            manager: ConnectionManager::new(config, now),
            now,
            inside: Vec::new(),
            waiting: BTreeMap::new(),
            last_waiter: 0,
            probes: Vec::new(),
        }
    }

    fn tunnel(&mut self) -> &mut Tunnel {
        self.manager.tunnel(0).expect("a tunnel")
    }

    /// From no time to some hours.
    fn passes(&mut self, kind: u8, many: u8) {
        let many = u32::from(many);
        let steps = [0, 1, many, many * 20, many * 1_000, many * 60_000];
        self.now = self.now.after(steps[usize::from(kind) % steps.len()]);
    }

    /// Kinds 0 to 3: a request comes. 4 and 5: one in the tunnel ends. 6: one that waits gives up. 7 and 8: a
    /// probe is answered. 9: a probe fails. 10: a WebSocket ends. 11: another worker finds no converter. 12: a
    /// handshake is refused. Others: nothing.
    fn happens(&mut self, kind: u8, first: u8, second: u8) {
        let (now, random) = (self.now, random(first, second));
        match kind {
            0..=3 => self.request(),
            4 | 5 if !self.inside.is_empty() => {
                let ticket = self.inside.swap_remove(usize::from(first) % self.inside.len());
                let evidence = [Evidence::Passed, Evidence::Failed, Evidence::Retried];
                if let Some(evidence) = evidence.get(usize::from(second & 3)) {
                    self.tunnel().observe(ticket, *evidence, now, random);
                }
                self.tunnel().leave();
            }
            6 => {
                if let Some((waiter, _)) = self.waiting.pop_first() {
                    self.tunnel().forget(waiter);
                }
            }
            7..=9 if !self.probes.is_empty() => {
                let id = self.probes.swap_remove(usize::from(first) % self.probes.len());
                if kind == 9 {
                    let failures = [
                        ProbeFailure::TimedOut,
                        ProbeFailure::Broken,
                        ProbeFailure::NoConverter,
                    ];
                    let failure = failures[usize::from(second) % failures.len()];
                    self.tunnel().probe_failed(id, failure, now, random);
                } else {
                    self.tunnel().probe_answered(id, now, random);
                }
            }
            10 => {
                let at = now.0 - u64::from(second) * 7;
                self.tunnel().websocket_ended(at, Time(at), now);
            }
            11 => self.tunnel().no_converter(now.after(u32::from(second) * 100)),
            12 => self.tunnel().handshake_refused(u64::from(second), now),
            _ => {}
        }
    }

    fn request(&mut self) {
        let mode = self.config.mode;
        if let Some(decision) = self.manager.request_at_any_time(Some(0)) {
            assert!(mode != Mode::Always && decision.way == Way::Http, "{decision}");
            return;
        }
        self.last_waiter += 1;
        let verdict = self.manager.request(Some(0), self.last_waiter, self.now);
        match verdict {
            Verdict::WebSocket(reason, ticket) => {
                assert!(mode != Mode::Never && self.is_up(), "{mode:?} {verdict:?}");
                // Mode adaptive enters no tunnel that it suspects.
                assert!(mode == Mode::Always || reason == Reason::Up, "{reason:?}");
                self.inside.push(ticket);
            }
            Verdict::Http(_) => assert!(mode != Mode::Always, "{verdict:?}"),
            Verdict::Refuse(_) => assert!(mode == Mode::Always, "{verdict:?}"),
            Verdict::Wait(until) => {
                assert!(mode == Mode::Always, "{mode:?} waits");
                assert!(until <= self.now.after(self.config.max_wait_ms));
                self.waiting.insert(self.last_waiter, until);
            }
        }
    }

    fn is_up(&mut self) -> bool {
        matches!(self.tunnel().link(), Link::Up { .. })
    }

    fn is_due(&self) -> bool {
        self.manager.wake().is_some_and(|wake| wake <= self.now)
    }

    /// The plugin's timer: what is due is done, and then nothing is due before time passes.
    fn tick(&mut self, first: u8, second: u8) {
        for _ in 0..Self::MOST_TURNS {
            self.probe(first, second);
            self.resolve();
            if !self.is_due() {
                let now = self.now;
                assert!(self.waiting.values().all(|until| *until > now), "waits too long");
                return;
            }
        }
        let (link, wake) = (self.tunnel().link(), self.manager.wake());
        panic!("the timer never rests: {link:?}, {wake:?} at {:?}", self.now);
    }

    /// Sends a probe, or leaves it to another worker, which asks the target already.
    fn probe(&mut self, first: u8, second: u8) {
        let now = self.now;
        let Some(kind) = self.tunnel().poll(now, random(first, second)) else {
            return;
        };
        assert!(self.config.mode != Mode::Never, "a probe in mode never");
        if kind == ProbeKind::Open && first & 2 != 0 {
            self.tunnel().postpone(now.after(20));
            return;
        }
        let id = self.tunnel().probe_sent(now);
        if self.probes.len() == Self::MOST_PROBES {
            self.probes.clear();
        }
        self.probes.push(id);
    }

    fn resolve(&mut self) {
        while let Some((_, waiter, verdict)) = self.manager.resolve(self.now) {
            assert!(self.waiting.remove(&waiter).is_some(), "{waiter} doesn't wait");
            match verdict {
                Verdict::WebSocket(_, ticket) => {
                    assert!(self.is_up(), "{verdict:?}");
                    self.inside.push(ticket);
                }
                Verdict::Refuse(_) => {}
                Verdict::Http(_) | Verdict::Wait(_) => panic!("{verdict:?} after waiting"),
            }
        }
    }

    /// Who has entered is counted until it leaves, and who waits isn't forgotten.
    fn keeps_count(&mut self) {
        assert_eq!(self.tunnel().in_flight() as usize, self.inside.len());
        assert!(
            self.waiting.is_empty() || self.manager.wake().is_some(),
            "a request waits without a timer"
        );
        self.tunnel().take_transition();
    }
}

fn random(first: u8, second: u8) -> u32 {
    u32::from_be_bytes([first, second, 0, 0])
}
