//! An end that is the built module, with the handshake that Envoy would bring to it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::end::{Closed, End};
use crate::wasm_host::{Body, HeaderMap, Headers, Trap, Vm, field, header_map};

/// One stream of a VM. The VM may hold others.
pub struct WasmEnd {
    vm: Rc<RefCell<Vm>>,
    context: u32,
    near: bool,
    reset: bool,
    open: bool,
}

/// What tcp_proxy's tunneling asks of a near end.
pub fn tunnel_request() -> HeaderMap {
    header_map(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "far.example"),
        (":path", "/wsferry"),
    ])
}

/// A handshake as a far end gets it, with the key of RFC 6455 §1.3.
pub fn handshake_request() -> HeaderMap {
    header_map(&[
        (":authority", "far.example"),
        (":path", "/wsferry"),
        (":method", "GET"),
        (":scheme", "http"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "wsferry.v1"),
    ])
}

/// What Envoy's TCP upstream answers to a far end.
pub fn upstream_answer() -> HeaderMap {
    header_map(&[(":status", "200")])
}

fn goes_on(headers: Headers) -> HeaderMap {
    match headers {
        Headers::Continue(headers) => headers,
        other => panic!("the handshake didn't go on: {other:?}"),
    }
}

impl WasmEnd {
    /// Joins two VMs: each end's handshake is the other's.
    ///
    /// # Errors
    /// A VM is dead.
    pub fn connect(near: &Rc<RefCell<Vm>>, far: &Rc<RefCell<Vm>>) -> Result<(Self, Self), Trap> {
        let near_context = near.borrow_mut().open_stream()?;
        let far_context = far.borrow_mut().open_stream()?;
        let request = near
            .borrow_mut()
            .request_headers(near_context, tunnel_request(), false)?;
        let request = far
            .borrow_mut()
            .request_headers(far_context, goes_on(request), false)?;
        goes_on(request);
        let response = far
            .borrow_mut()
            .response_headers(far_context, upstream_answer(), false)?;
        let response = near
            .borrow_mut()
            .response_headers(near_context, goes_on(response), false)?;
        let response = goes_on(response);
        assert_eq!(
            field(&response, ":status"),
            Some(&b"200"[..]),
            "the tunnel's answer"
        );
        Ok((
            Self::of(near, near_context, true),
            Self::of(far, far_context, false),
        ))
    }

    /// A far end whose WebSocket client is the test.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn far(vm: &Rc<RefCell<Vm>>) -> Result<Self, Trap> {
        let context = vm.borrow_mut().open_stream()?;
        let request = vm
            .borrow_mut()
            .request_headers(context, handshake_request(), false)?;
        goes_on(request);
        let response = vm
            .borrow_mut()
            .response_headers(context, upstream_answer(), false)?;
        goes_on(response);
        Ok(Self::of(vm, context, false))
    }

    fn of(vm: &Rc<RefCell<Vm>>, context: u32, near: bool) -> Self {
        Self {
            vm: Rc::clone(vm),
            context,
            near,
            reset: false,
            open: true,
        }
    }

    /// The VM that it lives in.
    pub fn vm(&self) -> &Rc<RefCell<Vm>> {
        &self.vm
    }

    /// Whether the module has had the stream ended.
    pub fn is_reset(&mut self) -> bool {
        self.reset |= self.vm.borrow_mut().is_reset(self.context);
        self.reset
    }

    /// Request bodies flow from a near end's codec, and from a far end's WebSocket.
    fn body(&mut self, from_http2: bool, input: &[u8], end: bool, output: &mut Vec<u8>) {
        if self.reset {
            return;
        }
        let mut vm = self.vm.borrow_mut();
        let body = if from_http2 == self.near {
            vm.request_body(self.context, input, end)
        } else {
            vm.response_body(self.context, input, end)
        };
        match body.unwrap_or_else(|trap| panic!("the module trapped: {}", trap.0)) {
            Body::Continue(bytes) => output.extend_from_slice(&bytes),
            Body::Reset(_) => self.reset = true,
            Body::Paused(bytes) => panic!("the module holds back {} bytes", bytes.len()),
        }
    }

    /// Ends the stream, as Envoy does when either side of it is gone.
    pub fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            let closed = self.vm.borrow_mut().close_stream(self.context);
            closed.unwrap_or_else(|trap| panic!("the module trapped: {}", trap.0));
        }
    }
}

impl Drop for WasmEnd {
    fn drop(&mut self) {
        // A panic in a failing test isn't to become an abort.
        if self.open && !std::thread::panicking() {
            self.close();
        }
    }
}

impl End for WasmEnd {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        self.body(true, input, false, websocket);
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        self.body(false, input, false, http2);
    }

    fn http2_end(&mut self, websocket: &mut Vec<u8>) {
        self.body(true, &[], true, websocket);
    }

    fn websocket_end(&mut self, http2: &mut Vec<u8>) {
        self.body(false, &[], true, http2);
    }

    fn closed(&self) -> Option<Closed> {
        None
    }

    fn finished(&self) -> bool {
        self.reset
    }
}
