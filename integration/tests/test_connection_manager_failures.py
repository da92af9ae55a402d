"""The connection manager in real Envoys: far ends that die, drain, hang and refuse, and that no request is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.client
import json
import os
import signal
import socket
import struct
import threading
import time

import cbor2
import pytest

from adaptive import PATIENCE, ListenerFile, ways
from load import digest
from pair import ROOT, cluster, connection_manager, endpoint, envoy_version, free_port, http2_options, set_port, walk
from plain_peer import ACK, BINARY, REQUEST, RESET, RESPONSE, SETTINGS, answer_handshake, frame, read_messages


def test_far_envoy_killed_again_and_again_under_load(loop, adaptive):
    one = adaptive(failures={"max_backoff_ms": 1000})

    async def kill() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            await asyncio.to_thread(one.pair.far.kill)
            await asyncio.sleep(3)
            one.pair.far.start()
            await asyncio.sleep(2)

    async def run():
        await one.until("websocket up")
        killing = asyncio.create_task(kill())
        answers = await one.load.run(20)
        await killing
        return answers

    answers = loop(run(), 60)
    one.check(answers, posts_may_fail=True)
    seen = ways(answers)
    assert seen["websocket up"] > 300 and seen["http backoff"] > 300, seen
    failed = sum(answer.status != 200 for answer in answers)
    assert failed < 30, "no more than were under way"


def test_a_request_that_was_sent_again_speaks_against_its_tunnel(loop, adaptive):
    """Its client notices nothing, and no probe is due: only the number of attempts tells, once the request is over."""
    probe = {"cluster": "tunnel", "interval_ms": 3_600_000, "timeout_ms": 1000}
    one = adaptive(delay=0.5, eager=True, probe=probe, jitter_percent=0)

    async def run():
        await one.until("websocket up")
        again = asyncio.create_task(one.load.request("GET", "/again"))
        while not one.origin.executed["GET", "/again"]:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(one.pair.far.kill)
        return await again

    answer = loop(run(), 30)
    assert (answer.status, answer.decision) == (200, "websocket up")
    one.wait(lambda: one.metric("tunnel_requests_failed") == 1)
    answer = loop(one.load.request("GET", "/next"))
    assert answer.status == 200 and answer.decision in ("http suspect", "http backoff"), answer


@pytest.mark.parametrize("host", ["user@name", ""])
def test_what_is_odd_about_one_client_is_not_held_against_the_tunnel(loop, adaptive, host):
    """HTTP/2 can't carry its requests, so that Envoy sends them again over plain HTTP."""
    one = adaptive()

    def odd() -> int:
        with socket.create_connection(("127.0.0.1", one.pair.near_port), timeout=5) as client:
            client.sendall(f"GET /odd HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            return int(client.recv(65536).split(b" ")[1])

    async def run():
        await one.until("websocket up")
        statuses = [await asyncio.to_thread(odd) for _ in range(10)]
        return statuses, await one.load.run(2)

    statuses, answers = loop(run(), 30)
    assert statuses == [200] * 10
    one.check(answers)
    # The probe that is under way may say so at first.
    assert ways(answers)["websocket up"] > 0.9 * len(answers), ways(answers)
    one.wait(lambda: one.metric("tunnel_requests_failed") > 0)
    assert "up -> backoff" not in one.pair.near.log.read_text()


def test_a_window_that_is_full_is_noticed(loop, adaptive):
    """Readers that read nothing can fill the WebSocket's window, and then no response with a body passes."""

    def small_window(pair) -> None:
        options = http2_options(pair.near.config, "tunnel")
        options["initial_connection_window_size"] = options["initial_stream_window_size"] = 65535

    one = adaptive(prepare=small_window, probe={"cluster": "tunnel", "interval_ms": 500, "timeout_ms": 500})
    one.origin.bodies["/large"] = bytes(16 << 20)

    async def run():
        await one.until("websocket up")
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", one.pair.near_port))
            reader.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.to_thread(one.wait, lambda: one.metric("probes_timed_out") >= 3)
            answers = await one.load.run(1)
        await one.until("websocket up")
        return answers

    answers = loop(run(), 40)
    one.check(answers)
    assert set(ways(answers)) <= {"http backoff", "http opening", "http suspect"}, ways(answers)


def room_for_two(pair) -> None:
    cluster(pair.near.config, "tunnel")["circuit_breakers"] = {"thresholds": [{"max_requests": 2}]}


@pytest.mark.parametrize("mode, others", [("always", (503, "websocket up")), ("adaptive", (200, "http suspect"))])
def test_full_circuit_breakers_are_not_held_against_the_tunnel(loop, adaptive, mode, others):
    """They have no room for a probe either. What has another way takes it."""

    probe = {"cluster": "tunnel", "interval_ms": 1000, "timeout_ms": 500}
    one = adaptive(delay=0, mode=mode, prepare=room_for_two, probe=probe)

    async def run():
        await one.until("websocket up")
        one.origin.delay = 4
        slow = [asyncio.create_task(one.load.request("GET", f"/slow-{number}")) for number in range(2)]
        await asyncio.to_thread(one.wait, lambda: one.metric("probes_unsent") > 0)
        one.origin.delay = 0
        beside = [await one.load.request("GET", "/beside") for _ in range(20)]
        answers = await asyncio.gather(*slow)
        await one.until("websocket up")
        return beside, answers

    beside, answers = loop(run(), 40)
    assert {(answer.status, answer.decision) for answer in beside} == {others}
    assert [(answer.status, answer.decision) for answer in answers] == [(200, "websocket up")] * 2
    log = one.pair.near.log.read_text()
    assert "up -> backoff" not in log and "probe not sent, a circuit breaker of cluster tunnel is full" in log


def test_a_probe_to_a_cluster_that_is_not_there_says_so(loop, adaptive):
    one = adaptive(eager=True, probe={"cluster": "tunnell"})
    text = "tunnel far: can't send a probe, there is no cluster tunnell"
    loop(one.until("http backoff"))
    one.wait(lambda: text in one.pair.near.log.read_text())
    # A log line has its thread, and the main one's instance, which asks before there are clusters from xDS, says nothing.
    main = one.pair.near.process.pid
    lines = [line for line in one.pair.near.log.read_text().splitlines() if text in line]
    assert not [line for line in lines if f"][{main}][" in line], lines


def test_what_a_full_circuit_breaker_refuses_has_a_probe_sent(loop, adaptive):
    """Until the next one is due anyway, each request would get Envoy's 503."""
    one = adaptive(delay=0, prepare=room_for_two, probe={"cluster": "tunnel", "interval_ms": 3_600_000})

    async def run():
        await one.until("websocket up")
        one.origin.delay = 4
        slow = [asyncio.create_task(one.load.request("GET", f"/slow-{number}")) for number in range(2)]
        await asyncio.to_thread(one.wait, lambda: all(one.origin.executed["GET", f"/slow-{n}"] for n in range(2)))
        one.origin.delay = 0
        beside = [await one.load.request("GET", "/beside") for _ in range(20)]
        await asyncio.gather(*slow)
        await one.until("websocket up")
        return [(answer.status, answer.decision) for answer in beside]

    assert loop(run(), 40) == [(503, "websocket up")] + [(200, "http suspect")] * 19


@pytest.mark.parametrize("is_there", [True, False])
def test_another_cluster_that_fails_is_not_held_against_the_tunnel(loop, adaptive, is_there):
    """A service beside the near Envoy, whose routes are in the same listener: it refuses connections, or there is none."""

    def beside(pair) -> None:
        clusters = pair.near.config["static_resources"]["clusters"]
        (direct,) = [cluster for cluster in clusters if cluster["name"] == "direct"]
        clusters.append(copy.deepcopy(direct) | {"name": "beside"})
        if is_there:
            set_port(endpoint(pair.near.config, "beside"), free_port())
        else:
            clusters[-1]["load_assignment"]["endpoints"] = []
        (host,) = connection_manager(pair.near.config, "ingress")["route_config"]["virtual_hosts"]
        host["routes"].insert(0, {"match": {"prefix": "/beside"}, "route": {"cluster": "beside"}})

    one = adaptive(prepare=beside)

    async def run():
        await one.until("websocket up")
        beside = []
        for _ in range(20):
            beside.append(await one.load.request("GET", "/beside"))
            # Each finds the tunnel as a probe has left it.
            await asyncio.sleep(0.1)
        return beside, await one.load.run(2)

    beside, answers = loop(run(), 30)
    assert {answer.status for answer in beside} == {503}
    one.check(answers)
    assert ways(answers)["websocket up"] > 0.9 * len(answers), ways(answers)
    assert "up -> backoff" not in one.pair.near.log.read_text()


@pytest.mark.parametrize("what", ["refuses", "resets", "accepts and says nothing", "never completes the handshake"])
def test_what_follows_the_end_of_a_websocket(loop, adaptive, what):
    """Was never sent, and goes over plain HTTP at once, whatever its method and its size: the next WebSocket is for a probe
    to open."""
    one = adaptive(eager=True, probe={"cluster": "tunnel", "interval_ms": 60_000})
    # More than an Envoy keeps for another attempt.
    pieces = [os.urandom(1 << 17)] * 8

    async def serve(reader, writer):
        if what == "resets":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            return
        if what == "never completes the handshake":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
            await asyncio.sleep(PATIENCE)

    async def run():
        await one.until("websocket up")
        await asyncio.to_thread(one.pair.far.kill)
        server = None if what == "refuses" else await asyncio.start_server(serve, "127.0.0.1", one.pair.far_port)
        await asyncio.to_thread(one.wait, lambda: one.metric("websockets_open") == 0)
        answers = [await one.load.request("POST", "/post"), await one.load.upload("/upload", pieces)]
        if server is not None:
            server.close()
        return answers

    answers = loop(run(), 30)
    one.check(answers)
    assert [answer.status for answer in answers] == [200, 200], answers
    assert set(ways(answers)) <= {"http suspect", "http backoff"}, answers
    assert one.origin.digests["POST", "/upload"] == digest(b"".join(pieces))


@pytest.mark.parametrize("drain", ["/drain_listeners", "/drain_listeners?graceful"])
def test_far_envoy_drained_under_load(loop, adaptive, drain):
    def at_once(pair) -> None:
        # Otherwise Envoy lets chance decide, over ten minutes, when a connection is told.
        pair.far.arguments += ["--drain-strategy", "immediate"]

    one = adaptive(prepare=at_once)

    async def run():
        await one.until("websocket up")
        loading = asyncio.create_task(one.load.run(4))
        await asyncio.sleep(1)
        await asyncio.to_thread(one.pair.far.admin, drain, "POST")
        return await loading

    answers = loop(run(), 30)
    one.check(answers)
    # Before 1.40 Envoy tells open connections of a graceful drain only.
    is_told = drain.endswith("graceful") or envoy_version(one.pair.far.binary) >= (1, 40)
    assert (one.metric("websockets_closed_1001") >= 1) == is_told


def test_a_far_end_that_goes_silent(loop, adaptive):
    """Stopped, not dead: nothing is refused, nothing is answered."""
    probe = {"cluster": "tunnel", "interval_ms": 500, "timeout_ms": 300}
    one = adaptive(probe=probe)

    async def run():
        await one.until("websocket up")
        process = one.pair.far.process
        loading = asyncio.create_task(one.load.run(3))
        await asyncio.sleep(0.5)
        os.kill(process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            answers = await loading
        finally:
            os.kill(process.pid, signal.SIGCONT)
        late = [answer for answer in answers if answer.started > stopped + 0.5 + 0.3 + 0.2]
        assert late and all(answer.decision.startswith("http ") for answer in late), ways(late)
        assert all(answer.status == 200 and answer.seconds < 1 for answer in late)
        one.check(answers, posts_may_fail=True)

    loop(run(), 60)


@pytest.mark.parametrize("what", ["accepts and says nothing", "never completes the handshake"])
def test_a_target_that_hangs(loop, adaptive, what):
    one = adaptive()

    async def hang(reader, writer):
        if what == "never completes the handshake":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
            await asyncio.sleep(PATIENCE)

    async def run():
        await asyncio.to_thread(one.pair.far.stop)
        server = await asyncio.start_server(hang, "127.0.0.1", one.pair.far_port)
        answers = await one.load.run(4)
        server.close()
        return answers

    answers = loop(run(), 30)
    one.check(answers)
    assert all(way.startswith("http ") for way in ways(answers)), ways(answers)
    # None waited for the target, which goes on hanging.
    assert max(answer.seconds for answer in answers) < PATIENCE / 2


class Balancer:
    """What stands between the two Envoys and sends connections on to the far one, or answers them itself."""

    def __init__(self, loop):
        self.refusals = 0
        self.far_port = 0
        self.connections: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self.server = loop(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.far_port)
        self.connections.append((writer, far_writer))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self.pass_on(reader, far_writer), self.pass_on(far_reader, writer))

    @staticmethod
    async def pass_on(reader, writer) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    def cut_one(self) -> None:
        for writer in self.connections.pop(0):
            writer.transport.abort()


@pytest.mark.parametrize("mode", ["adaptive", "always"])
def test_one_refused_handshake_takes_no_websockets_that_work_out_of_use(loop, adaptive, mode):
    """One server of several may have no converter, or none at the moment."""
    balancer = Balancer(loop)

    def prepare(pair):
        set_port(endpoint(pair.near.config, "far"), balancer.port)
        balancer.far_port = pair.far_port

    one = adaptive(mode=mode, eager=True, concurrency=2, prepare=prepare)

    async def run():
        await asyncio.to_thread(one.wait, lambda: one.metric("tunnel_far_up") == 2)
        loading = asyncio.create_task(one.load.run(3))
        await asyncio.sleep(0.5)
        balancer.refusals = 1
        balancer.cut_one()
        await loading
        # The first of them may still find that the last WebSocket has ended.
        await asyncio.to_thread(one.wait, lambda: one.metric("websockets_open") == 2)
        return await one.load.run(2)

    answers = loop(run(), 60)
    one.check(answers)
    assert balancer.refusals == 0
    assert ways(answers)["websocket up"] > 0.9 * len(answers), ways(answers)
    assert "no_converter" not in one.pair.near.log.read_text()
    balancer.server.close()


def test_mode_always_asks_again_where_another_worker_has_a_websocket(loop, adaptive):
    """Refused handshakes in a row: without the other worker two of them would be a verdict for five minutes."""
    balancer = Balancer(loop)

    def prepare(pair):
        set_port(endpoint(pair.near.config, "far"), balancer.port)
        balancer.far_port = pair.far_port

    one = adaptive(mode="always", eager=True, concurrency=2, prepare=prepare)

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", one.pair.near_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/ask")
            connection.getresponse().read()

    async def run():
        await asyncio.to_thread(one.wait, lambda: one.metric("tunnel_far_up") == 2)
        loading = asyncio.create_task(one.load.run(3))
        await asyncio.sleep(0.5)
        balancer.refusals = 5
        balancer.cut_one()
        await loading
        deadline = time.monotonic() + PATIENCE
        # At the latest with the other worker's next probe. A new connection each: they go to either worker.
        while balancer.refusals > 0 or await asyncio.to_thread(one.metric, "tunnel_far_up") < 2:
            assert time.monotonic() < deadline
            await asyncio.to_thread(ask)
        return await one.load.run(1)

    answers = loop(run(), 60)
    one.check(answers)
    assert balancer.refusals == 0
    balancer.server.close()


def test_mode_always_waits_for_a_far_envoy_that_starts_again(loop, adaptive):
    """What comes after the WebSocket has ended is sent into the next one, and none of it fails."""
    one = adaptive(mode="always", eager=True, max_wait_ms=20_000)

    async def run():
        await one.until("websocket up")
        before = len(one.load.answers)
        await asyncio.to_thread(one.pair.far.kill)
        await asyncio.to_thread(one.wait, lambda: one.metric("websockets_open") == 0)
        asking = asyncio.gather(*(one.load.request("POST", f"/post-{number}") for number in range(20)))
        # Each probe that fails shows that they were not sent.
        failed = one.metric("probes_broken")
        await asyncio.to_thread(one.wait, lambda: one.metric("probes_broken") > failed)
        one.pair.far.start()
        await asking
        return one.load.answers[before:]

    answers = loop(run(), 60)
    one.check(answers)
    assert {answer.status for answer in answers} == {200}
    assert ways(answers) == {"websocket waited": 20}


def test_a_crowd_that_waits_and_is_refused(loop, adaptive):
    """In mode `always`: each gets its answer, although Envoy answers them from within each other, a thousand of which exhausted
    the stack of the VM."""
    crowd = 1500
    probe = {"cluster": "tunnel", "timeout_ms": 20_000}
    one = adaptive(mode="always", max_wait_ms=3_500, load={"max_in_flight": crowd}, probe=probe)
    all_wait = asyncio.Event()

    async def refuse(reader, writer):
        await all_wait.wait()
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.pair.near_port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        status = await reader.readline()
        writer.close()
        return status.split()[1]

    async def run():
        await asyncio.to_thread(one.pair.far.kill)
        while (await one.load.request("GET", "/")).decision != "refused wait_over":
            pass
        server = await asyncio.start_server(refuse, "127.0.0.1", one.pair.far_port)
        asking = asyncio.gather(*(ask() for _ in range(crowd)))
        while (await asyncio.to_thread(one.pair.near.stats))["http.ingress.downstream_rq_active"] < crowd:
            await asyncio.sleep(0.02)
        all_wait.set()
        answers = await asking
        server.close()
        return answers

    assert set(loop(run(), 60)) == {b"503"}
    assert "Function: proxy_" not in one.pair.near.log.read_text()
    # Those that were too slow for the others are refused as well.
    reasons = ("no_converter", "wait_over")
    one.wait(lambda: sum(one.metric(f"decisions_refused_{reason}") for reason in reasons) >= crowd)


@pytest.mark.parametrize(
    "far, listeners",
    [
        ("far", ["far"]),
        ("far", ["inner"]),
        ("far", ["far", "inner"]),
        ("far-one-listener", ["far"]),
        ("far-http-filter", ["far"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_far_envoy_drained_by_a_listener_update_under_load(loop, adaptive, far, listeners):
    """The listener whose codec speaks HTTP/2 tells of its end. Another one can't: WebSockets through it have to be renewed in
    the meantime."""
    files = []

    def prepare(pair):
        inner = connection_manager(pair.far.config, "inner")
        if far != "far-one-listener":
            # As docs/intermediaries.md says, with shorter times.
            inner["common_http_protocol_options"]["max_connection_duration"] = "2s"
        inner["drain_timeout"] = "0.5s"
        pair.far.arguments += ["--drain-time-s", "4"]
        files.append(ListenerFile(pair.far, listeners))

    # About forty requests are under way at any time.
    one = adaptive(delay=0.2, prepare=prepare, far_config=ROOT / f"envoy/{far}.yaml")

    def websockets() -> int:
        return one.pair.far.stats()["wasmcustom.wsferry_websockets_opened"]

    async def run():
        await one.until("websocket up")
        loading = asyncio.create_task(one.load.run(7))
        await asyncio.sleep(1)
        files[0].update()
        return await loading

    answers = loop(run(), 30)
    stats = one.pair.far.stats()
    assert stats["listener_manager.listener_modified"] == len(listeners)
    assert stats["listener_manager.total_listeners_draining"] == 0, "it is over"
    one.check(answers)
    one.wait(lambda: websockets() > 1)


@pytest.mark.parametrize("pause", [None, 0.01], ids=["large", "streamed"])
def test_uploads_while_the_far_envoy_is_killed(loop, adaptive, pause):
    """Each is executed as it was sent or answered with an error; never twice, never cut short."""
    one = adaptive(failures={"base_backoff_ms": 100, "max_backoff_ms": 200}, eager=True)
    # 8 MiB with its length, or 50 KB in pieces, which is less than an Envoy keeps for another attempt.
    pieces = [os.urandom(1 << 17)] * 64 if pause is None else [os.urandom(1000)] * 50
    expected = digest(b"".join(pieces))
    over = asyncio.Event()

    async def uploads(name: str) -> None:
        number = 0
        while not over.is_set():
            await one.load.upload(f"/{name}-{number}", pieces, pause)
            number += 1

    async def executed(way: str) -> None:
        """Until some have gone that way from now on."""
        before = len(one.load.answers)
        while sum(each.status == 200 and each.decision.startswith(way) for each in one.load.answers[before:]) < 8:
            await asyncio.sleep(0.02)

    async def run():
        await one.until("websocket up")
        first = len(one.load.answers)
        loading = asyncio.gather(*(uploads(f"{client}") for client in range(4)))
        for _ in range(3):
            await executed("websocket")
            await asyncio.to_thread(one.pair.far.kill)
            await executed("http")
            one.pair.far.start()
        over.set()
        await loading
        return one.load.answers[first:]

    answers = loop(run(), 60)
    one.check(answers, posts_may_fail=True)
    assert 503 in {answer.status for answer in answers}, "some were under way"
    for answer in answers:
        if body := one.origin.digests.get((answer.method, answer.path)):
            assert body == expected, answer


def test_more_streams_than_the_far_end_takes_get_further_websockets(loop, adaptive):
    def prepare(pair):
        def visit(mapping: dict) -> None:
            if '"role": "far"' in str(mapping.get("value")):
                mapping["value"] = json.dumps({**json.loads(mapping["value"]), "limits": {"max_streams": 4}})

        walk(pair.far.config, visit)

    one = adaptive(delay=0.3, prepare=prepare, eager=True)

    def refused() -> int:
        return one.pair.near.stats()["cluster.tunnel.http2.rx_reset"]

    async def burst(number: int) -> int:
        """How many of twenty requests the far end refused. A WebSocket's limit is known once it is open, not before."""
        before = refused()
        paths = [f"/{number}-{place}" for place in range(10)]
        await asyncio.gather(*(one.load.request(method, path) for path in paths for method in ("GET", "POST")))
        return refused() - before

    async def run():
        await one.until("websocket up")
        before, number = len(one.load.answers), 0
        while await burst(number):
            number += 1
            assert number < 10
        return one.load.answers[before:]

    answers = loop(run(), 30)
    one.check(answers)
    assert {answer.status for answer in answers} == {200}
    assert set(ways(answers)) == {"websocket up"}
    assert one.pair.near.stats()["cluster.far.upstream_cx_active"] == 5


class RefusingFarEnd:
    """A far end that answers GET, probes among them, and refuses everything else before it has done anything."""

    REFUSED_STREAM = 7

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.server.accept()
                threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        # The near end hangs up in the middle of anything.
        with peer, peer.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
            answer_handshake(peer, stream)
            self.send(peer, [SETTINGS, {}])
            while True:
                for kind, *rest in read_messages(stream):
                    if kind == SETTINGS:
                        self.send(peer, [ACK])
                    elif kind == REQUEST:
                        number, _, method = rest[:3]
                        answer = [RESPONSE, number, True, 200, []] if method == 0 else [RESET, number, self.REFUSED_STREAM]
                        self.send(peer, answer)

    @staticmethod
    def send(peer: socket.socket, item: list) -> None:
        peer.sendall(frame(BINARY, cbor2.dumps(item), mask=False))


def test_streams_that_the_far_end_refuses_go_over_plain_http(loop, adaptive):
    far = RefusingFarEnd()
    one = adaptive(prepare=lambda pair: set_port(endpoint(pair.near.config, "far"), far.port), eager=True)

    async def run():
        one.wait(lambda: one.pair.near.stats()["cluster.far.upstream_cx_active"] == 1)
        while one.metric("tunnel_far_up") == 0:
            await asyncio.sleep(0.02)
        await asyncio.gather(*(one.load.request("POST", f"/post-{number}") for number in range(16)))
        return one.load.answers

    answers = loop(run(), 30)
    far.server.close()
    one.check(answers)
    assert {answer.status for answer in answers} == {200}
    assert ways(answers) == {"websocket up": 16}, "the decision was made before anybody knew"
    stats = one.pair.near.stats()
    assert (stats["cluster.tunnel.http2.rx_reset"], stats["cluster.either.upstream_rq_retry_success"]) == (16, 16)
