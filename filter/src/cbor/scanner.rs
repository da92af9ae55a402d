//! Finds where a CBOR item ends while it arrives in pieces of any size.

use super::item::{Head, MAX_HEAD, length};
use crate::error::Error;

/// How deep arrays, maps and tags may nest, the message's own array included.
pub(super) const MAX_DEPTH: usize = 4;

/// Looks at each byte of an item once, however it is cut up, and keeps nothing of it but counts.
#[derive(Debug)]
pub(super) struct Scanner {
    /// No string and no count may exceed it: it wouldn't fit into a WebSocket message.
    most: u64,
    /// Items still to come at each level.
    open: [u64; MAX_DEPTH],
    depth: usize,
    /// Bytes of a string still to come.
    string: u64,
    /// A head that hasn't all arrived.
    head: [u8; MAX_HEAD],
    head_length: usize,
}

impl Scanner {
    /// A scanner before the first byte of an item. `most`: bytes of the largest WebSocket message.
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            open: [0; MAX_DEPTH],
            depth: 0,
            string: 0,
            head: [0; MAX_HEAD],
            head_length: 0,
        }
    }

    /// Looks at further bytes. Returns how many of them belong to the item and whether it ends with them;
    /// if not, that is all of them.
    ///
    /// # Errors
    /// [`Error::CborMalformed`]: not well-formed, too deep, or longer than any message.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(usize, bool), Error> {
        let mut rest = bytes;
        loop {
            if self.string > 0 {
                let here = length(rest.len()).min(self.string);
                self.string = self.string.saturating_sub(here);
                rest = usize::try_from(here)
                    .ok()
                    .and_then(|here| rest.get(here..))
                    .unwrap_or_default();
                if self.string > 0 {
                    return Ok((bytes.len(), false));
                }
                if self.item_ended() {
                    break;
                }
            }
            let Some(head) = self.head(&mut rest)? else {
                return Ok((bytes.len(), false));
            };
            if self.begin(head)? && self.item_ended() {
                break;
            }
        }
        Ok((bytes.len().saturating_sub(rest.len()), true))
    }

    /// Takes the next head from the front of `rest`, or keeps the part that is there.
    fn head(&mut self, rest: &mut &[u8]) -> Result<Option<Head>, Error> {
        while self.head_length > 0 {
            let Some((&byte, after)) = rest.split_first() else {
                return Ok(None);
            };
            *rest = after;
            if let Some(free) = self.head.get_mut(self.head_length) {
                *free = byte;
            }
            self.head_length = self.head_length.saturating_add(1);
            let arrived = self.head.get(..self.head_length).ok_or(Error::CborMalformed)?;
            if let Some((head, _)) = Head::parse(arrived)? {
                self.head_length = 0;
                return Ok(Some(head));
            }
        }
        if let Some((head, length)) = Head::parse(rest)? {
            *rest = rest.get(length..).unwrap_or_default();
            return Ok(Some(head));
        }
        for (free, byte) in self.head.iter_mut().zip(rest.iter()) {
            *free = *byte;
        }
        self.head_length = rest.len();
        *rest = &[];
        Ok(None)
    }

    /// Takes note of what `head` announces; true if the item ends with its head.
    fn begin(&mut self, head: Head) -> Result<bool, Error> {
        let (strings, items) = match head {
            Head::Uint(_) | Head::Nint(_) | Head::Simple(_) | Head::Float => return Ok(true),
            Head::Bytes(length) | Head::Text(length) => (length, 0),
            Head::Array(count) => (0, count),
            Head::Map(count) => (0, count.saturating_mul(2)),
            Head::Tag(_) => (0, 1),
        };
        if strings > self.most || items > self.most {
            return Err(Error::CborMalformed);
        }
        if matches!(head, Head::Bytes(_) | Head::Text(_)) {
            self.string = strings;
            return Ok(strings == 0);
        }
        // An empty array at the fifth level is too deep as well.
        let level = self.open.get_mut(self.depth).ok_or(Error::CborMalformed)?;
        if items == 0 {
            return Ok(true);
        }
        *level = items;
        self.depth = self.depth.saturating_add(1);
        Ok(false)
    }

    /// An item has ended, and with it all of those that it was the last item of; true if that is all.
    fn item_ended(&mut self) -> bool {
        while let Some(inner) = self.depth.checked_sub(1) {
            if let Some(level) = self.open.get_mut(inner) {
                *level = level.saturating_sub(1);
                if *level > 0 {
                    return false;
                }
            }
            self.depth = inner;
        }
        true
    }
}
