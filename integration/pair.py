"""A near and a far Envoy in front of an origin: for scripts/pair, the tests, the demo and the benchmarks.

The configurations are those that operators copy, envoy/*.yaml, with other addresses filled in; what is looked up in
them is found by name (listeners "ingress" and "far", clusters "far", "origin", "origin_http2" ...).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_WASM = Path("target/wasm32-unknown-unknown/release/wsferry.wasm")
READY_TIMEOUT = 20.0  # seconds
TAIL_LINES = 25
PR_SET_PDEATHSIG = 1
KEEPERS: deque[socket.socket] = deque()
# What near-reverse.yaml needs of Envoy's reverse tunnels is there since then.
REVERSE_SINCE = (1, 40, 0)
MAX_PORT = 65535
MAX_KEEPERS = 256  # far more than the ports that wait for their servers at a time
LIBC = ctypes.CDLL(None)


class PairError(Exception):
    """Why there is no pair, in words for whoever started it."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now, nor gets from here or from a connect before its server listens there.

    The socket that keeps it never listens, and has the options with which servers bind all the same.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.bind(("127.0.0.1", 0))
    KEEPERS.append(keeper)
    if len(KEEPERS) > MAX_KEEPERS:
        KEEPERS.popleft().close()
    return keeper.getsockname()[1]


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > MAX_PORT:
        raise PairError(f"origin {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def check_free(what: str, port: int) -> None:
    """Envoys listen with SO_REUSEPORT: two of them would share a port without a word."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise PairError(f"port {port} ({what}) can't be used: {error.strerror}") from error


def named(items: list, name: str, what: str) -> dict:
    for item in items:
        if item["name"] == name:
            return item
    raise PairError(f"the configuration has no {what} called {name!r}")


def listener(config: dict, name: str) -> dict:
    return named(config["static_resources"]["listeners"], name, "listener")


def cluster(config: dict, name: str) -> dict:
    return named(config["static_resources"]["clusters"], name, "cluster")


def protocol_options(config: dict, cluster_name: str) -> dict:
    options = cluster(config, cluster_name)["typed_extension_protocol_options"]
    return options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]


def http_options(config: dict, cluster_name: str) -> dict:
    return protocol_options(config, cluster_name)["common_http_protocol_options"]


def http2_options(config: dict, cluster_name: str) -> dict:
    return protocol_options(config, cluster_name)["explicit_http_config"]["http2_protocol_options"]


def network_filters(item: dict) -> list[dict]:
    """The filters of a listener."""
    return item["filter_chains"][0]["filters"]


def connection_manager(config: dict, stat_prefix: str) -> dict:
    """Envoy's HTTP connection manager with these statistics, whatever listener it is in."""
    for item in config["static_resources"]["listeners"]:
        for one in network_filters(item):
            # That of near-reverse.yaml has Envoy's own inside.
            options = one["typed_config"].get("hcm_config", one["typed_config"])
            if options.get("stat_prefix") == stat_prefix and "http_filters" in options:
                return options
    raise PairError(f"the configuration has no HTTP connection manager with the statistics prefix {stat_prefix!r}")


def endpoint(config: dict, cluster_name: str) -> dict:
    """The endpoint of a cluster, whose `address` can be replaced."""
    return cluster(config, cluster_name)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]


def set_port(place: dict, port: int) -> None:
    place["address"]["socket_address"]["port_value"] = port


def walk(value, visit) -> None:
    """Calls `visit` for every mapping."""
    if isinstance(value, dict):
        visit(value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            walk(item, visit)


def load(path: Path, wasm: Path) -> dict:
    """Reads a configuration, has it use `wasm`, and sees to it that the files which it names are there."""
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise PairError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PairError(f"{path}: no YAML: {error}") from error
    if not isinstance(config, dict) or not {"admin", "static_resources"} <= config.keys():
        raise PairError(f"{path}: no configuration of an Envoy: it has no `admin` and `static_resources`")

    def visit(mapping: dict) -> None:
        filename = mapping.get("filename")
        if not isinstance(filename, str):
            return
        if Path(filename) == DEFAULT_WASM:
            mapping["filename"] = filename = str(wasm)
        if not (ROOT / filename).is_file():
            maker = "scripts/build" if filename == str(wasm) else "scripts/certificates"
            raise PairError(f"{filename}, named in {path.name}, is missing; {maker} makes it")

    walk(config, visit)
    return config


def dial(near: dict, far_port: int, via_port: int | None) -> None:
    """Has the near end reach the far end on `far_port`, or through an intermediary on `via_port`: a reverse proxy, or,
    where the configuration has one, a CONNECT proxy."""
    if any(item["name"] == "connect_proxy" for item in near["static_resources"]["clusters"]):
        (egress,) = network_filters(listener(near, "egress"))
        tunneling = egress["typed_config"]["tunneling_config"]
        tunneling["hostname"] = f"{tunneling['hostname'].rpartition(':')[0]}:{far_port}"
        set_port(endpoint(near, "connect_proxy"), via_port)
    else:
        set_port(endpoint(near, "far"), via_port or far_port)


def join_reverse_tunnel(near: dict, far: dict) -> None:
    """Gives the listeners by which Envoy's reverse tunnels reach the converters free ports."""
    for config, there, dialled_by in ((near, "carrier", "dial"), (far, "reverse", "reverse")):
        port = free_port()
        set_port(listener(config, there), port)
        set_port(endpoint(config, dialled_by), port)


def bypass_tunnel(near: dict, far: dict, port: int) -> None:
    """Joins the two by plain HTTP/2 on `port`: the same pair without the filter, to compare it with."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint(near, "tunnel")["address"] = address
    del cluster(near, "tunnel")["transport_socket"]
    inner = listener(far, "inner")
    del inner["internal_listener"]
    inner["address"] = address
    for config, listeners, clusters in ((near, ["ingress"], ["tunnel"]), (far, ["inner"], ["origin", "origin_http2"])):
        resources = config["static_resources"]
        resources["listeners"] = [item for item in resources["listeners"] if item["name"] in listeners]
        resources["clusters"] = [item for item in resources["clusters"] if item["name"] in clusters]


def envoy_version(binary: str) -> tuple[int, int, int]:
    """Major, minor and patch, as it says itself."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    if (found := re.search(r"/(\d+)\.(\d+)\.(\d+)", text)) is None:
        raise PairError(f"{binary} --version says no version: {text!r}")
    return int(found[1]), int(found[2]), int(found[3])


def die_with_parent() -> None:
    """In the child, before it becomes Envoy: it ends when the launcher does, however that ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """The same for what has to end processes of its own first, as nginx its workers."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def find_binary(name: str) -> str:
    """In PATH, or where Debian has what the PATH of users leaves out."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise PairError(f"no {name}; scripts/setup installs it")
    return path


class Envoy:
    """One Envoy process, which can be stopped, killed and started again."""

    def __init__(self, name: str, config: dict, directory: Path, binary: str, arguments: list[str]):
        self.name = name
        self.config = config
        self.directory = directory
        self.binary = binary
        self.arguments = list(arguments)
        self.admin_port: int = config["admin"]["address"]["socket_address"]["port_value"]
        self.log = directory / f"{name}.log"
        # Besides what is inherited.
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen | None = None
        # It ended by itself, or otherwise than as it was told to.
        self.crashed = False

    def start(self) -> None:
        path = self.directory / f"{self.name}.json"
        path.write_text(json.dumps(self.config, indent=1))
        command = [self.binary, "--config-path", str(path), "--disable-hot-restart", *self.arguments]
        with self.log.open("ab") as log:
            # The working directory is the one that relative file names in the configuration count from.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | self.environment,
                preexec_fn=die_with_parent,
            )

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.reap()

    def kill(self) -> None:
        self.process.kill()
        self.reap()

    def reap(self) -> None:
        self.crashed |= self.process.wait() not in (0, -signal.SIGTERM, -signal.SIGKILL)
        self.process = None

    def exited(self) -> bool:
        """Whether it has ended by itself."""
        process = self.process
        return process is not None and process.poll() is not None

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        text = "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
        return f"{self.name}: last lines of {self.log}\n{text}"

    def admin(self, path: str, method: str = "GET") -> str:
        """What the admin interface answers; raises OSError or HTTPException where that isn't 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise http.client.HTTPException(f"{self.name} admin {path}: {answer.status} {text.strip()}")
            return text
        finally:
            connection.close()

    def is_live(self) -> bool:
        """Whether it has started, and takes requests."""
        try:
            return self.admin("/ready").strip() == "LIVE"
        except (OSError, http.client.HTTPException):
            return False

    def stats(self) -> dict[str, int]:
        """Counters and gauges by name."""
        values = json.loads(self.admin("/stats?format=json"))["stats"]
        return {item["name"]: item["value"] for item in values if "value" in item}

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


class Pair:
    """Both Envoys. Ports that aren't given are free ones.

    The near one takes the applications' requests, at `near_port`; with `reverse`, which is for near-reverse.yaml and
    far-reverse.yaml, the far one does.
    """

    def __init__(
        self,
        origin: str,
        *,
        envoy: str,
        wasm: Path | str = DEFAULT_WASM,
        near_port: int | None = None,
        far_port: int | None = None,
        via_port: int | None = None,
        near_admin: int | None = None,
        far_admin: int | None = None,
        concurrency: int | None = None,
        log_dir: Path | None = None,
        near_config: Path | None = None,
        far_config: Path | None = None,
        tls: bool = False,
        reverse: bool = False,
        origin_http2: bool = False,
        grpc_origin: str | None = None,
        baseline: bool = False,
        log_level: str = "warning",
    ):
        self.origin = host_and_port(origin)
        self.near_port = near_port or free_port()
        self.far_port = far_port or free_port()
        self.ready_path = f"/wsferry-ready-{secrets.token_hex(8)}"
        suffix = "-tls" if tls else "-reverse" if reverse else ""
        near = load(near_config or ROOT / f"envoy/near{suffix}.yaml", Path(wasm))
        far = load(far_config or ROOT / f"envoy/far{suffix}.yaml", Path(wasm))
        asking, answering = (far, near) if reverse else (near, far)
        set_port(listener(asking, "ingress"), self.near_port)
        set_port(near["admin"], near_admin or free_port())
        set_port(far["admin"], far_admin or free_port())
        clusters = {item["name"] for item in near["static_resources"]["clusters"]}
        for there, directly, address in (
            ("origin", "direct", self.origin),
            ("origin_http2", "direct_http2", host_and_port(grpc_origin or origin)),
        ):
            socket_address = {"address": address[0], "port_value": address[1]}
            endpoint(answering, there)["address"]["socket_address"] = socket_address
            # The other way of near-adaptive.yaml.
            if directly in clusters:
                endpoint(near, directly)["address"]["socket_address"] = {**socket_address}
        if baseline:
            bypass_tunnel(near, far, self.far_port)
        else:
            dial(near, self.far_port, via_port)
            set_port(listener(far, "far"), self.far_port)
            if reverse:
                join_reverse_tunnel(near, far)
        routes = connection_manager(answering, "inner")["route_config"]["virtual_hosts"][0]["routes"]
        if origin_http2:
            for route in routes:
                if "route" in route:
                    route["route"]["cluster"] = "origin_http2"
        # Answered at the end of the tunnel, so that the question doesn't bother the origin.
        routes.insert(0, {"match": {"path": self.ready_path}, "direct_response": {"status": 200}})
        self.own_directory = log_dir is None
        self.directory = Path(log_dir or tempfile.mkdtemp(prefix="wsferry-pair-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--log-level", log_level, "--component-log-level", "wasm:info"]
        if concurrency:
            arguments += ["--concurrency", str(concurrency)]
        self.near = Envoy("near", near, self.directory, envoy, arguments)
        self.far = Envoy("far", far, self.directory, envoy, arguments)
        self.envoys = (self.near, self.far)
        # The cluster whose connections are WebSockets.
        self.tunnel = "cluster.near" if reverse else "cluster.tunnel"
        self.asking, self.answering = (self.far, self.near) if reverse else (self.near, self.far)

    def start(self) -> None:
        """Returns once a request can pass through the tunnel."""
        ports: dict[int, str] = {}
        for what, port in (
            ("near", self.near_port),
            ("far", self.far_port),
            ("near admin", self.near.admin_port),
            ("far admin", self.far.admin_port),
        ):
            if port in ports:
                raise PairError(f"port {port} ({what}) is that of {ports[port]}, too")
            ports[port] = what
            check_free(what, port)
        for envoy in self.envoys:
            envoy.start()
        self.wait_ready()

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not self.passes():
            self.check_running()
            if time.monotonic() > deadline:
                raise PairError(f"no request passed within {timeout:g} s\n{self.tails()}")
            time.sleep(0.02)

    def check_running(self) -> None:
        for envoy in self.envoys:
            if envoy.exited():
                raise PairError(f"the {envoy.name} Envoy ended with status {envoy.process.returncode}\n{envoy.tail()}")

    def passes(self) -> bool:
        """Whether a request passes through the tunnel now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.near_port, timeout=5)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def origin_answers(self) -> bool:
        try:
            socket.create_connection(self.origin, timeout=2).close()
        except OSError:
            return False
        return True

    def tails(self) -> str:
        return "\n".join(envoy.tail() for envoy in self.envoys)

    def stop(self) -> None:
        for envoy in self.envoys:
            if envoy.process is not None:
                envoy.process.terminate()
        for envoy in self.envoys:
            envoy.stop()

    def remove_directory(self) -> None:
        """Removes the logs, unless they are where somebody asked for them."""
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def port_number(text: str) -> int:
    if not text.isdigit() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 (a free one) to {MAX_PORT}")
    return int(text)


def absolute(path: str) -> Path:
    """Of the working directory, which isn't that of the Envoys."""
    return Path(path).resolve()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/pair", description=__doc__.splitlines()[0])
    parser.add_argument("--origin", required=True, metavar="HOST:PORT", help="the application, over HTTP/1.1")
    parser.add_argument("--origin-http2", action="store_true", help="the application speaks HTTP/2, for more than gRPC")
    parser.add_argument("--grpc-origin", metavar="HOST:PORT", help="another application for gRPC; default: --origin")
    parser.add_argument("--near", dest="near_port", type=port_number, default=10000, metavar="PORT")
    parser.add_argument("--far", dest="far_port", type=port_number, default=10001, metavar="PORT")
    parser.add_argument(
        "--via", dest="via_port", type=port_number, metavar="PORT", help="a proxy that the near end dials instead"
    )
    parser.add_argument("--near-admin", type=port_number, default=9901, metavar="PORT")
    parser.add_argument("--far-admin", type=port_number, default=9902, metavar="PORT")
    parser.add_argument("--concurrency", type=int, metavar="N", help="worker threads; default: one per CPU")
    parser.add_argument("--envoy", required=True, metavar="PATH", help="default: as scripts/setup finds it")
    parser.add_argument("--wasm", type=absolute, default=DEFAULT_WASM, metavar="FILE", help="default: what scripts/build made")
    parser.add_argument("--log-dir", type=absolute, metavar="DIR", help="default: a temporary one, kept after a failure")
    parser.add_argument("--log-level", default="warning", help="Envoy's; the filter's is info")
    parser.add_argument("--near-config", type=Path, metavar="FILE", help="default: envoy/near.yaml")
    parser.add_argument("--far-config", type=Path, metavar="FILE", help="default: envoy/far.yaml")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--tls", action="store_true", help="use envoy/near-tls.yaml and far-tls.yaml (scripts/certificates)")
    kind.add_argument("--reverse", action="store_true", help="the far Envoy takes the requests; --near is its port then")
    kind.add_argument("--baseline", action="store_true", help="plain HTTP/2 instead of the WebSocket, to compare with")
    return parser.parse_args()


def run(pair: Pair) -> None:
    pair.start()
    if not pair.origin_answers():
        print(f"pair: warning: nothing listens at the origin {pair.origin[0]}:{pair.origin[1]} yet", file=sys.stderr)
    print(
        f"ready {pair.asking.name}=http://127.0.0.1:{pair.near_port} websockets=127.0.0.1:{pair.far_port}"
        f" near-admin=http://127.0.0.1:{pair.near.admin_port} far-admin=http://127.0.0.1:{pair.far.admin_port}"
        f" logs={pair.directory}",
        flush=True,
    )
    while True:
        pair.check_running()
        time.sleep(0.2)


class Interrupted(Exception):
    """SIGINT or SIGTERM: the ordinary end."""


def interrupt(_signal, _frame) -> None:
    # Once is enough: a second one must not cut the cleaning up short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted


def main() -> int:
    options = vars(arguments())
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    pair = None
    try:
        pair = Pair(**options)
        run(pair)
    except Interrupted:
        status = 0
    except (PairError, OSError) as error:
        print(f"pair: {error}", file=sys.stderr)
        status = 1
    finally:
        if pair is not None:
            pair.stop()
    if pair is not None and status == 0:
        pair.remove_directory()
    elif pair is not None:
        # Nothing is in it where no Envoy was started.
        with contextlib.suppress(OSError):
            pair.directory.rmdir()
    return status


if __name__ == "__main__":
    sys.exit(main())
