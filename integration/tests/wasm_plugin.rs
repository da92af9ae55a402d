//! The built module as a plugin: configuration, handshakes, metrics, logs, bad input, and its end.

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

use integration::bad_input::{Case, all, run};
use integration::chunking::Chunking;
use integration::end::End;
use integration::exact::play_exactly;
use integration::raw::Line;
use integration::suite::{FAR, NEAR, scenario};
use integration::wasm_end::{WasmEnd, handshake_request, tunnel_request, upstream_answer};
use integration::wasm_host::{HeaderMap, Headers, Vm, field, header_map};

const SECOND: Duration = Duration::from_secs(1);

fn start(configuration: &str) -> Rc<RefCell<Vm>> {
    Rc::new(RefCell::new(Vm::start(configuration).expect("a VM")))
}

fn metric(vm: &Rc<RefCell<Vm>>, name: &str) -> u64 {
    let metric = vm.borrow().metric(&format!("wsferry_{name}"));
    metric.unwrap_or_else(|| panic!("no metric wsferry_{name}"))
}

fn without(mut headers: HeaderMap, name: &str) -> HeaderMap {
    headers.retain(|field| field.0 != name.as_bytes());
    headers
}

fn with(headers: HeaderMap, name: &str, value: &str) -> HeaderMap {
    let mut headers = without(headers, name);
    headers.extend(header_map(&[(name, value)]));
    headers
}

#[test]
fn a_bad_configuration_fails_and_names_the_field() {
    for (configuration, named) in [
        ("", "role"),
        ("{", "configuration"),
        (r#"{"role": "middle"}"#, "middle"),
        (r#"{"role": "near", "colour": 1}"#, "colour"),
        (
            r#"{"role": "near", "limits": {"max_streams": 0}}"#,
            "limits.max_streams",
        ),
        (
            r#"{"role": "near", "allowed_origins": ["https://a"]}"#,
            "allowed_origins",
        ),
        (r#"{"role": "far", "metrics_prefix": "a.b"}"#, "metrics_prefix"),
        (r#"{"role": "far", "close_timeout_ms": 1}"#, "close_timeout_ms"),
    ] {
        let Err(error) = Vm::start(configuration) else {
            panic!("{configuration} is accepted");
        };
        assert_eq!(error.stage, "proxy_on_configure", "{configuration}");
        assert!(
            error
                .logs
                .iter()
                .any(|line| line.level >= 4 && line.message.contains(named)),
            "{configuration}: {:?}",
            error.logs
        );
    }
}

#[test]
fn without_streams_nothing_happens() {
    for configuration in [NEAR, FAR] {
        let vm = start(configuration);
        let before = vm.borrow().logs().len();
        vm.borrow_mut().advance(60 * SECOND).expect("a living VM");
        assert_eq!(vm.borrow().logs().len(), before);
        let metrics = vm.borrow().metrics();
        assert!(metrics.len() > 40, "{} metrics are defined", metrics.len());
        assert_eq!(metrics.iter().find(|metric| metric.1 != 0), None);
    }
}

#[test]
fn the_near_end_shakes_hands() {
    let vm = start(NEAR);
    let context = vm.borrow_mut().open_stream().unwrap();
    let request = vm.borrow_mut().request_headers(context, tunnel_request(), false);
    let Headers::Continue(request) = request.unwrap() else {
        panic!("the request doesn't go on");
    };
    for (name, value) in [
        (":method", "GET"),
        (":path", "/wsferry"),
        (":authority", "far.example"),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "wsferry.v1"),
    ] {
        assert_eq!(field(&request, name), Some(value.as_bytes()), "{name}");
    }
    let key = field(&request, "sec-websocket-key").expect("a key").to_vec();
    assert_eq!(key.len(), 24);
    // Another stream has another key.
    let other = vm.borrow_mut().open_stream().unwrap();
    let request = vm.borrow_mut().request_headers(other, tunnel_request(), false);
    let Headers::Continue(request) = request.unwrap() else {
        panic!("the request doesn't go on");
    };
    assert_ne!(field(&request, "sec-websocket-key"), Some(key.as_slice()));
}

#[test]
fn the_near_end_notices_that_no_answer_comes() {
    let vm = start(NEAR);
    let context = vm.borrow_mut().open_stream().unwrap();
    let request = vm.borrow_mut().request_headers(context, tunnel_request(), false);
    assert!(matches!(request, Ok(Headers::Continue(_))));
    vm.borrow_mut().close_stream(context).unwrap();
    vm.borrow_mut().advance(2 * SECOND).unwrap();
    assert_eq!(metric(&vm, "handshakes_refused_no_answer"), 1);
    assert!(vm.borrow().has_logged(3, "handshake failed"));
}

#[test]
fn the_near_end_refuses_wrong_answers() {
    let answer = || {
        header_map(&[
            (":status", "101"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-protocol", "wsferry.v1"),
        ])
    };
    let vm = start(NEAR);
    for (label, answer) in [
        ("status", with(answer(), ":status", "200")),
        ("status", with(answer(), ":status", "404")),
        ("status", with(answer(), ":status", "302")),
        ("upgrade", without(answer(), "upgrade")),
        ("connection", without(answer(), "connection")),
        (
            "accept",
            with(answer(), "sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ),
        ("accept", answer()),
    ] {
        let before = {
            vm.borrow_mut().advance(SECOND).unwrap();
            metric(&vm, &format!("handshakes_refused_{label}"))
        };
        let context = vm.borrow_mut().open_stream().unwrap();
        let request = vm.borrow_mut().request_headers(context, tunnel_request(), false);
        assert!(matches!(request, Ok(Headers::Continue(_))));
        let response = vm.borrow_mut().response_headers(context, answer, false).unwrap();
        // tcp_proxy takes any 2xx for an open tunnel.
        match response {
            Headers::Continue(headers) => {
                let status = field(&headers, ":status").expect("a status");
                assert!(!status.starts_with(b"2") && status != b"101", "{label}: goes on");
            }
            Headers::Reset | Headers::Answered(_) => {}
            Headers::Paused => panic!("{label}: hangs"),
        }
        vm.borrow_mut().close_stream(context).unwrap();
        vm.borrow_mut().advance(SECOND).unwrap();
        assert_eq!(
            metric(&vm, &format!("handshakes_refused_{label}")),
            before + 1,
            "{label}"
        );
        assert_eq!(metric(&vm, "websockets_opened"), 0);
    }
}

#[test]
fn the_far_end_refuses_whatever_is_no_handshake() {
    let vm = start(r#"{"role": "far", "allowed_origins": ["https://shop.example"]}"#);
    let request = handshake_request;
    for (status, label, headers) in [
        (426, "method", with(request(), ":method", "POST")),
        (426, "method", with(request(), ":method", "CONNECT")),
        (
            426,
            "upgrade",
            without(without(request(), "upgrade"), "connection"),
        ),
        (426, "upgrade", with(request(), "upgrade", "h2c")),
        (426, "version", with(request(), "sec-websocket-version", "8")),
        (426, "version", without(request(), "sec-websocket-version")),
        (400, "key", with(request(), "sec-websocket-key", "c2hvcnQ=")),
        (400, "key", without(request(), "sec-websocket-key")),
        (
            400,
            "subprotocol",
            with(request(), "sec-websocket-protocol", "chat"),
        ),
        (400, "subprotocol", without(request(), "sec-websocket-protocol")),
        (403, "origin", with(request(), "origin", "https://evil.example")),
    ] {
        vm.borrow_mut().advance(SECOND).unwrap();
        let before = metric(&vm, &format!("handshakes_refused_{label}"));
        let context = vm.borrow_mut().open_stream().unwrap();
        let answer = vm.borrow_mut().request_headers(context, headers, false).unwrap();
        let Headers::Answered(answer) = answer else {
            panic!("{label}: {answer:?}");
        };
        assert_eq!(answer.status(), status, "{label}");
        assert!(!answer.body.is_empty(), "{label}: a reason");
        assert!(answer.details.contains("wsferry"), "{}", answer.details);
        if label == "version" {
            assert_eq!(field(&answer.headers, "sec-websocket-version"), Some(&b"13"[..]));
        }
        // What the client sends after all gets nowhere.
        let body = vm
            .borrow_mut()
            .request_body(context, b"PRI * HTTP/2.0\r\n\r\n", false);
        assert_eq!(body.unwrap().into_bytes(), b"", "{label}");
        vm.borrow_mut().close_stream(context).unwrap();
        vm.borrow_mut().advance(SECOND).unwrap();
        assert_eq!(
            metric(&vm, &format!("handshakes_refused_{label}")),
            before + 1,
            "{label}"
        );
        assert!(
            vm.borrow().has_logged(3, &answer.status().to_string()),
            "{label}: a log line"
        );
    }
    // An origin of the list passes.
    let context = vm.borrow_mut().open_stream().unwrap();
    let headers = with(request(), "origin", "https://shop.example");
    let passed = vm.borrow_mut().request_headers(context, headers, false).unwrap();
    let Headers::Continue(passed) = passed else {
        panic!("{passed:?}");
    };
    assert_eq!(field(&passed, ":method"), Some(&b"POST"[..]));
    assert_eq!(field(&passed, "upgrade"), Some(&b"websocket"[..]));
    let answer = vm
        .borrow_mut()
        .response_headers(context, upstream_answer(), false)
        .unwrap();
    let Headers::Continue(answer) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(field(&answer, ":status"), Some(&b"101"[..]));
    // RFC 6455 section 1.3.
    assert_eq!(
        field(&answer, "sec-websocket-accept"),
        Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..])
    );
    assert_eq!(field(&answer, "sec-websocket-protocol"), Some(&b"wsferry.v1"[..]));
}

#[test]
fn metrics_and_logs_tell_what_happened() {
    let (near, far) = (start(NEAR), start(FAR));
    let (near_end, far_end) = WasmEnd::connect(&near, &far).unwrap();
    let traffic = play_exactly(&scenario("fields_100"), near_end, far_end, &Chunking::AsIs);
    // The ends are dropped, so both streams have ended without a Close.
    for (vm, role) in [(&near, "near"), (&far, "far")] {
        vm.borrow_mut().advance(2 * SECOND).unwrap();
        assert_eq!(metric(vm, "websockets_open"), 0, "{role}");
        assert_eq!(metric(vm, "websockets_opened"), 1, "{role}");
        assert_eq!(metric(vm, "websockets_closed_1006"), 1, "{role}");
        assert_eq!(metric(vm, "streams_opened"), 3, "{role}");
        assert_eq!(metric(vm, "streams_reset"), 0, "{role}");
        let (before, after) = (
            metric(vm, "header_bytes_before"),
            metric(vm, "header_bytes_after"),
        );
        assert!(
            after * 2 < before,
            "{role}: header bytes {before} before, {after} after"
        );
        assert!(vm.borrow().has_logged(2, "WebSocket opened"), "{role}");
        // No stream was cut off, so that isn't worth a warning.
        assert!(
            vm.borrow().has_logged(2, "WebSocket closed without Close"),
            "{role}"
        );
        assert_eq!(vm.borrow().faults(), &[] as &[String], "{role}");
    }
    let bytes = |bytes: &Vec<u8>| bytes.len() as u64;
    assert_eq!(
        metric(&near, "websocket_bytes_out"),
        bytes(&traffic.near_websocket)
    );
    assert_eq!(metric(&far, "websocket_bytes_in"), bytes(&traffic.near_websocket));
    assert_eq!(metric(&far, "websocket_bytes_out"), bytes(&traffic.far_websocket));
    assert_eq!(metric(&near, "websocket_bytes_in"), bytes(&traffic.far_websocket));
    assert_eq!(metric(&near, "messages_out"), metric(&far, "messages_in"));
    assert_eq!(metric(&far, "messages_out"), metric(&near, "messages_in"));
}

#[test]
fn logs_hold_no_secrets() {
    let (near, far) = (start(NEAR), start(FAR));
    let (near_end, far_end) = WasmEnd::connect(&near, &far).unwrap();
    play_exactly(&scenario("credentials"), near_end, far_end, &Chunking::AsIs);
    for vm in [&near, &far] {
        for line in vm.borrow().logs() {
            for secret in ["Bearer", "eyJ", "sid=", "c0ffee"] {
                assert!(!line.message.contains(secret), "{}", line.message);
            }
        }
    }
}

/// A new configuration makes a new plugin, and the old one goes before its timer does.
#[test]
fn a_plugin_that_goes_leaves_its_counts() {
    let vm = start(r#"{"role": "far"}"#);
    let context = vm.borrow_mut().open_stream().unwrap();
    let headers = with(handshake_request(), "sec-websocket-version", "8");
    vm.borrow_mut().request_headers(context, headers, false).unwrap();
    vm.borrow_mut().close_stream(context).unwrap();
    assert_eq!(metric(&vm, "handshakes_refused_version"), 0);
    vm.borrow_mut().delete_plugin().unwrap();
    assert_eq!(metric(&vm, "handshakes_refused_version"), 1);
}

#[test]
fn the_metrics_prefix_is_the_operators() {
    let vm = start(r#"{"role": "far", "metrics_prefix": "edge"}"#);
    let metrics = vm.borrow().metrics();
    assert!(
        metrics.iter().all(|metric| metric.0.starts_with("edge_")),
        "{metrics:?}"
    );
}

/// Runs one case in the VM of others, which must not notice.
fn bad_input(
    case: &Case,
    bad: &Rc<RefCell<Vm>>,
    good: &Rc<RefCell<Vm>>,
    bystander: &mut Line<WasmEnd, WasmEnd>,
) {
    let before = (
        metric(bad, &format!("protocol_errors_{}", case.label)),
        metric(bad, &format!("websockets_closed_{}", case.close)),
    );
    let (near, far) = if case.near { (bad, good) } else { (good, bad) };
    let (mut near_end, mut far_end) = WasmEnd::connect(near, far).unwrap();
    run(case, if case.near { &mut near_end } else { &mut far_end });
    // The peer doesn't answer, so the stream is ended when its time is over.
    bad.borrow_mut().advance(10 * SECOND).unwrap();
    let end = if case.near { &mut near_end } else { &mut far_end };
    // A near end's stream ends with the far end's connection: tcp_proxy's chain knows no reset.
    assert_eq!(
        end.is_reset(),
        !case.near,
        "{}: whether the stream is reset",
        case.name
    );
    end.close();
    bad.borrow_mut().advance(2 * SECOND).unwrap();
    let after = (
        metric(bad, &format!("protocol_errors_{}", case.label)),
        metric(bad, &format!("websockets_closed_{}", case.close)),
    );
    assert_eq!(after, (before.0 + 1, before.1 + 1), "{}: counters", case.name);
    assert!(
        bad.borrow().has_logged(3, &case.label),
        "{}: a log line",
        case.name
    );
    bystander
        .client
        .output
        .extend(integration::raw::ping(*b"bystands"));
    bystander.settle();
    let pong = integration::raw::Frame::PingAck(*b"bystands");
    assert!(
        bystander.client.received.drain(..).any(|frame| frame == pong),
        "{}: the bystander",
        case.name
    );
}

#[test]
fn bad_input_ends_its_websocket_alone() {
    let (near, far) = (start(NEAR), start(FAR));
    let (near_end, far_end) = WasmEnd::connect(&near, &far).unwrap();
    let mut bystander = Line::connect(near_end, far_end, &Chunking::AsIs);
    for case in all() {
        println!("{}", case.name);
        let (bad, good) = if case.near { (&near, &far) } else { (&far, &near) };
        bad_input(&case, bad, good, &mut bystander);
    }
    for vm in [&near, &far] {
        assert_eq!(vm.borrow().faults(), &[] as &[String]);
    }
}

#[test]
fn a_close_is_answered_and_ends_the_stream() {
    let vm = start(FAR);
    let mut end = WasmEnd::far(&vm).unwrap();
    let (mut websocket, mut http2) = (Vec::new(), Vec::new());
    let close =
        integration::bad_input::frame(0x88, Some(integration::bad_input::KEY), &1000u16.to_be_bytes());
    end.websocket_input(&close, &mut http2);
    let mut codec = integration::raw::Codec::server();
    codec.input(&http2);
    let output = std::mem::take(&mut codec.output);
    end.http2_input(&output, &mut websocket);
    assert_eq!(
        integration::bad_input::close_frame(&websocket, false),
        Some((1000, String::new()))
    );
    vm.borrow_mut().advance(SECOND).unwrap();
    assert!(end.is_reset(), "the stream lives on");
    end.close();
    vm.borrow_mut().advance(2 * SECOND).unwrap();
    assert_eq!(metric(&vm, "websockets_closed_1000"), 1);
    assert_eq!(metric(&vm, "websockets_open"), 0);
}

/// The label of an error goes to the log, other words don't.
#[test]
fn the_reason_that_the_other_end_gives_is_logged() {
    let vm = start(FAR);
    for (code, reason, logged) in [
        (
            1007_u16,
            "message_form",
            "by the other end with 1007 (message_form) after",
        ),
        (1000, "Bearer c0ffee", "by the other end with 1000 after"),
    ] {
        let mut end = WasmEnd::far(&vm).unwrap();
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        let close = integration::bad_input::frame(0x88, Some(integration::bad_input::KEY), &payload);
        end.websocket_input(&close, &mut Vec::new());
        end.close();
        assert!(
            vm.borrow()
                .logs()
                .iter()
                .any(|line| line.message.contains(logged)),
            "{:?}",
            vm.borrow().logs()
        );
    }
}

/// Until the other end's first message nothing can be said to the codec, and its keepalive hasn't begun.
#[test]
fn a_far_end_waits_for_the_first_message_for_a_time() {
    let vm = start(FAR);
    let (mut silent, mut empty, mut heard) = (
        WasmEnd::far(&vm).unwrap(),
        WasmEnd::far(&vm).unwrap(),
        WasmEnd::far(&vm).unwrap(),
    );
    let message = |payload| integration::bad_input::frame(0x82, Some(integration::bad_input::KEY), payload);
    let (mut websocket, mut http2) = (Vec::new(), Vec::new());
    empty.websocket_input(&message(b""), &mut http2);
    assert_eq!(http2, b"");
    heard.websocket_input(&message(b"\x82\x06\xa0"), &mut http2);
    let mut codec = integration::raw::Codec::server();
    codec.input(&http2);
    heard.http2_input(&std::mem::take(&mut codec.output), &mut websocket);
    vm.borrow_mut().advance(9 * SECOND).unwrap();
    assert!(!silent.is_reset() && !empty.is_reset());
    vm.borrow_mut().advance(2 * SECOND).unwrap();
    assert!(silent.is_reset() && empty.is_reset());
    for end in [&mut silent, &mut empty] {
        end.close();
    }
    assert!(vm.borrow().has_logged(3, "(no message within 10000 ms)"));
    vm.borrow_mut().advance(60 * SECOND).unwrap();
    assert!(!heard.is_reset());
    assert_eq!(metric(&vm, "websockets_open"), 1);
    assert_eq!(metric(&vm, "websockets_closed_1006"), 2);
}

#[test]
fn a_thousand_connections_leave_no_memory_behind() {
    let (near, far) = (start(NEAR), start(FAR));
    let scenario = scenario("repeated_fields");
    let mut after_first = 0;
    for round in 0..1_000 {
        let (near_end, far_end) = WasmEnd::connect(&near, &far).unwrap();
        play_exactly(&scenario, near_end, far_end, &Chunking::AsIs);
        if round == 20 {
            after_first = near.borrow_mut().memory_bytes() + far.borrow_mut().memory_bytes();
        }
    }
    let bytes = near.borrow_mut().memory_bytes() + far.borrow_mut().memory_bytes();
    assert!(
        bytes <= after_first + 128 * 1024,
        "{after_first} bytes, then {bytes}"
    );
}
