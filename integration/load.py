"""A constant load of requests with identities, and an origin that counts what it executes.

For tests that ask whether anything was lost or done twice. Plain HTTP/1.1 over asyncio's streams; the origin is meant
for Envoy as its only client.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import ssl
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass

DEADLINE = 15.0  # seconds that a request may take before it counts as lost


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def read_body(reader: asyncio.StreamReader, lines: dict[str, str]) -> bytes:
    """All of it; raises IncompleteReadError where it is cut off."""
    if lines.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(lines.get("content-length", 0)))
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return bytes(body)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and header of a response, once its body has come."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    await read_body(reader, lines)
    return int(head.split(" ", 2)[1]), lines


class CountingOrigin:
    """Answers every request with 200 once it has all of it, and counts requests by method and by the id in their path."""

    def __init__(self, delay: float = 0.0):
        self.delay = delay
        self.executed: collections.Counter[tuple[str, str]] = collections.Counter()
        self.digests: dict[tuple[str, str], str] = {}
        # Responses' bodies by path; `ok` for any other.
        self.bodies: dict[str, bytes] = {}
        self.handshakes: list[float] = []
        self.last_head = ""
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task] = set()

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listens on this port, or a free one, beside those that it listens on already; the result is the port."""
        self._servers.append(await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls))
        return self._servers[-1].sockets[0].getsockname()[1]

    @property
    def port(self) -> int:
        return self._servers[0].sockets[0].getsockname()[1]

    async def close(self) -> None:
        for server in self._servers:
            server.close()
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
                self.digests[method, path] = digest(await read_body(reader, lines))
                self.executed[method, path] += 1
                if self.delay:
                    await asyncio.sleep(self.delay)
                body = self.bodies.get(path, b"ok")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
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
        self,
        port: int,
        methods: tuple[str, ...] = ("GET", "POST"),
        per_second: float = 200.0,
        prefix: str = "",
        authority: str = "app.example",
    ):
        self.port = port
        self.prefix = prefix
        self.authority = authority
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
        return await self._answer(method, path, self._exchange(method, path, fields))

    async def upload(self, path: str, pieces: Sequence[bytes], pause: float | None = None) -> Answer:
        """POSTs the pieces over a connection of its own: with their length, or chunked with a pause after each."""
        return await self._answer("POST", path, self._upload(path, pieces, pause))

    async def _answer(self, method: str, path: str, exchange: Coroutine) -> Answer:
        started = time.monotonic()
        try:
            status, decision = await asyncio.wait_for(exchange, DEADLINE)
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
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: {self.authority}\r\n{fields}{length}\r\n".encode() + body)
            status, lines = await read_answer(reader)
            reusable = lines.get("connection") != "close"
            return status, lines.get("x-decision", "")
        finally:
            if reusable:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _upload(self, path: str, pieces: Sequence[bytes], pause: float | None) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        length = sum(map(len, pieces))
        framing = f"content-length: {length}" if pause is None else "transfer-encoding: chunked"

        async def send() -> None:
            # Who answers early may stop reading.
            with contextlib.suppress(ConnectionError):
                writer.write(f"POST {path} HTTP/1.1\r\nhost: {self.authority}\r\n{framing}\r\n\r\n".encode())
                for piece in pieces:
                    writer.write(piece if pause is None else b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                    await asyncio.sleep(pause or 0)
                if pause is not None:
                    writer.write(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        try:
            status, lines = await read_answer(reader)
            return status, lines.get("x-decision", "")
        finally:
            sending.cancel()
            writer.close()

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
