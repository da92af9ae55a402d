//! Decoding of Huffman coded strings (RFC 7541 §5.2, appendix B).

use std::sync::LazyLock;

use crate::error::Error;

/// Bits of the code of each byte, then of EOS (RFC 7541 appendix B). The code is canonical, so that the
/// lengths say all of it: codes count up in the order of length, then of symbol.
#[rustfmt::skip]
const CODE_LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes up to this long, which is nearly all of any header, are found with one look-up.
const SHORT_BITS: u32 = 8;

/// A byte and the bits of its code; no bits where the code is longer than [`SHORT_BITS`].
#[derive(Clone, Copy, Default)]
struct Short {
    symbol: u8,
    bits: u8,
}

/// All codes of one length above [`SHORT_BITS`]. Codes are aligned to the top of 32 bits.
struct Long {
    bits: u32,
    first: u32,
    /// The highest window that begins with one of these codes.
    last: u32,
    /// In the order of their codes; EOS isn't among them.
    symbols: Vec<u8>,
}

struct Codes {
    short: [Short; 256],
    long: Vec<Long>,
}

/// Made once from [`CODE_LENGTHS`].
static CODES: LazyLock<Codes> = LazyLock::new(Codes::new);

impl Codes {
    fn new() -> Self {
        let mut codes = Self {
            short: [Short::default(); 256],
            long: Vec::new(),
        };
        let mut next: u32 = 0;
        for bits in 1..=30_u8 {
            let first = next;
            let step = 1_u32.wrapping_shl(32_u32.wrapping_sub(u32::from(bits)));
            // EOS, the last of all, has no `u8` and is left out: its window lies above every `last`.
            let of_this_length = (0..=u8::MAX)
                .zip(CODE_LENGTHS)
                .filter(|(_, length)| *length == bits);
            let mut symbols = Vec::new();
            for (symbol, _) in of_this_length {
                if u32::from(bits) <= SHORT_BITS {
                    codes.enter_short(next, step, Short { symbol, bits });
                } else {
                    symbols.push(symbol);
                }
                next = next.wrapping_add(step);
            }
            if !symbols.is_empty() {
                codes.long.push(Long {
                    bits: u32::from(bits),
                    first,
                    last: next.wrapping_sub(1),
                    symbols,
                });
            }
        }
        codes
    }

    /// Fills every place of the table that begins with `code`, which is `step` wide.
    fn enter_short(&mut self, code: u32, step: u32, entry: Short) {
        let shift = 32_u32.wrapping_sub(SHORT_BITS);
        let index = |window: u32| usize::try_from(window.wrapping_shr(shift)).unwrap_or(usize::MAX);
        let places = self.short.iter_mut().skip(index(code)).take(index(step));
        places.for_each(|place| *place = entry);
    }

    /// The byte and the length of a code of more than [`SHORT_BITS`]; `None` is EOS.
    fn long(&self, window: u32) -> Option<(u8, u32)> {
        let long = self.long.iter().find(|long| window <= long.last)?;
        let order = window
            .wrapping_sub(long.first)
            .wrapping_shr(32_u32.wrapping_sub(long.bits));
        let symbol = long.symbols.get(usize::try_from(order).ok()?)?;
        Some((*symbol, long.bits))
    }
}

/// Appends the string that `input` stands for.
///
/// # Errors
/// [`Error::Hpack`] if `input` has EOS, or ends in anything but up to seven bits of EOS.
pub fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let codes = &*CODES;
    // The shortest code has five bits.
    out.reserve(input.len().saturating_mul(8).wrapping_div(5));
    // The next bits of the input, from the top; zeroes below them.
    let mut window: u64 = 0;
    let mut filled: u32 = 0;
    loop {
        if filled <= 32 {
            // As many as the longest code has, or all that is left.
            if let Some((four, rest)) = input.split_first_chunk::<4>() {
                let four = u64::from(u32::from_be_bytes(*four));
                window |= four.wrapping_shl(32_u32.wrapping_sub(filled));
                filled = filled.wrapping_add(32);
                input = rest;
            } else {
                for byte in input {
                    window |= u64::from(*byte).wrapping_shl(56_u32.wrapping_sub(filled));
                    filled = filled.wrapping_add(8);
                }
                input = &[];
            }
        }
        let [top, ..] = window.to_be_bytes();
        let short = codes.short.get(usize::from(top)).copied().unwrap_or_default();
        let (symbol, bits) = if short.bits > 0 {
            (short.symbol, u32::from(short.bits))
        } else {
            let top = u32::try_from(window.wrapping_shr(32)).map_err(|_| Error::Hpack)?;
            codes.long(top).ok_or(Error::Hpack)?
        };
        if bits > filled {
            break;
        }
        out.push(symbol);
        window = window.wrapping_shl(bits);
        filled = filled.wrapping_sub(bits);
    }
    let padding = !u64::MAX.wrapping_shr(filled);
    if filled < 8 && window == padding {
        Ok(())
    } else {
        Err(Error::Hpack)
    }
}
