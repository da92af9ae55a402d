//! The plugin configuration: what is refused, and that the reference says what the code does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use wsferry::config::{Attachment, Config, FieldPolicy, Limits, Role};

const REFERENCE: &str = include_str!("../../docs/configuration.md");

fn refused(json: &str) -> String {
    Config::parse(json.as_bytes()).expect_err(json).to_string()
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let config = Config::parse(br#"{"role": "near"}"#).unwrap();
    assert_eq!(config.role, Role::Near);
    assert_eq!(config.limits, Limits::default());
    let documented = |field: &str| {
        let row = REFERENCE
            .lines()
            .find(|line| line.starts_with(&format!("| `{field}` ")))
            .expect(field);
        row.split('|')
            .nth(4)
            .unwrap()
            .trim()
            .trim_matches(['`', '"'])
            .to_owned()
    };
    assert_eq!(
        documented("limits.max_message_bytes"),
        config.limits.max_message_bytes.to_string()
    );
    assert_eq!(
        documented("limits.max_header_list_bytes"),
        config.limits.max_header_list_bytes.to_string()
    );
    assert_eq!(
        documented("limits.max_header_fields"),
        config.limits.max_header_fields.to_string()
    );
    assert_eq!(
        documented("limits.max_streams"),
        config.limits.max_streams.to_string()
    );
    assert_eq!(documented("metrics_prefix"), config.metrics_prefix);
    assert_eq!(
        documented("close_timeout_ms"),
        config.close_timeout_ms.to_string()
    );
    assert_eq!(documented("field_table.credentials"), "cookies");
    assert!(config.allowed_origins.is_empty());
}

#[test]
fn the_ends_of_each_documented_range_are_accepted_and_the_next_values_refused() {
    for field in [
        "max_message_bytes",
        "max_header_list_bytes",
        "max_header_fields",
        "max_streams",
    ] {
        let row = REFERENCE
            .lines()
            .find(|line| line.starts_with(&format!("| `limits.{field}` ")))
            .unwrap();
        let (least, most) = row.split('|').nth(3).unwrap().split_once(" to ").expect(field);
        let (least, most): (u64, u64) = (least.trim().parse().unwrap(), most.trim().parse().unwrap());
        let with = |value: u64| format!(r#"{{"role": "far", "limits": {{"{field}": {value}}}}}"#);
        for value in [least, most] {
            Config::parse(with(value).as_bytes()).expect(field);
        }
        for value in [least - 1, most + 1] {
            let message = refused(&with(value));
            assert!(message.contains(&format!("`limits.{field}`")), "{message}");
            assert!(message.contains(&value.to_string()), "{message}");
        }
    }
    for (value, good) in [(99, false), (100, true), (60_000, true), (60_001, false)] {
        let json = format!(r#"{{"role": "far", "close_timeout_ms": {value}}}"#);
        assert_eq!(Config::parse(json.as_bytes()).is_ok(), good, "{json}");
    }
}

/// The log is no place for a credential, wherever a configuration has it by mistake.
#[test]
fn what_may_be_a_credential_is_not_repeated() {
    for handshake in [
        r#""authority": "a", "authorization: Bearer secret": 1"#,
        r#""authority": "a", "secretsecretsecretsecretsecretsecretsecre": 1"#,
        r#""authority": "user:secret@far.example""#,
        r#""path": "wsferry?token=secret""#,
        r#""fields": ["authorization:secret"]"#,
    ] {
        let message = refused(&format!(
            r#"{{"role": "near", "filter": "network", "handshake": {{{handshake}}}}}"#
        ));
        assert!(message.contains("`handshake."), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
    let message = refused(r#"{"role": "near", "field_table": {"credentials": "Bearer secret"}}"#);
    assert!(message.contains("`field_table.credentials`"), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (json, named) in [
        ("", "configuration: EOF"),
        ("{}", "role"),
        (r#"{"role": "middle"}"#, "middle"),
        (r#"{"role": "near", "limit": {}}"#, "`limit`: is unknown"),
        (
            r#"{"role": "near", "limits": {"max_stream": 1}}"#,
            "`limits.max_stream`: is unknown",
        ),
        (r#"{"role": "near", "limits": {"max_streams": -1}}"#, "-1"),
        (
            r#"{"role": "near", "field_table": {"never": []}}"#,
            "`field_table.never`: is unknown",
        ),
        (
            r#"{"role": "near", "not_one_that_is_known_but_of_forty_bytes": 1}"#,
            "`not_one_that_is_known_but_of_forty_bytes`: is unknown",
        ),
        (
            r#"{"role": "near", "field_table": {"never_enter": ["X-Key"]}}"#,
            "`field_table.never_enter`",
        ),
        (
            r#"{"role": "near", "field_table": {"never_enter": [""]}}"#,
            "`field_table.never_enter`",
        ),
        (
            r#"{"role": "near", "field_table": {"never_enter": ["x(y)"]}}"#,
            "`field_table.never_enter`",
        ),
        (
            r#"{"role": "near", "field_table": {"credentials": "some"}}"#,
            "`field_table.credentials`",
        ),
        (
            r#"{"role": "near", "allowed_origins": ["https://a.example"]}"#,
            "`allowed_origins`",
        ),
        (
            r#"{"role": "far", "allowed_origins": ["a.example"]}"#,
            "`allowed_origins`",
        ),
        (
            r#"{"role": "far", "allowed_origins": ["https://a.example/"]}"#,
            "without a path",
        ),
        (
            r#"{"role": "far", "allowed_origins": ["https://A.example"]}"#,
            "in lower case",
        ),
        (
            r#"{"role": "near", "filter": "network", "handshake": {"authority": "a", "fields": ["x(y): 1"]}}"#,
            "`handshake.fields`",
        ),
        (
            r#"{"role": "far", "metrics_prefix": "a.b"}"#,
            "`metrics_prefix`: is not letters",
        ),
        (r#"{"role": "far", "metrics_prefix": ""}"#, "`metrics_prefix`"),
        (
            r#"{"role": "far", "limits": {"max_streams": 1, "max_streams": 1}}"#,
            "`limits.max_streams`: appears twice",
        ),
        (r#"{"role": "far", "role": "far"}"#, "`role`: appears twice"),
        (r#"{"role": "far", "limits": null}"#, "`limits`"),
        (r#"{"role": "near", "tunnel": null}"#, "`tunnel`"),
        (r#"{"role": "near", "tunnel": "a-b"}"#, "`tunnel`"),
        (
            r#"{"role": "far", "close_timeout_ms": 1e3}"#,
            "`close_timeout_ms`: is no whole number",
        ),
        (
            r#"{"role": "far", "close_timeout_ms": 18446744073709551615}"#,
            "`close_timeout_ms`",
        ),
        (r#"{"role": "near", "requests_from": "both"}"#, "`requests_from`"),
        (
            r#"{"role": "far", "filter": "network", "requests_from": "far"}"#,
            "`requests_from`: far needs `filter` http",
        ),
        (
            r#"{"role": "near", "requests_from": "far", "tunnel": "one"}"#,
            "`tunnel`",
        ),
        (r#"{"role": "far", "tunnel": "one"}"#, "`tunnel`"),
        (r#"{"role": "connection_manager", "tunnels": []}"#, "`tunnels`"),
        (r#"["near"]"#, "no JSON object"),
        (r#"{"role": "far"} x"#, "trailing"),
    ] {
        let message = refused(json);
        assert!(message.contains(named), "{json}: {message}");
    }
}

#[test]
fn each_end_has_what_only_it_may_have() {
    let near = Config::parse(br#"{"role": "near", "tunnel": "one"}"#).unwrap();
    assert_eq!(near.tunnel.as_deref(), Some("one"));
    let far = Config::parse(br#"{"role": "far", "allowed_origins": ["https://a.example"]}"#).unwrap();
    assert_eq!(far.allowed_origins, ["https://a.example"]);
}

#[test]
fn a_network_filter_makes_or_answers_the_handshake() {
    let parsed = |json: &str| Config::parse(json.as_bytes()).expect(json).attachment;
    assert_eq!(parsed(r#"{"role": "near"}"#), Attachment::Http);
    assert_eq!(parsed(r#"{"role": "near", "filter": "http"}"#), Attachment::Http);
    let Attachment::Network(far) = parsed(r#"{"role": "far", "filter": "network"}"#) else {
        panic!("no network filter");
    };
    assert!(REFERENCE.contains(&format!("| `\"{}\"` |", far.path)));
    assert!(REFERENCE.contains(&format!("| 100 to 60000 | {} |", far.timeout_ms)));
    let near = r#"{"role": "near", "filter": "network", "handshake": {"authority": "[::1]:8080", "path": "/a?b=c",
                   "fields": ["authorization: Basic YTpi"], "timeout_ms": 60000}}"#;
    let Attachment::Network(near) = parsed(near) else {
        panic!("no network filter");
    };
    assert_eq!(
        (near.authority.as_str(), near.path.as_str()),
        ("[::1]:8080", "/a?b=c")
    );
    assert_eq!(
        (near.fields.as_slice(), near.timeout_ms),
        (&["authorization: Basic YTpi".to_owned()][..], 60_000)
    );
    parsed(r#"{"role": "far", "filter": "network", "handshake": {"timeout_ms": 100}}"#);
}

#[test]
fn a_handshake_that_cant_be_is_refused() {
    for (json, named) in [
        (r#"{"role": "near", "filter": "tcp"}"#, "`filter`"),
        (
            r#"{"role": "near", "filter": "network"}"#,
            "`handshake.authority`: is missing",
        ),
        (
            r#"{"role": "near", "handshake": {"path": "/"}}"#,
            "`handshake`: is Envoy's business",
        ),
        (
            r#"{"role": "near", "filter": "http", "handshake": {}}"#,
            "`handshake`",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"authority": "a"}}"#,
            "`handshake.authority`: only a near end",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"fields": ["a: b"]}}"#,
            "`handshake.fields`: only a near end",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"path": "wsferry"}}"#,
            "`handshake.path`",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"path": "/a b"}}"#,
            "`handshake.path`",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"path": "/a#b"}}"#,
            "`handshake.path`",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"path": "/a?b"}}"#,
            "`handshake.path`",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"timeout_ms": 99}}"#,
            "`handshake.timeout_ms`",
        ),
        (
            r#"{"role": "far", "filter": "network", "handshake": {"timeout_ms": 60001}}"#,
            "`handshake.timeout_ms`",
        ),
    ] {
        let message = refused(json);
        assert!(message.contains(named), "{json}: {message}");
    }
    let near = |authority: &str, field: &str| {
        format!(
            r#"{{"role": "near", "filter": "network", "handshake": {{"authority": "{authority}", "fields": ["{field}"]}}}}"#
        )
    };
    for authority in [
        "",
        "a/b",
        "a?b",
        "a#b",
        "user@a",
        "a b",
        "a\\r\\nx: y",
        "a:",
        "a:x",
        "a:+1",
        "a:65536",
        ":1",
        "a:b:1",
        "[::1",
        "[]",
        "[a.example]",
        "::1",
    ] {
        let message = refused(&near(authority, "a: b"));
        assert!(
            message.contains("`handshake.authority`"),
            "{authority}: {message}"
        );
    }
    for field in [
        "",
        "a",
        "a:b",
        ": b",
        "a:b: c",
        "a: ",
        "A: b",
        "a b: c",
        "a: b\\r\\nc: d",
        "a: b\\u0000",
        "a: b\\u007f",
        "a:  b",
        "a: b ",
        "host: b",
        "upgrade: h2c",
        "connection: close",
        "content-length: 1",
        "transfer-encoding: chunked",
        "sec-websocket-key: b",
        "sec-websocket-extensions: permessage-deflate",
    ] {
        let message = refused(&near("a", field));
        assert!(
            message.contains("`handshake.fields`: item 1 "),
            "{field}: {message}"
        );
    }
    // It may be a credential, and this goes to the log.
    let message = refused(&near("a", "authorization:Bearer s3cret"));
    assert!(!message.contains("s3cret"), "{message}");
}

#[test]
fn a_field_of_the_handshake_may_hold_tabs_and_text_beyond_ascii() {
    let near = r#"{"role": "near", "filter": "network",
                   "handshake": {"authority": "a", "fields": ["a: b\tc: é"]}}"#;
    let Attachment::Network(near) = Config::parse(near.as_bytes()).unwrap().attachment else {
        panic!("no network filter");
    };
    assert_eq!(near.fields, ["a: b\tc: é"]);
}

#[test]
fn credentials_enter_the_field_table_as_far_as_they_are_let_in() {
    let policy = |credentials: &str| {
        let json =
            format!(r#"{{"role": "near", "field_table": {{{credentials} "never_enter": ["x-key"]}}}}"#);
        Config::parse(json.as_bytes()).unwrap().field_policy
    };
    for (credentials, let_in) in [
        ("", &["cookie"][..]),
        (r#""credentials": "none","#, &[]),
        (r#""credentials": "cookies","#, &["cookie"]),
        (r#""credentials": "all","#, &FieldPolicy::CREDENTIALS),
    ] {
        let policy = policy(credentials);
        for name in FieldPolicy::CREDENTIALS {
            assert_eq!(
                policy.may_enter(name.as_bytes()),
                let_in.contains(&name),
                "{credentials} {name}"
            );
            assert!(REFERENCE.contains(&format!("`{name}`")), "{name}");
        }
        assert!(!policy.may_enter(b"x-key"));
        assert!(policy.may_enter(b"accept"));
    }
}
