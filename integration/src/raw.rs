//! HTTP/2 by hand, for what the `h2` crate can't say or doesn't show: fields in their order, paths
//! that its types refuse, frames out of place. HPACK is the `loona-hpack` crate's.

use std::collections::VecDeque;

use crate::chunking::Chunking;
use crate::end::End;

/// Fields in order, pseudo-header fields among them.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The client's first bytes (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a codec received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// HEADERS with its CONTINUATIONs.
    Headers {
        /// Stream.
        stream: u32,
        /// In order.
        fields: Fields,
        /// END_STREAM.
        end: bool,
    },
    /// DATA.
    Data {
        /// Stream.
        stream: u32,
        /// Without padding.
        bytes: Vec<u8>,
        /// END_STREAM.
        end: bool,
    },
    /// RST_STREAM.
    Reset {
        /// Stream.
        stream: u32,
        /// Error code.
        code: u32,
    },
    /// SETTINGS without ACK.
    Settings(Vec<(u16, u32)>),
    /// SETTINGS with ACK.
    SettingsAck,
    /// PING without ACK.
    Ping([u8; 8]),
    /// PING with ACK.
    PingAck([u8; 8]),
    /// GOAWAY.
    Goaway {
        /// Last stream.
        last: u32,
        /// Error code.
        code: u32,
    },
    /// WINDOW_UPDATE.
    WindowUpdate {
        /// Stream or 0.
        stream: u32,
        /// Increment.
        bytes: u32,
    },
}

/// One frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.push(kind);
    bytes.push(flags);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// SETTINGS.
pub fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in entries {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(4, 0, 0, &payload)
}

/// DATA frames of at most 16 KiB; at least one.
pub fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    if bytes.is_empty() {
        return frame(0, u8::from(end), stream, bytes);
    }
    let mut frames = Vec::new();
    let mut pieces = bytes.chunks(16_384).peekable();
    while let Some(piece) = pieces.next() {
        let last = end && pieces.peek().is_none();
        frames.extend(frame(0, u8::from(last), stream, piece));
    }
    frames
}

/// RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}

/// PING.
pub fn ping(opaque: [u8; 8]) -> Vec<u8> {
    frame(6, 0, 0, &opaque)
}

/// GOAWAY.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// WINDOW_UPDATE.
pub fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(8, 0, stream, &bytes.to_be_bytes())
}

/// One HTTP/2 endpoint: it encodes, decodes, and answers SETTINGS and PING as any codec does.
pub struct Codec {
    encoder: loona_hpack::Encoder<'static>,
    decoder: loona_hpack::Decoder<'static>,
    input: Vec<u8>,
    expects_preface: bool,
    block: Option<(u32, bool, Vec<u8>)>,
    /// What was received and not yet taken.
    pub received: VecDeque<Frame>,
    /// What is to be sent.
    pub output: Vec<u8>,
}

impl Codec {
    /// A client; its preface and settings with large windows are in the output.
    pub fn client() -> Self {
        let mut codec = Self::new(false);
        codec.output.extend_from_slice(PREFACE);
        codec.output.extend(settings(&[(2, 0), (4, 0x7fff_ffff)]));
        codec.output.extend(window_update(0, 0x4000_0000));
        codec
    }

    /// A server; its settings are in the output.
    pub fn server() -> Self {
        let mut codec = Self::new(true);
        codec.output.extend(settings(&[(4, 0x7fff_ffff), (8, 1)]));
        codec.output.extend(window_update(0, 0x4000_0000));
        codec
    }

    /// An endpoint that has said nothing yet.
    pub fn new(expects_preface: bool) -> Self {
        Self {
            encoder: loona_hpack::Encoder::new(),
            decoder: loona_hpack::Decoder::new(),
            input: Vec::new(),
            expects_preface,
            block: None,
            received: VecDeque::new(),
            output: Vec::new(),
        }
    }

    /// HEADERS, with CONTINUATIONs where they are long.
    pub fn headers(&mut self, stream: u32, fields: &Fields, end: bool) {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()));
        let block = self.encoder.encode(fields);
        let mut pieces = block.chunks(16_384).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let last = u8::from(pieces.peek().is_none()) << 2;
            if first {
                self.output.extend(frame(1, last | u8::from(end), stream, piece));
            } else {
                self.output.extend(frame(9, last, stream, piece));
            }
            first = false;
        }
    }

    /// Takes bytes and answers what must be answered.
    ///
    /// # Panics
    /// The bytes are no HTTP/2.
    pub fn input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        if self.expects_preface {
            if self.input.len() < PREFACE.len() {
                assert!(PREFACE.starts_with(&self.input), "a client preface");
                return;
            }
            assert!(self.input.starts_with(PREFACE), "a client preface");
            self.input.drain(..PREFACE.len());
            self.expects_preface = false;
        }
        while self.input.len() >= 9 {
            let length = u32::from_be_bytes([0, self.input[0], self.input[1], self.input[2]]) as usize;
            assert!(length <= 16_384, "a frame of {length} bytes");
            if self.input.len() < 9 + length {
                return;
            }
            let bytes: Vec<u8> = self.input.drain(..9 + length).collect();
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
            self.frame(bytes[3], bytes[4], stream, &bytes[9..]);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let u32_at = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("4 bytes"));
        assert!(
            self.block.is_none() || kind == 9,
            "a frame of type {kind} within a header block"
        );
        let end = flags & 1 != 0;
        match kind {
            0 => {
                assert_eq!(flags & !1, 0, "padding isn't expected");
                // Envoy closes a connection that sends two of them in a row.
                assert!(
                    end || !payload.is_empty(),
                    "an empty DATA frame that ends nothing"
                );
                self.received.push_back(Frame::Data {
                    stream,
                    bytes: payload.to_vec(),
                    end,
                });
            }
            1 => {
                assert_eq!(flags & !5, 0, "padding and priority aren't expected");
                self.block = Some((stream, end, payload.to_vec()));
            }
            3 => self.received.push_back(Frame::Reset {
                stream,
                code: u32_at(0),
            }),
            4 if end => self.received.push_back(Frame::SettingsAck),
            4 => {
                let entries = payload
                    .chunks(6)
                    .map(|entry| {
                        (
                            u16::from_be_bytes([entry[0], entry[1]]),
                            u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]),
                        )
                    })
                    .collect();
                self.received.push_back(Frame::Settings(entries));
                self.output.extend(frame(4, 1, 0, &[]));
            }
            6 => {
                let opaque = payload.try_into().expect("8 bytes");
                if end {
                    self.received.push_back(Frame::PingAck(opaque));
                } else {
                    self.output.extend(frame(6, 1, 0, payload));
                    self.received.push_back(Frame::Ping(opaque));
                }
            }
            7 => self.received.push_back(Frame::Goaway {
                last: u32_at(0),
                code: u32_at(4),
            }),
            8 => self.received.push_back(Frame::WindowUpdate {
                stream,
                bytes: u32_at(0),
            }),
            9 => {
                let block = self.block.as_mut().expect("a header block to continue");
                assert_eq!(block.0, stream, "CONTINUATION of another stream");
                block.2.extend_from_slice(payload);
            }
            other => panic!("a frame of type {other}"),
        }
        if (kind == 1 || kind == 9) && flags & 4 != 0 {
            let (stream, end, block) = self.block.take().expect("a header block");
            let fields = self.decoder.decode(&block).expect("valid HPACK");
            self.received.push_back(Frame::Headers { stream, fields, end });
        }
    }

    /// Takes what was received, without settings, credits and PINGs.
    pub fn take_exchange(&mut self) -> Vec<Frame> {
        self.received
            .drain(..)
            .filter(|frame| {
                matches!(
                    frame,
                    Frame::Headers { .. } | Frame::Data { .. } | Frame::Reset { .. } | Frame::Goaway { .. }
                )
            })
            .collect()
    }
}

/// Client codec, near end, far end, server codec; bytes move when [`Line::settle`] is called.
pub struct Line<N, F> {
    /// Client.
    pub client: Codec,
    /// Near end.
    pub near: N,
    /// Far end.
    pub far: F,
    /// Server.
    pub server: Codec,
    /// For each of the four streams of bytes.
    pub chunkings: [Chunking; 4],
    /// What crossed.
    pub traffic: crate::pair::Traffic,
}

impl<N: End, F: End> Line<N, F> {
    /// Joins the four; nothing has moved yet.
    pub fn new(client: Codec, near: N, far: F, server: Codec, chunking: &Chunking) -> Self {
        Self {
            client,
            near,
            far,
            server,
            chunkings: std::array::from_fn(|_| chunking.clone()),
            traffic: crate::pair::Traffic::default(),
        }
    }

    /// A pair whose settings are exchanged.
    pub fn connect(near: N, far: F, chunking: &Chunking) -> Self {
        let mut line = Self::new(Codec::client(), near, far, Codec::server(), chunking);
        line.settle();
        line
    }

    /// Moves bytes till none move any more.
    ///
    /// # Panics
    /// They never stop.
    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            if self.client.output.is_empty() && self.server.output.is_empty() {
                return;
            }
            self.carry_up();
            self.carry_down();
        }
        panic!("the line never comes to rest");
    }

    fn carry_up(&mut self) {
        let output = std::mem::take(&mut self.client.output);
        let (mut websocket, mut http2) = (Vec::new(), Vec::new());
        self.traffic.client_http2.extend_from_slice(&output);
        for piece in self.chunkings[0].cut(&output) {
            websocket.clear();
            self.near.http2_input(piece, &mut websocket);
            self.traffic.near_websocket.extend_from_slice(&websocket);
            for piece in self.chunkings[1].cut(&websocket) {
                http2.clear();
                self.far.websocket_input(piece, &mut http2);
                self.traffic.far_http2.extend_from_slice(&http2);
                self.server.input(&http2);
            }
        }
    }

    fn carry_down(&mut self) {
        let output = std::mem::take(&mut self.server.output);
        let (mut websocket, mut http2) = (Vec::new(), Vec::new());
        self.traffic.server_http2.extend_from_slice(&output);
        for piece in self.chunkings[2].cut(&output) {
            websocket.clear();
            self.far.http2_input(piece, &mut websocket);
            self.traffic.far_websocket.extend_from_slice(&websocket);
            for piece in self.chunkings[3].cut(&websocket) {
                http2.clear();
                self.near.websocket_input(piece, &mut http2);
                self.traffic.near_http2.extend_from_slice(&http2);
                self.client.input(&http2);
            }
        }
    }
}
