//! The static and the dynamic table (RFC 7541 §2.3, appendix A).

use std::collections::VecDeque;

use crate::message::FIELD_OVERHEAD;

/// The static table; its first entry has index 1 (RFC 7541 appendix A).
pub const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// The lowest index that `name` has in [`STATIC`]. Entries of one name stand together.
pub fn static_name(name: &[u8]) -> Option<u8> {
    let index = NAMES.get(usize::from(name_place(name)?)).copied()?;
    let (known, _) = STATIC.get(usize::from(index).checked_sub(1)?)?;
    (*known == name).then_some(index)
}

/// The lowest index of each name of [`STATIC`], 0 where there is none: by [`name_place`].
const NAMES: [u8; 256] = {
    let mut names = [0; 256];
    let mut index = STATIC.len();
    while index > 0 {
        #[expect(clippy::indexing_slicing, clippy::as_conversions, reason = "not at run time")]
        if let Some(place) = name_place(STATIC[index - 1].0) {
            names[place as usize] = index as u8;
        }
        index = index.saturating_sub(1);
    }
    names
};

/// Another one for each name of the static table, found by trial; a test looks at all of them.
const fn name_place(name: &[u8]) -> Option<u8> {
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else {
        return None;
    };
    let [length, ..] = name.len().to_le_bytes();
    Some(
        length
            .wrapping_mul(13)
            .wrapping_add(first)
            .wrapping_add(last.wrapping_mul(8)),
    )
}

/// An entry's place in the buffer of its table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
}

impl Entry {
    fn size(self) -> usize {
        self.name
            .saturating_add(self.value)
            .saturating_add(FIELD_OVERHEAD)
    }
}

/// The dynamic table: a queue of entries whose bytes lie one after another in one buffer.
///
/// Names and values of new entries go to the end of the buffer; when it holds twice what the table may,
/// what lies before the oldest entry is cut off, so that each byte is moved once and nothing is allocated
/// for an entry. It never has more than three times its largest size.
#[derive(Debug)]
pub struct DynamicTable {
    bytes: Vec<u8>,
    /// Newest first, as the indexes are.
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
    inserted: u32,
    version: u64,
}

impl DynamicTable {
    /// An empty table for entries of up to `max_size` bytes together, each with 32 bytes of overhead.
    pub const fn new(max_size: usize) -> Self {
        Self {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            size: 0,
            max_size,
            inserted: 0,
            version: 0,
        }
    }

    /// Bytes that its entries count for (RFC 7541 §4.1).
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Bytes that they may count for.
    pub const fn max_size(&self) -> usize {
        self.max_size
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Insertions so far, modulo 2^32.
    pub const fn inserted(&self) -> u32 {
        self.inserted
    }

    /// Another one after each change.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Name and value at `position`, counted from 0 for the newest.
    pub fn get(&self, position: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(position)?;
        let (name, rest) = self.bytes.get(entry.start..)?.split_at_checked(entry.name)?;
        Some((name, rest.get(..entry.value)?))
    }

    /// Adds an entry and evicts the oldest ones that it leaves no room for. One larger than the table
    /// empties it (RFC 7541 §4.4).
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        let entry = self.entry(name.len(), value.len());
        if self.fits(entry) {
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(value);
            self.push(entry);
        }
    }

    /// The same with the name of the entry at `position`, which may be evicted by it.
    pub fn insert_named_as(&mut self, position: usize, value: &[u8]) {
        let Some(model) = self.entries.get(position).copied() else {
            return;
        };
        let entry = self.entry(model.name, value.len());
        if self.fits(entry) {
            let name = model.start..model.start.saturating_add(model.name);
            self.bytes.extend_from_within(name);
            self.bytes.extend_from_slice(value);
            self.push(entry);
        }
    }

    /// Changes what the entries may count for, and evicts (RFC 7541 §4.3).
    pub fn set_max_size(&mut self, max_size: usize) {
        self.version = self.version.wrapping_add(1);
        self.max_size = max_size;
        self.evict_to(max_size);
    }

    fn entry(&self, name: usize, value: usize) -> Entry {
        Entry {
            start: self.bytes.len(),
            name,
            value,
        }
    }

    /// Makes room for an entry; whether there can be any.
    fn fits(&mut self, entry: Entry) -> bool {
        self.version = self.version.wrapping_add(1);
        let fits = entry.size() <= self.max_size;
        if !fits {
            self.evict_to(0);
        }
        fits
    }

    /// Enters what has just been appended to the buffer.
    fn push(&mut self, entry: Entry) {
        self.evict_to(self.max_size.saturating_sub(entry.size()));
        self.entries.push_front(entry);
        self.size = self.size.saturating_add(entry.size());
        self.inserted = self.inserted.wrapping_add(1);
        if self.bytes.len() > self.max_size.saturating_mul(2) {
            let unused = self.entries.back().map_or(0, |oldest| oldest.start);
            self.bytes.drain(..unused);
            for entry in &mut self.entries {
                entry.start = entry.start.saturating_sub(unused);
            }
        }
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_back()
        {
            self.size = self.size.saturating_sub(entry.size());
        }
    }
}
