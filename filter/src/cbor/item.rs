//! CBOR data items (RFC 8949 §3) in slices: heads, and strings borrowed from the input.
//!
//! Heads are read and written here and not by `ciborium-ll`. Reading one took it four times as long as this
//! code (17 against 4 ns, natively), and each byte of a header list passes here twice; it also judges
//! lengths by the host's `usize`, so that a 32-bit build would differ from a 64-bit one, and lets a
//! two-byte simple value below 32 pass. The tests hold this code against `ciborium`.

use crate::error::Error;

/// The high bits of an initial byte (RFC 8949 §3.1).
pub(super) mod major {
    pub(in crate::cbor) const UINT: u8 = 0;
    pub(in crate::cbor) const NINT: u8 = 1 << 5;
    pub(in crate::cbor) const BYTES: u8 = 2 << 5;
    pub(in crate::cbor) const TEXT: u8 = 3 << 5;
    pub(in crate::cbor) const ARRAY: u8 = 4 << 5;
    pub(in crate::cbor) const MAP: u8 = 5 << 5;
    pub(in crate::cbor) const TAG: u8 = 6 << 5;
    pub(in crate::cbor) const SIMPLE: u8 = 7 << 5;
}

const FALSE: u64 = 20;
const TRUE: u64 = 21;
const NULL: u64 = 22;

/// `true` as it is written.
pub(super) const TRUE_BYTE: u8 = major::SIMPLE | 21;

/// Longest head, bytes.
pub(super) const MAX_HEAD: usize = 9;

/// The head of an item: what it is, and its argument. A `Simple` argument is the simple value; a float's
/// is of no use to anyone here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Uint(u64),
    /// The integer -1 - n.
    Nint(u64),
    Bytes(u64),
    Text(u64),
    Array(u64),
    Map(u64),
    Tag(u64),
    Simple(u64),
    Float,
}

impl Head {
    pub(super) const FALSE: Self = Self::Simple(FALSE);
    pub(super) const TRUE: Self = Self::Simple(TRUE);

    /// The head at the front of `bytes` and its length; `None` if it hasn't all arrived. An argument in
    /// more bytes than it needs is accepted (RFC 8949 §4.1 leaves that to the protocol).
    ///
    /// # Errors
    /// [`Error::CborMalformed`]: indefinite lengths, the break, reserved values.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((&initial, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let info = initial & 0x1f;
        let argument = match info {
            0..=23 => Some((u64::from(info), 1)),
            24 => rest.first().map(|&byte| (u64::from(byte), 2)),
            25 => rest
                .first_chunk()
                .map(|&chunk| (u64::from(u16::from_be_bytes(chunk)), 3)),
            26 => rest
                .first_chunk()
                .map(|&chunk| (u64::from(u32::from_be_bytes(chunk)), 5)),
            27 => rest
                .first_chunk()
                .map(|&chunk| (u64::from_be_bytes(chunk), MAX_HEAD)),
            _ => return Err(Error::CborMalformed),
        };
        let Some((argument, length)) = argument else {
            return Ok(None);
        };
        let head = match initial & 0xe0 {
            major::UINT => Self::Uint(argument),
            major::NINT => Self::Nint(argument),
            major::BYTES => Self::Bytes(argument),
            major::TEXT => Self::Text(argument),
            major::ARRAY => Self::Array(argument),
            major::MAP => Self::Map(argument),
            major::TAG => Self::Tag(argument),
            _ if info > 24 => Self::Float,
            // §3.3: a simple value below 32 in two bytes isn't well-formed.
            _ if info == 24 && argument < 32 => return Err(Error::CborMalformed),
            _ => Self::Simple(argument),
        };
        Ok(Some((head, length)))
    }
}

/// An item, or the head of one that holds others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item<'b> {
    Uint(u64),
    /// The integer -1 - n.
    Nint(u64),
    Bytes(&'b [u8]),
    /// Valid UTF-8.
    Text(&'b [u8]),
    Array(u64),
    Map(u64),
    Tag(u64),
    Bool(bool),
    Null,
    /// Floats and other simple values: nothing in the protocol is one.
    Other,
}

/// The items of a message that is there as a whole, one after the other.
pub(super) struct Items<'b> {
    rest: &'b [u8],
}

impl<'b> Items<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What hasn't been taken.
    pub(super) const fn rest(&self) -> &'b [u8] {
        self.rest
    }

    /// The next item.
    ///
    /// # Errors
    /// [`Error::CborMalformed`], also where the bytes end; [`Error::MessageForm`] for text that isn't UTF-8.
    #[inline]
    pub(super) fn item(&mut self) -> Result<Item<'b>, Error> {
        let (head, length) = Head::parse(self.rest)?.ok_or(Error::CborMalformed)?;
        self.rest = self.rest.get(length..).unwrap_or_default();
        Ok(match head {
            Head::Uint(value) => Item::Uint(value),
            Head::Nint(value) => Item::Nint(value),
            Head::Bytes(length) => Item::Bytes(self.take(length)?),
            Head::Text(length) => {
                let text = self.take(length)?;
                std::str::from_utf8(text).map_err(|_| Error::MessageForm)?;
                Item::Text(text)
            }
            Head::Array(count) => Item::Array(count),
            Head::Map(count) => Item::Map(count),
            Head::Tag(tag) => Item::Tag(tag),
            Head::Simple(FALSE) => Item::Bool(false),
            Head::Simple(TRUE) => Item::Bool(true),
            Head::Simple(NULL) => Item::Null,
            Head::Simple(_) | Head::Float => Item::Other,
        })
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], Error> {
        let (taken, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
            .ok_or(Error::CborMalformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned integer that `T` holds.
    ///
    /// # Errors
    /// [`Error::MessageForm`] for anything else.
    pub(super) fn uint<T: TryFrom<u64>>(&mut self) -> Result<T, Error> {
        match self.item()? {
            Item::Uint(value) => T::try_from(value).map_err(|_| Error::MessageForm),
            _ => Err(Error::MessageForm),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// [`Error::MessageForm`] for anything else.
    pub(super) fn bool(&mut self) -> Result<bool, Error> {
        match self.item()? {
            Item::Bool(value) => Ok(value),
            _ => Err(Error::MessageForm),
        }
    }

    /// The head of an array: how many items follow.
    ///
    /// # Errors
    /// [`Error::MessageForm`] for anything else.
    pub(super) fn array(&mut self) -> Result<u64, Error> {
        match self.item()? {
            Item::Array(count) => Ok(count),
            _ => Err(Error::MessageForm),
        }
    }
}

/// Appends a head, its argument in as few bytes as possible (RFC 8949 §4.1).
#[inline]
pub(super) fn write_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    if let Ok(argument) = u8::try_from(argument) {
        if argument < 24 {
            out.push(major | argument);
        } else {
            out.extend_from_slice(&[major | 24, argument]);
        }
    } else if let Ok(argument) = u16::try_from(argument) {
        out.push(major | 25);
        out.extend_from_slice(&argument.to_be_bytes());
    } else if let Ok(argument) = u32::try_from(argument) {
        out.push(major | 26);
        out.extend_from_slice(&argument.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

/// Appends a byte or text string; for text, `bytes` is valid UTF-8.
#[inline]
pub(super) fn write_string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    write_head(out, major, length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Appends `true` or `false`.
pub(super) fn write_bool(out: &mut Vec<u8>, value: bool) {
    write_head(out, major::SIMPLE, if value { TRUE } else { FALSE });
}

/// Appends `null`.
pub(super) fn write_null(out: &mut Vec<u8>) {
    write_head(out, major::SIMPLE, NULL);
}

/// Lossless: `usize` has at most 64 bits on every target of this crate.
pub(super) fn length(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
