"""What the tests share: one event loop, origins and pairs of Envoys, each started when a test first needs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptive import Adaptive
from endpoints.http1 import Http1Client, Http1Origin
from endpoints.http2 import Http2Client, Http2Origin
from origins.process import nginx, python_origin
from pair import DEFAULT_WASM, REVERSE_SINCE, ROOT, Pair, connection_manager, envoy_version, listener, walk

WASM = Path(os.environ.get("WSFERRY_WASM", DEFAULT_WASM))
# Some tests have thousands of connections, and so have the Envoys, which inherit this.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
LIMIT = 10.0  # seconds that one exchange or conversation may take
CLIENTS = {"http1": Http1Client, "http2": Http2Client}
ORIGINS = {"http1": Http1Origin, "http2": Http2Origin}
ENVOY = subprocess.run(
    [ROOT / "scripts/setup", "--print", "envoy"], check=True, stdout=subprocess.PIPE, text=True
).stdout.strip()
HAS_REVERSE_TUNNELS = envoy_version(ENVOY) >= REVERSE_SINCE
# Options of a pair in which the far Envoy asks, where this Envoy can do that.
REVERSED = {"reverse": {"reverse": True}} if HAS_REVERSE_TUNNELS else {}
collect_ignore = [] if HAS_REVERSE_TUNNELS else ["test_reverse.py"]


def pytest_report_header() -> str:
    left_out = "" if HAS_REVERSE_TUNNELS else ", which has no reverse tunnels: the tests of the far end's requests are left out"
    return f"Envoy: {ENVOY}{left_out}"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def loop():
    """Runs coroutines, `run(coroutine)`. Servers and connections live on between calls and wait."""
    # Connections that are cut off are what many tests are about.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with asyncio.Runner() as runner:
        yield lambda coroutine, limit=LIMIT: runner.run(asyncio.wait_for(coroutine, limit))


@pytest.fixture(scope="session")
def logs(request):
    """Where the Envoys' logs are. They stay there if a test failed."""
    directory = Path(tempfile.mkdtemp(prefix="wsferry-test-"))
    yield directory
    if request.session.testsfailed:
        print(f"\nlogs of the Envoys: {directory}")
    else:
        shutil.rmtree(directory)


@contextlib.contextmanager
def stopping_pairs(logs: Path):
    """Starts pairs, `new(origin, **options)`, and stops them at the end; no Envoy may have died by itself.

    With `start=False` the test starts the two Envoys itself. With `origin_http2` clients may use RFC 8441.
    """
    pairs: list[Pair] = []

    def new(origin: str, start: bool = True, **options) -> Pair:
        options.setdefault("concurrency", 1)
        directory = Path(tempfile.mkdtemp(prefix="pair-", dir=logs))
        pair = Pair(origin, envoy=ENVOY, wasm=WASM, log_dir=directory, **options)
        if options.get("origin_http2"):
            asking = pair.far if options.get("reverse") else pair.near
            connection_manager(asking.config, "ingress")["http2_protocol_options"]["allow_connect"] = True
        pairs.append(pair)
        if start:
            pair.start()
        return pair

    try:
        yield new
    finally:
        envoys = [envoy for pair in pairs for envoy in pair.envoys]
        exited = [envoy for envoy in envoys if envoy.exited()]
        for pair in pairs:
            pair.stop()
    died = exited + [envoy for envoy in envoys if envoy.crashed and envoy not in exited]
    if died:
        print("\n".join(envoy.tail() for envoy in died))
    assert not died, f"these Envoys died: {[str(envoy.log) for envoy in died]}"


@pytest.fixture
def new_pair(logs):
    """Starts pairs for one test, see `stopping_pairs`."""
    with stopping_pairs(logs) as new:
        yield new


@pytest.fixture(scope="module")
def new_shared_pair(logs):
    """Starts pairs for the tests of a module."""
    with stopping_pairs(logs) as new:
        yield new


@pytest.fixture(scope="session")
def certificates() -> Path:
    """The directory of what the configurations for TLS name."""
    subprocess.run([ROOT / "scripts/certificates"], check=True)
    return ROOT / ".cache/tls"


each_tls_version = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"]
)


def looks_at_each_certificate(port: int, version: ssl.TLSVersion) -> bool:
    """Whether what listens there, in TLS of this version, has a client show its certificate again for a second connection. In a
    session that is resumed nobody looks at it, though it may have run out."""
    directory = ROOT / ".cache/tls"
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(directory / "near.pem", directory / "near.key")
    session = None
    for _ in range(2):
        raw = socket.create_connection(("127.0.0.1", port), timeout=5)
        with raw, context.wrap_socket(raw, server_hostname="far.example", session=session) as connection:
            # The ticket of TLS 1.3 comes with the answer, if any does.
            connection.sendall(b"GET / HTTP/1.1\r\nhost: far.example\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 ")
            session, resumed = connection.session, connection.session_reused
    return not resumed


@pytest.fixture(scope="session")
def stranger(tmp_path_factory) -> Path:
    """The directory of a certificate, stranger.pem and its key, that has the far Envoy's name and no authority but itself."""
    directory = tmp_path_factory.mktemp("stranger")
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", "/CN=far.example", "-addext", "subjectAltName=DNS:far.example"]
    command += ["-keyout", "stranger.key", "-out", "stranger.pem"]
    subprocess.run(command, cwd=directory, check=True, stderr=subprocess.DEVNULL)
    return directory


# By whose certificate a far Envoy shows instead of its own: what the near Envoy counts when it refuses it.
WRONG_CERTIFICATES = {"near": "cluster.far.ssl.fail_verify_san", "stranger": "cluster.far.ssl.fail_verify_error"}


def show_certificate(far: dict, whose: str, stranger: Path) -> None:
    """Has a far Envoy show another certificate: `near`'s, of the right authority and another name, or `stranger`'s."""
    directory = stranger if whose == "stranger" else ROOT / ".cache/tls"
    shown = []

    def visit(mapping: dict) -> None:
        if "certificate_chain" in mapping:
            mapping["certificate_chain"] = {"filename": str(directory / f"{whose}.pem")}
            mapping["private_key"] = {"filename": str(directory / f"{whose}.key")}
            shown.append(mapping)

    walk(listener(far, "far"), visit)
    assert len(shown) == 1


@pytest.fixture(scope="session")
def origin(loop):
    """The instructed origins, by what they speak."""
    origins = {}

    def get(kind: str):
        if kind not in origins:
            origins[kind] = ORIGINS[kind]()
            loop(origins[kind].start())
        return origins[kind]

    yield get
    for one in origins.values():
        loop(one.close())


@dataclass
class Web:
    """A pair in front of nginx, which serves `files` and has the web application and the WebSocket service behind
    it, and of the gRPC service."""

    pair: Pair
    files: Path

    @property
    def port(self) -> int:
        return self.pair.near_port


@pytest.fixture(scope="session")
def web_origins(tmp_path_factory):
    """nginx, its files and the gRPC service: `(port, files, grpc_port)`."""
    files = tmp_path_factory.mktemp("files")
    with contextlib.ExitStack() as stack:
        application = stack.enter_context(python_origin("application"))
        websocket = stack.enter_context(python_origin("websocket_echo"))
        grpc = stack.enter_context(python_origin("grpc_service"))
        port = stack.enter_context(nginx(tmp_path_factory.mktemp("nginx"), files, application, websocket))
        yield port, files, grpc


@pytest.fixture(scope="module", params=["near_asks", "far_asks"] if HAS_REVERSE_TUNNELS else ["near_asks"])
def web(request, new_shared_pair, web_origins) -> Web:
    port, files, grpc = web_origins
    options = {"grpc_origin": f"127.0.0.1:{grpc}", "reverse": request.param == "far_asks"}
    return Web(new_shared_pair(f"127.0.0.1:{port}", **options), files)


@pytest.fixture(scope="module")
def pair(new_shared_pair, origin):
    """The pair in front of the instructed origin of a kind: through the tunnel, or plain HTTP/2 to compare with."""
    pairs = {}

    def get(kind: str, baseline: bool = False) -> Pair:
        if (kind, baseline) not in pairs:
            pairs[kind, baseline] = new_shared_pair(
                f"127.0.0.1:{origin(kind).port}", origin_http2=kind == "http2", baseline=baseline
            )
        return pairs[kind, baseline]

    return get


@pytest.fixture
def adaptive(new_pair, loop):
    """Pairs with the connection manager, `adaptive(**options)`."""
    made: list[Adaptive] = []

    def make(**options) -> Adaptive:
        made.append(Adaptive(new_pair, loop, **options))
        return made[-1]

    yield make
    for one in made:
        one.load.close()
        loop(one.origin.close())
    # Of what the filter may call, near-adaptive.yaml has a list.
    assert not [one for one in made if "restricted proxy-wasm capability" in one.pair.near.log.read_text()]
