//! Near and far end, joined in memory, with an HTTP/2 connection on either side.
//!
//! Whoever opens the two streams that [`join`] gives (the `h2` crate in most tests) speaks HTTP/2 as
//! Envoy's codecs do. Everything runs in one thread on tokio's paused time: when all tasks wait for
//! one another, time jumps, and the timeout that surrounds a test fires at once. Nothing sleeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use crate::chunking::Chunking;
use crate::end::{Closed, End};

/// Bytes that a stream between a codec and an end holds before its writer has to wait. Small, so
/// that back-pressure is met in every test.
const STREAM_BYTES: usize = 64 * 1024;

/// Inputs that one pair may take before it counts as running in circles.
const MOST_INPUTS: u64 = 40_000_000;

/// The bytes that crossed, in either direction.
#[derive(Debug, Default, Clone)]
pub struct Traffic {
    /// Client to near end.
    pub client_http2: Vec<u8>,
    /// Near end to far end.
    pub near_websocket: Vec<u8>,
    /// Far end to server.
    pub far_http2: Vec<u8>,
    /// Server to far end.
    pub server_http2: Vec<u8>,
    /// Far end to near end.
    pub far_websocket: Vec<u8>,
    /// Near end to client.
    pub near_http2: Vec<u8>,
}

/// A view of the two ends while they run.
#[derive(Clone)]
pub struct Pair {
    near: Rc<RefCell<dyn End>>,
    far: Rc<RefCell<dyn End>>,
    traffic: Option<Rc<RefCell<Traffic>>>,
    inputs: Rc<Cell<u64>>,
    websocket_bytes: Rc<Cell<u64>>,
}

impl Pair {
    /// Why the near end closed.
    pub fn near_closed(&self) -> Option<Closed> {
        self.near.borrow().closed()
    }

    /// Why the far end closed.
    pub fn far_closed(&self) -> Option<Closed> {
        self.far.borrow().closed()
    }

    /// What crossed so far, if it is recorded.
    pub fn traffic(&self) -> Traffic {
        self.traffic
            .as_ref()
            .map(|traffic| traffic.borrow().clone())
            .unwrap_or_default()
    }

    /// WebSocket bytes so far, both directions.
    pub fn websocket_bytes(&self) -> u64 {
        self.websocket_bytes.get()
    }

    /// Calls of either end's inputs so far.
    pub fn inputs(&self) -> u64 {
        self.inputs.get()
    }

    fn count_input(&self) {
        self.inputs.set(self.inputs.get() + 1);
        assert!(
            self.inputs.get() < MOST_INPUTS,
            "the pair runs in circles: near {:?}, far {:?}",
            self.near_closed(),
            self.far_closed()
        );
    }

    fn record(&self, bytes: &[u8], place: impl FnOnce(&mut Traffic) -> &mut Vec<u8>) {
        if let Some(traffic) = &self.traffic {
            place(&mut traffic.borrow_mut()).extend_from_slice(bytes);
        }
    }
}

/// How a pair is joined.
#[derive(Debug, Clone)]
pub struct Joint {
    /// Applied to each of the four streams of bytes by itself.
    pub chunking: Chunking,
    /// Whether [`Pair::traffic`] holds what crossed.
    pub record: bool,
}

/// Joins two ends; must be called within a [`tokio::task::LocalSet`]. Gives the client's and the
/// server's stream.
pub fn join(
    near: impl End + 'static,
    far: impl End + 'static,
    joint: &Joint,
) -> (DuplexStream, DuplexStream, Pair) {
    let (client, near_stream) = tokio::io::duplex(STREAM_BYTES);
    let (server, far_stream) = tokio::io::duplex(STREAM_BYTES);
    let pair = Pair {
        near: Rc::new(RefCell::new(near)),
        far: Rc::new(RefCell::new(far)),
        traffic: joint.record.then(Rc::default),
        inputs: Rc::default(),
        websocket_bytes: Rc::default(),
    };
    let (near_read, near_write) = tokio::io::split(near_stream);
    let (far_read, far_write) = tokio::io::split(far_stream);
    let chunking = |seed: u64| match &joint.chunking {
        Chunking::Random(random) => {
            let mut random = random.clone();
            Chunking::random(random.u64(..).wrapping_add(seed))
        }
        other => other.clone(),
    };
    tokio::task::spawn_local(carry(
        pair.clone(),
        true,
        near_read,
        far_write,
        chunking(1),
        chunking(2),
    ));
    tokio::task::spawn_local(carry(
        pair.clone(),
        false,
        far_read,
        near_write,
        chunking(3),
        chunking(4),
    ));
    (client, server, pair)
}

/// One direction: codec to its end, WebSocket, other end to its codec.
async fn carry(
    pair: Pair,
    up: bool,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut http2_chunking: Chunking,
    mut websocket_chunking: Chunking,
) {
    let (first, second) = if up {
        (Rc::clone(&pair.near), Rc::clone(&pair.far))
    } else {
        (Rc::clone(&pair.far), Rc::clone(&pair.near))
    };
    let mut buffer = vec![0; 16 * 1024];
    let (mut websocket, mut http2) = (Vec::new(), Vec::new());
    loop {
        let length = from.read(&mut buffer).await.expect("readable");
        http2.clear();
        let input = &buffer[..length];
        pair.record(input, |traffic| {
            if up {
                &mut traffic.client_http2
            } else {
                &mut traffic.server_http2
            }
        });
        let mut pieces = http2_chunking.cut(input);
        if length == 0 {
            pieces.push(&[]);
        }
        for piece in pieces {
            websocket.clear();
            pair.count_input();
            if length == 0 {
                first.borrow_mut().http2_end(&mut websocket);
            } else {
                first.borrow_mut().http2_input(piece, &mut websocket);
            }
            pair.record(&websocket, |traffic| {
                if up {
                    &mut traffic.near_websocket
                } else {
                    &mut traffic.far_websocket
                }
            });
            pair.websocket_bytes
                .set(pair.websocket_bytes.get() + websocket.len() as u64);
            for piece in websocket_chunking.cut(&websocket) {
                pair.count_input();
                second.borrow_mut().websocket_input(piece, &mut http2);
            }
        }
        if length == 0 {
            pair.count_input();
            second.borrow_mut().websocket_end(&mut http2);
        }
        pair.record(&http2, |traffic| {
            if up {
                &mut traffic.far_http2
            } else {
                &mut traffic.near_http2
            }
        });
        // A codec that is gone takes no more; the other direction ends by itself.
        if to.write_all(&http2).await.is_err() {
            return;
        }
        if length == 0 || first.borrow().finished() || second.borrow().finished() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
