"""HTTP/1.1 client and origin, over h11."""

from __future__ import annotations

import asyncio
import socket
import struct

import h11

from . import Data, End, Event, Exchange, Fields, Gone, RequestHead, Reset, ResponseHead

MAX_HEAD = 1 << 18  # bytes
READ = 1 << 16  # bytes at a time
QUEUED = 4  # pieces that wait for a slow consumer before TCP has to hold the rest back


class Connection:
    """One connection, for exchanges one after the other."""

    def __init__(self, role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.h11 = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)
        self.reader = reader
        self.writer = writer
        self.reading: asyncio.Task | None = None
        self.next_cycle = asyncio.Event()
        self.exchange: Http1Exchange | None = None

    async def read(self) -> bytes | None:
        """The next bytes, b"" at the end of input, None if a new cycle began before any came."""
        if self.reading is None:
            self.reading = asyncio.ensure_future(self.reader.read(READ))
        cycle = asyncio.ensure_future(self.next_cycle.wait())
        await asyncio.wait({self.reading, cycle}, return_when=asyncio.FIRST_COMPLETED)
        cycle.cancel()
        if not self.reading.done():
            return None
        reading, self.reading = self.reading, None
        try:
            return reading.result()
        except ConnectionError:
            return b""

    async def pump(self, on_request=None) -> None:
        """Takes events from the connection until it ends, and gives them to the exchange that they belong to."""
        try:
            while True:
                event = self.h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    self.next_cycle.clear()
                    data = await self.read()
                    if data is not None:
                        if data == b"" and event is h11.PAUSED:
                            break
                        self.h11.receive_data(data)
                elif isinstance(event, h11.ConnectionClosed):
                    break
                elif isinstance(event, h11.Request):
                    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                    authority = next((value for name, value in fields if name == b"host"), b"")
                    self.exchange = Http1Exchange(self)
                    on_request(
                        RequestHead(bytes(event.method), bytes(event.target), authority, fields=fields), self.exchange
                    )
                else:
                    await self.exchange.events.put(translate(event))
        except h11.RemoteProtocolError:
            pass
        finally:
            if self.exchange is not None:
                self.exchange.gone = True
                await self.exchange.events.put(Reset())
            self.writer.close()

    async def write(self, event) -> None:
        try:
            data = self.h11.send(event)
            if data:
                self.writer.write(data)
                await self.writer.drain()
        except (h11.LocalProtocolError, ConnectionError) as error:
            raise Gone(str(error)) from error
        if self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE:
            self.new_cycle()

    def new_cycle(self) -> None:
        """Both directions are done: the next exchange may begin."""
        if self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE:
            self.h11.start_next_cycle()
            self.exchange = None
            self.next_cycle.set()

    def abort(self) -> None:
        """Ends the connection with RST, as a process does that dies."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def translate(event) -> Event:
    if isinstance(event, (h11.InformationalResponse, h11.Response)):
        return ResponseHead(event.status_code, [(bytes(name), bytes(value)) for name, value in event.headers])
    if isinstance(event, h11.Data):
        return Data(bytes(event.data))
    assert isinstance(event, h11.EndOfMessage), event
    return End([(bytes(name), bytes(value)) for name, value in event.headers] or None)


class Http1Exchange(Exchange):
    def __init__(self, connection: Connection):
        self.connection = connection
        self.events: asyncio.Queue[Event] = asyncio.Queue(QUEUED)
        self.gone = False
        self.ended = False

    async def receive(self) -> Event:
        event = await self.events.get()
        if isinstance(event, End):
            self.connection.new_cycle()
        return event

    async def respond(self, head: ResponseHead, end: bool = False) -> None:
        kind = h11.InformationalResponse if head.status < 200 else h11.Response
        await self.connection.write(kind(status_code=head.status, headers=head.fields))
        if end:
            await self.finish()

    async def send(self, payload: bytes) -> None:
        if self.gone:
            raise Gone
        await self.connection.write(h11.Data(data=payload))

    async def finish(self, trailers: Fields | None = None) -> None:
        if self.ended:
            return
        self.ended = True
        await self.connection.write(h11.EndOfMessage(headers=trailers or []))

    async def reset(self, code: int) -> None:
        self.connection.abort()


class Http1Client:
    """One connection to `port`; exchanges follow one another."""

    def __init__(self, port: int):
        self.port = port
        self.connection: Connection | None = None
        self.pump: asyncio.Task | None = None

    async def open(self, head: RequestHead, end: bool) -> Http1Exchange:
        """Sends the head; without `end`, a body follows, chunked unless `content-length` is among the fields."""
        if self.connection is None or self.pump.done():
            streams = await asyncio.open_connection("127.0.0.1", self.port)
            self.connection = Connection(h11.CLIENT, *streams)
            self.pump = asyncio.ensure_future(self.connection.pump())
        exchange = self.connection.exchange = Http1Exchange(self.connection)
        fields = [(b"host", head.authority), *head.fields]
        if not end and all(name != b"content-length" for name, _ in fields):
            fields.append((b"transfer-encoding", b"chunked"))
        await self.connection.write(h11.Request(method=head.method, target=head.path, headers=fields))
        if end:
            await exchange.finish()
        return exchange

    def beside(self) -> Http1Client:
        """What can begin an exchange while others are under way: another connection."""
        return Http1Client(self.port)

    async def close(self) -> None:
        if self.pump is not None:
            self.pump.cancel()
            self.connection.writer.close()


class Http1Origin:
    """Listens on a free port; `accepted` holds the requests nobody has answered yet, with their exchanges."""

    def __init__(self):
        self.accepted: asyncio.Queue[tuple[RequestHead, Exchange]] = asyncio.Queue()
        self.connections = 0

    async def start(self, port: int = 0) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(h11.SERVER, reader, writer)
        await connection.pump(lambda head, exchange: self.accepted.put_nowait((head, exchange)))

    async def close(self) -> None:
        self.server.close()
