"""A TCP relay that adds distance.

    relay.py [--delay MILLISECONDS]

It prints the port that it listens on, and reads the port to connect to from standard input, at whose end it ends. Opening
a connection takes a round trip too: what the client sends first waits two delays longer, as it would for the SYN of a
distant peer. There is no limit of bandwidth, and no loss.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from collections import deque

CHUNK = 256 * 1024
# More than any window of a connection between the two Envoys, so that the relay is never what stops a sender.
QUEUE_LIMIT = 256 * 1024 * 1024


class Direction:
    """Bytes from one socket to the other, each piece not before its time."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay: float, open_at: float):
        self.source = source
        self.sink = sink
        self.delay = delay
        self.open_at = open_at
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.queued = 0
        self.source_open = True
        self.sink_open = True

    def wants_input(self) -> bool:
        return self.source_open and self.queued < QUEUE_LIMIT

    def due(self) -> float | None:
        return self.queue[0][0] if self.queue else None

    def receive(self, now: float) -> None:
        try:
            piece = self.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        # An empty piece stands for the end, which takes as long to arrive.
        self.source_open = bool(piece)
        self.queue.append((max(now, self.open_at) + self.delay, memoryview(piece)))
        self.queued += len(piece)

    def send(self, now: float) -> None:
        while self.queue and self.queue[0][0] <= now:
            due, piece = self.queue.popleft()
            if not piece:
                self.close_sink()
                return
            try:
                sent = self.sink.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close_sink()
                return
            self.queued -= sent
            if sent < len(piece):
                self.queue.appendleft((due, piece[sent:]))
                return

    def close_sink(self) -> None:
        self.sink_open = False
        self.source_open = False
        self.queue.clear()
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Relay:
    def __init__(self, delay: float):
        self.to = 0
        self.delay = delay
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.connections: list[tuple[Direction, Direction]] = []

    def accept(self, now: float) -> None:
        near, _ = self.listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.to))
        except OSError:
            near.close()
            return
        for side in (near, far):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened = now + 2 * self.delay
        self.connections.append((Direction(near, far, self.delay, opened), Direction(far, near, self.delay, now)))

    def forget_closed(self) -> None:
        for up, down in self.connections:
            if not up.sink_open and not down.sink_open:
                up.source.close()
                up.sink.close()
        self.connections = [pair for pair in self.connections if pair[0].sink_open or pair[1].sink_open]

    def run(self) -> None:
        while True:
            now = time.monotonic()
            directions = [direction for pair in self.connections for direction in pair]
            sources = [d.source for d in directions if d.wants_input()]
            late = [d.sink for d in directions if d.queue and d.queue[0][0] <= now]
            coming = [d.due() - now for d in directions if d.queue and d.queue[0][0] > now]
            # select(2) and not epoll, whose time-outs are whole milliseconds.
            readable, writable, _ = select.select(
                [self.listener, sys.stdin, *sources], late, [], min(coming) if coming else None
            )
            now = time.monotonic()
            ready = set(readable)
            for up, down in self.connections:
                if up.wants_input() and up.source in ready:
                    up.receive(now)
                if down.wants_input() and down.source in ready:
                    down.receive(now)
            # Also what has just arrived, where there is no delay.
            blocked = set(late) - set(writable)
            for direction in directions:
                if direction.sink_open and direction.sink not in blocked:
                    direction.send(now)
            if self.listener in ready:
                self.accept(now)
            if sys.stdin in ready and not sys.stdin.readline():
                return
            self.forget_closed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0, metavar="MILLISECONDS")
    options = parser.parse_args()
    relay = Relay(options.delay / 1000)
    print(relay.listener.getsockname()[1], flush=True)
    if port := sys.stdin.readline():
        relay.to = int(port)
        relay.run()


if __name__ == "__main__":
    main()
