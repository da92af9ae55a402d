//! CBOR to messages: cuts what arrives into messages, whatever the size of the pieces.

use super::header_block::HeaderBlock;
use super::item::{Head, Item, Items, MAX_HEAD};
use super::scanner::Scanner;
use super::{is_hop_setting, item, message_type};
use crate::bytes::take;
use crate::config::{Limits, MESSAGE_BYTES, RAW_BYTES};
use crate::error::Error;
use crate::message::{Message, Settings, WireId};
use crate::repeat::Last;

/// Turns CBOR into messages; one for each direction and connection, as it holds that direction's field
/// table.
///
/// Data is passed on as it arrives, other messages once they are complete. What it keeps of a message that
/// isn't is bounded by twice the limit of header lists.
pub struct Decoder {
    state: State,
    /// The part of a message that has arrived, where it must be kept.
    kept: Vec<u8>,
    content: Content,
}

/// How a message goes on.
#[derive(Debug)]
enum State {
    /// At the beginning of a message, or before it is known what it is.
    Opening,
    /// Any message but data: kept until it is complete.
    Whole(Scanner),
    /// A message of a type that is skipped.
    Skipped(Scanner),
    /// The payload of data.
    Payload {
        stream: WireId,
        end: bool,
        /// Bytes still to come.
        left: u64,
    },
}

/// What the first items of a message say.
enum Opening {
    Whole,
    Skipped,
    Data {
        stream: WireId,
        end: bool,
        payload: u64,
        /// Bytes up to the payload.
        head: usize,
    },
}

/// Longest beginning of a message by which its kind, and for data everything but the payload, is known:
/// four heads of any size and a boolean.
const MAX_OPENING: usize = 4 * MAX_HEAD + 1;

/// What a decoder keeps for partial messages when it has nothing to keep, bytes.
const KEPT_CAPACITY: usize = 64 * 1024;

/// A header list may take so many times its own bytes: a field's heads take less than the 32 bytes that it counts beside its
/// name and value, and the pieces of a packed value, unless they are cut for nothing, less than what they stand for.
const BYTES_PER_LIST_BYTE: usize = 2;

/// What surrounds the bytes of a message of [`RAW_BYTES`]: an array, its type, the head of a byte string.
const RAW_HEAD: usize = 7;

enum Step<'a> {
    Message(Decoded<'a>),
    Again,
    /// All of the input has been taken.
    Wait,
}

/// A message without what it borrows from the decoder.
#[derive(Clone, Copy)]
enum Decoded<'a> {
    Request {
        stream: WireId,
        end: bool,
    },
    Response {
        stream: WireId,
        end: bool,
        status: u16,
    },
    Trailers {
        stream: WireId,
    },
    Settings,
    Raw,
    /// A message that borrows from the input alone.
    Complete(Message<'a, WireId>),
}

impl Decoder {
    /// A decoder with an empty field table.
    pub fn new(limits: &Limits) -> Self {
        Self {
            state: State::Opening,
            kept: Vec::new(),
            content: Content {
                max_message_bytes: item::length(limits.max_message_bytes),
                max_whole_bytes: limits
                    .max_header_list_bytes
                    .saturating_mul(BYTES_PER_LIST_BYTE)
                    .clamp(RAW_BYTES.saturating_add(RAW_HEAD), MESSAGE_BYTES),
                headers: HeaderBlock::new(limits),
                last: Last::new(),
                settings: Settings::new(),
                raw: Vec::new(),
            },
        }
    }

    /// Takes bytes of the current WebSocket message from the front of `input` and returns the next message,
    /// or `None` once all of `input` has been taken (a part of a message is kept inside).
    ///
    /// # Errors
    /// What was wrong with the bytes. The connection can't go on after it, as the tables of both ends are no
    /// longer the same.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Message<'a, WireId>>, Error> {
        loop {
            match self.step(input)? {
                Step::Message(decoded) => return Ok(Some(self.content.view(decoded))),
                Step::Again => {}
                Step::Wait => return Ok(None),
            }
        }
    }

    /// The WebSocket message has ended.
    ///
    /// # Errors
    /// [`Error::CborMalformed`] for a CBOR item cut off here.
    pub fn end_of_message(&mut self) -> Result<(), Error> {
        match self.state {
            State::Opening if self.kept.is_empty() => Ok(()),
            _ => Err(Error::CborMalformed),
        }
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, Error> {
        match &mut self.state {
            State::Opening => self.open(input),
            State::Whole(scanner) => {
                let (length, complete) = scanner.scan(input)?;
                let part = take(input, length);
                if self.kept.len().saturating_add(part.len()) > self.content.max_whole_bytes {
                    return Err(Error::MessageTooBig);
                }
                if !complete {
                    self.kept.extend_from_slice(part);
                    return Ok(Step::Wait);
                }
                self.state = State::Opening;
                let decoded = if self.kept.is_empty() {
                    self.content.decode(part)?
                } else {
                    self.kept.extend_from_slice(part);
                    let decoded = self.content.decode(&self.kept)?;
                    self.kept.clear();
                    self.kept.shrink_to(KEPT_CAPACITY);
                    decoded
                };
                Ok(Step::Message(decoded))
            }
            State::Skipped(scanner) => {
                let (length, complete) = scanner.scan(input)?;
                take(input, length);
                if !complete {
                    return Ok(Step::Wait);
                }
                self.state = State::Opening;
                Ok(Step::Again)
            }
            &mut State::Payload { stream, end, left } => Ok(self.payload(stream, end, left, input)),
        }
    }

    /// At the beginning of a message: finds out what it is.
    fn open<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, Error> {
        if input.is_empty() {
            return Ok(Step::Wait);
        }
        let before = self.kept.len();
        let opening = if before == 0 {
            self.content.opening(input)?
        } else {
            let part = input.get(..MAX_OPENING.saturating_sub(before)).unwrap_or(input);
            self.kept.extend_from_slice(part);
            self.content.opening(&self.kept)?
        };
        match opening {
            // Not enough bytes: then `input` has no more than could be kept.
            None => {
                if before == 0 {
                    self.kept.extend_from_slice(input);
                }
                *input = &[];
                return Ok(Step::Wait);
            }
            Some(Opening::Data {
                stream,
                end,
                payload,
                head,
            }) => {
                take(input, head.saturating_sub(before));
                self.kept.clear();
                self.state = State::Payload {
                    stream,
                    end,
                    left: payload,
                };
            }
            Some(Opening::Whole) => {
                if before == 0
                    && let Some((decoded, length)) = self.content.again(input)
                {
                    take(input, length);
                    return Ok(Step::Message(decoded));
                }
                self.kept.truncate(before);
                self.state = State::Whole(self.resumed()?);
            }
            Some(Opening::Skipped) => {
                self.kept.truncate(before);
                self.state = State::Skipped(self.resumed()?);
                self.kept.clear();
            }
        }
        Ok(Step::Again)
    }

    /// A scanner that has seen what is kept.
    fn resumed(&self) -> Result<Scanner, Error> {
        let mut scanner = Scanner::new(self.content.max_message_bytes);
        scanner.scan(&self.kept)?;
        Ok(scanner)
    }

    /// Passes on as much of the payload as is there.
    fn payload<'a>(&mut self, stream: WireId, end: bool, left: u64, input: &mut &'a [u8]) -> Step<'a> {
        if left > 0 && input.is_empty() {
            return Step::Wait;
        }
        let part = usize::try_from(left).map_or(usize::MAX, |left| left.min(input.len()));
        let payload = take(input, part);
        let left = left.saturating_sub(item::length(payload.len()));
        self.state = if left == 0 {
            State::Opening
        } else {
            State::Payload { stream, end, left }
        };
        Step::Message(Decoded::Complete(Message::Data {
            stream,
            end: end && left == 0,
            payload,
        }))
    }
}

/// Decodes single messages.
struct Content {
    max_message_bytes: u64,
    /// Of a message other than data.
    max_whole_bytes: usize,
    headers: HeaderBlock,
    /// What the list in `headers` was decoded from.
    last: Last<ListKind>,
    settings: Settings,
    raw: Vec<u8>,
}

/// What a header list is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ListKind {
    /// Of the message's array.
    items: u64,
    /// Of a response.
    status: Option<u16>,
}

impl Content {
    /// What the message that begins with `bytes` is; `None` if there are too few of them.
    fn opening(&self, bytes: &[u8]) -> Result<Option<Opening>, Error> {
        let mut at = 0_usize;
        let mut head = || -> Result<Option<Head>, Error> {
            let parsed = Head::parse(bytes.get(at..).unwrap_or_default())?;
            Ok(parsed.map(|(head, length)| {
                at = at.saturating_add(length);
                head
            }))
        };
        let count = match head()? {
            Some(Head::Array(count @ 1..)) => count,
            Some(_) => return Err(Error::MessageForm),
            None => return Ok(None),
        };
        match head()? {
            Some(Head::Uint(message_type::DATA)) if count == 4 => {}
            Some(Head::Uint(message_type::DATA)) => return Err(Error::MessageForm),
            Some(Head::Uint(message_type::REQUEST..=message_type::RAW)) => {
                return Ok(Some(Opening::Whole));
            }
            Some(Head::Uint(message_type::SKIPPED..)) => return Ok(Some(Opening::Skipped)),
            Some(Head::Uint(_)) => return Err(Error::MessageType),
            Some(_) => return Err(Error::MessageForm),
            None => return Ok(None),
        }
        let stream = match head()? {
            Some(Head::Uint(stream)) => WireId(u16::try_from(stream).map_err(|_| Error::MessageForm)?),
            Some(_) => return Err(Error::MessageForm),
            None => return Ok(None),
        };
        let end = match head()? {
            Some(Head::FALSE) => false,
            Some(Head::TRUE) => true,
            Some(_) => return Err(Error::MessageForm),
            None => return Ok(None),
        };
        let payload = match head()? {
            Some(Head::Bytes(length)) if length <= self.max_message_bytes => length,
            // It can't end within a WebSocket message.
            Some(Head::Bytes(_)) => return Err(Error::CborMalformed),
            Some(_) => return Err(Error::MessageForm),
            None => return Ok(None),
        };
        Ok(Some(Opening::Data {
            stream,
            end,
            payload,
            head: at,
        }))
    }

    /// Decodes a message other than data that is there as a whole.
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<'static>, Error> {
        let mut items = Items::new(bytes);
        let items = &mut items;
        let count = items.array()?;
        let message = match (items.uint::<u64>()?, count) {
            (message_type::REQUEST, 8 | 9) => {
                let stream = stream(items)?;
                let end = items.bool()?;
                let kind = ListKind {
                    items: count,
                    status: None,
                };
                self.list(kind, items, |headers, items| headers.request(items, count == 9))?;
                return Ok(Decoded::Request { stream, end });
            }
            (message_type::RESPONSE, 5) => {
                let stream = stream(items)?;
                let end = items.bool()?;
                let status = items.uint()?;
                if !(100..=999).contains(&status) {
                    return Err(Error::MessageForm);
                }
                let kind = ListKind {
                    items: count,
                    status: Some(status),
                };
                self.list(kind, items, |headers, items| headers.fields_only(items, true))?;
                return Ok(Decoded::Response { stream, end, status });
            }
            (message_type::TRAILERS, 3) => {
                let stream = stream(items)?;
                let kind = ListKind {
                    items: count,
                    status: None,
                };
                self.list(kind, items, |headers, items| headers.fields_only(items, false))?;
                return Ok(Decoded::Trailers { stream });
            }
            (message_type::RESET, 3) => Message::Reset {
                stream: stream(items)?,
                code: items.uint()?,
            },
            (message_type::CREDIT, 3) => Message::Credit {
                stream: match items.item()? {
                    Item::Uint(stream) => {
                        Some(WireId(u16::try_from(stream).map_err(|_| Error::MessageForm)?))
                    }
                    Item::Nint(0) => None,
                    _ => return Err(Error::MessageForm),
                },
                bytes: match items.uint::<u64>()? {
                    bytes @ 1..=MAX_CREDIT => u32::try_from(bytes).map_err(|_| Error::InvalidCredit)?,
                    _ => return Err(Error::InvalidCredit),
                },
            },
            (message_type::SETTINGS, 2) => {
                self.settings(items)?;
                return Ok(Decoded::Settings);
            }
            (message_type::ACK, 1) => Message::Ack,
            (message_type::GOAWAY, 3) => Message::Goaway {
                last: match items.item()? {
                    Item::Uint(stream) => {
                        Some(WireId(u16::try_from(stream).map_err(|_| Error::MessageForm)?))
                    }
                    Item::Null => None,
                    _ => return Err(Error::MessageForm),
                },
                code: items.uint()?,
            },
            (message_type::RAW, 2) => {
                let Item::Bytes(bytes) = items.item()? else {
                    return Err(Error::MessageForm);
                };
                self.raw.clear();
                self.raw.extend_from_slice(bytes);
                return Ok(Decoded::Raw);
            }
            _ => return Err(Error::MessageForm),
        };
        Ok(Decoded::Complete(message))
    }

    /// Decodes the rest of a message, which is a header list, and keeps its bytes.
    fn list<'b>(
        &mut self,
        kind: ListKind,
        items: &mut Items<'b>,
        decode: impl FnOnce(&mut HeaderBlock, &mut Items<'b>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let bytes = items.rest();
        let version = self.headers.version();
        decode(&mut self.headers, items)?;
        self.last.set(kind, version, self.headers.version(), bytes);
        Ok(())
    }

    /// The message at the front of `bytes` and its length, if its header list is the one that was decoded last, byte for
    /// byte. Anything else, and anything wrong, is for [`Content::decode`].
    fn again(&mut self, bytes: &[u8]) -> Option<(Decoded<'static>, usize)> {
        let mut items = Items::new(bytes);
        let items = &mut items;
        let count = items.array().ok()?;
        let message_type = items.uint::<u64>().ok()?;
        let stream = stream(items).ok()?;
        let end = items.bool().ok()?;
        let (status, decoded) = match (message_type, count) {
            (message_type::REQUEST, 8 | 9) => (None, Decoded::Request { stream, end }),
            (message_type::RESPONSE, 5) => {
                let status = items.uint().ok()?;
                (Some(status), Decoded::Response { stream, end, status })
            }
            _ => return None,
        };
        let kind = ListKind { items: count, status };
        let list = self.last.get(kind, self.headers.version())?;
        let rest = items.rest().strip_prefix(list)?;
        self.headers.comes_again();
        Some((decoded, bytes.len().saturating_sub(rest.len())))
    }

    fn settings(&mut self, items: &mut Items<'_>) -> Result<(), Error> {
        let Item::Map(count) = items.item()? else {
            return Err(Error::MessageForm);
        };
        if count > item::length(Settings::MAX_ENTRIES) {
            return Err(Error::MessageForm);
        }
        self.settings.clear();
        let mut seen = [None; Settings::MAX_ENTRIES];
        for (_, place) in (0..count).zip(0..) {
            let id: u64 = items.uint()?;
            let value: u32 = items.uint()?;
            if seen.contains(&Some(id)) {
                return Err(Error::MessageForm);
            }
            if let Some(free) = seen.get_mut::<usize>(place) {
                *free = Some(id);
            }
            if let Ok(id) = u16::try_from(id)
                && !is_hop_setting(id)
            {
                self.settings.set(id, value);
            }
        }
        Ok(())
    }

    fn view<'a>(&'a self, decoded: Decoded<'a>) -> Message<'a, WireId> {
        match decoded {
            Decoded::Request { stream, end } => Message::Request {
                stream,
                end,
                head: self.headers.head(),
            },
            Decoded::Response { stream, end, status } => Message::Response {
                stream,
                end,
                status,
                fields: self.headers.fields(),
            },
            Decoded::Trailers { stream } => Message::Trailers {
                stream,
                fields: self.headers.fields(),
            },
            Decoded::Settings => Message::Settings(&self.settings),
            Decoded::Raw => Message::Raw(&self.raw),
            Decoded::Complete(message) => message,
        }
    }
}

/// Largest credit, bytes (RFC 9113 §6.9).
const MAX_CREDIT: u64 = (1 << 31) - 1;

fn stream(items: &mut Items<'_>) -> Result<WireId, Error> {
    items.uint().map(WireId)
}
