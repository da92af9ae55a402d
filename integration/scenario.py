"""Reads scenarios.json, whose format README.md describes, and plays its exchanges between a client and an origin."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from endpoints import Data, End, Exchange, Fields, Gone, RequestHead, Reset, ResponseHead

COPY = b"x-copy"  # field that tells copies apart
PERIOD = 65521  # of patterns, bytes: a prime
BLOCK = bytes((j ^ (j >> 8)) & 255 for j in range(PERIOD))


def pattern(length: int) -> bytes:
    return (BLOCK * (length // PERIOD + 1))[:length]


def take(mapping: dict, **defaults):
    """The values of the named keys; refuses keys that aren't named."""
    unknown = mapping.keys() - defaults.keys()
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    return [mapping.get(key, default) for key, default in defaults.items()]


def octets(value: str | dict) -> bytes:
    if isinstance(value, str):
        return value.encode("latin-1")
    if "pattern" in value:
        (length,) = take(value, pattern=0)
        return pattern(length)
    text, count = take(value, repeat="", count=0)
    return text.encode("latin-1") * count


def fields(items: list | None) -> Fields | None:
    if items is None:
        return None
    result = []
    for item in items:
        if isinstance(item, dict):
            count, name, value = take(item, numbered=0, name="", value="")
            result += [
                (octets(name.replace("#", str(n))), octets(value.replace("#", str(n)))) for n in range(count)
            ]
        else:
            name, value = item
            result.append((octets(name), octets(value)))
    return result


def pieces(items: list | None) -> list[bytes] | None:
    return None if items is None else [octets(item) for item in items]


@dataclass
class Request:
    head: RequestHead
    body: list[bytes] | None
    trailers: Fields | None
    await_interim: bool


@dataclass
class Response:
    head: ResponseHead
    body: list[bytes] | None
    trailers: Fields | None
    interim: list[ResponseHead]
    early: bool


@dataclass
class Scenario:
    name: str
    request: Request
    response: Response | None
    pace: str = "free"
    reset: dict | None = None
    times: int = 1
    at_once: int = 1
    levels: list[str] = field(default_factory=lambda: ["memory", "http1", "http2"])


def request(item: dict) -> Request:
    method, path, scheme, authority, protocol, items, body, trailers, await_interim = take(
        item,
        method="",
        path="",
        scheme="http",
        authority="app.example",
        protocol=None,
        fields=[],
        body=None,
        trailers=None,
        await_interim=False,
    )
    head = RequestHead(
        octets(method), octets(path), octets(authority), octets(scheme), protocol and octets(protocol), fields(items)
    )
    return Request(head, pieces(body), fields(trailers), await_interim)


def response(item: dict | None) -> Response | None:
    if item is None:
        return None
    status, items, body, trailers, interim, early = take(
        item, status=0, fields=[], body=None, trailers=None, interim=[], early=False
    )
    interims = [ResponseHead(*take(one, status=0, fields=None)) for one in interim]
    for one in interims:
        one.fields = fields(one.fields or [])
    return Response(ResponseHead(status, fields(items)), pieces(body), fields(trailers), interims, early)


SCENARIOS = Path(__file__).with_name("scenarios.json")


def load(path: Path = SCENARIOS) -> list[Scenario]:
    version, items = take(json.loads(path.read_text()), format=0, scenarios=[])
    if version != 1:
        raise ValueError(f"{path}: format {version}, not 1")
    result = []
    for item in items:
        name, ask, answer, pace, reset, times, at_once, only, _why = take(
            item,
            name="",
            request={},
            response=None,
            pace="free",
            reset=None,
            times=1,
            at_once=1,
            only=["memory", "http1", "http2"],
            why=None,
        )
        result.append(Scenario(name, request(ask), response(answer), pace, reset, times, at_once, only))
    return result


@dataclass
class Seen:
    """What one end of an exchange got from the other one."""

    head: RequestHead | ResponseHead | None = None
    interim: list[ResponseHead] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields | None = None
    ended: bool = False
    reset: Reset | None = None


class Play:
    """One exchange of a scenario, both ends of it. What the two saw is in `origin` and `client` afterwards."""

    def __init__(self, scenario: Scenario, copy: int | None = None):
        self.scenario = scenario
        self.copy = copy
        self.origin = Seen()
        self.client = Seen()
        self.changed = asyncio.Condition()
        self.alternate = scenario.pace == "alternate"
        self.paced = self.alternate or scenario.pace == "each"

    async def until(self, condition) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    async def watch(self, exchange: Exchange, seen: Seen) -> None:
        """Takes everything from the other end, until nothing more can come."""
        resets = self.scenario.reset
        waits_for_reset = resets is not None and resets["by"] == ("client" if seen is self.origin else "origin")
        while True:
            event = await exchange.receive()
            async with self.changed:
                if isinstance(event, ResponseHead) and event.status < 200:
                    seen.interim.append(event)
                elif isinstance(event, ResponseHead):
                    seen.head = event
                elif isinstance(event, Data):
                    seen.body += event.payload
                elif isinstance(event, End):
                    seen.ended = True
                    seen.trailers = event.trailers
                elif isinstance(event, Reset):
                    seen.reset = event
                self.changed.notify_all()
            if seen.reset is not None or (seen.ended and not waits_for_reset):
                return

    async def send_body(self, exchange: Exchange, body: list[bytes], arrived: Seen, other: list[bytes], back: Seen | None):
        """Sends the pieces as the pace allows. `back` is the other direction, where it has to keep up: its piece i - 1
        goes before piece i of a request, its piece i before piece i of a response."""
        ahead = 0 if back is self.client else 1
        sent = 0
        for index, piece in enumerate(body):
            if self.paced:
                await self.until(lambda: len(arrived.body) >= sent or arrived.reset)
            if self.alternate:
                least = sum(map(len, other[: index + ahead]))
                await self.until(lambda: len(back.body) >= least or back.reset)
            await exchange.send(piece)
            sent += len(piece)

    async def everything_arrived(self) -> None:
        ask, answer = self.scenario.request, self.scenario.response
        asked = sum(map(len, ask.body or []))
        answered = sum(map(len, (answer and answer.body) or []))
        await self.until(lambda: len(self.origin.body) >= asked)
        await self.until(lambda: answer is None or (self.client.head and len(self.client.body) >= answered))

    async def end(self, exchange: Exchange, side: str, trailers: Fields | None) -> None:
        reset = self.scenario.reset
        if reset and reset["by"] == side:
            await self.everything_arrived()
            await exchange.reset(reset["code"])
        else:
            await exchange.finish(trailers)

    async def run_client(self, client) -> None:
        ask, answer = self.scenario.request, self.scenario.response
        bodiless = ask.body is None and ask.trailers is None
        head = ask.head
        if self.copy is not None:
            head = replace(head, fields=[*head.fields, (COPY, b"%d" % self.copy)])
        exchange = await client.open(head, end=bodiless)
        watching = asyncio.ensure_future(self.watch(exchange, self.client))
        try:
            if ask.await_interim:
                await self.until(lambda: self.client.interim)
            if self.alternate:
                await self.until(lambda: self.client.head)
            await self.send_body(exchange, ask.body or [], self.origin, (answer and answer.body) or [], self.client)
            await self.end(exchange, "client", ask.trailers)
        except Gone:
            pass
        if self.scenario.reset and self.scenario.reset["by"] == "client":
            watching.cancel()
        else:
            await watching

    async def run_origin(self, head: RequestHead, exchange: Exchange, may_answer: asyncio.Event) -> None:
        self.origin.head = head
        ask, answer = self.scenario.request, self.scenario.response
        watching = asyncio.ensure_future(self.watch(exchange, self.origin))
        try:
            await may_answer.wait()
            if ask.await_interim:
                await self.send_interim(exchange)
            if answer is not None:
                if not (answer.early or self.alternate):
                    await self.until(lambda: self.origin.ended or self.origin.reset)
                await self.answer(exchange, ask, answer)
            elif self.scenario.reset["by"] == "origin":
                await self.end(exchange, "origin", None)
        except Gone:
            pass
        if not (self.scenario.reset and self.scenario.reset["by"] == "origin"):
            await watching
        else:
            watching.cancel()

    async def send_interim(self, exchange: Exchange) -> None:
        for interim in self.scenario.response.interim:
            await exchange.respond(interim)

    async def answer(self, exchange: Exchange, ask: Request, answer: Response) -> None:
        if not ask.await_interim:
            await self.send_interim(exchange)
        resets = self.scenario.reset is not None
        bodiless = answer.body is None and answer.trailers is None and not resets
        await exchange.respond(answer.head, end=bodiless)
        await self.send_body(exchange, answer.body or [], self.client, ask.body or [], self.origin)
        if resets and self.scenario.reset["by"] == "client":
            return
        # Envoy would give up a request whose response is over.
        await self.until(lambda: self.origin.ended or self.origin.reset)
        await self.end(exchange, "origin", answer.trailers)


async def play(scenario: Scenario, client, origin) -> list[Play]:
    """Plays all `times` and copies; `client.open` begins an exchange, which arrives in `origin.accepted`."""
    done = []
    for _ in range(scenario.times):
        copies = scenario.at_once > 1
        plays = [Play(scenario, index if copies else None) for index in range(scenario.at_once)]
        may_answer = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for one in plays:
                group.create_task(one.run_client(client.beside() if copies else client))
            for _ in plays:
                head, exchange = await origin.accepted.get()
                one = plays[copy_of(head) if copies else 0]
                group.create_task(one.run_origin(head, exchange, may_answer))
            may_answer.set()
        done += plays
    return done


def copy_of(head: RequestHead) -> int:
    """Which copy a request is, of those at once; takes the mark away."""
    mark = next(pair for pair in head.fields if pair[0] == COPY)
    head.fields.remove(mark)
    return int(mark[1])
