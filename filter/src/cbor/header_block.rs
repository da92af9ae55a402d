//! Header lists out of CBOR: pseudo-header fields, references, literals and what they enter.

use super::field_table::{Entry, FieldTable, NameTable};
use super::item::{Item, Items};
use super::packed;
use super::typed::Typed;
use super::{AUTHORITY, METHODS, PATH, SCHEMES};
use crate::config::Limits;
use crate::error::Error;
use crate::field_rules::{is_name, is_token, is_value};
use crate::known_strings::KnownStrings;
use crate::message::{FIELD_OVERHEAD, Fields, MAX_STRING, RequestHead};

/// Decodes header lists, keeps the tables of its direction, and lends out what was decoded last.
pub(super) struct HeaderBlock {
    table: FieldTable,
    names: NameTable,
    budget: Budget,
    pseudo: Pseudo,
    fields: Fields,
    /// The packed value that was read last; its room stays, as that of `fields` does.
    packed: Vec<u8>,
    known: KnownStrings,
}

impl HeaderBlock {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            table: FieldTable::new(),
            names: NameTable::new(),
            budget: Budget::new(limits),
            pseudo: Pseudo::default(),
            fields: Fields::new(),
            packed: Vec::new(),
            known: KnownStrings::new(),
        }
    }

    /// Another one after each change of the tables.
    pub(super) const fn version(&self) -> u64 {
        self.table.version().wrapping_add(self.names.version())
    }

    /// The list is the one that was decoded last.
    pub(super) fn comes_again(&mut self) {
        self.fields.comes_again();
    }

    /// The fields that were decoded last.
    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The request that was decoded last.
    pub(super) fn head(&self) -> RequestHead<'_> {
        let Pseudo {
            bytes,
            ends,
            protocol,
        } = &self.pseudo;
        let part = |start: usize, end: usize| bytes.get(start..end).unwrap_or_default();
        RequestHead {
            method: part(0, ends.method),
            scheme: part(ends.method, ends.scheme),
            authority: part(ends.scheme, ends.authority),
            path: part(ends.authority, ends.path),
            protocol: protocol.then(|| part(ends.path, bytes.len())),
            fields: &self.fields,
        }
    }

    /// Decodes what follows `end` in a request; `protocol` says whether the ninth item is there.
    pub(super) fn request(&mut self, items: &mut Items<'_>, protocol: bool) -> Result<(), Error> {
        self.budget.reset();
        self.pseudo.bytes.clear();
        self.method(items)?;
        self.pseudo.ends.method = self.pseudo.bytes.len();
        self.scheme(items)?;
        self.pseudo.ends.scheme = self.pseudo.bytes.len();
        let authority = items.item()?;
        self.authority(authority)?;
        self.pseudo.ends.authority = self.pseudo.bytes.len();
        self.path(items)?;
        self.pseudo.ends.path = self.pseudo.bytes.len();
        self.list(items)?;
        self.pseudo.protocol = protocol;
        if protocol {
            let Item::Text(value) = items.item()? else {
                return Err(Error::MessageForm);
            };
            if !is_token(value) {
                return Err(Error::InvalidField);
            }
            self.pseudo(b":protocol", &[value])?;
        }
        Ok(())
    }

    /// Decodes the fields of a response or of trailers; `status` says which.
    pub(super) fn fields_only(&mut self, items: &mut Items<'_>, status: bool) -> Result<(), Error> {
        self.budget.reset();
        if status {
            self.budget.take(b":status".len(), b"200".len())?;
        }
        self.list(items)
    }

    fn method(&mut self, items: &mut Items<'_>) -> Result<(), Error> {
        let method = match items.item()? {
            Item::Uint(code) => known(&METHODS, code)?,
            Item::Text(method) if is_token(method) => method,
            Item::Text(_) => return Err(Error::InvalidField),
            _ => return Err(Error::MessageForm),
        };
        self.pseudo(b":method", &[method])
    }

    fn scheme(&mut self, items: &mut Items<'_>) -> Result<(), Error> {
        let scheme = match items.item()? {
            Item::Uint(code) => known(&SCHEMES, code)?,
            Item::Text(scheme) => scheme,
            _ => return Err(Error::MessageForm),
        };
        self.pseudo(b":scheme", &[scheme])
    }

    fn authority(&mut self, item: Item<'_>) -> Result<(), Error> {
        match item {
            Item::Uint(slot) => self.reference(slot, AUTHORITY, &[]),
            Item::Text(value) => self.entering(AUTHORITY, value, &[]),
            Item::Bytes(value) => self.pseudo(AUTHORITY, &[value]),
            _ => Err(Error::MessageForm),
        }
    }

    fn path(&mut self, items: &mut Items<'_>) -> Result<(), Error> {
        match items.item()? {
            Item::Uint(slot) => self.reference(slot, PATH, &[]),
            Item::Text(value) => self.entering(PATH, value, &[]),
            Item::Bytes(value) => self.pseudo(PATH, &[value]),
            Item::Array(2) => {
                let prefix = items.item()?;
                let Item::Bytes(suffix) = items.item()? else {
                    return Err(Error::MessageForm);
                };
                match prefix {
                    Item::Uint(slot) => self.reference(slot, PATH, suffix),
                    Item::Text(value) => self.entering(PATH, value, suffix),
                    _ => Err(Error::MessageForm),
                }
            }
            _ => Err(Error::MessageForm),
        }
    }

    /// A pseudo-header field that is in the table, or that begins with what is.
    fn reference(&mut self, slot: u64, name: &[u8], suffix: &[u8]) -> Result<(), Error> {
        check_value(suffix)?;
        let Self {
            table,
            budget,
            pseudo,
            ..
        } = self;
        let value = entry(table, slot)
            .filter(|entry| entry.name == name)
            .ok_or(Error::BadReference)?
            .value;
        budget.take(name.len(), value.len().saturating_add(suffix.len()))?;
        pseudo.bytes.extend_from_slice(value);
        pseudo.bytes.extend_from_slice(suffix);
        Ok(())
    }

    /// A pseudo-header field whose value, without the suffix, enters the table unless it is empty.
    fn entering(&mut self, name: &[u8], value: &[u8], suffix: &[u8]) -> Result<(), Error> {
        self.pseudo(name, &[value, suffix])?;
        if !value.is_empty() {
            self.table.insert(Entry { name, value }, 0, |_, _| {})?;
        }
        Ok(())
    }

    /// Appends a pseudo-header field; one without a value counts as absent.
    fn pseudo(&mut self, name: &[u8], parts: &[&[u8]]) -> Result<(), Error> {
        let length = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if length > 0 {
            self.budget.take(name.len(), length)?;
        }
        for part in parts {
            check_value(part)?;
            self.pseudo.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    /// The flat array of references, names and values.
    fn list(&mut self, items: &mut Items<'_>) -> Result<(), Error> {
        self.fields.clear();
        let mut left = items.array()?;
        while let Some(after) = left.checked_sub(1) {
            left = after;
            match items.item()? {
                Item::Uint(slot) => self.field_reference(slot)?,
                name => {
                    left = left.checked_sub(1).ok_or(Error::MessageForm)?;
                    self.field(name, items)?;
                }
            }
        }
        Ok(())
    }

    fn field_reference(&mut self, slot: u64) -> Result<(), Error> {
        let entry = entry(&self.table, slot)
            .filter(|entry| !entry.name.starts_with(b":"))
            .ok_or(Error::BadReference)?;
        self.budget.take(entry.name.len(), entry.value.len())?;
        self.fields.push(entry.name, entry.value, false);
        Ok(())
    }

    /// A field that is spelt out, its name perhaps learned before.
    fn field(&mut self, name: Item<'_>, items: &mut Items<'_>) -> Result<(), Error> {
        let Self {
            table,
            names,
            budget,
            fields,
            packed,
            known,
            ..
        } = self;
        let name = match name {
            Item::Nint(slot) => u8::try_from(slot)
                .ok()
                .and_then(|slot| names.get(slot))
                .ok_or(Error::BadReference)?,
            Item::Text(name) => {
                check_name(name)?;
                names.learn(name)?;
                name
            }
            Item::Bytes(name) => {
                check_name(name)?;
                name
            }
            _ => return Err(Error::MessageForm),
        };
        let text;
        let (value, enters, sensitive) = match items.item()? {
            Item::Text(value) => (value, true, false),
            Item::Bytes(value) => (value, false, true),
            Item::Tag(packed::TAG_BASE64URL) => {
                packed::read(items, known, packed, budget.bytes)?;
                (packed.as_slice(), false, true)
            }
            Item::Array(1) => {
                let first = items.item()?;
                text = Typed::read(first, items)?.format()?;
                (text.as_bytes(), true, false)
            }
            first => {
                text = Typed::read(first, items)?.format()?;
                (text.as_bytes(), false, false)
            }
        };
        check_value(value)?;
        budget.take(name.len(), value.len())?;
        if enters {
            table.insert(Entry { name, value }, 0, |_, _| {})?;
        }
        fields.push(name, value, sensitive);
        Ok(())
    }
}

/// What the header list that is being decoded may still hold (RFC 9113 §6.5.2 says how it is counted),
/// so that a few references can't be turned into megabytes.
struct Budget {
    max_bytes: usize,
    max_fields: usize,
    bytes: usize,
    fields: usize,
}

impl Budget {
    fn new(limits: &Limits) -> Self {
        Self {
            max_bytes: limits.max_header_list_bytes,
            max_fields: limits.max_header_fields,
            bytes: 0,
            fields: 0,
        }
    }

    fn reset(&mut self) {
        self.bytes = self.max_bytes;
        self.fields = self.max_fields;
    }

    /// Makes room for one field before it is copied.
    fn take(&mut self, name: usize, value: usize) -> Result<(), Error> {
        let bytes = name.saturating_add(value).saturating_add(FIELD_OVERHEAD);
        if name.max(value) > MAX_STRING {
            return Err(Error::HeaderListTooBig);
        }
        self.fields = self.fields.checked_sub(1).ok_or(Error::HeaderListTooBig)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Error::HeaderListTooBig)?;
        Ok(())
    }
}

/// The pseudo-header fields of a request, one after the other.
#[derive(Default)]
struct Pseudo {
    bytes: Vec<u8>,
    ends: PseudoEnds,
    protocol: bool,
}

#[derive(Default)]
struct PseudoEnds {
    method: usize,
    scheme: usize,
    authority: usize,
    path: usize,
}

/// The entry that a reference names.
fn entry(table: &FieldTable, slot: u64) -> Option<Entry<'_>> {
    table.get(u8::try_from(slot).ok()?)
}

/// The name that a code of the protocol stands for.
fn known(names: &[&'static [u8]], code: u64) -> Result<&'static [u8], Error> {
    usize::try_from(code)
        .ok()
        .and_then(|code| names.get(code))
        .copied()
        .ok_or(Error::MessageForm)
}

fn check_name(name: &[u8]) -> Result<(), Error> {
    if is_name(name) {
        Ok(())
    } else {
        Err(Error::InvalidField)
    }
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    if is_value(value) {
        Ok(())
    } else {
        Err(Error::InvalidField)
    }
}
