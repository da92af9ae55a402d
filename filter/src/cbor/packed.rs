//! Values whose base64url travels as the bytes it stands for: tokens, signatures and session identifiers, which no table
//! should hold, in three quarters of their length.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::item::{Item, Items, length, major, write_head, write_string};
use crate::error::Error;
use crate::known_strings::KnownStrings;

/// "Expected later encoding: base64url" of the byte strings in it (RFC 8949 §3.4.5.2).
pub(super) const TAG_BASE64URL: u64 = 21;

/// Fewest characters of base64url that are worth the heads of a piece and of the text after it.
const MIN_RUN: usize = 24;
/// So many characters are three bytes.
const QUANTUM: usize = 4;
/// Most pieces: the head of an array of so many is one byte.
const MAX_PIECES: u8 = 23;

/// Appends a value that doesn't enter the table: packed where that is shorter, as bytes otherwise.
pub(super) fn write(value: &[u8], known: &mut KnownStrings, out: &mut Vec<u8>) {
    let written = known.make(value, out, write_unknown);
    debug_assert_eq!(written, Ok(()));
}

/// Never fails.
fn write_unknown(value: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    if !write_pieces(value, out) {
        out.truncate(start);
        write_string(out, major::BYTES, value);
    }
    Ok(())
}

/// Appends a value in pieces; false where nothing is gained by it, and `out` then has to be cut back.
fn write_pieces(value: &[u8], out: &mut Vec<u8>) -> bool {
    let mut next = split_at_run(value);
    if next.is_none() || !value.is_ascii() {
        return false;
    }
    write_head(out, major::TAG, TAG_BASE64URL);
    let head = out.len();
    out.push(major::ARRAY);
    let mut pieces = 0_u8;
    let mut rest = value;
    // A round makes two, and one may follow.
    while pieces < MAX_PIECES - 2
        && let Some((text, run, after)) = next
    {
        if !text.is_empty() {
            write_string(out, major::TEXT, text);
            pieces = pieces.saturating_add(1);
        }
        if !write_decoded(run, out) {
            return false;
        }
        pieces = pieces.saturating_add(1);
        rest = after;
        next = split_at_run(rest);
    }
    if !rest.is_empty() {
        write_string(out, major::TEXT, rest);
        pieces = pieces.saturating_add(1);
    }
    if let Some(head) = out.get_mut(head) {
        *head |= pieces;
    }
    true
}

/// The first run of base64url that is long enough, cut to whole quanta, with what stands before and after it.
fn split_at_run(value: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut start = 0_usize;
    loop {
        let rest = value.get(start..)?;
        let length = run_length(rest);
        if length >= MIN_RUN {
            let (text, run) = value.split_at_checked(start)?;
            let whole = length.saturating_sub(length % QUANTUM);
            let (run, after) = run.split_at_checked(whole)?;
            return Some((text, run, after));
        }
        // What ended the run is text too.
        start = start.saturating_add(length).saturating_add(1);
    }
}

/// Appends the bytes that whole quanta of base64url stand for; false for anything else.
fn write_decoded(run: &[u8], out: &mut Vec<u8>) -> bool {
    let decoded = (run.len() / QUANTUM).saturating_mul(3);
    write_head(out, major::BYTES, length(decoded));
    let start = out.len();
    out.resize(start.saturating_add(decoded), 0);
    out.get_mut(start..)
        .is_some_and(|place| URL_SAFE_NO_PAD.decode_slice(run, place) == Ok(decoded))
}

/// Reads the pieces of a packed value, whose tag has just been read, into `value`.
///
/// # Errors
/// [`Error::MessageForm`] for anything that isn't one; [`Error::HeaderListTooBig`] for one of more than `most` bytes.
pub(super) fn read(
    items: &mut Items<'_>,
    known: &mut KnownStrings,
    value: &mut Vec<u8>,
    most: usize,
) -> Result<(), Error> {
    value.clear();
    for _ in 0..items.array()? {
        let piece = items.item()?;
        let (Item::Text(bytes) | Item::Bytes(bytes)) = piece else {
            return Err(Error::MessageForm);
        };
        let is_text = matches!(piece, Item::Text(_));
        // Both are below the largest message, so neither overflows.
        let start = value.len();
        let formatted = if is_text {
            bytes.len()
        } else {
            formatted_length(bytes)
        };
        let end = start.saturating_add(formatted);
        if end > most {
            return Err(Error::HeaderListTooBig);
        }
        if is_text {
            value.extend_from_slice(bytes);
            continue;
        }
        known.make(bytes, value, format)?;
    }
    Ok(())
}

/// Appends the base64url of `bytes`.
fn format(bytes: &[u8], value: &mut Vec<u8>) -> Result<(), Error> {
    let start = value.len();
    value.resize(start.saturating_add(formatted_length(bytes)), 0);
    let place = value.get_mut(start..).unwrap_or_default();
    URL_SAFE_NO_PAD
        .encode_slice(bytes, place)
        .map_err(|_| Error::MessageForm)?;
    Ok(())
}

/// Characters of base64url that `bytes` are; they are fewer than the largest message has, so that nothing overflows.
const fn formatted_length(bytes: &[u8]) -> usize {
    bytes.len().saturating_mul(4).div_ceil(3)
}

/// How many bytes of base64url there are at the front. Blocks without a way out in the middle, so that many bytes are
/// looked at at a time.
fn run_length(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<16>();
    let all = |block: &&[u8; 16]| block.iter().fold(true, |all, byte| all & in_alphabet(*byte));
    let whole = blocks.iter().take_while(all).count().saturating_mul(16);
    let rest = bytes.get(whole..).unwrap_or_default();
    let end = rest.iter().take_while(|byte| in_alphabet(**byte)).count();
    whole.saturating_add(end)
}

/// RFC 4648 §5.
const fn in_alphabet(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_')
}
