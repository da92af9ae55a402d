//! The built module as a connection manager: what it asks of the host, and when.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::time::Duration;

use integration::raw::PREFACE;
use integration::wasm_end::tunnel_request;
use integration::wasm_host::{HeaderMap, Headers, SharedData, Vm, field, header_map};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The configuration of a near converter that shares data with the connection managers.
const NEAR: &str =
    r#"{"role": "near", "filter": "network", "handshake": {"authority": "far.example"}, "tunnel": "far"}"#;

/// The plugin's configuration with one tunnel, to which these fields are added.
fn configuration(tunnel: &str) -> String {
    format!(
        r#"{{"role": "connection_manager",
            "tunnels": [{{"name": "far", "probe": {{"cluster": "tunnel"}}, "jitter_percent": 0 {tunnel}}}]}}"#
    )
}

fn start(tunnel: &str, shared: &SharedData) -> Vm {
    Vm::start_sharing(&configuration(tunnel), shared).expect("a VM")
}

/// A request whose client would like to choose the way itself.
fn request() -> HeaderMap {
    header_map(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app.example"),
        (":path", "/"),
        ("x-wsferry-way", "websocket"),
    ])
}

/// What the routes see; nothing where the request goes over plain HTTP.
fn way(headers: &HeaderMap) -> String {
    let value = field(headers, "x-wsferry-way").unwrap_or(b"http");
    String::from_utf8_lossy(value).into_owned()
}

/// A whole exchange: what was decided for it.
fn exchange(vm: &mut Vm) -> String {
    let context = vm.open_stream().unwrap();
    let Headers::Continue(headers) = vm.request_headers(context, request(), true).unwrap() else {
        panic!("the request doesn't go on");
    };
    let decision = vm.filter_state(context, "wsferry.decision").expect("a decision");
    let decision = String::from_utf8_lossy(decision).into_owned();
    assert!(decision.starts_with(&format!("{} ", way(&headers))), "{decision}");
    vm.set_property(&["response", "code_details"], b"via_upstream");
    vm.response_headers(context, header_map(&[(":status", "200")]), true)
        .unwrap();
    vm.close_stream(context).unwrap();
    decision
}

/// The one call that is under way.
fn only_call(vm: &Vm) -> u32 {
    let [call] = vm.calls() else {
        panic!("one call: {:?}", vm.calls());
    };
    assert_eq!(call.cluster, "tunnel");
    assert_eq!(call.timeout, 1_000);
    for (name, value) in [
        (":method", "GET"),
        (":path", "/wsferry/probe"),
        (":authority", "wsferry.internal"),
    ] {
        assert_eq!(field(&call.headers, name), Some(value.as_bytes()), "{name}");
    }
    call.token
}

/// Enough requests at once to open the tunnel; its probe is sent.
fn open(vm: &mut Vm) -> u32 {
    for _ in 0..5 {
        exchange(vm);
    }
    vm.advance(SECOND / 10).unwrap();
    only_call(vm)
}

/// Lets seconds pass, each after this, until three probes found no room.
fn refuse_three_probes(vm: &mut Vm, mut each_second: impl FnMut(&mut Vm)) {
    vm.refuse_calls(true);
    for _ in 0..60 {
        if vm.metric("wsferry_probes_unsent") >= Some(3) {
            return;
        }
        each_second(vm);
        vm.advance(SECOND).unwrap();
    }
    let unsent = vm.metric("wsferry_probes_unsent");
    panic!("three probes find no room within a minute: {unsent:?}");
}

fn up(vm: &Vm) -> Option<u64> {
    vm.metric("wsferry_tunnel_far_up")
}

fn logged(vm: &Vm, text: &str) -> bool {
    vm.logs().iter().any(|line| line.message.contains(text))
}

#[test]
fn a_bad_configuration_names_the_field() {
    let Err(error) = Vm::start(&configuration(r#", "mode": "sometimes""#)) else {
        panic!("accepted");
    };
    assert_eq!(error.stage, "proxy_on_configure");
    let named = |text| error.logs.iter().any(|line| line.message.contains(text));
    assert!(named("mode") || named("sometimes"), "{:?}", error.logs);
}

#[test]
fn a_cold_tunnel_is_left_alone() {
    let mut vm = start("", &SharedData::default());
    assert_eq!(exchange(&mut vm), "http cold");
    for _ in 0..10 {
        vm.advance(10 * SECOND).unwrap();
        assert_eq!(exchange(&mut vm), "http cold");
    }
    assert_eq!(vm.calls(), []);
    assert_eq!(up(&vm), Some(0));
}

#[test]
fn the_rate_opens_a_tunnel_and_a_probe_brings_it_up() {
    let mut vm = start("", &SharedData::default());
    let probe = open(&mut vm);
    assert!(exchange(&mut vm).starts_with("http "));
    vm.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut vm), "websocket up");
    assert_eq!(up(&vm), Some(1));
    assert!(logged(&vm, "tunnel far: opening -> up"), "{:?}", vm.logs());
    // The next one keeps it up, and one without answer takes it out of use.
    vm.advance(5 * SECOND).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut vm), "websocket up");
    vm.advance(5 * SECOND).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 504).unwrap();
    assert!(exchange(&mut vm).starts_with("http "));
    vm.advance(2 * SECOND).unwrap();
    assert_eq!(vm.metric("wsferry_probes_timed_out"), Some(1));
    assert!(
        logged(&vm, "tunnel far: probe not answered within 1000 ms"),
        "{:?}",
        vm.logs()
    );
    assert_eq!(vm.faults(), &[] as &[String]);
}

/// A new configuration makes a new plugin, and the old one goes before its timer does.
#[test]
fn a_plugin_that_goes_leaves_its_counts() {
    let mut vm = start("", &SharedData::default());
    for _ in 0..3 {
        assert_eq!(exchange(&mut vm), "http cold");
    }
    assert_eq!(vm.metric("wsferry_decisions_http_cold"), Some(0));
    vm.delete_plugin().unwrap();
    assert_eq!(vm.metric("wsferry_decisions_http_cold"), Some(3));
    assert_eq!(vm.faults(), &[] as &[String]);
}

/// As when the circuit breakers of the tunnel's cluster bound it: that is no failure of the tunnel, but plain HTTP has room.
#[test]
fn a_probe_that_finds_no_room_has_requests_go_over_plain_http() {
    let mut vm = start(r#", "failures": {"consecutive": 1}"#, &SharedData::default());
    let probe = open(&mut vm);
    vm.answer_call(probe, 204).unwrap();
    refuse_three_probes(&mut vm, |vm| {
        exchange(vm);
    });
    assert_eq!(exchange(&mut vm), "http suspect");
    assert!(logged(
        &vm,
        "tunnel far: probe not sent, a circuit breaker of cluster tunnel is full"
    ));
    vm.refuse_calls(false);
    vm.advance(SECOND * 11 / 10).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut vm), "websocket up");
    assert!(!logged(&vm, "backoff"));
}

#[test]
fn in_mode_always_a_probe_that_finds_no_room_says_nothing() {
    let mut vm = start(
        r#", "mode": "always", "failures": {"consecutive": 1}"#,
        &SharedData::default(),
    );
    let context = vm.open_stream().unwrap();
    vm.request_headers(context, request(), true).unwrap();
    vm.advance(SECOND / 10).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 204).unwrap();
    refuse_three_probes(&mut vm, |_| {});
    let context = vm.open_stream().unwrap();
    let Headers::Continue(headers) = vm.request_headers(context, request(), true).unwrap() else {
        panic!("the request doesn't go on");
    };
    assert_eq!(way(&headers), "websocket_only");
    assert!(!logged(&vm, "backoff"));
}

/// What Envoy says of a request's end, and what was asked; not every route of the listener need lead into the tunnel.
#[test]
fn what_broke_elsewhere_is_not_held_against_the_tunnel() {
    for (details, address, next) in [
        (
            "upstream_reset_before_response_started{remote_connection_failure}",
            "envoy://carrier/",
            "http backoff",
        ),
        (
            "upstream_reset_after_response_started{connection_termination}",
            "envoy://carrier/",
            "http backoff",
        ),
        (
            "upstream_reset_before_response_started{remote_connection_failure}",
            "10.0.0.1:80",
            "websocket up",
        ),
        (
            "ext_proc_error_gRPC_error_14{remote_connection_failure}",
            "envoy://carrier/",
            "websocket up",
        ),
        (
            "upstream_reset_before_response_started{remote_reset}",
            "envoy://carrier/",
            "websocket up",
        ),
        ("no_healthy_upstream", "", "http suspect"),
        (
            "upstream_reset_before_response_started{overflow}",
            "envoy://carrier/",
            "http suspect",
        ),
        (
            "upstream_reset_before_response_started{overflow}",
            "10.0.0.1:80",
            "websocket up",
        ),
        ("cluster_not_found", "", "http suspect"),
        (
            "upstream_reset_before_response_started{connection_timeout}",
            "",
            "http suspect",
        ),
    ] {
        let mut vm = start(r#", "failures": {"consecutive": 1}"#, &SharedData::default());
        let probe = open(&mut vm);
        vm.answer_call(probe, 204).unwrap();
        let context = vm.open_stream().unwrap();
        vm.request_headers(context, request(), true).unwrap();
        vm.set_property(&["response", "code_details"], details.as_bytes());
        vm.set_property(&["upstream", "address"], address.as_bytes());
        vm.close_stream(context).unwrap();
        assert_eq!(exchange(&mut vm), next, "{details} {address}");
    }
}

/// Envoy needn't call `proxy_on_done` for the end of a request to be noticed.
#[test]
fn a_request_whose_context_is_deleted_has_left_the_tunnel() {
    let mut vm = start(r#", "load": {"max_in_flight": 1}"#, &SharedData::default());
    let probe = open(&mut vm);
    vm.answer_call(probe, 204).unwrap();
    let context = vm.open_stream().unwrap();
    vm.request_headers(context, request(), true).unwrap();
    assert_eq!(exchange(&mut vm), "http in_flight");
    vm.set_property(
        &["response", "code_details"],
        b"upstream_reset_before_response_started{connection_termination}",
    );
    vm.set_property(&["upstream", "address"], b"envoy://carrier/");
    vm.delete_stream(context).unwrap();
    assert_eq!(exchange(&mut vm), "http suspect", "what its end shows counts too");
    vm.advance(SECOND / 10).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut vm), "websocket up");
    // One that waits is forgotten.
    let mut vm = start(r#", "mode": "always""#, &SharedData::default());
    let context = vm.open_stream().unwrap();
    vm.request_headers(context, request(), true).unwrap();
    vm.delete_stream(context).unwrap();
    vm.advance(SECOND / 10).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 204).unwrap();
    assert_eq!(vm.metric("wsferry_decisions_websocket_waited"), Some(0));
    assert_eq!(vm.faults(), &[] as &[String]);
}

#[test]
fn a_request_waits_for_the_only_way() {
    let mut vm = start(r#", "mode": "always""#, &SharedData::default());
    let context = vm.open_stream().unwrap();
    assert_eq!(
        vm.request_headers(context, request(), true).unwrap(),
        Headers::Paused
    );
    vm.advance(SECOND / 10).unwrap();
    let probe = only_call(&vm);
    assert_eq!(vm.take_continued(context), None);
    vm.answer_call(probe, 204).unwrap();
    // Not while Envoy's codec is about to read on.
    assert_eq!(vm.take_continued(context), None);
    vm.advance(MILLISECOND).unwrap();
    let headers = vm.take_continued(context).expect("the request goes on");
    assert_eq!(way(&headers), "websocket_only");
    vm.close_stream(context).unwrap();
}

/// As where `capability_restriction_config` lacks `proxy_set_property`.
#[test]
fn a_request_whose_decision_cannot_be_published_is_refused() {
    let mut vm = start(r#", "mode": "always""#, &SharedData::default());
    vm.refuse_properties();
    let waits = vm.open_stream().unwrap();
    assert_eq!(
        vm.request_headers(waits, request(), true).unwrap(),
        Headers::Paused
    );
    vm.advance(SECOND / 10).unwrap();
    let probe = only_call(&vm);
    vm.answer_call(probe, 204).unwrap();
    vm.advance(SECOND / 10).unwrap();
    let answer = vm.take_answer(waits).expect("it doesn't hang");
    assert_eq!(answer.details, "wsferry_undecided");
    assert_eq!(vm.take_continued(waits), None);
    let context = vm.open_stream().unwrap();
    let Headers::Answered(answer) = vm.request_headers(context, request(), true).unwrap() else {
        panic!("it goes on");
    };
    assert_eq!(answer.details, "wsferry_undecided");
}

/// No request has shown by then that it isn't the instance of Envoy's main thread.
#[test]
fn a_late_refusal_counts_before_the_first_request_too() {
    let shared = SharedData::default();
    let mut one = start(r#", "eager": true"#, &shared);
    one.advance(SECOND / 10).unwrap();
    let probe = only_call(&one);
    one.answer_call(probe, 504).unwrap();
    refuse_handshake(&shared, &one);
    for _ in 0..100 {
        one.advance(SECOND).unwrap();
        assert_eq!(one.calls(), [], "the target isn't asked again so soon");
    }
}

/// The near converter, which shares data with the connection managers, meets a server that knows no `wsferry.v1`, at the
/// time of this one of them.
fn refuse_handshake(shared: &SharedData, manager: &Vm) {
    let mut vm = Vm::start_sharing(r#"{"role": "near", "tunnel": "far"}"#, shared).expect("a VM");
    vm.advance(manager.age()).unwrap();
    let context = vm.open_stream().unwrap();
    vm.request_headers(context, tunnel_request(), false).unwrap();
    vm.response_headers(context, header_map(&[(":status", "404")]), false)
        .unwrap();
    vm.close_stream(context).unwrap();
}

#[test]
fn a_refused_handshake_is_remembered_by_all_workers() {
    let shared = SharedData::default();
    let (mut one, mut other) = (start("", &shared), start("", &shared));
    let probe = open(&mut one);
    refuse_handshake(&shared, &one);
    one.answer_call(probe, 503).unwrap();
    for _ in 0..10 {
        assert_eq!(exchange(&mut one), "http no_converter");
    }
    for _ in 0..10 {
        exchange(&mut other);
    }
    other.advance(SECOND / 10).unwrap();
    assert_eq!(exchange(&mut other), "http no_converter");
    for vm in [&mut one, &mut other] {
        vm.advance(200 * SECOND).unwrap();
        exchange(vm);
        assert_eq!(vm.calls(), [], "the target isn't asked again so soon");
    }
    // After five minutes it is.
    one.advance(100 * SECOND).unwrap();
    open(&mut one);
}

/// A server, or what stands before it, may take longer to say no than a probe may take.
#[test]
fn a_handshake_that_is_refused_late_counts_too() {
    let shared = SharedData::default();
    let mut one = start("", &shared);
    let probe = open(&mut one);
    one.answer_call(probe, 504).unwrap();
    assert_eq!(exchange(&mut one), "http backoff");
    refuse_handshake(&shared, &one);
    for _ in 0..30 {
        one.advance(SECOND).unwrap();
        exchange(&mut one);
        assert_eq!(one.calls(), [], "the target isn't asked again so soon");
    }
    assert_eq!(exchange(&mut one), "http no_converter");
}

/// A proxy's or a load balancer's answer may be odd, and still says by its status whether it is one of a moment.
#[test]
fn an_odd_answer_counts_by_its_status() {
    let long = format!(
        "HTTP/1.1 503 Busy\r\ncontent-security-policy: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    for (answer, next) in [
        ("HTTP/1.1 503 Busy\r\n\r\n", "http backoff"),
        ("HTTP/1.1 503 Busy\r\nx: a\r\n b\r\n\r\n", "http backoff"),
        (long.as_str(), "http backoff"),
        (
            "HTTP/1.1 404 Not Found\r\nx: a\r\n b\r\n\r\n",
            "http no_converter",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "http no_converter"),
    ] {
        let shared = SharedData::default();
        let mut one = start("", &shared);
        let probe = open(&mut one);
        end_connection(&shared, &one, Some(PREFACE), Some(answer.as_bytes()));
        one.answer_call(probe, 503).unwrap();
        assert_eq!(exchange(&mut one), next, "{answer}");
    }
}

/// Of several servers one may have no converter. That one worker has met it is no verdict while another's WebSocket works.
#[test]
fn a_server_without_converter_among_others_is_no_late_refusal() {
    let shared = SharedData::default();
    let failures = r#", "failures": {"consecutive": 1}"#;
    let (mut one, mut other) = (start(failures, &shared), start(failures, &shared));
    for vm in [&mut one, &mut other] {
        let probe = open(vm);
        vm.answer_call(probe, 204).unwrap();
    }
    // The other one loses its WebSocket, and the first one's is seen to work after that.
    for (vm, status) in [(&mut other, 503), (&mut one, 204)] {
        while vm.calls().is_empty() {
            vm.advance(SECOND / 10).unwrap();
        }
        let probe = only_call(vm);
        vm.answer_call(probe, status).unwrap();
    }
    while other.calls().is_empty() {
        exchange(&mut other);
        other.advance(SECOND / 10).unwrap();
    }
    let probe = only_call(&other);
    refuse_handshake(&shared, &other);
    other.answer_call(probe, 503).unwrap();
    while other.calls().is_empty() {
        assert_eq!(exchange(&mut other), "http backoff");
        other.advance(SECOND / 10).unwrap();
    }
    let probe = only_call(&other);
    other.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut other), "websocket up");
}

/// Nor is it its turn to give away: a third one would ask at the same time.
#[test]
fn a_probe_that_fails_leaves_another_worker_its_turn_to_ask() {
    let shared = SharedData::default();
    let mut workers = [(); 3].map(|()| start(r#", "failures": {"consecutive": 1}"#, &shared));
    let [one, other, third] = &mut workers;
    for vm in [&mut *one, &mut *other] {
        let probe = open(vm);
        vm.answer_call(probe, 204).unwrap();
    }
    // The other one's WebSocket breaks, so that nobody knows what the target is, and it asks.
    let until_it_probes = |vm: &mut Vm| {
        while vm.calls().is_empty() {
            exchange(vm);
            vm.advance(SECOND / 10).unwrap();
        }
    };
    until_it_probes(other);
    let probe = only_call(other);
    other.answer_call(probe, 503).unwrap();
    until_it_probes(other);
    // By then the first one's probe fails.
    one.advance(other.age() - one.age()).unwrap();
    let probe = only_call(one);
    one.answer_call(probe, 503).unwrap();
    third.advance(other.age() - third.age()).unwrap();
    for _ in 0..5 {
        exchange(third);
    }
    third.advance(SECOND / 10).unwrap();
    assert_eq!(third.calls(), [], "two ask at once");
}

/// What was refused before a probe was answered says nothing of what comes after it.
#[test]
fn a_refusal_from_before_the_tunnel_was_up_is_over() {
    let shared = SharedData::default();
    let mut one = start(r#", "failures": {"consecutive": 1}"#, &shared);
    let probe = open(&mut one);
    refuse_handshake(&shared, &one);
    one.answer_call(probe, 204).unwrap();
    while one.calls().is_empty() {
        one.advance(SECOND / 10).unwrap();
    }
    let probe = only_call(&one);
    one.answer_call(probe, 503).unwrap();
    assert_eq!(exchange(&mut one), "http backoff");
    one.advance(SECOND).unwrap();
    only_call(&one);
}

/// Another worker meets another server, while this one's WebSocket goes on; later that ends.
#[test]
fn a_refusal_while_the_tunnel_is_up_hides_no_end_that_comes_later() {
    let shared = SharedData::default();
    let mut one = start("", &shared);
    let probe = open(&mut one);
    one.answer_call(probe, 204).unwrap();
    one.advance(SECOND).unwrap();
    refuse_handshake(&shared, &one);
    assert_eq!(exchange(&mut one), "http suspect");
    one.advance(SECOND / 10).unwrap();
    let probe = only_call(&one);
    one.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut one), "websocket up");
    one.advance(SECOND).unwrap();
    end_connection(&shared, &one, Some(PREFACE), None);
    assert_eq!(exchange(&mut one), "http suspect");
}

/// A near converter's connection ends, at the time of this connection manager: its codec, and the other end, have said so
/// much by then.
fn end_connection(shared: &SharedData, manager: &Vm, sent: Option<&[u8]>, answered: Option<&[u8]>) {
    let mut converter = Vm::start_sharing(NEAR, shared).expect("a VM");
    converter.advance(manager.age()).unwrap();
    let connection = converter.open_connection().unwrap();
    if let Some(bytes) = sent {
        converter.downstream_data(connection, bytes, false).unwrap();
    }
    if let Some(bytes) = answered {
        converter.upstream_data(connection, bytes, false).unwrap();
    }
    converter.close_connection(connection).unwrap();
}

/// As a WebSocket, or before it became one.
#[test]
fn the_end_of_a_websocket_sends_requests_the_other_way_until_a_probe_has_passed() {
    const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
    for (sent, answered) in [
        (None, None),
        (Some(PREFACE), None),
        (Some(PREFACE), Some(REFUSAL)),
    ] {
        let shared = SharedData::default();
        let (mut one, mut other) = (start("", &shared), start("", &shared));
        let probe = open(&mut one);
        one.answer_call(probe, 204).unwrap();
        let probe = open(&mut other);
        other.answer_call(probe, 204).unwrap();
        for vm in [&mut one, &mut other] {
            assert_eq!(exchange(vm), "websocket up");
            vm.advance(SECOND / 10).unwrap();
        }
        end_connection(&shared, &one, sent, answered);
        for vm in [&mut one, &mut other] {
            assert_eq!(exchange(vm), "http suspect");
            vm.advance(SECOND / 10).unwrap();
            let probe = only_call(vm);
            vm.answer_call(probe, 204).unwrap();
            assert_eq!(exchange(vm), "websocket up");
        }
    }
}

#[test]
fn the_timer_stops_when_there_is_nothing_to_do() {
    let mut vm = start(r#", "mode": "never""#, &SharedData::default());
    for _ in 0..2 {
        // The second one is counted only with the next turn of the timer.
        exchange(&mut vm);
        exchange(&mut vm);
        assert!(vm.tick_period().is_some());
        vm.advance(3 * SECOND).unwrap();
        assert_eq!(vm.tick_period(), None);
    }
    assert_eq!(vm.metric("wsferry_decisions_http_mode_never"), Some(4));
}

#[test]
fn an_instance_without_streams_dials_nothing() {
    let mut vm = start("", &SharedData::default());
    vm.advance(3_600 * SECOND).unwrap();
    assert_eq!(vm.calls(), []);
    assert_eq!(vm.logs(), []);
    assert!(vm.metrics().iter().all(|metric| metric.1 == 0));
}

/// Envoy's main thread has an instance, too, whose calls fail at once, as main has no connections to the listener.
#[test]
fn main_with_an_eager_tunnel_counts_nothing_and_leaves_the_turn_to_workers() {
    let shared = SharedData::default();
    let (mut main, mut worker) = (start(r#", "eager": true"#, &shared), start("", &shared));
    main.advance(SECOND / 10).unwrap();
    let probe = only_call(&main);
    main.answer_call(probe, 503).unwrap();
    main.advance(SECOND / 10).unwrap();
    assert_eq!(main.logs(), []);
    assert!(main.metrics().iter().all(|metric| metric.1 == 0));
    let probe = open(&mut worker);
    worker.answer_call(probe, 204).unwrap();
    assert_eq!(exchange(&mut worker), "websocket up");
}
