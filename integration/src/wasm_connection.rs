//! An end that is the built module as a network filter: the handshake is among its bytes.

use std::cell::RefCell;
use std::rc::Rc;

use crate::end::{Closed, End};
use crate::wasm_host::{Body, Trap, Vm};

/// Configuration of a near end that is a network filter.
pub const NEAR: &str = r#"{"role": "near", "filter": "network", "handshake": {"authority": "far.example"}}"#;
/// Configuration of a far end that is a network filter.
pub const FAR: &str = r#"{"role": "far", "filter": "network"}"#;

/// One connection of a VM. The VM may hold others.
pub struct WasmConnection {
    vm: Rc<RefCell<Vm>>,
    context: u32,
    near: bool,
    closed: bool,
    open: bool,
}

impl WasmConnection {
    /// A connection of a VM with [`NEAR`] or [`FAR`].
    ///
    /// # Errors
    /// The VM is dead.
    pub fn open(vm: &Rc<RefCell<Vm>>, near: bool) -> Result<Self, Trap> {
        let context = vm.borrow_mut().open_connection()?;
        Ok(Self {
            vm: Rc::clone(vm),
            context,
            near,
            closed: false,
            open: true,
        })
    }

    /// One of each VM.
    ///
    /// # Errors
    /// A VM is dead.
    pub fn connect(near: &Rc<RefCell<Vm>>, far: &Rc<RefCell<Vm>>) -> Result<(Self, Self), Trap> {
        Ok((Self::open(near, true)?, Self::open(far, false)?))
    }

    /// Whether the module has had the connection closed.
    pub fn is_closed(&mut self) -> bool {
        self.closed |= self.vm.borrow_mut().is_reset(self.context);
        self.closed
    }

    /// From a near end's codec, and from a far end's WebSocket, bytes come downstream.
    fn data(&mut self, from_http2: bool, input: &[u8], end: bool, output: &mut Vec<u8>) {
        if self.is_closed() {
            return;
        }
        let mut vm = self.vm.borrow_mut();
        let downstream = from_http2 == self.near;
        let data = if downstream {
            vm.downstream_data(self.context, input, end)
        } else {
            vm.upstream_data(self.context, input, end)
        };
        match data.unwrap_or_else(|trap| panic!("the module trapped: {}", trap.0)) {
            Body::Continue(bytes) | Body::Reset(bytes) => output.extend_from_slice(&bytes),
            // An incomplete handshake. In the other direction that would be lost.
            Body::Paused(_) => assert!(
                downstream,
                "the module drops what it should write: {:?}",
                vm.logs().last()
            ),
        }
    }

    /// The connection is gone.
    pub fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            let closed = self.vm.borrow_mut().close_connection(self.context);
            closed.unwrap_or_else(|trap| panic!("the module trapped: {}", trap.0));
        }
    }
}

impl Drop for WasmConnection {
    fn drop(&mut self) {
        // A panic in a failing test isn't to become an abort.
        if self.open && !std::thread::panicking() {
            self.close();
        }
    }
}

impl End for WasmConnection {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        self.data(true, input, false, websocket);
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        self.data(false, input, false, http2);
    }

    fn http2_end(&mut self, websocket: &mut Vec<u8>) {
        self.data(true, &[], true, websocket);
    }

    fn websocket_end(&mut self, http2: &mut Vec<u8>) {
        self.data(false, &[], true, http2);
    }

    fn closed(&self) -> Option<Closed> {
        None
    }

    fn finished(&self) -> bool {
        self.closed
    }
}

/// What a client asks a far end, with the key of RFC 6455 §1.3.
pub const REQUEST: &str = "GET /wsferry HTTP/1.1\r\nHost: far.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: wsferry.v1\r\n\r\n";

/// What a server answers a near end that has sent this request.
///
/// # Panics
/// The request has no key.
pub fn granted(request: &str) -> String {
    let key = field_of(request, "sec-websocket-key").expect("a key");
    let accept = wsferry::websocket::handshake::accept(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: wsferry.v1\r\n\r\n"
    )
}

/// The value of a field in an HTTP/1.1 head; its name is compared as it stands there.
pub fn field_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// An HTTP/1.1 head, and what follows it.
///
/// # Panics
/// There is none.
pub fn split_head(bytes: &[u8]) -> (&str, &[u8]) {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("the end of a head");
    let (head, rest) = bytes.split_at(end + 4);
    (std::str::from_utf8(head).expect("text"), rest)
}

/// A connection whose handshake is the peer's business: to the caller it begins with the WebSocket.
pub struct Handshaken {
    connection: WasmConnection,
    done: bool,
    /// What the codec gets with the next bytes that it gets.
    http2: Vec<u8>,
}

impl Handshaken {
    /// Of a VM with [`NEAR`] or [`FAR`].
    ///
    /// # Errors
    /// The VM is dead.
    pub fn open(vm: &Rc<RefCell<Vm>>, near: bool) -> Result<Self, Trap> {
        let mut connection = WasmConnection::open(vm, near)?;
        let mut http2 = Vec::new();
        if !near {
            connection.websocket_input(REQUEST.as_bytes(), &mut http2);
        }
        Ok(Self {
            connection,
            done: false,
            http2,
        })
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut WasmConnection {
        &mut self.connection
    }
}

impl End for Handshaken {
    fn http2_input(&mut self, input: &[u8], websocket: &mut Vec<u8>) {
        if self.done {
            return self.connection.http2_input(input, websocket);
        }
        self.done = true;
        let mut output = Vec::new();
        self.connection.http2_input(input, &mut output);
        let (head, rest) = split_head(&output);
        if self.connection.near {
            assert_eq!(rest, b"", "bytes before the answer");
            let answer = granted(head);
            self.connection
                .websocket_input(answer.as_bytes(), &mut self.http2);
        } else {
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            websocket.extend_from_slice(rest);
        }
    }

    fn websocket_input(&mut self, input: &[u8], http2: &mut Vec<u8>) {
        if self.connection.near && !self.done {
            // The peer speaks before the codec has said anything that is worth a message.
            self.http2_input(b"", &mut Vec::new());
        }
        http2.append(&mut self.http2);
        self.connection.websocket_input(input, http2);
    }

    fn http2_end(&mut self, websocket: &mut Vec<u8>) {
        self.connection.http2_end(websocket);
    }

    fn websocket_end(&mut self, http2: &mut Vec<u8>) {
        http2.append(&mut self.http2);
        self.connection.websocket_end(http2);
    }

    fn closed(&self) -> Option<Closed> {
        None
    }

    fn finished(&self) -> bool {
        self.connection.finished()
    }
}
