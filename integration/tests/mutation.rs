//! Valid WebSocket bytes with faults in them: an end closes or goes on, and whatever it then says is
//! still HTTP/2 and WebSocket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;

use integration::bad_input::{close_frame, message_to, payloads};
use integration::chunking::Chunking;
use integration::end::{End, NativeEnd};
use integration::pair::Traffic;
use integration::raw::Codec;
use integration::suite::{FAR, NEAR, native_traffic};
use integration::wasm_end::WasmEnd;
use integration::wasm_host::Vm;
use proptest::prelude::*;
use proptest::sample::Index;
use wsferry::websocket::Sender;

const SCENARIOS: [&str; 6] = [
    "values_that_look_typed",
    "request_trailers",
    "repeated_fields",
    "grpc_bidirectional",
    "client_cancels_response",
    "paths_with_common_prefixes",
];

fn traffic() -> &'static [Traffic] {
    static TRAFFIC: OnceLock<Vec<Traffic>> = OnceLock::new();
    TRAFFIC.get_or_init(|| SCENARIOS.map(native_traffic).into())
}

#[derive(Debug, Clone)]
enum Fault {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
}

impl Fault {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Flip(at, bit) => bytes[at.index(length)] ^= 1 << (bit % 8),
            Self::Set(at, byte) => bytes[at.index(length)] = *byte,
            Self::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at.index(length);
                bytes.drain(at..(at + count).min(length));
            }
            Self::Repeat(at, count) => {
                let at = at.index(length);
                let piece = bytes[at..(at + count).min(length)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, bit)| Fault::Flip(at, bit)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Fault::Set(at, byte)),
        (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..8))
            .prop_map(|(at, more)| Fault::Insert(at, more)),
        (any::<Index>(), 1usize..8).prop_map(|(at, count)| Fault::Remove(at, count)),
        (any::<Index>(), 1usize..100).prop_map(|(at, count)| Fault::Repeat(at, count)),
    ]
}

/// Plays one side's recorded bytes, with faults, to an end.
fn suffer(
    traffic: &Traffic,
    near: bool,
    inside: bool,
    faults: &[Fault],
    chunking: &mut Chunking,
    end: &mut impl End,
) {
    let (recorded, sender) = if near {
        (&traffic.far_websocket, Sender::Server)
    } else {
        (&traffic.near_websocket, Sender::Client)
    };
    let bytes = if inside {
        // Faults in the messages, in frames that are right.
        let mut messages = payloads(recorded, sender);
        for (number, fault) in faults.iter().enumerate() {
            let count = messages.len();
            fault.apply(&mut messages[(number * 7 + faults.len()) % count]);
        }
        messages
            .iter()
            .flat_map(|message| message_to(near, message))
            .collect()
    } else {
        let mut bytes = recorded.clone();
        faults.iter().for_each(|fault| fault.apply(&mut bytes));
        bytes
    };
    let mut codec = if near { Codec::client() } else { Codec::server() };
    if near {
        // The requests whose responses are recorded.
        codec.output = traffic.client_http2.clone();
    }
    let (mut http2, mut websocket) = (Vec::new(), Vec::new());
    end.http2_input(&std::mem::take(&mut codec.output), &mut websocket);
    for piece in chunking.cut(&bytes) {
        http2.clear();
        end.websocket_input(piece, &mut http2);
        codec.input(&http2);
        end.http2_input(&std::mem::take(&mut codec.output), &mut websocket);
    }
    if end.closed().is_some_and(|closed| closed.label.is_some()) {
        let closed = close_frame(&websocket, near).expect("a Close for what is wrong");
        assert_eq!(Some(closed.1), end.closed().and_then(|closed| closed.label));
    }
    http2.clear();
    end.websocket_end(&mut http2);
    codec.input(&http2);
    end.http2_input(&std::mem::take(&mut codec.output), &mut websocket);
    close_frame(&websocket, near);
    if let Some(closed) = end.closed() {
        assert!(closed.code >= 1000, "{closed:?}");
    }
}

fn chunking() -> impl Strategy<Value = Chunking> {
    prop_oneof![
        Just(Chunking::AsIs),
        Just(Chunking::Bytes),
        any::<u64>().prop_map(Chunking::random)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn faulty_bytes_harm_no_native_end(
        which in any::<Index>(),
        near in any::<bool>(),
        inside in any::<bool>(),
        faults in proptest::collection::vec(fault(), 1..5),
        mut chunking in chunking(),
    ) {
        let mut end = NativeEnd::new(if near { NEAR } else { FAR });
        let traffic = &traffic()[which.index(SCENARIOS.len())];
        suffer(traffic, near, inside, &faults, &mut chunking, &mut end);
    }
}

thread_local! {
    static VMS: (Rc<RefCell<Vm>>, Rc<RefCell<Vm>>) = {
        let start = |configuration| Rc::new(RefCell::new(Vm::start(configuration).expect("a VM")));
        (start(NEAR), start(FAR))
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// All in one pair of VMs: a trap would be the end of it.
    #[test]
    fn faulty_bytes_harm_no_module(
        which in any::<Index>(),
        near in any::<bool>(),
        inside in any::<bool>(),
        faults in proptest::collection::vec(fault(), 1..5),
        mut chunking in chunking(),
    ) {
        let (near_vm, far_vm) = VMS.with(Clone::clone);
        let (mut near_end, mut far_end) = WasmEnd::connect(&near_vm, &far_vm).unwrap();
        let traffic = &traffic()[which.index(SCENARIOS.len())];
        let end = if near { &mut near_end } else { &mut far_end };
        suffer(traffic, near, inside, &faults, &mut chunking, end);
    }
}
