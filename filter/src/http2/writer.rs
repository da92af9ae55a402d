//! Messages to bytes.

use std::collections::VecDeque;

use super::Sender;
use super::frame::{
    DEFAULT_MAX_FRAME_BYTES, FrameHeader, HEADER_BYTES, Kind, LARGEST_MAX_FRAME_BYTES, LAST_STREAM, PREFACE,
    flag,
};
use super::hpack::Encoder;
use crate::message::{Field, Fields, Http2Id, Message, RequestHead, Settings};
use crate::repeat::{Last, Revision};

/// Messages to bytes of one sender.
///
/// It writes what it is given and checks no order: streams, windows and the SETTINGS that must come first
/// are the caller's. What a message must hold (see [`Message`]) is taken for granted.
#[derive(Debug)]
pub struct Writer {
    preface_due: bool,
    max_frame_bytes: usize,
    encoder: Encoder,
    /// What the receiver has announced, until [`Message::Ack`] tells it that this is known.
    unacknowledged: VecDeque<Announced>,
    last: Last<Revision>,
    data: Option<LastData>,
}

/// The DATA frame that was written last, if nothing has been written since and more data may follow.
#[derive(Debug, Clone, Copy)]
struct LastData {
    stream: Http2Id,
    /// Where it begins and ends in the output.
    start: usize,
    end: usize,
}

/// The settings of a receiver that count here, bytes.
#[derive(Debug, Clone, Copy)]
struct Announced {
    header_table: Option<usize>,
    max_frame: Option<usize>,
}

/// Settings frames that wait for their ACK, at most; those beyond only shrink what may be used.
const MAX_UNACKNOWLEDGED: usize = 64;

impl Writer {
    /// A writer that speaks as `sender`; a client's first output begins with the preface.
    pub fn new(sender: Sender) -> Self {
        Self {
            preface_due: sender == Sender::Client,
            max_frame_bytes: DEFAULT_MAX_FRAME_BYTES,
            encoder: Encoder::new(),
            unacknowledged: VecDeque::new(),
            last: Last::new(),
            data: None,
        }
    }

    /// Appends the frames of `message`: several where a header block or a payload is longer than the
    /// receiver's frames may be, none for an empty piece of data that ends nothing.
    pub fn message(&mut self, message: &Message<'_, Http2Id>, out: &mut Vec<u8>) {
        if !matches!(message, Message::Raw(_)) {
            self.preface(out);
        }
        let data = self.data.take();
        match *message {
            Message::Request { stream, end, head } => {
                let start = self.begin_block(out);
                self.list(head.fields, out, |this, out| this.request_head(&head, out));
                self.end_block(start, stream, end, out);
            }
            Message::Response {
                stream,
                end,
                status,
                fields,
            } => {
                let start = self.begin_block(out);
                self.list(fields, out, |this, out| {
                    this.pseudo(b":status", &status_digits(status), out);
                });
                self.end_block(start, stream, end, out);
            }
            Message::Trailers { stream, fields } => {
                let start = self.begin_block(out);
                self.fields(fields, out);
                self.end_block(start, stream, true, out);
            }
            Message::Data { stream, end, payload } => {
                let payload = self.more_data(data, stream, end, payload, out);
                if let Some(payload) = payload {
                    self.data(stream, end, payload, out);
                }
            }
            Message::Reset { stream, code } => {
                frame(Kind::ResetStream, 0, stream.0, &code.to_be_bytes(), out);
            }
            Message::Credit { stream, bytes } => {
                let stream = stream.map_or(0, |stream| stream.0);
                frame(Kind::WindowUpdate, 0, stream, &bytes.to_be_bytes(), out);
            }
            Message::Settings(settings) => self.settings(settings, out),
            Message::Ack => {
                frame(Kind::Settings, flag::ACK, 0, &[], out);
                if let Some(announced) = self.unacknowledged.pop_front() {
                    self.use_at_most(announced);
                }
            }
            Message::Goaway { last, code } => {
                let last = last.map_or(LAST_STREAM, |last| last.0 & LAST_STREAM);
                let payload = (u64::from(last).wrapping_shl(32)) | u64::from(code);
                frame(Kind::Goaway, 0, 0, &payload.to_be_bytes(), out);
            }
            Message::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Appends a PING.
    pub fn ping(&mut self, opaque: [u8; 8], out: &mut Vec<u8>) {
        self.preface(out);
        self.data = None;
        frame(Kind::Ping, 0, 0, &opaque, out);
    }

    /// Appends a PING with ACK.
    pub fn ping_ack(&mut self, opaque: [u8; 8], out: &mut Vec<u8>) {
        self.preface(out);
        self.data = None;
        frame(Kind::Ping, flag::ACK, 0, &opaque, out);
    }

    /// What the receiver of these bytes has announced: HEADER_TABLE_SIZE and MAX_FRAME_SIZE count, the
    /// rest is ignored.
    ///
    /// To be called once for each SETTINGS frame, before the [`Message::Ack`] that answers it. A receiver
    /// holds its sender to new values from the ACK on (RFC 9113 §6.5.3), so that what shrinks does so at
    /// once, and what grows with the ACK.
    pub fn apply_settings(&mut self, settings: &Settings) {
        let bytes = |id| settings.get(id).and_then(|value| usize::try_from(value).ok());
        let announced = Announced {
            header_table: bytes(Settings::HEADER_TABLE_SIZE),
            max_frame: bytes(Settings::MAX_FRAME_SIZE),
        };
        let table_now = self.encoder.table().max_size();
        let frame_now = self.max_frame_bytes;
        self.use_at_most(Announced {
            header_table: announced.header_table.map(|size| size.min(table_now)),
            max_frame: announced.max_frame.map(|size| size.min(frame_now)),
        });
        if self.unacknowledged.len() < MAX_UNACKNOWLEDGED {
            self.unacknowledged.push_back(announced);
        }
    }

    fn use_at_most(&mut self, announced: Announced) {
        if let Some(size) = announced.header_table {
            self.encoder.set_max_table_size(size);
        }
        if let Some(size) = announced.max_frame {
            self.max_frame_bytes = size.clamp(DEFAULT_MAX_FRAME_BYTES, LARGEST_MAX_FRAME_BYTES);
        }
    }

    fn preface(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.preface_due) {
            out.extend_from_slice(PREFACE);
        }
    }

    fn settings(&self, settings: &Settings, out: &mut Vec<u8>) {
        let header = FrameHeader {
            length: settings.len().saturating_mul(6),
            kind: Kind::Settings,
            flags: 0,
            stream: 0,
        };
        out.extend_from_slice(&header.encode());
        for (id, value) in settings.iter() {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// Adds to the DATA frame that was written last. Returns what has no room in it, `None` if that is nothing.
    fn more_data<'p>(
        &mut self,
        data: Option<LastData>,
        stream: Http2Id,
        end: bool,
        payload: &'p [u8],
        out: &mut Vec<u8>,
    ) -> Option<&'p [u8]> {
        let Some(data) = data.filter(|data| data.stream == stream && data.end == out.len()) else {
            return Some(payload);
        };
        let length = out.len().saturating_sub(data.start).saturating_sub(HEADER_BYTES);
        let room = self.max_frame_bytes.saturating_sub(length).min(payload.len());
        let (here, rest) = payload.split_at_checked(room)?;
        out.extend_from_slice(here);
        let header = FrameHeader {
            length: length.saturating_add(here.len()),
            kind: Kind::Data,
            flags: end_stream(end && rest.is_empty()),
            stream: stream.0,
        };
        if let Some(place) = out.get_mut(data.start..data.start.saturating_add(HEADER_BYTES)) {
            place.copy_from_slice(&header.encode());
        }
        self.data = (!end).then_some(LastData {
            end: out.len(),
            ..data
        });
        (!rest.is_empty()).then_some(rest)
    }

    fn data(&mut self, stream: Http2Id, end: bool, payload: &[u8], out: &mut Vec<u8>) {
        if payload.is_empty() && end {
            return frame(Kind::Data, flag::END_STREAM, stream.0, &[], out);
        }
        let mut pieces = payload.chunks(self.max_frame_bytes).peekable();
        while let Some(piece) = pieces.next() {
            let last = end && pieces.peek().is_none();
            let start = out.len();
            frame(Kind::Data, end_stream(last), stream.0, piece, out);
            self.data = (!last).then_some(LastData {
                stream,
                start,
                end: out.len(),
            });
        }
    }

    /// Leaves room for the frame header and returns where it goes.
    fn begin_block(&mut self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        self.encoder.begin(out);
        start
    }

    /// Appends a header list to the block: what `pseudo` writes, and the fields; or what it became the last time.
    fn list(&mut self, fields: &Fields, out: &mut Vec<u8>, pseudo: impl FnOnce(&mut Self, &mut Vec<u8>)) {
        let revision = fields.revision();
        let version = self.encoder.table().version();
        if let Some(block) = revision.and_then(|revision| self.last.get(revision, version)) {
            return out.extend_from_slice(block);
        }
        let start = out.len();
        pseudo(self, out);
        self.fields(fields, out);
        if let (Some(revision), Some(block)) = (revision, out.get(start..)) {
            self.last
                .set(revision, version, self.encoder.table().version(), block);
        }
    }

    fn fields(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        for field in fields.iter() {
            self.encoder.field(field, out);
        }
    }

    fn request_head(&mut self, head: &RequestHead<'_>, out: &mut Vec<u8>) {
        self.pseudo(b":method", head.method, out);
        for (name, value) in [
            (&b":scheme"[..], head.scheme),
            (b":authority", head.authority),
            (b":path", head.path),
        ] {
            if !value.is_empty() {
                self.pseudo(name, value, out);
            }
        }
        if let Some(protocol) = head.protocol {
            self.pseudo(b":protocol", protocol, out);
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let field = Field {
            name,
            value,
            sensitive: false,
        };
        self.encoder.field(field, out);
    }

    /// Frames the block that `begin_block` has begun at `start`.
    fn end_block(&self, start: usize, stream: Http2Id, end: bool, out: &mut Vec<u8>) {
        let block = start.saturating_add(HEADER_BYTES);
        let length = out.len().saturating_sub(block);
        let first = FrameHeader {
            length: length.min(self.max_frame_bytes),
            kind: Kind::Headers,
            flags: end_stream(end) | end_headers(length <= self.max_frame_bytes),
            stream: stream.0,
        };
        // What is beyond the first frame makes way for the headers of the frames that continue it.
        let rest = match length.checked_sub(self.max_frame_bytes) {
            None | Some(0) => Vec::new(),
            Some(_) => out.split_off(block.saturating_add(self.max_frame_bytes)),
        };
        if let Some(place) = out.get_mut(start..block) {
            place.copy_from_slice(&first.encode());
        }
        let mut pieces = rest.chunks(self.max_frame_bytes).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            frame(Kind::Continuation, end_headers(last), stream.0, piece, out);
        }
    }
}

const fn end_stream(end: bool) -> u8 {
    if end { flag::END_STREAM } else { 0 }
}

const fn end_headers(end: bool) -> u8 {
    if end { flag::END_HEADERS } else { 0 }
}

/// Three digits; a status is 100 to 999.
fn status_digits(status: u16) -> [u8; 3] {
    let digit = |unit: u16| {
        let digit = status.checked_div(unit).unwrap_or_default().wrapping_rem(10);
        b'0'.wrapping_add(u8::try_from(digit).unwrap_or_default())
    };
    [digit(100), digit(10), digit(1)]
}

/// Appends a frame; the payload is no longer than the receiver's frames may be.
fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(payload);
}
