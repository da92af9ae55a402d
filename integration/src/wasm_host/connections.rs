//! Connections that pass a network filter, as Envoy's filter manager handles them.

use super::{Body, Phase, Stream, Trap, Vm};

impl Vm {
    /// A connection begins; gives its context.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn open_connection(&mut self) -> Result<u32, Trap> {
        let context = self.next_context;
        self.next_context += 1;
        let host = self.store.data_mut();
        let connection = Stream {
            is_connection: true,
            ..Stream::default()
        };
        host.streams.insert(context, connection);
        let root = host.root;
        self.call::<_, ()>("proxy_on_context_create", context, Phase::None, (context, root))?;
        let action: u32 = self.call("proxy_on_new_connection", context, Phase::None, context)?;
        assert_eq!(
            action, 0,
            "the filters behind this one never learn of the connection"
        );
        Ok(context)
    }

    /// Bytes from the client. What the module holds back stays in Envoy's buffer, and comes again with what follows.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn downstream_data(&mut self, context: u32, bytes: &[u8], end: bool) -> Result<Body, Trap> {
        let held = std::mem::take(&mut self.stream(context).held);
        let bytes = [&held, bytes].concat();
        let data = self.body(
            "proxy_on_downstream_data",
            Phase::DownstreamData,
            context,
            &bytes,
            end,
        )?;
        if let Body::Paused(bytes) = &data {
            self.stream(context).held.clone_from(bytes);
        }
        Ok(data)
    }

    /// Bytes for the client. What the module holds back is lost.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn upstream_data(&mut self, context: u32, bytes: &[u8], end: bool) -> Result<Body, Trap> {
        self.body("proxy_on_upstream_data", Phase::UpstreamData, context, bytes, end)
    }

    /// The end of a connection, whatever ended it: close, access log, done, delete.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn close_connection(&mut self, context: u32) -> Result<(), Trap> {
        const REMOTE: u32 = 2;
        for name in [
            "proxy_on_downstream_connection_close",
            "proxy_on_upstream_connection_close",
        ] {
            self.call::<_, ()>(name, context, Phase::None, (context, REMOTE))?;
        }
        self.close_stream(context)
    }
}
