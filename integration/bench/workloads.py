"""What is measured, and how one measurement of one way is made."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from processes import Client, apart, resident_bytes, run
from rounds import FULL, MIB, Bench, Failed, Meter, Sample
from ways import (
    DECIDED,
    HTTP2,
    HTTP2_RELAYED,
    ORDINARY,
    UNDECIDED,
    WSFERRY,
    WSFERRY_CREDENTIALS,
    WSFERRY_EAGER,
    WSFERRY_NO_CREDENTIALS,
    Also,
    Kind,
    Way,
)

HERE = Path(__file__).parent
DELAY_MS = 25.0  # each way
OPEN_TIMEOUT = 150.0  # seconds
# Of the requests whose decision is measured, so many may be decided otherwise.
MOST_OTHERS = 0.01
# Building it the first time is most of this.
CODEC_TIMEOUT = 1200.0  # seconds


def python_client(way: Way | Also, *arguments: object) -> list[str]:
    host, port = way.address
    return [sys.executable, str(HERE / "client.py"), *map(str, arguments), "--address", f"{host}:{port}"]


def wrk(way: Way | Also, path: str, connections: int, seconds: float, users: int, fields: Sequence[str]) -> list[str]:
    host, port = way.address
    options = ["--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    headers = [part for name in fields for part in ("--header", name)]
    script = ["--script", str(HERE / "load.lua"), "--timeout", "10s"]
    return ["wrk", *options, *headers, *script, f"http://{host}:{port}{path}", "--", str(users)]


def read_wrk(output: str) -> dict:
    result = json.loads(output.strip().splitlines()[-1])
    errors = {name: result[name] for name in ("connect", "read", "write", "status", "timeout") if result[name]}
    if errors:
        raise Failed(f"errors of {result['requests']} requests: {errors}")
    return result


def h2load(way: Way | Also, requests: int, log: Path) -> list[str]:
    """1 KiB GETs on 32 connections; as many as are asked for, while wrk takes whole seconds."""
    host, port = way.address
    options = ["--h1", "--threads=1", "--clients=32", f"--requests={requests}", f"--log-file={log}"]
    return ["h2load", *options, f"http://{host}:{port}/small"]


def read_h2load(output: str, log: Path, requests: int) -> dict:
    """The log has a line for each request: when it began, its status, how many microseconds it took."""
    rows = [line.split() for line in log.read_text().splitlines()]
    log.unlink()
    passed = sum(row[1] == "200" for row in rows)
    if passed < requests:
        raise Failed(f"errors of {requests} requests: {requests - passed}")
    if (rate := re.search(r"^finished in .*, ([\d.]+) req/s", output, re.MULTILINE)) is None:
        raise Failed("h2load says no rate")
    percentiles = statistics.quantiles((int(row[2]) / 1000 for row in rows), n=100)
    return {"requests_per_second": float(rate[1]), "p50_ms": percentiles[49], "p99_ms": percentiles[98]}


def short_round(bench: Bench, way: Way | Also) -> Sample:
    """A third of a second: the machine's speed changes from one second to the next, and the ways are to be measured at the
    same speed."""
    requests = bench.effort.requests_of_short_round
    log = bench.setting.directory / "h2load.log"
    meter = Meter(bench, way)
    finished = run(h2load(way, requests, log), 60)
    result = read_h2load(finished.output, log, requests)
    return {
        "requests_per_second": result["requests_per_second"],
        **meter.sample(requests, finished.cpu_seconds),
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


def small_requests(
    bench: Bench, way: Way | Also, *, path: str, connections: int, users: int = 0, fields: Sequence[str] = ()
) -> Sample:
    seconds = bench.effort.seconds
    meter = Meter(bench, way)
    finished = run(wrk(way, path, connections, seconds, users, fields), seconds + 30)
    result = read_wrk(finished.output)
    return {
        "requests_per_second": result["requests"] / result["seconds"],
        **meter.sample(result["requests"], finished.cpu_seconds),
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


def small(bench: Bench) -> None:
    """1 KiB GET, 32 connections, keep-alive. Also by the tunnel's way without the filter, whose part shows so."""
    measure = partial(short_round, bench)
    for ways in bench.started_anew("small", (*ORDINARY, HTTP2_RELAYED), also=True):
        bench.interleave("small", ways, measure, bench.effort.short_rounds, warm_up=measure)


def connections(bench: Bench) -> None:
    """1 KiB GET from 32 clients that open a connection for every request. The latency begins when it is open."""

    def measure(way: Way | Also) -> Sample:
        return small_requests(bench, way, path="/small", connections=32, fields=["Connection: close"])

    with bench.running("connections", ORDINARY, also=True) as ways:
        bench.interleave("connections", ways, measure, bench.effort.rounds, warm_up=measure)


def decision(bench: Bench) -> None:
    """1 KiB GET over plain HTTP, 32 connections: what deciding costs the near Envoy, which alone is measured here, on a CPU
    of its own."""
    measure = partial(short_round, bench)
    for ways in bench.started_anew("decision", (UNDECIDED, *DECIDED)):
        pids = [pid for way in ways for pid in way.pids]
        with apart(pids, bench.setting.origin.pids):
            bench.interleave("decision", ways, measure, bench.effort.short_rounds, warm_up=measure)
        for way in ways:
            if way.kind is UNDECIDED or bench.results.failed("decision", way.name):
                continue
            if (others := way.decided_otherwise()) > MOST_OTHERS:
                bench.results.fail("decision", way.name, f"{others:.1%} of the requests were decided otherwise")
    samples = bench.results.samples.get("decision", {})
    for kind in DECIDED:
        for mine, other in zip(samples.get(kind.name, []), samples.get(UNDECIDED.name, []), strict=False):
            milliseconds = mine["cpu_seconds_per_1000"] - other["cpu_seconds_per_1000"]
            mine["extra_cpu_us"] = milliseconds * 1000 / kind.managers


def polling(bench: Bench) -> None:
    """GETs with cookie, bearer token and request id, small JSON answers, on 16 connections.

    Of one user, whose credentials a HPACK table of 4 KiB can hold, and of sixteen, whose can't.
    """
    kinds = (*ORDINARY, WSFERRY_NO_CREDENTIALS, WSFERRY_CREDENTIALS)
    with bench.running("polling", kinds, also=True) as ways:
        for workload, users in (("polling", 1), ("polling_16_users", 16)):

            def measure(way: Way | Also, users=users) -> Sample:
                return small_requests(bench, way, path="/poll", connections=16, users=users)

            bench.interleave(workload, ways, measure, bench.effort.few_rounds, warm_up=measure)


def bulk_once(bench: Bench, way: Way | Also, direction: str, streams: int, size: int) -> Sample:
    meter = Meter(bench, way)
    finished = run(python_client(way, "bulk", direction, "--bytes", size, "--streams", streams), 180)
    result = json.loads(finished.output)
    sample = meter.sample(streams, finished.cpu_seconds)
    return {
        "megabytes_per_second": result["bytes"] / result["seconds"] / 1e6,
        **sample,
        **{
            name.replace("_1000", "_gigabyte"): value * streams / 1000 / (result["bytes"] / 1e9)
            for name, value in sample.items()
            if name.endswith("_1000") and value is not None
        },
    }


def bulk(bench: Bench) -> None:
    """256 MiB down and up, one stream, then eight. With one that is done in a fraction of a second, so there are many
    rounds."""
    effort = bench.effort
    loads = ((1, effort.bulk_bytes, effort.many_rounds), (8, effort.bulk_bytes_of_eight, effort.few_rounds))
    for streams, size, rounds in loads:
        for direction in ("down", "up"):

            def measure(way: Way | Also, streams=streams, direction=direction, size=size) -> Sample:
                return bulk_once(bench, way, direction, streams, size)

            def warm_up(way: Way | Also, streams=streams, direction=direction) -> Sample:
                return bulk_once(bench, way, direction, streams, 16 * MIB)

            workload = f"bulk_{direction}_{streams}"
            with bench.running(workload, ORDINARY, also=True) as ways:
                bench.interleave(workload, ways, measure, rounds, warm_up=warm_up)


def mixed(bench: Bench) -> None:
    """1 KiB GETs on two connections beside two endless downloads; the latency is that of the small ones.

    CPU time is left out: it can't be told apart.
    """
    several = (Kind("http2_several", "http2", streams_per_connection=2),)
    several += (Kind("wsferry_several", "wsferry", streams_per_connection=2),)

    def measure(way: Way | Also) -> Sample:
        seconds = bench.effort.seconds
        endless = ("bulk", "down", "--bytes", 256 * MIB, "--streams", 2, "--seconds", seconds + 1)
        downloads = Client(python_client(way, *endless))
        try:
            # Says when the downloads are at full speed; they go on a little longer than the small requests.
            downloads.read_line(OPEN_TIMEOUT)
            requests = run(wrk(way, "/small", 2, seconds, 0, ()), seconds + 30)
            loaded = downloads.finish(60)
        finally:
            downloads.stop()
        result, transferred = read_wrk(requests.output), json.loads(loaded.output)
        return {
            "requests_per_second": result["requests"] / result["seconds"],
            "p50_ms": result["p50_ms"],
            "p99_ms": result["p99_ms"],
            "megabytes_per_second": transferred["bytes"] / transferred["seconds"] / 1e6,
        }

    with bench.running("mixed", (*ORDINARY, *several), also=True) as ways:
        bench.interleave("mixed", ways, measure, bench.effort.few_rounds)


def distance(bench: Bench) -> None:
    """25 ms each way between the two Envoys: a first request, one client polling, a download and an upload.

    Opening a TCP connection takes a round trip, so that a first request takes two where nothing is open yet.
    """
    effort = bench.effort

    def measure(kind: Kind) -> dict[str, Sample]:
        way = Way(kind, bench.setting, DELAY_MS)
        try:
            way.start_cold()
            if kind is WSFERRY_EAGER:
                way.wait_open()
            meter = Meter(bench, way)
            count = effort.requests_at_distance
            finished = run(python_client(way, "sequence", "--path", "/poll", "--count", count), 120)
            first, *rest = json.loads(finished.output)["milliseconds"]
            if kind is WSFERRY_EAGER:
                # From the second request on it is as any other.
                return {"distance_first": {"p50_ms": first}}
            rest.sort()
            warm = {
                "requests_per_second": 1000 / statistics.mean(rest),
                **meter.sample(count, finished.cpu_seconds),
                "p50_ms": statistics.median(rest),
                "p99_ms": rest[len(rest) * 99 // 100],
            }
            down = bulk_once(bench, way, "down", 1, effort.distant_bulk_bytes)
            up = bulk_once(bench, way, "up", 1, effort.distant_bulk_bytes)
        finally:
            way.stop()
        return {
            "distance_first": {"p50_ms": first},
            "distance_polling": warm,
            "distance_bulk_down": down,
            "distance_bulk_up": up,
        }

    bench.interleave("distance", (*ORDINARY, WSFERRY_EAGER), measure, effort.few_rounds)


def idle_streams(bench: Bench, kind: Kind, path: str, count: int) -> Sample:
    """Resident memory that streams which wait cost each Envoy, KiB a stream."""
    way = Way(kind, bench.setting)
    client = None
    try:
        way.start()
        before = [resident_bytes(pid) for pid in way.pids]
        client = Client(python_client(way, "idle", "--path", path, "--streams", count))
        client.read_line(OPEN_TIMEOUT)
        time.sleep(bench.effort.hold_seconds)
        after = [resident_bytes(pid) for pid in way.pids]
        between = way.connections_between()
        # At the end of its input the client counts the streams again.
        left = json.loads(client.finish(60).output)["left"]
        if left < count:
            raise Failed(f"{left} of {count} streams left after {bench.effort.hold_seconds:g} s")
    finally:
        if client is not None:
            client.stop()
        way.stop()
    near, far = ((b - a) / 1024 / count for a, b in zip(before, after, strict=True))
    return {"near_kib_per_stream": near, "far_kib_per_stream": far, "connections_between": between}


def streams(bench: Bench) -> None:
    """Idle long polls and event streams: memory per stream of each Envoy."""
    for count in bench.effort.idle_streams:
        for name, path in (("polls", "/idle/poll"), ("events", "/idle/events")):

            def measure(kind: Kind, path=path, count=count) -> Sample:
                return idle_streams(bench, kind, path, count)

            bench.interleave(f"streams_{name}_{count}", ORDINARY, measure, 1)


def websockets(bench: Bench) -> None:
    """One idle long poll on each connection between the Envoys: memory per connection, stream included."""
    count = bench.effort.websockets
    kinds = [Kind(kind.name, kind.protocol, streams_per_connection=1) for kind in (HTTP2, WSFERRY)]
    bench.interleave(
        f"websockets_{count}", kinds, lambda kind: idle_streams(bench, kind, "/idle/poll", count), 1
    )


def codec(bench: Bench) -> None:
    """The converter alone, natively and in wasmtime (integration/src/bin/codec_bench.rs)."""
    root = HERE.parent.parent
    # wasmtime takes minutes to build with link-time optimisation, which the module that is measured has anyway.
    settings = {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
    environment = {**os.environ, **settings, "WSFERRY_WASM": str(bench.setting.wasm.resolve())}
    command = ["cargo", "run", "--release", "--quiet", "--locked", "--package", "integration", "--bin", "codec_bench"]
    if bench.effort.rounds < FULL.rounds:
        command += ["--", "--quick"]
    print("codec: building and running", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=CODEC_TIMEOUT)
        if done.returncode != 0:
            raise Failed((done.stderr.strip().splitlines() or ["no message"])[-1])
        steps = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired, Failed) as error:
        for kind in ("native", "wasm"):
            bench.results.fail("codec", kind, str(error))
        return
    for step, kinds in steps.items():
        for kind, sample in kinds.items():
            bench.results.add(step, kind, sample)


WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "small": small,
    "connections": connections,
    "decision": decision,
    "polling": polling,
    "bulk": bulk,
    "mixed": mixed,
    "distance": distance,
    "streams": streams,
    "websockets": websockets,
    "codec": codec,
}
