"""The ways from client to origin that are compared: pairs of Envoys that differ in what is between them, and nothing else.

All are made from envoy/near.yaml and envoy/far.yaml, but those of `decision` from envoy/near-adaptive.yaml. For `http1`
and `http2` the tunnel is taken out: the cluster that led into it leads straight to the far Envoy's inner listener, over
the network instead of inside the process. So windows, circuit breakers, header limits, timeouts and keep-alive are those
of the tunnel.

`http2_relayed` is the tunnel with the filter left out, and nothing else: plain HTTP/2 by way of its internal listeners.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pair as pairs
from origin import Origin
from processes import cpu_seconds

START_TIMEOUT = 20.0  # seconds
# In which the filter, which does so once a second, has handed its counts over.
HAND_OVER = 3.0  # seconds
ADAPTIVE = pairs.ROOT / "envoy/near-adaptive.yaml"


@dataclass(frozen=True)
class Kind:
    """What is between the two Envoys."""

    name: str
    protocol: str  # "http1", "http2" or "wsferry"
    # What of the credentials may enter the field table; None leaves it as it is by default.
    credentials: str | None = None
    # Requests at once on one connection between the Envoys; None leaves it as in envoy/near.yaml.
    streams_per_connection: int | None = None
    # Whether the filter is in the tunnel.
    converted: bool = True
    # With the near Envoy of envoy/near-adaptive.yaml. Plain HTTP: a key of PLAIN, by decision of the connection manager,
    # "undecided" without it. Through the tunnel: "eager", which opens it at start.
    decision: str | None = None
    # How often the connection manager stands in the filter chain: what it costs shows more clearly where it does more.
    managers: int = 1


HTTP1 = Kind("http1", "http1")
HTTP2 = Kind("http2", "http2")
WSFERRY = Kind("wsferry", "wsferry")
ORDINARY = (HTTP1, HTTP2, WSFERRY)
HTTP2_RELAYED = Kind("http2_relayed", "wsferry", converted=False)
WSFERRY_NO_CREDENTIALS = Kind("wsferry_no_credentials", "wsferry", credentials="none")
WSFERRY_CREDENTIALS = Kind("wsferry_credentials", "wsferry", credentials="all")
WSFERRY_EAGER = Kind("wsferry_eager", "wsferry", decision="eager")
UNDECIDED = Kind("undecided", "http1", decision="undecided")
DECIDED = (
    Kind("never", "http1", decision="never"),
    Kind("backoff", "http1", decision="backoff"),
    Kind("cold", "http1", decision="cold"),
    Kind("cold_8", "http1", decision="cold", managers=8),
    Kind("unpublished", "http1", decision="unpublished"),
)

# Decisions for plain HTTP that no load changes, and why: how a decision shows in metrics, fields of the tunnel, fields of
# the connection manager.
PLAIN = {
    "never": ("mode_never", {"mode": "never"}, {}),
    # Opened at start, where nobody listens.
    "backoff": ("backoff", {"eager": True, "failures": {"base_backoff_ms": 60_000, "max_backoff_ms": 3_600_000}}, {}),
    # No load reaches the rate that would open the tunnel.
    "cold": ("cold", {"open": {"requests": 10_000, "within_ms": 10}}, {}),
    "unpublished": ("mode_never", {"mode": "never"}, {"publish_decisions": "websocket"}),
}


@dataclass(frozen=True)
class Setting:
    """What all ways of a run have in common."""

    envoy: str
    wasm: Path
    origin: Origin
    directory: Path


class Relay:
    """relay.py as a process of its own, whose CPU time counts for nobody."""

    def __init__(self, delay_ms: float):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("relay.py")), "--delay", str(delay_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=pairs.die_with_parent,
        )
        self.port = int(self.process.stdout.readline())

    def lead_to(self, port: int) -> None:
        self.process.stdin.write(f"{port}\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(5)


@dataclass
class Also:
    """A tunnel that the user has running. What it costs is known only of processes that the user names."""

    name: str
    url: str
    pids: list[int] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or not port:
            raise pairs.PairError(f"--also {self.name}: {self.url!r} is not http://HOST:PORT")
        return parts.hostname, port

    def start(self) -> None:
        """It is running, the user says; whether it leads to the origin shows with the first request."""
        _ = self.address

    def stop(self) -> None:
        """It goes on running."""

    def cpu_seconds(self) -> float | None:
        return cpu_seconds(self.pids) if self.pids else None

    def wire_bytes(self) -> None:
        return None


class Way:
    """A near and a far Envoy with one worker each, and a relay between them where a delay is asked for."""

    def __init__(self, kind: Kind, setting: Setting, delay_ms: float | None = None):
        self.name = kind.name
        self.kind = kind
        # It takes its port first: the pair then chooses others.
        self.relay = None if delay_ms is None else Relay(delay_ms)
        baseline = kind.protocol != "wsferry" and kind.decision is None
        self.pair = pairs.Pair(
            f"127.0.0.1:{setting.origin.port}",
            envoy=setting.envoy,
            # A baseline's configuration names no filter in the end, so any file does.
            wasm=Path(__file__) if baseline else setting.wasm,
            concurrency=1,
            log_dir=setting.directory / f"{kind.name}-{time.monotonic_ns()}",
            baseline=baseline,
            near_config=ADAPTIVE if kind.decision else None,
        )
        near, far = self.pair.near.config, self.pair.far.config
        # The cluster whose connections are those between the two Envoys.
        self.between = "tunnel" if baseline else "far"
        for config in (near, far):
            pairs.walk(config, lambda mapping: mapping.pop("access_log", None))
        if kind.decision is not None:
            decide(near, kind.decision, kind.managers)
        elif kind.protocol == "http1":
            speak_http1(near, far)
        if not kind.converted:
            for config in (near, far):
                leave_filter_out(config)
        if kind.credentials is not None:
            for config in (near, far):
                let_in(config, kind.credentials)
        if kind.streams_per_connection is not None:
            limit_streams(near, kind.streams_per_connection)
        route_services(far, setting.origin)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.pair.near_port

    @property
    def pids(self) -> list[int]:
        if self.kind.decision is not None:
            return [self.pair.near.process.pid]
        return [envoy.process.pid for envoy in self.pair.envoys]

    def start(self) -> None:
        """Returns once a request has passed; where nothing is to go through the tunnel, once both Envoys listen."""
        self.start_cold()
        if self.kind.decision is None:
            self.pair.wait_ready()

    def start_cold(self) -> None:
        """Returns once both Envoys listen; no request has been sent."""
        if self.relay is not None:
            self.relay.lead_to(self.pair.far_port)
            address = {"socket_address": {"address": "127.0.0.1", "port_value": self.relay.port}}
            pairs.endpoint(self.pair.near.config, self.between)["address"] = address
        # The far one first: a near one that opens its tunnel at once has to find it.
        for envoy in (self.pair.far, self.pair.near):
            envoy.start()
            deadline = time.monotonic() + START_TIMEOUT
            while not envoy.is_live():
                self.pair.check_running()
                if time.monotonic() > deadline:
                    raise pairs.PairError(f"{envoy.name} Envoy not ready within {START_TIMEOUT:g} s\n{envoy.tail()}")
                time.sleep(0.02)

    def wait_open(self) -> None:
        """Returns once a tunnel that opens by itself has answered a probe; no request has been sent."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self.pair.near.stats().get("cluster.tunnel.upstream_rq_2xx"):
            self.pair.check_running()
            if time.monotonic() > deadline:
                raise pairs.PairError(f"no tunnel within {START_TIMEOUT:g} s\n{self.pair.tails()}")
            time.sleep(0.02)

    def stop(self) -> None:
        self.pair.stop()
        if self.relay is not None:
            self.relay.stop()
            self.relay = None

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pids)

    def wire_bytes(self) -> int | None:
        """Bytes in both directions of the TCP connections between the two Envoys, as the near one counts them."""
        if self.kind.decision is not None:
            return None
        prefix = f"cluster.{self.between}.upstream_cx"
        stats = self.pair.near.stats()
        return stats[f"{prefix}_tx_bytes_total"] + stats[f"{prefix}_rx_bytes_total"]

    def decided_otherwise(self) -> float:
        """The part of all decisions so far that were not as the way's kind says. A back-off that is over has a few."""
        reason, _, _ = PLAIN[self.kind.decision]
        prefix = "wasmcustom.wsferry_decisions_"
        deadline = time.monotonic() + HAND_OVER
        while True:
            stats = self.pair.near.stats()
            counts = {name: count for name, count in stats.items() if name.startswith(prefix)}
            decisions = stats["http.ingress.downstream_rq_total"] * self.kind.managers
            if sum(counts.values()) >= decisions or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        expected = counts.pop(f"{prefix}http_{reason}", 0)
        others = sum(counts.values())
        return others / (expected + others) if expected else 1.0

    def connections_between(self) -> int:
        return self.pair.near.stats()[f"cluster.{self.between}.upstream_cx_active"]


def protocol_options(config: dict, cluster: str) -> dict:
    (options,) = pairs.cluster(config, cluster)["typed_extension_protocol_options"].values()
    return options


def speak_http1(near: dict, far: dict) -> None:
    """Has the near Envoy speak to the far one as the far one speaks to an HTTP/1.1 origin."""
    options = protocol_options(near, "tunnel")
    options["explicit_http_config"] = copy.deepcopy(protocol_options(far, "origin")["explicit_http_config"])
    inner = pairs.connection_manager(far, "inner")
    inner["codec_type"] = "HTTP1"
    inner["http_protocol_options"] = {"enable_trailers": True, "allow_custom_methods": True}


def decide(near: dict, decision: str, managers: int) -> None:
    """Has the connection manager decide so, so many times over, or nobody."""
    ingress = pairs.connection_manager(near, "ingress")
    filters = ingress["http_filters"]
    (manager,) = [one for one in filters if one["name"] == "wsferry_connection_manager"]
    if decision == "undecided":
        filters.remove(manager)
        # Is there for the filter's sake.
        del ingress["early_header_mutation_extensions"]
        return
    place = manager["typed_config"]["config"]["configuration"]
    plugin = json.loads(place["value"])
    if decision == "eager":
        plugin["tunnels"][0].update({"mode": "always", "eager": True})
    else:
        _, of_tunnel, of_plugin = PLAIN[decision]
        plugin["tunnels"][0].update(of_tunnel)
        plugin.update(of_plugin)
    if decision == "backoff":
        nowhere = {"socket_address": {"address": "127.0.0.1", "port_value": pairs.free_port()}}
        pairs.endpoint(near, "far")["address"] = nowhere
    place["value"] = json.dumps(plugin)
    filters[:0] = [{**manager, "name": f"{manager['name']}_{number}"} for number in range(1, managers)]


def leave_filter_out(config: dict) -> None:
    for listener in config["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            chain["filters"] = [one for one in chain["filters"] if one["name"] != "wsferry"]


def let_in(config: dict, credentials: str) -> None:
    def visit(mapping: dict) -> None:
        value = mapping.get("value")
        if not isinstance(value, str) or '"role"' not in value:
            return
        plugin = json.loads(value)
        plugin["field_table"] = {**plugin.get("field_table", {}), "credentials": credentials}
        mapping["value"] = json.dumps(plugin)

    pairs.walk(config, visit)


def limit_streams(near: dict, most: int) -> None:
    http2 = protocol_options(near, "tunnel")["explicit_http_config"]["http2_protocol_options"]
    http2["max_concurrent_streams"] = most


def route_services(far: dict, origin: Origin) -> None:
    """Leads /sink and /idle/ to the origin's services, with the settings of the origin's own clusters."""
    routes = pairs.connection_manager(far, "inner")["route_config"]["virtual_hosts"][0]["routes"]
    clusters = far["static_resources"]["clusters"]
    for name, like, port, match in (
        ("sink", "origin", origin.sink_port, {"path": "/sink"}),
        ("idle", "origin_http2", origin.idle_port, {"prefix": "/idle/"}),
    ):
        cluster = copy.deepcopy(pairs.cluster(far, like))
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
        clusters.append(cluster)
        pairs.set_port(pairs.endpoint(far, name), port)
        routes.insert(0, {"match": match, "route": {"cluster": name, "timeout": "0s"}})
