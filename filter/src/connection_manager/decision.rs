//! What is decided for a request, and why.

use std::fmt;

use crate::time::Time;

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Through the tunnel.
    WebSocket,
    /// As if there were no tunnel.
    Http,
    /// Nowhere: it is answered with 503. Mode always only.
    Refuse,
}

/// Why it goes that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The tunnel works.
    Up,
    /// It waited until the tunnel worked.
    Waited,
    /// No tunnel's `match` has it.
    NoTunnel,
    /// Mode never.
    ModeNever,
    /// Too few requests to open a tunnel.
    Cold,
    /// The tunnel is being opened.
    Opening,
    /// In doubt: no probe has passed since a failure, a retry, the end of a WebSocket or a full circuit breaker.
    Suspect,
    /// The tunnel failed and isn't tried again yet.
    Backoff,
    /// The target has no converter.
    NoConverter,
    /// `load.max_in_flight` requests are in the tunnel.
    InFlight,
    /// Probes take longer than `load.max_round_trip_ms`.
    Slow,
    /// It waited for `max_wait_ms` and no tunnel came up.
    WaitOver,
    /// `load.max_in_flight` requests wait already.
    TooManyWaiting,
}

/// A way and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Which way.
    pub way: Way,
    /// Why.
    pub reason: Reason,
}

/// A request's place in the tunnel: what it has to tell later is about the tunnel as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(super) generation: u32,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It enters the tunnel, and [`super::Tunnel::leave`] must follow.
    WebSocket(Reason, Ticket),
    /// It goes over plain HTTP.
    Http(Reason),
    /// It waits; [`super::Tunnel::resolve`] gives the rest, no later than at that time.
    Wait(Time),
    /// It is answered with 503.
    Refuse(Reason),
}

/// What a request in the tunnel shows of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A response came through it.
    Passed,
    /// The tunnel failed it: it could not be sent, was refused, or the connection broke under it.
    /// What the application or the client did (an error status, a reset, a time-out) is no evidence.
    Failed,
    /// Envoy sent it more than once, for whatever reason: the tunnel, or what the request, the application or a
    /// time-out of the route did.
    Retried,
    /// A circuit breaker of the tunnel's cluster had no room for it.
    Unsent,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Http, Self::Refuse];

    /// Name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
            Self::Refuse => "refused",
        }
    }
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Up,
        Self::Waited,
        Self::NoTunnel,
        Self::ModeNever,
        Self::Cold,
        Self::Opening,
        Self::Suspect,
        Self::Backoff,
        Self::NoConverter,
        Self::InFlight,
        Self::Slow,
        Self::WaitOver,
        Self::TooManyWaiting,
    ];
}

/// The texts that name reasons, alone and behind a way. As constants, since each request is told its decision.
macro_rules! texts {
    ($($reason:ident: $name:literal),* $(,)?) => {
        impl Reason {
            /// Name in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }

        impl Decision {
            /// `websocket up`, `http cold` …
            pub const fn as_str(self) -> &'static str {
                match (self.way, self.reason) {
                    $(
                        (Way::WebSocket, Reason::$reason) => concat!("websocket ", $name),
                        (Way::Http, Reason::$reason) => concat!("http ", $name),
                        (Way::Refuse, Reason::$reason) => concat!("refused ", $name),
                    )*
                }
            }
        }
    };
}

texts! {
    Up: "up",
    Waited: "waited",
    NoTunnel: "no_tunnel",
    ModeNever: "mode_never",
    Cold: "cold",
    Opening: "opening",
    Suspect: "suspect",
    Backoff: "backoff",
    NoConverter: "no_converter",
    InFlight: "in_flight",
    Slow: "slow",
    WaitOver: "wait_over",
    TooManyWaiting: "too_many_waiting",
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Verdict {
    /// The decision, `None` while the request waits.
    pub const fn decision(self) -> Option<Decision> {
        let (way, reason) = match self {
            Self::WebSocket(reason, _) => (Way::WebSocket, reason),
            Self::Http(reason) => (Way::Http, reason),
            Self::Refuse(reason) => (Way::Refuse, reason),
            Self::Wait(_) => return None,
        };
        Some(Decision { way, reason })
    }
}
