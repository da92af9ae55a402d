//! Header lists that come again: what was done with the last one, so that it needn't be done twice.
//!
//! Clients that poll send the same header list again and again, and each side's table makes the same few references of
//! it. Decoding them and encoding the list again is most of what a converter does for a small request; noticing that
//! input and tables are the same as the last time takes a comparison. A reader that notices it leaves its list as it is,
//! with the [`Revision`] that it got; a writer that is given a list of the revision that it wrote last copies what it wrote.

use std::sync::atomic::{AtomicU64, Ordering};

/// Name of a header list's content, pseudo-header fields included: lists that have the same one are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision(u64);

impl Revision {
    /// One that no other list has.
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// Bytes of the last header list, and what they depend on: the version of the table that its references are to, and
/// whatever else `K` says.
#[derive(Debug)]
pub(crate) struct Last<K> {
    key: Option<(K, u64)>,
    bytes: Vec<u8>,
}

impl<K: PartialEq> Last<K> {
    /// Bytes. Longer lists aren't kept: they hold literals, and literals seldom come again.
    const MOST: usize = 256;

    pub(crate) const fn new() -> Self {
        Self {
            key: None,
            bytes: Vec::new(),
        }
    }

    /// The bytes, if what they depend on is as it was.
    pub(crate) fn get(&self, key: K, version: u64) -> Option<&[u8]> {
        (self.key == Some((key, version))).then_some(self.bytes.as_slice())
    }

    /// Keeps them in place of the last ones, unless the table has changed from `before` to `after` meanwhile: then the same
    /// would mean something else the next time.
    pub(crate) fn set(&mut self, key: K, before: u64, after: u64, bytes: &[u8]) {
        self.key = None;
        if before == after && bytes.len() <= Self::MOST {
            self.key = Some((key, after));
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
        }
    }
}
