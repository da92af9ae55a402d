//! Events with everything owned, to compare and to make up.
#![allow(dead_code)]

pub mod frames;
pub mod messages;

use wsferry::Error;
use wsferry::config::Limits;
use wsferry::http2::{Event, Reader, Sender, Writer};
use wsferry::message::{Fields, Http2Id, Message, RequestHead, Settings};

pub type Line = (Vec<u8>, Vec<u8>, bool);

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
        fields: Vec<Line>,
    },
    Response {
        stream: u32,
        end: bool,
        status: u16,
        fields: Vec<Line>,
    },
    Data {
        stream: u32,
        end: bool,
        payload: Vec<u8>,
    },
    Trailers {
        stream: u32,
        fields: Vec<Line>,
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

pub fn data(stream: u32, end: bool, payload: &[u8]) -> Owned {
    Owned::Data {
        stream,
        end,
        payload: payload.to_vec(),
    }
}

fn lines(fields: &Fields) -> Vec<Line> {
    fields
        .iter()
        .map(|field| (field.name.to_vec(), field.value.to_vec(), field.sensitive))
        .collect()
}

fn fields(lines: &[Line]) -> Fields {
    let mut fields = Fields::new();
    for (name, value, sensitive) in lines {
        fields.push(name, value, *sensitive);
    }
    fields
}

pub fn own(event: &Event<'_>) -> Owned {
    let message = match event {
        Event::Message(message) => message,
        Event::Ping(opaque) => return Owned::Ping(*opaque),
        Event::PingAck(opaque) => return Owned::PingAck(*opaque),
        Event::Padding { stream, bytes } => {
            return Owned::Padding {
                stream: stream.0,
                bytes: *bytes,
            };
        }
        Event::Malformed { stream, error } => {
            return Owned::Malformed {
                stream: stream.0,
                error: *error,
            };
        }
    };
    match *message {
        Message::Request { stream, end, head } => Owned::Request {
            stream: stream.0,
            end,
            method: head.method.to_vec(),
            scheme: head.scheme.to_vec(),
            authority: head.authority.to_vec(),
            path: head.path.to_vec(),
            protocol: head.protocol.map(<[u8]>::to_vec),
            fields: lines(head.fields),
        },
        Message::Response {
            stream,
            end,
            status,
            fields,
        } => Owned::Response {
            stream: stream.0,
            end,
            status,
            fields: lines(fields),
        },
        Message::Data { stream, end, payload } => Owned::Data {
            stream: stream.0,
            end,
            payload: payload.to_vec(),
        },
        Message::Trailers { stream, fields } => Owned::Trailers {
            stream: stream.0,
            fields: lines(fields),
        },
        Message::Reset { stream, code } => Owned::Reset {
            stream: stream.0,
            code,
        },
        Message::Credit { stream, bytes } => Owned::Credit {
            stream: stream.map(|stream| stream.0),
            bytes,
        },
        Message::Settings(settings) => Owned::Settings(settings.iter().collect()),
        Message::Ack => Owned::Ack,
        Message::Goaway { last, code } => Owned::Goaway {
            last: last.map(|last| last.0),
            code,
        },
    }
}

/// Takes all of `input`; what came before an error is returned with it.
pub fn read(reader: &mut Reader, mut input: &[u8]) -> (Vec<Owned>, Option<Error>) {
    let mut events = Vec::new();
    loop {
        match reader.next(&mut input) {
            Ok(Some(event)) => events.push(own(&event)),
            Ok(None) => {
                assert!(input.is_empty(), "input is left: {input:?}");
                return (events, None);
            }
            Err(error) => return (events, Some(error)),
        }
    }
}

/// All of `bytes` by a new reader with default limits.
pub fn read_all(sender: Sender, bytes: &[u8]) -> (Vec<Owned>, Option<Error>) {
    read(&mut Reader::new(sender, &Limits::default()), bytes)
}

/// Joins the pieces of each DATA run.
pub fn merge(events: Vec<Owned>) -> Vec<Owned> {
    let mut merged: Vec<Owned> = Vec::new();
    for event in events {
        if let (
            Some(Owned::Data {
                stream,
                end: end @ false,
                payload,
            }),
            Owned::Data {
                stream: next_stream,
                end: next_end,
                payload: next_payload,
            },
        ) = (merged.last_mut(), &event)
            && stream == next_stream
        {
            *end = *next_end;
            payload.extend_from_slice(next_payload);
        } else {
            merged.push(event);
        }
    }
    merged
}

/// Writes what can be written: everything but padding and what was malformed.
pub fn write(writer: &mut Writer, event: &Owned, out: &mut Vec<u8>) {
    let list;
    let message = match event {
        Owned::Ping(opaque) => return writer.ping(*opaque, out),
        Owned::PingAck(opaque) => return writer.ping_ack(*opaque, out),
        Owned::Padding { .. } | Owned::Malformed { .. } => panic!("{event:?} can't be written"),
        Owned::Request {
            stream,
            end,
            method,
            scheme,
            authority,
            path,
            protocol,
            fields: lines,
        } => {
            list = fields(lines);
            Message::Request {
                stream: Http2Id(*stream),
                end: *end,
                head: RequestHead {
                    method,
                    scheme,
                    authority,
                    path,
                    protocol: protocol.as_deref(),
                    fields: &list,
                },
            }
        }
        Owned::Response {
            stream,
            end,
            status,
            fields: lines,
        } => {
            list = fields(lines);
            Message::Response {
                stream: Http2Id(*stream),
                end: *end,
                status: *status,
                fields: &list,
            }
        }
        Owned::Data { stream, end, payload } => Message::Data {
            stream: Http2Id(*stream),
            end: *end,
            payload,
        },
        Owned::Trailers {
            stream,
            fields: lines,
        } => {
            list = fields(lines);
            Message::Trailers {
                stream: Http2Id(*stream),
                fields: &list,
            }
        }
        Owned::Reset { stream, code } => Message::Reset {
            stream: Http2Id(*stream),
            code: *code,
        },
        Owned::Credit { stream, bytes } => Message::Credit {
            stream: stream.map(Http2Id),
            bytes: *bytes,
        },
        Owned::Settings(entries) => {
            let mut settings = Settings::new();
            for (id, value) in entries {
                settings.set(*id, *value);
            }
            return writer.message(&Message::Settings(&settings), out);
        }
        Owned::Ack => Message::Ack,
        Owned::Goaway { last, code } => Message::Goaway {
            last: last.map(Http2Id),
            code: *code,
        },
    };
    writer.message(&message, out);
}
