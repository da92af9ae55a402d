"""Many requests on one WebSocket, slow readers, and what they cost."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from conftest import CLIENTS
from endpoints import Data, End, RequestHead, ResponseHead
from endpoints.http2 import Http2Client

MIB = 1 << 20
GET = RequestHead(b"GET", b"/", b"app.example")
# How long the slow reader reads; all of its 64 MiB take 672 s.
SLOW_READER_SECONDS = int(os.environ.get("WSFERRY_SLOW_READER_SECONDS", "12"))


async def read_all(exchange) -> tuple[ResponseHead, bytes]:
    head = await exchange.receive()
    body = bytearray()
    while isinstance(event := await exchange.receive(), Data):
        body += event.payload
    assert isinstance(event, End)
    return head, bytes(body)


@pytest.mark.parametrize("client_kind", CLIENTS)
@pytest.mark.parametrize("origin_kind", CLIENTS)
def test_1000_requests_in_flight_on_one_websocket(client_kind, origin_kind, loop, pair, origin):
    tunnel, server = pair(origin_kind), origin(origin_kind)
    count = 1000

    async def run():
        client = CLIENTS[client_kind](tunnel.near_port)
        asked = [
            await client.beside().open(RequestHead(b"GET", b"/%d" % number, b"app.example"), end=True)
            for number in range(count)
        ]
        accepted = [await server.accepted.get() for _ in range(count)]
        # All have arrived, none is answered.
        near = await asyncio.to_thread(tunnel.near.stats)
        for head, exchange in accepted:
            await exchange.respond(ResponseHead(200, [(b"x-path", head.path)]))
            await exchange.send(head.path)
            await exchange.finish()
        answers = await asyncio.gather(*(read_all(exchange) for exchange in asked))
        await client.close()
        return near, answers

    near, answers = loop(run(), limit=30)
    assert near["cluster.tunnel.upstream_rq_active"] == count
    assert near["cluster.tunnel.upstream_cx_active"] == 1
    assert near["cluster.far.upstream_cx_active"] == 1
    for number, (head, body) in enumerate(answers):
        assert head.status == 200
        assert (b"x-path", b"/%d" % number) in head.fields
        assert body == b"/%d" % number


@pytest.mark.timeout(SLOW_READER_SECONDS + 120)
@pytest.mark.parametrize("client_kind", CLIENTS)
def test_a_slow_reader_stops_only_itself(client_kind, loop, new_pair, web_origins):
    """64 MiB to a client that reads 100 KB/s: both Envoys stay within 16 MiB, and others are served meanwhile.

    What can pile up has done so within a second or two, so by default some seconds of the eleven minutes will do.
    """
    port, files, _ = web_origins
    (files / "trickle.bin").write_bytes(os.urandom(64 * MIB))
    (files / "quick.bin").write_bytes(os.urandom(8 * MIB))
    pair = new_pair(f"127.0.0.1:{port}")

    async def fetch(path: bytes) -> int:
        client = CLIENTS[client_kind](pair.near_port)
        _, body = await read_all(await client.open(RequestHead(b"GET", path, b"app.example"), end=True))
        await client.close()
        return len(body)

    async def read_slowly(seconds: float) -> int:
        """Reads at 100 KB/s, with small buffers of its own."""
        got = 0
        begun = time.monotonic()
        if client_kind == "http2":
            client = Http2Client(pair.near_port, window=65535)
            exchange = await client.open(RequestHead(b"GET", b"/trickle.bin", b"app.example"), end=True)
            await exchange.receive()
            while (passed := time.monotonic() - begun) < seconds and got < 64 * MIB:
                while got < min(passed * 100_000, 64 * MIB):
                    got += len((await exchange.receive()).payload)
                await asyncio.sleep(0.05)
            await client.close()
            return got
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            raw.setblocking(False)
            running = asyncio.get_running_loop()
            await running.sock_connect(raw, ("127.0.0.1", pair.near_port))
            await running.sock_sendall(raw, b"GET /trickle.bin HTTP/1.1\r\nhost: app.example\r\n\r\n")
            while (passed := time.monotonic() - begun) < seconds and got < 64 * MIB:
                while got < min(passed * 100_000, 64 * MIB):
                    piece = await running.sock_recv(raw, 5000)
                    assert piece
                    got += len(piece)
                await asyncio.sleep(0.05)
        return got

    async def run():
        # Whatever an Envoy allocates once, for connections and in the filter's VM, is there before it is measured.
        for _ in range(3):
            assert await fetch(b"/quick.bin") == 8 * MIB
        before = [envoy.memory() for envoy in pair.envoys]
        peak = list(before)
        slow = asyncio.ensure_future(read_slowly(SLOW_READER_SECONDS))
        quick = []
        while not slow.done():
            begun = time.monotonic()
            await fetch(b"/hello")
            quick.append(time.monotonic() - begun)
            peak = [max(old, envoy.memory()) for old, envoy in zip(peak, pair.envoys, strict=True)]
            await asyncio.sleep(0.02)
        return before, peak, quick, slow.result()

    before, peak, quick, got = loop(run(), limit=SLOW_READER_SECONDS + 48)
    wanted = min(SLOW_READER_SECONDS * 100_000, 64 * MIB)
    assert wanted - 200_000 < got < wanted + 800_000
    growth = [(after - first) / MIB for first, after in zip(before, peak, strict=True)]
    print(
        f"{got} bytes; growth near {growth[0]:.1f} MiB, far {growth[1]:.1f} MiB; "
        f"{len(quick)} other requests, the slowest took {max(quick) * 1000:.0f} ms"
    )
    assert max(growth) < 16
    assert len(quick) > 100
    # Not the slowest: the machine may have had something else to do.
    assert sorted(quick)[len(quick) * 99 // 100] < 1


def test_slow_readers_do_not_stop_bulk_transfers(loop, new_pair, web_origins):
    """Twenty readers that stop in the middle of a large response, and eight large responses beside them."""
    port, files, _ = web_origins
    (files / "bulk.bin").write_bytes(os.urandom(16 * MIB))
    pair = new_pair(f"127.0.0.1:{port}")
    head = RequestHead(b"GET", b"/bulk.bin", b"app.example")

    async def run():
        stopped = Http2Client(pair.near_port, window=65535)
        for _ in range(20):
            exchange = await stopped.open(head, end=True)
            assert (await exchange.receive()).status == 200
        client = Http2Client(pair.near_port)
        bodies = await asyncio.gather(*[read_all(await client.open(head, end=True)) for _ in range(8)])
        await client.close()
        await stopped.close()
        return [len(body) for _, body in bodies]

    assert loop(run(), limit=30) == [16 * MIB] * 8
