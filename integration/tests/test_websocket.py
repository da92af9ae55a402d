"""The applications' own WebSockets through the tunnel: the websockets library as client and as service."""

from __future__ import annotations

import asyncio
import os

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from endpoints import RequestHead
from endpoints.http2 import Http2Client


def open_chat(web, **options):
    url = f"ws://127.0.0.1:{web.port}/chat?room=1"
    return connect(url, subprotocols=["talk", "chat"], max_size=1 << 26, proxy=None, **options)


def test_text_binary_and_ping(loop, web):
    async def talk():
        async with open_chat(web) as chat:
            assert chat.subprotocol == "chat"
            for message in ("", "hello", "grüße 日本", b"", bytes(range(256)), os.urandom(1 << 20)):
                await chat.send(message)
                assert await chat.recv() == message
            await (await chat.ping(b"are you there"))

    loop(talk())


def test_browsers_open_websockets_over_http1(loop, web):
    """They prefer HTTP/2 where it is offered (RFC 8441), which Envoy can't translate for this application."""

    async def run():
        client = Http2Client(web.port)
        exchange = await client.open(RequestHead(b"GET", b"/hello", b"app.example"), end=True)
        assert (await exchange.receive()).status == 200
        offered = client.connection.h2.remote_settings.enable_connect_protocol
        await client.close()
        assert not offered

    loop(run())


def test_deflate_of_the_application_passes(loop, web):
    async def talk():
        async with open_chat(web, compression="deflate") as chat:
            assert [extension.name for extension in chat.protocol.extensions] == ["permessage-deflate"]
            await chat.send("a" * 100_000)
            assert await chat.recv() == "a" * 100_000

    loop(talk())


@pytest.mark.parametrize("code, reason", [(1000, "done"), (4321, "room is full")])
def test_the_service_closes(loop, web, code, reason):
    async def talk():
        async with open_chat(web) as chat:
            await chat.send(f"close {code} {reason}")
            with pytest.raises(ConnectionClosed) as caught:
                await chat.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)

    loop(talk())


def test_the_client_closes(loop, web):
    async def talk():
        chat = await open_chat(web)
        await chat.close(4000, "bye")
        assert (chat.close_code, chat.close_reason) == (4000, "bye")

    loop(talk())


def test_refused_handshake(loop, web):
    async def talk():
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{web.port}/nowhere", proxy=None)
        assert caught.value.response.status_code == 404

    loop(talk())


def test_50_at_once(loop, web):
    async def talk(number: int):
        async with open_chat(web) as chat:
            for turn in range(20):
                message = f"{number} {turn}"
                await chat.send(message)
                assert await chat.recv() == message

    async def all_of_them():
        await asyncio.gather(*(talk(number) for number in range(50)))

    loop(all_of_them(), limit=30)
