"""Measures wsferry beside plain HTTP/1.1 and HTTP/2 between the same two Envoys: one run, one origin, in turns."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

# pair.py, the pair of Envoys that all of integration/ uses.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import chart
import report
from origin import Origin
from pair import PairError
from rounds import CHECK, FULL, QUICK, Bench, Results
from ways import Also, Setting
from workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "docs/bench.svg"


def named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def process(text: str) -> tuple[str, int]:
    name, number = named(text)
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PID")
    return name, int(number)


def new_file(text: str) -> Path:
    """Not found out only when everything has been measured."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} can't be a file")
    return path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes: fewer and shorter rounds")
    parser.add_argument("--check", action="store_true", help="only whether every way works in every workload: no numbers")
    parser.add_argument("--only", action="append", choices=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results there")
    parser.add_argument("--chart", type=new_file, metavar="FILE", help="default: docs/bench.svg after a full run")
    parser.add_argument(
        "--also",
        action="append",
        type=named,
        default=[],
        metavar="NAME=URL",
        help="another tunnel to the origin that is running, like other=http://127.0.0.1:8000; see --origin-port",
    )
    parser.add_argument(
        "--also-pid", action="append", type=process, default=[], metavar="NAME=PID", help="a process whose CPU time is its"
    )
    parser.add_argument("--origin-port", type=int, metavar="PORT", help="where --also tunnels lead; default: a free one")
    parser.add_argument("--hold", type=float, metavar="SECONDS", help="how long idle streams have to stay up")
    parser.add_argument("--envoy", required=True, metavar="PATH", help="default: as scripts/setup finds it")
    parser.add_argument("--wasm", type=Path, required=True, metavar="FILE", help="default: what scripts/build made")
    parser.add_argument("--nginx", required=True, metavar="PATH", help="default: as scripts/setup finds it")
    return parser.parse_args()


def tunnels(options: argparse.Namespace) -> list[Also]:
    also = {name: Also(name, url) for name, url in options.also}
    if len(also) < len(options.also):
        sys.exit("--also: one name twice")
    for name, pid in options.also_pid:
        if name not in also:
            sys.exit(f"--also-pid: no --also {name}")
        also[name].pids.append(pid)
    for tunnel in also.values():
        _ = tunnel.address
    return list(also.values())


def measure(options: argparse.Namespace, also: list[Also], setting: Setting, results: Results) -> None:
    effort = CHECK if options.check else QUICK if options.quick else FULL
    if options.hold is not None:
        effort = effort.holding(options.hold)
    bench = Bench(setting, effort, also, results)
    for name in options.only or WORKLOADS:
        WORKLOADS[name](bench)


def run(options: argparse.Namespace, also: list[Also], directory: Path) -> list[str]:
    """Measures and reports; what failed."""
    started = time.monotonic()
    results = Results()
    about = report.machine(options.envoy, options.wasm)
    print(about, flush=True)
    origin = Origin(options.nginx, directory, options.origin_port)
    try:
        measure(options, also, Setting(options.envoy, options.wasm.resolve(), origin, directory), results)
    finally:
        origin.stop()
    failed = report.failures(results)
    if options.check:
        print(report.counts(results))
    else:
        print("\n" + report.table(results))
        print("\n" + report.targets(results))
    print("\n".join(failed))
    print(f"{time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results), indent=1) + "\n")
    complete = not (options.check or options.quick or options.only or failed)
    if options.chart or complete:
        target = options.chart or CHART
        target.write_text(chart.draw(results, about))
        print(f"chart: {target}")
    return failed


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="wsferry-bench-"))
    failed = []
    try:
        failed = run(options, tunnels(options), directory)
    except PairError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        if failed:
            print(f"logs: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
