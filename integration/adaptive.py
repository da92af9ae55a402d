"""A near Envoy that decides for each request, a far one, an origin that counts and a load: for the tests and the demo."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from load import CountingOrigin, Load
from pair import ROOT, Envoy, Pair, cluster, connection_manager, endpoint, listener, set_port, walk

PATIENCE = 15.0  # seconds that a state may take to be reached


def plugin(config: dict) -> dict:
    """The near Envoy's connection manager filter, as Envoy's Wasm filter is configured."""
    return connection_manager(config, "ingress")["http_filters"][0]["typed_config"]["config"]


@contextlib.contextmanager
def settings(config: dict) -> Iterator[dict]:
    """What the filter itself is configured with, to be changed."""
    place = plugin(config)["configuration"]
    changed = json.loads(place["value"])
    yield changed
    place["value"] = json.dumps(changed)


def configure(pair: Pair, **changes) -> None:
    """Changes the tunnel's configuration; decisions are shown in the response."""
    with settings(pair.near.config) as config:
        config["debug_response_header"] = "x-decision"
        config["tunnels"][0].update(changes)
    plugin(pair.near.config)["capability_restriction_config"]["allowed_capabilities"]["proxy_on_response_headers"] = {}


def tunnel_by_route(near: dict, name: str, prefix: str, far_port: int) -> None:
    """Adds a tunnel to another far end, for requests below `prefix`: the routes name their tunnels in their metadata."""
    resources = near["static_resources"]
    others = {kind: f"{kind}_{name}" for kind in ("carrier", "either", "either_http2", "tunnel", "far")}

    def rename(mapping: dict) -> None:
        for key in mapping.keys() & {"name", "cluster_name", "cluster", "server_listener_name"}:
            mapping[key] = others.get(mapping[key], mapping[key])
        if "clusters" in mapping:
            mapping["clusters"] = [others.get(one, one) for one in mapping["clusters"]]
        if '"tunnel": "far"' in str(mapping.get("value")):
            mapping["value"] = mapping["value"].replace('"far"', f'"{name}"')

    for kind in ("listeners", "clusters"):
        copies = [copy.deepcopy(item) for item in resources[kind] if item["name"] in others]
        walk(copies, rename)
        resources[kind] += copies
    set_port(endpoint(near, others["far"]), far_port)
    host = connection_manager(near, "ingress")["route_config"]["virtual_hosts"][0]
    routes = copy.deepcopy(host["routes"])
    walk(routes, rename)
    for route in routes:
        route["match"]["prefix"] = prefix
    for tunnel, its in ((name, routes), ("far", host["routes"])):
        for route in its:
            route["metadata"] = {"filter_metadata": {"wsferry": {"tunnel": tunnel}}}
    host["routes"] = routes + host["routes"]
    with settings(near) as config:
        first = config["tunnels"][0]
        first["match"] = {"route_metadata": True}
        config["tunnels"].append({**first, "name": name, "probe": {**first["probe"], "cluster": others["tunnel"]}})


def services_by_authority(near: dict, authorities: list[str]) -> None:
    """Has the same six routes serve several services, as docs/configuration.md shows: clusters are named after the authority.

    All lead to where the clusters did; the test changes the endpoints of its services.
    """
    clusters = near["static_resources"]["clusters"]
    ingress = connection_manager(near, "ingress")
    (extension,) = ingress["early_header_mutation_extensions"]
    (host,) = ingress["route_config"]["virtual_hosts"]
    for kind in ("either", "direct", "either_http2", "direct_http2"):
        field = f"x-cluster-{kind.replace('_', '-')}"
        written = {"header": {"key": field, "value": f"{kind}/%REQ(:authority)%"}}
        written["append_action"] = "OVERWRITE_IF_EXISTS_OR_ADD"
        extension["typed_config"]["mutations"].append({"append": written})
        host["request_headers_to_remove"].append(field)
        for route in host["routes"]:
            if route["route"].get("cluster") == kind:
                del route["route"]["cluster"]
                route["route"].update(cluster_header=field, cluster_not_found_response_code="NOT_FOUND")
        original = cluster(near, kind)
        clusters.remove(original)
        for authority in authorities:
            one = copy.deepcopy(original)
            one["name"] = f"{kind}/{authority}"
            if "load_assignment" in one:
                one["load_assignment"]["cluster_name"] = one["name"]
            else:
                ways = one["cluster_type"]["typed_config"]["clusters"]
                ways[:] = [way if way == "tunnel" else f"{way}/{authority}" for way in ways]
            clusters.append(one)


class ListenerFile:
    """Listeners that Envoy takes from a file, so that they can be updated while it runs."""

    def __init__(self, envoy: Envoy, names: list[str]):
        self.listeners = [listener(envoy.config, name) for name in names]
        for one in self.listeners:
            envoy.config["static_resources"]["listeners"].remove(one)
        directory = envoy.directory / "listeners"
        directory.mkdir(parents=True)
        self.file = directory / "listeners.json"
        source = {"path": str(self.file), "watched_directory": {"path": str(directory)}}
        # Envoy wants a name for itself where it takes resources.
        envoy.config["node"] = {"id": envoy.name, "cluster": envoy.name}
        envoy.config["dynamic_resources"] = {"lds_config": {"path_config_source": source}}
        self.write()

    def write(self) -> None:
        type_url = "type.googleapis.com/envoy.config.listener.v3.Listener"
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"resources": [{"@type": type_url, **one} for one in self.listeners]}))
        new.rename(self.file)

    def update(self) -> None:
        """Has Envoy replace the listeners by new ones, and drain the old ones."""
        for one in self.listeners:
            one["listener_filters_timeout"] = "20s"
        self.write()


class Adaptive:
    """A pair with near-adaptive.yaml, a counting origin and a load. `prepare` may change the pair's configurations;
    what else is given changes the tunnel's."""

    def __init__(
        self,
        new_pair,
        loop,
        *,
        delay: float = 0.005,
        concurrency: int = 1,
        tls: bool = False,
        far_config: Path | None = None,
        prepare: Callable[[Pair], None] = lambda pair: None,
        **changes,
    ):
        self.origin = CountingOrigin(delay)
        loop(self.origin.start())
        address = f"127.0.0.1:{self.origin.port}"
        near_config = ROOT / f"envoy/near-adaptive{'-tls' if tls else ''}.yaml"
        options = {"near_config": near_config, "far_config": far_config, "tls": tls, "concurrency": concurrency}
        self.pair: Pair = new_pair(address, start=False, **options)
        if tls:
            directory = ROOT / ".cache/tls"
            self.certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.certificate.load_cert_chain(directory / "app.pem", directory / "app.key")
            set_port(endpoint(self.pair.near.config, "direct"), loop(self.origin.start(tls=self.certificate)))
        configure(self.pair, **changes)
        prepare(self.pair)
        # In a thread, because the origin shares its loop with the tests.
        loop(asyncio.to_thread(self.pair.start), 40)
        self.load = Load(self.pair.near_port)
        self.wait(lambda: self.pair.far.is_live() and self.pair.near.is_live())

    def wait(self, condition) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)

    async def until(self, decision: str, method: str = "GET") -> None:
        """Sends requests until one is decided like that."""
        deadline = time.monotonic() + PATIENCE
        while (answer := await self.load.request(method, "/until")).decision != decision:
            assert answer.status == 200, answer
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.02)

    def metric(self, name: str) -> int:
        return self.pair.near.stats().get(f"wasmcustom.wsferry_{name}", 0)

    def check(self, answers, *, posts_may_fail: bool = False) -> None:
        """No GET failed, every POST was executed exactly once or failed honestly, and none twice."""
        for answer in answers:
            executed = self.origin.executed[answer.method, answer.path]
            if answer.status == 200:
                assert executed >= 1, answer
            else:
                assert posts_may_fail and answer.method == "POST" and answer.status in (502, 503), answer
            if answer.method == "POST":
                assert executed <= 1, answer


def ways(answers) -> collections.Counter:
    return collections.Counter(answer.decision for answer in answers)
