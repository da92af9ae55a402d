//! What the HTTP/2 tests share: events with everything owned, read and written.
#![allow(dead_code)]

pub mod frames;
pub mod messages;
#[path = "../owned/mod.rs"]
mod owned;

use wsferry::Error;
use wsferry::config::Limits;
use wsferry::http2::{Event, Reader, Sender, Writer};
use wsferry::message::Http2Id;

pub use owned::{Owned, OwnedField};

pub fn data(stream: u32, end: bool, payload: &[u8]) -> Owned {
    Owned::Data {
        stream,
        end,
        payload: payload.to_vec(),
    }
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
    Owned::from(message)
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
    read(&mut started(sender, &Limits::default()), bytes)
}

/// A reader that has read the preface.
pub fn started(sender: Sender, limits: &Limits) -> Reader {
    let mut reader = Reader::new(sender, limits);
    let preface = read(&mut reader, &frames::begun(sender));
    assert_eq!(preface, (vec![Owned::Settings(vec![])], None));
    reader
}

/// Writes what can be written: everything but padding and what was malformed.
pub fn write(writer: &mut Writer, event: &Owned, out: &mut Vec<u8>) {
    match event {
        Owned::Ping(opaque) => writer.ping(*opaque, out),
        Owned::PingAck(opaque) => writer.ping_ack(*opaque, out),
        message => message.lend::<Http2Id, _>(|message| writer.message(message, out)),
    }
}
