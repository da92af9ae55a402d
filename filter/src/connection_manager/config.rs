//! The connection manager's configuration: JSON as given ([`RawConfig`]) and as used ([`Config`]).

use serde::Deserialize;

use super::Subject;
use crate::config::ConfigError;

/// Most tunnels that one connection manager may serve.
pub const MAX_TUNNELS: usize = 64;

/// Most authorities, and most path prefixes, that a tunnel may name: they are compared one by one.
pub const MAX_PATTERNS: usize = 256;

/// The configuration as JSON holds it. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Read before, to choose between this and the converter's configuration.
    #[serde(rename = "role")]
    _role: String,
    tunnels: Vec<RawTunnel>,
    #[serde(default = "default_decision_header")]
    decision_header: String,
    debug_response_header: Option<String>,
    #[serde(default = "default_metrics_prefix")]
    metrics_prefix: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTunnel {
    name: String,
    #[serde(default)]
    mode: Mode,
    #[serde(default, rename = "match")]
    matcher: RawMatch,
    probe: RawProbe,
    #[serde(default = "default_open")]
    open: Rate,
    #[serde(default = "default_close")]
    close: Rate,
    #[serde(default)]
    load: RawLoad,
    #[serde(default)]
    failures: RawFailures,
    #[serde(default = "default_no_converter_ttl_ms")]
    no_converter_ttl_ms: u32,
    #[serde(default = "default_jitter_percent")]
    jitter_percent: u32,
    #[serde(default)]
    eager: bool,
    #[serde(default = "default_max_wait_ms")]
    max_wait_ms: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawMatch {
    authorities: Vec<String>,
    path_prefixes: Vec<String>,
    route_metadata: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    cluster: String,
    #[serde(default = "default_probe_authority")]
    authority: String,
    #[serde(default = "default_probe_path")]
    path: String,
    #[serde(default = "default_probe_interval_ms")]
    interval_ms: u32,
    #[serde(default = "default_probe_timeout_ms")]
    timeout_ms: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLoad {
    max_in_flight: u32,
    max_round_trip_ms: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFailures {
    consecutive: u32,
    base_backoff_ms: u32,
    max_backoff_ms: u32,
    stable_ms: u32,
}

fn default_decision_header() -> String {
    "x-wsferry-way".to_owned()
}

fn default_metrics_prefix() -> String {
    "wsferry".to_owned()
}

fn default_probe_authority() -> String {
    "wsferry.internal".to_owned()
}

fn default_probe_path() -> String {
    "/wsferry/probe".to_owned()
}

const fn default_open() -> Rate {
    Rate {
        requests: 5,
        within_ms: 1_000,
    }
}

const fn default_close() -> Rate {
    Rate {
        requests: 1,
        within_ms: 60_000,
    }
}

const fn default_probe_interval_ms() -> u32 {
    5_000
}

const fn default_probe_timeout_ms() -> u32 {
    1_000
}

const fn default_no_converter_ttl_ms() -> u32 {
    300_000
}

const fn default_jitter_percent() -> u32 {
    20
}

const fn default_max_wait_ms() -> u32 {
    5_000
}

impl Default for RawLoad {
    fn default() -> Self {
        Self {
            max_in_flight: 1_000,
            max_round_trip_ms: None,
        }
    }
}

impl Default for RawFailures {
    fn default() -> Self {
        Self {
            consecutive: 3,
            base_backoff_ms: 500,
            max_backoff_ms: 30_000,
            stable_ms: 10_000,
        }
    }
}

/// What a tunnel's requests may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// mode adaptive sends new requests over plain HTTP, until a probe or a request passes. 1 to 100;
    /// default 3.
    pub consecutive: u32,
    /// Back-off after the first time, milliseconds; it doubles each time. 10 to 60,000; default 500.
    pub base_backoff_ms: u32,
    /// Longest back-off, milliseconds. `base_backoff_ms` to 3,600,000; default 30,000.
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
    /// 86,400,000; default 300,000.
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
    /// In order: the first that matches a request has it. 1 to 64.
    pub tunnels: Vec<TunnelConfig>,
    /// Request header that carries the decision to the routes: `websocket`, `websocket_only` (of a
    /// tunnel in mode always: the route must not fall back) or `http`. What a client sent under this
    /// name is removed. Default `x-wsferry-way`.
    pub decision_header: String,
    /// Response header that shows the decision and its reason, for debugging. Default none.
    pub debug_response_header: Option<String>,
    /// What the names of all metrics begin with, followed by `_`. Default `wsferry`.
    pub metrics_prefix: String,
}

impl Config {
    /// Reads and validates.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let raw: RawConfig =
            serde_path_to_error::deserialize(&mut deserializer).map_err(|error| ConfigError {
                field: match error.path().to_string() {
                    path if path == "." => String::new(),
                    path => path,
                },
                reason: error.inner().to_string(),
            })?;
        deserializer
            .end()
            .map_err(|error| refuse("", error.to_string()))?;
        Self::try_from(raw)
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        if raw.tunnels.is_empty() || raw.tunnels.len() > MAX_TUNNELS {
            return Err(refuse(
                "tunnels",
                format!("{} is not between 1 and {MAX_TUNNELS}", raw.tunnels.len()),
            ));
        }
        header_name("decision_header", &raw.decision_header)?;
        if let Some(name) = &raw.debug_response_header {
            header_name("debug_response_header", name)?;
        }
        metric_name("metrics_prefix", &raw.metrics_prefix)?;
        let mut tunnels: Vec<TunnelConfig> = Vec::with_capacity(raw.tunnels.len());
        for (index, raw) in raw.tunnels.into_iter().enumerate() {
            let at = format!("tunnels[{index}].");
            if tunnels.iter().any(|tunnel| tunnel.name == raw.name) {
                return Err(refuse(
                    &format!("{at}name"),
                    format!("{:?} is taken by another tunnel", raw.name),
                ));
            }
            tunnels.push(raw.validate(&at)?);
        }
        Ok(Self {
            tunnels,
            decision_header: raw.decision_header,
            debug_response_header: raw.debug_response_header,
            metrics_prefix: raw.metrics_prefix,
        })
    }
}

impl RawTunnel {
    fn validate(self, at: &str) -> Result<TunnelConfig, ConfigError> {
        let at = |field: &str| format!("{at}{field}");
        metric_name(&at("name"), &self.name)?;
        if self.name.len() > 64 {
            return Err(refuse(&at("name"), "longer than 64 bytes".to_owned()));
        }
        rate(&at("open"), self.open)?;
        rate(&at("close"), self.close)?;
        if product(self.close.requests, self.open.within_ms)
            >= product(self.open.requests, self.close.within_ms)
        {
            return Err(refuse(
                &at("close"),
                "is no lower rate than `open`: the tunnel would be opened and let go in turns".to_owned(),
            ));
        }
        within(&at("load.max_in_flight"), self.load.max_in_flight, 1, 65_535)?;
        if let Some(value) = self.load.max_round_trip_ms {
            within(&at("load.max_round_trip_ms"), value, 1, 60_000)?;
        }
        let failures = self.failures;
        within(&at("failures.consecutive"), failures.consecutive, 1, 100)?;
        within(
            &at("failures.base_backoff_ms"),
            failures.base_backoff_ms,
            10,
            60_000,
        )?;
        within(
            &at("failures.max_backoff_ms"),
            failures.max_backoff_ms,
            failures.base_backoff_ms,
            3_600_000,
        )?;
        within(&at("failures.stable_ms"), failures.stable_ms, 0, 3_600_000)?;
        within(
            &at("no_converter_ttl_ms"),
            self.no_converter_ttl_ms,
            1_000,
            86_400_000,
        )?;
        within(&at("jitter_percent"), self.jitter_percent, 0, 90)?;
        within(&at("max_wait_ms"), self.max_wait_ms, 0, 60_000)?;
        if self.eager && self.mode == Mode::Never {
            return Err(refuse(&at("eager"), "mode never opens nothing".to_owned()));
        }
        Ok(TunnelConfig {
            matcher: self.matcher.validate(&at("match."), &self.name)?,
            probe: self.probe.validate(&at("probe."))?,
            name: self.name,
            mode: self.mode,
            open: self.open,
            close: self.close,
            load: Load {
                max_in_flight: self.load.max_in_flight,
                max_round_trip_ms: self.load.max_round_trip_ms,
            },
            failures: Failures {
                consecutive: failures.consecutive,
                base_backoff_ms: failures.base_backoff_ms,
                max_backoff_ms: failures.max_backoff_ms,
                stable_ms: failures.stable_ms,
            },
            no_converter_ttl_ms: self.no_converter_ttl_ms,
            jitter_percent: self.jitter_percent,
            eager: self.eager,
            max_wait_ms: self.max_wait_ms,
        })
    }
}

impl RawProbe {
    fn validate(self, at: &str) -> Result<Probe, ConfigError> {
        let at = |field: &str| format!("{at}{field}");
        if self.cluster.is_empty() {
            return Err(refuse(&at("cluster"), "is empty".to_owned()));
        }
        if self.authority.is_empty() || !self.authority.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse(
                &at("authority"),
                format!("{:?} is no authority", self.authority),
            ));
        }
        if !self.path.starts_with('/') || !self.path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse(&at("path"), format!("{:?} is no path", self.path)));
        }
        within(&at("interval_ms"), self.interval_ms, 100, 3_600_000)?;
        within(&at("timeout_ms"), self.timeout_ms, 10, 60_000)?;
        Ok(Probe {
            cluster: self.cluster,
            authority: self.authority,
            path: self.path,
            interval_ms: self.interval_ms,
            timeout_ms: self.timeout_ms,
        })
    }
}

impl RawMatch {
    fn validate(self, at: &str, tunnel: &str) -> Result<Matcher, ConfigError> {
        let at = |field: &str| format!("{at}{field}");
        for (field, list) in [
            ("authorities", &self.authorities),
            ("path_prefixes", &self.path_prefixes),
        ] {
            if list.len() > MAX_PATTERNS {
                return Err(refuse(&at(field), format!("has more than {MAX_PATTERNS} items")));
            }
        }
        let authorities = self
            .authorities
            .into_iter()
            .map(|pattern| {
                AuthorityPattern::parse(&pattern).ok_or_else(|| {
                    refuse(
                        &at("authorities"),
                        format!("{pattern:?} is neither an authority nor `*.` and a domain"),
                    )
                })
            })
            .collect::<Result<_, _>>()?;
        if let Some(prefix) = self.path_prefixes.iter().find(|prefix| !prefix.starts_with('/')) {
            return Err(refuse(
                &at("path_prefixes"),
                format!("{prefix:?} does not begin with `/`"),
            ));
        }
        Ok(Matcher {
            authorities,
            path_prefixes: self.path_prefixes,
            route_tunnel: self.route_metadata.then(|| tunnel.to_owned()),
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

fn refuse(field: &str, reason: String) -> ConfigError {
    ConfigError {
        field: field.to_owned(),
        reason,
    }
}

fn within(field: &str, value: u32, least: u32, most: u32) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(refuse(
            field,
            format!("{value} is not between {least} and {most}"),
        ))
    }
}

fn rate(field: &str, rate: Rate) -> Result<(), ConfigError> {
    within(&format!("{field}.requests"), rate.requests, 1, 10_000)?;
    within(&format!("{field}.within_ms"), rate.within_ms, 10, 3_600_000)
}

fn product(left: u32, right: u32) -> u64 {
    u64::from(left).saturating_mul(u64::from(right))
}

fn header_name(field: &str, name: &str) -> Result<(), ConfigError> {
    if !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    {
        Ok(())
    } else {
        Err(refuse(
            field,
            format!("{name:?} is not lower-case letters, digits, `-` and `_`"),
        ))
    }
}

fn metric_name(field: &str, name: &str) -> Result<(), ConfigError> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(())
    } else {
        Err(refuse(field, format!("{name:?} is not letters, digits and `_`")))
    }
}
