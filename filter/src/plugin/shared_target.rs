//! What all workers, and the near converters, share of a tunnel's target: two entries of Envoy's
//! shared data, which belong to the `vm_id` and not to the VM.
//!
//! - `wsferry.target.2.NAME`: a [`Target`], kept by the connection managers.
//! - `wsferry.news.2.NAME`: [`News`] of the near converters.
//!
//! They outlive modules, so what a time or a byte in them means has a number.
//!
//! Where shared data fails, every worker is on its own: it asks the target itself.

use super::host::{self, Status};
use crate::connection_manager::{Claim, Target};
use crate::time::Time;

/// How often a worker tries again when another one was quicker.
const ATTEMPTS: usize = 8;

/// The entries of one tunnel's target.
#[derive(Debug)]
pub(super) struct SharedTarget {
    target: String,
    news: String,
}

/// What happened last to a near converter of any worker, and when; 0 for never. Each is stored in 8 bytes, big endian.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    /// A handshake has shown that the target has no converter.
    pub(super) refused: Time,
    /// A WebSocket, or what should have become one, ended or takes no more requests.
    pub(super) ended: Time,
}

impl News {
    fn encode(self) -> [u8; 16] {
        ((u128::from(self.refused.0) << 64) | u128::from(self.ended.0)).to_be_bytes()
    }

    /// Shared data outlives modules: another version may have added to it behind these bytes.
    fn decode(bytes: &[u8]) -> Self {
        let time = |bytes: &[u8]| Time(bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)));
        Self {
            refused: time(bytes),
            ended: time(bytes.get(8..).unwrap_or_default()),
        }
    }
}

impl SharedTarget {
    /// Those of this tunnel, whether they are there or not.
    pub(super) fn of(tunnel: &str) -> Self {
        Self {
            target: format!("wsferry.target.2.{tunnel}"),
            news: format!("wsferry.news.2.{tunnel}"),
        }
    }

    /// Makes the entries if there are none: a version can be compared only with one that is there.
    pub(super) fn make(&self) -> Result<(), Status> {
        for (key, first) in [
            (&self.target, &Target::Unknown.encode()[..]),
            (&self.news, &News::default().encode()),
        ] {
            if host::shared_data(key)?.0.is_empty() {
                host::set_shared_data(key, first, 0)?;
            }
        }
        Ok(())
    }

    /// Asks for the right to open a WebSocket, and takes it.
    pub(super) fn claim(&self, now: Time, lease_ms: u32, lack_ms: u32) -> Claim {
        let key = &self.target;
        for _ in 0..ATTEMPTS {
            let Ok((bytes, version)) = host::shared_data(key) else {
                break;
            };
            let old = Target::decode(&bytes);
            let claim = old.claim(now, lease_ms, lack_ms);
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

    /// Whether WebSockets work, and no probe has failed since that was last seen.
    pub(super) fn has(&self) -> bool {
        host::shared_data(&self.target).is_ok_and(|(bytes, _)| Target::decode(&bytes) == Target::Has)
    }

    /// Tells the others what is known now.
    pub(super) fn store(&self, target: Target) {
        let known = host::shared_data(&self.target).is_ok_and(|(bytes, _)| Target::decode(&bytes) == target);
        if !known {
            // Where it fails, the others go on asking.
            let _ = host::set_shared_data(&self.target, &target.encode(), 0);
        }
    }

    /// A probe has failed, which may be this worker's own trouble; `turn` is what was granted for it. Where another worker
    /// was quicker, it knows better. What `is_worker` isn't of, Envoy's main thread perhaps, gives back its turn alone.
    pub(super) fn fail(&self, is_worker: bool, turn: Option<Target>) {
        if let Ok((bytes, version)) = host::shared_data(&self.target) {
            let old = Target::decode(&bytes);
            let new = old.after_failure(turn);
            let may_tell = is_worker || matches!(old, Target::Asking { .. });
            if may_tell && new != old {
                let _ = host::set_shared_data(&self.target, &new.encode(), version);
            }
        }
    }

    /// A near converter's handshake has shown that the target has no converter.
    pub(super) fn refuse(&self) {
        self.tell(|news, now| news.refused = now);
    }

    /// A near converter's WebSocket has ended or takes no more requests.
    pub(super) fn end(&self) {
        self.tell(|news, now| news.ended = now);
    }

    /// Where it fails, the others find out by themselves.
    fn tell(&self, change: impl Fn(&mut News, Time)) {
        let now = host::now();
        for _ in 0..ATTEMPTS {
            let Ok((bytes, version)) = host::shared_data(&self.news) else {
                return;
            };
            let mut news = News::decode(&bytes);
            change(&mut news, now);
            match host::set_shared_data(&self.news, &news.encode(), version) {
                Ok(false) => {}
                Ok(true) | Err(_) => return,
            }
        }
    }

    /// What near converters have told.
    pub(super) fn news(&self) -> News {
        host::shared_data(&self.news).map_or_else(|_| News::default(), |(bytes, _)| News::decode(&bytes))
    }
}
