//! What both ends of one direction remember: entries (name and value) and learned names.
//!
//! Encoder and decoder hold the same state and change it in the same way, so everything here is decided
//! by PROTOCOL.md. Memory is bounded and reused: nothing is allocated once the rings have gone round.

use crate::bytes::equal;
use crate::error::Error;
use crate::message::FIELD_OVERHEAD;

/// Most bytes that the entries may be charged together.
pub(super) const TABLE_BYTES: usize = 64 * 1024;
/// Largest charge of one entry, bytes.
pub(super) const MAX_ENTRY: usize = TABLE_BYTES / 8;
/// Slots of the ring of entries, and of the ring of learned names; slots are numbered by a `u8`.
pub(super) const SLOTS: usize = 256;
/// Longest learned name, bytes.
pub(super) const MAX_NAME: usize = 64;

/// Where the bytes of all entries lie: room for all that may be charged, and for one entry more, because
/// an entry isn't split at the end of the buffer.
const STORE_BYTES: usize = TABLE_BYTES + MAX_ENTRY;

/// What an entry is charged, bytes.
pub(super) const fn charge(name: usize, value: usize) -> usize {
    name.saturating_add(value).saturating_add(FIELD_OVERHEAD)
}

/// A name and its value, as the field table holds them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    /// A field name, `:authority` or `:path`.
    pub(super) name: &'t [u8],
    pub(super) value: &'t [u8],
}

impl Entry<'_> {
    /// Whether it is the same pair.
    pub(super) fn is(self, other: Entry<'_>) -> bool {
        equal(self.name, other.name) && equal(self.value, other.value)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    start: usize,
    name: usize,
    value: usize,
    hash: u64,
}

/// The ring of entries.
#[derive(Debug)]
pub(super) struct FieldTable {
    places: Vec<Place>,
    /// Slot of the next insertion.
    next: u8,
    /// Slot of the oldest entry, if there is one.
    oldest: u8,
    entries: usize,
    charged: usize,
    store: Vec<u8>,
    /// Where the next entry's bytes go.
    end: usize,
    version: u64,
}

impl FieldTable {
    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            next: 0,
            oldest: 0,
            entries: 0,
            charged: 0,
            store: Vec::new(),
            end: 0,
            version: 0,
        }
    }

    /// Insertions so far.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// The entry in a slot.
    #[inline]
    pub(super) fn get(&self, slot: u8) -> Option<Entry<'_>> {
        if usize::from(slot.wrapping_sub(self.oldest)) >= self.entries {
            return None;
        }
        let place = self.places.get(usize::from(slot))?;
        let bytes = self.store.get(place.start..)?;
        let (name, rest) = bytes.split_at_checked(place.name)?;
        let value = rest.get(..place.value)?;
        Some(Entry { name, value })
    }

    /// The `hash` that the entry in a slot was inserted with.
    pub(super) fn hash(&self, slot: u8) -> u64 {
        self.places.get(usize::from(slot)).map_or(0, |place| place.hash)
    }

    /// Enters a pair and returns its slot. `evicted` is told of each entry that has to go.
    ///
    /// # Errors
    /// [`Error::EntryTooBig`] for a charge over [`MAX_ENTRY`].
    pub(super) fn insert(
        &mut self,
        entry: Entry<'_>,
        hash: u64,
        mut evicted: impl FnMut(u8, u64),
    ) -> Result<u8, Error> {
        let length = entry.name.len().saturating_add(entry.value.len());
        let cost = charge(entry.name.len(), entry.value.len());
        if cost > MAX_ENTRY {
            return Err(Error::EntryTooBig);
        }
        while self.entries == SLOTS || self.charged.saturating_add(cost) > TABLE_BYTES {
            let Some(oldest) = self.places.get(usize::from(self.oldest)) else {
                break;
            };
            evicted(self.oldest, oldest.hash);
            self.charged = self.charged.saturating_sub(charge(oldest.name, oldest.value));
            self.entries = self.entries.saturating_sub(1);
            self.oldest = self.oldest.wrapping_add(1);
        }
        // The oldest bytes are always the next to be overwritten, and they are free by now: what is in
        // use is at most TABLE_BYTES with this entry, and less than MAX_ENTRY is left empty at the end.
        if self.end.saturating_add(length) > STORE_BYTES {
            self.end = 0;
        }
        let start = self.end;
        self.end = start.saturating_add(length);
        if self.store.len() < self.end {
            self.store.resize(self.end, 0);
        }
        if let Some((name, value)) = self
            .store
            .get_mut(start..self.end)
            .and_then(|bytes| bytes.split_at_mut_checked(entry.name.len()))
        {
            name.copy_from_slice(entry.name);
            value.copy_from_slice(entry.value);
        }
        let place = Place {
            start,
            name: entry.name.len(),
            value: entry.value.len(),
            hash,
        };
        self.version = self.version.wrapping_add(1);
        let slot = self.next;
        match self.places.get_mut(usize::from(slot)) {
            Some(old) => *old = place,
            None => self.places.push(place),
        }
        self.next = slot.wrapping_add(1);
        self.entries = self.entries.saturating_add(1);
        self.charged = self.charged.saturating_add(cost);
        Ok(slot)
    }
}

/// The ring of learned names.
#[derive(Debug)]
pub(super) struct NameTable {
    names: Vec<LearnedName>,
    /// Slot of the next name to be learned.
    next: u8,
    version: u64,
}

#[derive(Debug, Clone, Copy)]
struct LearnedName {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl NameTable {
    pub(super) const fn new() -> Self {
        Self {
            names: Vec::new(),
            next: 0,
            version: 0,
        }
    }

    /// Names learned so far.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// The name in a slot.
    #[inline]
    pub(super) fn get(&self, slot: u8) -> Option<&[u8]> {
        let name = self.names.get(usize::from(slot))?;
        name.bytes.get(..name.length)
    }

    /// How many slots are filled.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The slot that the next name goes to, in place of the one that is there.
    pub(super) fn next(&self) -> u8 {
        self.next
    }

    /// Learns a name and returns its slot.
    ///
    /// # Errors
    /// [`Error::EntryTooBig`] for more than [`MAX_NAME`] bytes.
    pub(super) fn learn(&mut self, name: &[u8]) -> Result<u8, Error> {
        let mut learned = LearnedName {
            bytes: [0; MAX_NAME],
            length: name.len(),
        };
        learned
            .bytes
            .get_mut(..name.len())
            .ok_or(Error::EntryTooBig)?
            .copy_from_slice(name);
        self.version = self.version.wrapping_add(1);
        let slot = self.next;
        match self.names.get_mut(usize::from(slot)) {
            Some(old) => *old = learned,
            None => self.names.push(learned),
        }
        self.next = slot.wrapping_add(1);
        Ok(slot)
    }
}
