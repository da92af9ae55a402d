//! Long strings that come again: what was made of them, so that it needn't be made twice.
//!
//! Credentials enter no table unless the configuration says so, so that a client which polls has its token carried in full
//! with each request. Decoding and encoding it takes steps for each of its bytes; noticing that it is the same as before,
//! and copying what was made of it, takes a fraction of them.

use crate::bytes::equal;
use crate::error::Error;

/// Appends what becomes of a string: always the same of the same.
type Make = fn(&[u8], &mut Vec<u8>) -> Result<(), Error>;

/// Strings of late, and what was made of them. Of those with the same place, the last one stays.
#[derive(Debug, Default)]
pub(crate) struct KnownStrings {
    places: Vec<Known>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    string: Vec<u8>,
    made: Vec<u8>,
}

impl KnownStrings {
    /// How many are kept; a power of two.
    const PLACES: usize = 16;
    /// Shorter strings are converted as fast as they are found, bytes.
    const SHORTEST: usize = 64;
    /// Longer ones aren't kept, and none of which more was made, bytes.
    const LONGEST: usize = 3072;

    pub(crate) const fn new() -> Self {
        Self { places: Vec::new() }
    }

    /// Appends what `make` makes of a string, or what it has made of it before.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub(crate) fn make(&mut self, string: &[u8], out: &mut Vec<u8>, make: Make) -> Result<(), Error> {
        let Some(place) = Self::place(string) else {
            return make(string, out);
        };
        if self.places.is_empty() {
            self.places.resize(Self::PLACES, Known::default());
        }
        let Some(known) = self.places.get_mut(place) else {
            return make(string, out);
        };
        if equal(&known.string, string) {
            out.extend_from_slice(&known.made);
            return Ok(());
        }
        let start = out.len();
        make(string, out)?;
        let made = out.get(start..).unwrap_or_default();
        if made.len() <= Self::LONGEST {
            // All at once, so that nothing is allocated in the steady state.
            known.string.clear();
            known.string.reserve(Self::LONGEST);
            known.string.extend_from_slice(string);
            known.made.clear();
            known.made.reserve(Self::LONGEST);
            known.made.extend_from_slice(made);
        }
        Ok(())
    }

    /// By a few of its bytes: behind what tokens of one issuer and cookies of one application begin with, in the middle,
    /// and at the end. `None` for a string that isn't kept.
    fn place(string: &[u8]) -> Option<usize> {
        if !(Self::SHORTEST..=Self::LONGEST).contains(&string.len()) {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(*string.get(at..)?.first_chunk()?));
        // The last byte of a Huffman coded string may hold padding.
        let places = [8, string.len().wrapping_shr(1), string.len().checked_sub(9)?];
        let mixed = places.into_iter().try_fold(0_u64, |mixed, at| {
            Some((mixed ^ word(at)?).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        })?;
        usize::try_from(mixed.wrapping_shr(60)).ok()
    }
}
