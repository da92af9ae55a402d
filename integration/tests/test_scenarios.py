"""Every exchange of scenarios.json through real Envoys, with HTTP/1.1 and HTTP/2 clients and origins.

Each is compared with the list, and byte for byte with what a plain HTTP/2 hop between the same Envoys delivers.
"""

from __future__ import annotations

import pytest

import scenario
from conftest import CLIENTS

# What an Envoy adds on its own, and what HTTP/1.1 needs and HTTP/2 doesn't have.
REQUEST_ADDED = {b"host", b"transfer-encoding", b"x-forwarded-proto", b"content-length"}
# An HTTP/1.1 connection ends after a response that began before its request was over.
RESPONSE_ADDED = {b"date", b"transfer-encoding", b"connection"}

SCENARIOS = scenario.load()


def cases():
    for one in SCENARIOS:
        for client in ("http1", "http2"):
            for origin in ("http1", "http2"):
                if client in one.levels and origin in one.levels:
                    yield pytest.param(one, client, origin, id=f"{one.name}-{client}-{origin}")


def without(fields, added, given):
    """`fields` without what was added; a name that was given stays."""
    names = {name for name, _ in given}
    return [pair for pair in fields if pair[0] not in added or pair[0] in names]


def by_name(fields):
    """The order of lines counts among those of a name alone (RFC 9110 section 5.3), and older Envoys put these together."""
    return sorted(fields, key=lambda pair: pair[0])


def check(play: scenario.Play) -> None:
    ask, answer, reset = play.scenario.request, play.scenario.response, play.scenario.reset
    seen = play.origin
    assert (seen.head.method, seen.head.path) == (ask.head.method, ask.head.path)
    assert seen.head.authority == ask.head.authority
    if ask.head.protocol is not None:
        assert seen.head.protocol == ask.head.protocol
    assert by_name(without(seen.head.fields, REQUEST_ADDED, ask.head.fields)) == by_name(ask.head.fields)
    assert bytes(seen.body) == b"".join(ask.body or [])
    if reset is None:
        assert seen.ended
        assert seen.trailers == (ask.trailers or None)
    elif reset["by"] == "client":
        assert seen.reset is not None

    seen = play.client
    if answer is not None:
        assert [(one.status, one.fields) for one in seen.interim] == [(one.status, one.fields) for one in answer.interim]
        assert seen.head.status == answer.head.status
        assert by_name(without(seen.head.fields, RESPONSE_ADDED, answer.head.fields)) == by_name(answer.head.fields)
        assert bytes(seen.body) == b"".join(answer.body or [])
    if reset is None:
        assert seen.ended
        assert seen.trailers == (answer.trailers or None)
    elif reset["by"] == "origin":
        assert seen.reset is not None


def exact(play: scenario.Play):
    """Everything that the two ends saw, except for what depends on the moment."""

    def head(one):
        # `connection: close` says that the request wasn't over when the response began.
        fields = [pair if pair[0] != b"date" else (b"date", b"") for pair in one.fields if pair[0] != b"connection"]
        rest = ("status", "method", "scheme", "authority", "path", "protocol")
        return [getattr(one, name, None) for name in rest], fields

    def end(seen):
        interim = [head(one) for one in seen.interim]
        return seen.head and head(seen.head), interim, bytes(seen.body), seen.trailers, seen.reset

    return end(play.origin), end(play.client)


@pytest.mark.parametrize("one, client_kind, origin_kind", list(cases()))
def test_exchange(one, client_kind, origin_kind, loop, pair, origin):
    async def run(baseline: bool):
        client = CLIENTS[client_kind](pair(origin_kind, baseline).near_port)
        try:
            return await scenario.play(one, client, origin(origin_kind))
        finally:
            await client.close()

    for kind in (False, True):
        pair(origin_kind, kind)  # started outside the loop
    plays = loop(run(baseline=False))
    for play in plays:
        check(play)
    for play, plain in zip(plays, loop(run(baseline=True)), strict=True):
        assert exact(play) == exact(plain)
