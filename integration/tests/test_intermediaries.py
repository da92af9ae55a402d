"""The tunnel through what real deployments have between the two Envoys, set up as in envoy/: nginx and HAProxy as
reverse proxies, TLS that ends at nginx, and a CONNECT proxy on the near end's way out."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import ssl
import subprocess
import time
import uuid
from dataclasses import dataclass

import pytest
import yaml
from websockets.asyncio.client import connect

from conftest import WRONG_CERTIFICATES, each_tls_version, looks_at_each_certificate, show_certificate, wait_for
from intermediaries import KINDS, Intermediary
from pair import ROOT, Pair, cluster, connection_manager, free_port

MIB = 1 << 20
RECOVERY = 5.0  # seconds
SILENCE = 2  # seconds that an intermediary endures
QUIET = 2.5 * SILENCE  # seconds that nothing is requested
KEEPALIVE = {"interval": "0.5s", "timeout": "10s"}
# The configurations of the Envoys that belong to each.
CONFIGS = {
    "nginx": ("near.yaml", "far.yaml"),
    "nginx-tls": ("near-tls.yaml", "far.yaml"),
    "haproxy": ("near.yaml", "far.yaml"),
    "squid": ("near-connect-proxy.yaml", "far-tls.yaml"),
}

each_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass
class Way:
    pair: Pair
    intermediary: Intermediary

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.pair.near_port, timeout=20)

    def websockets(self) -> int:
        """How many the near end has opened so far."""
        return self.pair.near.stats()["cluster.tunnel.upstream_cx_total"]


@pytest.fixture(scope="module")
def new_way(new_shared_pair, web_origins, tmp_path_factory):
    """Starts an intermediary with the Envoys on both sides of it: `new_way(kind, keepalive)`. As envoy/ has them, with
    shorter times: the intermediary ends what is silent for SILENCE, and the Envoys' connection_keepalive is `keepalive`."""
    subprocess.run([ROOT / "scripts/certificates"], check=True)
    intermediaries = []

    def start(kind: str, keepalive: dict) -> Way:
        directory = tmp_path_factory.mktemp(kind)
        near, far = with_keepalive(*(ROOT / "envoy" / name for name in CONFIGS[kind]), keepalive, directory)
        far_port = free_port()
        intermediary = Intermediary(kind, far_port, directory / "intermediary", SILENCE)
        intermediaries.append(intermediary)
        intermediary.start()
        pair = new_shared_pair(
            f"127.0.0.1:{web_origins[0]}",
            far_port=far_port,
            via_port=intermediary.port,
            near_config=near,
            far_config=far,
        )
        return Way(pair, intermediary)

    yield start
    for intermediary in intermediaries:
        intermediary.stop()


def with_keepalive(near, far, keepalive: dict, directory):
    """The two configurations, changed, as files in `directory`."""
    near_config = yaml.safe_load(near.read_text())
    options = cluster(near_config, "tunnel")["typed_extension_protocol_options"]
    http = options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["explicit_http_config"]
    far_config = yaml.safe_load(far.read_text())
    places = (http["http2_protocol_options"], connection_manager(far_config, "inner")["http2_protocol_options"])
    for place in places:
        del place["connection_keepalive"]
        if keepalive:
            place["connection_keepalive"] = keepalive
    paths = []
    for name, config in (("near.yaml", near_config), ("far.yaml", far_config)):
        paths.append(directory / name)
        paths[-1].write_text(yaml.safe_dump(config))
    return paths


@pytest.fixture(scope="module")
def ways(new_way):
    """One of each kind."""
    started = {}

    def get(kind: str) -> Way:
        if kind not in started:
            started[kind] = new_way(kind, KEEPALIVE)
        return started[kind]

    return get


@each_kind
def test_small_requests_share_one_websocket(kind, ways):
    way = ways(kind)
    before = way.pair.near.stats(), way.pair.far.stats()
    connection = way.connection()
    for _ in range(100):
        connection.request("GET", "/hello")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"hello\n")
    near, far = way.pair.near.stats(), way.pair.far.stats()
    for stats, old, name in (
        (near, before[0], "cluster.tunnel.upstream_rq_total"),
        (far, before[1], "http.inner.downstream_rq_total"),
    ):
        assert stats[name] - old[name] == 100
    assert far["http.inner.downstream_cx_active"] == near["cluster.tunnel.upstream_cx_active"] == 1


@each_kind
def test_16_mib_each_way(kind, ways, web_origins):
    way = ways(kind)
    content = os.urandom(16 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    connection = way.connection()
    connection.request("POST", "/checksum", body=content)
    assert connection.getresponse().read().decode().split() == [digest, str(16 * MIB)]
    (web_origins[1] / f"{digest}.bin").write_bytes(content)
    connection.request("GET", f"/{digest}.bin")
    assert hashlib.sha256(connection.getresponse().read()).hexdigest() == digest


class Events:
    """An event stream of the application, which sends one event at once and each other one when asked for it."""

    def __init__(self, way: Way):
        self.way = way
        self.path = f"/events/{uuid.uuid4()}"
        self.connection = way.connection()
        self.connection.request("GET", f"{self.path}?count=3&pause=wait", headers={"accept": "text/event-stream"})
        self.response = self.connection.getresponse()

    def next(self) -> float:
        """Waits for an event; gives how many seconds ago it was sent."""
        number, data, end = (self.response.readline().decode() for _ in range(3))
        assert number.startswith("id: ") and end == "\n"
        return time.time() - float(data.split()[-1])

    def ask(self) -> None:
        connection = self.way.connection()
        connection.request("POST", self.path, body=b"")
        connection.getresponse().read()


@each_kind
def test_each_event_arrives_when_it_is_sent(kind, ways):
    events = Events(ways(kind))
    assert events.next() < 1
    for _ in range(2):
        events.ask()
        assert events.next() < 1
    assert events.response.read() == b""


@each_kind
def test_websocket_of_the_application(kind, ways, loop):
    async def talk():
        url = f"ws://127.0.0.1:{ways(kind).pair.near_port}/chat"
        async with connect(url, subprotocols=["chat"], max_size=2 * MIB, proxy=None) as chat:
            assert chat.subprotocol == "chat"
            for message in ("hello", b"\0\xff", os.urandom(MIB)):
                await chat.send(message)
                assert await chat.recv() == message

    loop(talk())


@each_kind
def test_killed_and_started_again(kind, ways):
    """What is under way ends with an error, new requests fail at once, and pass again once it is back."""
    way = ways(kind)
    events = Events(way)
    assert events.next() < 1
    way.intermediary.kill()
    killed = time.monotonic()
    with pytest.raises((http.client.HTTPException, OSError)):
        events.response.read()
    connection = way.connection()
    connection.request("GET", "/hello")
    assert connection.getresponse().status == 503
    assert time.monotonic() - killed < 2
    way.intermediary.start()
    way.pair.wait_ready(RECOVERY)


@each_kind
def test_nothing_else_gets_through(kind, ways):
    """Other paths end at the reverse proxies, other destinations at the CONNECT proxy, strangers at the one with TLS."""
    way = ways(kind)
    port, far_port = way.intermediary.port, way.pair.far_port
    # The far Envoy, too, answers 404 to other paths.
    arrived = f"listener.127.0.0.1_{far_port}.downstream_cx_total"
    before = way.pair.far.stats()[arrived]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    if kind == "squid":
        for name, other_port in (("far.example", way.pair.near_port), ("other.example", far_port)):
            tunnel = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            tunnel.set_tunnel(name, other_port)
            with pytest.raises(OSError, match="403"):
                tunnel.connect()
        connection.request("GET", f"http://far.example:{far_port}/wsferry")
        assert connection.getresponse().status == 403
    elif kind == "nginx-tls":
        # With the authority's certificate alone, and with one that names somebody else.
        assert ask_in_tls(port, None) == 400
        assert ask_in_tls(port, "far") == 403
        assert ask_in_tls(port, "near", "/hello") == 404
    else:
        connection.request("GET", "/hello")
        assert connection.getresponse().status == 404
    assert way.pair.far.stats()[arrived] == before
    if kind == "nginx-tls":
        assert ask_in_tls(port, "near") == 426
        assert way.pair.far.stats()[arrived] == before + 1


@each_tls_version
def test_nginx_looks_at_the_certificate_of_each_websocket(version, ways):
    assert looks_at_each_certificate(ways("nginx-tls").intermediary.port, version)


def ask_in_tls(port: int, name: str | None, path: str = "/wsferry") -> int:
    """The status for a request, with the certificate of NAME."""
    directory = ROOT / ".cache/tls"
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    if name is not None:
        context.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
    with raw, context.wrap_socket(raw, server_hostname="far.example") as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: far.example\r\n\r\n".encode())
        return int(connection.recv(4096).split(b" ")[1])


@pytest.mark.parametrize("whose, counter", WRONG_CERTIFICATES.items())
def test_the_near_envoy_looks_at_the_far_certificate_behind_a_proxy(whose, counter, new_way, stranger):
    """What answers behind the CONNECT proxy may be anybody."""
    way = new_way("squid", KEEPALIVE)
    pair = way.pair
    pair.far.stop()
    show_certificate(pair.far.config, whose, stranger)
    pair.far.start()
    wait_for(pair.far.is_live)
    connection = way.connection()
    connection.request("GET", "/hello")
    assert connection.getresponse().status == 503
    stats = pair.near.stats()
    assert stats[counter] > 0


@each_kind
def test_idle_tunnel_outlives_the_time_outs(kind, ways):
    """For much longer than the intermediary endures silence, pings alone cross."""
    way = ways(kind)
    events = Events(way)
    events.next()
    websockets = way.websockets()
    time.sleep(QUIET)
    events.ask()
    assert events.next() < 1
    assert way.websockets() == websockets


@each_kind
def test_idle_tunnel_ends_without_keepalive(kind, new_way):
    """The counter-check: it is the pings that keep the tunnel. Requests pass all the same, through a new one."""
    way = new_way(kind, keepalive={})
    events = Events(way)
    events.next()
    websockets = way.websockets()
    began = time.monotonic()
    with pytest.raises((http.client.HTTPException, OSError)):
        events.response.read()
    assert time.monotonic() - began < QUIET
    way.pair.wait_ready(RECOVERY)
    assert way.websockets() == websockets + 1
