//! What both directions of a converter share: one message at a time, from one side to the other.

use super::header_size::header_list_size;
use super::http2_side::Http2Side;
use super::prelude::Prelude;
use super::streams::{Step, Streams};
use super::websocket_side::WebSocketSide;
use super::{Closed, Closer, Counts, MaskKeys};
use crate::cbor;
use crate::config::{Config, Role};
use crate::error::{Error, close_code, http2_code};
use crate::http2::Sender;
use crate::message::{Http2Id, Message, RequestHead, Settings, WireId};
use crate::websocket;

/// `goaway`s that the other end may say. HTTP/2's ends say two for a graceful shutdown (RFC 9113 §6.8).
const MAX_GOAWAYS: u32 = 16;

/// What both directions share: everything but the readers, from which messages are borrowed.
pub(super) struct Joint {
    /// What the local codec is: the client is where requests are made.
    pub(super) codec: Sender,
    /// Of what the local codec sends; `None` once it speaks HTTP/2.
    pub(super) prelude: Option<Prelude>,
    /// What the other end sends may still be what precedes HTTP/2.
    raw_expected: bool,
    /// Bytes of a header list: what the codec accepts, and what the other end does.
    codec_header_list: Limit,
    peer_header_list: Limit,
    /// Streams that the other end may open at the codec, and the codec at the other end.
    codec_streams: Limit,
    peer_streams: Limit,
    /// The other end's ENABLE_CONNECT_PROTOCOL.
    peer_connect_protocol: u32,
    pub(super) streams: Streams,
    pub(super) http2: Http2Side,
    pub(super) websocket: WebSocketSide,
    /// Data for streams that are gone, to be given back to the other end's connection window, bytes.
    pub(super) stray_bytes: u32,
    /// How often the other end has said `goaway`.
    goaways: u32,
    /// Either side has said `goaway`, and not because of an error.
    going_away: bool,
    /// The last stream that counts, once the codec was told of one (a client) or has told one (a server).
    goaway_last: Option<Http2Id>,
    /// The local codec has hung up. Nothing is written to it any more: that would keep the connection (Envoy up to 1.37).
    pub(super) codec_gone: bool,
    pub(super) closed: Option<Closed>,
    /// Streams that were open when the connection ended.
    pub(super) cut_off: usize,
    pub(super) counts: Counts,
}

/// A setting that this end has a limit for, too. What settings don't mention keeps its value.
#[derive(Clone, Copy)]
struct Limit {
    own: u32,
    /// By whoever sends the settings.
    told: u32,
}

impl Limit {
    /// Of one who has told none yet.
    fn new(own: usize) -> Self {
        Self {
            own: u32::try_from(own).unwrap_or(u32::MAX),
            told: u32::MAX,
        }
    }

    /// Puts the smaller one into settings that are passed on.
    fn apply(&mut self, id: u16, settings: &mut Settings) {
        self.told = settings.get(id).unwrap_or(self.told);
        settings.set(id, self.told.min(self.own));
    }
}

impl Joint {
    /// For a connection before its first byte; `writer` is what this end is to the other end.
    pub(super) fn new(config: &Config, codec: Sender, writer: websocket::Sender) -> Self {
        let limits = &config.limits;
        let reversed = config.requests_from == Role::Far;
        let header_list = Limit::new(limits.max_header_list_bytes);
        let most_streams = Limit::new(limits.max_streams);
        Self {
            codec,
            prelude: reversed.then(|| Prelude::new(codec)),
            raw_expected: reversed,
            codec_header_list: header_list,
            peer_header_list: header_list,
            codec_streams: most_streams,
            peer_streams: most_streams,
            peer_connect_protocol: 0,
            streams: Streams::new(limits.max_streams),
            http2: Http2Side::new(codec.other()),
            websocket: WebSocketSide::new(writer, cbor::Encoder::new(&config.field_policy)),
            stray_bytes: 0,
            goaways: 0,
            going_away: false,
            goaway_last: None,
            codec_gone: false,
            closed: None,
            cut_off: 0,
            counts: Counts::default(),
        }
    }

    /// From the local codec to the WebSocket.
    pub(super) fn outgoing(
        &mut self,
        message: Message<'_, Http2Id>,
        keys: &mut dyn MaskKeys,
    ) -> Result<(), Error> {
        if let Some((stream, bytes)) = header_list_size(&message)
            && u32::try_from(bytes).unwrap_or(u32::MAX) > self.peer_header_list.told
        {
            self.refuse_outgoing(stream, Error::Http2HeaderListTooBig, keys);
            return Ok(());
        }
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
                self.going_away |= code == http2_code::NO_ERROR;
                // A client's is of streams that the server pushes, of which there are none.
                let last = last.filter(|_| self.codec == Sender::Server);
                let wire = last.map(|last| self.streams.last_for_wire(last));
                if let Some(last) = last {
                    self.streams.remove_after(last);
                    self.goaway_last = Some(last);
                }
                self.send(Message::Goaway { last: wire, code }, keys);
                match code {
                    http2_code::NO_ERROR => Ok(()),
                    _ => Err(Error::Http2Goaway),
                }
            }
            Message::Raw(bytes) => {
                if !bytes.is_empty() {
                    self.send(Message::Raw(bytes), keys);
                }
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
        if self.codec == Sender::Server {
            return Err(Error::Http2Protocol);
        }
        if self.goaway_last.is_some_and(|last| http2 > last) {
            // It crossed `goaway`, and the codec forgets it when it reads that.
            self.streams.skip_http2(http2);
            return Ok(());
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

    /// The codec's settings; the encoder leaves out those of one hop.
    fn outgoing_settings(&mut self, settings: &Settings, keys: &mut dyn MaskKeys) -> Result<(), Error> {
        self.http2.apply_settings(settings);
        let initial = settings.get(Settings::INITIAL_WINDOW_SIZE);
        // A larger window counts at once, a smaller one when the other end knows of it.
        if let Some(bytes) = initial.filter(|bytes| i64::from(*bytes) > self.streams.receive_initial()) {
            self.streams.set_receive_initial(bytes);
        }
        self.websocket.await_ack(initial)?;
        let mut end_to_end = settings.clone();
        self.codec_header_list
            .apply(Settings::MAX_HEADER_LIST_SIZE, &mut end_to_end);
        if self.codec == Sender::Server {
            self.codec_streams
                .apply(Settings::MAX_CONCURRENT_STREAMS, &mut end_to_end);
        }
        self.send(Message::Settings(&end_to_end), keys);
        Ok(())
    }

    /// A stream whose message from the codec can't be passed on.
    pub(super) fn refuse_outgoing(&mut self, http2: Http2Id, error: Error, keys: &mut dyn MaskKeys) {
        let count = match error {
            Error::Http2HeaderListTooBig => &mut self.counts.streams_header_list_too_big,
            _ => &mut self.counts.streams_malformed,
        };
        *count = count.wrapping_add(1);
        let code = error.codes().http2;
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
    pub(super) fn incoming(
        &mut self,
        message: Message<'_, WireId>,
        keys: &mut dyn MaskKeys,
    ) -> Result<(), Error> {
        if self.raw_expected && !matches!(message, Message::Raw(_)) {
            self.http2_begins()?;
        }
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
                // The codec would take one for nothing for an error.
                let Some(initial) = self.websocket.acknowledged() else {
                    return Ok(());
                };
                if let Some(bytes) = initial {
                    self.streams.set_receive_initial(bytes);
                }
                self.http2.send(&Message::Ack);
                Ok(())
            }
            Message::Goaway { last, code } => {
                // Each is held against all streams.
                self.goaways = self.goaways.saturating_add(1);
                if self.goaways > MAX_GOAWAYS {
                    return Err(Error::ExcessiveLoad);
                }
                self.going_away |= code == http2_code::NO_ERROR;
                // A client's is of pushed streams (RFC 9113 §6.8), and there are none. A server's codec that hears one may
                // say nothing more, and with it this end.
                if self.codec == Sender::Server {
                    return Ok(());
                }
                let last = match last.and_then(|last| self.streams.last_for_http2(last)) {
                    None => self.goaway_last,
                    Some(last) => {
                        let last = self.lowered(last);
                        self.streams.remove_after(last);
                        Some(last)
                    }
                };
                self.http2.send(&Message::Goaway { last, code });
                Ok(())
            }
            Message::Raw(bytes) if self.raw_expected => {
                self.http2.send_raw(bytes);
                Ok(())
            }
            Message::Raw(_) => Err(Error::MessageType),
        }
    }

    /// The other end begins with HTTP/2; the client is the first to.
    fn http2_begins(&mut self) -> Result<(), Error> {
        if self.is_before_client() {
            return Err(Error::StreamState);
        }
        self.raw_expected = false;
        Ok(())
    }

    /// Whether HTTP/2 has begun with the local codec, which answers a PING then.
    pub(super) const fn has_http2(&self) -> bool {
        match self.codec {
            Sender::Client => self.prelude.is_none(),
            Sender::Server => !self.raw_expected,
        }
    }

    /// Whether the local codec is a client that hasn't begun. What isn't HTTP/2 yet can't be told anything in it.
    pub(super) const fn is_before_client(&self) -> bool {
        matches!(self.codec, Sender::Client) && self.prelude.is_some()
    }

    /// Whether the local codec can be told anything.
    const fn has_codec(&self) -> bool {
        !self.codec_gone && !self.is_before_client()
    }

    fn incoming_request(
        &mut self,
        wire: WireId,
        end: bool,
        head: RequestHead<'_>,
        keys: &mut dyn MaskKeys,
    ) -> Result<(), Error> {
        if self.codec == Sender::Client {
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
        if self.goaway_last.is_some() {
            // It crossed `goaway`, and the other end forgets it when it reads that.
            return self.streams.skip_wire(wire);
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

    /// The other end's settings, without what isn't of this protocol.
    fn incoming_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        let mut end_to_end = Settings::new();
        for (id, value) in settings.iter() {
            let most = match id {
                Settings::ENABLE_PUSH | Settings::ENABLE_CONNECT_PROTOCOL => 1,
                Settings::INITIAL_WINDOW_SIZE => 0x7fff_ffff,
                Settings::MAX_CONCURRENT_STREAMS | Settings::MAX_HEADER_LIST_SIZE => u32::MAX,
                // What HTTP/2 allows in the first settings alone would come too late (RFC 9218 §2.1).
                _ => continue,
            };
            if value > most {
                return Err(Error::InvalidSetting);
            }
            if id == Settings::ENABLE_CONNECT_PROTOCOL {
                // What was said once stays so (RFC 8441 §3).
                if value < self.peer_connect_protocol {
                    return Err(Error::InvalidSetting);
                }
                self.peer_connect_protocol = value;
            }
            end_to_end.set(id, value);
        }
        // There is no push: a server must be told so, and a client must never hear the contrary
        // (RFC 9113 §6.5.2).
        end_to_end.set(Settings::ENABLE_PUSH, 0);
        self.streams.apply_peer_settings(&end_to_end)?;
        self.peer_header_list
            .apply(Settings::MAX_HEADER_LIST_SIZE, &mut end_to_end);
        if self.codec == Sender::Client {
            self.peer_streams
                .apply(Settings::MAX_CONCURRENT_STREAMS, &mut end_to_end);
        }
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
    pub(super) fn return_stray_bytes(&mut self, keys: &mut dyn MaskKeys) {
        let bytes = std::mem::take(&mut self.stray_bytes);
        if bytes > 0 {
            self.streams.grant(None, bytes);
            self.send(Message::Credit { stream: None, bytes }, keys);
        }
    }

    /// Closes because of bytes that were wrong. The codec is told when its direction has its turn.
    pub(super) fn fail(&mut self, error: Error) {
        if self.closed.is_none() {
            let codes = error.codes();
            self.closed = Some(Closed {
                code: codes.close,
                by: Closer::ThisEnd,
                error: Some(error),
                told: None,
            });
            self.close(Some(codes.close), codes.label, codes.http2);
        }
    }

    /// `reason` is what the other end's Close frame says.
    pub(super) fn closed_by_peer(&mut self, code: Option<u16>, reason: &[u8]) {
        let closed = Closed {
            code: code.unwrap_or(close_code::NO_STATUS),
            by: Closer::OtherEnd,
            error: None,
            told: Error::of_label(reason),
        };
        self.closed = Some(closed);
        self.close(code, "", http2_code::INTERNAL_ERROR);
    }

    /// Queues the Close frame, and ends what the local codec has open.
    ///
    /// A server keeps its connection, so its streams can be reset at once. A client hangs up as soon as it
    /// has none left, before the Close frame could pass: it is told to open no more, and its streams are
    /// reset when the other end answers or the connection ends. Without streams it is told where the Close would but be an
    /// answer, so that no request comes to be opened here.
    fn close(&mut self, code: Option<u16>, reason: &'static str, http2_code: u32) {
        self.websocket.request_close(code, reason);
        self.http2.reset_code = http2_code;
        if !self.has_codec() {
            return;
        }
        self.http2.request_echo();
        match self.codec {
            Sender::Server => self.reset_streams(),
            Sender::Client => {
                let answers = self.closed.is_some_and(|closed| closed.by == Closer::OtherEnd);
                if self.streams.len() > 0 || answers {
                    self.no_more_streams(http2_code);
                }
            }
        }
    }

    /// Tells a client that streams it may still open, or has opened unseen, are never sent.
    fn no_more_streams(&mut self, code: u32) {
        let last = Some(self.lowered(self.streams.last_opened()));
        self.http2.send(&Message::Goaway { last, code });
    }

    /// The last stream to tell a client: never a later one than before (RFC 9113 §6.8).
    fn lowered(&mut self, last: Http2Id) -> Http2Id {
        let last = self.goaway_last.map_or(last, |told| told.min(last));
        self.goaway_last = Some(last);
        last
    }

    /// Before there is a WebSocket: ends what the local codec has open as never sent.
    pub(super) fn refuse(&mut self) {
        self.closed.get_or_insert(Closed {
            code: close_code::ABNORMAL,
            by: Closer::Nobody,
            error: None,
            told: None,
        });
        self.http2.reset_code = http2_code::REFUSED_STREAM;
        self.reset_streams();
        self.goaway_last = Some(Http2Id(0));
        self.no_more_streams(http2_code::NO_ERROR);
    }

    /// Whether either side has said `goaway`, and not because of an error.
    pub(super) const fn is_going_away(&self) -> bool {
        self.going_away
    }

    /// The other end says no more. Without Close that is orderly only where `goaway` was said and nothing was under
    /// way: then the codec that is a client, of Envoy's pool, hangs up when all that it holds has been read. Nobody
    /// can say Close before, since nobody else knows when that is, and nobody after.
    pub(super) fn websocket_end(&mut self) {
        let orderly = self.going_away && self.streams.len() == 0;
        self.closed.get_or_insert(Closed {
            code: if orderly {
                close_code::GOING_AWAY
            } else {
                close_code::ABNORMAL
            },
            by: Closer::Nobody,
            error: None,
            told: None,
        });
        self.no_more_comes();
    }

    /// The other end answers nothing any more: what is open ends, and what the codec opens from now on is never sent.
    pub(super) fn no_more_comes(&mut self) {
        let opened = self.streams.last_opened();
        let told = self.goaway_last.is_some_and(|last| last <= opened);
        if self.codec == Sender::Client && self.has_codec() && !told {
            self.no_more_streams(http2_code::NO_ERROR);
        }
        self.reset_streams();
    }

    fn reset_streams(&mut self) {
        let code = self.http2.reset_code;
        for stream in self.streams.drain() {
            self.cut_off = self.cut_off.saturating_add(1);
            self.count_reset();
            self.http2.send(&Message::Reset { stream, code });
        }
    }

    fn count_reset(&mut self) {
        self.counts.streams_reset = self.counts.streams_reset.wrapping_add(1);
    }
}
