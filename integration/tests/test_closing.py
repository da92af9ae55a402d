"""How WebSockets end: drained, idle, too old, closed by the other end, and with readers that are slow or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cbor2
import pytest
import yaml

from conftest import CLIENTS, REVERSED, wait_for
from endpoints import End, RequestHead, ResponseHead
from pair import ROOT, cluster, connection_manager, envoy_version, http2_options, http_options, listener
from plain_peer import CREDIT, REQUEST, SETTINGS, PlainPeer, answer_handshake, frame, message, read_messages, request

GET = RequestHead(b"GET", b"/", b"app.example")


def closes(envoy) -> dict[str, int]:
    """Ended WebSockets by close code."""
    prefix = "wasmcustom.wsferry_websockets_closed_"
    return {name.removeprefix(prefix): count for name, count in envoy.stats().items() if name.startswith(prefix) and count}


def wait_closes(pair, expected: dict[str, int]) -> None:
    deadline = time.monotonic() + 10
    while (found := [closes(envoy) for envoy in pair.envoys]) != [expected, expected]:
        assert time.monotonic() < deadline, found
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


def test_draining_near_envoy_finishes_what_is_under_way(loop, new_pair, origin):
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}", start=False)
    # Otherwise Envoy lets chance decide, over ten minutes, which response says that the connection closes.
    pair.near.arguments += ["--drain-strategy", "immediate"]
    pair.start()

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        exchange = await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await asyncio.to_thread(pair.near.admin, "/drain_listeners?graceful", "POST")
        await answer.respond(ResponseHead(200, [(b"content-length", b"4")]))
        await answer.send(b"done")
        await answer.finish()
        assert (await exchange.receive()).status == 200
        assert (await exchange.receive()).payload == b"done"
        assert isinstance(await exchange.receive(), End)

    loop(run())
    assert pair.near.stats()["http.ingress.downstream_cx_drain_close"] == 1


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


def test_a_stream_that_its_client_gives_up_after_a_goaway_is_no_break(loop, new_pair, origin):
    """As an event stream in a WebSocket that was renewed: with its last stream Envoy hangs up, and tells nobody of the reset."""
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}", start=False)
    inner = connection_manager(pair.far.config, "inner")
    inner["common_http_protocol_options"]["max_connection_duration"] = "1s"
    inner["drain_timeout"] = "0.1s"
    pair.start()

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        streaming = await client.open(GET, end=True)
        _, answer = await server.accepted.get()
        await answer.respond(ResponseHead(200))
        assert (await streaming.receive()).status == 200
        await asyncio.to_thread(wait_for, lambda: pair.near.stats()["cluster.tunnel.upstream_cx_close_notify"] > 0)
        await client.close()
        await asyncio.to_thread(wait_for, lambda: all(closes(envoy) for envoy in pair.envoys))

    loop(run(), 30)
    for envoy in pair.envoys:
        assert envoy.stats()["wasmcustom.wsferry_websockets_broken"] == 0
        assert "[warning][wasm]" not in envoy.log.read_text()


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
        wait_for(lambda: pair.near.is_live())
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
        wait_for(lambda: pair.near.is_live())
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


def send_all(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)
