//! Values that are shorter as numbers: integers, dates, UUIDs.
//!
//! A value travels typed only if formatting it again gives the same bytes, so nobody can tell afterwards.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::item::{Item, Items, major, write_head, write_string};
use crate::error::Error;

/// Largest integer that travels as one: 2^63 - 1.
const MAX_INTEGER: u64 = i64::MAX.unsigned_abs();
/// 9999-12-31 23:59:59, the last moment of the HTTP date format; seconds since 1970.
const MAX_DATE: u64 = 253_402_300_799;
/// Epoch-based date and time (RFC 8949 §3.4.2).
const TAG_DATE: u64 = 1;
/// UUID (IANA's registry of CBOR tags).
const TAG_UUID: u64 = 37;
/// Bytes of an IMF-fixdate (RFC 9110 §5.6.7).
const DATE_LENGTH: usize = 29;
/// Bytes of a UUID as text (RFC 9562 §4).
const UUID_LENGTH: usize = 36;

/// A value as CBOR can say it in fewer bytes than text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typed {
    /// Decimal, no leading zeros, 0 to 2^63 - 1.
    Integer(u64),
    /// IMF-fixdate (RFC 9110 §5.6.7), seconds since 1970.
    Date(u64),
    /// Lower-case UUID (RFC 9562 §4).
    Uuid([u8; 16]),
}

impl Typed {
    /// The typed form of a value, if it has one that formats to the same bytes.
    pub(super) fn of(value: &[u8]) -> Option<Self> {
        let (&first, rest) = value.split_first()?;
        let typed = match value.len() {
            1..=19 if first.is_ascii_digit() && (first != b'0' || rest.is_empty()) => {
                // No more than 19 digits, so no overflow.
                let integer = value.iter().try_fold(0_u64, |sum, digit| {
                    let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
                    sum.checked_mul(10)?.checked_add(u64::from(digit))
                })?;
                return (integer <= MAX_INTEGER).then_some(Self::Integer(integer));
            }
            DATE_LENGTH if value.ends_with(b" GMT") => {
                let date = std::str::from_utf8(value).ok()?;
                let date = httpdate::parse_http_date(date).ok()?;
                let since = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                Self::Date(since.as_secs())
            }
            UUID_LENGTH if value.get(8) == Some(&b'-') => {
                Self::Uuid(uuid::Uuid::try_parse_ascii(value).ok()?.into_bytes())
            }
            _ => return None,
        };
        (typed.format().ok()?.as_bytes() == value).then_some(typed)
    }

    /// The typed value that begins with `first`, which has just been read.
    ///
    /// # Errors
    /// [`Error::MessageForm`] for anything that isn't one.
    pub(super) fn read(first: Item<'_>, items: &mut Items<'_>) -> Result<Self, Error> {
        match first {
            Item::Uint(value) => Ok(Self::Integer(value)),
            Item::Tag(TAG_DATE) => Ok(Self::Date(items.uint()?)),
            Item::Tag(TAG_UUID) => match items.item()? {
                Item::Bytes(bytes) => bytes.try_into().map(Self::Uuid).map_err(|_| Error::MessageForm),
                _ => Err(Error::MessageForm),
            },
            _ => Err(Error::MessageForm),
        }
    }

    /// Appends it as CBOR.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(value) => write_head(out, major::UINT, value),
            Self::Date(seconds) => {
                write_head(out, major::TAG, TAG_DATE);
                write_head(out, major::UINT, seconds);
            }
            Self::Uuid(bytes) => {
                write_head(out, major::TAG, TAG_UUID);
                write_string(out, major::BYTES, &bytes);
            }
        }
    }

    /// The value as a field holds it.
    ///
    /// # Errors
    /// [`Error::MessageForm`] for a number beyond its range.
    pub(super) fn format(self) -> Result<Text, Error> {
        let mut text = Text {
            bytes: [0; UUID_LENGTH],
            length: 0,
        };
        let written = match self {
            Self::Integer(value) if value <= MAX_INTEGER => write!(text, "{value}"),
            Self::Date(seconds) if seconds <= MAX_DATE => SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .map_or(Err(std::fmt::Error), |date| {
                    write!(text, "{}", httpdate::HttpDate::from(date))
                }),
            Self::Uuid(bytes) => {
                let mut buffer = uuid::Uuid::encode_buffer();
                text.write_str(
                    uuid::Uuid::from_bytes(bytes)
                        .hyphenated()
                        .encode_lower(&mut buffer),
                )
            }
            Self::Integer(_) | Self::Date(_) => Err(std::fmt::Error),
        };
        written.map_err(|_| Error::MessageForm)?;
        Ok(text)
    }
}

/// A formatted value, without an allocation: a UUID is the longest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    bytes: [u8; UUID_LENGTH],
    length: usize,
}

impl Text {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let end = self.length.saturating_add(part.len());
        self.bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }
}
