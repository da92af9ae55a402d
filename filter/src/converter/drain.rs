//! The orderly end: from GOAWAY to Close.

use crate::message::WireId;

/// What the far end's codec last said in a GOAWAY: the last stream that it takes; `None` for all so far.
pub type LastStream = Option<WireId>;

/// How far an end has come on the way from a GOAWAY of the far end's codec to Close 1001. What counts is
/// that no request can be under way when a Close is sent.
///
/// ```text
///           codec's GOAWAY             codec's last GOAWAY, or near's goaway
/// far   No ───────────────► Announced ──────────────────────────────────────► Done
///
///           far's goaway               codec has answered a PING
/// near  No ───────────────► Asked ──────────────────────────────► Done
/// ```
///
/// Envoy's pool is the client of a near end's codec, and hangs up once it has got a GOAWAY and has no stream
/// left: without a word, and before a Close frame could pass. So where there is no stream at the moment, the
/// pool is first told that it may open none (SETTINGS_MAX_CONCURRENT_STREAMS of 0), and gets the GOAWAY
/// after the Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drain {
    /// Nobody has said goaway.
    #[default]
    No,
    /// A far end has, and requests may come.
    Announced,
    /// A near end has asked its codec to open no more streams. `held`: the codec hasn't got the GOAWAY yet.
    Asked {
        /// What the GOAWAY says.
        held: Option<LastStream>,
    },
    /// No more requests come: the WebSocket can be closed once no stream is open.
    Done {
        /// As above.
        held: Option<LastStream>,
    },
}

impl Drain {
    /// Takes the GOAWAY that the codec has yet to get, if there is one.
    pub fn take_held(&mut self) -> Option<LastStream> {
        match self {
            Self::Asked { held } | Self::Done { held } => held.take(),
            Self::No | Self::Announced => None,
        }
    }
}
