"""Another receiver of wsferry.v1, written from PROTOCOL.md alone with cbor2, reads the test vectors: so the document
says enough, and the vectors are right for others too."""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate

import cbor2
import pytest
from cbor2 import CBORTag

from pair import ROOT

METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"]
SCHEMES = ["http", "https"]
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
MAX_WINDOW = 2**31 - 1
CLOSE = {  # §11
    "cbor_malformed": 1007,
    "message_form": 1007,
    "message_type": 1007,
    "bad_reference": 1007,
    "entry_too_big": 1007,
    "invalid_field": 1007,
    "header_list_too_big": 1008,
    "unknown_stream": 1002,
    "stream_in_use": 1002,
    "stream_state": 1002,
    "window_overrun": 1002,
    "invalid_credit": 1002,
    "invalid_setting": 1002,
}


class Refused(Exception):
    def __init__(self, label: str):
        self.label = label


def need(condition: object, label: str = "message_form") -> None:
    if not condition:
        raise Refused(label)


def uint(item: object, most: int = 2**64 - 1) -> int:
    need(type(item) is int and 0 <= item <= most)
    return item


def items_of(payload: bytes) -> list:
    """§3: the CBOR sequence of a WebSocket message."""
    stream = io.BytesIO(payload)
    keep = {tag: (lambda value, _immutable, tag=tag: CBORTag(tag, value)) for tag in (0, 1, 2, 3, 4, 5, 21, 37)}
    decoder = cbor2.CBORDecoder(
        stream, semantic_decoders=keep, max_depth=16, allow_indefinite=False, allow_duplicate_keys=False, read_size=1
    )
    items = []
    try:
        while stream.tell() < len(payload):
            items.append(decoder.decode())
    except cbor2.CBORDecodeError as error:
        raise Refused("cbor_malformed") from error
    need(all(depth(item) <= 4 for item in items), "cbor_malformed")
    return items


def depth(item: object) -> int:
    if isinstance(item, CBORTag):
        return 1 + depth(item.value)
    if isinstance(item, (list, tuple)):
        return 1 + max(map(depth, item), default=0)
    if hasattr(item, "items"):
        return 1 + max((max(depth(key), depth(value)) for key, value in item.items()), default=0)
    return 0


@dataclass
class Tables:
    """§6: what one direction remembers."""

    entries: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)  # by slot, oldest first
    entered: int = 0
    names: dict[int, bytes] = field(default_factory=dict)
    learned: int = 0

    def enter(self, name: bytes, value: bytes) -> None:
        charge = len(name) + len(value) + 32
        need(charge <= 8192, "entry_too_big")
        while len(self.entries) == 256 or self.charged() + charge > 65536:
            del self.entries[next(iter(self.entries))]
        self.entries[self.entered % 256] = (name, value)
        self.entered += 1

    def charged(self) -> int:
        return sum(len(name) + len(value) + 32 for name, value in self.entries.values())

    def entry(self, slot: int) -> tuple[bytes, bytes]:
        need(slot in self.entries, "bad_reference")
        return self.entries[slot]

    def learn(self, name: bytes) -> None:
        need(len(name) <= 64, "entry_too_big")
        self.names[self.learned % 256] = name
        self.learned += 1


class HeaderList:
    """§5: one header list, counted as §12 says."""

    def __init__(self, tables: Tables):
        self.tables = tables
        self.bytes = self.count = 0

    def counted(self, name: bytes, value: bytes) -> bytes:
        need(not re.search(rb"[\0\r\n]", value), "invalid_field")
        need(max(len(name), len(value)) <= 65536, "header_list_too_big")
        if value or not name.startswith(b":"):
            self.count += 1
            self.bytes += len(name) + len(value) + 32
            need(self.count <= 256 and self.bytes <= 96 * 1024, "header_list_too_big")
        return value

    def number_or_text(self, name: bytes, item: object, known: list[str]) -> bytes:
        if type(item) is int:
            need(0 <= item < len(known))
            return self.counted(name, known[item].encode())
        need(isinstance(item, str))
        return self.counted(name, item.encode())

    def pseudo(self, name: bytes, item: object) -> bytes:
        suffix = b""
        if name == b":path" and isinstance(item, (list, tuple)):
            need(len(item) == 2 and isinstance(item[1], bytes) and not isinstance(item[0], bytes))
            item, suffix = item
        if isinstance(item, bytes):
            return self.counted(name, item)
        if isinstance(item, str):
            value = self.counted(name, item.encode() + suffix)
            if item:
                self.tables.enter(name, item.encode())
            return value
        entry_name, value = self.tables.entry(uint(item))
        need(entry_name == name, "bad_reference")
        return self.counted(name, value + suffix)

    def fields(self, items: object) -> list:
        need(isinstance(items, (list, tuple)))
        rest = iter(items)
        fields = []
        for item in rest:
            if type(item) is int and item >= 0:
                name, value = self.tables.entry(item)
                need(not name.startswith(b":"), "bad_reference")
                fields.append((name, self.counted(name, value), False))
                continue
            name = self.name(item)
            missing = object()
            item = next(rest, missing)
            need(item is not missing)
            enters = isinstance(item, str) or (isinstance(item, (list, tuple)) and len(item) == 1)
            if isinstance(item, (str, bytes)):
                value = item.encode() if isinstance(item, str) else item
            elif is_packed(item):
                value = packed(item.value)
            else:
                value = typed(item[0] if enters else item)
            self.counted(name, value)
            if enters:
                self.tables.enter(name, value)
            fields.append((name, value, isinstance(item, bytes) or is_packed(item)))
        return fields

    def name(self, item: object) -> bytes:
        if type(item) is int:
            need(-1 - item in self.tables.names, "bad_reference")
            return self.tables.names[-1 - item]
        need(isinstance(item, (str, bytes)))
        name = item.encode() if isinstance(item, str) else item
        need(TOKEN.fullmatch(name) and name == name.lower(), "invalid_field")
        if isinstance(item, str):
            self.tables.learn(name)
        return name


def token(value: bytes) -> bytes:
    need(TOKEN.fullmatch(value), "invalid_field")
    return value


def is_packed(item: object) -> bool:
    return isinstance(item, CBORTag) and item.tag == 21


def packed(pieces: object) -> bytes:
    need(isinstance(pieces, (list, tuple)))
    need(all(isinstance(piece, (str, bytes)) for piece in pieces))
    encode = base64.urlsafe_b64encode
    return b"".join(
        piece.encode() if isinstance(piece, str) else encode(piece).rstrip(b"=") for piece in pieces
    )


def typed(item: object) -> bytes:
    if isinstance(item, CBORTag) and item.tag == 1:
        return formatdate(uint(item.value, 253402300799), usegmt=True).encode()
    if isinstance(item, CBORTag) and item.tag == 37:
        need(isinstance(item.value, bytes) and len(item.value) == 16)
        return str(uuid.UUID(bytes=item.value)).encode()
    return str(uint(item, 2**63 - 1)).encode()


def message(item: object, tables: Tables) -> dict | None:
    """§4: what one message says; None for a type that is skipped."""
    need(isinstance(item, (list, tuple)) and item)
    kind = uint(item[0])
    if kind >= 64:
        return None
    lengths = {0: (8, 9), 1: (5,), 2: (4,), 3: (3,), 4: (3,), 5: (3,), 6: (2,), 7: (1,), 8: (3,), 9: (2,)}
    need(kind in lengths, "message_type")
    need(len(item) in lengths[kind])
    headers = HeaderList(tables)
    said: dict = {}
    if kind in (0, 1, 2, 3, 4):
        said["stream"] = uint(item[1], 65535)
    if kind in (0, 1, 2):
        need(isinstance(item[2], bool))
        said["end"] = item[2]
    if kind == 0:
        said["method"] = token(headers.number_or_text(b":method", item[3], METHODS))
        said["scheme"] = headers.number_or_text(b":scheme", item[4], SCHEMES)
        said["authority"] = headers.pseudo(b":authority", item[5])
        said["path"] = headers.pseudo(b":path", item[6])
        said["fields"] = headers.fields(item[7])
        if len(item) == 9:
            need(isinstance(item[8], str))
            said["protocol"] = token(headers.counted(b":protocol", item[8].encode()))
    elif kind == 1:
        said["status"] = uint(item[3], 999)
        need(item[3] >= 100)
        headers.counted(b":status", b"200")
        said["fields"] = headers.fields(item[4])
    elif kind == 2:
        need(isinstance(item[3], bytes))
        said["payload"] = item[3]
    elif kind == 3:
        said["fields"] = headers.fields(item[2])
    elif kind == 4:
        said["code"] = uint(item[2], 2**32 - 1)
    elif kind == 5:
        said["stream"] = None if type(item[1]) is int and item[1] == -1 else uint(item[1], 65535)
        said["bytes"] = uint(item[2])
        need(1 <= said["bytes"] <= MAX_WINDOW, "invalid_credit")
    elif kind == 6:
        need(hasattr(item[1], "items") and len(item[1]) <= 32)
        pairs = [[uint(key), uint(value, 2**32 - 1)] for key, value in item[1].items()]
        return {"settings": [pair for pair in pairs if pair[0] <= 65535 and pair[0] not in (1, 5)]}
    elif kind == 8:
        said["last"] = None if item[1] is None else uint(item[1], 65535)
        said["code"] = uint(item[2], 2**32 - 1)
    elif kind == 9:
        need(isinstance(item[1], bytes))
        return {"raw": item[1]}
    names = ["request", "response", "data", "trailers", "reset", "credit", "settings", "ack", "goaway"]
    return {names[kind]: said}


class Far:
    """§7 to §9: what far keeps of the streams and of its windows, as far as near's messages tell."""

    def __init__(self, reversed_: bool):
        self.reversed = reversed_
        self.open: dict[int, dict] = {}
        self.used: set[int] = set()
        self.window = 65535  # what near may send
        self.send_window = 65535
        self.connect_protocol = 0

    def take(self, said: dict) -> None:
        ((kind, of),) = said.items()
        if kind == "raw":
            need(self.reversed, "message_type")
            return
        # The vectors have no messages of near behind far's first request.
        need(not self.reversed, "stream_state")
        if kind == "settings":
            for key, value in of:
                most = {2: 1, 4: MAX_WINDOW, 8: 1}.get(key, 2**32 - 1)
                need(value <= most, "invalid_setting")
                if key == 8:
                    need(value >= self.connect_protocol, "invalid_setting")
                    self.connect_protocol = value
        elif kind == "request":
            need(of["stream"] not in self.open, "stream_in_use")
            self.used.add(of["stream"])
            self.open[of["stream"]] = {"ended": of["end"], "window": 65535}
        elif kind == "credit" and of["stream"] is None:
            self.send_window += of["bytes"]
            need(self.send_window <= MAX_WINDOW, "invalid_credit")
        elif kind in ("response", "data", "trailers", "reset", "credit"):
            need(of["stream"] in self.used, "unknown_stream")
            self.on_stream(kind, of, self.open.get(of["stream"]))

    def on_stream(self, kind: str, of: dict, stream: dict | None) -> None:
        if kind == "data":
            self.window -= len(of["payload"])
            need(self.window >= 0, "window_overrun")
        if stream is None:
            return
        if kind == "reset":
            del self.open[of["stream"]]
        elif kind in ("data", "trailers", "response"):
            need(kind != "response" and not stream["ended"], "stream_state")
            stream["window"] -= len(of.get("payload", b""))
            need(stream["window"] >= 0, "window_overrun")
            stream["ended"] = of.get("end", True)


def unhex(text: str) -> bytes:
    """§15: hexadecimal with spaces, `XX*N`."""
    words = (word.partition("*") for word in text.split())
    return b"".join(bytes.fromhex(digits) * int(times or 1) for digits, _, times in words)


def as_bytes(value: str | dict) -> bytes:
    return value.encode() if isinstance(value, str) else unhex(value["hex"])


def expected(said: dict) -> dict:
    """A vector's meaning in the terms of `message`."""
    ((kind, of),) = said.items()
    if kind == "settings":
        return said
    if kind == "raw":
        return {kind: as_bytes(of)}
    texts = ("method", "scheme", "authority", "path", "protocol", "payload")
    of = {key: as_bytes(value) if key in texts else value for key, value in of.items()}
    if "fields" in of:
        of["fields"] = [(as_bytes(line[0]), as_bytes(line[1]), len(line) == 3) for line in of["fields"]]
    return {kind: of}


def cases() -> list:
    files = sorted((ROOT / "filter/vectors").glob("*.json"))
    assert files
    return [
        pytest.param(case, id=f"{path.stem}/{case['name']}")
        for path in files
        for case in json.loads(path.read_text())["cases"]
    ]


@pytest.mark.parametrize("case", cases())
def test_vector(case):
    tables = {"near_to_far": Tables(), "far_to_near": Tables()}
    far = Far(case.get("reversed", False))
    for step in case["steps"]:
        payload = unhex(step["hex"])
        said = []
        try:
            for item in items_of(payload):
                one = message(item, tables[step["direction"]])
                if one is not None:
                    said.append(one)
                    if step["direction"] == "near_to_far":
                        far.take(one)
        except Refused as refused:
            assert "error" in step, f"refused as {refused.label}"
            error = step["error"]
            assert CLOSE[refused.label] == error["close"]
            # cbor2 finds text that isn't UTF-8 and repeated keys together with what is malformed.
            form = {"cbor_malformed", "message_form"}
            assert refused.label == error["label"] or {refused.label, error["label"]} == form
        else:
            assert "error" not in step, f"isn't refused: {said}"
            assert said == [expected(one) for one in step["meaning"]]
