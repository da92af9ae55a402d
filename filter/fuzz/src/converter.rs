//! The converter at either end, in both directions: steps of what the codec and the WebSocket bring.

use std::sync::Arc;

use wsferry::config::{Config, Limits};
use wsferry::converter::Converter;
use wsferry::error::Error;
use wsferry::message::Message;
use wsferry::{http2, websocket};

use super::{PREFACE, ZeroKeys};

/// Bytes: role and direction, then steps; see [`Step`].
pub fn converter(data: &[u8]) {
    let [role, steps @ ..] = data else { return };
    let (near, reversed) = (role & 1 == 0, role & 2 != 0);
    let new = |near: bool| {
        let name = |near| if near { "near" } else { "far" };
        let json = format!(
            r#"{{"role":"{}","requests_from":"{}"}}"#,
            name(near),
            name(!reversed)
        );
        Converter::new(&Arc::new(
            Config::parse(json.as_bytes()).expect("a configuration"),
        ))
    };
    let mut tested = new(near);
    let mut peer = new(!near);
    let speaker = if near == reversed {
        http2::Sender::Client
    } else {
        http2::Sender::Server
    };
    // What precedes HTTP/2 can be anything.
    let mut codec = (!reversed).then(|| http2::Reader::new(speaker, &Limits::default()));
    let mut out = Vec::new();
    let mut rest = steps;
    while let Some((step, bytes)) = Step::next(&mut rest, near, speaker.other()) {
        match step {
            Step::Http2 => tested.http2_input(&bytes, &mut ZeroKeys),
            Step::WebSocket => {
                let mut bytes = bytes;
                tested.websocket_input(&mut bytes, &mut ZeroKeys);
            }
            Step::Http2End => tested.http2_end(&mut ZeroKeys),
            Step::WebSocketEnd => tested.websocket_end(),
        }
        if matches!(step, Step::Http2 | Step::Http2End) {
            tested.take_websocket_output(&mut out);
            peer.websocket_input(&mut out, &mut ZeroKeys);
            if let Some(error) = peer.closed().and_then(|closed| closed.error) {
                // Streams and windows are the local codec's; the form is the converter's.
                assert!(
                    matches!(
                        error,
                        Error::UnknownStream
                            | Error::StreamInUse
                            | Error::StreamState
                            | Error::WindowOverrun
                            | Error::InvalidCredit
                            | Error::InvalidSetting
                            | Error::ExcessiveLoad
                    ),
                    "the other end can't read it: {error}"
                );
            }
            peer.take_http2_output(&mut out);
        } else {
            tested.take_http2_output(&mut out);
            codec = codec.and_then(|mut codec| {
                let mut bytes = out.as_slice();
                loop {
                    match codec.next(&mut bytes) {
                        Ok(None) => return Some(codec),
                        Ok(Some(http2::Event::Message(Message::Goaway { code, .. }))) if code != 0 => {
                            return None;
                        }
                        Ok(Some(http2::Event::Malformed { error, .. })) => {
                            panic!("a malformed header block for the codec: {error}")
                        }
                        Ok(Some(_)) => {}
                        Err(error) => panic!("no HTTP/2 for the codec: {error}"),
                    }
                }
            });
        }
        let _ = (tested.closed(), tested.close_sent(), tested.take_counts());
        assert!(tested.open_streams() <= Limits::default().max_streams);
    }
}

/// A step of the converter's target: one byte of kind, and for most two bytes of length and the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Http2,
    WebSocket,
    Http2End,
    WebSocketEnd,
}

impl Step {
    /// Kinds 0 and 1: the bytes as they are. 2 and 3: the ends. 4: one HTTP/2 frame, of which type, flags
    /// and the low byte of the stream come first. 5: a binary message. 6: the codec's first bytes.
    fn next(rest: &mut &[u8], near: bool, codec: http2::Sender) -> Option<(Self, Vec<u8>)> {
        let [kind, after @ ..] = *rest else { return None };
        *rest = after;
        match kind % 7 {
            2 => return Some((Self::Http2End, Vec::new())),
            3 => return Some((Self::WebSocketEnd, Vec::new())),
            6 => {
                let mut bytes = match codec {
                    http2::Sender::Client => PREFACE.to_vec(),
                    http2::Sender::Server => Vec::new(),
                };
                bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
                return Some((Self::Http2, bytes));
            }
            _ => {}
        }
        let [high, low, after @ ..] = *rest else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(length);
        *rest = after;
        Some(match kind % 7 {
            0 => (Self::Http2, bytes.to_vec()),
            1 => (Self::WebSocket, bytes.to_vec()),
            4 => {
                let [kind, flags, stream, payload @ ..] = bytes else {
                    return Some((Self::Http2, Vec::new()));
                };
                let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
                let mut frame = vec![length[1], length[2], length[3], *kind, *flags, 0, 0, 0, *stream];
                frame.extend_from_slice(payload);
                (Self::Http2, frame)
            }
            _ => {
                let mut frame = Vec::new();
                let sender = if near {
                    websocket::Sender::Server
                } else {
                    websocket::Sender::Client
                };
                let mut writer = websocket::Writer::new(sender);
                let open = writer.begin(&mut frame, bytes.len());
                frame.extend_from_slice(bytes);
                writer.finish(open, &mut frame, &mut ZeroKeys);
                (Self::WebSocket, frame)
            }
        })
    }
}
