//! How large header lists are.

use crate::message::{FIELD_OVERHEAD, Http2Id, Message, WireId};

/// The stream and the size of a message's header list, as RFC 9113 §6.5.2 counts it; `None` for a
/// message without one.
pub(super) fn header_list_size(message: &Message<'_, Http2Id>) -> Option<(Http2Id, usize)> {
    let pseudo = |name: &str, value: &[u8]| match value.len() {
        0 => 0,
        bytes => name.len().saturating_add(bytes).saturating_add(FIELD_OVERHEAD),
    };
    match message {
        Message::Request { stream, head, .. } => {
            let size = [
                pseudo(":method", head.method),
                pseudo(":scheme", head.scheme),
                pseudo(":authority", head.authority),
                pseudo(":path", head.path),
                pseudo(":protocol", head.protocol.unwrap_or_default()),
            ]
            .iter()
            .fold(head.fields.list_size(), |sum, bytes| sum.saturating_add(*bytes));
            Some((*stream, size))
        }
        Message::Response { stream, fields, .. } => Some((
            *stream,
            fields.list_size().saturating_add(pseudo(":status", b"200")),
        )),
        Message::Trailers { stream, fields } => Some((*stream, fields.list_size())),
        _ => None,
    }
}

/// Bytes of names and values in a message's header list, pseudo-header fields' values included;
/// `None` for a message without one.
pub(super) fn header_bytes(message: &Message<'_, WireId>) -> Option<u64> {
    let bytes = match message {
        Message::Request { head, .. } => {
            let protocol = head.protocol.unwrap_or_default();
            [head.method, head.scheme, head.authority, head.path, protocol]
                .iter()
                .fold(head.fields.bytes(), |sum, value| sum.saturating_add(value.len()))
        }
        Message::Response { fields, .. } => fields.bytes().saturating_add(3),
        Message::Trailers { fields, .. } => fields.bytes(),
        _ => return None,
    };
    u64::try_from(bytes).ok()
}
