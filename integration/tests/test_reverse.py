"""Requests that begin at the far end, over WebSockets that the near one dials: what is its own in that direction.

What passes is the matter of the tests of exchanges, files, gRPC and WebSockets, which run in both directions.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import threading
import time

import yaml

from conftest import CLIENTS
from endpoints import Data, End, RequestHead, Reset, ResponseHead
from pair import ROOT, cluster, connection_manager, free_port, listener

# Seconds until the near Envoy has dialled again: an interval and a back-off of near-reverse.yaml, and a slow machine.
REDIALLED = 20.0


def get(pair, path: str, **fields: str) -> tuple[int | None, bytes]:
    """Status and body; no status while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=20)
    try:
        connection.request("GET", path, headers=fields)
        response = connection.getresponse()
        return response.status, response.read()
    except ConnectionRefusedError:
        return None, b""
    finally:
        connection.close()


def test_a_far_envoy_that_comes_back_is_dialled_again(new_pair, web_origins):
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", reverse=True)
    assert get(pair, "/hello") == (200, b"hello\n")
    pair.far.kill()
    pair.far.start()
    pair.wait_ready(REDIALLED)
    assert get(pair, "/hello") == (200, b"hello\n")


def test_without_a_near_envoy_there_is_an_answer_at_once(loop, new_pair, origin):
    """What was under way gets one too, and once only: the origin doesn't see it again."""
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}", reverse=True)

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        exchange = await client.open(RequestHead(b"POST", b"/", b"a.example", fields=[(b"content-length", b"0")]), end=True)
        _, answer = await server.accepted.get()
        await asyncio.to_thread(pair.near.kill)
        head = await exchange.receive()
        assert isinstance(head, ResponseHead) and head.status == 503
        while not isinstance(event := await answer.receive(), Reset):
            assert isinstance(event, End | Data)
        await client.close()

    loop(run())
    assert get(pair, "/")[0] == 503
    assert server.accepted.empty()
    pair.near.start()
    pair.wait_ready(REDIALLED)


def test_many_at_once_by_several_workers(new_pair, web_origins):
    """Each worker of the far Envoy has WebSockets of its own."""
    pair = new_pair(f"127.0.0.1:{web_origins[0]}", reverse=True, concurrency=2)
    deadline = time.monotonic() + REDIALLED
    while pair.far.stats().get("wasmcustom.wsferry_websockets_open", 0) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    content = os.urandom(300_000)
    expected = hashlib.sha256(content).hexdigest()
    answers = []

    def upload() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=60)
        for _ in range(5):
            connection.request("POST", "/checksum", body=content)
            answers.append(connection.getresponse().read().decode().split()[0])
        connection.close()

    threads = [threading.Thread(target=upload) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 300


def test_a_connection_that_goes_away_is_dialled_again_before_its_last_request_is_over(loop, new_pair, origin):
    server = origin("http1")
    pair = new_pair(f"127.0.0.1:{server.port}", reverse=True, start=False)
    connection_manager(pair.near.config, "inner")["common_http_protocol_options"]["max_connection_duration"] = "2s"
    pair.start()

    def wait(condition) -> None:
        deadline = time.monotonic() + REDIALLED
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    async def run():
        client = CLIENTS["http1"](pair.near_port)
        streams = []
        # More than the near Envoy keeps connections.
        for _ in range(4):
            await asyncio.to_thread(wait, lambda: get(pair, pair.ready_path)[0] == 200)
            exchange = await client.beside().open(RequestHead(b"GET", b"/", b"a.example"), end=True)
            _, answer = await server.accepted.get()
            await answer.respond(ResponseHead(200))
            assert (await exchange.receive()).status == 200
            streams.append((exchange, answer))
            known = pair.near.stats()["http.inner.downstream_cx_max_duration_reached"]
            await asyncio.to_thread(
                wait, lambda: pair.near.stats()["http.inner.downstream_cx_max_duration_reached"] > known
            )
        for exchange, answer in streams:
            await answer.finish()
            while isinstance(event := await exchange.receive(), Data):
                pass
            assert isinstance(event, End)
        await client.close()

    loop(run(), 60)


def test_a_request_can_name_its_near_envoy(new_pair, origin, loop, tmp_path):
    """Two of them, which claim different names."""
    config = yaml.safe_load((ROOT / "envoy/far-reverse.yaml").read_text())
    cluster(config, "near")["cluster_type"]["typed_config"]["host_id_format"] = "%REQ(x-site)%"
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(config))
    near = yaml.safe_load((ROOT / "envoy/near-reverse.yaml").read_text())
    address = listener(near, "inner")["address"]["socket_address"]
    server = origin("http1")
    pairs = []
    for name in ("north", "south"):
        address["address"] = f"rc://{name}:near:default@dial:2"
        (tmp_path / "near.yaml").write_text(yaml.safe_dump(near))
        options = {"near_config": tmp_path / "near.yaml", "far_config": tmp_path / "far.yaml", "reverse": True}
        far_port = pairs[0].far_port if pairs else free_port()
        pairs.append(new_pair(f"127.0.0.1:{server.port}", start=False, far_port=far_port, **options))
    pairs[0].far.start()
    for pair in pairs:
        pair.near.start()

    def ready(path: str, site: str) -> None:
        deadline = time.monotonic() + REDIALLED
        while get(pairs[0], path, **{"x-site": site})[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    # Each answers only its own question, and the other one's goes to the origin.
    ready(pairs[0].ready_path, "north")
    ready(pairs[1].ready_path, "south")
    assert get(pairs[0], "/", **{"x-site": "west"})[0] == 503

    async def crossed():
        client = CLIENTS["http1"](pairs[0].near_port)
        path = pairs[0].ready_path.encode()
        await client.open(RequestHead(b"GET", path, b"a.example", fields=[(b"x-site", b"south")]), end=True)
        seen, _ = await server.accepted.get()
        assert seen.path == path
        await client.close()

    loop(crossed())
