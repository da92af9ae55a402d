//! Long strings that come again: what was made of them, so that it needn't be made twice.
//!
//! Credentials enter no table unless the configuration says so, so that a client which polls has its token carried in full
//! with each request. Decoding and encoding it takes steps for each of its bytes; noticing that it is the same as before,
//! and copying what was made of it, takes a fraction of them.

use crate::bytes::equal;
use crate::error::Error;

/// Appends what becomes of a string: always the same of the same.
type Make = fn(&[u8], &mut Vec<u8>) -> Result<(), Error>;

/// Strings of late, and what was made of them: room for those of some twenty clients.
#[derive(Debug)]
pub(crate) struct KnownStrings {
    /// By a few of their bytes; of those with the same place, the last one stays.
    places: Vec<Known>,
    /// Strings, each with what was made of it behind it. When there is no more room, all are forgotten.
    store: Vec<u8>,
}

/// Lengths, and where it lies in the store; an empty string is none.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    start: usize,
    string: usize,
    made: usize,
}

impl KnownStrings {
    /// A power of two, and several times as many as there is room for, so that few have the same.
    const PLACES: usize = 256;
    /// Bytes in the store, at most.
    const STORE_BYTES: usize = 64 * 1024;
    /// Shorter strings are converted as fast as they are found, bytes.
    const SHORTEST: usize = 64;
    /// Longer ones aren't kept, bytes, nor those that become longer than this.
    const LONGEST: usize = 4096;

    pub(crate) const fn new() -> Self {
        Self {
            places: Vec::new(),
            store: Vec::new(),
        }
    }

    /// Appends what `make` makes of a string, or what it has made of it before.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub(crate) fn make(&mut self, string: &[u8], out: &mut Vec<u8>, make: Make) -> Result<(), Error> {
        let Some(place) = Self::place(string) else {
            return make(string, out);
        };
        if let Some(made) = self.find(place, string) {
            out.extend_from_slice(made);
            return Ok(());
        }
        let start = out.len();
        make(string, out)?;
        let made = out.get(start..).unwrap_or_default();
        if made.len() <= Self::LONGEST {
            self.keep(place, string, made);
        }
        Ok(())
    }

    fn find(&self, place: usize, string: &[u8]) -> Option<&[u8]> {
        let known = self.places.get(place)?;
        let (kept, rest) = self.store.get(known.start..)?.split_at_checked(known.string)?;
        let made = rest.get(..known.made)?;
        equal(kept, string).then_some(made)
    }

    fn keep(&mut self, place: usize, string: &[u8], made: &[u8]) {
        let length = string.len().saturating_add(made.len());
        if self.places.is_empty() || self.store.len().saturating_add(length) > Self::STORE_BYTES {
            self.places.clear();
            self.places.resize(Self::PLACES, Known::default());
            self.store.clear();
            self.store.reserve_exact(Self::STORE_BYTES);
        }
        if let Some(known) = self.places.get_mut(place) {
            *known = Known {
                start: self.store.len(),
                string: string.len(),
                made: made.len(),
            };
            self.store.extend_from_slice(string);
            self.store.extend_from_slice(made);
        }
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
            Some(
                (mixed ^ word(at)?)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(32),
            )
        })?;
        Some(usize::try_from(mixed & 0xff).unwrap_or_default())
    }
}
