"""A constant load of requests with identities, and an origin that counts what it executes.

For tests that ask whether anything was lost or done twice. Plain HTTP/1.1 over asyncio's streams; the origin is meant
for Envoy as its only client.
"""

from __future__ import annotations

import asyncio
import collections
import time
from dataclasses import dataclass

DEADLINE = 15.0  # seconds that a request may take before it counts as lost


class CountingOrigin:
    """Answers every request at once with 200, and counts requests by method and by the id in their path."""

    def __init__(self, delay: float = 0.0):
        self.delay = delay
        self.executed: collections.Counter[tuple[str, str]] = collections.Counter()
        self.handshakes: list[float] = []
        self.last_head = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    @property
    def port(self) -> int:
        return self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                if "upgrade" in lines:
                    self.handshakes.append(time.monotonic())
                else:
                    self.last_head = head
                await reader.readexactly(int(lines.get("content-length", 0)))
                self.executed[method, path] += 1
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


@dataclass
class Answer:
    """What a client got. Status 0: nothing, within the deadline."""

    method: str
    path: str
    status: int
    started: float
    seconds: float
    decision: str


class Load:
    """Sends requests at a constant rate, over as many connections as it takes, and keeps the answers."""

    def __init__(
        self, port: int, methods: tuple[str, ...] = ("GET", "POST"), per_second: float = 200.0, prefix: str = ""
    ):
        self.port = port
        self.prefix = prefix
        self.methods = methods
        self.interval = 1 / per_second
        self.answers: list[Answer] = []
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._pending: set[asyncio.Task] = set()

    async def run(self, seconds: float) -> list[Answer]:
        """The answers to the requests of this time."""
        first = len(self.answers)
        start = time.monotonic()
        for number in range(round(seconds / self.interval)):
            await asyncio.sleep(max(0.0, start + number * self.interval - time.monotonic()))
            method = self.methods[number % len(self.methods)]
            path = f"{self.prefix}/{method.lower()}-{first + number}-{id(self):x}"
            task = asyncio.create_task(self.request(method, path))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
        if self._pending:
            await asyncio.wait(set(self._pending))
        return self.answers[first:]

    async def request(self, method: str, path: str, fields: str = "") -> Answer:
        """`fields` are further lines of the header."""
        started = time.monotonic()
        try:
            status, decision = await asyncio.wait_for(self._exchange(method, path, fields), DEADLINE)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            status, decision = 0, ""
        answer = Answer(method, path, status, started, time.monotonic() - started, decision)
        self.answers.append(answer)
        return answer

    async def _exchange(self, method: str, path: str, fields: str) -> tuple[int, str]:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        reusable = False
        try:
            body = b"x" * 100 if method == "POST" else b""
            length = f"content-length: {len(body)}\r\n" if method == "POST" else ""
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: app.example\r\n{fields}{length}\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            await reader.readexactly(int(lines.get("content-length", 0)))
            reusable = lines.get("connection") != "close"
            return int(head.split(" ", 2)[1]), lines.get("x-decision", "")
        finally:
            if reusable:
                self._idle.append((reader, writer))
            else:
                writer.close()

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
