//! Integers with a prefix (RFC 7541 §5.1).

use crate::error::Error;

/// Appends `value`: the bits of `mask` are the prefix, `pattern` the bits above it.
pub fn encode(pattern: u8, mask: u8, value: usize, out: &mut Vec<u8>) {
    if let Ok(prefix) = u8::try_from(value)
        && prefix < mask
    {
        return out.push(pattern | prefix);
    }
    out.push(pattern | mask);
    let mut rest = value.wrapping_sub(usize::from(mask));
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest = rest.wrapping_shr(7);
        if rest == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// Takes an integer from the front of `input`; the bits of `mask` are its prefix.
///
/// # Errors
/// [`Error::Hpack`] if it is cut off or has more than four bytes after the prefix: no index, length or
/// size that could be right comes near 2^28.
pub fn decode(mask: u8, input: &mut &[u8]) -> Result<usize, Error> {
    let prefix = next(input)? & mask;
    if prefix < mask {
        return Ok(usize::from(prefix));
    }
    let mut value = u32::from(mask);
    for shift in [0_u32, 7, 14, 21] {
        let byte = next(input)?;
        value = value.wrapping_add(u32::from(byte & 0x7f).wrapping_shl(shift));
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| Error::Hpack);
        }
    }
    Err(Error::Hpack)
}

fn next(input: &mut &[u8]) -> Result<u8, Error> {
    let (byte, rest) = input.split_first().ok_or(Error::Hpack)?;
    *input = rest;
    Ok(*byte)
}
