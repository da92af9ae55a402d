//! The built module as a network filter: handshakes, their refusals and their time, bad input, and its end.

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
use std::time::Duration;

use integration::bad_input::{KEY, all, close_frame, frame, run};
use integration::chunking::Chunking;
use integration::end::End;
use integration::exact::play_exactly;
use integration::raw::{Codec, Fields, Frame, Line, PREFACE, data, ping, settings};
use integration::suite::scenario;
use integration::wasm_connection::{
    FAR, Handshaken, NEAR, REQUEST, WasmConnection, field_of, granted, split_head,
};
use integration::wasm_host::{Body, Vm};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
const REFUSED_STREAM: u32 = 7;

fn start(configuration: &str) -> Rc<RefCell<Vm>> {
    Rc::new(RefCell::new(Vm::start(configuration).expect("a VM")))
}

/// After the counts have been handed over.
fn metric(vm: &Rc<RefCell<Vm>>, name: &str) -> u64 {
    vm.borrow_mut().advance(2 * SECOND).unwrap();
    let metric = vm.borrow().metric(&format!("wsferry_{name}"));
    metric.unwrap_or_else(|| panic!("no metric wsferry_{name}"))
}

/// What a near end sends over the WebSocket for what its codec says.
fn sent(end: &mut WasmConnection, http2: &[u8]) -> Vec<u8> {
    let mut websocket = Vec::new();
    end.http2_input(http2, &mut websocket);
    websocket
}

/// What an end tells its codec for what comes from the WebSocket.
fn told(end: &mut WasmConnection, websocket: &[u8]) -> Vec<u8> {
    let mut http2 = Vec::new();
    end.websocket_input(websocket, &mut http2);
    http2
}

/// A request with a body.
fn post() -> Fields {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/"),
    ]
    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
    .to_vec()
}

/// A near end that has sent its request, the codec with so many streams open, and the request.
fn asked(vm: &Rc<RefCell<Vm>>, streams: u32) -> (WasmConnection, Codec, String) {
    let mut end = WasmConnection::open(vm, true).unwrap();
    let mut codec = Codec::client();
    for stream in 0..streams {
        codec.headers(1 + 2 * stream, &post(), false);
    }
    let output = std::mem::take(&mut codec.output);
    let request = String::from_utf8(sent(&mut end, &output)).expect("text alone");
    (end, codec, request)
}

#[test]
fn the_near_end_shakes_hands() {
    let vm = start(
        r#"{"role": "near", "filter": "network", "handshake": {"authority": "far.example:8443", "path": "/a?b=c",
            "fields": ["authorization: Bearer token"]}}"#,
    );
    let (_first, _, request) = asked(&vm, 0);
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
    for (name, value) in [
        ("host", "far.example:8443"),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "wsferry.v1"),
        ("authorization", "Bearer token"),
    ] {
        assert_eq!(field_of(&request, name), Some(value), "{name}");
    }
    let key = field_of(&request, "sec-websocket-key").expect("a key");
    assert_eq!(key.len(), 24);
    let (_second, _, other) = asked(&vm, 0);
    assert_ne!(
        field_of(&other, "sec-websocket-key"),
        Some(key),
        "another connection has another key"
    );
    assert!(
        !vm.borrow()
            .logs()
            .iter()
            .any(|line| line.message.contains("token"))
    );
}

/// What the codec says while the handshake is under way waits, and goes as soon as the codec has answered settings.
#[test]
fn the_near_end_sends_nothing_before_the_answer() {
    let vm = start(NEAR);
    let (mut end, mut codec, request) = asked(&vm, 1);
    assert_eq!(sent(&mut end, &ping(*b"question")), b"");
    // An interim response and the answer, cut anywhere, with the first frame behind it.
    let answer = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </>\r\n\r\n{}",
        granted(&request)
    );
    for byte in answer.as_bytes() {
        assert!(!vm.borrow().has_logged(2, "WebSocket opened"));
        codec.input(&told(&mut end, &[*byte]));
    }
    assert_eq!(metric(&vm, "websockets_opened"), 1);
    assert!(matches!(codec.received.pop_front(), Some(Frame::Settings(_))));
    let output = std::mem::take(&mut codec.output);
    let websocket = sent(&mut end, &output);
    // Settings and request in one binary message, the PING as a Ping after it; and the codec's ACK goes nowhere.
    assert_eq!(websocket[0], 0x82);
    let second = 2 + 4 + usize::from(websocket[1] & 0x7f);
    assert_eq!(websocket[second], 0x89);
    assert_eq!(second + 2 + 4 + 8, websocket.len());
    assert_eq!(metric(&vm, "streams_opened"), 1);
}

/// All that a codec may send of a body before it has settings (RFC 9113 §6.9.2), and the other end speaks first.
#[test]
fn a_large_body_waits_for_the_answer() {
    let vm = start(NEAR);
    let (mut end, mut codec, request) = asked(&vm, 1);
    let body = [b'x'; 65_535];
    for piece in body.chunks(16_384) {
        assert_eq!(sent(&mut end, &data(1, piece, false)), b"");
    }
    let no_settings = frame(0x82, None, &[0x82, 6, 0xa0]);
    let answer = [granted(&request).as_bytes(), &no_settings].concat();
    codec.input(&told(&mut end, &answer));
    let refused = codec
        .received
        .iter()
        .find(|frame| !matches!(frame, Frame::Settings(_) | Frame::Ping { .. }));
    assert_eq!(refused, None);
    let output = std::mem::take(&mut codec.output);
    let websocket = sent(&mut end, &output);
    assert!(websocket.len() > body.len(), "{} bytes", websocket.len());
    end.close();
    assert_eq!(metric(&vm, "protocol_errors_excessive_load"), 0);
}

#[test]
fn a_denied_handshake_gives_the_requests_back_as_never_sent() {
    let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nnope\n";
    let wrong = |from: &'static str, to: &'static str| {
        move |request: &str| granted(request).replacen(from, to, 1).into_bytes()
    };
    type Answer = Box<dyn Fn(&str) -> Vec<u8>>;
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </>\r\n\r\n";
    let cases: [(&str, Answer); 10] = [
        ("status", Box::new(|_| answer.as_bytes().to_vec())),
        ("status", Box::new(wrong("101", "200"))),
        ("upgrade", Box::new(wrong("Upgrade: websocket", "Upgrade: h2c"))),
        (
            "connection",
            Box::new(wrong("Connection: Upgrade", "Connection: close")),
        ),
        ("accept", Box::new(wrong("Accept: ", "Accept: x"))),
        (
            "extension",
            Box::new(wrong("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n")),
        ),
        ("subprotocol", Box::new(wrong("wsferry.v1", "chat"))),
        ("malformed", Box::new(|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        (
            "head_too_large",
            Box::new(|_| [&b"HTTP/1.1 101 \r\nx: "[..], &[b'x'; 20_000]].concat()),
        ),
        (
            "head_too_large",
            Box::new(|request| (hints.repeat(16_384 / hints.len() + 1) + &granted(request)).into_bytes()),
        ),
    ];
    let vm = start(NEAR);
    for (label, answer) in cases {
        let before = metric(&vm, &format!("handshakes_refused_{label}"));
        let (mut end, mut codec, request) = asked(&vm, 3);
        codec.input(&told(&mut end, &answer(&request)));
        let received: Vec<_> = codec.received.drain(..).collect();
        for stream in [1, 3, 5] {
            let code = REFUSED_STREAM;
            assert!(
                received.contains(&Frame::Reset { stream, code }),
                "{label}: {received:?}"
            );
        }
        assert!(
            received.contains(&Frame::Goaway { last: 0, code: 0 }),
            "{label}: {received:?}"
        );
        // Whatever else comes goes nowhere.
        assert_eq!(sent(&mut end, &ping(*b"question")), b"", "{label}");
        assert_eq!(told(&mut end, b"\x82\x01\x81"), b"", "{label}");
        vm.borrow_mut().advance(TICK).unwrap();
        assert!(end.is_closed(), "{label}: the connection stays");
        end.close();
        assert_eq!(
            metric(&vm, &format!("handshakes_refused_{label}")),
            before + 1,
            "{label}"
        );
        assert!(vm.borrow().has_logged(3, "handshake failed"), "{label}");
        for nothing in [
            "websockets_opened",
            "streams_opened",
            "streams_reset",
            "messages_out",
        ] {
            assert_eq!(metric(&vm, nothing), 0, "{label}: {nothing}");
        }
    }
}

#[test]
fn a_near_end_notices_that_nobody_answers() {
    let vm = start(NEAR);
    // The other end hangs up: with FIN, so that the codec can be told, or without.
    let (mut end, mut codec, _) = asked(&vm, 1);
    let mut http2 = Vec::new();
    end.websocket_end(&mut http2);
    codec.input(&http2);
    let refused = Frame::Reset {
        stream: 1,
        code: REFUSED_STREAM,
    };
    assert!(codec.received.contains(&refused));
    assert_eq!(metric(&vm, "handshakes_refused_no_answer"), 1);
    let (mut end, ..) = asked(&vm, 1);
    end.close();
    assert_eq!(metric(&vm, "handshakes_refused_no_answer"), 2);
    // It says nothing at all.
    let (mut end, ..) = asked(&vm, 1);
    vm.borrow_mut().advance(9 * SECOND).unwrap();
    assert!(!end.is_closed(), "it has ten seconds");
    vm.borrow_mut().advance(SECOND + TICK).unwrap();
    assert!(end.is_closed());
    end.close();
    assert_eq!(metric(&vm, "handshakes_refused_timeout"), 1);
    assert!(vm.borrow().has_logged(3, "no handshake within 10000 ms"));
    assert_eq!(metric(&vm, "handshakes_refused_no_answer"), 2);
}

#[test]
fn the_far_end_shakes_hands_wherever_the_request_is_cut() {
    let vm = start(FAR);
    for place in 0..REQUEST.len() {
        let mut end = WasmConnection::open(&vm, false).unwrap();
        let (first, second) = REQUEST.as_bytes().split_at(place);
        assert_eq!(told(&mut end, first), b"", "{place}");
        let mut codec = Codec::server();
        codec.input(&told(&mut end, second));
        let output = std::mem::take(&mut codec.output);
        let websocket = sent(&mut end, &output);
        let (head, rest) = split_head(&websocket);
        assert!(
            head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{place}: {head}"
        );
        // RFC 6455 §1.3.
        assert_eq!(
            field_of(head, "sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(field_of(head, "sec-websocket-protocol"), Some("wsferry.v1"));
        assert_eq!(rest[0], 0x82, "the codec's settings come with it");
    }
    assert_eq!(metric(&vm, "websockets_opened"), REQUEST.len() as u64);
}

#[test]
fn the_far_end_refuses_whatever_is_no_handshake() {
    let vm = start(
        r#"{"role": "far", "filter": "network", "allowed_origins": ["https://shop.example"],
            "handshake": {"path": "/wsferry"}}"#,
    );
    let changed = |from: &str, to: &str| {
        let changed = REQUEST.replacen(from, to, 1);
        assert_ne!(changed, REQUEST);
        changed.into_bytes()
    };
    let http2 = [PREFACE, &settings(&[])].concat();
    for (status, label, request) in [
        (404, "path", changed("/wsferry", "/")),
        (426, "method", changed("GET", "POST")),
        (426, "upgrade", changed("Upgrade: websocket\r\n", "")),
        (426, "version", changed("Version: 13", "Version: 8")),
        (400, "key", changed("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")),
        (400, "subprotocol", changed("wsferry.v1", "chat")),
        (
            403,
            "origin",
            changed("\r\n\r\n", "\r\nOrigin: https://evil.example\r\n\r\n"),
        ),
        (400, "malformed", changed("Host: far.example\r\n", "")),
        (
            400,
            "malformed",
            changed("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        (400, "malformed", http2),
        (400, "malformed", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
        (
            431,
            "head_too_large",
            [&b"GET / HTTP/1.1\r\nx: "[..], &[b'x'; 20_000]].concat(),
        ),
    ] {
        let before = metric(&vm, &format!("handshakes_refused_{label}"));
        let mut end = WasmConnection::open(&vm, false).unwrap();
        // The codec gets a beginning, so that it says something; that is all it gets.
        let mut codec = Codec::server();
        codec.input(&told(&mut end, &request));
        assert_eq!(codec.take_exchange(), [], "{label}");
        let output = std::mem::take(&mut codec.output);
        let answer = sent(&mut end, &output);
        let (head, body) = split_head(&answer);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{label}: {head}"
        );
        assert!(!body.is_empty(), "{label}: a reason");
        assert!(head.contains("close"), "{label}: {head}");
        assert_eq!(
            told(&mut end, REQUEST.as_bytes()),
            b"",
            "{label}: what comes after"
        );
        assert_eq!(
            sent(&mut end, &ping(*b"question")),
            b"",
            "{label}: nothing more is said"
        );
        vm.borrow_mut().advance(TICK).unwrap();
        assert!(end.is_closed(), "{label}: the connection stays");
        end.close();
        assert_eq!(
            metric(&vm, &format!("handshakes_refused_{label}")),
            before + 1,
            "{label}"
        );
        assert!(
            vm.borrow().has_logged(3, &format!("refused with {status}")),
            "{label}: a log line"
        );
    }
    let mut end = WasmConnection::open(&vm, false).unwrap();
    let allowed = changed("\r\n\r\n", "\r\nOrigin: https://shop.example\r\n\r\n");
    assert!(told(&mut end, &allowed).starts_with(PREFACE));
    assert_eq!(
        metric(&vm, "websockets_opened"),
        0,
        "not before the answer is out"
    );
}

/// The timer may go off before the codec has said what the answer goes out with.
#[test]
fn a_refusal_is_told_before_the_connection_ends() {
    let vm = start(FAR);
    let refused = || {
        let mut end = WasmConnection::open(&vm, false).unwrap();
        let mut codec = Codec::server();
        codec.input(&told(&mut end, REQUEST.replacen("/wsferry", "/", 1).as_bytes()));
        (end, codec)
    };
    let (mut end, mut codec) = refused();
    vm.borrow_mut().advance(TICK).unwrap();
    assert!(!end.is_closed(), "its answer isn't out");
    let output = std::mem::take(&mut codec.output);
    assert!(sent(&mut end, &output).starts_with(b"HTTP/1.1 404 "));
    vm.borrow_mut().advance(TICK).unwrap();
    assert!(end.is_closed());
    // A codec that says nothing.
    let (mut end, _) = refused();
    vm.borrow_mut().advance(2 * SECOND + TICK).unwrap();
    assert!(end.is_closed());
}

/// Which half a connection ended first is told alike, however the bytes come.
#[test]
fn a_client_that_hangs_up_with_its_handshake_has_ended_the_websocket() {
    for with_request in [true, false] {
        let vm = start(FAR);
        let context = vm.borrow_mut().open_connection().unwrap();
        let mut codec = Codec::server();
        let mut vm_now = vm.borrow_mut();
        let given = vm_now
            .downstream_data(context, REQUEST.as_bytes(), with_request)
            .unwrap();
        codec.input(&given.into_bytes());
        if !with_request {
            let given = vm_now.downstream_data(context, b"", true).unwrap();
            codec.input(&given.into_bytes());
        }
        let output = std::mem::take(&mut codec.output);
        vm_now.upstream_data(context, &output, false).unwrap();
        vm_now.upstream_data(context, b"", true).unwrap();
        vm_now.close_connection(context).unwrap();
        drop(vm_now);
        assert_eq!(metric(&vm, "websockets_closed_1006"), 1, "{with_request}");
    }
}

#[test]
fn a_client_that_says_nothing_is_sent_away() {
    let vm = start(r#"{"role": "far", "filter": "network", "handshake": {"timeout_ms": 2000}}"#);
    let mut silent = WasmConnection::open(&vm, false).unwrap();
    let mut slow = WasmConnection::open(&vm, false).unwrap();
    let mut gone = WasmConnection::open(&vm, false).unwrap();
    assert_eq!(told(&mut slow, b"GET /wsferry HTTP/1.1\r\n"), b"");
    // As the health checks of load balancers are.
    gone.close();
    vm.borrow_mut().advance(SECOND).unwrap();
    assert!(!silent.is_closed() && !slow.is_closed());
    vm.borrow_mut().advance(SECOND + TICK).unwrap();
    assert!(silent.is_closed() && slow.is_closed());
    silent.close();
    slow.close();
    assert_eq!(metric(&vm, "handshakes_refused_timeout"), 2);
}

/// The host begins the timer's period anew whenever it is set, and each new connection needs the timer.
#[test]
fn it_is_sent_away_however_many_others_come() {
    let vm = start(r#"{"role": "far", "filter": "network", "handshake": {"timeout_ms": 2000}}"#);
    let mut silent = WasmConnection::open(&vm, false).unwrap();
    for _ in 0..50 {
        let mut other = WasmConnection::open(&vm, false).unwrap();
        vm.borrow_mut().advance(TICK / 2).unwrap();
        other.close();
    }
    assert!(silent.is_closed());
}

/// What a client sends without waiting for the answer is taken all the same.
#[test]
fn frames_may_follow_the_request_at_once() {
    let vm = start(FAR);
    let mut end = WasmConnection::open(&vm, false).unwrap();
    let ping = frame(0x89, Some(KEY), b"early");
    let mut codec = Codec::server();
    codec.input(&told(&mut end, &[REQUEST.as_bytes(), &ping].concat()));
    let output = std::mem::take(&mut codec.output);
    let websocket = sent(&mut end, &output);
    let (_, rest) = split_head(&websocket);
    assert!(rest.ends_with(&frame(0x8a, None, b"early")), "{rest:?}");
}

#[test]
fn bad_input_ends_its_connection_alone() {
    let (near, far) = (start(NEAR), start(FAR));
    let (near_end, far_end) = WasmConnection::connect(&near, &far).unwrap();
    let mut bystander = Line::connect(near_end, far_end, &Chunking::AsIs);
    for case in all() {
        println!("{}", case.name);
        let vm = if case.near { &near } else { &far };
        let counters = [
            format!("protocol_errors_{}", case.label),
            format!("websockets_closed_{}", case.close),
        ];
        let before = counters.clone().map(|name| metric(vm, &name));
        let mut end = Handshaken::open(vm, case.near).unwrap();
        run(&case, &mut end);
        vm.borrow_mut().advance(TICK).unwrap();
        assert!(
            end.connection().is_closed(),
            "{}: the connection stays",
            case.name
        );
        end.connection().close();
        assert_eq!(
            counters.map(|name| metric(vm, &name)),
            before.map(|count| count + 1),
            "{}",
            case.name
        );
        assert!(
            vm.borrow().has_logged(3, &case.label),
            "{}: a log line",
            case.name
        );
        bystander.client.output.extend(ping(*b"bystands"));
        bystander.settle();
        let pong = Frame::PingAck(*b"bystands");
        assert!(
            bystander.client.received.drain(..).any(|frame| frame == pong),
            "{}: the bystander",
            case.name
        );
    }
    for vm in [&near, &far] {
        assert_eq!(vm.borrow().faults(), &[] as &[String]);
    }
}

#[test]
fn a_codec_that_hangs_up_says_close() {
    let (near, far) = (start(NEAR), start(FAR));
    let (near_end, far_end) = WasmConnection::connect(&near, &far).unwrap();
    let mut line = Line::connect(near_end, far_end, &Chunking::AsIs);
    let (mut websocket, mut http2) = (Vec::new(), Vec::new());
    line.near.http2_end(&mut websocket);
    assert_eq!(close_frame(&websocket, true), Some((1000, String::new())));
    line.far.websocket_input(&websocket, &mut http2);
    line.server.input(&http2);
    websocket.clear();
    let output = std::mem::take(&mut line.server.output);
    line.far.http2_input(&output, &mut websocket);
    assert_eq!(
        close_frame(&websocket, false),
        Some((1000, String::new())),
        "the answer"
    );
    // The server closes the TCP connection; a client gives it some time to do so (RFC 6455 §7.1.1).
    line.near.websocket_input(&websocket, &mut http2);
    for vm in [&near, &far] {
        vm.borrow_mut().advance(TICK).unwrap();
    }
    assert!(line.far.is_closed());
    assert!(!line.near.is_closed());
    near.borrow_mut().advance(2 * SECOND).unwrap();
    assert!(line.near.is_closed());
    line.near.close();
    line.far.close();
    for vm in [&near, &far] {
        assert_eq!(metric(vm, "websockets_closed_1000"), 1);
        assert_eq!(metric(vm, "websockets_open"), 0);
    }
}

#[test]
fn a_thousand_connections_leave_no_memory_behind() {
    let (near, far) = (start(NEAR), start(FAR));
    let scenario = scenario("repeated_fields");
    let bytes = || near.borrow_mut().memory_bytes() + far.borrow_mut().memory_bytes();
    let mut after_first = 0;
    for round in 0..1_000 {
        let (near_end, far_end) = WasmConnection::connect(&near, &far).unwrap();
        play_exactly(&scenario, near_end, far_end, &Chunking::AsIs);
        if round == 20 {
            after_first = bytes();
        }
    }
    assert!(
        bytes() <= after_first + 128 * 1024,
        "{after_first} bytes, then {}",
        bytes()
    );
    for vm in [&near, &far] {
        assert_eq!(metric(vm, "websockets_opened"), 1_000);
        assert_eq!(metric(vm, "websockets_open"), 0);
    }
}

/// What a body needs on its way is lent to a connection, and not kept by each.
#[test]
fn websockets_that_are_idle_again_keep_little() {
    let (near, far) = (start(NEAR), start(FAR));
    let status = vec![(b":status".to_vec(), b"200".to_vec())];
    let body = [b'x'; 16_000];
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    for _ in 0..80 {
        let (near_end, far_end) = WasmConnection::connect(&near, &far).unwrap();
        let mut line = Line::connect(near_end, far_end, &Chunking::AsIs);
        line.client.headers(1, &post(), false);
        line.client
            .output
            .extend([data(1, &body, false), data(1, &body, true)].concat());
        line.settle();
        line.server.headers(1, &status, false);
        line.server
            .output
            .extend([data(1, &body, false), data(1, &body, true)].concat());
        line.settle();
        assert!(
            line.client
                .received
                .iter()
                .any(|frame| matches!(frame, Frame::Data { end: true, .. })),
            "{:?}",
            line.client.received
        );
        line.client.received.clear();
        line.server.received.clear();
        lines.push(line);
        bytes.push([&near, &far].map(|vm| vm.borrow_mut().memory_bytes()));
    }
    let [near, far] = [0, 1].map(|end| (bytes[79][end] - bytes[15][end]) / 64);
    println!("{near} and {far} bytes for each");
    assert!(
        near < 32 * 1024 && far < 32 * 1024,
        "{near} and {far} bytes for each"
    );
}

#[test]
fn a_wrong_configuration_fails_at_start() {
    for (configuration, named) in [
        (r#"{"role": "near", "filter": "network"}"#, "handshake.authority"),
        (
            r#"{"role": "near", "handshake": {"authority": "a"}}"#,
            "handshake",
        ),
        (r#"{"role": "far", "filter": "tcp"}"#, "filter"),
    ] {
        let Err(error) = Vm::start(configuration) else {
            panic!("{configuration} is accepted");
        };
        let named = format!("`{named}`");
        assert!(
            error.logs.iter().any(|line| line.message.contains(&named)),
            "{:?}",
            error.logs
        );
    }
}

/// What a network filter is given as an HTTP filter is never passed on.
#[test]
fn a_filter_in_the_wrong_place_lets_nothing_through() {
    let vm = start(FAR);
    let context = vm.borrow_mut().open_stream().unwrap();
    let body = vm.borrow_mut().request_body(context, b"bytes", false);
    assert!(!matches!(body, Ok(Body::Continue(_))), "{body:?}");
    let vm = start(r#"{"role": "far"}"#);
    let context = vm.borrow_mut().open_connection();
    assert!(context.is_err(), "{context:?}");
}
