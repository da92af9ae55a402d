//! What enters the tables: the choices of the encoder, which the decoder only follows.
//!
//! An entry pays if it is referred to later. Nobody knows that in advance, so a value enters if values of
//! its name have been referred to enough so far, or if it was seen before. All memory is of a fixed size,
//! so a client that sends random names or values only gets a worse compression.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::bytes::equal;

use super::field_table::{Entry, FieldTable, MAX_ENTRY, MAX_NAME, NameTable, SLOTS, charge};

/// Twice what the rings hold, so that an index which has seen many removals is put in order in place and
/// never grows.
const INDEX_CAPACITY: usize = 2 * SLOTS;

/// Finds entries by their content.
///
/// The hash is unkeyed: with colliding values a client can have all entries of its connection compared,
/// which are 256, and no more.
pub(super) struct Entries {
    table: FieldTable,
    index: HashTable<u8>,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            table: FieldTable::new(),
            index: HashTable::with_capacity(INDEX_CAPACITY),
        }
    }

    /// Another one after each insertion.
    pub(super) const fn version(&self) -> u64 {
        self.table.version()
    }

    /// The slot that holds this pair.
    #[inline]
    pub(super) fn find(&self, entry: Entry<'_>, hash: u64) -> Option<u8> {
        self.index
            .find(hash, |slot| {
                self.table.get(*slot).is_some_and(|known| known.is(entry))
            })
            .copied()
    }

    /// Enters a pair; one that is too large is left out, see [`may_be_entry`].
    pub(super) fn insert(&mut self, entry: Entry<'_>, hash: u64) {
        let Self { table, index } = self;
        let inserted = table.insert(entry, hash, |slot, hash| {
            if let Ok(found) = index.find_entry(hash, |other| *other == slot) {
                found.remove();
            }
        });
        if let Ok(slot) = inserted {
            index.insert_unique(hash, slot, |slot| table.hash(*slot));
        }
    }
}

/// Whether the table takes a pair of this size.
pub(super) const fn may_be_entry(name: usize, value: usize) -> bool {
    charge(name, value) <= MAX_ENTRY
}

/// Finds learned names, and keeps what has become of their values.
pub(super) struct Names {
    table: NameTable,
    index: HashTable<u8>,
    known: Vec<KnownName>,
}

/// What is known of a learned name.
pub(super) struct KnownName {
    hash: u64,
    /// Whether the policy lets its values enter.
    pub(super) may_enter: bool,
    pub(super) balance: Balance,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            table: NameTable::new(),
            index: HashTable::with_capacity(INDEX_CAPACITY),
            known: Vec::new(),
        }
    }

    /// Another one after each name that is learned.
    pub(super) const fn version(&self) -> u64 {
        self.table.version()
    }

    /// The slot that holds this name.
    #[inline]
    pub(super) fn find(&self, name: &[u8], hash: u64) -> Option<u8> {
        self.index
            .find(hash, |slot| {
                self.table.get(*slot).is_some_and(|known| equal(known, name))
            })
            .copied()
    }

    pub(super) fn known(&mut self, slot: u8) -> Option<&mut KnownName> {
        self.known.get_mut(usize::from(slot))
    }

    /// Whether a name should be learned that isn't: at once while there is much room, later only when it
    /// was seen before.
    pub(super) fn is_worth_learning(&self, name: &[u8], hash: u64, seen: &mut Seen) -> bool {
        name.len() <= MAX_NAME
            && std::str::from_utf8(name).is_ok()
            && (self.table.len() < SLOTS / 2 || seen.again(hash))
    }

    /// Learns a name, see [`Names::is_worth_learning`].
    pub(super) fn learn(&mut self, name: &[u8], hash: u64, may_enter: bool) -> Option<u8> {
        let Self { table, index, known } = self;
        let slot = table.next();
        if let Some(replaced) = known.get(usize::from(slot))
            && let Ok(found) = index.find_entry(replaced.hash, |other| *other == slot)
        {
            found.remove();
        }
        table.learn(name).ok()?;
        let name = KnownName {
            hash,
            may_enter,
            balance: Balance::default(),
        };
        match known.get_mut(usize::from(slot)) {
            Some(replaced) => *replaced = name,
            None => known.push(name),
        }
        index.insert_unique(hash, slot, |slot| {
            known.get(usize::from(*slot)).map_or(0, |name| name.hash)
        });
        Some(slot)
    }
}

/// Insertions that a name has left: three to begin with, and two more for each reference to one of its
/// values. Capped, so that a name whose values turn from repeated to unique soon stops entering them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Balance(u8);

impl Default for Balance {
    fn default() -> Self {
        Self(3)
    }
}

impl Balance {
    const MOST: u8 = 32;

    /// A value of the name was referred to.
    pub(super) fn hit(&mut self) {
        self.0 = self.0.saturating_add(2).min(Self::MOST);
    }

    /// Whether a new value should enter, and if so, that it does.
    pub(super) fn spend(&mut self, seen_before: bool) -> bool {
        let enters = seen_before || self.0 > 0;
        if enters {
            self.0 = self.0.saturating_sub(1);
        }
        enters
    }
}

/// Remembers hashes that were seen of late. It forgets and, rarely, confuses; either costs a few bytes.
pub(super) struct Seen {
    hashes: Vec<u64>,
}

impl Seen {
    /// How many it remembers; a power of two.
    const SIZE: usize = 1024;

    pub(super) fn new() -> Self {
        Self {
            hashes: vec![0; Self::SIZE],
        }
    }

    /// Whether this hash was seen before; it is from now on.
    pub(super) fn again(&mut self, hash: u64) -> bool {
        let place = usize::from(u16::try_from(hash >> 48).unwrap_or_default()) % Self::SIZE;
        self.hashes
            .get_mut(place)
            .is_some_and(|seen| std::mem::replace(seen, hash) == hash)
    }
}

/// Hash of a name, or of a name and its value.
#[inline]
pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    for part in parts {
        hasher.write(part);
    }
    hasher.finish()
}
