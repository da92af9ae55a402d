"""Load that wrk can't make: large bodies, requests one after the other that are timed one by one, streams that stay open.

Each command prints one JSON object on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events

BUFFER = 1 << 20
AT_FULL_SPEED = 64 << 20  # bytes of all streams
TIMEOUT = 120.0  # seconds
STREAMS_PER_CONNECTION = 1000  # the near Envoy allows its clients 1,024


class Connection:
    """An HTTP/1.1 connection to the near Envoy."""

    def __init__(self, address: tuple[str, int]):
        self.socket = socket.create_connection(address, timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def send_head(self, method: str, path: str, fields: dict[str, str]) -> None:
        lines = [f"{method} {path} HTTP/1.1", "host: app.example", *(f"{name}: {value}" for name, value in fields.items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def read_head(self) -> int:
        """The length of the body of a 200 response."""
        while b"\r\n\r\n" not in self.received:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError("closed before a response")
            self.received += piece
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if status.split(" ")[1] != "200":
            raise ConnectionError(f"answered {status!r}")
        for line in lines:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                return int(value)
        raise ConnectionError("response without content-length")

    def body_pieces(self, length: int, buffer: memoryview):
        """The sizes of the pieces in which a body arrives."""
        left = length - len(self.received)
        yield len(self.received)
        self.received = b""
        while left > 0:
            size = self.socket.recv_into(buffer, min(left, len(buffer)))
            if not size:
                raise ConnectionError(f"closed {left} bytes before the end")
            left -= size
            yield size


class Bulk:
    """Streams at once: one body each, or body after body until time is up."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.bytes = [0] * options.streams
        self.errors: list[str] = []
        self.start = threading.Barrier(options.streams + 1)

    def stream(self, index: int) -> None:
        buffer = memoryview(bytearray(BUFFER))
        exchange = self.download if self.options.direction == "down" else self.upload
        self.start.wait()
        deadline = time.monotonic() + (self.options.seconds or TIMEOUT)
        try:
            for size in exchange(buffer):
                self.bytes[index] += size
                if time.monotonic() > deadline:
                    break
            else:
                while self.options.seconds and time.monotonic() < deadline:
                    for size in exchange(buffer):
                        self.bytes[index] += size
                        if time.monotonic() > deadline:
                            break
        except (OSError, ValueError) as error:
            self.errors.append(str(error))

    def download(self, buffer: memoryview):
        connection = Connection(self.options.address)
        with connection.socket:
            connection.send_head("GET", f"/bulk-{self.options.bytes}", {})
            yield from connection.body_pieces(connection.read_head(), buffer)

    def upload(self, buffer: memoryview):
        connection = Connection(self.options.address)
        with connection.socket:
            connection.send_head("POST", "/sink", {"content-length": str(self.options.bytes)})
            left = self.options.bytes
            while left > 0:
                sent = connection.socket.send(buffer[: min(left, len(buffer))])
                left -= sent
                yield sent
            length = connection.read_head()
            while len(connection.received) < length:
                connection.received += connection.socket.recv(length)
            arrived = json.loads(connection.received)["received"]
            if arrived != self.options.bytes:
                raise ValueError(f"{arrived} of {self.options.bytes} bytes arrived")

    def run(self) -> dict:
        threads = [
            threading.Thread(target=self.stream, args=(index,), daemon=True) for index in range(self.options.streams)
        ]
        for thread in threads:
            thread.start()
        self.start.wait()
        started = time.monotonic()
        if self.options.seconds:
            while sum(self.bytes) < AT_FULL_SPEED and any(thread.is_alive() for thread in threads):
                time.sleep(0.01)
            print(json.dumps({"running": sum(self.bytes)}), flush=True)
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        if self.errors:
            sys.exit(f"{len(self.errors)} of {self.options.streams} streams: {self.errors[0]}")
        expected = self.options.bytes * self.options.streams
        if not self.options.seconds and sum(self.bytes) != expected:
            sys.exit(f"{sum(self.bytes)} of {expected} bytes within {TIMEOUT:g} s")
        return {"seconds": seconds, "bytes": sum(self.bytes)}


def sequence(options: argparse.Namespace) -> dict:
    """Requests one after the other on one connection; the first one's time has the opening of the connection in it."""
    fields = json.loads(options.fields)
    buffer = memoryview(bytearray(BUFFER))
    started = time.monotonic()
    connection = Connection(options.address)
    times = []
    while True:
        connection.send_head("GET", options.path, fields)
        for _ in connection.body_pieces(connection.read_head(), buffer):
            pass
        now = time.monotonic()
        times.append((now - started) * 1000)
        if len(times) >= options.count:
            return {"milliseconds": times}
        started = now


class IdleStreams(asyncio.Protocol):
    """An HTTP/2 connection with requests that stay open."""

    def __init__(self, path: str, count: int, failed: Callable[[str], None]):
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.path = path
        self.count = count
        self.failed = failed
        self.answered = 0
        self.counts: dict[int, bytes] = {}
        self.asked: asyncio.Future | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.http2.initiate_connection()
        for _ in range(self.count):
            self.request(self.path)
        self.transport.write(self.http2.data_to_send())

    def request(self, path: str) -> int:
        stream = self.http2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "app.example"), (":path", path)]
        self.http2.send_headers(stream, fields, end_stream=True)
        return stream

    async def open_at_origin(self) -> int:
        """How many streams the origin has open, asked on the same way."""
        self.asked = asyncio.get_running_loop().create_future()
        self.counts = {self.request("/idle/count"): b""}
        self.transport.write(self.http2.data_to_send())
        return await asyncio.wait_for(self.asked, 30)

    def data_received(self, data: bytes) -> None:
        for event in self.http2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.stream_id in self.counts:
                    self.counts[event.stream_id] += event.data
                else:
                    self.answered += 1
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id in self.counts:
                self.asked.set_result(json.loads(self.counts[event.stream_id])["open"])
            elif isinstance(event, h2.events.ResponseReceived) and dict(event.headers)[b":status"] != b"200":
                self.failed(f"answered {dict(event.headers)[b':status'].decode()}")
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                self.failed(type(event).__name__)
        self.transport.write(self.http2.data_to_send())

    def connection_lost(self, error: Exception | None) -> None:
        self.failed(f"connection lost: {error}")


async def idle(options: argparse.Namespace) -> None:
    """Opens streams, says so, holds them until standard input ends, and says how many are left."""
    failures: list[str] = []
    connections = []
    left = options.streams
    while left > 0:
        count = min(left, STREAMS_PER_CONNECTION)
        left -= count
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda count=count: IdleStreams(options.path, count, failures.append), *options.address
        )
        connections.append(connection)
    asker = connections[0]
    deadline = time.monotonic() + TIMEOUT
    events = options.streams if options.path == "/idle/events" else 0
    while (open_now := await asker.open_at_origin()) < options.streams or sum(c.answered for c in connections) < events:
        if failures or time.monotonic() > deadline:
            reason = failures[0] if failures else f"within {TIMEOUT:g} s"
            sys.exit(f"{open_now} of {options.streams} streams open: {reason}")
        await asyncio.sleep(0.1)
    print(json.dumps({"open": open_now}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    if failures:
        sys.exit(f"{len(failures)} of {options.streams} streams ended: {failures[0]}")
    print(json.dumps({"left": await asker.open_at_origin()}), flush=True)
    failures.append("closing")


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    bulk = commands.add_parser("bulk")
    bulk.add_argument("direction", choices=["down", "up"])
    bulk.add_argument("--bytes", type=int, required=True, help="of a body")
    bulk.add_argument("--streams", type=int, default=1)
    bulk.add_argument("--seconds", type=float, help="body after body for so long")
    one = commands.add_parser("sequence")
    one.add_argument("--path", required=True)
    one.add_argument("--count", type=int, required=True)
    one.add_argument("--fields", default="{}", help="a JSON object")
    open_streams = commands.add_parser("idle")
    open_streams.add_argument("--path", required=True)
    open_streams.add_argument("--streams", type=int, required=True)
    for command in (bulk, one, open_streams):
        command.add_argument("--address", type=address, required=True, metavar="HOST:PORT")
    options = parser.parse_args()
    if options.command == "idle":
        asyncio.run(idle(options))
        return
    try:
        print(json.dumps(Bulk(options).run() if options.command == "bulk" else sequence(options)))
    except OSError as error:
        sys.exit(f"{options.command}: {error}")


if __name__ == "__main__":
    main()
