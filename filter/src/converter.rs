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

mod http2_side;
mod streams;
mod websocket_side;

use std::sync::Arc;

use crate::cbor;
use crate::config::{Config, Role};
use crate::error::{Error, close_code, http2_code};
use crate::http2;
use crate::message::{Fields, Http2Id, Message, RequestHead, Settings, WireId};
use crate::websocket;
pub use crate::websocket::MaskKeys;

use http2_side::Http2Side;
use streams::{Step, Streams};
use websocket_side::WebSocketSide;

/// What may wait for its chance in the other direction, bytes. More is answers that a peer provokes
/// faster than they can be sent.
const MAX_WAITING: usize = 64 * 1024;

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
    /// Close code sent or received; [`close_code::NO_STATUS`] or [`close_code::ABNORMAL`] where there
    /// was none.
    pub code: u16,
    /// The other end closed first.
    pub by_peer: bool,
    /// What was wrong with the bytes, where that is the reason.
    pub error: Option<Error>,
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
}

/// What both directions share: everything but the readers, from which messages are borrowed.
struct Joint {
    role: Role,
    max_header_list_bytes: u32,
    streams: Streams,
    http2: Http2Side,
    websocket: WebSocketSide,
    /// Data for streams that are gone, to be given back to the other end's connection window, bytes.
    stray_bytes: u32,
    closed: Option<Closed>,
    counts: Counts,
}

impl Converter {
    /// A converter before its first byte; the WebSocket handshake is done.
    pub fn new(config: &Arc<Config>) -> Self {
        let limits = &config.limits;
        let (codec, this) = match config.role {
            Role::Near => (http2::Sender::Client, http2::Sender::Server),
            Role::Far => (http2::Sender::Server, http2::Sender::Client),
        };
        let (peer, writer) = match config.role {
            Role::Near => (websocket::Sender::Server, websocket::Sender::Client),
            Role::Far => (websocket::Sender::Client, websocket::Sender::Server),
        };
        Self {
            http2_reader: http2::Reader::new(codec, limits),
            websocket_reader: websocket::Reader::new(peer, limits.max_message_bytes),
            decoder: cbor::Decoder::new(limits),
            joint: Joint {
                role: config.role,
                max_header_list_bytes: u32::try_from(limits.max_header_list_bytes).unwrap_or(u32::MAX),
                streams: Streams::new(limits.max_streams),
                http2: Http2Side::new(this),
                websocket: WebSocketSide::new(writer, cbor::Encoder::new(&config.field_policy)),
                stray_bytes: 0,
                closed: None,
                counts: Counts::default(),
            },
        }
    }

    /// Takes bytes from the local HTTP/2 codec.
    pub fn http2_input(&mut self, input: &[u8], mask_keys: &mut dyn MaskKeys) {
        if self.joint.closed.is_none() {
            self.joint.websocket.begin(input.len());
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
    }

    fn convert_http2(&mut self, mut input: &[u8], mask_keys: &mut dyn MaskKeys) -> Result<(), Error> {
        while let Some(event) = self.http2_reader.next(&mut input)? {
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
                    self.joint.refuse_outgoing(stream, error.codes().http2, mask_keys);
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
            return self.joint.reset_streams();
        }
        if let Err(error) = self.convert_websocket(input, mask_keys) {
            self.joint.fail(error);
        }
        self.joint.return_stray_bytes(mask_keys);
        if self.joint.websocket.waiting() > MAX_WAITING {
            self.joint.fail(Error::ExcessiveLoad);
        } else if self.joint.websocket.waiting() > 0 {
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
                websocket::Event::Close { code, .. } => {
                    self.joint.closed_by_peer(code);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The local codec has ended its direction; a Close frame joins the WebSocket output.
    pub fn http2_end(&mut self, mask_keys: &mut dyn MaskKeys) {
        if self.joint.closed.is_none() {
            let code = match self.joint.role {
                Role::Near => close_code::NORMAL,
                Role::Far => close_code::GOING_AWAY,
            };
            self.joint.closed = Some(Closed {
                code,
                by_peer: false,
                error: None,
            });
            self.joint.websocket.request_close(Some(code), "");
        }
        self.joint.websocket.flush_answers(mask_keys);
    }

    /// The other end has ended its direction, with or without Close.
    pub fn websocket_end(&mut self) {
        let abnormal = Closed {
            code: close_code::ABNORMAL,
            by_peer: true,
            error: None,
        };
        self.joint.closed.get_or_insert(abnormal);
        self.joint.reset_streams();
    }

    /// Moves what is to be sent to the local codec into `out`, which is cleared first.
    pub fn take_http2_output(&mut self, out: &mut Vec<u8>) {
        self.joint.http2.take(out);
    }

    /// Moves what is to be sent over the WebSocket into `out`, which is cleared first.
    pub fn take_websocket_output(&mut self, out: &mut Vec<u8>) {
        self.joint.websocket.take(out);
        let counts = &mut self.joint.counts;
        counts.websocket_bytes_out = counts.websocket_bytes_out.wrapping_add(length(out));
    }

    /// Set once either side has closed: no more messages will be converted.
    pub fn closed(&self) -> Option<Closed> {
        self.joint.closed
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

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.joint.counts)
    }
}

impl Joint {
    /// From the local codec to the WebSocket.
    fn outgoing(&mut self, message: Message<'_, Http2Id>, keys: &mut dyn MaskKeys) -> Result<(), Error> {
        match message {
            Message::Request { stream, end, head } => self.outgoing_request(stream, end, head, keys),
            Message::Response {
                stream, end, status, ..
            } => self.outgoing_step(
                stream,
                Step::Head {
                    last: status >= 200,
                    end,
                },
                message,
                keys,
            ),
            Message::Data { stream, end, payload } => {
                match self.streams.wire_of(stream) {
                    Some(wire) => self.streams.send_data(wire, payload.len()),
                    None => self
                        .http2
                        .give_back(None, u32::try_from(payload.len()).unwrap_or(u32::MAX)),
                }
                self.outgoing_step(stream, Step::Data { end }, message, keys)
            }
            Message::Trailers { stream, .. } => self.outgoing_step(stream, Step::Trailers, message, keys),
            Message::Reset { stream, .. } => {
                let Some(wire) = self.outgoing_stream(stream)? else {
                    return Ok(());
                };
                self.streams.remove(wire);
                self.count_reset();
                self.send(message.with_stream(|_| wire), keys);
                Ok(())
            }
            Message::Credit { stream: None, bytes } => {
                self.streams.grant(None, bytes);
                self.send(Message::Credit { stream: None, bytes }, keys);
                Ok(())
            }
            Message::Credit {
                stream: Some(stream),
                bytes,
            } => {
                let Some(wire) = self.outgoing_stream(stream)? else {
                    return Ok(());
                };
                self.streams.grant(Some(wire), bytes);
                self.send(
                    Message::Credit {
                        stream: Some(wire),
                        bytes,
                    },
                    keys,
                );
                Ok(())
            }
            Message::Settings(settings) => self.outgoing_settings(settings, keys),
            Message::Ack => {
                if self.http2.settings_acknowledged()? {
                    self.send(Message::Ack, keys);
                }
                Ok(())
            }
            Message::Goaway { last, code } => {
                let last = last.map(|last| self.streams.last_for_wire(last));
                self.send(Message::Goaway { last, code }, keys);
                Ok(())
            }
        }
    }

    fn outgoing_request(
        &mut self,
        http2: Http2Id,
        end: bool,
        head: RequestHead<'_>,
        keys: &mut dyn MaskKeys,
    ) -> Result<(), Error> {
        if self.role == Role::Far {
            return Err(Error::Http2Protocol);
        }
        if !self.streams.has_room() {
            self.streams.skip_http2(http2);
            self.http2.send(&Message::Reset {
                stream: http2,
                code: http2_code::REFUSED_STREAM,
            });
            return Ok(());
        }
        let stream = self.streams.open_outgoing(http2, end)?;
        self.counts.streams_opened = self.counts.streams_opened.wrapping_add(1);
        self.send(Message::Request { stream, end, head }, keys);
        Ok(())
    }

    /// Sends a message that moves its stream on, and forgets the stream if that was its last.
    fn outgoing_step(
        &mut self,
        http2: Http2Id,
        step: Step,
        message: Message<'_, Http2Id>,
        keys: &mut dyn MaskKeys,
    ) -> Result<(), Error> {
        let Some(wire) = self.outgoing_stream(http2)? else {
            return Ok(());
        };
        if let Some(stream) = self.streams.get_mut(wire) {
            stream.outgoing = stream.outgoing.after(step).map_err(|_| Error::Http2Protocol)?;
            if stream.is_done() {
                self.streams.remove(wire);
            }
        }
        self.send(message.with_stream(|_| wire), keys);
        Ok(())
    }

    /// The wire identifier of an open stream; `None` for one that is gone, whose late frames are
    /// dropped (RFC 9113 §5.1, "closed").
    fn outgoing_stream(&self, http2: Http2Id) -> Result<Option<WireId>, Error> {
        match self.streams.wire_of(http2) {
            Some(wire) => Ok(Some(wire)),
            None if self.streams.was_opened_by_http2(http2) => Ok(None),
            None => Err(Error::Http2Protocol),
        }
    }

    /// The codec's settings: those of one hop stay here (RFC 9113 §6.5.2, 1 and 5).
    fn outgoing_settings(&mut self, settings: &Settings, keys: &mut dyn MaskKeys) -> Result<(), Error> {
        self.http2.apply_settings(settings);
        let initial = settings.get(Settings::INITIAL_WINDOW_SIZE);
        // A larger window counts at once, a smaller one when the other end knows of it.
        if let Some(bytes) = initial.filter(|bytes| i64::from(*bytes) > self.streams.receive_initial()) {
            self.streams.set_receive_initial(bytes);
        }
        self.websocket.await_ack(initial)?;
        let mut end_to_end = settings.clone();
        end_to_end.remove(Settings::HEADER_TABLE_SIZE);
        end_to_end.remove(Settings::MAX_FRAME_SIZE);
        let own = self.max_header_list_bytes;
        let least = settings
            .get(Settings::MAX_HEADER_LIST_SIZE)
            .map_or(own, |codec| codec.min(own));
        end_to_end.set(Settings::MAX_HEADER_LIST_SIZE, least);
        self.send(Message::Settings(&end_to_end), keys);
        Ok(())
    }

    /// A stream whose message from the codec can't be passed on.
    fn refuse_outgoing(&mut self, http2: Http2Id, code: u32, keys: &mut dyn MaskKeys) {
        self.http2.send(&Message::Reset { stream: http2, code });
        match self.streams.wire_of(http2) {
            Some(wire) => {
                self.streams.remove(wire);
                self.count_reset();
                self.send(Message::Reset { stream: wire, code }, keys);
            }
            None => self.streams.skip_http2(http2),
        }
    }

    /// From the WebSocket to the local codec.
    fn incoming(&mut self, message: Message<'_, WireId>, keys: &mut dyn MaskKeys) -> Result<(), Error> {
        match message {
            Message::Request { stream, end, head } => self.incoming_request(stream, end, head, keys),
            Message::Response {
                stream, end, status, ..
            } => self.incoming_step(
                stream,
                Step::Head {
                    last: status >= 200,
                    end,
                },
                message,
            ),
            Message::Data { stream, end, payload } => self.incoming_data(stream, end, payload),
            Message::Trailers { stream, .. } => self.incoming_step(stream, Step::Trailers, message),
            Message::Reset { stream, code } => {
                let Some(http2) = self.incoming_stream(stream)? else {
                    return Ok(());
                };
                self.streams.remove(stream);
                self.count_reset();
                self.http2.send(&Message::Reset { stream: http2, code });
                Ok(())
            }
            Message::Credit { stream, bytes } => {
                let http2 = match stream {
                    None => None,
                    Some(stream) => match self.incoming_stream(stream)? {
                        None => return Ok(()),
                        open => open,
                    },
                };
                self.streams.granted(stream, bytes)?;
                self.http2.send(&Message::Credit { stream: http2, bytes });
                Ok(())
            }
            Message::Settings(settings) => self.incoming_settings(settings),
            Message::Ack => {
                if let Some(bytes) = self.websocket.acknowledged() {
                    self.streams.set_receive_initial(bytes);
                }
                self.http2.send(&Message::Ack);
                Ok(())
            }
            Message::Goaway { last, code } => {
                let last = last.map(|last| self.streams.last_for_http2(last));
                self.http2.send(&Message::Goaway { last, code });
                Ok(())
            }
        }
    }

    fn incoming_request(
        &mut self,
        wire: WireId,
        end: bool,
        head: RequestHead<'_>,
        keys: &mut dyn MaskKeys,
    ) -> Result<(), Error> {
        if self.role == Role::Near {
            return Err(Error::StreamState);
        }
        if !self.streams.has_room() {
            self.streams.skip_wire(wire)?;
            self.send_alone(
                Message::Reset {
                    stream: wire,
                    code: http2_code::REFUSED_STREAM,
                },
                keys,
            );
            return Ok(());
        }
        let stream = self.streams.open_incoming(wire, end)?;
        self.counts.streams_opened = self.counts.streams_opened.wrapping_add(1);
        self.http2.send(&Message::Request { stream, end, head });
        Ok(())
    }

    fn incoming_data(&mut self, wire: WireId, end: bool, payload: &[u8]) -> Result<(), Error> {
        let open = self.incoming_stream(wire)?;
        self.streams.receive_data(open.map(|_| wire), payload.len())?;
        if open.is_none() {
            let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            self.stray_bytes = self.stray_bytes.saturating_add(bytes);
        }
        self.incoming_step(
            wire,
            Step::Data { end },
            Message::Data {
                stream: wire,
                end,
                payload,
            },
        )
    }

    fn incoming_step(&mut self, wire: WireId, step: Step, message: Message<'_, WireId>) -> Result<(), Error> {
        let Some(http2) = self.incoming_stream(wire)? else {
            return Ok(());
        };
        if let Some(stream) = self.streams.get_mut(wire) {
            stream.incoming = stream.incoming.after(step)?;
            if stream.is_done() {
                self.streams.remove(wire);
            }
        }
        self.http2.send(&message.with_stream(|_| http2));
        Ok(())
    }

    /// The codec's identifier of an open stream; `None` for one that is gone, whose messages may
    /// still have been under way.
    fn incoming_stream(&self, wire: WireId) -> Result<Option<Http2Id>, Error> {
        match self.streams.http2_of(wire) {
            Some(http2) => Ok(Some(http2)),
            None if self.streams.was_opened_by_wire(wire) => Ok(None),
            None => Err(Error::UnknownStream),
        }
    }

    /// The other end's settings, without what is of one hop or of a later version.
    fn incoming_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        let mut end_to_end = Settings::new();
        for (id, value) in settings.iter().filter(|(id, _)| *id < 256) {
            let most = match id {
                Settings::HEADER_TABLE_SIZE | Settings::MAX_FRAME_SIZE => continue,
                Settings::ENABLE_PUSH | Settings::ENABLE_CONNECT_PROTOCOL => 1,
                Settings::INITIAL_WINDOW_SIZE => 0x7fff_ffff,
                _ => u32::MAX,
            };
            if value > most {
                return Err(Error::InvalidSetting);
            }
            end_to_end.set(id, value);
        }
        self.streams.apply_peer_settings(&end_to_end)?;
        let own = self.max_header_list_bytes;
        let least = end_to_end
            .get(Settings::MAX_HEADER_LIST_SIZE)
            .map_or(own, |peer| peer.min(own));
        end_to_end.set(Settings::MAX_HEADER_LIST_SIZE, least);
        self.http2.send_settings(&end_to_end)
    }

    /// Adds a message to the WebSocket message that is being written.
    fn send(&mut self, message: Message<'_, WireId>, keys: &mut dyn MaskKeys) {
        self.websocket.send(message, keys, &mut self.counts);
    }

    /// Sends a message the other way, in a WebSocket message of its own.
    fn send_alone(&mut self, message: Message<'_, WireId>, keys: &mut dyn MaskKeys) {
        self.websocket.begin(0);
        self.send(message, keys);
        self.websocket.finish(keys, &mut self.counts);
    }

    /// Data for streams that are gone never reaches the local codec, so the codec can't give the
    /// connection's window back: this does.
    fn return_stray_bytes(&mut self, keys: &mut dyn MaskKeys) {
        let bytes = std::mem::take(&mut self.stray_bytes);
        if bytes > 0 && self.closed.is_none() {
            self.streams.grant(None, bytes);
            self.send_alone(Message::Credit { stream: None, bytes }, keys);
        }
    }

    /// Closes because of bytes that were wrong. The codec is told when its direction has its turn.
    fn fail(&mut self, error: Error) {
        if self.closed.is_none() {
            let codes = error.codes();
            self.closed = Some(Closed {
                code: codes.close,
                by_peer: false,
                error: Some(error),
            });
            self.close(Some(codes.close), codes.label, codes.http2);
        }
    }

    fn closed_by_peer(&mut self, code: Option<u16>) {
        let closed = Closed {
            code: code.unwrap_or(close_code::NO_STATUS),
            by_peer: true,
            error: None,
        };
        self.closed = Some(closed);
        self.close(code, "", http2_code::INTERNAL_ERROR);
    }

    /// Queues the Close frame, and ends what the local codec has open.
    ///
    /// A far end's codec is a server and keeps its connection, so its streams can be reset at once. A
    /// near end's codec is a client that hangs up as soon as it has none left, before the Close frame
    /// could pass: it is told to open no more, and its streams are reset when the other end answers
    /// or the HTTP stream ends.
    fn close(&mut self, code: Option<u16>, reason: &'static str, http2_code: u32) {
        self.websocket.request_close(code, reason);
        self.http2.request_echo();
        self.http2.reset_code = http2_code;
        match self.role {
            Role::Far => self.reset_streams(),
            Role::Near => {
                if self.streams.len() > 0 {
                    let last = Some(self.streams.last_opened());
                    self.http2.send(&Message::Goaway {
                        last,
                        code: http2_code,
                    });
                }
            }
        }
    }

    fn reset_streams(&mut self) {
        let code = self.http2.reset_code;
        for stream in self.streams.drain() {
            self.count_reset();
            self.http2.send(&Message::Reset { stream, code });
        }
    }

    fn count_reset(&mut self) {
        self.counts.streams_reset = self.counts.streams_reset.wrapping_add(1);
    }
}

/// Bytes of names and values in a message's header list, pseudo-header fields' values included;
/// `None` for a message without one.
fn header_bytes(message: &Message<'_, WireId>) -> Option<u64> {
    let list = |fields: &Fields| {
        fields.iter().fold(0_usize, |sum, f| {
            sum.saturating_add(f.name.len()).saturating_add(f.value.len())
        })
    };
    let bytes = match message {
        Message::Request { head, .. } => {
            let protocol = head.protocol.unwrap_or_default();
            [head.method, head.scheme, head.authority, head.path, protocol]
                .iter()
                .fold(list(head.fields), |sum, value| sum.saturating_add(value.len()))
        }
        Message::Response { fields, .. } => list(fields).saturating_add(3),
        Message::Trailers { fields, .. } => list(fields),
        _ => return None,
    };
    u64::try_from(bytes).ok()
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
