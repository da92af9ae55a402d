"""The connection manager in real Envoys: which way requests go, and that none is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import time

import pytest

from adaptive import PATIENCE, Adaptive, tunnel_by_route, ways
from load import CountingOrigin, Load
from pair import free_port


@pytest.fixture
def adaptive(new_pair, loop):
    made: list[Adaptive] = []

    def make(**options) -> Adaptive:
        made.append(Adaptive(new_pair, loop, **options))
        return made[-1]

    yield make
    for one in made:
        one.load.close()
        one.pair.stop()
        one.pair.near.process = one.pair.far.process = None
        loop(one.origin.close())


def test_the_decision_follows_what_happens(loop, adaptive):
    """Cold: plain HTTP. Busy: WebSocket. Far end stopped: plain HTTP. Back: WebSocket again."""
    one = adaptive()
    one.pair.far.expected_to_be_dead = True

    async def run():
        await asyncio.sleep(1.1)  # the requests that asked for readiness don't count any more
        assert (await one.load.request("GET", "/cold")).decision == "http cold"
        busy = await one.load.run(1)
        assert ways(busy)["websocket up"] > 150, ways(busy)
        one.pair.far.stop()
        stopped = await one.load.run(2)
        assert ways(stopped)["http backoff"] > 300, ways(stopped)
        one.pair.far.start()
        await one.until("websocket up")
        back = await one.load.run(1)
        assert set(ways(back)) == {"websocket up"}, ways(back)
        one.check(busy + back)
        one.check(stopped, posts_may_fail=True)

    loop(run(), 60)
    assert "x-wsferry-way" not in one.origin.last_head, "the decision is nobody else's business"
    one.pair.far.expected_to_be_dead = False
    one.wait(lambda: one.metric("decisions_websocket_up") > 300 and one.metric("tunnel_far_up") == 1)
    assert 'decision="websocket up"' in one.pair.near.log.read_text()


def test_a_client_cannot_choose_the_way(loop, adaptive):
    one = adaptive(mode="never")

    def request() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", one.pair.near_port, timeout=5)
        with contextlib.closing(connection):
            connection.putrequest("GET", "/")
            connection.putheader("x-wsferry-way", "websocket")
            connection.putheader("X-Wsferry-Way", "websocket")
            connection.endheaders()
            return connection.getresponse().headers["x-decision"]

    assert loop(asyncio.to_thread(request)) == "http mode_never"
    assert "x-wsferry-way" not in one.origin.last_head.lower()
    assert one.pair.near.stats()["cluster.far.upstream_cx_total"] == 0


def test_routes_choose_between_two_tunnels(loop, adaptive):
    """One's far end is up and the other's is down, and each tunnel knows its own."""
    nobody = free_port()
    one = adaptive(prepare=lambda pair: tunnel_by_route(pair.near.config, "other", "/other", nobody))
    other = Load(one.pair.near_port, prefix="/other")

    async def run():
        await one.until("websocket up")
        return await asyncio.gather(one.load.run(2), other.run(2))

    up, down = loop(run(), 30)
    other.close()
    one.check(up + down)
    assert set(ways(up)) == {"websocket up"}, ways(up)
    assert ways(down)["http backoff"] > 300 and "websocket up" not in ways(down), ways(down)
    one.wait(lambda: (one.metric("tunnel_far_up"), one.metric("tunnel_other_up")) == (1, 0))
    # A client's own header leads Envoy to another route at first, of the same tunnel.
    for path, way in (("/", "websocket"), ("/other/", "http")):
        answer = loop(one.load.request("GET", path, "x-wsferry-way: websocket_only\r\n"))
        assert (answer.status, answer.decision.split()[0]) == (200, way), answer


def test_far_envoy_killed_again_and_again_under_load(loop, adaptive):
    one = adaptive(failures={"max_backoff_ms": 1000})
    one.pair.far.expected_to_be_dead = True

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
    one.pair.far.expected_to_be_dead = False


@pytest.mark.parametrize("drain", ["/drain_listeners", "/drain_listeners?graceful"])
def test_far_envoy_drained_under_load(loop, adaptive, drain):
    one = adaptive()

    async def run():
        await one.until("websocket up")
        loading = asyncio.create_task(one.load.run(4))
        await asyncio.sleep(1)
        await asyncio.to_thread(one.pair.far.admin, drain, "POST")
        return await loading

    one.check(loop(run(), 30))


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
    one.pair.far.expected_to_be_dead = True

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
    assert max(answer.seconds for answer in answers) < 0.5
    one.pair.far.process = None


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_target_without_converter_is_asked_once_per_interval(loop, adaptive, concurrency):
    """The target is an ordinary HTTP server: it answers the handshake with 200."""
    one = adaptive(no_converter_ttl_ms=2000, concurrency=concurrency)
    target = CountingOrigin()

    async def run():
        await asyncio.to_thread(one.pair.far.stop)
        await target.start(one.pair.far_port)
        answers = await one.load.run(7)
        await target.close()
        return answers

    answers = loop(run(), 30)
    one.check(answers)
    assert ways(answers)["http no_converter"] > 1000, ways(answers)
    gaps = [later - earlier for earlier, later in zip(target.handshakes, target.handshakes[1:])]
    assert 3 <= len(target.handshakes) <= 4, target.handshakes
    assert min(gaps) > 1.9, gaps
    one.pair.far.process = None


def test_a_tunnel_in_use_whose_target_loses_its_converter_dials_once(loop, adaptive):
    """Requests that fall back show their failure only once the slow origin has answered, so they can't be waited for."""
    one = adaptive(delay=0.5)
    one.load.methods = ("GET",)
    target = CountingOrigin()

    async def run():
        before = await one.load.run(2)
        assert set(ways(before[-100:])) == {"websocket up"}, ways(before)
        await asyncio.to_thread(one.pair.far.stop)
        await target.start(one.pair.far_port)
        answers = await one.load.run(3)
        await target.close()
        return answers

    answers = loop(run(), 30)
    assert {answer.status for answer in answers} == {200}
    assert ways(answers)["http no_converter"] > 500, ways(answers)
    # A second request may have been on its way into the tunnel while the first was refused.
    assert 1 <= len(target.handshakes) <= 2, target.handshakes
    one.pair.far.process = None


def test_mode_always_waits_and_refuses(loop, adaptive):
    """The first request waits for the first WebSocket; without a far end it gets one honest answer."""
    one = adaptive(mode="always", max_wait_ms=1500)
    one.pair.far.expected_to_be_dead = True

    async def run():
        first = await one.load.request("POST", "/first")
        assert (first.status, first.decision) in [(200, "websocket waited"), (200, "websocket up")]
        answers = await one.load.run(1)
        assert set(ways(answers)) == {"websocket up"}
        one.check(answers)
        await asyncio.to_thread(one.pair.far.kill)
        executed = sum(one.origin.executed.values())
        refused = None
        for number in range(20):
            refused = await one.load.request("POST", f"/refused-{number}")
            if refused.decision == "refused wait_over":
                break
        assert (refused.status, refused.decision) == (503, "refused wait_over")
        assert 1.4 < refused.seconds < 2.5, refused
        assert sum(one.origin.executed.values()) == executed, "nothing went over plain HTTP"
        # One that waits while the far end comes back is not refused.
        waiting = asyncio.create_task(one.load.request("POST", "/waiting"))
        one.pair.far.start()
        while (answer := await waiting).status != 200:
            waiting = asyncio.create_task(one.load.request("POST", "/waiting"))
        assert answer.decision in ("websocket waited", "websocket up")
        assert one.origin.executed["POST", "/waiting"] == 1

    loop(run(), 60)
    one.pair.far.expected_to_be_dead = False


def test_eager_tunnels_are_up_on_every_worker_before_any_request(loop, adaptive):
    one = adaptive(eager=True, concurrency=2)
    one.wait(lambda: one.pair.near.stats()["cluster.far.upstream_cx_active"] == 2)
    one.wait(lambda: one.metric("tunnel_far_up") == 2)
