"""HTTP clients and origins that do exactly as they are told, and report exactly what they get.

Both ends of an exchange have the same face, `Exchange`, over HTTP/1.1 (h11) and HTTP/2 (h2). Nothing is normalised,
joined or decoded, fields are pairs of bytes in the order in which they came.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

Fields = list[tuple[bytes, bytes]]


@dataclass
class RequestHead:
    method: bytes
    path: bytes
    authority: bytes
    scheme: bytes = b"http"
    protocol: bytes | None = None
    fields: Fields = field(default_factory=list)


@dataclass
class ResponseHead:
    """Interim (1xx) or final."""

    status: int
    fields: Fields = field(default_factory=list)


@dataclass
class Data:
    payload: bytes


@dataclass
class End:
    """The other side has ended its direction in order."""

    trailers: Fields | None = None


@dataclass
class Reset:
    """The other side, or the connection, has given the exchange up. HTTP/1.1 has no codes."""

    code: int | None = None


Event = RequestHead | ResponseHead | Data | End | Reset


class Gone(Exception):
    """The exchange was reset, so nothing can be sent any more."""


class Exchange(abc.ABC):
    """One request and its response, seen from one of its ends."""

    @abc.abstractmethod
    async def receive(self) -> Event:
        """What comes next from the other side. Data counts as consumed, for flow control, once it is returned."""

    @abc.abstractmethod
    async def respond(self, head: ResponseHead, end: bool = False) -> None:
        """Origin only: an interim or the final head; `end` says that no body and no trailers follow."""

    @abc.abstractmethod
    async def send(self, payload: bytes) -> None:
        """A piece of the body. Returns once flow control has let all of it out; raises Gone."""

    @abc.abstractmethod
    async def finish(self, trailers: Fields | None = None) -> None:
        """Ends this direction, if the head didn't; raises Gone."""

    @abc.abstractmethod
    async def reset(self, code: int) -> None:
        """Gives the exchange up: RST_STREAM, or the end of the TCP connection in HTTP/1.1."""
