"""What an operator sees: workers, ends that die and come back, TLS, the other wiring."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import http.server
import io
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor

import cbor2
import pytest
import yaml

import scenario
from adaptive import is_live
from conftest import CLIENTS, HAS_REVERSE_TUNNELS, WASM
from endpoints import End, RequestHead, Reset, ResponseHead
from pair import (
    ROOT,
    PairError,
    check_free,
    cluster,
    connection_manager,
    envoy_version,
    free_port,
    listener,
    network_filters,
)
from plain_peer import BINARY, CREDIT, REQUEST, SETTINGS, PlainPeer, frame, message, request
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
    pair.far.expected_to_be_dead = True

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
    pair.far.expected_to_be_dead = False


def test_near_envoy_killed(loop, new_pair, origin):
    """The origins' requests are cancelled; other near Envoys don't notice (a second one stands for them)."""
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}")
    pair.near.expected_to_be_dead = True

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await asyncio.to_thread(pair.near.kill)
        while not isinstance(event := await answer.receive(), Reset):
            assert isinstance(event, End)

    loop(run())
    deadline = time.monotonic() + RECOVERY
    while pair.far.stats()["http.inner.downstream_cx_active"]:
        assert time.monotonic() < deadline
    pair.near.start()
    pair.wait_ready(RECOVERY)
    pair.near.expected_to_be_dead = False


VARIANTS = {
    "plain": {},
    "tls": {"tls": True},
    "http_filters": {"near_config": ROOT / "envoy/near-http-filter.yaml", "far_config": ROOT / "envoy/far-http-filter.yaml"},
    "one_listener": {"far_config": ROOT / "envoy/far-one-listener.yaml"},
    "http_filter_far": {"far_config": ROOT / "envoy/far-http-filter.yaml"},
    "http_filter_near": {"near_config": ROOT / "envoy/near-http-filter.yaml"},
}
REVERSED = {"reverse": {"reverse": True}} if HAS_REVERSE_TUNNELS else {}


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
        while not is_live(envoy):
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

    pair.far.expected_to_be_dead = True
    pair.far.kill()
    deadline = time.monotonic() + 20
    while websockets():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    start(pair.far)
    pair.far.expected_to_be_dead = False
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
    assert waiting.read() == b"end"
    assert websockets() == before
    server.shutdown()


@pytest.mark.parametrize("fields, size", [pytest.param(250, 10, id="fields"), pytest.param(200, 450, id="bytes")])
def test_a_header_list_over_the_limit(fields, size, new_pair, web_origins):
    """Is refused by the first Envoy, with the status that is meant for it, and never gets to the filter."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}")
    before = pair.near.stats()["cluster.tunnel.upstream_rq_total"]
    connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=20)
    connection.request("GET", "/hello", headers={f"x-{number}": "x" * size for number in range(fields)})
    assert connection.getresponse().status == 431
    assert pair.near.stats()["cluster.tunnel.upstream_rq_total"] == before


@pytest.fixture(scope="module")
def variants(new_pair, origin, certificates):
    """Pairs with other configurations, by their names."""
    pairs = {}

    def get(variant: str):
        if variant not in pairs:
            address = f"127.0.0.1:{origin('http2').port}"
            pairs[variant] = new_pair(address, origin_http2=True, **(VARIANTS | REVERSED)[variant])
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
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with context.wrap_socket(raw, server_hostname="far.example") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: far.example\r\n\r\n")
            if connection.recv(4096) == b"":
                raise ConnectionResetError


def test_draining_near_envoy_finishes_what_is_under_way(loop, new_pair, origin):
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}")

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        exchange = await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await asyncio.to_thread(pair.far.admin, "/drain_listeners?graceful", "POST")
        await answer.respond(ResponseHead(200, [(b"content-length", b"4")]))
        await answer.send(b"done")
        await answer.finish()
        assert (await exchange.receive()).status == 200
        assert (await exchange.receive()).payload == b"done"
        assert isinstance(await exchange.receive(), End)

    loop(run())


def closes(envoy) -> dict[str, int]:
    """Ended WebSockets by close code."""
    prefix = "wasmcustom.wsferry_websockets_closed_"
    return {name.removeprefix(prefix): count for name, count in envoy.stats().items() if name.startswith(prefix) and count}


def wait_closes(pair, expected: dict[str, int]) -> None:
    deadline = time.monotonic() + 10
    while (found := [closes(envoy) for envoy in pair.envoys]) != [expected, expected]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.parametrize("options", ({"near_asks": {}} | REVERSED).values(), ids=({"near_asks": {}} | REVERSED))
def test_a_slow_reader_that_asked_for_a_close_gets_everything(options, new_pair, web_origins):
    port, files, _ = web_origins
    size = 4 << 20
    (files / "slow.bin").write_bytes(os.urandom(size))
    pair = new_pair(f"127.0.0.1:{port}", **options)
    got = []

    def read() -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            client.settimeout(10)
            client.connect(("127.0.0.1", pair.near_port))
            client.sendall(b"GET /slow.bin HTTP/1.1\r\nhost: app.example\r\nconnection: close\r\n\r\n")
            begun, received = time.monotonic(), 0
            while piece := client.recv(20_000):
                received += len(piece)
                time.sleep(max(0.0, begun + received / 300_000 - time.monotonic()))
            got.append(received)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(got) == len(readers) and min(got) > size, got


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_hang_up(pair, code: str, text: str) -> None:
    """The near Envoy's pool hangs up without a word. Until 1.39 Envoy tells the filter, which says Close."""
    if envoy_version(pair.near.binary) < (1, 40):
        code = {"1006": "1000"}.get(code, code)
        text = f"with {code}"
    wait_closes(pair, {code: 1})
    for envoy in pair.envoys:
        (line,) = [line for line in envoy.log.read_text().splitlines() if "WebSocket closed" in line]
        assert "[info][wasm]" in line and text in line


def protocol_options(config: dict, cluster_name: str) -> dict:
    options = cluster(config, cluster_name)["typed_extension_protocol_options"]
    return options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]


def http_options(config: dict, cluster_name: str) -> dict:
    return protocol_options(config, cluster_name)["common_http_protocol_options"]


def http2_options(config: dict, cluster_name: str) -> dict:
    return protocol_options(config, cluster_name)["explicit_http_config"]["http2_protocol_options"]


def test_far_envoy_drained_under_a_stream(loop, new_pair, origin):
    """The WebSocket ends with its last stream, which counts as orderly on both sides."""
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}", start=False)
    # Otherwise Envoy lets chance decide, over ten minutes, which response carries a GOAWAY.
    pair.far.arguments += ["--drain-strategy", "immediate"]
    pair.start()

    async def answer_one(client, asked) -> None:
        _, answer = await server.accepted.get()
        await answer.respond(ResponseHead(204))
        assert (await asked.receive()).status == 204

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        streaming = await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await answer.respond(ResponseHead(200, [(b"content-length", b"8")]))
        assert (await streaming.receive()).status == 200
        await asyncio.to_thread(pair.far.admin, "/drain_listeners?graceful", "POST")
        beside = client.beside()
        await answer_one(beside, await beside.open(GET, end=True))
        await answer.send(b"half")
        assert (await streaming.receive()).payload == b"half"
        await asyncio.to_thread(wait_goaway)
        assert closes(pair.near) == closes(pair.far) == {}
        await answer.send(b"done")
        await answer.finish()
        assert (await streaming.receive()).payload == b"done"
        assert isinstance(await streaming.receive(), End)
        await asyncio.to_thread(wait_hang_up, pair, "1001", "without Close, after goaway")

    def wait_goaway() -> None:
        deadline = time.monotonic() + 5
        while not pair.far.stats()["http.inner.downstream_cx_drain_close"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    loop(run(), 30)


def test_a_slow_reader_gets_everything_from_a_far_envoy_that_goes_away(new_pair, web_origins):
    """What the near Envoy holds for it when the far one has nothing more to do."""
    port, files, _ = web_origins
    size = 16 << 20
    (files / "slow.bin").write_bytes(os.urandom(size))
    pair = new_pair(f"127.0.0.1:{port}", start=False)
    connection_manager(pair.far.config, "inner")["common_http_protocol_options"]["max_connection_duration"] = "1s"
    pair.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(10)
        client.connect(("127.0.0.1", pair.near_port))
        client.sendall(b"GET /slow.bin HTTP/1.1\r\nhost: app.example\r\n\r\n")
        begun, got = time.monotonic(), 0
        while got < size and (piece := client.recv(20_000)):
            got += len(piece)
            time.sleep(max(0.0, begun + got / 1_500_000 - time.monotonic()))
    assert got >= size


@pytest.mark.parametrize("far", ["far", "far-one-listener", "far-http-filter"])
def test_a_near_end_that_reads_nothing_is_let_go(far, new_pair, web_origins):
    """What is still to be sent to it holds no connection for longer than TCP_USER_TIMEOUT."""
    port, files, _ = web_origins
    (files / "unread.bin").write_bytes(os.urandom(16 << 20))
    pair = new_pair(f"127.0.0.1:{port}", far_config=ROOT / f"envoy/{far}.yaml", start=False)
    listener(pair.far.config, "far")["socket_options"][0]["int_value"] = 2000
    pair.start()

    def stat(name: str) -> int:
        return pair.far.stats()[name]

    connections = f"listener.127.0.0.1_{pair.far_port}.downstream_cx_active"
    before = stat(connections)
    with PlainPeer(pair.far_port) as peer:
        window = {4: 1 << 24}
        peer.send(message([SETTINGS, window], [CREDIT, -1, 1 << 24], request(0, b"/unread.bin")))
        received, now = -1, 0
        deadline = time.monotonic() + 10
        while now == 0 or now != received:
            assert time.monotonic() < deadline
            time.sleep(0.3)
            received, now = now, stat("cluster.origin.upstream_cx_rx_bytes_total")
        assert now < 16 << 20, "the peer's window and the buffers hold all of it"
        assert stat(connections) == before + 1
        peer.send(frame(1, b"no text frame is allowed"))
        wait_for(lambda: stat(connections) == before)


@pytest.mark.parametrize("near", ["near", "near-http-filter"])
def test_a_far_end_that_reads_nothing_is_let_go(near, new_pair, web_origins):
    """The keepalive ends its requests, and TCP_USER_TIMEOUT the connection with what is still to be sent."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", near_config=ROOT / f"envoy/{near}.yaml", start=False)
    cluster(pair.near.config, "far")["upstream_bind_config"]["socket_options"][0]["int_value"] = 2000
    http2_options(pair.near.config, "tunnel")["connection_keepalive"] = {"interval": "1s", "timeout": "1s"}
    with socket.create_server(("127.0.0.1", pair.far_port)) as server, socket.socket() as client:
        pair.near.start()
        wait_for(lambda: is_live(pair.near))
        client.connect(("127.0.0.1", pair.near_port))
        client.sendall(b"POST /checksum HTTP/1.1\r\nhost: app.example\r\ncontent-length: 16777216\r\n\r\n")
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as lines:
            answer_handshake(peer, lines)
            window = {4: 1 << 24}
            peer.sendall(frame(2, cbor2.dumps([SETTINGS, window]) + cbor2.dumps([CREDIT, -1, 1 << 24]), mask=False))
            client.settimeout(10)
            threading.Thread(target=send_all, args=(client, bytes(1 << 24)), daemon=True).start()
            assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
            wait_for(lambda: pair.near.stats()["cluster.far.upstream_cx_active"] == 0)


@pytest.mark.parametrize("near", ["near", "near-http-filter"])
def test_a_close_on_an_idle_websocket_has_the_next_request_open_another(near, new_pair, web_origins):
    """Whoever closed it may leave the connection open."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", near_config=ROOT / f"envoy/{near}.yaml", start=False)
    answer = cbor2.dumps([1, 0, True, 204, []])

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=10)
        connection.request("POST", "/")
        return connection.getresponse().status

    with socket.create_server(("127.0.0.1", pair.far_port)) as server, ThreadPoolExecutor(1) as client:
        pair.near.start()
        wait_for(lambda: is_live(pair.near))
        kept = []
        for _ in range(2):
            asking = client.submit(ask)
            server.settimeout(10)
            peer, _ = server.accept()
            kept.append(peer)
            lines = peer.makefile("rb")
            answer_handshake(peer, lines)
            peer.sendall(frame(2, cbor2.dumps([SETTINGS, {}]), mask=False))
            while not any(item[0] == REQUEST for item in read_messages(lines)):
                pass
            peer.sendall(frame(2, answer, mask=False))
            assert asking.result(10) == 204
            peer.sendall(frame(8, (1001).to_bytes(2, "big"), mask=False))
            wait_for(lambda: pair.near.stats()["cluster.tunnel.upstream_cx_active"] == 0)
        for peer in kept:
            peer.close()


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
        wait_for(lambda: is_live(pair.near))
        client.connect(("127.0.0.1", pair.near_port))
        client.sendall(b"GET /hello HTTP/1.1\r\nhost: app.example\r\n\r\n")
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as lines:
            fields = read_handshake(lines)
            assert fields[b"user-agent"] == f"wsferry/{version}".encode()


def read_handshake(lines) -> dict[bytes, bytes]:
    """The fields of a near end's request."""
    fields = {}
    while (line := lines.readline().strip()):
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    return fields


def answer_handshake(peer: socket.socket, lines) -> None:
    """As a far end would."""
    fields = read_handshake(lines)
    digest = hashlib.sha1(fields[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    accept = base64.b64encode(digest).decode()
    peer.sendall(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        f"sec-websocket-protocol: wsferry.v1\r\nsec-websocket-accept: {accept}\r\n\r\n".encode()
    )


def read_messages(stream) -> list:
    """What a near end's next frame has, nothing if it is no data."""
    first, second = stream.read(2)
    length = second & 127
    if length == 126:
        length = int.from_bytes(stream.read(2), "big")
    mask, payload = stream.read(4), stream.read(length)
    plain = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    items = []
    with io.BytesIO(plain) as sequence:
        while first & 15 == BINARY and sequence.tell() < length:
            items.append(cbor2.load(sequence))
    return items


def send_all(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


def test_idle_timeouts(new_pair, origin):
    """The far Envoy's says goaway, the near Envoy's nothing."""
    pair = new_pair(f"127.0.0.1:{origin('http1').port}", start=False)
    connection_manager(pair.far.config, "inner")["common_http_protocol_options"]["idle_timeout"] = "1s"
    pair.start()
    wait_hang_up(pair, "1001", "without Close, after goaway")
    pair = new_pair(f"127.0.0.1:{origin('http1').port}", start=False)
    http_options(pair.near.config, "tunnel")["idle_timeout"] = "1s"
    pair.start()
    wait_hang_up(pair, "1006", "without Close")


def test_websocket_is_renewed_before_it_gets_too_old(loop, new_pair, origin, tmp_path):
    """Where something on the way ends connections of some age: new requests take a new one, the old ones finish."""
    server = origin("http1")
    config = yaml.safe_load((ROOT / "envoy/near.yaml").read_text())
    http_options(config, "tunnel")["max_connection_duration"] = "1s"
    (tmp_path / "near.yaml").write_text(yaml.safe_dump(config))
    pair = new_pair(f"127.0.0.1:{server.port}", near_config=tmp_path / "near.yaml")

    def websockets() -> int:
        return pair.near.stats()["cluster.tunnel.upstream_cx_total"]

    async def run():
        exchange = await CLIENTS["http1"](pair.near_port).open(GET, end=True)
        _, answer = await server.accepted.get()
        before = websockets()
        while websockets() < before + 2:
            assert await asyncio.to_thread(pair.passes)
        await answer.respond(ResponseHead(200, [(b"content-length", b"4")]))
        await answer.send(b"done")
        await answer.finish()
        assert (await exchange.receive()).status == 200
        assert (await exchange.receive()).payload == b"done"
        assert isinstance(await exchange.receive(), End)

    loop(run())


def test_pair_says_what_is_wrong(web_origins):
    """scripts/pair: a port that is taken, an origin that is none, a missing filter."""

    def complaint(*arguments: str) -> str:
        done = subprocess.run(
            [ROOT / "scripts/pair", "--wasm", WASM, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode != 0
        return done.stderr

    port = web_origins[0]
    assert f"port {port} (near)" in complaint("--origin", "127.0.0.1:1", "--near", str(port))
    assert "'nonsense' is not HOST:PORT" in complaint("--origin", "nonsense")
    assert "no/filter.wasm" in complaint("--origin", "127.0.0.1:1", "--wasm", "no/filter.wasm")


def test_free_ports_stay_free():
    """Nobody takes them by chance, and a server can listen there, as all servers do it."""
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    check_free("one", port)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with pytest.raises(PairError, match=f"port {port}"):
            check_free("one", port)


def test_setup_says_which_envoy_it_cannot_use(tmp_path):
    """One that is too old, and one that can't run Wasm, which its version doesn't tell."""
    envoy = tmp_path / "envoy"

    def setup(script: str) -> subprocess.CompletedProcess:
        envoy.write_text(f"#!/bin/sh\n{script}\n")
        envoy.chmod(0o755)
        return subprocess.run(
            [ROOT / "scripts/setup", "--print", "envoy"],
            env=os.environ | {"ENVOY": str(envoy)},
            capture_output=True,
            text=True,
            check=False,
        )

    version = 'echo "envoy  version: 0123456789abcdef/{}/Clean/RELEASE/BoringSSL"'
    old = setup(version.format("1.35.9"))
    assert old.returncode != 0 and "1.35.9" in old.stderr
    without_wasm = setup(f'case $1 in --version) {version.format("1.40.0")} ;; *) exit 1 ;; esac')
    assert without_wasm.returncode != 0 and "Wasm" in without_wasm.stderr
    usable = setup(f'case $1 in --version) {version.format("1.100.0")} ;; esac')
    assert usable.stdout.strip() == str(envoy), usable.stderr


def test_pair_leaves_nothing_behind_when_killed(tmp_path, web_origins):
    ports = [option for name in ("near", "far", "near-admin", "far-admin") for option in (f"--{name}", "0")]
    origin = f"127.0.0.1:{web_origins[0]}"
    command = [ROOT / "scripts/pair", "--wasm", WASM, "--origin", origin, "--log-dir", tmp_path, *ports]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("ready near=http://127.0.0.1:")
    words = dict(word.split("=", 1) for word in line.split()[1:])
    near = http.client.HTTPConnection(words["near"].removeprefix("http://"), timeout=5)
    near.request("GET", "/hello")
    assert near.getresponse().read() == b"hello\n"
    process.kill()
    process.wait()
    for url in (words["near"], words["near-admin"], words["far-admin"]):
        host, port = url.removeprefix("http://").split(":")
        deadline = time.monotonic() + RECOVERY
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except ConnectionRefusedError:
                break
            assert time.monotonic() < deadline, f"somebody still listens on {url}"
            time.sleep(0.02)
