//! Field lines to header blocks (RFC 7541 §6).

use super::table::{DynamicTable, STATIC, static_name};
use super::{TABLE_BYTES, integer};
use crate::bytes::equal;
use crate::message::{FIELD_OVERHEAD, Field};

/// Encodes the header blocks of one direction of a connection, in order.
///
/// The bytes go to a codec in the same process, so that they cost time and no network: nothing is Huffman
/// coded, and a pair enters the dynamic table when it is seen for the second time, which keeps out what
/// never comes again.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    /// By the low bits of their hashes, the pairs last seen. Collisions only cost compression.
    seen: Vec<Seen>,
    /// Set while the receiver hasn't been told of a new table size: the smallest one since the last block.
    smallest_untold: Option<usize>,
}

/// A pair of name and value that has been encoded before.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    hash: u32,
    /// The table's count of insertions before this pair was entered, if it was.
    entered: Option<u32>,
}

/// Places for pairs: above the 120 or so that a table of 4,096 bytes holds. A power of two.
const SEEN: usize = 512;

/// Longer names and values are never entered: hashing them costs more than copying, and they push out many.
const LONGEST_ENTERED: usize = 512;

/// Entries of the static table behind this one have an empty value.
const LAST_STATIC_VALUE: u8 = 16;

impl Encoder {
    /// An encoder for a receiver with the default table size.
    pub fn new() -> Self {
        Self {
            table: DynamicTable::new(TABLE_BYTES),
            seen: vec![Seen::default(); SEEN],
            smallest_untold: None,
        }
    }

    /// The dynamic table as the last block left it.
    pub const fn table(&self) -> &DynamicTable {
        &self.table
    }

    /// The receiver has announced another SETTINGS_HEADER_TABLE_SIZE, bytes. No more than [`TABLE_BYTES`]
    /// are used of it.
    pub fn set_max_table_size(&mut self, size: usize) {
        let size = size.min(TABLE_BYTES);
        if size != self.table.max_size() {
            let smallest = self.smallest_untold.map_or(size, |untold| untold.min(size));
            self.smallest_untold = Some(smallest);
            self.table.set_max_size(size);
        }
    }

    /// Begins a block: tells of a changed table size, of the smallest and then the last one (§4.2).
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest_untold.take() {
            let size = self.table.max_size();
            if smallest < size {
                integer::encode(0x20, 0x1f, smallest, out);
            }
            integer::encode(0x20, 0x1f, size, out);
        }
    }

    /// Appends a field line to the block.
    pub fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let Field {
            name,
            value,
            sensitive,
        } = field;
        let name_index = static_name(name);
        if sensitive {
            return literal(0x10, 0x0f, name_index, field, out);
        }
        if let Some(first) = name_index
            && (first <= LAST_STATIC_VALUE || value.is_empty())
            && let Some(index) = static_pair(first, name, value)
        {
            return integer::encode(0x80, 0x7f, index, out);
        }
        let size = name.len().saturating_add(value.len());
        if size > LONGEST_ENTERED || size.saturating_add(FIELD_OVERHEAD) > self.table.max_size() {
            return literal(0x00, 0x0f, name_index, field, out);
        }
        let hash = hash(name, value);
        let place = usize::try_from(hash).unwrap_or_default() & SEEN.wrapping_sub(1);
        let Some(seen) = self.seen.get_mut(place) else {
            return literal(0x00, 0x0f, name_index, field, out);
        };
        if seen.hash != hash {
            *seen = Seen { hash, entered: None };
            return literal(0x00, 0x0f, name_index, field, out);
        }
        if let Some(position) = seen.entered.and_then(|entered| position(&self.table, entered))
            && let Some(known) = self.table.get(position)
            && equal(known.0, name)
            && equal(known.1, value)
        {
            let index = position.saturating_add(STATIC.len()).saturating_add(1);
            return integer::encode(0x80, 0x7f, index, out);
        }
        seen.entered = Some(self.table.inserted());
        self.table.insert(name, value);
        literal(0x40, 0x3f, name_index, field, out);
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The index of a pair in the static table; `first` is the name's.
fn static_pair(first: u8, name: &[u8], value: &[u8]) -> Option<usize> {
    let first = usize::from(first);
    STATIC
        .iter()
        .zip(1_usize..)
        .skip(first.wrapping_sub(1))
        .take_while(|(entry, _)| entry.0 == name)
        .find(|(entry, _)| entry.1 == value)
        .map(|(_, index)| index)
}

/// Where the entry is now that was inserted after `entered` others, if it may still be there.
fn position(table: &DynamicTable, entered: u32) -> Option<usize> {
    let newer = table.inserted().wrapping_sub(entered).wrapping_sub(1);
    usize::try_from(newer).ok()
}

/// A literal field line; `pattern` and `mask` are those of its representation (§6.2).
fn literal(pattern: u8, mask: u8, name_index: Option<u8>, field: Field<'_>, out: &mut Vec<u8>) {
    integer::encode(pattern, mask, name_index.map_or(0, usize::from), out);
    if name_index.is_none() {
        string(field.name, out);
    }
    string(field.value, out);
}

fn string(string: &[u8], out: &mut Vec<u8>) {
    integer::encode(0x00, 0x7f, string.len(), out);
    out.extend_from_slice(string);
}

/// Eight bytes at a step. Whoever makes pairs collide makes them be sent as literals, no more.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut state = u64::try_from(name.len()).unwrap_or_default();
    let mut step = |word: u64| {
        state = (state.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    };
    for bytes in [name, value] {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| step(u64::from_le_bytes(*word)));
        step(
            rest.iter()
                .fold(1, |word, byte| word.wrapping_shl(8) | u64::from(*byte)),
        );
    }
    // The high half is the well mixed one; no pair has the hash of an empty place.
    u32::try_from(state.wrapping_shr(32)).unwrap_or_default() | 0x8000_0000
}
