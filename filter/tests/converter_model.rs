//! Codecs that do at random what HTTP/2 allows, at both ends of two converters: resets, refusals, settings and goaway cross
//! each other. Nothing of it closes the WebSocket, no stream stays, and no byte of a window is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod converter;
mod owned;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use converter::{NoKeys, credit, data, goaway};
use owned::{Owned, OwnedField};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, RngSeed, TestRng};
use wsferry::config::{Config, Limits};
use wsferry::converter::Converter;
use wsferry::http2::{Event, Reader, Sender, Writer};
use wsferry::message::Settings;

/// HTTP/2's window until something else is said, bytes.
const WINDOW: i64 = 65_535;

/// CANCEL.
const CODE: u32 = 8;

struct Choices(TestRng);

impl Choices {
    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Now and then a list that is larger than the smallest limit there is.
    fn fields(&mut self) -> Vec<OwnedField> {
        let bytes = if self.one_in(8) { 6_000 } else { 1 };
        vec![(b"x-a".to_vec(), vec![b'x'; bytes], false)]
    }

    /// How much of what is under way arrives at once.
    fn piece(&mut self, bytes: &mut Vec<u8>) -> Vec<u8> {
        let most = match self.below(4) {
            0 => self.below(12),
            1 => self.below(2_000),
            _ => bytes.len(),
        };
        bytes.drain(..most.min(bytes.len())).collect()
    }
}

/// Of a stream or of the connection, bytes.
struct Windows {
    send: i64,
    receive: i64,
    /// What has come and isn't given back yet.
    owed: u32,
}

impl Windows {
    fn new(send: i64, receive: i64) -> Self {
        Self {
            send,
            receive,
            owed: 0,
        }
    }

    fn received(&mut self, bytes: usize) {
        self.receive -= bytes as i64;
        assert!(self.receive >= 0 || bytes == 0, "more than the window");
        self.owed += bytes as u32;
    }

    fn credited(&mut self, bytes: u32) {
        self.send += i64::from(bytes);
        assert!(self.send < 1 << 31, "a window of {}", self.send);
    }

    fn give_back(&mut self) -> u32 {
        self.receive += i64::from(self.owed);
        std::mem::take(&mut self.owed)
    }
}

/// A stream that the codec hasn't seen the end of.
struct Stream {
    windows: Windows,
    /// The request, or the response that isn't interim.
    head_sent: bool,
    end_sent: bool,
    end_received: bool,
}

/// A codec that keeps to HTTP/2, and sees that its converter does.
struct Codec {
    role: Sender,
    writer: Writer,
    reader: Reader,
    /// What it has said, as far as it hasn't arrived.
    out: Vec<u8>,
    /// A server says nothing before it has heard something.
    has_begun: bool,
    streams: BTreeMap<u32, Stream>,
    connection: Windows,
    /// The windows of new streams.
    initial: Windows,
    /// Its settings that aren't acknowledged, with the windows in them.
    unacknowledged: VecDeque<Option<u32>>,
    /// Its PINGs so far.
    /// The last stream of all.
    last: u32,
    /// A client was told, a server has told.
    going_away: bool,
    /// The last stream that counts, of the same.
    goaway_last: Option<u32>,
}

impl Codec {
    fn new(role: Sender) -> Self {
        let limits = Limits {
            max_header_list_bytes: 512 << 10,
            ..Limits::default()
        };
        Self {
            role,
            writer: Writer::new(role),
            reader: Reader::new(role.other(), &limits),
            out: Vec::new(),
            has_begun: false,
            streams: BTreeMap::new(),
            connection: Windows::new(WINDOW, WINDOW),
            initial: Windows::new(WINDOW, WINDOW),
            unacknowledged: VecDeque::new(),
            last: 0,
            going_away: false,
            goaway_last: None,
        }
    }

    fn say(&mut self, message: &Owned) {
        let (writer, out) = (&mut self.writer, &mut self.out);
        message.lend(|message| writer.message(message, out));
    }

    fn begin(&mut self) {
        self.has_begun = true;
        self.say_settings(None);
    }

    fn say_settings(&mut self, window: Option<u32>) {
        let mut entries = vec![(Settings::MAX_CONCURRENT_STREAMS, 1_000)];
        entries.extend(window.map(|window| (Settings::INITIAL_WINDOW_SIZE, window)));
        self.unacknowledged.push_back(window);
        self.say(&Owned::Settings(entries));
    }

    fn open(&mut self, stream: u32, head_sent: bool, end_sent: bool, end_received: bool) {
        let windows = Windows::new(self.initial.send, self.initial.receive);
        let state = Stream {
            windows,
            head_sent,
            end_sent,
            end_received,
        };
        self.streams.insert(stream, state);
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while let Some(event) = self.reader.next(&mut bytes).expect("HTTP/2") {
            let event = match event {
                Event::Message(message) => Owned::from(&message),
                Event::Ping(opaque) => Owned::Ping(opaque),
                Event::PingAck(opaque) => Owned::PingAck(opaque),
                other => panic!("{other:?}"),
            };
            self.hear(&event);
        }
    }

    fn hear(&mut self, event: &Owned) {
        match event {
            Owned::Request { stream, end, .. } => self.hear_request(*stream, *end),
            Owned::Response {
                stream, end, status, ..
            } => {
                assert!(*status >= 200 || !end);
                self.hear_of(*stream, *end, 0);
            }
            Owned::Data { stream, end, payload } => {
                self.connection.received(payload.len());
                self.hear_of(*stream, *end, payload.len());
            }
            Owned::Trailers { stream, .. } => self.hear_of(*stream, true, 0),
            Owned::Reset { stream, .. } => {
                assert!(*stream <= self.last);
                self.streams.remove(stream);
            }
            Owned::Credit { stream: None, bytes } => self.connection.credited(*bytes),
            Owned::Credit {
                stream: Some(stream),
                bytes,
            } => {
                assert!(*stream <= self.last);
                if let Some(stream) = self.streams.get_mut(stream) {
                    stream.windows.credited(*bytes);
                }
            }
            Owned::Settings(entries) => self.hear_settings(entries),
            Owned::Ack => self.hear_ack(),
            Owned::Goaway { last, code } => self.hear_goaway(*last, *code),
            Owned::Ping(opaque) => self.writer.ping_ack(*opaque, &mut self.out),
            Owned::PingAck(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn hear_request(&mut self, stream: u32, end: bool) {
        assert!(self.role == Sender::Server && stream > self.last);
        self.last = stream;
        // What crossed its goaway is ignored (RFC 9113 §6.8).
        if self.goaway_last.is_none() {
            self.open(stream, false, false, end);
        }
    }

    /// Something of a stream, which may be gone here.
    fn hear_of(&mut self, id: u32, end: bool, bytes: usize) {
        assert!(id <= self.last, "stream {id} isn't open yet");
        if let Some(stream) = self.streams.get_mut(&id) {
            assert!(!stream.end_received, "stream {id} has ended");
            stream.windows.received(bytes);
            stream.end_received = end;
        }
        self.forget_if_done(id);
    }

    fn hear_settings(&mut self, entries: &[(u16, u32)]) {
        let mut settings = Settings::new();
        for (id, value) in entries {
            settings.set(*id, *value);
        }
        if let Some(window) = settings.get(Settings::INITIAL_WINDOW_SIZE) {
            let more = i64::from(window) - self.initial.send;
            self.initial.send += more;
            for stream in self.streams.values_mut() {
                stream.windows.send += more;
            }
        }
        self.writer.apply_settings(&settings);
        self.say(&Owned::Ack);
    }

    fn hear_ack(&mut self) {
        let window = self.unacknowledged.pop_front().expect("settings without ack");
        if let Some(window) = window {
            let more = i64::from(window) - self.initial.receive;
            self.initial.receive += more;
            for stream in self.streams.values_mut() {
                stream.windows.receive += more;
            }
        }
    }

    fn hear_goaway(&mut self, last: Option<u32>, code: u32) {
        assert_eq!(code, 0);
        assert!(self.role == Sender::Client);
        self.going_away = true;
        if let Some(last) = last {
            assert!(self.goaway_last.is_none_or(|before| last <= before));
            self.goaway_last = Some(last);
            self.streams.retain(|stream, _| *stream <= last);
        }
    }

    fn forget_if_done(&mut self, id: u32) {
        let is_done = |stream: &Stream| stream.end_sent && stream.end_received;
        if self.streams.get(&id).is_some_and(is_done) {
            self.streams.remove(&id);
        }
    }

    /// Does something, or nothing where what it would do isn't allowed.
    fn act(&mut self, choices: &mut Choices) {
        if self.role == Sender::Server && self.goes_away(choices) {
            return;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        let id = (!ids.is_empty()).then(|| choices.of(&ids));
        match (choices.below(16), id) {
            (0..=3, _) if self.role == Sender::Client => self.request(choices),
            (0..=3, Some(id)) => self.answer(id, choices),
            (4..=8, Some(id)) => self.send_data(id, choices),
            (9, Some(id)) => self.send_trailers(id, choices),
            (10, Some(id)) => self.reset(id),
            (11, _) => self.change_settings(choices),
            (12, _) => self.ping(),
            _ => self.give_back(|| choices.one_in(2)),
        }
    }

    /// As servers do that let no request be lost: of all streams first, then of the last that has come.
    fn goes_away(&mut self, choices: &mut Choices) -> bool {
        let last = match (self.going_away, self.goaway_last) {
            (false, _) if choices.one_in(100) => None,
            (true, None) if choices.one_in(3) => Some(self.last),
            _ => return false,
        };
        self.going_away = true;
        self.goaway_last = last;
        self.say(&goaway(last, 0));
        true
    }

    fn request(&mut self, choices: &mut Choices) {
        if self.going_away {
            return;
        }
        // The first is stream 1.
        let (stream, end) = (self.last + 1 + self.last % 2, choices.one_in(3));
        self.last = stream;
        self.open(stream, true, end, false);
        let mut request = converter::request(stream, end);
        if let Owned::Request { fields, .. } = &mut request {
            *fields = choices.fields();
        }
        self.say(&request);
    }

    fn answer(&mut self, id: u32, choices: &mut Choices) {
        let stream = self.streams.get_mut(&id).unwrap();
        if stream.head_sent {
            return;
        }
        let end = choices.one_in(4);
        (stream.head_sent, stream.end_sent) = (true, end);
        if choices.one_in(4) {
            self.say(&Owned::Response {
                stream: id,
                end: false,
                status: 103,
                fields: Vec::new(),
            });
        }
        self.say(&Owned::Response {
            stream: id,
            end,
            status: 200,
            fields: choices.fields(),
        });
        self.forget_if_done(id);
    }

    fn send_data(&mut self, id: u32, choices: &mut Choices) {
        let stream = self.streams.get_mut(&id).unwrap();
        let window = stream.windows.send.min(self.connection.send).max(0);
        let bytes = window.min(choices.below(20_000) as i64);
        let end = choices.one_in(6);
        if !stream.head_sent || stream.end_sent || (bytes == 0 && !end) {
            return;
        }
        stream.windows.send -= bytes;
        stream.end_sent = end;
        self.connection.send -= bytes;
        self.say(&data(id, end, &vec![b'd'; bytes as usize]));
        self.forget_if_done(id);
    }

    fn send_trailers(&mut self, id: u32, choices: &mut Choices) {
        let stream = self.streams.get_mut(&id).unwrap();
        if stream.head_sent && !stream.end_sent {
            stream.end_sent = true;
            self.say(&Owned::Trailers {
                stream: id,
                fields: choices.fields(),
            });
            self.forget_if_done(id);
        }
    }

    fn reset(&mut self, id: u32) {
        self.streams.remove(&id);
        self.say(&Owned::Reset {
            stream: id,
            code: CODE,
        });
    }

    fn change_settings(&mut self, choices: &mut Choices) {
        if self.unacknowledged.len() < 8 {
            let windows = [0, 1, 100, 20_000, 65_535, 300_000].map(Some);
            let window = if choices.one_in(4) {
                None
            } else {
                choices.of(&windows)
            };
            self.say_settings(window);
        }
    }

    /// All are alike, so that nobody can tell which of them a Pong answers.
    fn ping(&mut self) {
        self.writer.ping([7; 8], &mut self.out);
    }

    /// Gives back to each window for which `is_time` says so.
    fn give_back(&mut self, mut is_time: impl FnMut() -> bool) {
        let mut credits = Vec::new();
        if self.connection.owed > 0 && is_time() {
            credits.push(credit(None, self.connection.give_back()));
        }
        for (id, stream) in &mut self.streams {
            if stream.windows.owed > 0 && !stream.end_received && is_time() {
                credits.push(credit(Some(*id), stream.windows.give_back()));
            }
        }
        for credit in &credits {
            self.say(credit);
        }
    }
}

/// A way of bytes.
#[derive(Clone, Copy)]
enum Hop {
    ClientToNear,
    NearToFar,
    FarToServer,
    ServerToFar,
    FarToNear,
    NearToClient,
}

impl Hop {
    const ALL: [Self; 6] = [
        Self::ClientToNear,
        Self::NearToFar,
        Self::FarToServer,
        Self::ServerToFar,
        Self::FarToNear,
        Self::NearToClient,
    ];
}

/// Both converters, both codecs, and what is under way between them.
struct Tunnel {
    client: Codec,
    near: Converter,
    far: Converter,
    server: Codec,
    near_to_far: Vec<u8>,
    far_to_server: Vec<u8>,
    far_to_near: Vec<u8>,
    near_to_client: Vec<u8>,
}

impl Tunnel {
    fn new(choices: &mut Choices) -> Self {
        let streams = [2, 5, 16_384];
        let list = choices.of(&[4_096, 98_304]);
        let near = (choices.of(&streams), list);
        // Only when it has heard of far's limits does near keep to a smaller one of lists.
        let far = (choices.of(&streams), list.max(choices.of(&[4_096, 98_304])));
        let far = if choices.one_in(2) { near } else { far };
        let mut client = Codec::new(Sender::Client);
        client.begin();
        Self {
            client,
            near: end("near", near),
            far: end("far", far),
            server: Codec::new(Sender::Server),
            near_to_far: Vec::new(),
            far_to_server: Vec::new(),
            far_to_near: Vec::new(),
            near_to_client: Vec::new(),
        }
    }

    fn under_way(&mut self, hop: Hop) -> &mut Vec<u8> {
        match hop {
            Hop::ClientToNear => &mut self.client.out,
            Hop::NearToFar => &mut self.near_to_far,
            Hop::FarToServer => &mut self.far_to_server,
            Hop::ServerToFar => &mut self.server.out,
            Hop::FarToNear => &mut self.far_to_near,
            Hop::NearToClient => &mut self.near_to_client,
        }
    }

    fn is_quiet(&mut self) -> bool {
        Hop::ALL.iter().all(|hop| self.under_way(*hop).is_empty())
    }

    fn arrives(&mut self, hop: Hop, mut bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let mut out = Vec::new();
        match hop {
            Hop::ClientToNear => {
                self.near.http2_input(&bytes, &mut NoKeys);
                self.near.take_websocket_output(&mut out);
                self.near_to_far.append(&mut out);
            }
            Hop::NearToFar => {
                self.far.websocket_input(&mut bytes, &mut NoKeys);
                self.far.take_http2_output(&mut out);
                self.far_to_server.append(&mut out);
            }
            Hop::FarToServer => {
                if !self.server.has_begun {
                    self.server.begin();
                }
                self.server.read(&bytes);
            }
            Hop::ServerToFar => {
                self.far.http2_input(&bytes, &mut NoKeys);
                self.far.take_websocket_output(&mut out);
                self.far_to_near.append(&mut out);
            }
            Hop::FarToNear => {
                self.near.websocket_input(&mut bytes, &mut NoKeys);
                self.near.take_http2_output(&mut out);
                self.near_to_client.append(&mut out);
            }
            Hop::NearToClient => self.client.read(&bytes),
        }
        assert_eq!((self.near.closed(), self.far.closed()), (None, None));
    }

    fn step(&mut self, choices: &mut Choices) {
        match choices.below(3) {
            0 => self.client.act(choices),
            1 if self.server.has_begun => self.server.act(choices),
            _ => {}
        }
        for hop in Hop::ALL {
            if choices.one_in(2) {
                let piece = choices.piece(self.under_way(hop));
                self.arrives(hop, piece);
            }
        }
    }

    /// All that is under way arrives, and all that has come is given back.
    fn settle(&mut self) {
        for _ in 0..100 {
            for hop in Hop::ALL {
                let bytes = std::mem::take(self.under_way(hop));
                self.arrives(hop, bytes);
            }
            self.client.give_back(|| true);
            self.server.give_back(|| true);
            if self.is_quiet() {
                return;
            }
        }
        panic!("never quiet");
    }

    fn reset_all(&mut self) {
        for codec in [&mut self.client, &mut self.server] {
            while let Some((&id, _)) = codec.streams.first_key_value() {
                codec.reset(id);
            }
        }
    }

    /// Where nothing is under way all four know the same streams, and both codecs the same windows.
    fn agrees(&self) {
        let (client, server) = (&self.client, &self.server);
        let converters = (self.near.open_streams(), self.far.open_streams());
        assert_eq!(converters, (client.streams.len(), server.streams.len()));
        assert_eq!(client.streams.len(), server.streams.len());
        for (at_client, at_server) in client.streams.values().zip(server.streams.values()) {
            for (from, to) in [(at_client, at_server), (at_server, at_client)] {
                assert_eq!(from.end_sent, to.end_received);
                assert!(from.end_sent || from.windows.send == to.windows.receive);
            }
        }
        for codec in [client, server] {
            assert_eq!(codec.connection.send, WINDOW, "the window of a connection");
            assert!(codec.unacknowledged.is_empty(), "settings without ack");
        }
    }
}

/// A converter with these `max_streams` and `max_header_list_bytes`.
fn end(role: &str, (streams, list): (u32, u32)) -> Converter {
    let limits = format!(r#"{{"max_streams":{streams},"max_header_list_bytes":{list}}}"#);
    let json = format!(r#"{{"role":"{role}","limits":{limits}}}"#);
    Converter::new(&Arc::new(Config::parse(json.as_bytes()).unwrap()))
}

/// The same cases each time, so that a run fails for what has changed; `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` ask for others and for more.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            default.cases
        } else {
            cases
        },
        rng_seed: match default.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            asked => asked,
        },
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn whatever_codecs_may_do_loses_nothing(seed in any::<[u8; 32]>().no_shrink()) {
        let mut choices = Choices(TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let mut tunnel = Tunnel::new(&mut choices);
        for _ in 0..40 + choices.below(400) {
            tunnel.step(&mut choices);
        }
        tunnel.settle();
        tunnel.agrees();
        tunnel.reset_all();
        tunnel.settle();
        tunnel.agrees();
        prop_assert_eq!(tunnel.near.open_streams(), 0);
    }
}
