"""A near end written with a CBOR library and sockets alone, and what a far end needs: the wire protocol from outside.

Sends literals only, so that it has no table of its own to keep; reads everything that a far end may send.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import io
import os
import socket
import struct
import uuid

import cbor2

TIMEOUT = 10.0  # seconds
REQUEST, RESPONSE, DATA, TRAILERS, RESET, CREDIT, SETTINGS, ACK, GOAWAY = range(9)
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class Refused(Exception):
    """The handshake got no 101."""

    def __init__(self, status: int, head: str):
        super().__init__(head)
        self.status = status
        self.head = head


def handshake_fields(**changes: str | None) -> dict[str, str]:
    """What a handshake needs, with changes; None leaves a field out. `_` stands for `-`."""
    fields = {
        "host": "far.example",
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        "sec-websocket-protocol": "wsferry.v1",
    }
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    return {name: value for name, value in fields.items() if value is not None}


def frame(opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0, mask: bool = True) -> bytes:
    length = len(payload)
    bit = 128 if mask else 0
    head = bytes([fin << 7 | reserved << 4 | opcode])
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", length)
    if not mask:
        return head + payload
    key = os.urandom(4)
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((key * (length // 4 + 1))[:length], "big")
    return head + key + whole.to_bytes(length, "big")


def message(*items) -> bytes:
    """A WebSocket message with these wire messages, in one frame."""
    return frame(BINARY, b"".join(cbor2.dumps(item) for item in items))


def request(stream: int, path: bytes, fields=(), *, end: bool = True, method: int = 0) -> list:
    flat = [item for pair in fields for item in pair]
    return [REQUEST, stream, end, method, 0, b"app.example", path, flat]


class FieldTable:
    """The far end's: pairs by slot, and names."""

    def __init__(self):
        self.slots: list[tuple[bytes, bytes]] = []
        self.names: list[bytes] = []

    def read(self, items: list) -> list[tuple[bytes, bytes]]:
        fields = []
        items = iter(items)
        for item in items:
            if isinstance(item, int) and item >= 0:
                fields.append(self.slots[item])
                continue
            if isinstance(item, int):
                name = self.names[-1 - item]
            elif isinstance(item, str):
                name = item.encode()
                self.names.append(name)
            else:
                name = item
            value, enters = self.value(next(items))
            fields.append((name, value))
            if enters:
                self.slots.append((name, value))
        return fields

    @staticmethod
    def value(item) -> tuple[bytes, bool]:
        if isinstance(item, bytes):
            return item, False
        if isinstance(item, str):
            return item.encode(), True
        if isinstance(item, list):
            return FieldTable.value(item[0])[0], True
        if isinstance(item, uuid.UUID):
            return str(item).encode(), False
        if isinstance(item, int):
            return b"%d" % item, False
        return email.utils.format_datetime(item, usegmt=True).encode(), False


class PlainPeer:
    """One WebSocket to a far Envoy."""

    def __init__(self, port: int, **changes: str | None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.table = FieldTable()
        self.buffer = b""
        lines = ["GET /wsferry HTTP/1.1", *(f"{name}: {value}" for name, value in handshake_fields(**changes).items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.head = head.decode()
        status = int(self.head.split(" ")[1])
        if status != 101:
            raise Refused(status, self.head)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the far end has ended the connection")
        self.buffer += data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. Servers don't mask, and wsferry doesn't fragment."""
        first, second = self.take(2)
        assert first & 0xF0 == 0x80, "FIN alone"
        assert second < 128, "unmasked"
        length = second
        if length == 126:
            (length,) = struct.unpack("!H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.take(8))
        return first & 15, self.take(length)

    def messages(self):
        """Wire messages as they come, until the far end closes; answers Pings."""
        while True:
            opcode, payload = self.frame()
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                return
            elif opcode == BINARY:
                with io.BytesIO(payload) as sequence:
                    while sequence.tell() < len(payload):
                        yield cbor2.load(sequence)

    def closed(self) -> tuple[int, str]:
        """Waits for the Close frame: its code and reason. Answers Pings until then."""
        while True:
            opcode, payload = self.frame()
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def get(self, stream: int, path: bytes, fields=()) -> tuple[int, list, bytes]:
        """One request and its response: status, fields, body."""
        self.send(message(request(stream, path, fields)))
        status, head, body = 0, [], b""
        for item in self.messages():
            if item[0] == RESPONSE:
                _, number, end, status, flat = item
                head = self.table.read(flat)
                if number == stream and end:
                    return status, head, body
            elif item[0] == DATA and item[1] == stream:
                body += item[3]
                if item[2]:
                    return status, head, body
        raise ConnectionResetError("closed before the response was complete")


def read_handshake(lines) -> dict[bytes, bytes]:
    """The fields of a near end's request."""
    fields = {}
    while (line := lines.readline().strip()):
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    return fields


def answer_handshake(peer: socket.socket, lines) -> None:
    """As a far end would."""
    fields = read_handshake(lines)
    digest = hashlib.sha1(fields[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    accept = base64.b64encode(digest).decode()
    peer.sendall(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        f"sec-websocket-protocol: wsferry.v1\r\nsec-websocket-accept: {accept}\r\n\r\n".encode()
    )


def read_messages(stream) -> list:
    """What a near end's next frame has, nothing if it is no data."""
    first, second = stream.read(2)
    length = second & 127
    if length == 126:
        length = int.from_bytes(stream.read(2), "big")
    mask, payload = stream.read(4), stream.read(length)
    plain = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    items = []
    with io.BytesIO(plain) as sequence:
        while first & 15 == BINARY and sequence.tell() < length:
            items.append(cbor2.load(sequence))
    return items
