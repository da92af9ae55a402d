//! One end of a tunnel between a codec and a peer that a test plays.
#![allow(dead_code)]

use std::sync::Arc;

use wsferry::Error;
use wsferry::config::{Config, FieldPolicy, Limits};
use wsferry::converter::{Converter, MaskKeys};
use wsferry::message::{Http2Id, Message, WireId};
use wsferry::{cbor, http2, websocket};

use crate::owned::Owned;

pub struct NoKeys;
impl MaskKeys for NoKeys {
    fn next_key(&mut self) -> [u8; 4] {
        [0; 4]
    }
}

/// One converter; its codec and its peer are played by this crate's own readers and writers.
pub struct End {
    pub converter: Converter,
    codec: http2::Writer,
    codec_reader: http2::Reader,
    peer: cbor::Encoder,
    peer_writer: websocket::Writer,
    peer_reader: websocket::Reader,
    peer_decoder: cbor::Decoder,
}

/// What the peer reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Message(Owned),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

pub fn request(stream: u32, end: bool) -> Owned {
    Owned::Request {
        stream,
        end,
        method: b"GET".to_vec(),
        scheme: b"http".to_vec(),
        authority: b"a".to_vec(),
        path: b"/".to_vec(),
        protocol: None,
        fields: vec![],
    }
}
pub fn response(stream: u32, end: bool) -> Owned {
    Owned::Response {
        stream,
        end,
        status: 200,
        fields: vec![],
    }
}
pub fn data(stream: u32, end: bool, payload: &[u8]) -> Owned {
    Owned::Data {
        stream,
        end,
        payload: payload.to_vec(),
    }
}

impl End {
    pub fn new(json: &str) -> Self {
        let near = json.contains("near");
        let config = Arc::new(Config::parse(json.as_bytes()).unwrap());
        let (codec, ours) = match near {
            true => (http2::Sender::Client, http2::Sender::Server),
            false => (http2::Sender::Server, http2::Sender::Client),
        };
        let (peer, sent) = match near {
            true => (websocket::Sender::Server, websocket::Sender::Client),
            false => (websocket::Sender::Client, websocket::Sender::Server),
        };
        Self {
            converter: Converter::new(&config),
            codec: http2::Writer::new(codec),
            codec_reader: http2::Reader::new(ours, &Limits::default()),
            peer: cbor::Encoder::new(&Arc::new(FieldPolicy::default())),
            peer_writer: websocket::Writer::new(peer),
            peer_reader: websocket::Reader::new(sent, 1 << 20),
            peer_decoder: cbor::Decoder::new(&Limits::default()),
        }
    }
    pub fn codec_bytes(&mut self, messages: &[Owned]) -> Vec<u8> {
        let mut all = Vec::new();
        for m in messages {
            // a frame for each: nothing is joined
            let mut bytes = Vec::new();
            m.lend(|m: &Message<'_, Http2Id>| self.codec.message(m, &mut bytes));
            all.extend(bytes);
        }
        all
    }
    /// From the codec; what goes out over the WebSocket.
    pub fn codec(&mut self, messages: &[Owned]) -> Vec<u8> {
        let bytes = self.codec_bytes(messages);
        self.http2(&bytes)
    }
    pub fn http2(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.converter.http2_input(bytes, &mut NoKeys);
        let mut out = Vec::new();
        self.converter.take_websocket_output(&mut out);
        out
    }
    /// From the codec; what the peer reads. A test that uses this reads all of it so.
    pub fn sent(&mut self, messages: &[Owned]) -> Vec<Sent> {
        let bytes = self.codec_bytes(messages);
        let mut out = self.http2(&bytes);
        self.read(&mut out)
    }
    pub fn read(&mut self, out: &mut [u8]) -> Vec<Sent> {
        let (mut position, mut found) = (0, vec![]);
        while let Some(event) = self.peer_reader.next(out, &mut position).unwrap() {
            match event {
                websocket::Event::Payload(range) => {
                    let mut payload = &out[range];
                    while let Some(m) = self.peer_decoder.next(&mut payload).unwrap() {
                        found.push(Sent::Message(Owned::from(&m)));
                    }
                }
                websocket::Event::MessageEnd => {}
                websocket::Event::Ping(payload) => found.push(Sent::Ping(payload.to_vec())),
                websocket::Event::Pong(payload) => found.push(Sent::Pong(payload.to_vec())),
                websocket::Event::Close { code, .. } => {
                    found.push(Sent::Close(code));
                    break;
                }
            }
        }
        found
    }
    pub fn codec_ping(&mut self, opaque: [u8; 8]) -> Vec<u8> {
        let mut bytes = vec![];
        self.codec.ping(opaque, &mut bytes);
        self.http2(&bytes)
    }
    /// The one that asked it for a turn.
    pub fn codec_answers_ping(&mut self) -> Vec<Sent> {
        let mut bytes = vec![];
        self.codec.ping_ack(*b"wsferry\0", &mut bytes);
        let mut out = self.http2(&bytes);
        self.read(&mut out)
    }
    pub fn pong(&mut self, payload: &[u8]) -> Vec<Owned> {
        let mut bytes = vec![];
        self.peer_writer.pong(payload, &mut bytes, &mut NoKeys);
        self.websocket(&mut bytes)
    }
    /// From the peer; what the codec gets.
    pub fn peer(&mut self, messages: &[Owned]) -> Vec<Owned> {
        let mut bytes = self.peer_bytes(messages);
        self.websocket(&mut bytes)
    }
    pub fn peer_bytes(&mut self, messages: &[Owned]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let open = self.peer_writer.begin(&mut bytes, 0);
        for m in messages {
            m.lend(|m: &Message<'_, WireId>| self.peer.encode(m, &mut bytes));
        }
        self.peer_writer.finish(open, &mut bytes, &mut NoKeys);
        bytes
    }
    pub fn websocket(&mut self, bytes: &mut [u8]) -> Vec<Owned> {
        self.converter.websocket_input(bytes, &mut NoKeys);
        let mut out = Vec::new();
        self.converter.take_http2_output(&mut out);
        let mut input = out.as_slice();
        let mut found = vec![];
        while let Some(event) = self.codec_reader.next(&mut input).unwrap() {
            found.push(match event {
                http2::Event::Message(m) => Owned::from(&m),
                http2::Event::Ping(p) => Owned::Ping(p),
                http2::Event::PingAck(p) => Owned::PingAck(p),
                other => panic!("{other:?}"),
            });
        }
        found
    }
    pub fn close_frame(&mut self, code: u16) -> Vec<u8> {
        let mut bytes = vec![];
        self.peer_writer.close(Some(code), "", &mut bytes, &mut NoKeys);
        bytes
    }
}

pub fn settings() -> Owned {
    Owned::Settings(vec![])
}

pub const NEAR: &str = r#"{"role": "near"}"#;
pub const FAR: &str = r#"{"role": "far"}"#;

pub fn credit(stream: Option<u32>, bytes: u32) -> Owned {
    Owned::Credit { stream, bytes }
}

pub fn goaway(last: Option<u32>, code: u32) -> Owned {
    Owned::Goaway { last, code }
}

pub fn closed_by(end: &End) -> Option<Error> {
    end.converter.closed().and_then(|closed| closed.error)
}

/// A near end with the settings of both sides behind it.
pub fn near() -> End {
    let mut near = End::new(NEAR);
    near.sent(&[settings()]);
    near.peer(&[settings(), Owned::Ack]);
    near.sent(&[Owned::Ack]);
    near
}

/// A far end with the settings of both sides behind it, and these requests open.
pub fn far(requests: u32) -> End {
    let mut far = End::new(FAR);
    far.peer(&[settings()]);
    far.sent(&[settings(), Owned::Ack]);
    far.peer(&[Owned::Ack]);
    for stream in 0..requests {
        far.peer(&[request(stream, true)]);
    }
    far
}
