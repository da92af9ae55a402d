"""The near Envoy decides, request by request, between the WebSocket and plain HTTP, while the far end comes and goes.

Started by scripts/demo.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from adaptive import PATIENCE, Adaptive, ways
from load import Answer, CountingOrigin
from pair import Pair, PairError

LIMIT = 60.0  # seconds that a phase may take
SLICE = 0.1  # seconds of load between two looks at what was decided
IN_A_ROW = 80  # requests decided alike end a phase
COLD = 3  # requests: fewer than open the tunnel, together with the one that asked for readiness
METHODS = ("GET",)

# As in near-adaptive.yaml, but for the times, which nobody wants to sit through.
SETTINGS = {
    "probe": {"cluster": "tunnel", "interval_ms": 500, "timeout_ms": 500},
    "failures": {"base_backoff_ms": 200, "max_backoff_ms": 1000},
}
DECISIONS = "wasmcustom.wsferry_decisions_"


@dataclass
class Counts:
    """Of the near Envoy: requests sent over plain HTTP, and decisions by way and reason."""

    http: int
    decisions: collections.Counter[str]

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(self.http - earlier.http, self.decisions - earlier.decisions)


class Decisions:
    """The phases, and the table of them."""

    def __init__(self, one: Adaptive, loop: Callable[[Coroutine, float], object]):
        self.one = one
        self.loop = loop
        self.failed: list[str] = []
        one.load.methods = METHODS

    def counts(self) -> Counts:
        """As of now: waits until the filter has handed its counts to Envoy, which it does once a second."""
        deadline = time.monotonic() + PATIENCE
        while True:
            stats = self.one.pair.near.stats()
            decisions = collections.Counter(
                {name.removeprefix(DECISIONS): value for name, value in stats.items() if name.startswith(DECISIONS)}
            )
            if decisions.total() == stats["http.ingress.downstream_rq_completed"]:
                return Counts(stats["cluster.direct.upstream_rq_total"], decisions)
            assert time.monotonic() < deadline, f"decided {decisions}, completed requests differ"
            time.sleep(0.05)

    async def until(self, decision: str) -> None:
        """Load until so many requests in a row are decided like that, or for as long as that may take."""
        answers: list[Answer] = []
        deadline = time.monotonic() + PATIENCE
        while ways(answers[-IN_A_ROW:])[decision] < IN_A_ROW and time.monotonic() < deadline:
            answers += await self.one.load.run(SLICE)

    def phase(self, name: str, run: Callable[[], Coroutine], last: str, also: tuple[str, ...] = ()) -> None:
        """Runs a phase whose last requests must be decided like `last`, and earlier ones no other way than `also`."""
        before, first = self.counts(), len(self.one.load.answers)
        self.loop(run(), LIMIT)
        after, answers = self.counts() - before, self.one.load.answers[first:]
        decided = answers[-1].decision if answers else "not at all"
        answered = sum(answer.status == 200 for answer in answers)
        failed = len(answers) - answered
        # Those that plain HTTP didn't answer; what the tunnel could not send was sent again over plain HTTP.
        websocket = answered - after.http
        by_header = collections.Counter({way.replace(" ", "_"): count for way, count in ways(answers).items()})
        wrong = {
            f"{failed} failed": failed,
            "some were not executed": any(not self.one.origin.executed[a.method, a.path] for a in answers),
            f"{websocket} over the WebSocket are more than were sent that way": (
                not 0 <= websocket <= sum(count for way, count in by_header.items() if way.startswith("websocket"))
            ),
            f"the last was decided {decided!r} and not {last!r}": decided != last,
            f"unexpected decisions: {set(by_header)}": not set(ways(answers)) <= {last, *also},
            f"counters {after.decisions} and responses {by_header} differ": after.decisions != by_header,
        }
        reasons = ", ".join(f"{way.split('_', 1)[1]} {count}" for way, count in after.decisions.most_common())
        numbers = f"{len(answers):>5} {answered:>9} {failed:>7} {websocket:>15} {after.http:>11}"
        print(f"{name:<26} {numbers}   {reasons:<44} {'WRONG' if any(wrong.values()) else 'ok'}", flush=True)
        if any(wrong.values()):
            self.failed.append(name)
            print("\n".join(f"  {what}" for what, is_so in wrong.items() if is_so))

    def check(self, what: str, holds: bool) -> None:
        print(f"{'ok   ' if holds else 'WRONG'} {what}", flush=True)
        if not holds:
            self.failed.append(what)

    async def cold(self) -> None:
        for number in range(COLD):
            await self.one.load.request("GET", f"/cold-{number}")

    async def killed(self) -> None:
        """The far end is killed in the middle of the load."""
        loading = asyncio.create_task(self.until("http backoff"))
        begun = len(self.one.load.answers)
        while len(self.one.load.answers) < begun + 20:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self.one.pair.far.kill)
        await loading

    async def back(self) -> None:
        self.one.pair.far.start()
        await self.until("websocket up")

    async def without_converter(self, target: CountingOrigin) -> None:
        """An ordinary HTTP server takes the far end's place, once the near end knows that the far end is gone.

        While the near end still takes the tunnel for up, each request dials it: that would be several handshakes.
        """
        await asyncio.to_thread(self.one.pair.far.stop)
        await self.one.until("http backoff")
        await target.start(self.one.pair.far_port)
        await self.until("http no_converter")

    def run(self) -> None:
        columns = f"{'sent':>5} {'answered':>9} {'failed':>7} {'over WebSocket':>15} {'plain HTTP':>11}"
        print(f"{'phase':<26} {columns}   {'reasons, and how often':<44}")
        http = ("http suspect", "http backoff", "http opening")
        target = CountingOrigin()
        self.phase("cold", self.cold, "http cold")
        self.phase("busy", lambda: self.until("websocket up"), "websocket up", ("http cold", "http opening"))
        self.phase("far end killed (kill -9)", self.killed, "http backoff", ("websocket up", *http))
        self.phase("far end back", self.back, "websocket up", http)
        self.phase(
            "target without converter",
            lambda: self.without_converter(target),
            "http no_converter",
            ("websocket up", *http),
        )
        print()
        handshakes = len(target.handshakes)
        self.check(f"the target without converter got {handshakes} handshake (at most one)", handshakes <= 1)
        answers = self.one.load.answers
        executed = sum(self.one.origin.executed[key] for key in {(answer.method, answer.path) for answer in answers})
        again = executed - len(answers)
        self.check(f"no request was lost; {again} under way when the far end went were executed again", 0 <= again < 30)
        self.loop(target.close(), LIMIT)


def run(envoy: str, wasm: Path) -> list[str]:
    # Connections that are cut off are what this is about.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with asyncio.Runner() as runner:
        pairs: list[Pair] = []

        def loop(coroutine: Coroutine, limit: float = LIMIT):
            return runner.run(asyncio.wait_for(coroutine, limit))

        def new_pair(origin: str, start: bool, **options) -> Pair:
            assert not start
            pairs.append(Pair(origin, envoy=envoy, wasm=wasm, **options))
            return pairs[-1]

        try:
            one = Adaptive(new_pair, loop, **SETTINGS)
            pair = one.pair
            print(
                f"\nclients → near Envoy 127.0.0.1:{pair.near_port} (envoy/near-adaptive.yaml)"
                f" ═ WebSocket ═ far Envoy 127.0.0.1:{pair.far_port} → application {one.origin.port}"
                f"\n                       or plain HTTP → application {one.origin.port}"
                f"\n{1 / one.load.interval:.0f} GETs per second, one worker thread; a phase ends after"
                f" {IN_A_ROW} decisions alike. Times are shorter than in near-adaptive.yaml:"
                f"\n{describe(SETTINGS)}\n"
            )
            demo = Decisions(one, loop)
            try:
                demo.run()
            except Exception as error:  # what the Envoys logged says more than a traceback
                print(f"{type(error).__name__}: {error}")
                demo.failed.append(type(error).__name__)
            if demo.failed:
                print(pair.tails(), file=sys.stderr)
            one.load.close()
            loop(one.origin.close())
            return demo.failed
        finally:
            for pair in pairs:
                pair.stop()
                pair.remove_directory()


def describe(settings: dict[str, dict]) -> str:
    return ", ".join(
        f"{section}.{name} {value}"
        for section, fields in settings.items()
        for name, value in fields.items()
        if isinstance(value, int)
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--wasm", required=True, type=Path)
    options = parser.parse_args()
    # What was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        failed = run(options.envoy, options.wasm)
    except PairError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("\nevery decision was as it should be" if not failed else f"\nnot as it should be: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
