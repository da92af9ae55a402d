//! What a plugin, its streams and its connections are to Envoy, whatever their role.

use super::host::{self, StreamKind};
use log::error;
use proxy_wasm::types::Action;

/// What a plugin does once it is configured: one for each plugin and thread.
pub(super) trait Plugin {
    /// The timer that was asked for with [`super::host::set_tick_period`].
    fn tick(&self);

    /// The response to a call of [`super::host::http_call`], or its failure, which has no headers.
    fn http_call_response(&self, _token: u32, _has_headers: bool) {}

    /// Which of the following two Envoy needs of this plugin.
    fn stream_kind(&self) -> StreamKind {
        StreamKind::Http
    }

    /// An HTTP stream of this plugin begins.
    fn stream(&self, context_id: u32) -> Box<dyn Stream>;

    /// A connection of this plugin begins.
    fn connection(&self, _context_id: u32) -> Box<dyn Connection> {
        Box::new(Unconfigured)
    }
}

/// An HTTP stream that passes the filter, by default as it is. `size` is in bytes and of the whole buffer.
pub(super) trait Stream {
    fn request_headers(&mut self, end_of_stream: bool) -> Action;

    fn request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    fn request_trailers(&mut self) -> Action {
        Action::Continue
    }

    fn response_headers(&mut self, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    fn response_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    fn response_trailers(&mut self) -> Action {
        Action::Continue
    }

    /// The stream is over.
    fn done(&mut self);
}

/// A connection that passes the filter. `size` is in bytes and of the whole buffer.
pub(super) trait Connection {
    fn begun(&mut self) -> Action;
    fn downstream_data(&mut self, size: usize, end_of_stream: bool) -> Action;
    fn upstream_data(&mut self, size: usize, end_of_stream: bool) -> Action;

    /// The connection is over.
    fn done(&mut self);
}

/// What came although there is no valid configuration: it goes nowhere.
pub(super) struct Unconfigured;

impl Stream for Unconfigured {
    fn request_headers(&mut self, _: bool) -> Action {
        let sent = host::send_local_response(503, "wsferry_unconfigured", &[], "no valid configuration\n");
        if let Err(status) = sent {
            error!("can't refuse a stream: {status}");
        }
        Action::Pause
    }

    fn request_body(&mut self, _: usize, _: bool) -> Action {
        Action::Pause
    }

    fn request_trailers(&mut self) -> Action {
        Action::Pause
    }

    fn done(&mut self) {}
}

impl Connection for Unconfigured {
    fn begun(&mut self) -> Action {
        if let Err(status) = host::close_stream(StreamKind::Connection) {
            error!("can't refuse a connection: {status}");
        }
        Action::Pause
    }

    fn downstream_data(&mut self, _: usize, _: bool) -> Action {
        Action::Pause
    }

    fn upstream_data(&mut self, _: usize, _: bool) -> Action {
        Action::Pause
    }

    fn done(&mut self) {}
}
