//! The connection manager's configuration.

use super::Subject;
use crate::config_reader::{AUTHORITY, ConfigError, Fields, Form, METRIC_NAME, PATH};
use crate::field_rules::FRAMING_FIELDS;

/// Most tunnels that one connection manager may serve.
pub const MAX_TUNNELS: usize = 1_024;

/// What a tunnel's requests may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The WebSocket alone. A request waits for the first one, up to [`TunnelConfig::max_wait_ms`],
    /// and is refused after that.
    Always,
    /// The WebSocket when it is worth it and known to work, plain HTTP otherwise.
    #[default]
    Adaptive,
    /// Plain HTTP alone; nothing is ever probed.
    Never,
}

/// So many requests in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 10,000.
    pub requests: u32,
    /// Milliseconds, 10 to 3,600,000.
    pub within_ms: u32,
}

/// Which requests belong to a tunnel. All parts must match; an empty part matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    authorities: Vec<AuthorityPattern>,
    path_prefixes: Vec<String>,
    /// The tunnel that the request's route must name: this one.
    route_tunnel: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum AuthorityPattern {
    /// The whole authority, or its host where the pattern names no port.
    Exact(String),
    /// `.example.org`, of the pattern `*.example.org`: any host below that domain.
    Suffix(String),
}

/// The small request by which a tunnel is opened, kept alive and measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Cluster that carries HTTP/2 into the near converter. It must be the tunnel's own cluster and
    /// not an aggregate one, or plain HTTP would answer for the WebSocket. No default.
    pub cluster: String,
    /// `:authority` of the probe. Default `wsferry.internal`.
    pub authority: String,
    /// `:path` of the probe, which the far end's inner listener answers itself with a 2xx status
    /// (`direct_response`). Default `/wsferry/probe`.
    pub path: String,
    /// Time between two probes while the tunnel is used, milliseconds. 100 to 3,600,000; default
    /// 5,000. Shorter than any idle time-out on the way.
    pub interval_ms: u32,
    /// A probe without an answer for so long has failed, milliseconds. 10 to 60,000; default 1,000.
    /// Includes connecting, TLS and the handshake.
    pub timeout_ms: u32,
}

/// When a tunnel that works has enough to do. Mode adaptive only: the rest goes over plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Most requests of this worker in the tunnel at once; in mode always, most requests that wait.
    /// 1 to 65,535; default 1,000.
    pub max_in_flight: u32,
    /// While probes take longer than this on average, milliseconds, new requests go over plain HTTP,
    /// until they take less than half of it. 1 to 60,000; not weighed by default.
    pub max_round_trip_ms: Option<u32>,
}

/// What failures do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// So many failed requests and probes in a row take the tunnel out of use. From the first one on,
    /// mode adaptive sends new requests over plain HTTP, until a probe passes: requests that entered
    /// before the failure say nothing, and no others enter. 1 to 100; default 3.
    pub consecutive: u32,
    /// Back-off after the first time, milliseconds; it doubles each time. 10 to 60,000; default 500.
    pub base_backoff_ms: u32,
    /// Longest back-off, milliseconds. `base_backoff_ms` to 3,600,000; default 30,000, or `base_backoff_ms` if that is
    /// more.
    pub max_backoff_ms: u32,
    /// A tunnel that worked for so long begins again with `base_backoff_ms`, milliseconds. 0 to
    /// 3,600,000; default 10,000.
    pub stable_ms: u32,
}

/// One tunnel, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Name in logs and metrics: letters, digits and `_`, at most 64, unique. The near converter's
    /// `tunnel` names the same.
    pub name: String,
    /// What its requests may use. Default adaptive.
    pub mode: Mode,
    /// Which requests are its own. Default all.
    pub matcher: Matcher,
    /// How it is found out whether it works.
    pub probe: Probe,
    /// From this rate on a worker opens the tunnel. Default 5 requests within 1,000 ms. In mode
    /// always, the first request does.
    pub open: Rate,
    /// Below this rate, with none in flight, a worker lets the tunnel go; it must be lower than
    /// `open`. `"requests": 1` makes it an idle time-out. Default 1 request within 60,000 ms. An open
    /// tunnel stays for at least `within_ms`.
    pub close: Rate,
    /// When it has enough to do.
    pub load: Load,
    /// What failures do.
    pub failures: Failures,
    /// How long a target without converter isn't asked again, milliseconds, by any worker. 1,000 to
    /// 86,400,000; default 300,000, in mode always 10,000: there requests are refused meanwhile, and the refusal
    /// may have been that of a proxy on the way, for a moment.
    pub no_converter_ttl_ms: u32,
    /// Probe intervals and back-offs are shortened at random by up to so many percent, so that
    /// workers and Envoys don't act in step. 0 to 90; default 20.
    pub jitter_percent: u32,
    /// Opens the tunnel on every worker at start, before any request, and never lets it go. Default
    /// false.
    pub eager: bool,
    /// Longest wait of a request for the WebSocket in mode always, milliseconds; after that it is
    /// answered with 503. 0 to 60,000; default 5,000; 0 answers at once. Not used by other modes.
    pub max_wait_ms: u32,
}

/// The validated configuration of a connection manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// In order: the first that matches a request has it. 1 to 1,024.
    pub tunnels: Vec<TunnelConfig>,
    /// Request header that carries the decision to the routes: `websocket`, or `websocket_only` of a
    /// tunnel in mode always: the route must not fall back. A request that goes over plain HTTP has
    /// none: what a client sent under this name is removed. Default `x-wsferry-way`.
    pub decision_header: String,
    /// The listener itself removes what clients send under the name of `decision_header`, before the filter sees the
    /// request: the filter needn't look for it then. Default false.
    pub client_header_removed: bool,
    /// Whether decisions for plain HTTP are written where the access log finds them, too. Default true; without them such
    /// a request costs a call to the host less.
    pub publishes_http: bool,
    /// Response header that shows the decision and its reason, for debugging. Default none.
    pub debug_response_header: Option<String>,
    /// What the names of all metrics begin with, followed by `_`. Default `wsferry`.
    pub metrics_prefix: String,
}

/// Name of a tunnel, part of its metrics' names.
pub const TUNNEL_NAME: Form = Form {
    name: "letters, digits and `_`, at most 64",
    holds: |text| (METRIC_NAME.holds)(text) && text.len() <= 64,
};

/// Name of a header field that the filter sets itself.
const HEADER_NAME: Form = Form {
    name: "lower-case letters, digits, `-` and `_`, and none of HTTP's own like host",
    holds: |text| {
        !text.is_empty()
            && !FRAMING_FIELDS.contains(&text)
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    },
};

const CLUSTER: Form = Form {
    name: "the name of a cluster",
    holds: |text| !text.is_empty(),
};

const PATH_PREFIX: Form = Form {
    name: "the beginning of a path",
    holds: |text| text.starts_with('/'),
};

const AUTHORITY_PATTERN: Form = Form {
    name: "an authority or `*.` and a domain",
    holds: |text| AuthorityPattern::parse(text).is_some(),
};

impl Config {
    /// Reads and validates.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        Fields::read(json, |plugin| {
            plugin
                .choice("role", &[("connection_manager", ())])?
                .ok_or_else(|| plugin.missing("role"))?;
            Self::take(plugin)
        })
    }

    /// All but the `role`, which the caller has taken.
    pub(crate) fn take(plugin: &mut Fields) -> Result<Self, ConfigError> {
        let mut names = Vec::new();
        let tunnels = plugin.objects("tunnels", 1..=MAX_TUNNELS, |tunnel| {
            let taken = TunnelConfig::take(tunnel)?;
            if names.contains(&taken.name) {
                return Err(tunnel.refuse("name", "is taken by another tunnel"));
            }
            names.push(taken.name.clone());
            Ok(taken)
        })?;
        Ok(Self {
            tunnels,
            decision_header: plugin.text("decision_header", HEADER_NAME, "x-wsferry-way")?,
            client_header_removed: plugin.flag("client_header_removed")?,
            publishes_http: plugin
                .choice("publish_decisions", &[("all", true), ("websocket", false)])?
                .unwrap_or(true),
            debug_response_header: plugin.optional_text("debug_response_header", HEADER_NAME)?,
            metrics_prefix: plugin.text("metrics_prefix", METRIC_NAME, "wsferry")?,
        })
    }
}

impl TunnelConfig {
    fn take(tunnel: &mut Fields) -> Result<Self, ConfigError> {
        let modes = [
            ("always", Mode::Always),
            ("adaptive", Mode::Adaptive),
            ("never", Mode::Never),
        ];
        let name = tunnel.required_text("name", TUNNEL_NAME)?;
        let mode = tunnel.choice("mode", &modes)?.unwrap_or_default();
        let no_converter_ttl_ms = match mode {
            Mode::Always => 10_000,
            Mode::Adaptive | Mode::Never => 300_000,
        };
        let config = Self {
            mode,
            matcher: tunnel.object("match", |matcher| Matcher::take(matcher, &name))?,
            name,
            probe: tunnel.object("probe", Probe::take)?,
            open: tunnel.object("open", |open| Rate::take(open, 5, 1_000))?,
            close: tunnel.object("close", |close| Rate::take(close, 1, 60_000))?,
            load: tunnel.object("load", Load::take)?,
            failures: tunnel.object("failures", Failures::take)?,
            no_converter_ttl_ms: tunnel.number(
                "no_converter_ttl_ms",
                1_000..=86_400_000,
                no_converter_ttl_ms,
            )?,
            jitter_percent: tunnel.number("jitter_percent", 0..=90, 20)?,
            eager: tunnel.flag("eager")?,
            max_wait_ms: tunnel.number("max_wait_ms", 0..=60_000, 5_000)?,
        };
        if !config.close.is_lower_than(config.open) {
            return Err(tunnel.refuse(
                "close",
                "is no lower rate than `open`: the tunnel would be opened and let go in turns",
            ));
        }
        if config.eager && config.mode == Mode::Never {
            return Err(tunnel.refuse("eager", "mode never opens nothing"));
        }
        Ok(config)
    }
}

impl Rate {
    fn take(rate: &mut Fields, requests: u32, within_ms: u32) -> Result<Self, ConfigError> {
        Ok(Self {
            requests: rate.number("requests", 1..=10_000, requests)?,
            within_ms: rate.number("within_ms", 10..=3_600_000, within_ms)?,
        })
    }

    fn is_lower_than(self, other: Self) -> bool {
        let product = |left: u32, right: u32| u64::from(left).saturating_mul(u64::from(right));
        product(self.requests, other.within_ms) < product(other.requests, self.within_ms)
    }
}

impl Probe {
    fn take(probe: &mut Fields) -> Result<Self, ConfigError> {
        Ok(Self {
            cluster: probe.required_text("cluster", CLUSTER)?,
            authority: probe.text("authority", AUTHORITY, "wsferry.internal")?,
            path: probe.text("path", PATH, "/wsferry/probe")?,
            interval_ms: probe.number("interval_ms", 100..=3_600_000, 5_000)?,
            timeout_ms: probe.number("timeout_ms", 10..=60_000, 1_000)?,
        })
    }
}

impl Load {
    fn take(load: &mut Fields) -> Result<Self, ConfigError> {
        Ok(Self {
            max_in_flight: load.number("max_in_flight", 1..=65_535, 1_000)?,
            max_round_trip_ms: load.optional_number("max_round_trip_ms", 1..=60_000)?,
        })
    }
}

impl Failures {
    fn take(failures: &mut Fields) -> Result<Self, ConfigError> {
        let base_backoff_ms = failures.number("base_backoff_ms", 10..=60_000, 500)?;
        Ok(Self {
            consecutive: failures.number("consecutive", 1..=100, 3)?,
            base_backoff_ms,
            max_backoff_ms: failures.number(
                "max_backoff_ms",
                base_backoff_ms..=3_600_000,
                base_backoff_ms.max(30_000),
            )?,
            stable_ms: failures.number("stable_ms", 0..=3_600_000, 10_000)?,
        })
    }
}

impl Matcher {
    fn take(matcher: &mut Fields, tunnel: &str) -> Result<Self, ConfigError> {
        let authorities = matcher.texts("authorities", AUTHORITY_PATTERN)?;
        Ok(Self {
            authorities: authorities
                .iter()
                .filter_map(|text| AuthorityPattern::parse(text))
                .collect(),
            path_prefixes: matcher.texts("path_prefixes", PATH_PREFIX)?,
            route_tunnel: matcher.flag("route_metadata")?.then(|| tunnel.to_owned()),
        })
    }
}

impl AuthorityPattern {
    fn parse(pattern: &str) -> Option<Self> {
        let (suffix, host) = match pattern.strip_prefix('*') {
            Some(rest) => (true, rest.strip_prefix('.')?),
            None => (false, pattern),
        };
        if host.is_empty()
            || !host
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b'*' && b != b'/')
        {
            return None;
        }
        Some(if suffix {
            Self::Suffix(format!(".{host}"))
        } else {
            Self::Exact(host.to_owned())
        })
    }

    fn matches(&self, authority: &[u8]) -> bool {
        let matches = |authority: &[u8]| match self {
            Self::Exact(host) => authority.eq_ignore_ascii_case(host.as_bytes()),
            Self::Suffix(suffix) => authority
                .len()
                .checked_sub(suffix.len())
                .and_then(|start| authority.split_at_checked(start))
                .is_some_and(|(below, end)| !below.is_empty() && end.eq_ignore_ascii_case(suffix.as_bytes())),
        };
        matches(authority) || without_port(authority).is_some_and(matches)
    }
}

/// The host of `host:port` (RFC 3986 §3.2), `None` where there is no port.
fn without_port(authority: &[u8]) -> Option<&[u8]> {
    let colon = authority.iter().rposition(|&b| b == b':')?;
    let (host, port) = authority.split_at_checked(colon)?;
    port.iter().skip(1).all(u8::is_ascii_digit).then_some(host)
}

impl Matcher {
    /// Whether a request belongs here. Hosts are compared without regard to case, and without the
    /// request's port where the pattern names none; paths and names of tunnels byte for byte.
    pub fn matches(&self, request: Subject<'_>) -> bool {
        let any = |patterns: &[AuthorityPattern]| patterns.iter().any(|one| one.matches(request.authority));
        let begins = |prefix: &String| request.path.starts_with(prefix.as_bytes());
        (self.authorities.is_empty() || any(&self.authorities))
            && (self.path_prefixes.is_empty() || self.path_prefixes.iter().any(begins))
            && (self.route_tunnel.as_ref()).is_none_or(|name| name.as_bytes() == request.route_tunnel)
    }

    /// Whether it looks at `:authority`.
    pub fn needs_authority(&self) -> bool {
        !self.authorities.is_empty()
    }

    /// Whether it looks at `:path`.
    pub fn needs_path(&self) -> bool {
        !self.path_prefixes.is_empty()
    }

    /// Whether it looks at the metadata of the request's route.
    pub fn needs_route_metadata(&self) -> bool {
        self.route_tunnel.is_some()
    }
}
