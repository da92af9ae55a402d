//! Masking keys from the host's random bytes.

use super::host::{self};
use crate::websocket::MaskKeys;
use log::error;

/// How many bytes are asked for at a time: keys for 64 frames.
const BATCH: usize = 256;

/// Random bytes in stock. One for each connection, empty until a frame needs a key, so that a far end
/// never asks for any.
pub(super) struct RandomKeys {
    bytes: [u8; BATCH],
    used: usize,
}

impl RandomKeys {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; BATCH],
            used: BATCH,
        }
    }
}

impl MaskKeys for RandomKeys {
    fn next_key(&mut self) -> [u8; 4] {
        if self.used >= BATCH {
            if let Err(status) = host::random(&mut self.bytes) {
                // Keys repeat then. A mask guards proxies on the way against content that an attacker
                // has chosen; the connection itself works with any.
                error!("no fresh masking keys: {status}");
            }
            self.used = 0;
        }
        let rest = self.bytes.get(self.used..).unwrap_or_default();
        let key = rest.first_chunk::<4>().copied().unwrap_or_default();
        self.used = self.used.saturating_add(key.len());
        key
    }
}
