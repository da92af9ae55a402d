"""HTTP/2 client and origin without TLS (prior knowledge), over h2."""

from __future__ import annotations

import asyncio

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes, Settings

from . import Data, End, Event, Exchange, Fields, Gone, RequestHead, Reset, ResponseHead

READ = 1 << 16  # bytes at a time
STREAM_WINDOW = 1 << 20  # bytes
CONNECTION_WINDOW = 1 << 24  # bytes


class Connection:
    def __init__(
        self, client: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int = STREAM_WINDOW
    ):
        # Incoming fields are validated: h2 is a judge of what Envoy and the filter make. Outgoing ones are as told.
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding=None,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
                validate_outbound_headers=False,
            )
        )
        settings = {
            SettingCodes.INITIAL_WINDOW_SIZE: window,
            SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 18,
            SettingCodes.MAX_CONCURRENT_STREAMS: 10000,
            SettingCodes.ENABLE_PUSH: 0,
        }
        if not client:
            del settings[SettingCodes.ENABLE_PUSH]
            settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self.h2.local_settings = Settings(client=client, initial_values=settings)
        self.h2.decoder.max_header_list_size = settings[SettingCodes.MAX_HEADER_LIST_SIZE]
        self.reader = reader
        self.writer = writer
        self.exchanges: dict[int, Http2Exchange] = {}
        self.progress = asyncio.Condition()
        self.closed = False

    async def initiate(self) -> None:
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(CONNECTION_WINDOW)
        await self.flush()

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            try:
                self.writer.write(data)
                await self.writer.drain()
            except ConnectionError as error:
                raise Gone(str(error)) from error

    async def pump(self, on_request=None) -> None:
        """Takes events from the connection until it ends, and gives them to the exchanges that they belong to."""
        try:
            while data := await self.reader.read(READ):
                for event in self.h2.receive_data(data):
                    self.dispatch(event, on_request)
                await self.flush()
                async with self.progress:
                    self.progress.notify_all()
        except (ConnectionError, Gone):
            pass
        except h2.exceptions.ProtocolError:
            await self.flush()
            raise
        finally:
            self.closed = True
            for exchange in self.exchanges.values():
                exchange.events.put_nowait(Reset())
            self.writer.close()
            async with self.progress:
                self.progress.notify_all()

    def dispatch(self, event, on_request) -> None:
        if isinstance(event, h2.events.RequestReceived):
            exchange = self.exchanges[event.stream_id] = Http2Exchange(self, event.stream_id)
            on_request(request_head(event.headers), exchange)
        exchange = self.exchanges.get(getattr(event, "stream_id", None))
        if exchange is None:
            return
        put = exchange.events.put_nowait
        if isinstance(event, (h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
            (_, status), *fields = event.headers
            put(ResponseHead(int(status), pairs(fields)))
        elif isinstance(event, h2.events.DataReceived):
            exchange.unacknowledged.append(event.flow_controlled_length)
            put(Data(event.data))
        elif isinstance(event, h2.events.TrailersReceived):
            exchange.trailers = pairs(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            put(End(exchange.trailers))
        elif isinstance(event, h2.events.StreamReset) and not exchange.reset_sent:
            exchange.gone = True
            put(Reset(int(event.error_code)))


def pairs(fields) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in fields]


def request_head(headers) -> RequestHead:
    fields = pairs(headers)
    pseudo = {name: value for name, value in fields if name.startswith(b":")}
    return RequestHead(
        pseudo[b":method"],
        pseudo.get(b":path", b""),
        pseudo.get(b":authority", b""),
        pseudo.get(b":scheme", b""),
        pseudo.get(b":protocol"),
        [(name, value) for name, value in fields if not name.startswith(b":")],
    )


class Http2Exchange(Exchange):
    def __init__(self, connection: Connection, stream: int):
        self.connection = connection
        self.stream = stream
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.unacknowledged: list[int] = []
        self.trailers: Fields | None = None
        self.gone = False
        self.reset_sent = False
        self.ended = False

    async def receive(self) -> Event:
        event = await self.events.get()
        if isinstance(event, Data):
            length = self.unacknowledged.pop(0)
            if length and not self.connection.closed:
                try:
                    self.connection.h2.acknowledge_received_data(length, self.stream)
                except h2.exceptions.StreamClosedError:
                    pass
                await self.connection.flush()
        return event

    async def respond(self, head: ResponseHead, end: bool = False) -> None:
        self.ended = end
        await self.headers([(b":status", b"%d" % head.status), *head.fields], end)

    async def headers(self, fields: Fields, end: bool) -> None:
        if self.gone or self.connection.closed:
            raise Gone
        try:
            self.connection.h2.send_headers(self.stream, fields, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise Gone(str(error)) from error
        await self.connection.flush()

    async def send(self, payload: bytes) -> None:
        connection = self.connection
        rest = memoryview(payload)
        while rest:
            if self.gone or connection.closed:
                raise Gone
            try:
                room = min(connection.h2.local_flow_control_window(self.stream), connection.h2.max_outbound_frame_size)
                if room > 0:
                    connection.h2.send_data(self.stream, bytes(rest[:room]))
                    rest = rest[room:]
            except h2.exceptions.ProtocolError as error:
                raise Gone(str(error)) from error
            if room > 0:
                await connection.flush()
            else:
                async with connection.progress:
                    await connection.progress.wait()

    async def finish(self, trailers: Fields | None = None) -> None:
        if self.ended:
            return
        self.ended = True
        if trailers:
            await self.headers(trailers, end=True)
            return
        if self.gone or self.connection.closed:
            raise Gone
        try:
            self.connection.h2.end_stream(self.stream)
        except h2.exceptions.ProtocolError as error:
            raise Gone(str(error)) from error
        await self.connection.flush()

    async def reset(self, code: int) -> None:
        self.reset_sent = True
        self.connection.h2.reset_stream(self.stream, code)
        await self.connection.flush()


class Http2Client:
    """One connection to `port`; `window` bytes may be on their way to it in each stream."""

    def __init__(self, port: int, window: int = STREAM_WINDOW):
        self.port = port
        self.window = window
        self.connection: Connection | None = None
        self.pump: asyncio.Task | None = None
        self.connecting = asyncio.Lock()

    async def connect(self) -> None:
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        self.connection = Connection(True, *streams, window=self.window)
        await self.connection.initiate()
        self.pump = asyncio.ensure_future(self.connection.pump())

    async def open(self, head: RequestHead, end: bool) -> Http2Exchange:
        async with self.connecting:
            if self.connection is None or self.connection.closed:
                await self.connect()
        connection = self.connection
        stream = connection.h2.get_next_available_stream_id()
        exchange = connection.exchanges[stream] = Http2Exchange(connection, stream)
        exchange.ended = end
        pseudo = [(b":method", head.method), (b":scheme", head.scheme), (b":authority", head.authority)]
        pseudo.append((b":path", head.path))
        if head.protocol is not None:
            pseudo.append((b":protocol", head.protocol))
        await exchange.headers([*pseudo, *head.fields], end)
        return exchange

    def beside(self) -> Http2Client:
        """What can begin an exchange while others are under way: the same connection."""
        return self

    async def close(self) -> None:
        if self.pump is not None:
            self.connection.writer.close()
            self.pump.cancel()


class Http2Origin:
    """Listens on a free port; `accepted` holds the requests nobody has answered yet, with their exchanges."""

    def __init__(self, window: int = STREAM_WINDOW):
        self.accepted: asyncio.Queue[tuple[RequestHead, Exchange]] = asyncio.Queue()
        self.connections = 0
        self.window = window

    async def start(self, port: int = 0) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(False, reader, writer, self.window)
        await connection.initiate()
        await connection.pump(lambda head, exchange: self.accepted.put_nowait((head, exchange)))

    async def close(self) -> None:
        self.server.close()
