"""What an operator sees: workers, ends that die and come back, TLS, the other wiring."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import http.server
import json
import os
import socket
import ssl
import threading
import time
import tomllib
from functools import partial

import pytest

import scenario
from conftest import (
    CLIENTS,
    REVERSED,
    WRONG_CERTIFICATES,
    each_tls_version,
    looks_at_each_certificate,
    show_certificate,
    wait_for,
)
from endpoints import End, RequestHead, Reset, ResponseHead
from pair import ROOT, cluster, endpoint, free_port, listener, network_filters
from plain_peer import read_handshake
from test_scenarios import check

GET = RequestHead(b"GET", b"/", b"app.example")
RECOVERY = 5.0  # seconds


def test_one_websocket_for_each_worker(loop, new_pair, web_origins):
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", concurrency=3)

    async def request():
        client = CLIENTS["http1"](pair.near_port)
        exchange = await client.open(RequestHead(b"GET", b"/hello", b"app.example"), end=True)
        assert (await exchange.receive()).status == 200
        return client

    async def run():
        # Linux spreads connections over the workers' listeners; all stay open until the end.
        clients = [await request() for _ in range(200)]
        stats = pair.near.stats(), pair.far.stats()
        for client in clients:
            await client.close()
        return stats

    near, far = loop(run())
    assert near["cluster.far.upstream_cx_active"] == 3
    assert far["http.inner.downstream_cx_active"] == 3


def test_far_envoy_killed_and_started_again(loop, new_pair, origin):
    """Requests under way end with an error, new ones fail at once, and pass again once the far Envoy is back."""
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}")

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        streaming = await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await answer.respond(ResponseHead(200))
        await answer.send(b"the beginning")
        assert (await streaming.receive()).status == 200
        await streaming.receive()
        waiting = await client.beside().open(GET, end=True)
        await server.accepted.get()

        await asyncio.to_thread(pair.far.kill)
        killed = time.monotonic()
        assert isinstance(await streaming.receive(), Reset)
        assert (await waiting.receive()).status in (502, 503)
        new = await client.beside().open(GET, end=True)
        assert (await new.receive()).status == 503
        assert time.monotonic() - killed < 2
        # The origin sees that nobody wants the answer any more.
        while not isinstance(event := await answer.receive(), Reset):
            assert isinstance(event, End)

    loop(run())
    pair.far.start()
    started = time.monotonic()
    pair.wait_ready(RECOVERY)
    assert time.monotonic() - started < RECOVERY


def test_near_envoy_killed(loop, new_pair, origin):
    """The origins' requests are cancelled."""
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}")

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await asyncio.to_thread(pair.near.kill)
        while not isinstance(event := await answer.receive(), Reset):
            assert isinstance(event, End)

    loop(run())
    wait_for(lambda: not pair.far.stats()["http.inner.downstream_cx_active"])
    pair.near.start()
    pair.wait_ready(RECOVERY)


VARIANTS = {
    "plain": {},
    "tls": {"tls": True},
    "http_filters": {"near_config": ROOT / "envoy/near-http-filter.yaml", "far_config": ROOT / "envoy/far-http-filter.yaml"},
    "one_listener": {"far_config": ROOT / "envoy/far-one-listener.yaml"},
    "http_filter_far": {"far_config": ROOT / "envoy/far-http-filter.yaml"},
    "http_filter_near": {"near_config": ROOT / "envoy/near-http-filter.yaml"},
}


@pytest.mark.parametrize("variant", VARIANTS | REVERSED)
def test_the_envoy_that_asks_started_first(variant, new_pair, web_origins, certificates):
    """It answers 503 until the other one is there, and then works."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", start=False, **(VARIANTS | REVERSED)[variant])

    def status() -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=5)
        try:
            connection.request("GET", "/hello")
            return connection.getresponse().status
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    pair.asking.start()
    deadline = time.monotonic() + 20
    while (first := status()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [first] + [status() for _ in range(20)] == [503] * 21
    pair.answering.start()
    pair.wait_ready()
    assert status() == 200


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_waits_for_a_new_websocket(variant, new_pair, web_origins, certificates):
    """However much that is: a large body, many requests with large fields. It goes once the handshake is complete."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", start=False, **VARIANTS[variant])

    def start(envoy) -> None:
        envoy.start()
        deadline = time.monotonic() + 20
        while not envoy.is_live():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def websockets() -> int:
        return pair.near.stats()["cluster.tunnel.upstream_cx_active"]

    def connection() -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=20)

    start(pair.far)
    start(pair.near)
    assert websockets() == 0
    content = os.urandom(1_000_000)
    upload = connection()
    upload.request("POST", "/checksum", body=content)
    assert upload.getresponse().read().decode().split()[0] == hashlib.sha256(content).hexdigest()
    assert websockets() == 1

    pair.far.kill()
    deadline = time.monotonic() + 20
    while websockets():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    start(pair.far)
    clients = [connection() for _ in range(200)]
    for number, client in enumerate(clients):
        client.request("GET", "/hello", headers={"authorization": f"{number} {'x' * 2_000}"})
    assert [client.getresponse().status for client in clients] == [200] * 200


class Application(http.server.BaseHTTPRequestHandler):
    """Answers at once with a field of so many bytes, or begins an answer and ends it when it is told to."""

    protocol_version = "HTTP/1.1"
    over = threading.Event()
    # How many requests hang.
    asked = threading.Semaphore(0)

    def do_GET(self) -> None:
        if self.path == "/hang":
            self.asked.release()
            self.over.wait(60)
        if self.path == "/upgrade":
            self.send_response_only(101)
            self.end_headers()
            return
        self.send_response(200)
        if self.path.startswith("/large/"):
            self.send_header("x-large", "v" * int(self.path.removeprefix("/large/")))
        if self.path == "/te":
            self.send_header("te", "gzip")
        self.send_header("content-length", "3")
        self.end_headers()
        if self.path == "/wait":
            self.over.wait(60)
        self.wfile.write(b"end")

    def log_message(self, *_) -> None:
        pass


@pytest.mark.parametrize("variant", VARIANTS | REVERSED)
def test_what_one_request_cannot_have_costs_no_other(variant, new_pair, certificates):
    """A value that no HTTP/2 codec takes, in a request and in a response; what HTTP/1.1 lets through and HTTP/2 doesn't; and a
    few hundred clients that give up early, on a WebSocket that is still young."""
    Application.over.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pair = new_pair(f"127.0.0.1:{server.server_port}", **(VARIANTS | REVERSED)[variant])

    def get(path: str, **fields: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=10)
        connection.request("GET", path, headers=fields)
        return connection.getresponse()

    def websockets() -> int:
        return pair.asking.stats()[f"{pair.tunnel}.upstream_cx_total"]

    before = websockets()
    try:
        waiting = get("/wait")
        assert get("/", large="v" * 70_000).status == 503
        assert get("/large/70000").status in (502, 503)
        assert get("/large/60000").status == 200
        assert get("/te").status in (502, 503)
        assert get("/upgrade").status in (502, 503)
        for text in (
            b"GET / HTTP/1.1\r\nhost: user@a\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost:\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 3\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", pair.near_port), timeout=5) as odd:
                odd.sendall(text)
                assert odd.recv(4096).startswith(b"HTTP/1.1 ")
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", pair.near_port)) as impatient:
                impatient.sendall(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n")
                assert Application.asked.acquire(timeout=10)
        assert get("/large/10").status == 200
    finally:
        Application.over.set()
        server.shutdown()
        server.server_close()
    assert waiting.read() == b"end"
    assert websockets() == before


@pytest.mark.parametrize("fields, size", [pytest.param(250, 10, id="fields"), pytest.param(200, 450, id="bytes")])
def test_a_header_list_over_the_limit(fields, size, new_pair, web_origins):
    """Is refused by the first Envoy, with the status that is meant for it, and never gets to the filter."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}")
    before = pair.near.stats()["cluster.tunnel.upstream_rq_total"]
    connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=20)
    connection.request("GET", "/hello", headers={f"x-{number}": "x" * size for number in range(fields)})
    assert connection.getresponse().status == 431
    assert pair.near.stats()["cluster.tunnel.upstream_rq_total"] == before


def test_health_checks_of_a_far_envoy(new_pair, web_origins):
    """As docs/intermediaries.md has them: they see a far Envoy that is to go, and leave nothing in its counters."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", start=False)
    port = free_port()
    health = (ROOT / "envoy/far-health.yaml").read_text()
    pair.far.arguments += ["--config-yaml", health.replace("port_value: 10004", f"port_value: {port}")]
    far = cluster(pair.near.config, "far")
    check = {"timeout": "1s", "interval": "0.2s", "no_traffic_interval": "0.2s", "unhealthy_threshold": 2}
    far["health_checks"] = [{**check, "healthy_threshold": 1, "http_health_check": {"path": "/ready"}}]
    endpoint(pair.near.config, "far")["health_check_config"] = {"port_value": port}
    pair.start()

    def healthy() -> int:
        return pair.near.stats()["cluster.far.membership_healthy"]

    for command, expected in (("ok", 1), ("fail", 0), ("ok", 1)):
        pair.far.admin(f"/healthcheck/{command}", "POST")
        wait_for(lambda expected=expected: healthy() == expected)
    stats = pair.far.stats()
    assert not any(count for name, count in stats.items() if "wsferry_handshakes_refused" in name)
    pair.wait_ready(RECOVERY)


@pytest.fixture(scope="module")
def variants(new_shared_pair, origin, certificates):
    """Pairs with other configurations, by their names."""
    pairs = {}

    def get(variant: str):
        if variant not in pairs:
            address = f"127.0.0.1:{origin('http2').port}"
            pairs[variant] = new_shared_pair(address, origin_http2=True, **(VARIANTS | REVERSED)[variant])
        return pairs[variant]

    return get


@pytest.mark.parametrize("variant", ["tls", "one_listener", "http_filters", "http_filter_far", *REVERSED])
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=one.name) for one in scenario.load() if "http2" in one.levels]
)
def test_exchange_with_another_configuration(variant, one, loop, variants, origin):
    pair = variants(variant)

    async def run():
        client = CLIENTS["http2"](pair.near_port)
        try:
            return await scenario.play(one, client, origin("http2"))
        finally:
            await client.close()

    for play in loop(run()):
        check(play)


def far_answers_in_tls(pair, certificates, *, with_certificate: bool) -> int:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    if with_certificate:
        context.load_cert_chain(certificates / "near.pem", certificates / "near.key")
    raw = socket.create_connection(("127.0.0.1", pair.far_port), timeout=5)
    with context.wrap_socket(raw, server_hostname="far.example") as connection:
        connection.sendall(b"GET /wsferry HTTP/1.1\r\nhost: far.example\r\n\r\n")
        return int(connection.recv(4096).split(b" ")[1])


def test_far_envoy_wants_a_certificate(variants, certificates):
    pair = variants("tls")
    assert far_answers_in_tls(pair, certificates, with_certificate=True) == 426
    with pytest.raises((ssl.SSLError, ConnectionError)):
        far_answers_in_tls(pair, certificates, with_certificate=False)


def test_far_envoy_wants_a_certificate_of_a_near_envoy(variants, certificates, tmp_path):
    """One of the same authority that names somebody else isn't enough."""
    pair = variants("tls")
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "far.pem", certificates / "far.key")
    raw = socket.create_connection(("127.0.0.1", pair.far_port), timeout=5)
    refused = pytest.raises((ssl.SSLError, ConnectionError))
    with refused, context.wrap_socket(raw, server_hostname="far.example") as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: far.example\r\n\r\n")
        if connection.recv(4096) == b"":
            raise ConnectionResetError


@pytest.mark.parametrize("whose, counter", WRONG_CERTIFICATES.items())
def test_near_envoy_wants_the_certificate_of_the_far_envoy(whose, counter, new_pair, web_origins, certificates, stranger):
    """It gives its requests to nobody else."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", tls=True)
    pair.far.stop()
    show_certificate(pair.far.config, whose, stranger)
    pair.far.start()
    wait_for(pair.far.is_live)
    connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=10)
    connection.request("GET", "/hello")
    assert connection.getresponse().status == 503
    assert pair.near.stats()[counter] > 0


@each_tls_version
def test_the_certificate_of_each_websocket_is_looked_at(version, variants, certificates):
    assert looks_at_each_certificate(variants("tls").far_port, version)


def test_names_with_addresses_of_both_kinds(new_pair, web_origins):
    """Of localhost Envoy would take ::1 alone, where the application doesn't listen."""
    pair = new_pair(f"localhost:{web_origins[0]}")
    connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=10)
    connection.request("GET", "/hello")
    assert connection.getresponse().status == 200


def test_clients_that_speak_http_1_0(new_pair, web_origins):
    pair = new_pair(f"127.0.0.1:{web_origins[0]}")
    with socket.create_connection(("127.0.0.1", pair.near_port), timeout=10) as client:
        client.sendall(b"GET /hello HTTP/1.0\r\nhost: app.example\r\n\r\n")
        answer = b"".join(iter(partial(client.recv, 65_536), b""))
    assert answer.startswith(b"HTTP/1.0 200 "), answer[:200]


def test_what_the_far_end_finds_too_large_costs_no_other_request(new_pair, web_origins):
    """Also where it is the first of a WebSocket, and waits for the handshake."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", start=False)
    filters = network_filters(listener(pair.far.config, "far"))
    place = filters[0]["typed_config"]["config"]["configuration"]
    place["value"] = json.dumps(json.loads(place["value"]) | {"limits": {"max_header_list_bytes": 16_384}})
    pair.start()

    def ask(**fields: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=10)
        connection.request("GET", "/hello", headers=fields)
        return connection.getresponse().status

    assert ask(large="x" * 20_000) in (431, 503)
    assert ask() == 200
    wait_for(lambda: pair.far.stats()["wasmcustom.wsferry_websockets_opened"] > 0)
    stats = pair.far.stats()
    assert stats["wasmcustom.wsferry_websockets_opened"] == 1
    assert stats["wasmcustom.wsferry_protocol_errors_header_list_too_big"] == 0


@pytest.mark.parametrize("near", ["near", "near-http-filter"])
def test_a_handshake_has_a_user_agent(near, new_pair, web_origins):
    """Firewalls in front of the far end may ask for one."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", near_config=ROOT / f"envoy/{near}.yaml", start=False)
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    with socket.create_server(("127.0.0.1", pair.far_port)) as server, socket.socket() as client:
        pair.near.start()
        wait_for(lambda: pair.near.is_live())
        client.connect(("127.0.0.1", pair.near_port))
        client.sendall(b"GET /hello HTTP/1.1\r\nhost: app.example\r\n\r\n")
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as lines:
            fields = read_handshake(lines)
            assert fields[b"user-agent"] == f"wsferry/{version}".encode()
