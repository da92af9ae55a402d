"""The connection manager in real Envoys: which way requests go."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.client
import itertools
import mmap
import re
import socket
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from adaptive import PATIENCE, configure, plugin, services_by_authority, settings, tunnel_by_route, ways
from conftest import CLIENTS, WRONG_CERTIFICATES, show_certificate, wait_for
from endpoints import End, RequestHead, ResponseHead
from load import CountingOrigin, Load
from pair import ROOT, cluster, connection_manager, endpoint, free_port, set_port


def test_the_decision_follows_what_happens(loop, adaptive):
    """Cold: plain HTTP. Busy: WebSocket. Far end stopped: plain HTTP. Back: WebSocket again."""
    one = adaptive()

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
    one.wait(lambda: one.metric("decisions_websocket_up") > 300 and one.metric("tunnel_far_up") == 1)
    assert 'decision="websocket up"' in one.pair.near.log.read_text()


def test_a_name_that_no_resolver_looks_up(new_pair, web_origins):
    """Plain HTTP waits for nobody."""
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        pair = new_pair(f"127.0.0.1:{web_origins[0]}", near_config=ROOT / "envoy/near-adaptive.yaml", start=False)
        far = cluster(pair.near.config, "far")
        endpoint(pair.near.config, "far")["address"]["socket_address"]["address"] = "silent.example"
        kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
        address = {"socket_address": {"address": "127.0.0.1", "port_value": silent.getsockname()[1]}}
        resolver = {"name": "envoy.network.dns_resolver.cares", "typed_config": {"@type": kind, "resolvers": [address]}}
        far["typed_dns_resolver_config"] = resolver
        pair.near.start()
        wait_for(pair.near.is_live)
        connection = http.client.HTTPConnection("127.0.0.1", pair.near_port, timeout=10)
        connection.request("GET", "/hello")
        assert connection.getresponse().status == 200
        assert silent.recv(512)


@pytest.mark.parametrize("whose, counter", WRONG_CERTIFICATES.items())
def test_a_far_end_with_another_certificate(loop, adaptive, certificates, stranger, whose, counter):
    """Gets no requests: they go over plain HTTP."""
    one = adaptive(tls=True, prepare=lambda pair: show_certificate(pair.far.config, whose, stranger))

    async def run():
        await one.until("http backoff")
        return await one.load.run(1)

    answers = loop(run(), 30)
    one.check(answers)
    assert {way.split()[0] for way in ways(answers)} == {"http"}, ways(answers)
    assert one.pair.near.stats()[counter] > 0


def test_both_ways_in_tls(loop, adaptive, certificates):
    one = adaptive(tls=True)

    async def run():
        await one.until("websocket up")
        busy = await one.load.run(1)
        assert set(ways(busy)) == {"websocket up"}, ways(busy)
        await asyncio.to_thread(one.pair.far.kill)
        killed = await one.load.run(1)
        assert ways(killed)["http backoff"] > 100, ways(killed)
        one.check(busy)
        one.check(killed, posts_may_fail=True)

    loop(run(), 30)
    stats = one.pair.near.stats()
    # Envoy as a client takes 1.2 at most if nobody says otherwise.
    assert all(stats[f"cluster.{name}.ssl.versions.TLSv1.3"] > 0 for name in ("far", "direct"))
    # An application whose certificate names somebody else isn't the application.
    one.certificate.load_cert_chain(certificates / "far.pem", certificates / "far.key")
    one.pair.near.kill()
    one.pair.near.start()
    one.wait(lambda: one.pair.near.is_live())
    assert loop(Load(one.pair.near_port).request("GET", "/")).status == 503


def left_to_the_filter(pair) -> None:
    """The listener doesn't remove the client's own header."""
    del connection_manager(pair.near.config, "ingress")["early_header_mutation_extensions"]
    with settings(pair.near.config) as config:
        del config["client_header_removed"]


@pytest.mark.parametrize("prepare", [lambda pair: None, left_to_the_filter], ids=["listener", "filter"])
def test_a_client_cannot_choose_the_way(loop, adaptive, prepare):
    one = adaptive(prepare=prepare, mode="never")

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


class Calls:
    """A pair whose near Envoy logs the calls into the filter and out of it. Each costs as much as all that the filter does
    itself."""

    def __init__(self, adaptive, loop, changes: dict, *, guard: bool = True, **fields):
        def prepare(pair):
            if not guard:
                left_to_the_filter(pair)
            with settings(pair.near.config) as config:
                del config["debug_response_header"]
                config.update(fields)
            allowed = plugin(pair.near.config)["capability_restriction_config"]["allowed_capabilities"]
            del allowed["proxy_on_response_headers"]

        self.loop = loop
        self.one = adaptive(prepare=prepare, **changes)
        self.log = self.one.pair.near.log

    def trace(self) -> None:
        self.one.pair.near.admin("/logging?wasm=trace", "POST")

    def of_a_request(self, fields: str) -> list[str]:
        """Into the filter, which begin with a space, and out of it, for one request with a body."""
        begin = self.log.stat().st_size
        assert self.loop(self.one.load.request("POST", "/", fields)).status == 200
        self.one.wait(lambda: b"proxy_on_delete return" in self.log.read_bytes()[begin:])
        text = self.log.read_bytes()[begin:].decode()
        text = re.sub(r"\[host->vm] proxy_on_tick.*?\[host<-vm] proxy_on_tick", "", text, flags=re.DOTALL)
        return re.findall(r"\[(?:host->vm]|vm->host] \w+\.)( ?(?:proxy|clock)_\w+)", text)

    def expect(self, *between: str, fields: str = "") -> None:
        """What is called for a request, besides what any request takes."""
        expected = [" proxy_on_context_create", " proxy_on_request_headers", *between, " proxy_on_delete"]
        # Once in a while the timer has to be set.
        seen = [self.of_a_request(fields) for _ in range(5)]
        assert expected in seen, seen


CLIENTS_HEADER = "x-wsferry-way: websocket\r\n"


def test_a_request_in_mode_never_costs_one_call_out_of_the_filter(loop, adaptive):
    calls = Calls(adaptive, loop, {"mode": "never"})
    calls.trace()
    for fields in ("", CLIENTS_HEADER):
        calls.expect("proxy_set_property", fields=fields)


def test_a_cold_request_costs_a_look_at_the_clock_as_well(loop, adaptive):
    calls = Calls(adaptive, loop, {"open": {"requests": 10000, "within_ms": 10}})
    calls.trace()
    calls.expect("clock_time_get", "proxy_set_property")


def test_a_request_while_the_tunnel_is_out_of_use_costs_no_look_at_the_clock(loop, adaptive):
    failures = {"base_backoff_ms": 60000, "max_backoff_ms": 60000}
    calls = Calls(adaptive, loop, {"eager": True, "failures": failures})
    calls.one.pair.far.kill()

    def is_out_of_use() -> bool:
        assert loop(calls.one.load.request("GET", "/")).status == 200
        return 'decision="http backoff"' in calls.log.read_text()

    calls.one.wait(is_out_of_use)
    calls.trace()
    calls.expect("proxy_set_property")


def test_where_the_listener_lets_the_clients_header_through_the_filter_looks_for_it(loop, adaptive):
    calls = Calls(adaptive, loop, {"mode": "never"}, guard=False)
    calls.trace()
    calls.expect("proxy_get_header_map_value", "proxy_set_property")
    removal = ["proxy_get_header_map_value", "proxy_remove_header_map_value"]
    calls.expect(*removal, "proxy_set_property", fields=CLIENTS_HEADER)


def test_decisions_for_plain_http_need_not_be_published(loop, adaptive):
    calls = Calls(adaptive, loop, {"mode": "never"}, publish_decisions="websocket")
    calls.trace()
    calls.expect()
    assert 'decision="-"' in calls.log.read_text() and 'decision="http' not in calls.log.read_text()


def test_decisions_for_the_websocket_are_always_published(loop, adaptive):
    calls = Calls(adaptive, loop, {"mode": "always", "eager": True}, publish_decisions="websocket")
    assert loop(calls.one.load.request("GET", "/")).status == 200
    calls.one.wait(lambda: 'decision="websocket ' in calls.log.read_text())


def test_a_route_can_leave_the_filter_out(loop, adaptive):
    """As in docs/configuration.md; the client's own header leads nowhere else."""

    def prepare(pair):
        host = connection_manager(pair.near.config, "ingress")["route_config"]["virtual_hosts"][0]
        disabled = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
        route = {
            "match": {"prefix": "/static"},
            "route": {"cluster": "direct"},
            "typed_per_filter_config": {"wsferry_connection_manager": disabled},
        }
        host["routes"].insert(0, route)

    one = adaptive(prepare=prepare, mode="always", eager=True)
    for fields in ("", "x-wsferry-way: websocket_only\r\n"):
        answer = loop(one.load.request("GET", "/static/1", fields))
        assert (answer.status, answer.decision) == (200, ""), answer
        assert "x-wsferry-way" not in one.origin.last_head
    assert loop(one.load.request("GET", "/")).decision.startswith("websocket ")


def test_routes_choose_between_two_tunnels(loop, adaptive):
    """One's far end is up and the other's is down, and each tunnel knows its own."""
    nobody = free_port()

    def prepare(pair) -> None:
        tunnel_by_route(pair.near.config, "other", "/other", nobody)
        routes = connection_manager(pair.near.config, "ingress")["route_config"]["virtual_hosts"][0]["routes"]
        none = copy.deepcopy(routes[-1])
        none["match"]["prefix"] = "/none"
        none["metadata"]["filter_metadata"]["wsferry"]["tunnel"] = None
        routes.insert(0, none)

    one = adaptive(prepare=prepare)
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
    answer = loop(one.load.request("GET", "/none"))
    assert (answer.status, answer.decision) == (200, "http no_tunnel"), answer


def test_one_tunnel_and_six_routes_for_many_services(loop, adaptive):
    """docs/configuration.md, "Many services"."""
    other = CountingOrigin()
    port = loop(other.start())

    def prepare(pair):
        near, far = pair.near.config, pair.far.config
        # The last one asks whether the pair is ready.
        services_by_authority(near, ["app.example", "other.example", f"127.0.0.1:{pair.near_port}"])
        set_port(endpoint(near, "direct/other.example"), port)
        elsewhere = copy.deepcopy(cluster(far, "origin"))
        elsewhere["name"] = elsewhere["load_assignment"]["cluster_name"] = "other"
        far["static_resources"]["clusters"].append(elsewhere)
        set_port(endpoint(far, "other"), port)
        routes = [{"match": {"prefix": "/"}, "route": {"cluster": "other", "timeout": "0s"}}]
        hosts = connection_manager(far, "inner")["route_config"]["virtual_hosts"]
        hosts.append({"name": "other", "domains": ["other.example"], "routes": routes})

    one = adaptive(prepare=prepare)
    load = Load(one.pair.near_port, prefix="/other", authority="other.example")
    lost = Load(one.pair.near_port, authority="nobody.example")

    async def run():
        await asyncio.sleep(1.1)  # the requests that asked for readiness don't count any more
        cold = await load.request("GET", "/other/cold", "x-cluster-direct: direct/app.example\r\n")
        assert (cold.status, cold.decision) == (200, "http cold")
        await one.until("websocket up")
        busy = await asyncio.gather(one.load.run(1), load.run(1))
        nobodys = await lost.run(1)
        # Seen, and no reason to take the tunnel out of use.
        sent = ways(nobodys)["websocket up"]
        await asyncio.to_thread(one.wait, lambda: one.metric("tunnel_requests_failed") >= sent > 0)
        await one.until("websocket up")
        await asyncio.to_thread(one.pair.far.kill)
        killed = await asyncio.gather(one.load.run(1), load.run(1))
        return busy, nobodys, killed

    try:
        (busy, busy_there), nobodys, (killed, killed_there) = loop(run(), 40)
    finally:
        load.close()
        lost.close()
        loop(other.close())
    for answers in (busy, busy_there):
        assert set(ways(answers)) == {"websocket up"}, ways(answers)
    for answers in (killed, killed_there):
        assert ways(answers)["http backoff"] > 100, ways(answers)
    assert {answer.status for answer in nobodys} == {404}
    one.check(busy + killed, posts_may_fail=True)
    assert other.executed["GET", "/other/cold"] == 1
    assert not [path for _, path in one.origin.executed if path.startswith("/other")]
    assert not [path for _, path in other.executed if not path.startswith("/other")]
    for answer in busy_there:
        assert (answer.status, other.executed[answer.method, answer.path]) == (200, 1), answer
    for answer in killed_there:
        if answer.method == "GET":
            assert answer.status == 200, answer
    for origin in (one.origin, other):
        assert "x-cluster" not in origin.last_head.lower()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_target_without_converter_is_asked_once_per_interval(loop, adaptive, concurrency):
    """The target is an ordinary HTTP server: it answers the handshake with 200."""
    probe = {"cluster": "tunnel", "timeout_ms": 5000}
    one = adaptive(no_converter_ttl_ms=2000, concurrency=concurrency, probe=probe)
    target = CountingOrigin()

    async def run():
        await asyncio.to_thread(one.pair.far.stop)
        await target.start(one.pair.far_port)
        answers = await one.load.run(7)
        await target.close()
        return answers

    answers = loop(run(), 30)
    one.check(answers)
    assert ways(answers)["http no_converter"] > 500, ways(answers)
    assert 2 <= len(target.handshakes) <= 4, target.handshakes


class TimeOfDay:
    """Sets what an Envoy that is yet to be started takes for the time of day, and no other clock of its."""

    def __init__(self, envoy, directory: Path):
        library, offset = directory / "clock.so", directory / "offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "integration/clock.c"], check=True)
        offset.write_bytes(bytes(8))
        with offset.open("r+b") as file:
            self.offset = mmap.mmap(file.fileno(), 8)
        self.envoy = envoy
        envoy.environment |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}

    def set(self, seconds: int) -> None:
        """So many seconds later than it is, and waits for the Envoy to say so."""
        self.offset[:] = seconds.to_bytes(8, sys.byteorder, signed=True)
        wait_for(lambda: abs(self.read() - time.time() - seconds) < 60)

    def read(self) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy.admin_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/ready")
            return parsedate_to_datetime(connection.getresponse().headers["date"]).timestamp()


def test_a_target_is_left_alone_for_no_longer_when_the_clock_is_set_back(loop, adaptive, tmp_path):
    clocks = []
    target = CountingOrigin()

    def prepare(pair):
        clocks.append(TimeOfDay(pair.near, tmp_path))
        set_port(endpoint(pair.near.config, "far"), loop(target.start()))

    adaptive(prepare=prepare, eager=True, no_converter_ttl_ms=10000)
    (clock,) = clocks

    async def run():
        while not target.handshakes:
            await asyncio.sleep(0.05)
        # So much has passed of its time, by which it would be longer.
        await asyncio.sleep(5)
        await asyncio.to_thread(clock.set, -3600)
        while len(target.handshakes) < 2:
            await asyncio.sleep(0.05)
        await target.close()

    loop(run(), 40)
    first, second = target.handshakes
    assert 9 < second - first < 13


def test_a_tunnel_in_use_whose_target_loses_its_converter_soon_stops_dialling(loop, adaptive):
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
    # One may be a request's; of the probes the first might have met one server of several.
    assert 1 <= len(target.handshakes) <= 3, target.handshakes


def test_mode_always_waits_and_refuses(loop, adaptive):
    """The first request waits for the first WebSocket; without a far end it gets one honest answer."""
    one = adaptive(mode="always", max_wait_ms=1500)

    async def run():
        first = await one.load.request("POST", "/first")
        assert (first.status, first.decision) in [(200, "websocket waited"), (200, "websocket up")]
        answers = await one.load.run(1)
        assert set(ways(answers)) == {"websocket up"}
        one.check(answers)
        await asyncio.to_thread(one.pair.far.kill)
        executed = sum(one.origin.executed.values())
        deadline = time.monotonic() + PATIENCE
        # Those that come before the probes have failed find out themselves, in less than a millisecond each.
        for number in itertools.count():
            refused = await one.load.request("POST", f"/refused-{number}")
            assert refused.status == 503, refused
            if refused.decision == "refused wait_over":
                break
            assert time.monotonic() < deadline, refused
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


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_waited_for_the_websocket_keeps_its_trailers(kind, loop, new_pair, origin):
    """Without a body, too."""
    server = origin(kind)
    options = {"near_config": ROOT / "envoy/near-adaptive.yaml", "origin_http2": kind == "http2"}
    pair = new_pair(f"127.0.0.1:{server.port}", start=False, **options)
    configure(pair, mode="always")
    for envoy in pair.envoys:
        envoy.start()
    wait_for(lambda: all(envoy.is_live() for envoy in pair.envoys))
    trailers = [(b"x-trailer", b"1")]

    async def run():
        client = CLIENTS[kind](pair.near_port)
        asked = await client.open(RequestHead(b"POST", b"/", b"app.example"), end=False)
        await asked.finish(trailers)
        _, answer = await server.accepted.get()
        assert await answer.receive() == End(trailers)
        await answer.respond(ResponseHead(204), end=True)
        response = await asked.receive()
        assert (response.status, dict(response.fields)[b"x-decision"]) == (204, b"websocket waited")
        await client.close()

    loop(run(), 30)


def test_eager_tunnels_are_up_on_every_worker_before_any_request(loop, adaptive):
    """Envoy's main thread has an instance of the filter too, which must neither dial nor count."""
    one = adaptive(eager=True, concurrency=2, probe={"cluster": "tunnel", "interval_ms": 500})
    # Once more, with the far end there from the first moment.
    for envoy in one.pair.envoys:
        envoy.kill()
    for envoy in (one.pair.far, one.pair.near):
        envoy.start()
        one.wait(lambda envoy=envoy: envoy.is_live())
    one.wait(lambda: one.pair.near.stats()["cluster.far.upstream_cx_active"] == 2)
    one.wait(lambda: one.metric("tunnel_far_up") == 2)
    # By then main's instance has tried and counts have been handed over several times.
    one.wait(lambda: one.metric("probes_answered") >= 10)
    probes = {name: one.metric(f"probes_{name}") for name in ("timed_out", "broken", "no_converter")}
    assert not any(probes.values()), probes
    assert one.pair.near.stats()["cluster.far.upstream_cx_total"] == 2
    one.wait(lambda: one.pair.far.stats()["wasmcustom.wsferry_websockets_opened"] == 2)


def test_more_requests_than_may_be_in_flight_go_over_plain_http(loop, adaptive):
    one = adaptive(delay=0.3, load={"max_in_flight": 3}, eager=True)

    async def burst(name: str):
        return await asyncio.gather(*(one.load.request("POST", f"/{name}-{number}") for number in range(20)))

    async def run():
        await one.until("websocket up")
        return await burst("first") + await burst("second")

    answers = loop(run(), 30)
    one.check(answers)
    # Those of the first burst have left, so that the second has as much room.
    assert ways(answers) == {"websocket up": 6, "http in_flight": 34}


def test_a_slow_tunnel_is_spared_until_it_is_fast_again(loop, adaptive):
    """The origin answers the probes here, so that they are as slow as it is."""

    def prepare(pair):
        routes = connection_manager(pair.far.config, "inner")["route_config"]["virtual_hosts"][0]["routes"]
        (probe,) = [route for route in routes if route["match"].get("path") == "/wsferry/probe"]
        del probe["direct_response"]
        probe["route"] = {"cluster": "origin"}

    one = adaptive(
        delay=0.2,
        prepare=prepare,
        eager=True,
        probe={"cluster": "tunnel", "interval_ms": 100},
        load={"max_round_trip_ms": 100},
    )

    async def run():
        await one.until("http slow")
        slow = await one.load.run(1)
        assert set(ways(slow)) == {"http slow"}, ways(slow)
        one.origin.delay = 0
        await one.until("websocket up")
        fast = await one.load.run(1)
        assert set(ways(fast)) == {"websocket up"}, ways(fast)
        one.check(slow + fast)

    loop(run(), 30)


def test_a_tunnel_that_is_no_longer_needed_is_let_go_and_opened_again(loop, adaptive):
    def prepare(pair):
        (options,) = cluster(pair.near.config, "tunnel")["typed_extension_protocol_options"].values()
        options["common_http_protocol_options"]["idle_timeout"] = "1s"

    one = adaptive(
        prepare=prepare,
        probe={"cluster": "tunnel", "interval_ms": 200},
        close={"requests": 1, "within_ms": 1000},
    )

    def websockets() -> tuple[int, int]:
        stats = one.pair.far.stats()
        return stats["wasmcustom.wsferry_websockets_open"], stats["wasmcustom.wsferry_websockets_opened"]

    async def run(turn: int):
        await one.until("websocket up")
        one.check(await one.load.run(1))
        await asyncio.to_thread(one.wait, lambda: one.metric("tunnel_far_up") == 0)
        # Nothing keeps the WebSocket alive any more.
        await asyncio.to_thread(one.wait, lambda: websockets() == (0, turn))
        assert (await one.load.request("GET", "/cold")).decision == "http cold"

    for turn in (1, 2):
        loop(run(turn), 40)
