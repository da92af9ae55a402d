//! The connection manager's configuration: defaults, limits, and what a wrong one says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use serde_json::{Value, json};
use wsferry::config::PluginConfig;
use wsferry::connection_manager::config::{Mode, Rate};
use wsferry::connection_manager::{Config, ConnectionManager, Subject};
use wsferry::time::Time;

fn minimal() -> Value {
    json!({
        "role": "connection_manager",
        "tunnels": [{"name": "far", "probe": {"cluster": "tunnel"}}],
    })
}

fn parse(value: &Value) -> Result<Config, wsferry::config::ConfigError> {
    Config::parse(value.to_string().as_bytes())
}

fn subject<'a>(authority: &'a str, path: &'a str, route_tunnel: &'a str) -> Subject<'a> {
    Subject {
        authority: authority.as_bytes(),
        path: path.as_bytes(),
        route_tunnel: route_tunnel.as_bytes(),
    }
}

/// `minimal` with one field of its tunnel set.
fn with(pointer: &[&str], value: Value) -> Value {
    let mut config = minimal();
    let mut place = &mut config["tunnels"][0];
    for name in pointer {
        place = &mut place[*name];
    }
    *place = value;
    config
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let config = parse(&minimal()).unwrap();
    assert_eq!(config.decision_header, "x-wsferry-way");
    assert!(!config.client_header_removed);
    assert!(config.publishes_http);
    assert_eq!(config.debug_response_header, None);
    assert_eq!(config.metrics_prefix, "wsferry");
    let tunnel = &config.tunnels[0];
    assert_eq!(tunnel.mode, Mode::Adaptive);
    assert!(tunnel.matcher.matches(subject("anything", "/at/all", "")));
    assert_eq!(tunnel.probe.authority, "wsferry.internal");
    assert_eq!(tunnel.probe.path, "/wsferry/probe");
    assert_eq!(
        (tunnel.probe.interval_ms, tunnel.probe.timeout_ms),
        (5_000, 1_000)
    );
    assert_eq!(
        tunnel.open,
        Rate {
            requests: 5,
            within_ms: 1_000
        }
    );
    assert_eq!(
        tunnel.close,
        Rate {
            requests: 1,
            within_ms: 60_000
        }
    );
    assert_eq!(tunnel.load.max_in_flight, 1_000);
    assert_eq!(tunnel.load.max_round_trip_ms, None);
    assert_eq!(tunnel.failures.consecutive, 3);
    assert_eq!(tunnel.failures.base_backoff_ms, 500);
    assert_eq!(tunnel.failures.max_backoff_ms, 30_000);
    assert_eq!(tunnel.failures.stable_ms, 10_000);
    assert_eq!(tunnel.no_converter_ttl_ms, 300_000);
    assert_eq!(tunnel.jitter_percent, 20);
    assert!(!tunnel.eager);
    assert_eq!(tunnel.max_wait_ms, 5_000);
}

#[test]
fn mode_always_asks_a_target_without_converter_sooner() {
    let ttl_ms = |mode: &str, given: Option<u32>| {
        let mut config = minimal();
        config["tunnels"][0]["mode"] = json!(mode);
        if let Some(given) = given {
            config["tunnels"][0]["no_converter_ttl_ms"] = json!(given);
        }
        parse(&config).unwrap().tunnels[0].no_converter_ttl_ms
    };
    assert_eq!(ttl_ms("always", None), 10_000);
    assert_eq!(ttl_ms("adaptive", None), 300_000);
    assert_eq!(ttl_ms("always", Some(300_000)), 300_000);
}

#[test]
fn the_role_chooses_the_kind() {
    let parse = |json: &str| PluginConfig::parse(json.as_bytes());
    assert!(matches!(
        parse(&minimal().to_string()),
        Ok(PluginConfig::ConnectionManager(_))
    ));
    assert!(matches!(
        parse(r#"{"role": "near"}"#),
        Ok(PluginConfig::Converter(_))
    ));
    assert!(matches!(
        parse(r#"{"role": "far"}"#),
        Ok(PluginConfig::Converter(_))
    ));
    // Each kind refuses the other's fields.
    assert!(parse(r#"{"role": "near", "tunnels": []}"#).is_err());
    let mut config = minimal();
    config["limits"] = json!({});
    assert!(parse(&config.to_string()).is_err());
    for json in [r#"{"role": "middle"}"#, "{}", "", "[]"] {
        assert!(parse(json).is_err(), "{json}");
    }
}

#[test]
fn every_limit_is_kept_and_named() {
    let cases: &[(&[&str], u64, u64)] = &[
        (&["probe", "interval_ms"], 100, 3_600_000),
        (&["probe", "timeout_ms"], 10, 60_000),
        (&["load", "max_in_flight"], 1, 65_535),
        (&["load", "max_round_trip_ms"], 1, 60_000),
        (&["failures", "consecutive"], 1, 100),
        (&["failures", "base_backoff_ms"], 10, 60_000),
        (&["failures", "max_backoff_ms"], 500, 3_600_000),
        (&["failures", "stable_ms"], 0, 3_600_000),
        (&["no_converter_ttl_ms"], 1_000, 86_400_000),
        (&["jitter_percent"], 0, 90),
        (&["max_wait_ms"], 0, 60_000),
        (&["open", "requests"], 1, 10_000),
    ];
    for &(path, least, most) in cases {
        for good in [least, most] {
            assert!(parse(&with(path, json!(good))).is_ok(), "{path:?} = {good}");
        }
        let name = format!("tunnels[0].{}", path.join("."));
        for bad in [json!(least as i64 - 1), json!(most + 1), json!("1"), json!(1.5)] {
            let error = parse(&with(path, bad.clone())).expect_err(&format!("{path:?} = {bad}"));
            assert_eq!(error.field, name, "{bad}: {error}");
        }
    }
}

/// Each end where the other rate leaves room for it.
#[test]
fn the_time_of_a_rate_has_its_limits() {
    for (rate, good, bad) in [("open", 10, 9), ("close", 3_600_000, 3_600_001)] {
        assert!(parse(&with(&[rate, "within_ms"], json!(good))).is_ok(), "{rate}");
        let error = parse(&with(&[rate, "within_ms"], json!(bad))).unwrap_err();
        assert_eq!(error.field, format!("tunnels[0].{rate}.within_ms"));
    }
}

#[test]
fn a_list_of_texts_holds_up_to_256() {
    let config = parse(&with(&["match"], json!({"path_prefixes": vec!["/a"; 256]})));
    assert!(config.is_ok(), "{config:?}");
}

#[test]
fn there_are_at_most_1024_tunnels() {
    let with_tunnels = |count: usize| {
        let tunnel = |number| json!({"name": format!("t{number}"), "probe": {"cluster": "tunnel"}});
        let tunnels: Vec<_> = (0..count).map(tunnel).collect();
        json!({"role": "connection_manager", "tunnels": tunnels})
    };
    assert_eq!(parse(&with_tunnels(1_024)).unwrap().tunnels.len(), 1_024);
    assert_eq!(parse(&with_tunnels(1_025)).unwrap_err().field, "tunnels");
}

/// The reference says the same as the code: each field has a row, with its default.
#[test]
fn the_reference_has_every_field_and_its_default() {
    const REFERENCE: &str = include_str!("../../docs/configuration.md");
    let (_, reference) = REFERENCE.split_once("## Connection manager").unwrap();
    for (field, default) in [
        ("decision_header", "`\"x-wsferry-way\"`"),
        ("client_header_removed", "`false`"),
        ("publish_decisions", "`\"all\"`"),
        ("debug_response_header", "none"),
        ("metrics_prefix", "`\"wsferry\"`"),
        ("name", "required"),
        ("mode", "`\"adaptive\"`"),
        ("match.authorities", "`[]`: all"),
        ("match.path_prefixes", "`[]`: all"),
        ("match.route_metadata", "`false`"),
        ("probe.cluster", "required"),
        ("probe.authority", "`\"wsferry.internal\"`"),
        ("probe.path", "`\"/wsferry/probe\"`"),
        ("probe.interval_ms", "5000"),
        ("probe.timeout_ms", "1000"),
        ("open.requests", "5"),
        ("open.within_ms", "1000"),
        ("close.requests", "1"),
        ("close.within_ms", "60000"),
        ("load.max_in_flight", "1000"),
        ("load.max_round_trip_ms", "not weighed"),
        ("failures.consecutive", "3"),
        ("failures.base_backoff_ms", "500"),
        ("failures.max_backoff_ms", "30000"),
        ("failures.stable_ms", "10000"),
        ("no_converter_ttl_ms", "300000"),
        ("jitter_percent", "20"),
        ("eager", "`false`"),
        ("max_wait_ms", "5000"),
    ] {
        let row = reference
            .lines()
            .find(|line| line.starts_with(&format!("| `{field}` ")))
            .expect(field);
        assert_eq!(row.split('|').nth(4).unwrap().trim(), default, "{field}");
    }
}

#[test]
fn whatever_is_wrong_names_its_field() {
    let cases = [
        (with(&["name"], json!("")), "tunnels[0].name"),
        (with(&["name"], json!("a-b")), "tunnels[0].name"),
        (with(&["name"], json!("a".repeat(65))), "tunnels[0].name"),
        (with(&["mode"], json!("sometimes")), "tunnels[0].mode"),
        (with(&["probe", "cluster"], json!("")), "tunnels[0].probe.cluster"),
        (with(&["probe", "path"], json!("probe")), "tunnels[0].probe.path"),
        (with(&["probe", "path"], json!("/a b")), "tunnels[0].probe.path"),
        (
            with(&["probe", "authority"], json!("")),
            "tunnels[0].probe.authority",
        ),
        (
            with(&["open"], json!({"requests": 0, "within_ms": 10})),
            "tunnels[0].open.requests",
        ),
        (
            with(&["open"], json!({"requests": 9, "within_ms": 9})),
            "tunnels[0].open.within_ms",
        ),
        (
            with(&["close"], json!({"requests": 5, "within_ms": 1000})),
            "tunnels[0].close",
        ),
        (
            with(&["close"], json!({"requests": 100, "within_ms": 1200})),
            "tunnels[0].close",
        ),
        (
            with(&["match"], json!({"authorities": ["*"]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"authorities": ["a*b"]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"authorities": [""]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"authorities": ["*."]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"authorities": ["a b"]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"authorities": ["http://a"]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"authorities": vec!["a"; 257]})),
            "tunnels[0].match.authorities",
        ),
        (
            with(&["match"], json!({"path_prefixes": ["api"]})),
            "tunnels[0].match.path_prefixes",
        ),
        (
            with(&["match"], json!({"route_metadata": "far"})),
            "tunnels[0].match.route_metadata",
        ),
        (with(&["eager"], json!(1)), "tunnels[0].eager"),
    ];
    for (config, field) in cases {
        assert_eq!(parse(&config).expect_err(field).field, field);
    }
    let mut never = with(&["eager"], json!(true));
    never["tunnels"][0]["mode"] = json!("never");
    assert_eq!(parse(&never).unwrap_err().field, "tunnels[0].eager");

    let mut twice = minimal();
    twice["tunnels"] = json!([minimal()["tunnels"][0], minimal()["tunnels"][0]]);
    assert_eq!(parse(&twice).unwrap_err().field, "tunnels[1].name");
    for (field, value) in [
        ("tunnels", json!([])),
        ("decision_header", json!("X-Way")),
        ("decision_header", json!("")),
        ("decision_header", json!("host")),
        ("debug_response_header", json!("content-length")),
        ("client_header_removed", json!("yes")),
        ("publish_decisions", json!("http")),
        ("debug_response_header", json!(":status")),
        ("metrics_prefix", json!("a.b")),
    ] {
        let mut config = minimal();
        config[field] = value;
        assert_eq!(parse(&config).unwrap_err().field, field);
    }
    assert!(Config::parse(format!("{} {{}}", minimal()).as_bytes()).is_err());
}

#[test]
fn names_hold_letters_digits_and_the_signs_of_their_kind() {
    let tunnel = format!("{}_9", "a".repeat(62));
    let mut config = with(&["name"], json!(tunnel));
    config["decision_header"] = json!("x-way_9");
    config["metrics_prefix"] = json!("A_9");
    let config = parse(&config).unwrap();
    assert_eq!(config.tunnels[0].name, tunnel);
    assert_eq!(config.decision_header, "x-way_9");
    assert_eq!(config.metrics_prefix, "A_9");
}

#[test]
fn calls_to_the_host_can_be_saved() {
    let mut config = minimal();
    config["client_header_removed"] = json!(true);
    for (publish, http) in [("all", true), ("websocket", false)] {
        config["publish_decisions"] = json!(publish);
        let config = parse(&config).unwrap();
        assert!(config.client_header_removed);
        assert_eq!(config.publishes_http, http);
    }
}

#[test]
fn unknown_fields_are_refused_everywhere_and_named() {
    for path in [
        &["surprise"][..],
        &["probe", "surprise"],
        &["match", "surprise"],
        &["load", "surprise"],
        &["failures", "surprise"],
        &["open", "surprise"],
    ] {
        let error = parse(&with(path, json!(1))).unwrap_err();
        assert!(error.to_string().contains("surprise"), "{error}");
        assert_eq!(error.field, format!("tunnels[0].{}", path.join(".")));
    }
    let mut config = minimal();
    config["surprise"] = json!(1);
    assert_eq!(parse(&config).unwrap_err().field, "surprise");
}

#[test]
fn each_field_of_a_rate_has_its_own_default() {
    let config = parse(&with(&["open"], json!({"requests": 9}))).unwrap();
    let open = Rate {
        requests: 9,
        within_ms: 1_000,
    };
    assert_eq!(config.tunnels[0].open, open);
}

#[test]
fn what_is_missing_is_named() {
    for (json, field) in [
        ("{}", "role"),
        (r#"{"role": "connection_manager"}"#, "tunnels"),
        (
            r#"{"role": "connection_manager", "tunnels": [{}]}"#,
            "tunnels[0].name",
        ),
        (
            r#"{"role": "connection_manager", "tunnels": [{"name": "far"}]}"#,
            "tunnels[0].probe.cluster",
        ),
    ] {
        assert_eq!(Config::parse(json.as_bytes()).unwrap_err().field, field);
    }
}

#[test]
fn requests_find_their_tunnel() {
    let mut config = minimal();
    config["tunnels"] = json!([
        {"name": "api", "probe": {"cluster": "a"},
         "match": {"authorities": ["Example.org", "*.example.net"], "path_prefixes": ["/api/", "/v2"]}},
        {"name": "port", "probe": {"cluster": "b"}, "match": {"authorities": ["example.org:8443", "[::1]"]}},
        {"name": "below", "probe": {"cluster": "c"}, "match": {"authorities": ["*.example.org"]}},
        {"name": "path", "probe": {"cluster": "d"}, "match": {"path_prefixes": ["/only"]}},
    ]);
    let config = parse(&config).unwrap();
    let manager = ConnectionManager::new(&config, Time(0));
    assert!(manager.needs_authority() && manager.needs_path() && !manager.needs_route_metadata());
    let find = |authority: &str, path: &str| {
        manager
            .find(subject(authority, path, "path"))
            .map(|place| config.tunnels[place].name.as_str())
    };
    assert_eq!(find("example.org", "/api/x"), Some("api"));
    assert_eq!(find("EXAMPLE.ORG:80", "/v2"), Some("api"));
    assert_eq!(find("a.b.example.net:80", "/api/"), Some("api"));
    assert_eq!(find("a.b.c.example.com", "/api/"), None);
    assert_eq!(find("a.b.example.net:8o", "/api/"), None);
    assert_eq!(find("example.org:8443", "/"), Some("port"));
    assert_eq!(find("example.org", "/"), None);
    assert_eq!(find("example.org", "/api"), None);
    assert_eq!(find("example.net", "/api/"), None);
    assert_eq!(find("xexample.net", "/api/"), None);
    assert_eq!(find(".example.net", "/api/"), None);
    assert_eq!(find("[::1]:80", "/"), Some("port"));
    assert_eq!(find("[::1]", "/"), Some("port"));
    assert_eq!(find("www.example.org", "/API/"), Some("below"));
    assert_eq!(find("", "/only/this"), Some("path"));
    assert_eq!(find("", ""), None);
}

#[test]
fn a_route_names_its_tunnel() {
    let mut config = minimal();
    config["tunnels"] = json!([
        {"name": "a", "probe": {"cluster": "a"}, "match": {"route_metadata": true, "path_prefixes": ["/a"]}},
        {"name": "b", "probe": {"cluster": "b"}, "match": {"route_metadata": true}},
    ]);
    let manager = ConnectionManager::new(&parse(&config).unwrap(), Time(0));
    assert!(manager.needs_route_metadata() && manager.needs_path() && !manager.needs_authority());
    let find = |path, route_tunnel| manager.find(subject("", path, route_tunnel));
    assert_eq!(find("/a", "a"), Some(0));
    assert_eq!(find("/a", "b"), Some(1));
    assert_eq!(find("/b", "a"), None, "all parts must match");
    for name in ["", "A", "a ", "ab"] {
        assert_eq!(find("/a", name), None, "{name:?}");
    }
}

#[test]
fn the_route_is_needed_where_one_tunnel_of_several_looks_at_it() {
    let mut config = minimal();
    config["tunnels"] = json!([
        {"name": "a", "probe": {"cluster": "a"}, "match": {"route_metadata": true}},
        {"name": "b", "probe": {"cluster": "b"}},
    ]);
    let manager = ConnectionManager::new(&parse(&config).unwrap(), Time(0));
    assert!(manager.needs_route_metadata());
}

#[test]
fn a_tunnel_without_match_needs_nothing_of_the_request() {
    let manager = ConnectionManager::new(&parse(&minimal()).unwrap(), Time(0));
    assert!(!manager.needs_authority() && !manager.needs_path() && !manager.needs_route_metadata());
    assert_eq!(manager.find(Subject::default()), Some(0));
}
