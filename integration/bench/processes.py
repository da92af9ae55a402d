"""What processes cost, as the operating system counts it."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The scheduler's clock of a process, and how many bits of a clock's number stand below the process's (what
# clock_getcpuclockid(3) does).
CPUCLOCK_SCHED = 2
CPUCLOCK_BITS = 3


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes since they started, to the nanosecond."""
    return sum(time.clock_gettime(~pid << CPUCLOCK_BITS | CPUCLOCK_SCHED) for pid in pids)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _allow(pid: int, cpus: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cpus)
        except (ProcessLookupError, FileNotFoundError):
            pass  # a thread that has just ended


@contextmanager
def apart(pids: list[int], others: list[int]):
    """Has `pids` run on one CPU to their end, and `others`, this process and what it starts on the rest, if there is one.

    What else would run in between leaves its data in the caches, which costs a process more than what is to be measured.
    """
    allowed = os.sched_getaffinity(0)
    first, *rest = sorted(allowed)
    try:
        if rest:
            for cpus, some in (({first}, pids), (set(rest), [*others, os.getpid()])):
                for pid in some:
                    _allow(pid, cpus)
        yield
    finally:
        for pid in (*others, os.getpid()):
            _allow(pid, allowed)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def waited_for_seconds() -> float:
    """User and system time of all children that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass
class Finished:
    """A load generator that has ended."""

    output: str
    cpu_seconds: float


class ClientFailed(Exception):
    """A load generator ended with an error; the text says which."""


class Client:
    """A load generator, whose CPU time is known once it has ended."""

    def __init__(self, command: list[str]):
        self.name = Path(command[1] if command[0] == sys.executable else command[0]).name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def read_line(self, timeout: float) -> str:
        """The next line of its output."""
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            _, errors = self.process.communicate() if ready else ("", f"silent for {timeout:g} s")
            raise ClientFailed(f"{self.name}: {(errors.strip().splitlines() or ['no message'])[-1]}")
        return line

    def finish(self, timeout: float) -> Finished:
        before = waited_for_seconds()
        try:
            output, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise ClientFailed(f"{self.name} didn't end within {timeout:.0f} s") from None
        if self.process.returncode != 0:
            lines = errors.strip().splitlines() or ["no message"]
            raise ClientFailed(f"{self.name}: {lines[-1]}")
        return Finished(output, waited_for_seconds() - before)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def run(command: list[str], timeout: float) -> Finished:
    return Client(command).finish(timeout)
