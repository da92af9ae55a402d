//! The opening handshake (RFC 6455 §4, RFC 8441 §5).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use wsferry::message::Fields;
use wsferry::websocket::handshake::{
    Accepted, HandshakeError, Refusal, RequestHeaders, ResponseHeaders, accept, check_request,
    check_response, key,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn fields(lines: &[(&str, &str)]) -> Fields {
    lines
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect()
}

const REQUEST: [(&str, &str); 6] = [
    ("host", "far.example"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
    ("sec-websocket-key", KEY),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "wsferry.v1"),
];

const RESPONSE: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-accept", ACCEPT),
    ("sec-websocket-protocol", "wsferry.v1"),
];

/// The lines of `name` replaced by others, in their place.
fn with<'a>(lines: &[(&'a str, &'a str)], name: &'a str, values: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut lines = lines.to_vec();
    lines.retain(|line| line.0 != name);
    lines.extend(values.iter().map(|value| (name, *value)));
    lines
}

fn request(lines: &[(&str, &str)]) -> Result<Accepted, Refusal> {
    let request = RequestHeaders {
        method: b"GET",
        extended_connect: false,
        fields: &fields(lines),
    };
    let allowed = ["https://other.example", "https://app.example"].map(str::to_owned);
    check_request(&request, &allowed)
}

fn response(status: u16, lines: &[(&str, &str)]) -> Result<(), HandshakeError> {
    let response = ResponseHeaders {
        status,
        fields: &fields(lines),
    };
    check_response(&response, ACCEPT)
}

#[test]
fn example_of_rfc_6455_1_3() {
    assert_eq!(key(*b"the sample nonce"), KEY);
    assert_eq!(accept(KEY), ACCEPT);
}

#[test]
fn a_right_handshake_is_accepted() {
    let accepted = Ok(Accepted {
        accept: Some(ACCEPT.to_owned()),
    });
    assert_eq!(request(&REQUEST), accepted);
    for (name, values) in [
        ("upgrade", &["WebSocket"][..]),
        ("upgrade", &["h2c, websocket"]),
        ("upgrade", &["h2c", " WEBSOCKET "]),
        ("connection", &["keep-alive, Upgrade"]),
        ("connection", &["keep-alive", "upgrade"]),
        ("connection", &[",, ,UPGRADE,"]),
        ("sec-websocket-protocol", &["chat, wsferry.v1"]),
        ("sec-websocket-protocol", &["chat", "wsferry.v2,wsferry.v1,other"]),
        ("sec-websocket-version", &[" 13 "]),
        ("origin", &["https://app.example"]),
        // An extension that is offered is not granted: no more.
        ("sec-websocket-extensions", &["permessage-deflate"]),
    ] {
        assert_eq!(
            request(&with(&REQUEST, name, values)),
            accepted,
            "{name}: {values:?}"
        );
    }
}

#[test]
fn a_wrong_handshake_is_refused_with_its_reason() {
    for (name, values, refusal) in [
        ("upgrade", &[][..], Refusal::Upgrade),
        ("upgrade", &["h2c"], Refusal::Upgrade),
        ("upgrade", &["websockets"], Refusal::Upgrade),
        ("connection", &[], Refusal::Upgrade),
        ("connection", &["close"], Refusal::Upgrade),
        ("sec-websocket-version", &[], Refusal::Version),
        ("sec-websocket-version", &["8"], Refusal::Version),
        ("sec-websocket-version", &["13, 8"], Refusal::Version),
        ("sec-websocket-version", &["13", "8"], Refusal::Version),
        ("sec-websocket-key", &[], Refusal::Key),
        ("sec-websocket-key", &[""], Refusal::Key),
        ("sec-websocket-key", &[KEY, KEY], Refusal::Key),
        ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZQ"], Refusal::Key),
        ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25j"], Refusal::Key),
        ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25jZSE="], Refusal::Key),
        (
            "sec-websocket-key",
            &["dGhlIHNhbXBsZSBub25jZSEhISEhISEhISEhISEhISEh"],
            Refusal::Key,
        ),
        ("sec-websocket-key", &["dGhlIHNhbXBsZSBub25j*Q=="], Refusal::Key),
        ("sec-websocket-protocol", &[], Refusal::Subprotocol),
        ("sec-websocket-protocol", &["chat"], Refusal::Subprotocol),
        ("sec-websocket-protocol", &["WSFERRY.V1"], Refusal::Subprotocol),
        ("sec-websocket-protocol", &["wsferry.v10"], Refusal::Subprotocol),
        ("origin", &["https://evil.example"], Refusal::Origin),
        (
            "origin",
            &["https://app.example", "https://evil.example"],
            Refusal::Origin,
        ),
        ("origin", &["https://app.example.evil.example"], Refusal::Origin),
        ("origin", &["null"], Refusal::Origin),
        ("origin", &[""], Refusal::Origin),
    ] {
        assert_eq!(
            request(&with(&REQUEST, name, values)),
            Err(refusal),
            "{name}: {values:?}"
        );
    }
    for method in [&b"POST"[..], b"CONNECT", b"get", b"HEAD", b""] {
        let request = RequestHeaders {
            method,
            extended_connect: false,
            fields: &fields(&REQUEST),
        };
        assert_eq!(check_request(&request, &[]), Err(Refusal::Method));
    }
}

#[test]
fn an_extended_connect_has_no_key() {
    let lines = with(&REQUEST, "sec-websocket-key", &[]);
    let request = |lines: &[(&str, &str)]| {
        let request = RequestHeaders {
            method: b"GET",
            extended_connect: true,
            fields: &fields(lines),
        };
        check_request(&request, &[])
    };
    assert_eq!(request(&lines), Ok(Accepted { accept: None }));
    let without_version = with(&lines, "sec-websocket-version", &[]);
    assert_eq!(request(&without_version), Err(Refusal::Version));
    let without_subprotocol = with(&lines, "sec-websocket-protocol", &[]);
    assert_eq!(request(&without_subprotocol), Err(Refusal::Subprotocol));
    let without_upgrade = with(&lines, "upgrade", &[]);
    assert_eq!(request(&without_upgrade), Err(Refusal::Upgrade));
}

#[test]
fn refusals_tell_what_would_have_been_right() {
    let with_status = |status| {
        Refusal::ALL
            .into_iter()
            .filter(move |refusal| refusal.status() == status)
    };
    assert!(with_status(426).eq([Refusal::Method, Refusal::Upgrade, Refusal::Version]));
    assert!(with_status(400).eq([Refusal::Key, Refusal::Subprotocol, Refusal::Malformed]));
    assert!(with_status(403).eq([Refusal::Origin]));
    assert!(with_status(404).eq([Refusal::Path]));
    assert!(with_status(431).eq([Refusal::HeadTooLarge]));
    for refusal in with_status(426) {
        assert!(refusal.fields().contains(&("upgrade", "websocket")), "{refusal}");
    }
    assert!(
        Refusal::Version
            .fields()
            .contains(&("sec-websocket-version", "13"))
    );
    let labels = Refusal::ALL.map(Refusal::label);
    assert!(
        labels
            .iter()
            .all(|label| labels.iter().filter(|other| *other == label).count() == 1)
    );
}

#[test]
fn a_right_answer_is_taken() {
    assert_eq!(response(101, &RESPONSE), Ok(()));
    let spaced = with(
        &RESPONSE,
        "sec-websocket-accept",
        &[" s3pPLMBiTxaQ9kYGzzhZRbK+xOo= "],
    );
    assert_eq!(response(101, &spaced), Ok(()));
    assert_eq!(response(101, &with(&RESPONSE, "upgrade", &["WebSocket"])), Ok(()));
    assert_eq!(
        response(101, &with(&RESPONSE, "sec-websocket-extensions", &[""])),
        Ok(())
    );
}

#[test]
fn a_wrong_answer_is_told_apart() {
    for status in [0, 100, 200, 302, 404, 426, 503] {
        assert_eq!(response(status, &RESPONSE), Err(HandshakeError::Status));
    }
    for (name, values, error) in [
        ("upgrade", &[][..], HandshakeError::Upgrade),
        ("upgrade", &["h2c"], HandshakeError::Upgrade),
        ("upgrade", &["websocket", "websocket"], HandshakeError::Upgrade),
        ("connection", &[], HandshakeError::Connection),
        ("connection", &["close"], HandshakeError::Connection),
        ("sec-websocket-accept", &[], HandshakeError::Accept),
        (
            "sec-websocket-accept",
            &["S3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
            HandshakeError::Accept,
        ),
        ("sec-websocket-accept", &[ACCEPT, ACCEPT], HandshakeError::Accept),
        (
            "sec-websocket-extensions",
            &["permessage-deflate"],
            HandshakeError::Extension,
        ),
        ("sec-websocket-protocol", &[], HandshakeError::Subprotocol),
        ("sec-websocket-protocol", &["chat"], HandshakeError::Subprotocol),
        (
            "sec-websocket-protocol",
            &["wsferry.v1, chat"],
            HandshakeError::Subprotocol,
        ),
    ] {
        assert_eq!(
            response(101, &with(&RESPONSE, name, values)),
            Err(error),
            "{name}: {values:?}"
        );
    }
    assert!(
        HandshakeError::Subprotocol
            .to_string()
            .contains("no converter there")
    );
    let labels = HandshakeError::ALL.map(HandshakeError::label);
    assert!(
        labels
            .iter()
            .all(|label| labels.iter().filter(|other| *other == label).count() == 1)
    );
}
