//! Header blocks to field lines (RFC 7541 §3.2, §6).

use super::table::{DynamicTable, STATIC};
use super::{TABLE_BYTES, huffman, integer};
use crate::error::Error;
use crate::known_strings::KnownStrings;
use crate::message::Field;

/// Decodes the header blocks of one direction of a connection, in order.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// Largest table size that the sender may choose, bytes.
    max_table_size: usize,
    /// Huffman coded strings, decoded; reused.
    name: Vec<u8>,
    value: Vec<u8>,
    known: KnownStrings,
}

impl Decoder {
    /// A decoder whose announced SETTINGS_HEADER_TABLE_SIZE is the default.
    pub const fn new() -> Self {
        Self::with_table(TABLE_BYTES)
    }

    /// A decoder for a sender that was told of `max_table_size` bytes.
    pub const fn with_table(max_table_size: usize) -> Self {
        Self {
            table: DynamicTable::new(max_table_size),
            max_table_size,
            name: Vec::new(),
            value: Vec::new(),
            known: KnownStrings::new(),
        }
    }

    /// The dynamic table as the last block left it.
    pub const fn table(&self) -> &DynamicTable {
        &self.table
    }

    /// Gives back memory above so many bytes that decoding has taken for each of a name and a value.
    pub fn shrink(&mut self, most: usize) {
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > most {
                *scratch = Vec::new();
            }
        }
    }

    /// Gives `emit` each field line of a whole block. What it does with them doesn't touch the state.
    /// Work is bounded by the length of the block; the caller bounds that, and what it keeps.
    ///
    /// # Errors
    /// [`Error::Hpack`]: the block is malformed, and with it the state of the connection.
    pub fn decode(&mut self, block: &[u8], mut emit: impl FnMut(Field<'_>)) -> Result<(), Error> {
        let mut rest = block;
        let mut begun = false;
        while let Some(first) = rest.first().copied() {
            if first & 0x80 != 0 {
                let index = integer::decode(0x7f, &mut rest)?;
                let (name, value) = entry(&self.table, index)?;
                emit(Field {
                    name,
                    value,
                    sensitive: false,
                });
            } else if first & 0x40 != 0 {
                self.literal(&mut rest, 0x3f, Literal::Incremental, &mut emit)?;
            } else if first & 0x20 != 0 {
                // Only where a block begins (§4.2).
                let size = integer::decode(0x1f, &mut rest)?;
                if begun || size > self.max_table_size {
                    return Err(Error::Hpack);
                }
                self.table.set_max_size(size);
                continue;
            } else if first & 0x10 != 0 {
                self.literal(&mut rest, 0x0f, Literal::NeverIndexed, &mut emit)?;
            } else {
                self.literal(&mut rest, 0x0f, Literal::NotIndexed, &mut emit)?;
            }
            begun = true;
        }
        Ok(())
    }

    /// A literal field line (§6.2); the bits of `mask` are the prefix of its name's index.
    fn literal(
        &mut self,
        block: &mut &[u8],
        mask: u8,
        literal: Literal,
        emit: &mut impl FnMut(Field<'_>),
    ) -> Result<(), Error> {
        let index = integer::decode(mask, block)?;
        let new_name = match index {
            0 => Some(string(block, &mut self.known, &mut self.name)?),
            _ => None,
        };
        let value = string(block, &mut self.known, &mut self.value)?;
        let name = match new_name {
            Some(name) => name,
            None => entry(&self.table, index)?.0,
        };
        emit(Field {
            name,
            value,
            sensitive: literal == Literal::NeverIndexed,
        });
        if literal == Literal::Incremental {
            match (new_name, dynamic_position(index)) {
                (Some(name), _) => self.table.insert(name, value),
                (None, Some(position)) => self.table.insert_named_as(position, value),
                (None, None) => self.table.insert(static_entry(index)?.0, value),
            }
        }
        Ok(())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// What becomes of a literal field line (§6.2.1 to §6.2.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Literal {
    Incremental,
    NotIndexed,
    NeverIndexed,
}

/// The position in the dynamic table of an index above the static table's (§2.3.3).
fn dynamic_position(index: usize) -> Option<usize> {
    index.checked_sub(STATIC.len())?.checked_sub(1)
}

fn static_entry(index: usize) -> Result<(&'static [u8], &'static [u8]), Error> {
    let position = index.checked_sub(1).ok_or(Error::Hpack)?;
    STATIC.get(position).copied().ok_or(Error::Hpack)
}

fn entry(table: &DynamicTable, index: usize) -> Result<(&[u8], &[u8]), Error> {
    match dynamic_position(index) {
        Some(position) => table.get(position).ok_or(Error::Hpack),
        None => static_entry(index),
    }
}

/// Takes a string from the front of `block` (§5.2): as it lies there, or decoded into `scratch`.
fn string<'s, 'b: 's>(
    block: &mut &'b [u8],
    known: &mut KnownStrings,
    scratch: &'s mut Vec<u8>,
) -> Result<&'s [u8], Error> {
    let huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer::decode(0x7f, block)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Error::Hpack)?;
    *block = rest;
    if !huffman {
        return Ok(string);
    }
    scratch.clear();
    known.make(string, scratch, huffman::decode)?;
    Ok(scratch)
}
