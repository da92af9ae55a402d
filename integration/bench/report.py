"""What the samples come to: medians, spread, ratios against the targets, as text and as JSON."""

from __future__ import annotations

import os
import platform
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from pair import envoy_version
from rounds import Results, Sample

# In the JSON of every way, null where it doesn't apply; what else was measured follows them.
METRICS = (
    "requests_per_second",
    "cpu_seconds_per_1000",
    "p50_ms",
    "p99_ms",
    "bytes_per_exchange",
    "megabytes_per_second",
)
HEADINGS = {
    "requests_per_second": "requests/s",
    "cpu_seconds_per_1000": "CPU s/1000",
    "extra_cpu_us": "extra us each",
    "origin_cpu_seconds_per_1000": "origin",
    "client_cpu_seconds_per_1000": "client",
    "cpu_seconds_per_gigabyte": "CPU s/GB",
    "origin_cpu_seconds_per_gigabyte": "origin",
    "client_cpu_seconds_per_gigabyte": "client",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "bytes_per_exchange": "bytes each",
    "megabytes_per_second": "MB/s",
    "near_kib_per_stream": "near KiB each",
    "far_kib_per_stream": "far KiB each",
    "connections_between": "connections",
    "near_bytes_per_stream": "near bytes each",
    "far_bytes_per_stream": "far bytes each",
    "ns_per_header_list": "ns/list",
    "gigabytes_per_second": "GB/s",
}


@dataclass(frozen=True)
class Target:
    """A ratio that one way is to reach against another, or a number by itself."""

    workload: str
    metric: str
    way: str
    against: str | None
    least: float | None = None
    most: float | None = None

    def reached(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def bound(self) -> str:
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


TARGETS = (
    Target("small", "requests_per_second", "wsferry", "http1", least=1.0),
    Target("small", "requests_per_second", "wsferry", "http2", least=0.85),
    Target("small", "cpu_seconds_per_1000", "wsferry", "http1", most=1.0),
    Target("small", "cpu_seconds_per_1000", "wsferry", "http2", most=1.2),
    Target("decision", "extra_cpu_us", "never", None, most=5.0),
    Target("decision", "extra_cpu_us", "backoff", None, most=5.0),
    Target("decision", "extra_cpu_us", "cold", None, most=5.0),
    Target("decision", "extra_cpu_us", "unpublished", None, most=5.0),
    Target("bulk_down_1", "megabytes_per_second", "wsferry", "http2", least=0.6),
    Target("bulk_up_1", "megabytes_per_second", "wsferry", "http2", least=0.6),
    Target("polling", "bytes_per_exchange", "wsferry_credentials", "http2", most=0.65),
    Target("polling", "bytes_per_exchange", "wsferry_credentials", "http1", most=0.12),
    Target("polling", "bytes_per_exchange", "wsferry", "http2", most=1.0),
    Target("polling", "bytes_per_exchange", "wsferry_no_credentials", "http2", most=1.0),
    Target("polling_16_users", "bytes_per_exchange", "wsferry_credentials", "http2", most=0.65),
    Target("polling_16_users", "bytes_per_exchange", "wsferry_credentials", "http1", most=0.12),
    Target("polling_16_users", "bytes_per_exchange", "wsferry", "http2", most=1.0),
    Target("polling_16_users", "bytes_per_exchange", "wsferry_no_credentials", "http2", most=1.0),
    Target("distance_bulk_down", "megabytes_per_second", "wsferry", "http2", least=0.9),
    Target("distance_bulk_up", "megabytes_per_second", "wsferry", "http2", least=0.9),
    Target("distance_polling", "p50_ms", "wsferry", "http2", most=1.05),
    # A round trip of 50 ms, and what else a request takes.
    Target("distance_polling", "p50_ms", "wsferry", None, most=60.0),
    Target("distance_first", "p50_ms", "wsferry_eager", None, most=60.0),
    Target("codec_idle_streams", "near_bytes_per_stream", "native", None, most=16384.0),
    Target("codec_idle_streams", "far_bytes_per_stream", "native", None, most=16384.0),
)


@dataclass(frozen=True)
class Spread:
    """Median, least and most of the rounds."""

    median: float
    low: float
    high: float


def spreads(samples: list[Sample]) -> dict[str, Spread]:
    result = {}
    for metric in dict.fromkeys(name for sample in samples for name in sample):
        values = [sample[metric] for sample in samples if sample.get(metric) is not None]
        if values:
            result[metric] = Spread(statistics.median(values), min(values), max(values))
    return result


def as_json(results: Results) -> dict:
    """{workload: {way: {metric: median}}}; `low` and `high` hold the spread, `failed` a reason."""
    document: dict[str, dict[str, dict]] = {}
    for workload, ways in results.samples.items():
        for way, samples in ways.items():
            spread = spreads(samples)
            entry: dict = dict.fromkeys(METRICS)
            entry.update({metric: rounded(value.median) for metric, value in spread.items()})
            entry["low"] = {metric: rounded(value.low) for metric, value in spread.items()}
            entry["high"] = {metric: rounded(value.high) for metric, value in spread.items()}
            entry["rounds"] = len(samples)
            if results.failed(workload, way):
                entry["failed"] = results.failures[workload][way]
            document.setdefault(workload, {})[way] = entry
    return document


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def shown(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def table(results: Results) -> str:
    """Medians, with least and most in brackets."""
    blocks = []
    for workload, ways in results.samples.items():
        spread = {way: spreads(samples) for way, samples in ways.items()}
        metrics = [name for name in HEADINGS if any(name in row for row in spread.values())]
        if "cpu_seconds_per_gigabyte" in metrics:
            metrics = [name for name in metrics if not name.endswith("_1000")]
        if not metrics:
            blocks.append(workload)
            continue
        rows = [[workload, *(HEADINGS[name] for name in metrics)]]
        for way, values in spread.items():
            if results.failed(workload, way):
                continue
            cells = []
            for name in metrics:
                value = values.get(name)
                if value is None:
                    cells.append("-")
                elif len(ways[way]) == 1:
                    cells.append(shown(value.median))
                else:
                    cells.append(f"{shown(value.median)} [{shown(value.low)} {shown(value.high)}]")
            rows.append([f"  {way}", *cells])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for row in rows:
            columns = enumerate(zip(row, widths, strict=True))
            cells = [cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in columns]
            lines.append("  ".join(cells).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def failures(results: Results) -> list[str]:
    return [
        f"failed: {workload}, {way}: {reason.splitlines()[0]}"
        for workload, ways in results.failures.items()
        for way, reason in ways.items()
    ]


def counts(results: Results) -> str:
    """How many measurements there are, and so how many a check has made."""
    ways = sum(len(ways) for ways in results.samples.values())
    return f"{len(results.samples)} workloads, {ways} ways in them, {sum(map(len, results.failures.values()))} failed"


def reached(results: Results, target: Target) -> Spread | None:
    """The ratio of each round on its own, so that what slowed a round down slowed both."""
    ways = results.samples.get(target.workload, {})
    mine = ways.get(target.way, [])
    if target.against is None:
        return spreads(mine).get(target.metric)
    ratios = [
        one[target.metric] / other[target.metric]
        for one, other in zip(mine, ways.get(target.against, []), strict=False)
        if one.get(target.metric) is not None and other.get(target.metric)
    ]
    return Spread(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def targets(results: Results) -> str:
    """What wsferry is to reach, and whether it did."""
    lines = []
    for target in TARGETS:
        value = reached(results, target)
        if value is None:
            continue
        verdict = "reached" if target.reached(value.median) else "MISSED"
        against = "" if target.against is None else f" x {target.against}'s"
        lines.append(
            f"{verdict:8} {target.workload}: {target.metric} of {target.way} is {value.median:.2f}"
            f" [{value.low:.2f} {value.high:.2f}]{against}, wanted {target.bound()}"
        )
    return "\n".join(lines)


def machine(envoy: str, wasm: Path) -> str:
    """The machine and the versions, in a line or two."""
    cpu_info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", cpu_info, re.MULTILINE)
    memory = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) / (1 << 20)
    version = ".".join(map(str, envoy_version(envoy)))
    size = f"{wasm.stat().st_size / 1024:.0f} KiB" if wasm.exists() else "missing"
    virtual = " (virtual machine)" if "hypervisor" in cpu_info else ""
    return (
        f"{os.cpu_count()} x {model[1] if model else platform.machine()}{virtual}, {memory:.0f} GiB,"
        f" Linux {platform.release().split('-')[0]}, Envoy {version}, wsferry.wasm {size};"
        f" load before the run {os.getloadavg()[0]:.1f}"
    )
