"""How a run goes: ways started side by side, measured in turns, round after round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from pair import PairError
from processes import ClientFailed
from ways import Also, Kind, Setting, Way

MIB = 1 << 20

# What a measurement yields: numbers by name. None is what can't be known of this way.
Sample = dict[str, float | None]


class Named(Protocol):
    """A way, or a kind of way."""

    name: str


@dataclass(frozen=True)
class Effort:
    """How long and how often."""

    rounds: int
    few_rounds: int  # of workloads that take long
    seconds: float
    many_rounds: int  # of less than a second
    starts: int  # where a small difference is looked for
    short_rounds: int  # after each of them, of a third of a second
    requests_of_short_round: int
    bulk_bytes: int
    bulk_bytes_of_eight: int  # each
    distant_bulk_bytes: int
    requests_at_distance: int
    idle_streams: tuple[int, ...]
    websockets: int
    hold_seconds: float

    def holding(self, seconds: float) -> Effort:
        return replace(self, hold_seconds=seconds)


FULL = Effort(13, 3, 2.0, 25, 8, 10, 4_000, 256 * MIB, 256 * MIB, 256 * MIB, 60, (1_000, 10_000), 500, 2.0)
QUICK = Effort(3, 1, 1.5, 7, 4, 5, 4_000, 64 * MIB, 16 * MIB, 64 * MIB, 20, (1_000,), 100, 0.5)
# Whether all of it works. Too little for numbers.
CHECK = Effort(1, 1, 1.0, 1, 1, 1, 1_000, 16 * MIB, 16 * MIB, 16 * MIB, 3, (50,), 10, 0.1)


class Failed(Exception):
    """Why a way couldn't be measured."""


class Results:
    """Samples of every workload and way, round by round, and the reasons of those that failed."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, list[Sample]]] = {}
        self.failures: dict[str, dict[str, str]] = {}

    def add(self, workload: str, way: str, sample: Sample | dict[str, Sample]) -> None:
        parts = {name: part for name, part in sample.items() if isinstance(part, dict)}
        for name, part in (parts or {workload: sample}).items():
            self.samples.setdefault(name, {}).setdefault(way, []).append(part)

    def fail(self, workload: str, way: str, reason: str) -> None:
        self.samples.setdefault(workload, {}).setdefault(way, []).clear()
        self.failures.setdefault(workload, {})[way] = reason

    def failed(self, workload: str, way: str) -> bool:
        return way in self.failures.get(workload, {})


class Bench:
    """One run: the setting, the ways, the results."""

    def __init__(self, setting: Setting, effort: Effort, also: list[Also], results: Results):
        self.setting = setting
        self.effort = effort
        self.also = also
        self.results = results

    def interleave(
        self,
        workload: str,
        ways: Sequence[Named],
        measure: Callable[[Named], Sample | dict[str, Sample]],
        rounds: int,
        warm_up: Callable[[Named], object] | None = None,
    ) -> None:
        """Measures way after way, round after round, so that drift hits all alike.

        A measurement yields a sample, or samples of several workloads by name.
        """
        for number in range(-1 if warm_up else 0, rounds):
            # Another one is first each time.
            shift = number % len(ways) if ways else 0
            for way in [*ways[shift:], *ways[:shift]]:
                if self.results.failed(workload, way.name):
                    continue
                progress(f"{workload}: {way.name}, " + (f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"))
                try:
                    if number < 0:
                        warm_up(way)
                    else:
                        self.results.add(workload, way.name, measure(way))
                except (Failed, ClientFailed, PairError, OSError) as error:
                    self.results.fail(workload, way.name, str(error))

    @contextmanager
    def running(self, workload: str, kinds: Sequence[Kind], also: bool = False):
        """The ways of these kinds, started; those that don't start are reported as failed."""
        ways: list[Way | Also] = []
        try:
            for one in [*kinds, *(self.also if also else [])]:
                way = one
                try:
                    if isinstance(one, Kind):
                        way = Way(one, self.setting)
                        ways.append(way)
                    way.start()
                    if isinstance(one, Also):
                        ways.append(one)
                except (PairError, OSError) as error:
                    self.results.fail(workload, one.name, str(error))
            yield [way for way in ways if not self.results.failed(workload, way.name)]
        finally:
            for way in ways:
                way.stop()

    def started_anew(self, workload: str, kinds: Sequence[Kind], also: bool = False) -> Iterator[list[Way | Also]]:
        """The same, again and again: two processes of one Envoy with one configuration differ, for as long as they run."""
        for _ in range(self.effort.starts):
            with self.running(workload, kinds, also) as ways:
                yield ways


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Meter:
    """CPU time and wire bytes between its making and `sample`."""

    def __init__(self, bench: Bench, way: Way | Also):
        self.bench = bench
        self.way = way
        # The first of them, as it costs the way CPU time itself.
        self.wire = way.wire_bytes()
        self.cpu = way.cpu_seconds()
        self.origin = bench.setting.origin.cpu_seconds()

    def sample(self, exchanges: int, client_cpu: float) -> Sample:
        if exchanges < 1:
            raise Failed("not one exchange was completed")
        cpu, wire = self.way.cpu_seconds(), self.way.wire_bytes()
        origin = self.bench.setting.origin.cpu_seconds() - self.origin

        def each(value: float) -> float:
            return value / exchanges * 1000

        return {
            "cpu_seconds_per_1000": None if cpu is None else each(cpu - self.cpu),
            "origin_cpu_seconds_per_1000": each(origin),
            "client_cpu_seconds_per_1000": each(client_cpu),
            "bytes_per_exchange": None if wire is None else (wire - self.wire) / exchanges,
        }
