//! Messages that own their bytes, to compare and to make up, with numbers for streams.
#![allow(dead_code)]

use wsferry::Error;
use wsferry::message::{Fields, Http2Id, Message, RequestHead, Settings, WireId};

/// Name, value, whether it is sensitive.
pub type OwnedField = (Vec<u8>, Vec<u8>, bool);

/// A message or an HTTP/2 event that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owned {
    Request {
        stream: u32,
        end: bool,
        method: Vec<u8>,
        scheme: Vec<u8>,
        authority: Vec<u8>,
        path: Vec<u8>,
        protocol: Option<Vec<u8>>,
        fields: Vec<OwnedField>,
    },
    Response {
        stream: u32,
        end: bool,
        status: u16,
        fields: Vec<OwnedField>,
    },
    Data {
        stream: u32,
        end: bool,
        payload: Vec<u8>,
    },
    Trailers {
        stream: u32,
        fields: Vec<OwnedField>,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    Credit {
        stream: Option<u32>,
        bytes: u32,
    },
    Settings(Vec<(u16, u32)>),
    Ack,
    Goaway {
        last: Option<u32>,
        code: u32,
    },
    Raw(Vec<u8>),
    /// What HTTP/2 alone has, from here on.
    Ping([u8; 8]),
    PingAck([u8; 8]),
    Padding {
        stream: u32,
        bytes: u32,
    },
    Malformed {
        stream: u32,
        error: Error,
    },
}

/// The two kinds of streams' names.
pub trait StreamId: Copy {
    fn number(self) -> u32;
    fn of(number: u32) -> Self;
}

impl StreamId for WireId {
    fn number(self) -> u32 {
        self.0.into()
    }

    fn of(number: u32) -> Self {
        Self(number.try_into().expect("16 bits"))
    }
}

impl StreamId for Http2Id {
    fn number(self) -> u32 {
        self.0
    }

    fn of(number: u32) -> Self {
        Self(number)
    }
}

fn owned_fields(fields: &Fields) -> Vec<OwnedField> {
    fields
        .iter()
        .map(|field| (field.name.to_vec(), field.value.to_vec(), field.sensitive))
        .collect()
}

fn fields_of(owned: &[OwnedField]) -> Fields {
    let mut fields = Fields::new();
    for (name, value, sensitive) in owned {
        fields.push(name, value, *sensitive);
    }
    fields
}

impl Owned {
    pub fn from<Id: StreamId>(message: &Message<'_, Id>) -> Self {
        match *message {
            Message::Request { stream, end, head } => Self::Request {
                stream: stream.number(),
                end,
                method: head.method.to_vec(),
                scheme: head.scheme.to_vec(),
                authority: head.authority.to_vec(),
                path: head.path.to_vec(),
                protocol: head.protocol.map(<[u8]>::to_vec),
                fields: owned_fields(head.fields),
            },
            Message::Response {
                stream,
                end,
                status,
                fields,
            } => Self::Response {
                stream: stream.number(),
                end,
                status,
                fields: owned_fields(fields),
            },
            Message::Data { stream, end, payload } => Self::Data {
                stream: stream.number(),
                end,
                payload: payload.to_vec(),
            },
            Message::Trailers { stream, fields } => Self::Trailers {
                stream: stream.number(),
                fields: owned_fields(fields),
            },
            Message::Reset { stream, code } => Self::Reset {
                stream: stream.number(),
                code,
            },
            Message::Credit { stream, bytes } => Self::Credit {
                stream: stream.map(StreamId::number),
                bytes,
            },
            Message::Settings(settings) => Self::Settings(settings.iter().collect()),
            Message::Ack => Self::Ack,
            Message::Goaway { last, code } => Self::Goaway {
                last: last.map(StreamId::number),
                code,
            },
            Message::Raw(bytes) => Self::Raw(bytes.to_vec()),
        }
    }

    /// Lends the message to `use_it`.
    pub fn lend<Id: StreamId, T>(&self, use_it: impl FnOnce(&Message<'_, Id>) -> T) -> T {
        match self {
            Self::Request {
                stream,
                end,
                method,
                scheme,
                authority,
                path,
                protocol,
                fields,
            } => {
                let fields = fields_of(fields);
                use_it(&Message::Request {
                    stream: Id::of(*stream),
                    end: *end,
                    head: RequestHead {
                        method,
                        scheme,
                        authority,
                        path,
                        protocol: protocol.as_deref(),
                        fields: &fields,
                    },
                })
            }
            Self::Response {
                stream,
                end,
                status,
                fields,
            } => use_it(&Message::Response {
                stream: Id::of(*stream),
                end: *end,
                status: *status,
                fields: &fields_of(fields),
            }),
            Self::Data { stream, end, payload } => use_it(&Message::Data {
                stream: Id::of(*stream),
                end: *end,
                payload,
            }),
            Self::Trailers { stream, fields } => use_it(&Message::Trailers {
                stream: Id::of(*stream),
                fields: &fields_of(fields),
            }),
            Self::Reset { stream, code } => use_it(&Message::Reset {
                stream: Id::of(*stream),
                code: *code,
            }),
            Self::Credit { stream, bytes } => use_it(&Message::Credit {
                stream: stream.map(Id::of),
                bytes: *bytes,
            }),
            Self::Settings(entries) => {
                let mut settings = Settings::new();
                for (id, value) in entries {
                    settings.set(*id, *value);
                }
                use_it(&Message::Settings(&settings))
            }
            Self::Ack => use_it(&Message::Ack),
            Self::Goaway { last, code } => use_it(&Message::Goaway {
                last: last.map(Id::of),
                code: *code,
            }),
            Self::Raw(bytes) => use_it(&Message::Raw(bytes)),
            Self::Ping(_) | Self::PingAck(_) | Self::Padding { .. } | Self::Malformed { .. } => {
                panic!("{self:?} is no message")
            }
        }
    }

    pub fn fields(&self) -> &[OwnedField] {
        match self {
            Self::Request { fields, .. } | Self::Response { fields, .. } | Self::Trailers { fields, .. } => {
                fields
            }
            _ => &[],
        }
    }

    /// The same with `sensitive` unset everywhere: only it may change on the way.
    pub fn without_sensitive(mut self) -> Self {
        if let Self::Request { fields, .. } | Self::Response { fields, .. } | Self::Trailers { fields, .. } =
            &mut self
        {
            for field in fields {
                field.2 = false;
            }
        }
        self
    }

    /// Joins data messages that follow each other on the same stream: decoders may cut data anywhere.
    pub fn joined(messages: Vec<Self>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for message in messages {
            if let Self::Data { stream, end, payload } = &message
                && let Some(Self::Data {
                    stream: last_stream,
                    end: last_end,
                    payload: last_payload,
                }) = all.last_mut()
                && last_stream == stream
                && !*last_end
            {
                last_payload.extend_from_slice(payload);
                *last_end = *end;
            } else {
                all.push(message);
            }
        }
        all
    }
}
