//! The converter as a plugin: makes the streams or connections that it is attached to.

use std::rc::Rc;

use super::converter_connection::ConverterConnection;
use super::converter_context::ConverterContext;
use super::converter_shared::Shared;
use super::host::StreamKind;
use super::interface::{Connection, Plugin, Stream, Unconfigured};
use crate::config::{Attachment, Config};

/// One end of the WebSockets.
pub(super) struct ConverterPlugin(Rc<Shared>);

impl ConverterPlugin {
    /// # Errors
    /// What Envoy doesn't give, for the log.
    pub(super) fn new(config: Config) -> Result<Self, String> {
        Ok(Self(Rc::new(Shared::new(config)?)))
    }
}

impl Plugin for ConverterPlugin {
    fn tick(&self) {
        self.0.tick();
    }

    fn stream_kind(&self) -> StreamKind {
        self.0.stream_kind()
    }

    fn stream(&self, context_id: u32) -> Box<dyn Stream> {
        Box::new(ConverterContext::new(context_id, &self.0))
    }

    fn connection(&self, context_id: u32) -> Box<dyn Connection> {
        match &self.0.config.attachment {
            Attachment::Network(handshake) => {
                Box::new(ConverterConnection::new(context_id, &self.0, handshake))
            }
            Attachment::Http => Box::new(Unconfigured),
        }
    }
}
