//! What control frames carry (RFC 6455 §5.5).

use std::fmt;
use std::ops::Deref;

/// The payload of a control frame: 0 to 125 bytes, kept in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ControlPayload {
    /// Zero behind `len`.
    bytes: [u8; Self::MAX],
    /// At most `MAX`.
    len: usize,
}

impl ControlPayload {
    /// The most that a control frame may carry, bytes (RFC 6455 §5.5).
    pub const MAX: usize = 125;

    /// The most of a Close frame's reason, bytes: two go to the code (RFC 6455 §5.5.1).
    pub const MAX_REASON: usize = Self::MAX - 2;

    /// Nothing.
    pub const fn new() -> Self {
        Self {
            bytes: [0; Self::MAX],
            len: 0,
        }
    }

    /// Takes bytes for as long as there is room and returns how many.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let taken = room.len().min(bytes.len());
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.len = self.len.saturating_add(taken);
        taken
    }

    /// The bytes, to be unmasked.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Default for ControlPayload {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&[u8]> for ControlPayload {
    /// What is longer than [`ControlPayload::MAX`] is cut off.
    fn from(bytes: &[u8]) -> Self {
        let mut payload = Self::new();
        payload.push(bytes);
        payload
    }
}

impl Deref for ControlPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

/// Whether a Close frame may hold this code (RFC 6455 §7.4 and IANA's registry): not those that only
/// report what happened (1005, 1006, 1015), nor what nobody has defined.
pub(super) const fn is_sendable_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
