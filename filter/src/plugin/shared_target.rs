//! What all workers, and the near converters, share of a tunnel's target: two entries of Envoy's
//! shared data, which belong to the `vm_id` and not to the VM.
//!
//! - `wsferry.target.NAME`: a [`Target`], kept by the connection managers.
//! - `wsferry.refused.NAME`: when the near converter last met a target without converter, by the
//!   host's clock, milliseconds in 8 bytes, big endian.
//!
//! Where shared data fails, every worker is on its own: it asks the target itself.

use super::host::{self, Status};
use crate::connection_manager::{Claim, Target, Time};

/// How often a worker tries again when another one was quicker.
const ATTEMPTS: usize = 8;

/// The entries of one tunnel's target.
#[derive(Debug)]
pub(super) struct SharedTarget {
    target: String,
    refused: String,
}

impl SharedTarget {
    /// Those of this tunnel, whether they are there or not.
    pub(super) fn of(tunnel: &str) -> Self {
        Self {
            target: format!("wsferry.target.{tunnel}"),
            refused: format!("wsferry.refused.{tunnel}"),
        }
    }

    /// Makes the entry if there is none: a version can be compared only with one that is there.
    pub(super) fn make(&self) -> Result<(), Status> {
        if host::shared_data(&self.target)?.0.is_empty() {
            host::set_shared_data(&self.target, &Target::Unknown.encode(), 0)?;
        }
        Ok(())
    }

    /// Asks for the right to open a WebSocket, and takes it.
    pub(super) fn claim(&self, now: Time, lease_ms: u32) -> Claim {
        let key = &self.target;
        for _ in 0..ATTEMPTS {
            let Ok((bytes, version)) = host::shared_data(key) else {
                break;
            };
            let old = Target::decode(&bytes);
            let claim = old.claim(now, lease_ms);
            match claim {
                Claim::Granted(new) if new != old => match host::set_shared_data(key, &new.encode(), version)
                {
                    Ok(false) => {}
                    Ok(true) | Err(_) => return claim,
                },
                _ => return claim,
            }
        }
        Claim::Granted(Target::Unknown)
    }

    /// Tells the others what is known now.
    pub(super) fn store(&self, target: Target) {
        let known = host::shared_data(&self.target).is_ok_and(|(bytes, _)| Target::decode(&bytes) == target);
        if !known {
            // Where it fails, the others go on asking.
            let _ = host::set_shared_data(&self.target, &target.encode(), 0);
        }
    }

    /// A near converter's handshake has shown that the target has no converter.
    pub(super) fn refuse(&self) {
        let now = host::now() / 1_000_000;
        let _ = host::set_shared_data(&self.refused, &now.to_be_bytes(), 0);
    }

    /// Whether one has since that time, by the host's clock, milliseconds.
    pub(super) fn refused_since(&self, time: u64) -> bool {
        let Ok((bytes, _)) = host::shared_data(&self.refused) else {
            return false;
        };
        <[u8; 8]>::try_from(bytes).is_ok_and(|bytes| u64::from_be_bytes(bytes) >= time)
    }
}
