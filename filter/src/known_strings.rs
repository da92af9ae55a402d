//! Long strings that come again: what was made of them, so that it needn't be made twice.
//!
//! Credentials enter no table unless the configuration says so, so that a client which polls has its token carried in full
//! with each request. Decoding and encoding it takes steps for each of its bytes; noticing that it is the same as before,
//! and copying what was made of it, takes a fraction of them.

use crate::bytes::equal;
use crate::error::Error;

/// Appends what becomes of a string: always the same of the same.
type Make = fn(&[u8], &mut Vec<u8>) -> Result<(), Error>;

/// Several times as many places as strings that there is room for, so that few want the same.
const PLACES: usize = 256;
/// In so many places a string may be.
const PROBES: usize = 8;
/// Bytes in the store, at most.
const STORE_BYTES: usize = 64 * 1024;
/// Shorter strings are converted as fast as they are found, bytes.
const SHORTEST: usize = 64;
/// Longer ones aren't kept, bytes, nor those that become longer than this.
const LONGEST: usize = 4096;

/// Strings of late, and what was made of them: room for those of some twenty clients.
#[derive(Debug)]
pub(crate) struct KnownStrings {
    /// See [`places`].
    places: Vec<Known>,
    /// Strings, each with what was made of it behind it. When there is no more room, here or in places, all are forgotten.
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
        let Some(hash) = hash(string) else {
            return make(string, out);
        };
        if let Some(made) = self.find(hash, string) {
            out.extend_from_slice(made);
            return Ok(());
        }
        let start = out.len();
        make(string, out)?;
        let made = out.get(start..).unwrap_or_default();
        if made.len() <= LONGEST {
            self.keep(hash, string, made);
        }
        Ok(())
    }

    fn find(&self, hash: usize, string: &[u8]) -> Option<&[u8]> {
        let places = places(hash).map_while(|place| self.places.get(place));
        places.take_while(|known| known.string > 0).find_map(|known| {
            let (kept, rest) = self.store.get(known.start..)?.split_at_checked(known.string)?;
            let made = rest.get(..known.made)?;
            equal(kept, string).then_some(made)
        })
    }

    fn keep(&mut self, hash: usize, string: &[u8], made: &[u8]) {
        let length = string.len().saturating_add(made.len());
        let is_free = |place: &usize| self.places.get(*place).is_some_and(|known| known.string == 0);
        let mut place = places(hash).find(is_free);
        if place.is_none() || self.store.len().saturating_add(length) > STORE_BYTES {
            self.places.clear();
            self.places.resize(PLACES, Known::default());
            self.store.clear();
            self.store.reserve_exact(STORE_BYTES);
            place = Some(hash);
        }
        if let Some(known) = place.and_then(|place| self.places.get_mut(place)) {
            *known = Known {
                start: self.store.len(),
                string: string.len(),
                made: made.len(),
            };
            self.store.extend_from_slice(string);
            self.store.extend_from_slice(made);
        }
    }
}

/// Where a string may be, first choice first.
fn places(hash: usize) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |step| hash.wrapping_add(step) % PLACES)
}

/// First choice for a string, by a few of its bytes: behind what tokens of one issuer and cookies of one application begin
/// with, in the middle, and at the end. `None` for one that isn't kept.
fn hash(string: &[u8]) -> Option<usize> {
    if !(SHORTEST..=LONGEST).contains(&string.len()) {
        return None;
    }
    let word = |at: usize| Some(u64::from_le_bytes(*string.get(at..)?.first_chunk()?));
    // The last byte of a Huffman coded string may hold padding.
    let words = [8, string.len().wrapping_shr(1), string.len().checked_sub(9)?];
    let mixed = words.into_iter().try_fold(0_u64, |mixed, at| {
        let mixed = mixed ^ word(at)?;
        Some(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32))
    })?;
    Some(usize::try_from(mixed & 0xffff).unwrap_or_default() % PLACES)
}
