//! The plugin configuration: the JSON's `role` decides which of the two kinds it is, and the converter's.
//!
//! The reference for operators is `docs/configuration.md`; a test holds the two together.

use std::sync::Arc;

pub use crate::config_reader::ConfigError;
use crate::config_reader::{AUTHORITY, Fields, Form, METRIC_NAME, PATH};
use crate::connection_manager;
use crate::connection_manager::config::TUNNEL_NAME;
use crate::field_rules::{FRAMING_FIELDS, is_name};

/// What one plugin is: the JSON's `role` decides which of the two kinds of configuration it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginConfig {
    /// `near` or `far`.
    Converter(Config),
    /// `connection_manager`.
    ConnectionManager(connection_manager::Config),
}

#[derive(Clone, Copy)]
enum PluginRole {
    Converter(Role),
    ConnectionManager,
}

impl PluginConfig {
    /// Reads and validates.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let roles = [
            ("near", PluginRole::Converter(Role::Near)),
            ("far", PluginRole::Converter(Role::Far)),
            ("connection_manager", PluginRole::ConnectionManager),
        ];
        Fields::read(json, |plugin| match plugin.choice("role", &roles)? {
            Some(PluginRole::Converter(role)) => Config::take(role, plugin).map(Self::Converter),
            Some(PluginRole::ConnectionManager) => {
                connection_manager::Config::take(plugin).map(Self::ConnectionManager)
            }
            None => Err(plugin.missing("role")),
        })
    }
}

/// Which end of the WebSocket: the client is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// WebSocket client. Makes the requests unless [`Config::requests_from`] says otherwise.
    Near,
    /// WebSocket server.
    Far,
}

/// What of Envoy's filters a converter is, and so what it sees of the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// An HTTP filter: the bodies of an HTTP stream, whose handshake Envoy has parsed.
    Http,
    /// A network filter: the bytes of a connection, handshake included.
    Network(Arc<Handshake>),
}

/// The opening handshake of a converter that makes or answers it itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Near end: `host` of the request.
    pub authority: String,
    /// Where the WebSocket is. Near end: with a query, if it should have one. Default `/wsferry`.
    pub path: String,
    /// Near end: further fields of the request, `NAME: VALUE`.
    pub fields: Vec<String>,
    /// How long it may take, milliseconds: from the connection's beginning (far end), or from when the request was sent
    /// (near end). 100 to 60,000; default 10,000.
    pub timeout_ms: u32,
}

/// Most bytes that pass unconverted at a time, before HTTP/2 begins: a head as large as Envoy takes.
pub const RAW_BYTES: usize = 64 * 1024;

/// Largest WebSocket message that a sender makes, bytes; receivers accept at least that.
pub const MESSAGE_BYTES: usize = 1 << 20;

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
        Self {
            max_message_bytes: MESSAGE_BYTES,
            max_header_list_bytes: 96 << 10,
            max_header_fields: 256,
            max_streams: 16_384,
        }
    }
}

impl Limits {
    fn take(limits: &mut Fields) -> Result<Self, ConfigError> {
        let default = Self::default();
        let mut limit = |name, range, default| limits.number(name, range, default);
        Ok(Self {
            max_message_bytes: limit(
                "max_message_bytes",
                MESSAGE_BYTES..=16 << 20,
                default.max_message_bytes,
            )?,
            max_header_list_bytes: limit(
                "max_header_list_bytes",
                4 << 10..=512 << 10,
                default.max_header_list_bytes,
            )?,
            max_header_fields: limit("max_header_fields", 16..=4_096, default.max_header_fields)?,
            max_streams: limit("max_streams", 1..=65_535, default.max_streams)?,
        })
    }
}

/// Which credentials may enter the field table: `authorization`, `proxy-authorization`, `cookie` and `set-cookie`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Credentials {
    /// None of them.
    None,
    /// Those that Envoy's HTTP/2 codec enters into its own table: cookies.
    #[default]
    Cookies,
    /// All of them.
    All,
}

/// Which fields may enter the field table of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPolicy {
    /// A handful, and most are told apart by their length: compared one by one.
    never_enter: Vec<String>,
    credentials: Credentials,
}

impl FieldPolicy {
    /// The names of credentials: what of them may enter is the choice of [`Credentials`].
    pub const CREDENTIALS: [&'static str; 4] =
        ["cookie", "authorization", "proxy-authorization", "set-cookie"];

    /// `never_enter`: further names, lower case.
    pub fn new<'a>(credentials: Credentials, never_enter: impl IntoIterator<Item = &'a str>) -> Self {
        let let_in = match credentials {
            Credentials::None => 0,
            Credentials::Cookies => 1,
            Credentials::All => Self::CREDENTIALS.len(),
        };
        Self {
            never_enter: Self::CREDENTIALS
                .into_iter()
                .skip(let_in)
                .chain(never_enter)
                .map(str::to_owned)
                .collect(),
            credentials,
        }
    }

    fn take(field_table: &mut Fields) -> Result<Self, ConfigError> {
        let choices = [
            ("none", Credentials::None),
            ("cookies", Credentials::Cookies),
            ("all", Credentials::All),
        ];
        let credentials = field_table.choice("credentials", &choices)?.unwrap_or_default();
        let never_enter = field_table.texts("never_enter", FIELD_NAME)?;
        Ok(Self::new(credentials, never_enter.iter().map(String::as_str)))
    }

    /// Whether a field of this (lower-case) name may enter.
    pub fn may_enter(&self, name: &[u8]) -> bool {
        !self
            .never_enter
            .iter()
            .any(|kept_out| kept_out.as_bytes() == name)
    }

    /// Whether a field of this name may enter although it is marked "never indexed" (RFC 7541 §7.1.3).
    ///
    /// Envoy's HTTP/2 codec marks every `authorization` so, and who has all credentials entered has decided
    /// otherwise for credentials. The mark of any other field is kept.
    pub fn may_enter_if_sensitive(&self, name: &[u8]) -> bool {
        self.credentials == Credentials::All
            && Self::CREDENTIALS
                .iter()
                .any(|credential| credential.as_bytes() == name)
    }
}

impl Default for FieldPolicy {
    fn default() -> Self {
        Self::new(Credentials::default(), [])
    }
}

/// A validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// Which end makes the requests. `Far`, which needs [`Attachment::Http`]: the WebSocket carries a connection of
    /// Envoy's reverse tunnels. Default `Near`.
    pub requests_from: Role,
    /// What of Envoy's filters it is.
    pub attachment: Attachment,
    /// What one connection may cost.
    pub limits: Limits,
    /// What may enter the field table. Shared with the encoder of every connection.
    pub field_policy: Arc<FieldPolicy>,
    /// `Origin` values (RFC 6454 §7) that browsers may come from, compared byte for byte. A handshake
    /// without `Origin` isn't a browser's and passes. Far end only; default none.
    pub allowed_origins: Vec<String>,
    /// What the names of all metrics begin with, followed by `_`. Default `wsferry`.
    pub metrics_prefix: String,
    /// How long a WebSocket may stay open after this side has sent Close, milliseconds. 100 to 60,000; default 2,000.
    /// A near end that is an HTTP filter can't end its stream and leaves that to the far end.
    pub close_timeout_ms: u32,
    /// Name of the connection manager's tunnel that this near end carries: it is told when the other
    /// end turns out to have no converter, and when a WebSocket ends or takes no more requests. Near end only; default none.
    pub tunnel: Option<String>,
}

/// Name of a header field or pseudo-header field, as HTTP/2 has it.
const FIELD_NAME: Form = Form {
    name: "a lower-case field name",
    holds: |text| is_name(text.strip_prefix(':').unwrap_or(text).as_bytes()),
};

/// An origin (RFC 6454 §6.2), as far as tells it from a host name and from a URL.
const ORIGIN: Form = Form {
    name: "an origin like https://example.org, in lower case and without a path",
    holds: |text| {
        let host = text.split_once("://").map(|(_, host)| host);
        host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#']))
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
    },
};

/// What a far end compares a path with, from which the query has been taken.
const PATH_ALONE: Form = Form {
    name: "a path that begins with / and has no query",
    holds: |text| (PATH.holds)(text) && !text.contains('?'),
};

/// A field line (RFC 9112 §5) that isn't one of the handshake's own.
const FIELD_LINE: Form = Form {
    name: "a field `name: value` that the handshake doesn't set itself",
    holds: |text| {
        let Some((name, value)) = text.split_once(": ") else {
            return false;
        };
        let own = FRAMING_FIELDS.contains(&name) || name.starts_with("sec-websocket-");
        is_name(name.as_bytes())
            && !own
            && !value.is_empty()
            && value.trim_ascii() == value
            && value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
    },
};

impl Attachment {
    fn take(role: Role, plugin: &mut Fields) -> Result<Self, ConfigError> {
        if plugin.choice("filter", &[("http", false), ("network", true)])? == Some(true) {
            let handshake = plugin.object("handshake", |handshake| Handshake::take(role, handshake))?;
            return Ok(Self::Network(Arc::new(handshake)));
        }
        plugin.absent("handshake", "is Envoy's business unless `filter` is network")?;
        Ok(Self::Http)
    }
}

impl Handshake {
    fn take(role: Role, handshake: &mut Fields) -> Result<Self, ConfigError> {
        if role == Role::Far {
            for name in ["authority", "fields"] {
                handshake.absent(name, "only a near end sends it")?;
            }
        }
        Ok(Self {
            authority: match role {
                Role::Near => handshake.required_text("authority", AUTHORITY)?,
                Role::Far => String::new(),
            },
            path: match role {
                Role::Near => handshake.text("path", PATH, "/wsferry")?,
                Role::Far => handshake.text("path", PATH_ALONE, "/wsferry")?,
            },
            fields: match role {
                Role::Near => handshake.texts("fields", FIELD_LINE)?,
                Role::Far => Vec::new(),
            },
            timeout_ms: handshake.number("timeout_ms", 100..=60_000, 10_000)?,
        })
    }
}

impl Config {
    /// Reads and validates.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        match PluginConfig::parse(json)? {
            PluginConfig::Converter(config) => Ok(config),
            PluginConfig::ConnectionManager(_) => Err(ConfigError {
                field: "role".to_owned(),
                reason: "is not a converter's".to_owned(),
            }),
        }
    }

    fn take(role: Role, plugin: &mut Fields) -> Result<Self, ConfigError> {
        let config = Self {
            role,
            requests_from: plugin
                .choice("requests_from", &[("near", Role::Near), ("far", Role::Far)])?
                .unwrap_or(Role::Near),
            attachment: Attachment::take(role, plugin)?,
            limits: plugin.object("limits", Limits::take)?,
            field_policy: Arc::new(plugin.object("field_table", FieldPolicy::take)?),
            allowed_origins: plugin.texts("allowed_origins", ORIGIN)?,
            metrics_prefix: plugin.text("metrics_prefix", METRIC_NAME, "wsferry")?,
            close_timeout_ms: plugin.number("close_timeout_ms", 100..=60_000, 2_000)?,
            tunnel: plugin.optional_text("tunnel", TUNNEL_NAME)?,
        };
        if config.requests_from == Role::Far && config.attachment != Attachment::Http {
            return Err(plugin.refuse("requests_from", "far needs `filter` http"));
        }
        if role == Role::Near && !config.allowed_origins.is_empty() {
            return Err(plugin.refuse("allowed_origins", "only a far end checks origins"));
        }
        if (role == Role::Far || config.requests_from == Role::Far) && config.tunnel.is_some() {
            return Err(plugin.refuse("tunnel", "only a near end that makes requests has one"));
        }
        Ok(config)
    }
}
