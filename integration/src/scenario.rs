//! The list of exchanges that every level plays: `scenarios.json`, described in `README.md`.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    format: u32,
    scenarios: Vec<Scenario>,
}

/// One exchange.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique.
    pub name: String,
    /// What the client sends and the origin receives.
    pub request: Request,
    /// What the origin sends and the client receives.
    pub response: Option<Response>,
    /// When pieces are sent.
    #[serde(default)]
    pub pace: Pace,
    /// Who resets the stream at last.
    pub reset: Option<Reset>,
    /// How often, one after the other.
    #[serde(default = "one")]
    pub times: usize,
    /// How many at once.
    #[serde(default = "one")]
    pub at_once: usize,
    /// The levels that can play it.
    #[serde(default = "all_levels")]
    pub only: Vec<Level>,
    /// Why the others can't.
    pub why: Option<String>,
}

/// A driver's level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Converters in memory, native or wasm.
    Memory,
    /// Real Envoys with HTTP/1.1 outside.
    Http1,
    /// Real Envoys with HTTP/2 outside.
    Http2,
}

/// What the client sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `:method`.
    pub method: Latin1,
    /// `:path`, empty for CONNECT.
    pub path: Latin1,
    /// `:scheme`, empty for CONNECT.
    #[serde(default = "http")]
    pub scheme: Latin1,
    /// `:authority`.
    #[serde(default = "app_example")]
    pub authority: Latin1,
    /// `:protocol`.
    pub protocol: Option<Latin1>,
    /// Fields.
    #[serde(default)]
    pub fields: FieldList,
    /// Body.
    pub body: Option<Vec<Piece>>,
    /// Trailers.
    pub trailers: Option<FieldList>,
    /// Whether the body waits for an interim response.
    #[serde(default)]
    pub await_interim: bool,
}

/// What the origin sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Fields.
    #[serde(default)]
    pub fields: FieldList,
    /// Body.
    pub body: Option<Vec<Piece>>,
    /// Trailers.
    pub trailers: Option<FieldList>,
    /// Interim responses.
    #[serde(default)]
    pub interim: Vec<Interim>,
    /// Whether it doesn't wait for the request's end.
    #[serde(default)]
    pub early: bool,
}

/// An interim response.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interim {
    /// 1xx.
    pub status: u16,
    /// Fields.
    #[serde(default)]
    pub fields: FieldList,
}

/// When pieces are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// As flow control allows.
    #[default]
    Free,
    /// Each once the one before it has arrived.
    Each,
    /// Request and response pieces in turn.
    Alternate,
}

/// A reset instead of an end.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// Who resets.
    pub by: Side,
    /// HTTP/2 error code.
    pub code: u32,
}

/// A side of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The client.
    Client,
    /// The origin.
    Origin,
}

/// Bytes, written as characters U+0000 to U+00FF.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Text")]
pub struct Latin1(pub Vec<u8>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Repeat(Repeat),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    repeat: String,
    count: usize,
}

fn latin1(text: &str) -> Result<Vec<u8>, String> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).map_err(|_| format!("{c:?} is over U+00FF")))
        .collect()
}

impl TryFrom<Text> for Latin1 {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        Ok(Self(match text {
            Text::Plain(text) => latin1(&text)?,
            Text::Repeat(Repeat { repeat, count }) => latin1(&repeat)?.repeat(count),
        }))
    }
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PieceForm")]
pub struct Piece(pub Vec<u8>);

#[derive(Deserialize)]
#[serde(untagged)]
enum PieceForm {
    Text(Latin1),
    Pattern(Pattern),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pattern {
    pattern: usize,
}

impl From<PieceForm> for Piece {
    fn from(form: PieceForm) -> Self {
        Self(match form {
            PieceForm::Text(text) => text.0,
            PieceForm::Pattern(Pattern { pattern }) => pattern_bytes(pattern),
        })
    }
}

/// The bytes of `{"pattern": length}`.
pub fn pattern_bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| {
            let j = i % 65_521;
            ((j ^ (j >> 8)) & 255) as u8
        })
        .collect()
}

/// Fields in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<FieldForm>")]
pub struct FieldList(pub Vec<(Vec<u8>, Vec<u8>)>);

#[derive(Deserialize)]
#[serde(untagged)]
enum FieldForm {
    Field(Latin1, Latin1),
    Numbered(Numbered),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    numbered: usize,
    name: String,
    value: String,
}

impl From<Vec<FieldForm>> for FieldList {
    fn from(forms: Vec<FieldForm>) -> Self {
        let mut fields = Vec::new();
        for form in forms {
            match form {
                FieldForm::Field(name, value) => fields.push((name.0, value.0)),
                FieldForm::Numbered(Numbered {
                    numbered,
                    name,
                    value,
                }) => {
                    fields.extend((0..numbered).map(|n| {
                        let n = n.to_string();
                        (
                            name.replace('#', &n).into_bytes(),
                            value.replace('#', &n).into_bytes(),
                        )
                    }));
                }
            }
        }
        Self(fields)
    }
}

fn one() -> usize {
    1
}

fn all_levels() -> Vec<Level> {
    vec![Level::Memory, Level::Http1, Level::Http2]
}

fn http() -> Latin1 {
    Latin1(b"http".to_vec())
}

fn app_example() -> Latin1 {
    Latin1(b"app.example".to_vec())
}

/// The whole list.
pub fn all() -> Vec<Scenario> {
    let list: List =
        serde_json::from_str(include_str!("../scenarios.json")).expect("scenarios.json in its form");
    assert_eq!(list.format, 1, "the format of scenarios.json");
    for scenario in &list.scenarios {
        assert!(
            scenario.only.len() == 3 || scenario.why.is_some(),
            "{}: `only` without `why`",
            scenario.name
        );
    }
    list.scenarios
}

impl Scenario {
    /// Bytes of all bodies.
    pub fn body_bytes(&self) -> usize {
        let bytes = |body: Option<&Vec<Piece>>| {
            body.into_iter()
                .flatten()
                .map(|piece| piece.0.len())
                .sum::<usize>()
        };
        let one = bytes(self.request.body.as_ref())
            + bytes(self.response.as_ref().and_then(|response| response.body.as_ref()));
        one * self.at_once * self.times
    }
}
