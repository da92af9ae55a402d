"""envoy/prometheus: a real Prometheus reads both Envoys and has something to say when there is something to be said."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from pair import ROOT, Pair, die_with_parent, find_binary, free_port, listener, network_filters
from plain_peer import PlainPeer, Refused, frame, message, request

ALERTS = ROOT / "envoy/prometheus/alerts.yaml"
TAGS = ROOT / "envoy/prometheus/stats-tags.yaml"


class Prometheus:
    """Reads the Envoys of a pair once a second."""

    def __init__(self, pair, directory: Path):
        self.port = free_port()
        targets = [f"127.0.0.1:{envoy.admin_port}" for envoy in (pair.near, pair.far)]
        job = {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": [{"targets": targets}]}
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config = {"global": every, "rule_files": [str(ALERTS)], "scrape_configs": [job]}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    find_binary("prometheus"),
                    f"--config.file={directory}/prometheus.yml",
                    f"--storage.tsdb.path={directory}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def get(self, path: str):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", f"/api/v1/{path}")
            response = connection.getresponse()
            if response.status == 503:
                raise OSError("it isn't ready yet")
            answer = json.loads(response.read())
        assert answer["status"] == "success", answer
        return answer["data"]

    def alerts(self) -> set[str]:
        """Those that are pending, because of their `for`, or firing."""
        (group,) = self.get("rules")["groups"]
        assert all(rule["health"] == "ok" for rule in group["rules"]), group
        return {rule["name"] for rule in group["rules"] if rule["state"] != "inactive"}

    def has_read(self, times: int) -> bool:
        """Whether it has read each Envoy so often."""
        try:
            read = self.get("query?query=count_over_time(wsferry_websockets_open[5m])")["result"]
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return False
        return len(read) == 2 and all(int(one["value"][1]) >= times for one in read)

    def labels(self, metric: str) -> list[dict[str, str]]:
        return [one["metric"] for one in self.get(f"query?query={metric}")["result"]]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def watched(adaptive, tmp_path):
    """A pair with labels, which has crossed some requests, and the Prometheus that reads it: `watched(**options)`."""
    started = []

    def start(prepare=lambda pair: None, **options):
        def with_tags(pair: Pair) -> None:
            for envoy in pair.envoys:
                envoy.config |= yaml.safe_load(TAGS.read_text())
            prepare(pair)

        one = adaptive(prepare=with_tags, **options)
        started.append(Prometheus(one.pair, tmp_path))
        one.wait(lambda: started[0].has_read(3))
        return one, started[0]

    yield start
    for prometheus in started:
        prometheus.stop()


def test_nothing_is_said_of_what_works_and_metrics_have_labels(watched, loop):
    one, prometheus = watched()
    loop(one.until("websocket up"))
    one.check(loop(one.load.run(5), 30))
    assert prometheus.alerts() == set()
    assert {"way": "http", "reason": "cold"}.items() <= prometheus.labels("wsferry_decisions%3E0")[0].items()
    (up,) = prometheus.labels("wsferry_tunnel_up%3E0")
    assert up["tunnel"] == "far"
    assert {labels["code"] for labels in prometheus.labels("wsferry_websockets_closed")} >= {"1000", "1006", "other"}
    assert "subprotocol" in {labels["reason"] for labels in prometheus.labels("wsferry_handshakes_refused")}
    assert "message_form" in {labels["kind"] for labels in prometheus.labels("wsferry_protocol_errors")}
    plugins = {labels["plugin"] for labels in prometheus.labels("envoy_wasm_vm_reload_success")}
    assert "wsferry_far" in plugins, plugins


def refuse_a_handshake(pair: Pair) -> None:
    with pytest.raises(Refused):
        PlainPeer(pair.far_port, sec_websocket_protocol=None)


def send_what_is_no_protocol(pair: Pair) -> None:
    with PlainPeer(pair.far_port) as peer:
        peer.send(frame(2, b"\xff"))
        peer.closed()


def end_websockets(pair: Pair) -> None:
    for _ in range(12):
        PlainPeer(pair.far_port).socket.close()


def break_websockets(pair: Pair) -> None:
    for _ in range(12):
        with PlainPeer(pair.far_port) as peer:
            peer.send(message(request(0, b"/upload", end=False)))


def test_each_harm_is_told(watched, loop):
    one, prometheus = watched()
    loop(one.until("websocket up"))
    told: set[str] = set()
    end_websockets(one.pair)
    one.wait(lambda: one.pair.far.stats()["wasmcustom.wsferry_websockets_closed_1006"] >= 12)
    for harm, alert in [
        (refuse_a_handshake, "WsferryHandshakesFail"),
        (send_what_is_no_protocol, "WsferryProtocolErrors"),
        (break_websockets, "WsferryWebSocketsBreak"),
    ]:
        assert prometheus.alerts() == told
        harm(one.pair)
        one.wait(lambda alert=alert: alert in prometheus.alerts())
        told.add(alert)
    one.pair.far.kill()
    loop(one.until("http backoff"))
    one.wait(lambda: {"WsferryTunnelDown", "WsferryFarUnreachable"} <= prometheus.alerts())


HARM = {
    "WsferryTunnelDown": 'wsferry_decisions{way="http",reason="backoff"}',
    "WsferryTunnelInDoubt": 'wsferry_decisions{way="http",reason="suspect"}',
    "WsferryHandshakesFail": 'wsferry_handshakes_refused{reason="status"}',
    "WsferryWebSocketsBreak": "wsferry_websockets_broken",
    "WsferryFarUnreachable": 'envoy_cluster_upstream_cx_connect_fail{envoy_cluster_name="far"}',
    "WsferryProtocolErrors": 'wsferry_protocol_errors{kind="message_form"}',
    "WsferryTrapped": 'envoy_wasm_vm_reload_success{plugin="wsferry-far"}',
}
# A single one of these harms somebody.
GRAVE = {"WsferryProtocolErrors", "WsferryTrapped"}


@pytest.mark.parametrize("alert", HARM)
@pytest.mark.parametrize("interval", [15, 60])
def test_rules(alert, interval, tmp_path):
    """Prometheus's own default is to read once a minute. What goes on for half an hour is told, what happens once isn't, and
    metrics that Envoy leaves out with ?usedonly make no difference."""
    reads = 30 * 60 // interval
    other = {"series": 'wsferry_decisions{way="websocket",reason="up"}', "values": f"0+1x{reads}"}

    def is_told(values: str) -> bool:
        test = {
            "interval": f"{interval}s",
            "input_series": [{"series": HARM[alert], "values": values}, other],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []} for minute in range(1, 30)
            ],
        }
        rules = {"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [test]}
        (tmp_path / "test.yaml").write_text(yaml.safe_dump(rules))
        done = subprocess.run(
            [find_binary("promtool"), "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or "exp:[" in done.stdout + done.stderr, done.stdout + done.stderr
        return done.returncode != 0

    assert is_told(f"0+10x{reads}")
    once = 10 * 60 // interval
    assert is_told(f"0x{once} 1x{reads - once}") == (alert in GRAVE)


def test_a_far_end_that_drains_for_ever(watched, loop):
    one, prometheus = watched()
    loop(one.until("websocket up"))
    one.pair.far.admin("/healthcheck/fail", "POST")
    loop(one.until("http suspect"))

    async def until_told() -> None:
        while "WsferryTunnelInDoubt" not in prometheus.alerts():
            one.check(await one.load.run(1))

    loop(until_told(), 60)


def test_a_filter_that_traps(watched):
    """As one does that is attached as another kind than it is configured for."""

    def misconfigure(pair: Pair) -> None:
        (first, *_) = network_filters(listener(pair.far.config, "far"))
        place = first["typed_config"]["config"]["configuration"]
        config = json.loads(place["value"])
        config.pop("handshake", None)
        place["value"] = json.dumps(config | {"filter": "http"})

    one, prometheus = watched(prepare=misconfigure)
    assert prometheus.alerts() == set()
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", one.pair.far_port), timeout=5) as client:
            client.sendall(b"GET /wsferry HTTP/1.1\r\nhost: far.example\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""
    one.wait(lambda: "WsferryTrapped" in prometheus.alerts())
