//! What Envoy calls, by way of the SDK: its contexts, each a thin shell around one of ours.
//!
//! The SDK's dispatcher is used, its wrappers of host functions are not, but for calls (see [`super::host`]): they
//! panic on a status that they don't expect, and a panic is every connection of a worker. The dispatcher panics too, on a context
//! or the token of a call that it doesn't know: Envoy creates each context before it calls it, calls none after
//! `proxy_on_delete`, and answers each call at most once.

use std::rc::Rc;

use log::error;
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use super::host::StreamKind;
use super::interface::{Connection, Plugin, Stream, Unconfigured};
use super::root;

/// What is logged, and so at most what Envoy's own level for component `wasm` lets through.
const LOG_LEVEL: LogLevel = LogLevel::Info;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LOG_LEVEL);
    proxy_wasm::set_root_context(|_| Box::new(Root { plugin: None }));
}}

/// A plugin on one thread; `plugin` is there once it has a valid configuration.
struct Root {
    plugin: Option<Rc<dyn Plugin>>,
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, _body_size: usize, _trailers: usize) {
        if let Some(plugin) = &self.plugin {
            plugin.http_call_response(token, headers > 0);
        }
    }
}

impl RootContext for Root {
    /// `false` has Envoy refuse the configuration.
    fn on_configure(&mut self, size: usize) -> bool {
        match root::configure(size) {
            Ok(plugin) => {
                self.plugin = Some(plugin);
                true
            }
            Err(reason) => {
                error!("{reason}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.tick();
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        let stream = match &self.plugin {
            Some(plugin) => plugin.stream(context_id),
            None => Box::new(Unconfigured),
        };
        Some(Box::new(Http(stream)))
    }

    fn create_stream_context(&self, context_id: u32) -> Option<Box<dyn StreamContext>> {
        let connection = match &self.plugin {
            Some(plugin) => plugin.connection(context_id),
            None => Box::new(Unconfigured),
        };
        Some(Box::new(Network(connection)))
    }

    fn get_type(&self) -> Option<ContextType> {
        let kind = self.plugin.as_ref().map(|plugin| plugin.stream_kind());
        Some(match kind.unwrap_or(StreamKind::Http) {
            StreamKind::Http => ContextType::HttpContext,
            StreamKind::Connection => ContextType::StreamContext,
        })
    }
}

struct Http(Box<dyn Stream>);

impl Context for Http {
    /// Nothing is left to be done afterwards, the context may be deleted.
    fn on_done(&mut self) -> bool {
        self.0.done();
        true
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.0.request_headers(end_of_stream)
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.0.request_body(size, end_of_stream)
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.0.request_trailers()
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.0.response_headers(end_of_stream)
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.0.response_body(size, end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.0.response_trailers()
    }
}

struct Network(Box<dyn Connection>);

impl Context for Network {
    /// Nothing is left to be done afterwards, the context may be deleted.
    fn on_done(&mut self) -> bool {
        self.0.done();
        true
    }
}

impl StreamContext for Network {
    fn on_new_connection(&mut self) -> Action {
        self.0.begun()
    }

    fn on_downstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.0.downstream_data(size, end_of_stream)
    }

    fn on_upstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.0.upstream_data(size, end_of_stream)
    }
}
