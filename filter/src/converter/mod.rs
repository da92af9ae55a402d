//! Joins the HTTP/2 connection of the local codec and the WebSocket connection to the other end.
//!
//! Streams, windows and settings are end to end: two real HTTP/2 codecs hold them, one in each Envoy,
//! and the converters between translate. What a converter keeps beyond that is what a translator
//! needs: which stream is which, whether the other end keeps to the rules, and what must be said
//! "the other way".
//!
//! # The other way
//!
//! Envoy lets a filter change bytes that pass, in the direction in which they pass. An answer (a Pong,
//! a Close, a refusal) goes in the opposite direction and has to wait for bytes to pass there. The
//! converter makes sure that some do, by an **echo**: it puts an HTTP/2 PING into the bytes for the
//! local codec, which answers at once, or a WebSocket Ping into those for the other end.

mod header_size;
mod http2_side;
mod joint;
mod prelude;
mod streams;
mod websocket_side;

use std::sync::Arc;

use crate::cbor;
use crate::config::{Config, Role};
use crate::error::{Error, close_code};
use crate::http2;
use crate::message::Message;
use crate::websocket;
pub use crate::websocket::MaskKeys;

use joint::Joint;

/// What may wait for its chance in the other direction, bytes. More is answers that a peer provokes
/// faster than they can be sent.
const MAX_WAITING: usize = 64 * 1024;

/// What one input may become, bytes: references of a few bytes can stand for lists of 96 KiB. A WebAssembly VM that has no
/// memory left ends, and with it all connections of its thread.
const MAX_OUTPUT: usize = 64 << 20;

/// Both directions of one connection. Order of calls, for each chunk that arrives on either side:
/// one of the inputs, then [`Converter::take_websocket_output`] after `http2_input` or
/// [`Converter::take_http2_output`] after `websocket_input`. What one input has to say the other
/// way stays in the other output until that side's next call; the converter sees to it that there
/// is one (it sends a PING and waits for the answer).
///
/// No call fails: what was wrong is in [`Converter::closed`], and later input is ignored.
pub struct Converter {
    http2_reader: http2::Reader,
    websocket_reader: websocket::Reader,
    decoder: cbor::Decoder,
    joint: Joint,
}

/// Why and by whom a WebSocket was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Close code sent or received. Where there was no Close: [`close_code::GOING_AWAY`] if `goaway` was said and no
    /// stream was open, else [`close_code::ABNORMAL`]. Where Close had no code: [`close_code::NO_STATUS`].
    pub code: u16,
    /// Who closed first.
    pub by: Closer,
    /// What was wrong with the bytes, where that is the reason.
    pub error: Option<Error>,
    /// What the other end says was wrong: the reason of its Close, where that is one of this protocol's.
    pub told: Option<Error>,
}

/// Who closed a WebSocket first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// This end.
    ThisEnd,
    /// The other end, with a Close frame.
    OtherEnd,
    /// Nobody: it ended without a Close frame.
    Nobody,
}

/// What happened since the counts were last taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// WebSocket data messages received.
    pub messages_in: u64,
    /// WebSocket data messages sent.
    pub messages_out: u64,
    /// WebSocket bytes received, frame headers included.
    pub websocket_bytes_in: u64,
    /// WebSocket bytes sent, frame headers included.
    pub websocket_bytes_out: u64,
    /// Streams opened.
    pub streams_opened: u64,
    /// Streams reset by either end.
    pub streams_reset: u64,
    /// Header lists sent: bytes of names and values before encoding.
    pub header_bytes_before: u64,
    /// The same header lists, bytes of their CBOR messages.
    pub header_bytes_after: u64,
    /// Streams that [`Error::Http2Malformed`] reset.
    pub streams_malformed: u64,
    /// Streams that [`Error::Http2HeaderListTooBig`] reset.
    pub streams_header_list_too_big: u64,
}

impl Converter {
    /// A converter before its first byte; the WebSocket handshake is done.
    pub fn new(config: &Arc<Config>) -> Self {
        let limits = &config.limits;
        let codec = match config.role == config.requests_from {
            true => http2::Sender::Client,
            false => http2::Sender::Server,
        };
        let (peer, writer) = match config.role {
            Role::Near => (websocket::Sender::Server, websocket::Sender::Client),
            Role::Far => (websocket::Sender::Client, websocket::Sender::Server),
        };
        Self {
            http2_reader: http2::Reader::new(codec, limits),
            websocket_reader: websocket::Reader::new(peer, limits.max_message_bytes),
            decoder: cbor::Decoder::new(limits),
            joint: Joint::new(config, codec, writer),
        }
    }

    /// Takes bytes from the local HTTP/2 codec.
    pub fn http2_input(&mut self, input: &[u8], mask_keys: &mut dyn MaskKeys) {
        if self.joint.closed.is_none() {
            self.joint.websocket.begin(input.len());
            self.joint.return_stray_bytes(mask_keys);
            let result = self.convert_http2(input, mask_keys);
            self.joint.websocket.finish(mask_keys, &mut self.joint.counts);
            if let Err(error) = result {
                self.joint.fail(error);
            } else if self.joint.http2.waiting() > MAX_WAITING {
                self.joint.fail(Error::Http2Protocol);
            } else if self.joint.http2.waiting() > 0 {
                self.joint.websocket.request_echo(mask_keys);
            }
        }
        self.joint.websocket.flush_answers(mask_keys);
        self.joint.websocket.hold();
    }

    fn convert_http2(&mut self, input: &[u8], mask_keys: &mut dyn MaskKeys) -> Result<(), Error> {
        let Some(prelude) = &mut self.joint.prelude else {
            return self.convert_frames(input, mask_keys);
        };
        let part = prelude.take(input)?;
        self.joint.outgoing(Message::Raw(&part.raw), mask_keys)?;
        let Some(frames) = part.http2 else {
            return Ok(());
        };
        self.joint.prelude = None;
        self.convert_frames(&frames, mask_keys)
    }

    fn convert_frames(&mut self, mut input: &[u8], mask_keys: &mut dyn MaskKeys) -> Result<(), Error> {
        while let Some(event) = self.http2_reader.next(&mut input)? {
            if self.joint.websocket.waiting() > MAX_OUTPUT {
                return Err(Error::ExcessiveLoad);
            }
            match event {
                http2::Event::Message(message) => self.joint.outgoing(message, mask_keys)?,
                http2::Event::Ping(opaque) => {
                    self.joint
                        .websocket
                        .forward_ping(opaque, mask_keys, &mut self.joint.counts);
                }
                http2::Event::PingAck(_) => self.joint.http2.echo_returned(),
                http2::Event::Padding { stream, bytes } => self.joint.http2.give_back(Some(stream), bytes),
                http2::Event::Malformed { stream, error } => {
                    self.joint.refuse_outgoing(stream, error, mask_keys);
                }
            }
        }
        Ok(())
    }

    /// Takes bytes from the WebSocket, unmasking them in place.
    pub fn websocket_input(&mut self, input: &mut [u8], mask_keys: &mut dyn MaskKeys) {
        let joint = &mut self.joint;
        joint.counts.websocket_bytes_in = joint.counts.websocket_bytes_in.wrapping_add(length(input));
        if self.joint.closed.is_some() {
            // Until this end's Close frame is on its way, nothing that comes can be the answer to it.
            if self.joint.codec == http2::Sender::Server || self.joint.websocket.close_taken() {
                self.joint.no_more_comes();
            }
            return;
        }
        self.joint.http2.reserve_for(input.len());
        if let Err(error) = self.convert_websocket(input, mask_keys) {
            self.joint.fail(error);
        }
        if self.joint.websocket.answers_waiting() > MAX_WAITING {
            self.joint.fail(Error::ExcessiveLoad);
        } else if (self.joint.websocket.waiting() > 0 || self.joint.stray_bytes > 0) && self.joint.has_http2()
        {
            self.joint.http2.request_echo();
        }
    }

    fn convert_websocket(&mut self, input: &mut [u8], mask_keys: &mut dyn MaskKeys) -> Result<(), Error> {
        let mut position = 0;
        while let Some(event) = self.websocket_reader.next(input, &mut position)? {
            match event {
                websocket::Event::Payload(range) => {
                    let mut payload = input.get(range).unwrap_or_default();
                    while let Some(message) = self.decoder.next(&mut payload)? {
                        if self.joint.http2.waiting() > MAX_OUTPUT {
                            return Err(Error::ExcessiveLoad);
                        }
                        self.joint.incoming(message, mask_keys)?;
                    }
                }
                websocket::Event::MessageEnd => {
                    self.decoder.end_of_message()?;
                    self.joint.counts.messages_in = self.joint.counts.messages_in.wrapping_add(1);
                }
                websocket::Event::Ping(payload) => self.joint.websocket.answer_ping(payload),
                websocket::Event::Pong(payload) => {
                    for opaque in self.joint.websocket.pong_received(&payload) {
                        self.joint.http2.ping_ack(opaque);
                    }
                }
                websocket::Event::Close { code, reason } => {
                    self.joint.closed_by_peer(code, &reason);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Begins the HTTP/2 output by settings, if it has none yet, so that the local codec has something to answer at
    /// once: what waits for the other end can then go. For a handshake that completes while bytes pass towards the codec.
    pub fn begin(&mut self) {
        self.joint.http2.begin();
    }

    /// There will be no WebSocket: the local codec is told that nothing of its requests has been sent (RFC 9113 §8.7).
    /// Near end only; later input is ignored.
    pub fn refuse(&mut self) {
        self.joint.refuse();
    }

    /// The local codec has ended its direction; a Close frame joins the WebSocket output.
    pub fn http2_end(&mut self, mask_keys: &mut dyn MaskKeys) {
        self.joint.codec_gone = true;
        if self.joint.closed.is_none() {
            let code = match self.joint.codec {
                http2::Sender::Client if !self.joint.is_going_away() => close_code::NORMAL,
                http2::Sender::Client | http2::Sender::Server => close_code::GOING_AWAY,
            };
            self.joint.closed = Some(Closed {
                code,
                by: Closer::ThisEnd,
                error: None,
                told: None,
            });
            self.joint.websocket.request_close(Some(code), "");
        }
        self.joint.websocket.flush_answers(mask_keys);
    }

    /// The other end has ended its direction, with or without Close.
    pub fn websocket_end(&mut self) {
        self.joint.websocket_end();
    }

    /// Lends memory for what the next call of [`Converter::http2_input`] becomes, until [`Converter::take_websocket_output`];
    /// what `memory` holds is dropped. Nothing that isn't under way keeps memory, so that many converters need little.
    pub fn lend_websocket_output(&mut self, memory: Vec<u8>) {
        self.joint.websocket.lend(memory);
    }

    /// The same for [`Converter::websocket_input`], until [`Converter::take_http2_output`].
    pub fn lend_http2_output(&mut self, memory: Vec<u8>) {
        self.joint.http2.lend(memory);
    }

    /// Moves what is to be sent to the local codec into `out`, with its memory. Nothing to one that has hung up.
    pub fn take_http2_output(&mut self, out: &mut Vec<u8>) {
        self.joint.http2.take(out);
        if self.joint.codec_gone {
            out.clear();
        }
    }

    /// Moves what is to be sent over the WebSocket into `out`, with its memory.
    pub fn take_websocket_output(&mut self, out: &mut Vec<u8>) {
        self.joint.websocket.take(out);
        let counts = &mut self.joint.counts;
        counts.websocket_bytes_out = counts.websocket_bytes_out.wrapping_add(length(out));
    }

    /// Set once either side has closed: no more messages will be converted.
    pub fn closed(&self) -> Option<Closed> {
        self.joint.closed
    }

    /// Whether either side has said `goaway`, and not because of an error: new requests need another WebSocket.
    pub fn is_going_away(&self) -> bool {
        self.joint.is_going_away()
    }

    /// Bytes of WebSocket output that wait to be taken.
    pub fn websocket_waiting(&self) -> usize {
        self.joint.websocket.waiting()
    }

    /// Whether the Close frame of this side has been taken from the WebSocket output; after it, the
    /// stream can be ended.
    pub fn close_sent(&self) -> bool {
        self.joint.websocket.close_taken()
    }

    /// Streams that are open now.
    pub fn open_streams(&self) -> usize {
        self.joint.streams.len()
    }

    /// Whether the local codec is one that makes requests and hasn't begun: it can't be made to say something, in whose
    /// place a Close frame could go.
    pub fn is_before_client(&self) -> bool {
        self.joint.is_before_client()
    }

    /// Streams that were open when the connection ended, whoever ended it.
    pub fn cut_off(&self) -> usize {
        self.joint.cut_off
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.joint.counts)
    }
}

/// Has what waits in `out` wait in `memory`.
fn lend(out: &mut Vec<u8>, mut memory: Vec<u8>) {
    memory.clear();
    memory.extend_from_slice(out);
    *out = memory;
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
