//! The streams of one connection: their two identifiers, how far each direction has come, and the
//! windows.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::error::Error;
use crate::message::{Http2Id, Settings, WireId};

/// The largest window (RFC 9113 §6.9.1), bytes.
const MAX_WINDOW: i64 = 0x7fff_ffff;

/// The window of a connection, and of a stream until settings say otherwise (RFC 9113 §6.9.2), bytes.
const DEFAULT_WINDOW: i64 = 65_535;

/// What counts as the latest stream where none was opened: the one before stream 0.
const BEFORE_FIRST: WireId = WireId(u16::MAX);

/// Room for so many streams at most is kept for those to come.
const KEPT_STREAMS: usize = 256;

/// How far one direction of a stream has come. A request's direction begins in `Body`.
///
/// ```text
///  Head ──final response──► Body ──end, trailers──► Ended
///  │  ▲                                               ▲
///  └──┘ interim response      response with end ──────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No final response head yet.
    Head,
    /// Data or trailers may follow.
    Body,
    /// Nothing may follow.
    Ended,
}

/// What a message does to the direction that it travels in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A response head; `last`: the final one.
    Head {
        /// Not an interim response.
        last: bool,
        /// Nothing follows.
        end: bool,
    },
    /// A piece of a body.
    Data {
        /// Nothing follows.
        end: bool,
    },
    /// Trailers.
    Trailers,
}

impl Progress {
    /// Where the message leads.
    ///
    /// # Errors
    /// [`Error::StreamState`] if it can't come here.
    pub fn after(self, step: Step) -> Result<Self, Error> {
        match (self, step) {
            (
                Self::Head,
                Step::Head {
                    last: true,
                    end: true,
                },
            ) => Ok(Self::Ended),
            (
                Self::Head,
                Step::Head {
                    last: true,
                    end: false,
                },
            ) => Ok(Self::Body),
            (
                Self::Head,
                Step::Head {
                    last: false,
                    end: false,
                },
            ) => Ok(Self::Head),
            (Self::Body, Step::Data { end: false }) => Ok(Self::Body),
            (Self::Body, Step::Data { end: true } | Step::Trailers) => Ok(Self::Ended),
            _ => Err(Error::StreamState),
        }
    }
}

/// A stream that is open in at least one direction.
#[derive(Debug)]
pub struct Stream {
    /// Its identifier at the local codec.
    pub http2: Http2Id,
    /// Place in the order of opening; its low 16 bits are its identifier in messages.
    sequence: u64,
    /// The direction from the WebSocket to the local codec.
    pub incoming: Progress,
    /// The direction from the local codec to the WebSocket.
    pub outgoing: Progress,
    /// What the other end may still send, bytes; negative after its window was made smaller.
    receive_window: i64,
    /// What the local codec may still send, bytes.
    send_window: i64,
}

impl Stream {
    /// Whether both directions have ended.
    pub fn is_done(&self) -> bool {
        self.incoming == Progress::Ended && self.outgoing == Progress::Ended
    }
}

/// The streams of a connection.
#[derive(Debug)]
pub struct Streams {
    by_wire: HashMap<WireId, Stream, IdHash>,
    by_http2: HashMap<Http2Id, WireId, IdHash>,
    most: usize,
    /// Place of the stream that was opened last.
    last_sequence: Option<u64>,
    last_http2: Http2Id,
    receive: Window,
    send: Window,
}

/// One direction's windows for the connection and for new streams, bytes.
#[derive(Debug)]
struct Window {
    connection: i64,
    initial: i64,
}

impl Streams {
    /// No streams, at most `most` at a time.
    pub fn new(most: usize) -> Self {
        let window = || Window {
            connection: DEFAULT_WINDOW,
            initial: DEFAULT_WINDOW,
        };
        Self {
            by_wire: HashMap::default(),
            by_http2: HashMap::default(),
            most,
            last_sequence: None,
            last_http2: Http2Id(0),
            receive: window(),
            send: window(),
        }
    }

    /// Number of open streams.
    pub fn len(&self) -> usize {
        self.by_wire.len()
    }

    /// Whether one more may be opened.
    pub fn has_room(&self) -> bool {
        self.len() < self.most
    }

    /// The open streams, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.by_wire.values()
    }

    /// An open stream.
    pub fn get_mut(&mut self, wire: WireId) -> Option<&mut Stream> {
        self.by_wire.get_mut(&wire)
    }

    /// The identifier of an open stream in messages.
    pub fn wire_of(&self, http2: Http2Id) -> Option<WireId> {
        self.by_http2.get(&http2).copied()
    }

    /// The identifier of an open stream at the local codec.
    pub fn http2_of(&self, wire: WireId) -> Option<Http2Id> {
        self.by_wire.get(&wire).map(|stream| stream.http2)
    }

    /// Whether the local codec has ever opened `http2`, or may no longer (RFC 9113 §5.1.1).
    pub fn was_opened_by_http2(&self, http2: Http2Id) -> bool {
        http2 <= self.last_http2
    }

    /// Whether a stream `wire` was opened at any time, or may no longer be.
    pub fn was_opened_by_wire(&self, wire: WireId) -> bool {
        self.last_sequence.is_some_and(|last| u64::from(wire.0) <= last)
    }

    /// Notes that the local codec has used up `http2` without a stream coming of it.
    pub fn skip_http2(&mut self, http2: Http2Id) {
        self.last_http2 = self.last_http2.max(http2);
    }

    /// Opens the stream of a request from the local codec, with the next free identifier. The caller
    /// has seen that there is room.
    ///
    /// # Errors
    /// [`Error::Http2Protocol`] if the codec used `http2` or a later one before.
    pub fn open_outgoing(&mut self, http2: Http2Id, end: bool) -> Result<WireId, Error> {
        if self.was_opened_by_http2(http2) {
            return Err(Error::Http2Protocol);
        }
        let mut sequence = self.last_sequence.map_or(0, |last| last.wrapping_add(1));
        // Ends: fewer than 2^16 streams are open.
        while self.by_wire.contains_key(&wire_id(sequence)) {
            sequence = sequence.wrapping_add(1);
        }
        let outgoing = if end { Progress::Ended } else { Progress::Body };
        Ok(self.insert(http2, sequence, Progress::Head, outgoing))
    }

    /// Opens the stream of a request from the other end, with the codec's next identifier. The caller
    /// has seen that there is room.
    ///
    /// # Errors
    /// [`Error::StreamInUse`]; [`Error::ExcessiveLoad`] after 2^30 streams, when HTTP/2 has no more
    /// identifiers.
    pub fn open_incoming(&mut self, wire: WireId, end: bool) -> Result<Http2Id, Error> {
        let sequence = self.next_sequence(wire)?;
        let http2 = match self.last_http2.0 {
            0 => Http2Id(1),
            last => Http2Id(
                last.checked_add(2)
                    .filter(|id| *id < 1 << 31)
                    .ok_or(Error::ExcessiveLoad)?,
            ),
        };
        let incoming = if end { Progress::Ended } else { Progress::Body };
        self.insert(http2, sequence, incoming, Progress::Head);
        Ok(http2)
    }

    /// Notes that the other end has used up `wire` without a stream coming of it.
    ///
    /// # Errors
    /// [`Error::StreamInUse`].
    pub fn skip_wire(&mut self, wire: WireId) -> Result<(), Error> {
        self.last_sequence = Some(self.next_sequence(wire)?);
        Ok(())
    }

    /// The place of a new stream `wire`: identifiers go up, and wrap.
    fn next_sequence(&self, wire: WireId) -> Result<u64, Error> {
        let sequence = match self.last_sequence {
            None => u64::from(wire.0),
            Some(last) => match wire.0.wrapping_sub(wire_id(last).0) {
                0 => return Err(Error::StreamInUse),
                ahead => last.wrapping_add(u64::from(ahead)),
            },
        };
        if self.by_wire.contains_key(&wire) {
            Err(Error::StreamInUse)
        } else {
            Ok(sequence)
        }
    }

    fn insert(&mut self, http2: Http2Id, sequence: u64, incoming: Progress, outgoing: Progress) -> WireId {
        let wire = wire_id(sequence);
        self.last_sequence = Some(sequence);
        self.last_http2 = http2;
        let (receive_window, send_window) = (self.receive.initial, self.send.initial);
        self.by_http2.insert(http2, wire);
        let stream = Stream {
            http2,
            sequence,
            incoming,
            outgoing,
            receive_window,
            send_window,
        };
        self.by_wire.insert(wire, stream);
        wire
    }

    /// Forgets a stream.
    pub fn remove(&mut self, wire: WireId) {
        if let Some(stream) = self.by_wire.remove(&wire) {
            self.by_http2.remove(&stream.http2);
            self.give_back();
        }
    }

    /// Gives back the memory of streams that were open at once some time ago.
    fn give_back(&mut self) {
        let open = self.by_wire.len();
        if self.by_wire.capacity() > KEPT_STREAMS && open < self.by_wire.capacity() / 8 {
            let kept = open.saturating_mul(2).max(KEPT_STREAMS / 2);
            self.by_wire.shrink_to(kept);
            self.by_http2.shrink_to(kept);
        }
    }

    /// Forgets the streams that the codec opened or got after `last`: those that a GOAWAY refuses.
    pub fn remove_after(&mut self, last: Http2Id) {
        self.by_http2.retain(|http2, _| *http2 <= last);
        self.by_wire.retain(|_, stream| stream.http2 <= last);
        self.give_back();
    }

    /// Forgets all streams and returns their identifiers at the codec, in the order of opening.
    pub fn drain(&mut self) -> Vec<Http2Id> {
        let mut ids: Vec<_> = self.by_wire.drain().map(|(_, stream)| stream.http2).collect();
        self.by_http2.clear();
        self.give_back();
        ids.sort_unstable();
        ids
    }

    /// Counts data from the other end against the connection's window and its stream's.
    ///
    /// # Errors
    /// [`Error::WindowOverrun`].
    pub fn receive_data(&mut self, stream: Option<WireId>, bytes: usize) -> Result<(), Error> {
        let bytes = i64::try_from(bytes).map_err(|_| Error::WindowOverrun)?;
        let windows = stream
            .and_then(|wire| self.by_wire.get_mut(&wire))
            .map(|s| &mut s.receive_window);
        for window in windows.into_iter().chain([&mut self.receive.connection]) {
            if bytes > *window && bytes > 0 {
                return Err(Error::WindowOverrun);
            }
            *window = window.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Counts data from the local codec. The codec itself heeds the windows.
    pub fn send_data(&mut self, stream: WireId, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.send.connection = self.send.connection.saturating_sub(bytes);
        if let Some(stream) = self.by_wire.get_mut(&stream) {
            stream.send_window = stream.send_window.saturating_sub(bytes);
        }
    }

    /// Credit that this side grants the other end.
    pub fn grant(&mut self, stream: Option<WireId>, bytes: u32) {
        let window = match stream {
            None => Some(&mut self.receive.connection),
            Some(wire) => self
                .by_wire
                .get_mut(&wire)
                .map(|stream| &mut stream.receive_window),
        };
        if let Some(window) = window {
            *window = window.saturating_add(i64::from(bytes)).min(MAX_WINDOW);
        }
    }

    /// Credit that the other end grants this side.
    ///
    /// # Errors
    /// [`Error::InvalidCredit`] if the window would be over 2^31-1.
    pub fn granted(&mut self, stream: Option<WireId>, bytes: u32) -> Result<(), Error> {
        let window = match stream {
            None => &mut self.send.connection,
            Some(wire) => match self.by_wire.get_mut(&wire) {
                Some(stream) => &mut stream.send_window,
                None => return Ok(()),
            },
        };
        let sum = window.saturating_add(i64::from(bytes));
        if bytes == 0 || sum > MAX_WINDOW {
            return Err(Error::InvalidCredit);
        }
        *window = sum;
        Ok(())
    }

    /// The initial window that this side gives the other end.
    pub fn receive_initial(&self) -> i64 {
        self.receive.initial
    }

    /// Changes the initial window that this side gives, and with it all streams' (RFC 9113 §6.9.2).
    pub fn set_receive_initial(&mut self, bytes: u32) {
        let change = i64::from(bytes).saturating_sub(self.receive.initial);
        self.receive.initial = i64::from(bytes);
        for stream in self.by_wire.values_mut() {
            stream.receive_window = stream.receive_window.saturating_add(change);
        }
    }

    /// The other end's settings are about to reach the local codec.
    ///
    /// # Errors
    /// [`Error::InvalidCredit`] if a window would be over 2^31-1.
    pub fn apply_peer_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        let Some(bytes) = settings.get(Settings::INITIAL_WINDOW_SIZE) else {
            return Ok(());
        };
        let change = i64::from(bytes).saturating_sub(self.send.initial);
        self.send.initial = i64::from(bytes);
        for stream in self.by_wire.values_mut() {
            stream.send_window = stream.send_window.saturating_add(change);
            if stream.send_window > MAX_WINDOW {
                return Err(Error::InvalidCredit);
            }
        }
        Ok(())
    }

    /// A GOAWAY's last stream, for the other end: the one before the first that is refused. With no
    /// stream ever opened it is 65,535, the one before stream 0.
    pub fn last_for_wire(&self, last: Http2Id) -> WireId {
        let refused = self
            .iter()
            .filter(|stream| stream.http2 > last)
            .map(|stream| stream.sequence)
            .min();
        let next = refused.unwrap_or_else(|| self.last_sequence.map_or(0, |last| last.wrapping_add(1)));
        wire_id(next.wrapping_sub(1))
    }

    /// A GOAWAY's last stream, for the local codec: the last of the open ones that `last` covers. `None` if that is one
    /// that may still be opened, so that all are covered.
    pub fn last_for_http2(&self, last: WireId) -> Option<Http2Id> {
        // Of a difference in 16 bits half is behind and half is ahead.
        let opened = self.last_sequence.map_or(BEFORE_FIRST, wire_id);
        let behind = opened.0.wrapping_sub(last.0);
        if behind > 1 << 15 {
            return None;
        }
        let covered = self
            .last_sequence
            .and_then(|opened| opened.checked_sub(u64::from(behind)));
        let last = self
            .iter()
            .filter(|stream| covered.is_some_and(|covered| stream.sequence <= covered))
            .map(|stream| stream.http2)
            .max();
        Some(last.unwrap_or(Http2Id(0)))
    }

    /// The stream that was opened last, by the codec's identifier.
    pub fn last_opened(&self) -> Http2Id {
        self.last_http2
    }
}

/// The low 16 bits of a place in the order of opening.
fn wire_id(sequence: u64) -> WireId {
    WireId(u16::try_from(sequence & 0xffff).unwrap_or_default())
}

/// Hashes an identifier by one multiplication. Whoever chooses the identifiers can make collisions
/// among at most 2^16 of them, and the maps are bounded.
#[derive(Debug, Default, Clone, Copy)]
struct IdHasher(u64);

type IdHash = BuildHasherDefault<IdHasher>;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u16(&mut self, id: u16) {
        self.write_u32(u32::from(id));
    }

    fn write_u32(&mut self, id: u32) {
        // 2^64 divided by the golden ratio; the rotation brings the good high bits down.
        self.0 = (self.0 ^ u64::from(id))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}
