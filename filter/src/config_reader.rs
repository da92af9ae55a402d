//! Reads a plugin configuration field by field, so that whatever is wrong with it names its field.
//!
//! [`Fields`] is one JSON object that knows where it stands. What it holds is taken by declaring it, with
//! range and default: `probe.number("interval_ms", 100..=3_600_000, 5_000)?`. A field that nobody has
//! declared is refused, and so is one that appears twice, and `null`.
//!
//! Derived `Deserialize` would do the same at five times the size, and a module of an Envoy worker has to
//! stay small. For that the functions here aren't inlined: each would be there once for every field.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A configuration that can't be used: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the field, like `limits.max_streams`; empty where the text isn't a JSON object.
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

/// Most items of a list of texts: they are compared one by one.
pub const MAX_TEXTS: usize = 256;

/// What a text may be.
#[derive(Clone, Copy)]
pub struct Form {
    /// Completes the sentence "… is not".
    pub name: &'static str,
    /// Whether a text is of this form.
    pub holds: fn(&str) -> bool,
}

/// What `host` may hold (RFC 9112 §3.2), as far as tells it from anything that could end the line.
pub const AUTHORITY: Form = Form {
    name: "a host with or without port",
    holds: |text| {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match address {
            Some(address) => address
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
            None => host
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"/?#@:[]".contains(&b)),
        };
        let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        is_host && !host.is_empty() && address != Some("") && port.is_none_or(is_port)
    },
};

/// A path with or without query, in origin form (RFC 9112 §3.2.1).
pub const PATH: Form = Form {
    name: "a path that begins with `/`",
    holds: |text| text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#'),
};

/// Part of a metric's name.
pub const METRIC_NAME: Form = Form {
    name: "letters, digits and `_`",
    holds: |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
};

/// The types that a number is read as.
pub trait Number: Copy + PartialOrd + fmt::Display + TryFrom<i64> {}

impl Number for u32 {}
impl Number for usize {}

/// The fields of one JSON object, less what was taken already.
pub struct Fields {
    /// Of the object itself, with a dot at its end: `tunnels[0].`; empty for the whole.
    path: String,
    left: Vec<(String, Json)>,
    declared: Vec<&'static str>,
}

impl Fields {
    /// Reads a JSON object: all of it, or it is refused.
    ///
    /// # Errors
    /// What `take` returns, and what is left after it.
    pub fn read<T>(
        json: &[u8],
        take: impl FnOnce(&mut Self) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let refuse = |reason| ConfigError {
            field: String::new(),
            reason,
        };
        let no_json =
            |error: serde_json::Error| refuse(format!("{error}; it has to be JSON, as a StringValue"));
        match serde_json::from_slice(json).map_err(no_json)? {
            Json::Object(fields) => Self::new(String::new(), fields).finish(take),
            _ => Err(refuse("is no JSON object".to_owned())),
        }
    }

    fn new(path: String, left: Vec<(String, Json)>) -> Self {
        Self {
            path,
            left,
            declared: Vec::new(),
        }
    }

    fn finish<T>(mut self, take: impl FnOnce(&mut Self) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
        let taken = take(&mut self)?;
        self.refuse_left()?;
        Ok(taken)
    }

    #[inline(never)]
    fn refuse_left(&self) -> Result<(), ConfigError> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) if self.declared.contains(&name.as_str()) => {
                Err(self.refuse(name, "appears twice"))
            }
            Some((name, _)) => {
                let known = self.declared.join(", ");
                Err(self.refuse(harmless(name), format!("is unknown; known here are {known}")))
            }
        }
    }

    /// Says what is wrong with a field of this object.
    pub fn refuse(&self, name: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError {
            field: format!("{}{name}", self.path),
            reason: reason.into(),
        }
    }

    /// What a required field lacks.
    #[inline(never)]
    pub fn missing(&self, name: &str) -> ConfigError {
        self.refuse(name, "is missing")
    }

    #[inline(never)]
    fn take(&mut self, name: &'static str) -> Option<Json> {
        self.declared.push(name);
        let place = self.left.iter().position(|field| field.0 == name)?;
        Some(self.left.remove(place).1)
    }

    /// A field that has no place here.
    ///
    /// # Errors
    /// It is there; `reason` says why it mustn't be.
    #[inline(never)]
    pub fn absent(&mut self, name: &'static str, reason: &str) -> Result<(), ConfigError> {
        match self.take(name) {
            None => Ok(()),
            Some(_) => Err(self.refuse(name, reason)),
        }
    }

    /// An object. Where it is missing, `take` gets one without fields and so the defaults.
    ///
    /// # Errors
    /// It is something else, `take` returns an error, or a field is left.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        take: impl FnOnce(&mut Self) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.enter(name)?.finish(take)
    }

    #[inline(never)]
    fn enter(&mut self, name: &'static str) -> Result<Self, ConfigError> {
        match self.take(name).unwrap_or(Json::Object(Vec::new())) {
            Json::Object(fields) => Ok(Self::new(format!("{}{name}.", self.path), fields)),
            _ => Err(self.refuse(name, "is no object")),
        }
    }

    /// A list of objects. Empty where it is missing.
    ///
    /// # Errors
    /// Their number isn't within `range`, it or an item is something else, `take` returns an error, or a
    /// field is left.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
        mut take: impl FnMut(&mut Self) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let items = self.list(name, range)?;
        let mut taken = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let Json::Object(fields) = item else {
                return Err(self.refuse(&format!("{name}[{index}]"), "is no object"));
            };
            let path = format!("{}{name}[{index}].", self.path);
            taken.push(Self::new(path, fields).finish(&mut take)?);
        }
        Ok(taken)
    }

    #[inline(never)]
    fn list(&mut self, name: &'static str, range: RangeInclusive<usize>) -> Result<Vec<Json>, ConfigError> {
        let items = match self.take(name) {
            None => Vec::new(),
            Some(Json::List(items)) => items,
            Some(_) => return Err(self.refuse(name, "is no list")),
        };
        if range.contains(&items.len()) {
            Ok(items)
        } else {
            Err(self.outside(name, format!("a list of {}", items.len()), range))
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// It or its default isn't within `range`, or it is something else.
    #[inline(never)]
    pub fn number<N: Number>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<N>,
        default: N,
    ) -> Result<N, ConfigError> {
        match self.optional_number(name, range.clone())? {
            Some(number) => Ok(number),
            None if range.contains(&default) => Ok(default),
            None => Err(self.outside(name, default, range)),
        }
    }

    /// A whole number without default.
    ///
    /// # Errors
    /// It isn't within `range`, or it is something else.
    #[inline(never)]
    pub fn optional_number<N: Number>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, ConfigError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let Json::Number(value) = value else {
            return Err(self.refuse(name, "is no whole number"));
        };
        match N::try_from(value) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.outside(name, value, range)),
        }
    }

    #[inline(never)]
    fn outside<N: Number>(
        &self,
        name: &str,
        value: impl fmt::Display,
        range: RangeInclusive<N>,
    ) -> ConfigError {
        let (least, most) = range.into_inner();
        self.refuse(name, format!("{value} is not between {least} and {most}"))
    }

    /// A boolean, false where it is missing.
    ///
    /// # Errors
    /// It is something else.
    #[inline(never)]
    pub fn flag(&mut self, name: &'static str) -> Result<bool, ConfigError> {
        match self.take(name) {
            None => Ok(false),
            Some(Json::Boolean(value)) => Ok(value),
            Some(_) => Err(self.refuse(name, "is neither true nor false")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// It isn't of this form, or no text at all.
    #[inline(never)]
    pub fn text(&mut self, name: &'static str, form: Form, default: &str) -> Result<String, ConfigError> {
        Ok(self
            .optional_text(name, form)?
            .unwrap_or_else(|| default.to_owned()))
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// It is missing, not of this form, or no text at all.
    #[inline(never)]
    pub fn required_text(&mut self, name: &'static str, form: Form) -> Result<String, ConfigError> {
        self.optional_text(name, form)?.ok_or_else(|| self.missing(name))
    }

    /// A text without default.
    ///
    /// # Errors
    /// It isn't of this form, or no text at all.
    #[inline(never)]
    pub fn optional_text(&mut self, name: &'static str, form: Form) -> Result<Option<String>, ConfigError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => self.formed(name, value, form).map(Some),
        }
    }

    /// A list of up to [`MAX_TEXTS`] texts. Empty where it is missing.
    ///
    /// # Errors
    /// It is longer or no list, or an item isn't of this form. Says which, and not what it is: that may be a credential.
    #[inline(never)]
    pub fn texts(&mut self, name: &'static str, form: Form) -> Result<Vec<String>, ConfigError> {
        let mut texts = Vec::new();
        for item in self.list(name, 0..=MAX_TEXTS)? {
            match item {
                Json::Text(text) if (form.holds)(&text) => texts.push(text),
                _ => {
                    let number = texts.len().saturating_add(1);
                    return Err(self.refuse(name, format!("item {number} is not {}", form.name)));
                }
            }
        }
        Ok(texts)
    }

    #[inline(never)]
    fn formed(&self, name: &str, value: Json, form: Form) -> Result<String, ConfigError> {
        match value {
            Json::Text(text) if (form.holds)(&text) => Ok(text),
            // What it is may be, or have in it, a credential.
            Json::Text(_) => Err(self.refuse(name, format!("is not {}", form.name))),
            _ => Err(self.refuse(name, "is no text")),
        }
    }

    /// One of these words, `None` where it is missing.
    ///
    /// # Errors
    /// It is none of them.
    #[inline(never)]
    pub fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let known = |word: &str| choices.iter().find(|choice| choice.0 == word);
        match value {
            Json::Text(word) => match known(&word) {
                Some(&(_, choice)) => Ok(Some(choice)),
                None => {
                    let words: Vec<_> = choices.iter().map(|choice| choice.0).collect();
                    let words = words.join(", ");
                    Err(self.refuse(name, format!("{} is none of {words}", harmless(&word))))
                }
            },
            _ => Err(self.refuse(name, "is no text")),
        }
    }
}

/// A word for the log, unless it may be a credential in the wrong place.
fn harmless(word: &str) -> &str {
    let is_name = word.len() <= 40 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if is_name { word } else { "…" }
}

/// JSON as far as a configuration has it. Objects keep a field that appears twice, so that it is seen.
enum Json {
    Boolean(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// Null, or a number that isn't whole or doesn't fit: no field takes one.
    Other,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(i64::try_from(value).map_or(Json::Other, Json::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Json::Object(object))
    }
}
