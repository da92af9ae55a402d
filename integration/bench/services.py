"""The part of the origin that nginx can't be: a sink for uploads, and requests that stay open.

It prints {"sink": PORT, "idle": PORT} and runs until it is ended.

- sink, HTTP/1.1: reads a body of `content-length` bytes and answers with how many there were.
- idle, HTTP/2: /idle/poll is never answered, /idle/events answers with one event and stays open, /idle/count answers with how
  many such requests are open now.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings

BUFFER = 1 << 20


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request and what came behind it; an empty head at the end."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b"", b""
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def swallow(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(BUFFER))
    with connection:
        while True:
            head, rest = read_head(connection)
            if not head:
                return
            length = content_length(head)
            received = len(rest)
            while received < length:
                size = connection.recv_into(buffer)
                if not size:
                    return
                received += size
            body = json.dumps({"received": received}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def serve_sink(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=swallow, args=(connection,), daemon=True).start()


class Idle(asyncio.Protocol):
    """One HTTP/2 connection of the idle service."""

    open_requests = 0

    def __init__(self) -> None:
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.streams: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        # Before the connection begins: what is changed later counts only once the other end has acknowledged it.
        most = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 20_000}
        self.http2.local_settings = h2.settings.Settings(client=False, initial_values=most)
        self.http2.initiate_connection()
        self.transport.write(self.http2.data_to_send())

    def connection_lost(self, _error: Exception | None) -> None:
        Idle.open_requests -= len(self.streams)
        self.streams.clear()

    def data_received(self, data: bytes) -> None:
        for event in self.http2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.request(event.stream_id, dict(event.headers)[b":path"])
            elif isinstance(event, h2.events.StreamReset):
                self.forget(event.stream_id)
        self.transport.write(self.http2.data_to_send())

    def request(self, stream: int, path: bytes) -> None:
        if path == b"/idle/count":
            body = json.dumps({"open": Idle.open_requests}).encode()
            self.http2.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
            self.http2.send_data(stream, body, end_stream=True)
            return
        self.streams.add(stream)
        Idle.open_requests += 1
        if path == b"/idle/events":
            self.http2.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
            self.http2.send_data(stream, b"event: hello\ndata: 1\n\n")

    def forget(self, stream: int) -> None:
        if stream in self.streams:
            self.streams.remove(stream)
            Idle.open_requests -= 1


async def main() -> None:
    sink = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=serve_sink, args=(sink,), daemon=True).start()
    server = await asyncio.get_running_loop().create_server(Idle, "127.0.0.1", 0, backlog=1024)
    ports = {"sink": sink.getsockname()[1], "idle": server.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
