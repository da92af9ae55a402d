//! Bytes to events.

use super::frame::{DEFAULT_MAX_FRAME_BYTES, FrameHeader, HEADER_BYTES, Kind, LAST_STREAM, PREFACE, flag};
use super::header_list::{HeaderList, Shape};
use super::hpack::Decoder;
use super::{Event, Sender};
use crate::bytes::take;
use crate::config::Limits;
use crate::error::Error;
use crate::message::{Http2Id, Message, Settings};
use crate::repeat::Last;

/// Largest frame taken, bytes of payload. This side announces no SETTINGS_MAX_FRAME_SIZE.
const MAX_FRAME_BYTES: usize = DEFAULT_MAX_FRAME_BYTES;

/// Most CONTINUATION frames of one header block, so that it has at most 2 MiB. A codec that fills its frames needs 32 at the
/// largest limit of header lists there is, but a list that is too big is to be met with [`Error::Http2HeaderListTooBig`], which
/// costs its stream alone.
const MAX_CONTINUATIONS: usize = 128;

/// Memory that is kept from one header block of several frames to the next, bytes.
const KEPT_BLOCK_BYTES: usize = 64 << 10;

/// Bytes of one sender to events.
///
/// Give [`Reader::next`] each chunk of bytes until it returns `None`. What is kept from chunk to chunk is
/// less than one frame, or one header block of several frames, and never a payload of DATA.
#[derive(Debug)]
pub struct Reader {
    frames: Frames,
    contents: Contents,
}

impl Reader {
    /// A reader before the first byte of `sender`.
    pub fn new(sender: Sender, limits: &Limits) -> Self {
        Self {
            frames: Frames::new(sender),
            contents: Contents {
                sender,
                decoder: Decoder::new(),
                list: HeaderList::new(limits),
                last: Last::new(),
                block: Vec::new(),
                continuations: 0,
                block_ends_stream: false,
                settings: Settings::new(),
            },
        }
    }

    /// Takes bytes from the front of `input` and returns the next event, or `None` once all of `input`
    /// has been taken (a partial frame is kept inside).
    ///
    /// # Errors
    /// Those of the connection; after one, nothing more can be read.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<Event<'a>>, Error> {
        let found = loop {
            let Some(piece) = self.frames.next(input)? else {
                return Ok(None);
            };
            let found = match piece {
                Piece::Frame { header, payload } => self.contents.frame(header, payload)?,
                Piece::Event(event) => Some(Found::Event(event)),
            };
            if let Some(found) = found {
                break found;
            }
        };
        Ok(Some(self.contents.event(found)))
    }
}

/// Cuts bytes into frames.
#[derive(Debug)]
struct Frames {
    /// What is left of the preface.
    preface: &'static [u8],
    /// The first frame, which completes the preface, has come (RFC 9113 §3.4).
    begun: bool,
    /// Of a frame that isn't whole yet: the bytes of its header, then (with `header` set) of its payload.
    partial: Vec<u8>,
    header: Option<FrameHeader>,
    /// `partial` was handed out and isn't needed any more.
    handed_out: bool,
    /// The DATA frame whose payload is passing.
    data: Option<DataFrame>,
    /// The stream whose header block must be continued by the next frame (RFC 9113 §6.10).
    continued: Option<u32>,
}

/// What [`Frames`] yields: all of a frame, or a piece of a DATA frame.
enum Piece<'f, 'i> {
    Frame { header: FrameHeader, payload: &'f [u8] },
    Event(Event<'i>),
}

impl Frames {
    const fn new(sender: Sender) -> Self {
        Self {
            preface: match sender {
                Sender::Client => PREFACE,
                Sender::Server => &[],
            },
            begun: false,
            partial: Vec::new(),
            header: None,
            handed_out: false,
            data: None,
            continued: None,
        }
    }

    /// `None`: all of `input` is taken.
    fn next<'f, 'i: 'f>(&'f mut self, input: &mut &'i [u8]) -> Result<Option<Piece<'f, 'i>>, Error> {
        if std::mem::take(&mut self.handed_out) {
            self.partial.clear();
        }
        self.preface(input)?;
        loop {
            if let Some(data) = &mut self.data {
                match data.step(input)? {
                    Progress::Event(event) => return Ok(Some(Piece::Event(event))),
                    Progress::Wait => return Ok(None),
                    Progress::Done => self.data = None,
                }
            }
            let header = match self.header {
                Some(header) => header,
                None => match self.header(input) {
                    Some(header) => {
                        self.check(header)?;
                        header
                    }
                    None => return Ok(None),
                },
            };
            if header.kind == Kind::Data {
                self.data = Some(DataFrame::new(header)?);
                continue;
            }
            if self.partial.is_empty()
                && let Some((payload, rest)) = input.split_at_checked(header.length)
            {
                *input = rest;
                self.header = None;
                return Ok(Some(Piece::Frame { header, payload }));
            }
            let missing = header.length.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(take(input, missing));
            if self.partial.len() < header.length {
                self.header = Some(header);
                return Ok(None);
            }
            self.header = None;
            self.handed_out = true;
            let payload = &self.partial;
            return Ok(Some(Piece::Frame { header, payload }));
        }
    }

    fn preface(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        if self.preface.is_empty() {
            return Ok(());
        }
        let part = take(input, self.preface.len());
        self.preface = self.preface.strip_prefix(part).ok_or(Error::Http2Preface)?;
        Ok(())
    }

    /// The header of the next frame, once all of it is there.
    fn header(&mut self, input: &mut &[u8]) -> Option<FrameHeader> {
        if self.partial.is_empty()
            && let Some((header, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(FrameHeader::load(*header));
        }
        let missing = HEADER_BYTES.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(take(input, missing));
        let header = FrameHeader::load(*self.partial.first_chunk()?);
        self.partial.clear();
        Some(header)
    }

    /// Whether the frame may come here.
    fn check(&mut self, header: FrameHeader) -> Result<(), Error> {
        let expected = match self.continued {
            Some(stream) => header.kind == Kind::Continuation && header.stream == stream,
            None if !self.begun => header.kind == Kind::Settings && !header.has(flag::ACK),
            None => header.kind != Kind::Continuation,
        };
        self.begun = true;
        if !expected {
            return Err(Error::Http2Protocol);
        }
        header.check(MAX_FRAME_BYTES)?;
        let open =
            matches!(header.kind, Kind::Headers | Kind::Continuation) && !header.has(flag::END_HEADERS);
        self.continued = open.then_some(header.stream);
        Ok(())
    }
}

/// A DATA frame whose header is read: the payload passes as it comes (RFC 9113 §6.1).
#[derive(Debug)]
struct DataFrame {
    stream: Http2Id,
    /// END_STREAM is set and hasn't been passed on.
    end: bool,
    pad_length_due: bool,
    /// Bytes to come.
    payload: usize,
    padding: usize,
}

enum Progress<'i> {
    Event(Event<'i>),
    /// More bytes are needed.
    Wait,
    Done,
}

impl DataFrame {
    fn new(header: FrameHeader) -> Result<Self, Error> {
        let pad_length_due = header.has(flag::PADDED);
        let payload = if pad_length_due {
            header.length.checked_sub(1).ok_or(Error::Http2FrameSize)?
        } else {
            header.length
        };
        Ok(Self {
            stream: Http2Id(header.stream),
            end: header.has(flag::END_STREAM),
            pad_length_due,
            payload,
            padding: 0,
        })
    }

    fn step<'i>(&mut self, input: &mut &'i [u8]) -> Result<Progress<'i>, Error> {
        let stream = self.stream;
        if self.pad_length_due {
            let [length] = *take(input, 1) else {
                return Ok(Progress::Wait);
            };
            self.pad_length_due = false;
            self.padding = usize::from(length);
            self.payload = self
                .payload
                .checked_sub(self.padding)
                .ok_or(Error::Http2Protocol)?;
            let bytes = u32::from(length).saturating_add(1);
            return Ok(Progress::Event(Event::Padding { stream, bytes }));
        }
        let payload = take(input, self.payload);
        self.payload = self.payload.saturating_sub(payload.len());
        let end = self.end && self.payload == 0;
        if end || !payload.is_empty() {
            self.end &= !end;
            let data = Message::Data { stream, end, payload };
            return Ok(Progress::Event(Event::Message(data)));
        }
        self.padding = self.padding.saturating_sub(take(input, self.padding).len());
        if self.payload > 0 || self.padding > 0 {
            Ok(Progress::Wait)
        } else {
            Ok(Progress::Done)
        }
    }
}

/// Makes sense of whole frames.
#[derive(Debug)]
struct Contents {
    sender: Sender,
    decoder: Decoder,
    list: HeaderList,
    /// The block that `list` is of.
    last: Last<()>,
    /// A header block of several frames, and how many CONTINUATION frames there were.
    block: Vec<u8>,
    continuations: usize,
    /// END_STREAM of the HEADERS frame that began the block.
    block_ends_stream: bool,
    settings: Settings,
}

/// An event whose parts may still lie in [`Contents`].
enum Found<'i> {
    Event(Event<'i>),
    Headers {
        stream: Http2Id,
        end: bool,
        shape: Shape,
    },
    Settings,
}

impl Contents {
    fn frame<'i>(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Option<Found<'i>>, Error> {
        let stream = Http2Id(header.stream);
        let event = match header.kind {
            Kind::Headers => return self.headers(header, payload),
            Kind::Continuation => return self.continuation(header, payload),
            Kind::Settings if header.has(flag::ACK) => Event::Message(Message::Ack),
            Kind::Settings => {
                self.settings(payload)?;
                return Ok(Some(Found::Settings));
            }
            Kind::Ping => {
                let opaque = *payload.first_chunk().ok_or(Error::Http2FrameSize)?;
                if header.has(flag::ACK) {
                    Event::PingAck(opaque)
                } else {
                    Event::Ping(opaque)
                }
            }
            Kind::ResetStream => Event::Message(Message::Reset {
                stream,
                code: number(payload)?,
            }),
            Kind::WindowUpdate => match number(payload)? & LAST_STREAM {
                0 => return Err(Error::Http2Protocol),
                bytes => Event::Message(Message::Credit {
                    stream: (stream.0 != 0).then_some(stream),
                    bytes,
                }),
            },
            Kind::Goaway => {
                let last = number(payload)? & LAST_STREAM;
                Event::Message(Message::Goaway {
                    last: (last != LAST_STREAM).then_some(Http2Id(last)),
                    code: number(payload.get(4..).unwrap_or_default())?,
                })
            }
            // DATA comes as events; PUSH_PROMISE was refused.
            Kind::Data | Kind::PushPromise | Kind::Priority | Kind::Unknown(_) => return Ok(None),
        };
        Ok(Some(Found::Event(event)))
    }

    fn headers<'i>(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Option<Found<'i>>, Error> {
        let part = block_part(header, payload)?;
        let end = header.has(flag::END_STREAM);
        // Shorter than the shortest limit of a block, as a frame is.
        if header.has(flag::END_HEADERS) {
            self.decode(part)?;
            return Ok(Some(self.finish(Http2Id(header.stream), end)));
        }
        self.block.clear();
        self.block.extend_from_slice(part);
        self.continuations = 0;
        self.block_ends_stream = end;
        Ok(None)
    }

    fn continuation<'i>(&mut self, header: FrameHeader, part: &[u8]) -> Result<Option<Found<'i>>, Error> {
        self.continuations = self.continuations.saturating_add(1);
        if self.continuations > MAX_CONTINUATIONS {
            return Err(Error::Http2FrameSize);
        }
        self.block.extend_from_slice(part);
        if !header.has(flag::END_HEADERS) {
            return Ok(None);
        }
        let block = std::mem::take(&mut self.block);
        self.decode(&block)?;
        if block.capacity() <= KEPT_BLOCK_BYTES {
            self.block = block;
        }
        self.decoder.shrink(KEPT_BLOCK_BYTES);
        Ok(Some(self.finish(Http2Id(header.stream), self.block_ends_stream)))
    }

    /// Has `list` hold what a block says, which it may do already.
    fn decode(&mut self, block: &[u8]) -> Result<(), Error> {
        let version = self.decoder.table().version();
        if self.last.get((), version) == Some(block) {
            self.list.comes_again();
            return Ok(());
        }
        self.list.clear();
        self.decoder.decode(block, |field| self.list.add(field))?;
        self.last.set((), version, self.decoder.table().version(), block);
        Ok(())
    }

    fn finish<'i>(&self, stream: Http2Id, end: bool) -> Found<'i> {
        match self.list.finish(self.sender, end) {
            Ok(shape) => Found::Headers { stream, end, shape },
            Err(error) => Found::Event(Event::Malformed { stream, error }),
        }
    }

    /// Keeps the parameters that are known. An extension's aren't passed on, as its frames are not.
    fn settings(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.settings.clear();
        let (parameters, _) = payload.as_chunks::<6>();
        for [i0, i1, v0, v1, v2, v3] in parameters {
            let id = u16::from_be_bytes([*i0, *i1]);
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            let valid = match id {
                Settings::HEADER_TABLE_SIZE
                | Settings::MAX_CONCURRENT_STREAMS
                | Settings::MAX_HEADER_LIST_SIZE => true,
                // A server must not enable what only it can do (§6.5.2).
                Settings::ENABLE_PUSH if self.sender == Sender::Server => value == 0,
                Settings::ENABLE_PUSH | Settings::ENABLE_CONNECT_PROTOCOL => value <= 1,
                Settings::INITIAL_WINDOW_SIZE => value <= 0x7fff_ffff,
                Settings::MAX_FRAME_SIZE => (16_384..=16_777_215).contains(&value),
                _ => continue,
            };
            if !valid {
                return Err(Error::Http2Protocol);
            }
            self.settings.set(id, value);
        }
        Ok(())
    }

    fn event<'a, 'i: 'a>(&'a self, found: Found<'i>) -> Event<'a> {
        Event::Message(match found {
            Found::Event(event) => return event,
            Found::Settings => Message::Settings(&self.settings),
            Found::Headers { stream, end, shape } => match shape {
                Shape::Request => Message::Request {
                    stream,
                    end,
                    head: self.list.request_head(),
                },
                Shape::Response { status } => Message::Response {
                    stream,
                    end,
                    status,
                    fields: self.list.fields(),
                },
                Shape::Trailers => Message::Trailers {
                    stream,
                    fields: self.list.fields(),
                },
            },
        })
    }
}

/// A HEADERS payload without padding and priority (RFC 9113 §6.2).
fn block_part(header: FrameHeader, payload: &[u8]) -> Result<&[u8], Error> {
    let mut rest = payload;
    let mut padding = 0;
    if header.has(flag::PADDED) {
        let [length] = *take(&mut rest, 1) else {
            return Err(Error::Http2FrameSize);
        };
        padding = usize::from(length);
    }
    if header.has(flag::PRIORITY) && take(&mut rest, 5).len() < 5 {
        return Err(Error::Http2FrameSize);
    }
    let part = rest.len().checked_sub(padding).ok_or(Error::Http2Protocol)?;
    Ok(take(&mut rest, part))
}

/// The number that a payload begins with.
fn number(payload: &[u8]) -> Result<u32, Error> {
    let bytes = payload.first_chunk().ok_or(Error::Http2FrameSize)?;
    Ok(u32::from_be_bytes(*bytes))
}
