//! What the other end of the WebSocket sends.

use std::ops::Range;

use super::control::is_sendable_close_code;
use super::frame::{Header, Opcode};
use super::{ControlPayload, Sender, apply_mask};
use crate::error::Error;

/// One step of what the other end sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Unmasked payload bytes of the current binary message: this range of `input`. Never empty.
    Payload(Range<usize>),
    /// The current binary message has ended (its last frame's payload came before).
    MessageEnd,
    /// To be answered with a Pong of the same payload (RFC 6455 §5.5.2).
    Ping(ControlPayload),
    /// Answers a Ping, or comes unasked (RFC 6455 §5.5.3).
    Pong(ControlPayload),
    /// The other end sends no more; to be answered with Close unless this side has sent its own
    /// (RFC 6455 §5.5.1).
    Close {
        /// Only codes that may be sent; `None` where the frame is empty (1005, §7.1.5).
        code: Option<u16>,
        /// UTF-8, at most 123 bytes.
        reason: ControlPayload,
    },
}

/// Takes frames apart. Binary messages, whole or fragmented, control frames in between.
///
/// ```text
///        ┌───────────────── header of a data frame ──► Data ── payload taken ─┐
///        ▼                                                                    │
///   Header ◄──────────────────────────────────────────────────────────────────┘
///        │ ▲                                                                   (FIN: MessageEnd)
///        │ └── payload complete: Ping, Pong ── Control ◄── header of a control frame
///        └── Close, or any error ──► Done
/// ```
#[derive(Debug)]
pub struct Reader {
    sender: Sender,
    max_message_bytes: u64,
    state: State,
    /// Payload bytes announced by the frames of the current message so far; `None` between messages.
    message: Option<u64>,
}

#[derive(Debug)]
enum State {
    /// Before or inside a frame header: what has come of it.
    Header { bytes: [u8; Header::MAX], len: usize },
    /// Inside a data frame's payload.
    Data {
        remaining: u64,
        mask: Option<[u8; 4]>,
        fin: bool,
    },
    /// Inside a control frame's payload.
    Control { header: Header, payload: ControlPayload },
    /// After Close or an error: whatever comes is ignored.
    Done,
}

impl State {
    const BETWEEN_FRAMES: Self = Self::Header {
        bytes: [0; Header::MAX],
        len: 0,
    };
}

impl Reader {
    /// `sender`: who sends what is read here. `max_message_bytes` is for the payload of all fragments
    /// of a message together, and is held against each header before any of its payload is taken.
    pub fn new(sender: Sender, max_message_bytes: usize) -> Self {
        Self {
            sender,
            max_message_bytes: u64::try_from(max_message_bytes).unwrap_or(u64::MAX),
            state: State::BETWEEN_FRAMES,
            message: None,
        }
    }

    /// Takes bytes from `input[*position..]`, unmasking payload in place, moves `*position` on and
    /// returns the next event, or `None` once all was taken. A partial frame header or control payload
    /// is kept inside; data payload never is.
    ///
    /// # Errors
    /// Any breach of RFC 6455, a text frame, a message over the limit. After an error, as after
    /// [`Event::Close`], the rest is taken and ignored.
    pub fn next(&mut self, input: &mut [u8], position: &mut usize) -> Result<Option<Event>, Error> {
        let event = self.step(input, position);
        if matches!(event, Err(_) | Ok(Some(Event::Close { .. }))) {
            self.state = State::Done;
        }
        event
    }

    fn step(&mut self, input: &mut [u8], position: &mut usize) -> Result<Option<Event>, Error> {
        loop {
            let rest = input.get_mut(*position..).unwrap_or_default();
            match &mut self.state {
                State::Header { bytes, len } => {
                    let Some((header, taken)) = take_header(bytes, len, rest, self.sender)? else {
                        *position = input.len();
                        return Ok(None);
                    };
                    *position = position.saturating_add(taken);
                    self.state = self.begin_frame(header)?;
                }
                State::Data {
                    remaining: 0, fin, ..
                } => {
                    let ends_message = *fin;
                    self.state = State::BETWEEN_FRAMES;
                    if ends_message {
                        self.message = None;
                        return Ok(Some(Event::MessageEnd));
                    }
                }
                State::Data { remaining, mask, .. } => {
                    if rest.is_empty() {
                        return Ok(None);
                    }
                    // Beyond usize is beyond this input too.
                    let wanted = usize::try_from(*remaining).unwrap_or(usize::MAX);
                    let taken = wanted.min(rest.len());
                    let piece = rest.get_mut(..taken).unwrap_or_default();
                    if let Some(key) = mask {
                        *key = apply_mask(piece, *key);
                    }
                    *remaining = remaining.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                    let start = *position;
                    *position = start.saturating_add(taken);
                    return Ok(Some(Event::Payload(start..*position)));
                }
                State::Control { header, payload } => {
                    let wanted = usize::try_from(header.payload)
                        .unwrap_or(usize::MAX)
                        .saturating_sub(payload.len());
                    let piece = rest.get(..wanted.min(rest.len())).unwrap_or_default();
                    let taken = payload.push(piece);
                    *position = position.saturating_add(taken);
                    if taken < wanted {
                        return Ok(None);
                    }
                    if let Some(key) = header.mask {
                        apply_mask(payload.as_mut(), key);
                    }
                    let (opcode, payload) = (header.opcode, *payload);
                    self.state = State::BETWEEN_FRAMES;
                    return control_event(opcode, payload).map(Some);
                }
                State::Done => {
                    *position = input.len();
                    return Ok(None);
                }
            }
        }
    }

    /// Fragmentation (RFC 6455 §5.4) and the size limit, from the header alone.
    fn begin_frame(&mut self, header: Header) -> Result<State, Error> {
        if header.opcode.is_control() {
            return Ok(State::Control {
                header,
                payload: ControlPayload::new(),
            });
        }
        let before = match (header.opcode, self.message) {
            (Opcode::Continuation, Some(before)) => before,
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(Error::Fragmentation),
            (_, None) => 0,
        };
        let message = before.saturating_add(header.payload);
        if message > self.max_message_bytes {
            return Err(Error::MessageTooBig);
        }
        self.message = Some(message);
        Ok(State::Data {
            remaining: header.payload,
            mask: header.mask,
            fin: header.fin,
        })
    }
}

/// A header from what was kept of it and what came; and how many bytes of `rest` belong to it. Keeps
/// all of `rest` where that isn't enough.
fn take_header(
    kept: &mut [u8; Header::MAX],
    len: &mut usize,
    rest: &[u8],
    sender: Sender,
) -> Result<Option<(Header, usize)>, Error> {
    if *len == 0 {
        // The common case: the whole header is there.
        if let Some(found) = Header::parse(rest, sender)? {
            return Ok(Some(found));
        }
    }
    let before = *len;
    let room = kept.get_mut(before..).unwrap_or_default();
    let copied = room.len().min(rest.len());
    room.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    *len = before.saturating_add(copied);
    let found = Header::parse(kept.get(..*len).unwrap_or_default(), sender)?;
    Ok(found.map(|(header, length)| (header, length.saturating_sub(before))))
}

fn control_event(opcode: Opcode, payload: ControlPayload) -> Result<Event, Error> {
    match opcode {
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        // Data frames don't come here.
        Opcode::Close | Opcode::Continuation | Opcode::Binary => close_event(&payload),
    }
}

fn close_event(payload: &[u8]) -> Result<Event, Error> {
    if payload.is_empty() {
        return Ok(Event::Close {
            code: None,
            reason: ControlPayload::new(),
        });
    }
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(Error::CloseFrame)?;
    let code = u16::from_be_bytes(*code);
    if !is_sendable_close_code(code) || std::str::from_utf8(reason).is_err() {
        return Err(Error::CloseFrame);
    }
    Ok(Event::Close {
        code: Some(code),
        reason: ControlPayload::from(reason),
    })
}
