//! What all workers together know of a tunnel's target: does it have a converter?
//!
//! Each worker has its own WebSocket and its own state, but the question whether the target speaks
//! `wsferry.v1` at all is the same for all of them, and asking it costs the target a handshake. So the
//! answer is kept where every worker sees it (the host's shared data), and as long as it isn't known
//! one worker asks while the others wait.
//!
//! ```text
//!               claim                      granted
//!   Unknown ─────────────► Asking{until} ───────────► Has
//!      ▲                     │   │                     │
//!      └──── failed / ───────┘   │ no converter        │ any failure
//!      ▲     time over           ▼                     │
//!      └───── time over ───── Lacks{until}             │
//!      └───────────────────────────────────────────────┘
//! ```

use crate::time::Time;

/// The answer so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Nobody knows, nobody asks.
    #[default]
    Unknown,
    /// A worker asks. If nothing is heard of it until then, another one may.
    Asking {
        /// End of its turn.
        until: Time,
    },
    /// A WebSocket was opened and has worked.
    Has,
    /// The handshake was refused, or granted without `wsferry.v1`.
    Lacks {
        /// When it may be asked again.
        until: Time,
    },
}

/// May a worker open a WebSocket?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Yes, if this is stored and nothing else was stored meanwhile.
    Granted(Target),
    /// Not now: another worker asks.
    Wait {
        /// When to come again at the latest.
        until: Time,
    },
    /// Not before that time: the target has no converter.
    Lacks {
        /// When it may be asked again.
        until: Time,
    },
}

/// What is to last for so much longer than it ever does, milliseconds, was stored with another configuration. Another worker
/// may have looked at the clock a moment later than this one.
const SLACK_MS: u32 = 1_000;

/// Bytes of an encoded [`Target`].
pub const ENCODED_BYTES: usize = 9;

impl Target {
    /// A worker wants to open a WebSocket, which takes up to `lease_ms` milliseconds; a target without converter is left
    /// alone for up to `lack_ms`.
    pub fn claim(self, now: Time, lease_ms: u32, lack_ms: u32) -> Claim {
        match self {
            Self::Has => Claim::Granted(Self::Has),
            Self::Asking { until } if now < until && until <= now.after(lease_ms).after(SLACK_MS) => {
                Claim::Wait { until }
            }
            Self::Lacks { until } if now < until && until <= now.after(lack_ms).after(SLACK_MS) => {
                Claim::Lacks { until }
            }
            Self::Unknown | Self::Asking { .. } | Self::Lacks { .. } => Claim::Granted(Self::Asking {
                until: now.after(lease_ms),
            }),
        }
    }

    /// A worker's probe has failed. That doesn't tell what the target is, so what another worker knows of it counts, and
    /// another one's turn stays; `turn` is what this worker's [`Target::claim`] was granted for the probe, if there was one.
    #[must_use]
    pub fn after_failure(self, turn: Option<Self>) -> Self {
        match self {
            Self::Lacks { .. } => self,
            Self::Asking { .. } if turn != Some(self) => self,
            Self::Unknown | Self::Asking { .. } | Self::Has => Self::Unknown,
        }
    }

    /// As it is stored.
    pub fn encode(self) -> [u8; ENCODED_BYTES] {
        let (kind, time) = match self {
            Self::Unknown => (0, 0),
            Self::Asking { until } => (1, until.0),
            Self::Has => (2, 0),
            Self::Lacks { until } => (3, until.0),
        };
        let [a, b, c, d, e, f, g, h] = time.to_be_bytes();
        [kind, a, b, c, d, e, f, g, h]
    }

    /// As it was stored; anything else, by another version say, is [`Target::Unknown`].
    pub fn decode(bytes: &[u8]) -> Self {
        let Ok([kind, time @ ..]) = <[u8; ENCODED_BYTES]>::try_from(bytes) else {
            return Self::Unknown;
        };
        let until = Time(u64::from_be_bytes(time));
        match kind {
            1 => Self::Asking { until },
            2 => Self::Has,
            3 => Self::Lacks { until },
            _ => Self::Unknown,
        }
    }
}
