//! The opening handshake's HTTP/1.1 (RFC 9112), where the filter reads and writes it itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use tungstenite::handshake::client::Request as ClientRequest;
use tungstenite::handshake::machine::TryParse;
use wsferry::websocket::handshake::{self, HandshakeError, Refusal, ResponseHeaders};
use wsferry::websocket::http1::{
    HeadError, MAX_HEAD_BYTES, MAX_HEAD_FIELDS, Request, Response, refusal, request, switching_protocols,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn handshake() -> String {
    request("far.example", "/wsferry", KEY, &[])
}

/// What a far end says to a request whose head is `head`.
fn check(head: &str) -> Result<String, Refusal> {
    let parsed = Request::parse(head.as_bytes()).map_err(Refusal::from)?;
    let (request, length) = parsed.expect("a whole head");
    assert_eq!(length, head.len(), "{head}");
    request.check("/wsferry", &["https://app.example".to_owned()])
}

#[test]
fn a_near_ends_request_is_what_a_far_end_accepts() {
    assert_eq!(check(&handshake()), Ok(ACCEPT.to_owned()));
    let fields = [
        "authorization: Bearer a.b-c".to_owned(),
        "user-agent: other/1".to_owned(),
    ];
    let head = request("[::1]:8080", "/wsferry?near=1", KEY, &fields);
    assert_eq!(check(&head), Ok(ACCEPT.to_owned()));
    let (parsed, _) = Request::parse(head.as_bytes()).unwrap().unwrap();
    let values = |name: &str| -> Vec<_> {
        let of_name = parsed.fields.iter().filter(|field| field.name == name.as_bytes());
        of_name.map(|field| field.value.to_vec()).collect()
    };
    assert_eq!(values("host"), [b"[::1]:8080"]);
    assert_eq!(values("authorization"), [b"Bearer a.b-c"]);
    assert_eq!(values("user-agent"), [b"other/1"]);
}

#[test]
fn a_far_ends_answer_is_what_a_near_end_takes() {
    let answer = switching_protocols(ACCEPT);
    let (response, length) = Response::parse(answer.as_bytes()).unwrap().unwrap();
    assert_eq!(length, answer.len());
    let headers = ResponseHeaders {
        status: response.status,
        fields: &response.fields,
    };
    assert_eq!(handshake::check_response(&headers, ACCEPT), Ok(()));
}

/// Somebody else's WebSocket library makes the request, and takes the answer.
#[test]
fn tungstenite_shakes_hands_with_it() {
    let theirs = ClientRequest::builder()
        .uri("ws://far.example/wsferry")
        .header("host", "far.example")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .header("sec-websocket-protocol", "wsferry.v1")
        .body(())
        .unwrap();
    let (bytes, key) = tungstenite::handshake::client::generate_request(theirs).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let accept = check(&text).expect("a handshake");
    assert_eq!(accept, tungstenite::handshake::derive_accept_key(key.as_bytes()));
    let answer = switching_protocols(&accept);
    let (_, answered) = tungstenite::handshake::client::Response::try_parse(answer.as_bytes())
        .unwrap()
        .expect("a whole response");
    assert_eq!(answered.status(), 101);
    assert_eq!(answered.headers()["sec-websocket-protocol"], "wsferry.v1");
}

#[test]
fn heads_are_read_wherever_they_are_cut() {
    let head = handshake();
    let whole = [head.as_bytes(), b"\x82\x00"].concat();
    for end in 0..head.len() {
        assert_eq!(Request::parse(&whole[..end]), Ok(None), "{end}");
    }
    for end in head.len()..=whole.len() {
        let (_, length) = Request::parse(&whole[..end]).unwrap().expect("a head");
        assert_eq!(length, head.len());
    }
    let answer = switching_protocols(ACCEPT);
    for end in 0..answer.len() {
        assert_eq!(Response::parse(&answer.as_bytes()[..end]), Ok(None), "{end}");
    }
}

#[test]
fn names_lose_their_case_and_values_the_space_around_them() {
    let head = "GET /wsferry HTTP/1.1\r\nHost: far.example\r\nUpgrade:WebSocket\r\nConnection: keep-alive ,  Upgrade\t\r\n\
                Sec-WebSocket-Key:   dGhlIHNhbXBsZSBub25jZQ==  \r\nSEC-WEBSOCKET-VERSION: 13\r\n\
                Sec-WebSocket-Protocol: chat, wsferry.v1\r\n\r\n";
    assert_eq!(check(head), Ok(ACCEPT.to_owned()));
}

#[test]
fn what_is_no_handshake_is_refused_with_the_reason() {
    let head = handshake();
    for (from, to, refusal) in [
        ("GET /wsferry ", "GET / ", Refusal::Path),
        ("GET /wsferry ", "GET /wsferry/ ", Refusal::Path),
        ("GET /wsferry ", "GET /WSFERRY ", Refusal::Path),
        ("GET /wsferry ", "GET http://far.example ", Refusal::Path),
        ("GET /wsferry ", "GET http://far.example/ ", Refusal::Path),
        (
            "GET /wsferry ",
            "GET http://far.example?a=/wsferry ",
            Refusal::Path,
        ),
        ("GET /wsferry ", "GET http://far.example#/wsferry ", Refusal::Path),
        ("GET /wsferry ", "GET other://far.example/wsferry ", Refusal::Path),
        ("GET /wsferry ", "POST /wsferry ", Refusal::Method),
        ("GET /wsferry ", "get /wsferry ", Refusal::Method),
        ("HTTP/1.1", "HTTP/1.0", Refusal::Upgrade),
        ("HTTP/1.1", "HTTP/2.0", Refusal::Malformed),
        ("host: far.example\r\n", "", Refusal::Malformed),
        (
            "host: far.example\r\n",
            "host: a\r\nhost: b\r\n",
            Refusal::Malformed,
        ),
        ("\r\n\r\n", "\r\ncontent-length: 1\r\n\r\n", Refusal::Malformed),
        (
            "\r\n\r\n",
            "\r\ntransfer-encoding: chunked\r\n\r\n",
            Refusal::Malformed,
        ),
        ("host: far.example", "host : far.example", Refusal::Malformed),
        ("host: far.example", "host: far\0example", Refusal::Malformed),
        ("upgrade: websocket\r\n", "", Refusal::Upgrade),
        (
            "sec-websocket-version: 13",
            "sec-websocket-version: 8",
            Refusal::Version,
        ),
        (KEY, "short", Refusal::Key),
        ("wsferry.v1", "wsferry.v2", Refusal::Subprotocol),
        (
            "\r\n\r\n",
            "\r\norigin: https://evil.example\r\n\r\n",
            Refusal::Origin,
        ),
    ] {
        let changed = head.replacen(from, to, 1);
        assert_ne!(changed, head);
        assert_eq!(check(&changed), Err(refusal), "{changed}");
    }
    let browser = head.replacen("\r\n\r\n", "\r\norigin: https://app.example\r\n\r\n", 1);
    assert_eq!(check(&browser), Ok(ACCEPT.to_owned()));
    // Some clients say that there is no body.
    let empty = head.replacen("\r\n\r\n", "\r\ncontent-length: 0\r\n\r\n", 1);
    assert_eq!(check(&empty), Ok(ACCEPT.to_owned()));
}

/// A server has to take it (RFC 9112 §3.2.2).
#[test]
fn a_target_in_absolute_form_is_its_path() {
    for target in [
        "http://far.example/wsferry",
        "HTTPS://far.example:443/wsferry?near=1",
    ] {
        let head = handshake().replacen("GET /wsferry ", &format!("GET {target} "), 1);
        assert_eq!(check(&head), Ok(ACCEPT.to_owned()), "{target}");
    }
}

#[test]
fn what_is_no_http_is_refused_at_once() {
    // A TLS client, an SSH client, an HTTP/2 client.
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        assert_eq!(
            Request::parse(bytes).map(|_| ()),
            Err(HeadError::Malformed),
            "{bytes:?}"
        );
    }
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/1.1 1x1 \r\n\r\n",
        b"HTTP/1.1 099 \r\n\r\n",
        b"HTTP/1.0 101 \r\n\r\n",
    ] {
        assert_eq!(
            Response::parse(bytes).map(|_| ()),
            Err(HeadError::Malformed),
            "{bytes:?}"
        );
    }
    // A proxy's own error may be older.
    let (response, _) = Response::parse(b"HTTP/1.0 503 \r\n\r\n").unwrap().unwrap();
    assert_eq!(response.status, 503);
}

#[test]
fn what_is_odd_about_other_lines_of_an_answer_is_passed_over() {
    for line in ["x: a\r\n b", "X Y: z", "x\u{e9}: z", ": z", "no colon"] {
        let answer = switching_protocols(ACCEPT).replacen("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"), 1);
        let (response, length) = Response::parse(answer.as_bytes()).unwrap().expect("a head");
        assert_eq!((response.status, length), (101, answer.len()), "{line}");
        assert_eq!(
            response
                .fields
                .iter()
                .filter(|field| field.name == b"sec-websocket-accept")
                .count(),
            1
        );
    }
}

#[test]
fn the_status_is_known_before_the_rest() {
    let long = format!(
        "HTTP/1.1 503 Service Unavailable\r\nx: {}",
        "v".repeat(MAX_HEAD_BYTES)
    );
    assert_eq!(
        Response::parse(long.as_bytes()).map(|_| ()),
        Err(HeadError::TooLarge)
    );
    let odd = "HTTP/1.0 101 Switching Protocols\r\n\r\n";
    for (head, status) in [
        (long.as_str(), Some(503)),
        (odd, Some(101)),
        ("HTTP/1.1 404 \r\nx: \0\r\n\r\n", Some(404)),
        ("SSH-2.0-OpenSSH_9.2\r\n", None),
        ("HTTP/1.1 5", None),
        ("", None),
    ] {
        assert_eq!(Response::status_of(head.as_bytes()), status, "{head}");
    }
}

#[test]
fn heads_have_limits() {
    let lines = |count: usize| {
        let others = "x: y\r\n".repeat(count);
        handshake().replacen("\r\n\r\n", &format!("\r\n{others}\r\n"), 1)
    };
    let own = handshake().matches("\r\n").count() - 2;
    assert!(check(&lines(MAX_HEAD_FIELDS - own)).is_ok());
    assert_eq!(
        check(&lines(MAX_HEAD_FIELDS - own + 1)),
        Err(Refusal::HeadTooLarge)
    );

    let room = MAX_HEAD_BYTES - handshake().len() - "x: \r\n".len();
    let long =
        |value: usize| handshake().replacen("\r\n\r\n", &format!("\r\nx: {}\r\n\r\n", "v".repeat(value)), 1);
    assert_eq!(long(room).len(), MAX_HEAD_BYTES);
    assert!(check(&long(room)).is_ok());
    assert_eq!(check(&long(room + 1)), Err(Refusal::HeadTooLarge));
    // Nobody waits for the end of a head that is too large already.
    let endless = long(room + 100).into_bytes();
    assert_eq!(
        Request::parse(&endless[..=MAX_HEAD_BYTES]),
        Err(HeadError::TooLarge)
    );
    assert_eq!(Request::parse(&endless[..MAX_HEAD_BYTES]), Ok(None));
}

#[test]
fn a_refusal_is_a_whole_response_and_the_connections_last() {
    for one in Refusal::ALL {
        let bytes = refusal(one);
        let (response, length) = Response::parse(bytes.as_bytes()).unwrap().expect("a head");
        assert_eq!(response.status, one.status(), "{bytes}");
        let values = |name: &str| -> Vec<String> {
            let found = response
                .fields
                .iter()
                .filter(|field| field.name == name.as_bytes());
            found
                .map(|field| String::from_utf8(field.value.to_vec()).unwrap())
                .collect()
        };
        let reason = match one.status() {
            403 => "Forbidden",
            404 => "Not Found",
            426 => "Upgrade Required",
            431 => "Request Header Fields Too Large",
            _ => "Bad Request",
        };
        let line = format!("HTTP/1.1 {} {reason}\r\n", one.status());
        assert!(bytes.starts_with(&line), "{bytes}");
        let (_, body) = bytes.split_at(length);
        assert_eq!(values("content-length"), [body.len().to_string()]);
        assert_eq!(body, format!("{one}\n"));
        assert_eq!(values("connection").len(), 1, "{bytes}");
        let connection = values("connection").join(", ");
        assert!(connection.ends_with("close"), "{connection}");
        // RFC 9110 §15.5.22: a 426 names the protocol; §7.8: `upgrade` is an option of the connection.
        assert_eq!(
            values("upgrade").len(),
            usize::from(one.status() == 426),
            "{bytes}"
        );
        assert_eq!(connection.contains("upgrade"), one.status() == 426, "{bytes}");
        let version = usize::from(one == Refusal::Version);
        assert_eq!(values("sec-websocket-version").len(), version, "{bytes}");
    }
}

#[test]
fn interim_responses_are_told_apart() {
    let status = |line: &str| Response::parse(format!("HTTP/1.1 {line}\r\n\r\n").as_bytes());
    for (line, interim) in [
        ("100 Continue", true),
        ("103", true),
        ("101 ", false),
        ("200 OK", false),
    ] {
        let (response, _) = status(line).unwrap().expect("a head");
        assert_eq!(response.is_interim(), interim, "{line}");
    }
}

#[test]
fn a_head_that_cant_be_read_is_named_so() {
    assert_eq!(
        HandshakeError::from(HeadError::Malformed),
        HandshakeError::Malformed
    );
    assert_eq!(
        HandshakeError::from(HeadError::TooLarge),
        HandshakeError::HeadTooLarge
    );
    assert!(HeadError::TooLarge.to_string().contains("16384"));
}
