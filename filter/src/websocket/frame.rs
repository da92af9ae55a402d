//! Frame headers (RFC 6455 §5.2).

use super::Sender;
use super::control::ControlPayload;
use crate::error::Error;

/// The opcodes that `wsferry.v1` uses; text frames are refused while the header is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// From the low four bits of the first byte.
    const fn load(bits: u8) -> Result<Self, Error> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Err(Error::TextFrame),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(Error::ReservedOpcode),
        }
    }

    const fn encode(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7F;
/// Values of the seven length bits that announce two or eight more bytes.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// One frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<[u8; 4]>,
    /// Bytes of payload, below 2^63.
    pub(super) payload: u64,
}

impl Header {
    /// The longest header: 2 bytes, 8 of length, 4 of key.
    pub(super) const MAX: usize = 14;

    /// Reads a header at the start of `bytes` and returns it with its length; `None` if there isn't
    /// enough of it yet. What is wrong is told from the first byte that shows it.
    pub(super) fn parse(bytes: &[u8], sender: Sender) -> Result<Option<(Self, usize)>, Error> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(Error::ReservedBits);
        }
        let opcode = Opcode::load(first & OPCODE)?;
        let fin = first & FIN != 0;
        if opcode.is_control() && !fin {
            return Err(Error::FragmentedControl);
        }
        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        match (sender, second & MASK != 0) {
            (Sender::Client, false) => return Err(Error::UnmaskedFrame),
            (Sender::Server, true) => return Err(Error::MaskedFrame),
            (Sender::Client, true) | (Sender::Server, false) => {}
        }
        let short = second & LENGTH;
        if opcode.is_control() && usize::from(short) > ControlPayload::MAX {
            return Err(Error::ControlTooLong);
        }
        let Some((payload, rest)) = parse_length(short, rest)? else {
            return Ok(None);
        };
        let (mask, rest) = match sender {
            Sender::Server => (None, rest),
            Sender::Client => match rest.split_first_chunk::<4>() {
                Some((key, rest)) => (Some(*key), rest),
                None => return Ok(None),
            },
        };
        let header = Self {
            fin,
            opcode,
            mask,
            payload,
        };
        Ok(Some((header, bytes.len().saturating_sub(rest.len()))))
    }

    /// The header in its shortest form: the bytes and how many of them.
    pub(super) fn encode(&self) -> ([u8; Self::MAX], usize) {
        let mut bytes = [0; Self::MAX];
        let mut len = 0_usize;
        let mut put = |part: &[u8]| {
            let room = bytes.get_mut(len..).unwrap_or_default();
            room.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            len = len.saturating_add(part.len());
        };
        let fin = if self.fin { FIN } else { 0 };
        let mask = if self.mask.is_some() { MASK } else { 0 };
        put(&[fin | self.opcode.encode()]);
        match (u8::try_from(self.payload), u16::try_from(self.payload)) {
            (Ok(short), _) if short < LENGTH_16 => put(&[mask | short]),
            (_, Ok(medium)) => {
                put(&[mask | LENGTH_16]);
                put(&medium.to_be_bytes());
            }
            _ => {
                put(&[mask | LENGTH_64]);
                put(&self.payload.to_be_bytes());
            }
        }
        if let Some(key) = self.mask {
            put(&key);
        }
        (bytes, len)
    }
}

/// The payload length and what follows it, `None` if there isn't enough of it yet.
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Error> {
    let (length, rest, least) = match short {
        LENGTH_64 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, 1 << 16),
            None => return Ok(None),
        },
        LENGTH_16 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest, u64::from(LENGTH_16)),
            None => return Ok(None),
        },
        short => (u64::from(short), rest, 0),
    };
    if length < least || length >> 63 != 0 {
        return Err(Error::PayloadLength);
    }
    Ok(Some((length, rest)))
}
