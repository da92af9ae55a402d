//! One end of a tunnel, seen as bytes.

use std::sync::Arc;

use wsferry::config::Config;
use wsferry::converter::{Converter, MaskKeys};

/// Why an end closed its WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Close code, as in [`wsferry::converter::Closed::code`].
    pub code: u16,
    /// Name of the protocol error, where one was the reason.
    pub label: Option<String>,
}

/// A near or far converter between a local HTTP/2 codec and a WebSocket. Outputs are appended.
pub trait End {
    /// Bytes from the local codec; gives WebSocket bytes.
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>);
    /// Bytes from the WebSocket; gives HTTP/2 bytes.
    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>);
    /// The local codec has ended its direction; gives WebSocket bytes.
    fn http2_end(&mut self, websocket: &mut Vec<u8>);
    /// The other end has ended its direction; gives HTTP/2 bytes.
    fn websocket_end(&mut self, http2: &mut Vec<u8>);
    /// Set once the WebSocket is closed.
    fn closed(&self) -> Option<Closed>;
    /// Nothing will come out any more: the streams under it can be ended.
    fn finished(&self) -> bool;
}

impl<E: End + ?Sized> End for Box<E> {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        (**self).http2_input(input, websocket);
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        (**self).websocket_input(input, http2);
    }

    fn http2_end(&mut self, websocket: &mut Vec<u8>) {
        (**self).http2_end(websocket);
    }

    fn websocket_end(&mut self, http2: &mut Vec<u8>) {
        (**self).websocket_end(http2);
    }

    fn closed(&self) -> Option<Closed> {
        (**self).closed()
    }

    fn finished(&self) -> bool {
        (**self).finished()
    }
}

/// The converter of this build.
pub struct NativeEnd {
    converter: Converter,
    keys: SeededKeys,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct SeededKeys(fastrand::Rng);

impl MaskKeys for SeededKeys {
    fn next_key(&mut self) -> [u8; 4] {
        self.0.u32(..).to_le_bytes()
    }
}

impl NativeEnd {
    /// From the plugin's configuration.
    pub fn new(configuration: &str) -> Self {
        let config = Config::parse(configuration.as_bytes()).expect("a valid configuration");
        Self {
            converter: Converter::new(&Arc::new(config)),
            keys: SeededKeys(fastrand::Rng::with_seed(11)),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Leaves the converter with nothing but its own memory: the buffers are what the connections of a worker share.
    pub fn drop_buffers(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
    }

    /// The converter itself, for its counts.
    pub fn converter(&mut self) -> &mut Converter {
        &mut self.converter
    }
}

impl End for NativeEnd {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        self.converter
            .lend_websocket_output(std::mem::take(&mut self.output));
        self.converter.http2_input(input, &mut self.keys);
        self.converter.take_websocket_output(&mut self.output);
        websocket.extend_from_slice(&self.output);
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        self.input.clear();
        self.input.extend_from_slice(input);
        self.converter.lend_http2_output(std::mem::take(&mut self.output));
        self.converter.websocket_input(&mut self.input, &mut self.keys);
        self.converter.take_http2_output(&mut self.output);
        http2.extend_from_slice(&self.output);
    }

    fn http2_end(&mut self, websocket: &mut Vec<u8>) {
        self.converter.http2_end(&mut self.keys);
        self.converter.take_websocket_output(&mut self.output);
        websocket.extend_from_slice(&self.output);
    }

    fn websocket_end(&mut self, http2: &mut Vec<u8>) {
        self.converter.websocket_end();
        self.converter.take_http2_output(&mut self.output);
        http2.extend_from_slice(&self.output);
    }

    fn closed(&self) -> Option<Closed> {
        self.converter.closed().map(|closed| Closed {
            code: closed.code,
            label: closed.error.map(|error| error.codes().label.to_owned()),
        })
    }

    fn finished(&self) -> bool {
        self.converter.closed().is_some() && self.converter.close_sent()
    }
}

/// Passes HTTP/2 through unchanged: it shows that a driver is right by itself.
pub struct Transparent;

impl End for Transparent {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        websocket.extend_from_slice(input);
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        http2.extend_from_slice(input);
    }

    fn http2_end(&mut self, _websocket: &mut Vec<u8>) {}

    fn websocket_end(&mut self, _http2: &mut Vec<u8>) {}

    fn closed(&self) -> Option<Closed> {
        None
    }

    fn finished(&self) -> bool {
        false
    }
}
