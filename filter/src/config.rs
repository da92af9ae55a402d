//! The plugin configuration: JSON as given ([`RawConfig`]) and as used ([`Config`]).
//!
//! The reference for operators is `docs/configuration.md`; a test holds the two together.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::connection_manager;

/// A configuration that can't be used: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the field, like `limits.max_streams`; empty where the text isn't JSON of this form.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "configuration: {}", self.reason)
        } else {
            write!(f, "configuration field `{}`: {}", self.field, self.reason)
        }
    }
}

impl std::error::Error for ConfigError {}

/// What one plugin is: the JSON's `role` decides which of the two kinds of configuration it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginConfig {
    /// `near` or `far`.
    Converter(Config),
    /// `connection_manager`.
    ConnectionManager(connection_manager::Config),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PluginRole {
    Near,
    Far,
    ConnectionManager,
}

/// The `role` alone. The rest is read, and unknown fields are refused, once it is known what it is.
#[derive(Deserialize)]
struct RoleOnly {
    role: PluginRole,
}

impl PluginConfig {
    /// Reads and validates.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let RoleOnly { role } = serde_json::from_slice(json).map_err(|error| ConfigError {
            field: String::new(),
            reason: error.to_string(),
        })?;
        match role {
            PluginRole::Near | PluginRole::Far => Config::parse(json).map(Self::Converter),
            PluginRole::ConnectionManager => {
                connection_manager::Config::parse(json).map(Self::ConnectionManager)
            }
        }
    }
}

/// Which end of the WebSocket a converter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Where requests are intercepted: WebSocket client, HTTP/2 server towards the local codec.
    Near,
    /// Where requests are given back: WebSocket server, HTTP/2 client towards the local codec.
    Far,
}

/// The configuration as JSON holds it. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    role: Role,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    field_table: RawFieldTable,
    #[serde(default)]
    allowed_origins: Vec<String>,
    #[serde(default = "default_metrics_prefix")]
    metrics_prefix: String,
    #[serde(default = "default_close_timeout_ms")]
    close_timeout_ms: u32,
    tunnel: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    max_message_bytes: u32,
    max_header_list_bytes: u32,
    max_header_fields: u32,
    max_streams: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFieldTable {
    enter_credentials: bool,
    never_enter: Vec<String>,
}

/// Largest WebSocket message that a sender makes, bytes; receivers accept at least that.
pub const MESSAGE_BYTES: usize = 1 << 20;

fn default_metrics_prefix() -> String {
    "wsferry".to_owned()
}

const fn default_close_timeout_ms() -> u32 {
    2_000
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            max_message_bytes: 1 << 20,
            max_header_list_bytes: 96 * 1024,
            max_header_fields: 256,
            max_streams: 16_384,
        }
    }
}

/// What one connection may cost. All are checked before anything is copied or reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest WebSocket message accepted, bytes of payload. 1 MiB to 16 MiB; default 1 MiB.
    pub max_message_bytes: usize,
    /// Largest header list, bytes as RFC 9113 §6.5.2 counts them. 4 KiB to 512 KiB; default 96 KiB.
    pub max_header_list_bytes: usize,
    /// Most fields in a header list. 16 to 4,096; default 256.
    pub max_header_fields: usize,
    /// Most streams open at once on a connection. 1 to 65,535; default 16,384.
    pub max_streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let raw = RawLimits::default();
        Self {
            max_message_bytes: to_usize(raw.max_message_bytes),
            max_header_list_bytes: to_usize(raw.max_header_list_bytes),
            max_header_fields: to_usize(raw.max_header_fields),
            max_streams: to_usize(raw.max_streams),
        }
    }
}

/// Which fields may enter the field table of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPolicy {
    never_enter: HashSet<Vec<u8>>,
    credentials: bool,
}

impl FieldPolicy {
    /// Names that are kept out unless `enter_credentials` is set.
    pub const CREDENTIALS: [&'static str; 4] =
        ["authorization", "proxy-authorization", "cookie", "set-cookie"];

    /// `credentials`: whether credentials may enter; `never_enter`: further names, lower case.
    pub fn new<'a>(credentials: bool, never_enter: impl IntoIterator<Item = &'a str>) -> Self {
        let kept_out = if credentials {
            &[][..]
        } else {
            &Self::CREDENTIALS[..]
        };
        let never_enter = kept_out
            .iter()
            .copied()
            .chain(never_enter)
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Self {
            never_enter,
            credentials,
        }
    }

    /// Whether a field of this (lower-case) name may enter.
    pub fn may_enter(&self, name: &[u8]) -> bool {
        !self.never_enter.contains(name)
    }

    /// Whether a field of this name may enter although it is marked "never indexed" (RFC 7541 §7.1.3).
    ///
    /// Envoy's HTTP/2 codec marks every `authorization` so, and who has credentials entered has decided
    /// otherwise for credentials. The mark of any other field is kept.
    pub fn may_enter_if_sensitive(&self, name: &[u8]) -> bool {
        self.credentials
            && Self::CREDENTIALS
                .iter()
                .any(|credential| credential.as_bytes() == name)
    }
}

impl Default for FieldPolicy {
    fn default() -> Self {
        Self::new(false, [])
    }
}

/// A validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// What one connection may cost.
    pub limits: Limits,
    /// What may enter the field table. Shared with the encoder of every connection.
    pub field_policy: Arc<FieldPolicy>,
    /// `Origin` values (RFC 6454 §7) that browsers may come from, compared byte for byte. A handshake
    /// without `Origin` isn't a browser's and passes. Far end only; default none.
    pub allowed_origins: Vec<String>,
    /// What the names of all metrics begin with, followed by `_`. Default `wsferry`.
    pub metrics_prefix: String,
    /// Far end: how long a WebSocket may stay open after this side has sent Close, milliseconds. 100 to
    /// 60,000; default 2,000.
    pub close_timeout_ms: u32,
    /// Name of the connection manager's tunnel that this near end carries: it is told when the other
    /// end turns out to have no converter. Near end only; default none.
    pub tunnel: Option<String>,
}

impl Config {
    /// Reads and validates.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_slice(json).map_err(|error| ConfigError {
            field: String::new(),
            reason: error.to_string(),
        })?;
        Self::try_from(raw)
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let limits = Limits {
            max_message_bytes: within(
                "limits.max_message_bytes",
                raw.limits.max_message_bytes,
                1 << 20,
                16 << 20,
            )?,
            max_header_list_bytes: within(
                "limits.max_header_list_bytes",
                raw.limits.max_header_list_bytes,
                4 << 10,
                512 << 10,
            )?,
            max_header_fields: within(
                "limits.max_header_fields",
                raw.limits.max_header_fields,
                16,
                4_096,
            )?,
            max_streams: within("limits.max_streams", raw.limits.max_streams, 1, 65_535)?,
        };
        for name in &raw.field_table.never_enter {
            if name.is_empty()
                || name
                    .bytes()
                    .any(|b| !b.is_ascii_graphic() || b.is_ascii_uppercase())
            {
                return Err(refuse(
                    "field_table.never_enter",
                    format!("{name:?} is no lower-case field name"),
                ));
            }
        }
        if raw.role == Role::Near && !raw.allowed_origins.is_empty() {
            return Err(refuse(
                "allowed_origins",
                "only a far end checks origins".to_owned(),
            ));
        }
        if let Some(origin) = raw.allowed_origins.iter().find(|origin| !origin.contains("://")) {
            return Err(refuse(
                "allowed_origins",
                format!("{origin:?} is no origin like https://example.org"),
            ));
        }
        if raw.role == Role::Far && raw.tunnel.is_some() {
            return Err(refuse("tunnel", "only a near end has one".to_owned()));
        }
        let prefix = &raw.metrics_prefix;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(refuse(
                "metrics_prefix",
                format!("{prefix:?} is not letters, digits and `_`"),
            ));
        }
        within("close_timeout_ms", raw.close_timeout_ms, 100, 60_000)?;
        Ok(Self {
            role: raw.role,
            limits,
            field_policy: Arc::new(FieldPolicy::new(
                raw.field_table.enter_credentials,
                raw.field_table.never_enter.iter().map(String::as_str),
            )),
            allowed_origins: raw.allowed_origins,
            metrics_prefix: raw.metrics_prefix,
            close_timeout_ms: raw.close_timeout_ms,
            tunnel: raw.tunnel,
        })
    }
}

fn refuse(field: &str, reason: String) -> ConfigError {
    ConfigError {
        field: field.to_owned(),
        reason,
    }
}

fn within(field: &str, value: u32, least: u32, most: u32) -> Result<usize, ConfigError> {
    if (least..=most).contains(&value) {
        Ok(to_usize(value))
    } else {
        Err(refuse(
            field,
            format!("{value} is not between {least} and {most}"),
        ))
    }
}

/// Lossless: `usize` has at least 32 bits on every target of this crate.
fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
