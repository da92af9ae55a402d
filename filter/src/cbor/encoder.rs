//! Messages to CBOR.

use std::sync::Arc;

use super::field_table::Entry;
use super::insertion::{Balance, Entries, Names, Seen, hash, may_be_entry};
use super::item::{Head, TRUE_BYTE, length, major, write_bool, write_head, write_null, write_string};
use super::packed;
use super::typed::Typed;
use super::{AUTHORITY, METHODS, PATH, SCHEMES, is_hop_setting, message_type};
use crate::config::FieldPolicy;
use crate::known_strings::KnownStrings;
use crate::message::{Field, Fields, Message, RequestHead, Settings, WireId};
use crate::repeat::{Last, Revision};

/// Turns messages into CBOR; one for each direction and connection, as it holds that direction's field
/// table.
///
/// It writes what it is given: that names, values and numbers are what HTTP and [`Message`] allow is seen
/// to by the reader that made the message.
pub struct Encoder {
    policy: Arc<FieldPolicy>,
    entries: Entries,
    names: Names,
    seen: Seen,
    authority: PseudoPolicy,
    path: PseudoPolicy,
    last: Last<Revision>,
    known: KnownStrings,
}

/// Whether and how often the values of a pseudo-header field enter.
struct PseudoPolicy {
    may_enter: bool,
    balance: Balance,
}

/// Shortest beginning of a path that is worth an entry, bytes.
const MIN_PREFIX: usize = 6;

/// In how many places a path is tried to be split, from its end.
const MAX_SPLITS: usize = 4;

impl Encoder {
    /// An encoder with an empty field table.
    pub fn new(policy: &Arc<FieldPolicy>) -> Self {
        let pseudo = |name| PseudoPolicy {
            may_enter: policy.may_enter(name),
            balance: Balance::default(),
        };
        Self {
            policy: Arc::clone(policy),
            entries: Entries::new(),
            names: Names::new(),
            seen: Seen::new(),
            authority: pseudo(AUTHORITY),
            path: pseudo(PATH),
            last: Last::new(),
            known: KnownStrings::new(),
        }
    }

    /// Appends one message to `out`. It writes data of any length; the caller splits what is larger than
    /// [`crate::config::MESSAGE_BYTES`].
    pub fn encode(&mut self, message: &Message<'_, WireId>, out: &mut Vec<u8>) {
        match *message {
            Message::Request { stream, end, head } => {
                let items = if head.protocol.is_some() { 9 } else { 8 };
                write_opening(out, items, message_type::REQUEST, Some(stream));
                write_bool(out, end);
                self.list(head.fields, out, |this, out| this.head(&head, out));
            }
            Message::Response {
                stream,
                end,
                status,
                fields,
            } => {
                write_opening(out, 5, message_type::RESPONSE, Some(stream));
                write_bool(out, end);
                self.list(fields, out, |this, out| {
                    write_head(out, major::UINT, u64::from(status));
                    this.fields(fields, out);
                });
            }
            Message::Data { stream, end, payload } => {
                write_opening(out, 4, message_type::DATA, Some(stream));
                write_bool(out, end);
                write_string(out, major::BYTES, payload);
            }
            Message::Trailers { stream, fields } => {
                write_opening(out, 3, message_type::TRAILERS, Some(stream));
                self.fields(fields, out);
            }
            Message::Reset { stream, code } => {
                write_opening(out, 3, message_type::RESET, Some(stream));
                write_head(out, major::UINT, u64::from(code));
            }
            Message::Credit { stream, bytes } => {
                write_opening(out, 3, message_type::CREDIT, stream);
                if stream.is_none() {
                    write_head(out, major::NINT, 0);
                }
                write_head(out, major::UINT, u64::from(bytes));
            }
            Message::Settings(settings) => {
                write_opening(out, 2, message_type::SETTINGS, None);
                write_settings(settings, out);
            }
            Message::Ack => write_opening(out, 1, message_type::ACK, None),
            Message::Goaway { last, code } => {
                write_opening(out, 3, message_type::GOAWAY, last);
                if last.is_none() {
                    write_null(out);
                }
                write_head(out, major::UINT, u64::from(code));
            }
            Message::Raw(bytes) => {
                write_opening(out, 2, message_type::RAW, None);
                write_string(out, major::BYTES, bytes);
            }
        }
    }

    /// Appends what `write` makes of a header list, or what it made the last time.
    fn list(&mut self, fields: &Fields, out: &mut Vec<u8>, write: impl FnOnce(&mut Self, &mut Vec<u8>)) {
        let revision = fields.revision();
        let version = self.version();
        if let Some(bytes) = revision.and_then(|revision| self.last.get(revision, version)) {
            return out.extend_from_slice(bytes);
        }
        let start = out.len();
        write(self, out);
        if let (Some(revision), Some(bytes)) = (revision, out.get(start..)) {
            self.last.set(revision, version, self.version(), bytes);
        }
    }

    /// Another one after each change of the tables.
    const fn version(&self) -> u64 {
        self.entries.version().wrapping_add(self.names.version())
    }

    fn head(&mut self, head: &RequestHead<'_>, out: &mut Vec<u8>) {
        write_known(out, &METHODS, head.method);
        write_known(out, &SCHEMES, head.scheme);
        self.authority(head.authority, out);
        self.path(head.path, out);
        self.fields(head.fields, out);
        if let Some(protocol) = head.protocol {
            write_string(out, major::TEXT, protocol);
        }
    }

    fn authority(&mut self, value: &[u8], out: &mut Vec<u8>) {
        let entry = Entry {
            name: AUTHORITY,
            value,
        };
        if value.is_empty() {
            return write_string(out, major::TEXT, value);
        }
        if !self.authority.may_enter {
            return write_string(out, major::BYTES, value);
        }
        let hash = hash(&[AUTHORITY, value]);
        if let Some(slot) = self.entries.find(entry, hash) {
            self.authority.balance.hit();
            return write_head(out, major::UINT, u64::from(slot));
        }
        if is_text_entry(entry) && self.authority.balance.spend(self.seen.again(hash)) {
            self.entries.insert(entry, hash);
            return write_string(out, major::TEXT, value);
        }
        write_string(out, major::BYTES, value);
    }

    /// As a whole where that was seen before; otherwise as a known beginning and the rest, because many
    /// paths differ in their end alone.
    fn path(&mut self, value: &[u8], out: &mut Vec<u8>) {
        let entry = Entry { name: PATH, value };
        if value.is_empty() {
            return write_string(out, major::TEXT, value);
        }
        if !self.path.may_enter {
            return write_string(out, major::BYTES, value);
        }
        let hash = hash(&[PATH, value]);
        if let Some(slot) = self.entries.find(entry, hash) {
            self.path.balance.hit();
            return write_head(out, major::UINT, u64::from(slot));
        }
        let is_entry = is_text_entry(entry);
        let seen_before = self.seen.again(hash);
        if !(is_entry && seen_before) && self.path_with_prefix(value, out) {
            return;
        }
        if is_entry && self.path.balance.spend(seen_before) {
            self.entries.insert(entry, hash);
            return write_string(out, major::TEXT, value);
        }
        write_string(out, major::BYTES, value);
    }

    /// Writes a path that begins like an entry, or like one that it makes; false if there is none.
    fn path_with_prefix(&mut self, path: &[u8], out: &mut Vec<u8>) -> bool {
        let mut enter = None;
        for (value, suffix) in path_splits(path) {
            let prefix = Entry { name: PATH, value };
            let hash = hash(&[PATH, value]);
            if let Some(slot) = self.entries.find(prefix, hash) {
                write_head(out, major::ARRAY, 2);
                write_head(out, major::UINT, u64::from(slot));
                write_string(out, major::BYTES, suffix);
                return true;
            }
            if self.seen.again(hash) && enter.is_none() && is_text_entry(prefix) {
                enter = Some((prefix, hash, suffix));
            }
        }
        let Some((prefix, hash, suffix)) = enter else {
            return false;
        };
        self.entries.insert(prefix, hash);
        write_head(out, major::ARRAY, 2);
        write_string(out, major::TEXT, prefix.value);
        write_string(out, major::BYTES, suffix);
        true
    }

    fn fields(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        let start = out.len();
        let items = fields
            .iter()
            .fold(0_u64, |items, field| items.saturating_add(self.field(field, out)));
        // How many items these are is known only now.
        let end = out.len();
        write_head(out, major::ARRAY, items);
        let head = out.len().saturating_sub(end);
        if let Some(list) = out.get_mut(start..) {
            list.rotate_right(head);
        }
    }

    /// Appends a field and returns how many items that took.
    fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) -> u64 {
        let Field {
            name,
            value,
            sensitive,
        } = field;
        let name_hash = hash(&[name]);
        let known = self.names.find(name, name_hash);
        let may_enter = match known.and_then(|slot| self.names.known(slot)) {
            Some(known) => known.may_enter,
            None => self.policy.may_enter(name),
        };
        let entry = Entry { name, value };
        if !may_enter || (sensitive && !self.policy.may_enter_if_sensitive(name)) {
            self.name(name, name_hash, known, may_enter, out);
            packed::write(value, &mut self.known, out);
            return 2;
        }
        let hash = hash(&[name, value]);
        if let Some(slot) = self.entries.find(entry, hash) {
            if let Some(known) = known.and_then(|slot| self.names.known(slot)) {
                known.balance.hit();
            }
            write_head(out, major::UINT, u64::from(slot));
            return 1;
        }
        let slot = self.name(name, name_hash, known, may_enter, out);
        let typed = Typed::of(value);
        let enters = is_text_entry(entry) && {
            let seen_before = self.seen.again(hash);
            match slot.and_then(|slot| self.names.known(slot)) {
                Some(known) => known.balance.spend(seen_before),
                None => seen_before,
            }
        };
        if enters {
            self.entries.insert(entry, hash);
        }
        match (typed, enters) {
            (Some(typed), true) => {
                write_head(out, major::ARRAY, 1);
                typed.write(out);
            }
            (Some(typed), false) => typed.write(out),
            (None, true) => write_string(out, major::TEXT, value),
            (None, false) => packed::write(value, &mut self.known, out),
        }
        2
    }

    /// Appends a name, learning it if that seems worth it, and returns its slot.
    fn name(
        &mut self,
        name: &[u8],
        hash: u64,
        known: Option<u8>,
        may_enter: bool,
        out: &mut Vec<u8>,
    ) -> Option<u8> {
        if let Some(slot) = known {
            write_head(out, major::NINT, u64::from(slot));
            return Some(slot);
        }
        if self.names.is_worth_learning(name, hash, &mut self.seen)
            && let Some(slot) = self.names.learn(name, hash, may_enter)
        {
            write_string(out, major::TEXT, name);
            return Some(slot);
        }
        write_string(out, major::BYTES, name);
        None
    }
}

/// Whether a pair can enter as text.
fn is_text_entry(entry: Entry<'_>) -> bool {
    may_be_entry(entry.name.len(), entry.value.len()) && std::str::from_utf8(entry.value).is_ok()
}

/// Where a path may be split, longest beginning first.
fn path_splits(path: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    path.iter()
        .enumerate()
        .rev()
        .skip(1)
        .filter(|(_, byte)| matches!(byte, b'/' | b'?' | b'&' | b'='))
        .filter_map(|(at, _)| path.split_at_checked(at.saturating_add(1)))
        .take_while(|(prefix, _)| prefix.len() >= MIN_PREFIX)
        .take(MAX_SPLITS)
}

/// Appends the head of a message's array, its type and its stream.
fn write_opening(out: &mut Vec<u8>, items: u64, message_type: u64, stream: Option<WireId>) {
    write_head(out, major::ARRAY, items);
    write_head(out, major::UINT, message_type);
    if let Some(WireId(stream)) = stream {
        write_head(out, major::UINT, u64::from(stream));
    }
}

/// Appends a value's place in a list of the protocol, or the value itself.
fn write_known(out: &mut Vec<u8>, names: &[&[u8]], value: &[u8]) {
    match names.iter().position(|name| *name == value) {
        Some(code) => write_head(out, major::UINT, length(code)),
        None => write_string(out, major::TEXT, value),
    }
}

/// Sets the end of a data message as an [`Encoder`] has written it, which begins `message`; false if there is none.
pub fn end_data(message: &mut [u8]) -> bool {
    // Behind the heads of the array and of the type, a byte each, and that of the stream.
    let stream = message.get(2..).unwrap_or_default();
    let Ok(Some((Head::Uint(_), length))) = Head::parse(stream) else {
        return false;
    };
    let end = message.get_mut(length.saturating_add(2));
    end.map(|end| *end = TRUE_BYTE).is_some()
}

fn write_settings(settings: &Settings, out: &mut Vec<u8>) {
    let travelling = || settings.iter().filter(|(id, _)| !is_hop_setting(*id));
    write_head(out, major::MAP, length(travelling().count()));
    for (id, value) in travelling() {
        write_head(out, major::UINT, u64::from(id));
        write_head(out, major::UINT, u64::from(value));
    }
}
