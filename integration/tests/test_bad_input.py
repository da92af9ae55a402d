"""What a far Envoy does with what it should never get: it says why, counts it, and nobody else notices."""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import struct
import time

import cbor2
import pytest

from pair import ROOT
from plain_peer import (
    ACK,
    BINARY,
    CLOSE,
    CREDIT,
    DATA,
    GOAWAY,
    PING,
    PONG,
    REQUEST,
    SETTINGS,
    TIMEOUT,
    TRAILERS,
    PlainPeer,
    Refused,
    frame,
    handshake_fields,
    message,
    request,
)

MIB = 1 << 20


FAR = ["far", "far-one-listener", "far-http-filter"]


@pytest.fixture(scope="module", params=FAR)
def bad(request, new_shared_pair, web_origins):
    """A pair whose near end goes on undisturbed, with each of the configurations of the far end."""
    return new_shared_pair(f"127.0.0.1:{web_origins[0]}", far_config=ROOT / f"envoy/{request.param}.yaml")


@pytest.fixture(autouse=True)
def nobody_else_notices(bad):
    """The near Envoy's WebSocket lives on, and requests pass on it, before and after."""
    before = bad.near.stats()["cluster.far.upstream_cx_total"]
    yield
    connection = http.client.HTTPConnection("127.0.0.1", bad.near_port, timeout=TIMEOUT)
    connection.request("GET", "/hello")
    assert connection.getresponse().read() == b"hello\n"
    assert bad.near.stats()["cluster.far.upstream_cx_total"] == before


def counter(envoy, name: str) -> int:
    """A metric of the filter, as Prometheus gets it."""
    text = envoy.admin("/stats/prometheus")
    found = re.search(rf"^(?:envoy_)?(?:wasmcustom_)?wsferry_{name}(?:{{[^}}]*}})? (\d+)$", text, re.MULTILINE)
    assert found, f"no metric wsferry_{name}"
    return int(found[1])


def wait_for_counter(envoy, name: str, value: int) -> None:
    """The filter hands its counts over once a second."""
    deadline = time.monotonic() + TIMEOUT
    while (now := counter(envoy, name)) < value:
        assert time.monotonic() < deadline, f"wsferry_{name} is {now}, not {value}"
        time.sleep(0.05)
    assert now == value


# Handshakes


@pytest.mark.parametrize(
    "changes, status, label",
    [
        pytest.param({"upgrade": None, "connection": None}, 426, "upgrade", id="no_upgrade"),
        pytest.param({"upgrade": "h2c"}, 426, "upgrade", id="other_upgrade"),
        pytest.param({"sec_websocket_version": "8"}, 426, "version", id="old_version"),
        pytest.param({"sec_websocket_version": None}, 426, "version", id="no_version"),
        pytest.param({"sec_websocket_key": None}, 400, "key", id="no_key"),
        pytest.param({"sec_websocket_key": "short"}, 400, "key", id="bad_key"),
        pytest.param({"sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, 400, "key", id="long_key"),
        pytest.param({"sec_websocket_protocol": None}, 400, "subprotocol", id="no_subprotocol"),
        pytest.param({"sec_websocket_protocol": "wsferry.v2, chat"}, 400, "subprotocol", id="other_subprotocol"),
        pytest.param({"origin": "https://evil.example"}, 403, "origin", id="browser_from_elsewhere"),
    ],
)
def test_refused_handshake(bad, changes, status, label):
    before = counter(bad.far, f"handshakes_refused_{label}")
    with pytest.raises(Refused) as caught:
        PlainPeer(bad.far_port, **changes)
    assert caught.value.status == status
    if label == "version":
        assert "\r\nsec-websocket-version: 13" in caught.value.head
    wait_for_counter(bad.far, f"handshakes_refused_{label}", before + 1)


def raw_answer(port: int, request: bytes) -> bytes:
    """What comes back until the far end closes or says no more."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# A whole connection: the client's preface, its settings, and GET / of authority "a".
HTTP2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + bytes.fromhex("000000040000000000")
    + bytes.fromhex("000006010500000001 828684 410161")
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"POST /wsferry HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(HTTP2) + HTTP2, id="post"),
        pytest.param(b"CONNECT /wsferry HTTP/1.1\r\nhost: a\r\n\r\n" + HTTP2, id="connect_path"),
        pytest.param(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n" + HTTP2, id="connect"),
        pytest.param(HTTP2, id="http2"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", id="another_path"),
        pytest.param(
            "\r\n".join(
                ["POST /wsferry HTTP/1.1", *(f"{n}: {v}" for n, v in handshake_fields().items()), "", ""]
            ).encode()
            + HTTP2,
            id="post_with_upgrade",
        ),
    ],
)
def test_no_way_around_the_handshake(bad, text):
    """Nothing but what is in a WebSocket becomes a request behind the filter."""
    before = bad.far.stats()["http.inner.downstream_rq_total"]
    answer = raw_answer(bad.far_port, text)
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer) or answer == b"", answer
    assert bad.far.stats()["http.inner.downstream_rq_total"] == before


def test_a_client_that_hangs_up_before_it_has_asked(bad):
    """As a load balancer that looks whether the port is open. It isn't kept until the time for the handshake is over."""
    for begun in (b"", b"GET /wsferry HTTP/1.1\r\nhost: a\r\n"):
        with socket.create_connection(("127.0.0.1", bad.far_port), timeout=TIMEOUT / 2) as connection:
            connection.sendall(begun)
            connection.shutdown(socket.SHUT_WR)
            # Envoy answers with 400 where it has parsed the request.
            while connection.recv(65536):
                pass


CROWD = 1500


def test_a_crowd_that_leaves_at_once(bad):
    """Envoy ends what the filter ends from within each other: a thousand at a time exhausted the stack of the VM, and so
    ended the WebSockets of all."""
    crowd = [PlainPeer(bad.far_port).socket for _ in range(CROWD)]
    for one in crowd:
        one.sendall(frame(CLOSE, struct.pack("!H", 1000)))
    for one in crowd:
        while one.recv(65536):
            pass
        one.close()


# Frames and messages


def nested(depth: int):
    return [nested(depth - 1)] if depth else 0


BOMB = [b"x", "v" * 4000] + [0] * 250
CASES = {
    "reserved_bits": (frame(BINARY, b"", reserved=4), 1002),
    "reserved_opcode": (frame(3, b""), 1002),
    "reserved_control_opcode": (frame(11, b""), 1002, "reserved_opcode"),
    "text_frame": (frame(1, b"hello"), 1003),
    "unmasked_frame": (frame(BINARY, cbor2.dumps([7]), mask=False), 1002),
    "fragmented_control": (frame(PING, b"", fin=False), 1002),
    "control_too_long": (frame(PING, bytes(126)), 1002),
    "payload_length": (b"\x82\xff" + struct.pack("!Q", 1 << 63) + bytes(4), 1002),
    "fragmentation": (frame(0, b""), 1002),
    "interrupted_fragments": (frame(BINARY, b"\x81", fin=False) + frame(BINARY, b"\x07"), 1002, "fragmentation"),
    "close_frame": (frame(CLOSE, b"\x03"), 1002),
    "close_code_1005": (frame(CLOSE, struct.pack("!H", 1005)), 1002, "close_frame"),
    "message_too_big": (b"\x82\xff" + struct.pack("!Q", MIB + 1) + bytes(4), 1009),
    "message_too_big_in_fragments": (
        # [64, h'…'], of a type that is skipped: nothing but its length is wrong.
        frame(BINARY, b"\x82\x18\x40\x5a\x00\x0f\xff\xf8" + bytes(MIB - 8), fin=False)
        + b"\x80\xfe"
        + struct.pack("!H", 1000)
        + bytes(4),
        1009,
        "message_too_big",
    ),
    "cbor_malformed": (frame(BINARY, b"\xff"), 1007),
    "cbor_cut_off": (frame(BINARY, cbor2.dumps(request(0, b"/"))[:-1]), 1007, "cbor_malformed"),
    "cbor_indefinite": (frame(BINARY, b"\x9f\x07\xff"), 1007, None),
    "cbor_huge_length": (frame(BINARY, b"\x9b" + bytes([255] * 8)), 1007, None),
    "cbor_nested": (message(nested(200)), 1007, None),
    "message_form": (message(0), 1007),
    "message_type": (message([20]), 1007),
    "bad_reference": (message([0, 0, True, 0, 0, b"a", b"/", [5]]), 1007),
    "bad_name_reference": (message([0, 0, True, 0, 0, b"a", b"/", [-1, b"v"]]), 1007, "bad_reference"),
    "entry_too_big": (message([0, 0, True, 0, 0, b"a", b"/", ["x", "v" * 9000]]), 1007),
    "invalid_field": (message(request(0, b"/", [(b"X-Upper", b"1")])), 1007),
    "invalid_value": (message(request(0, b"/", [(b"x", b"a\r\nb: c")])), 1007, "invalid_field"),
    "header_list_too_big": (message([0, 0, True, 0, 0, b"a", b"/", BOMB]), 1008),
    "too_many_fields": (message(request(0, b"/", [(b"x", b"")] * 300)), 1008, "header_list_too_big"),
    "unknown_stream": (message([DATA, 7, True, b"x"]), 1002),
    "stream_in_use": (message(request(0, b"/slow?seconds=1", end=False), request(0, b"/hello")), 1002),
    "stream_state": (
        message(request(0, b"/slow?seconds=1", [(b"content-length", b"0")]), [DATA, 0, True, b"x"]),
        1002,
    ),
    "trailers_after_end": (message(request(0, b"/slow?seconds=1"), [TRAILERS, 0, []]), 1002, "stream_state"),
    "invalid_credit": (message([CREDIT, -1, 0]), 1002),
    "credit_overflow": (message([CREDIT, -1, (1 << 31) - 1]), 1002, "invalid_credit"),
    "response_from_a_near_end": (message([1, 0, True, 200, []]), 1002, "unknown_stream"),
}


@pytest.mark.parametrize("goaways, end", [(1, (1001, "")), (17, (1008, "excessive_load"))])
def test_after_its_goaway_a_peer_is_answered(bad, goaways, end):
    """Although no request of it is open, and none will come."""
    with PlainPeer(bad.far_port) as peer:
        peer.send(message([SETTINGS, {}], *[[GOAWAY, None, 0]] * goaways))
        if goaways == 1:
            peer.send(frame(PING, b"still there?"))
            while peer.frame() != (PONG, b"still there?"):
                pass
            peer.send(frame(CLOSE, struct.pack("!H", 1001)))
        assert peer.closed() == end


@pytest.mark.parametrize("name", CASES)
def test_bad_message_closes_its_websocket(bad, name):
    data, code, *label = CASES[name]
    label = label[0] if label else name
    before = label and counter(bad.far, f"protocol_errors_{label}")
    with PlainPeer(bad.far_port) as peer:
        peer.send(data)
        got, reason = peer.closed()
        assert got == code, reason
        if label:
            assert label in reason
    if label:
        wait_for_counter(bad.far, f"protocol_errors_{label}", before + 1)


def test_far_end_does_not_wait_long_for_an_answer_to_its_close(bad):
    with PlainPeer(bad.far_port) as peer:
        peer.send(message([DATA, 7, True, b"x"]))
        peer.closed()
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while True:
                peer.more()
        assert time.monotonic() - begun < 5


def test_window_overrun(new_pair):
    """An upload that ignores credit while the application doesn't read."""
    with socket.create_server(("127.0.0.1", 0)) as application:
        pair = new_pair(f"127.0.0.1:{application.getsockname()[1]}")
        with PlainPeer(pair.far_port) as peer:
            peer.send(message(request(0, b"/", [(b"content-length", b"%d" % (64 * MIB))], end=False)))
            assert next(peer.messages())[0] == SETTINGS
            peer.send(message([ACK]))
            piece = message([DATA, 0, False, bytes(MIB - 100)])
            try:
                for _ in range(60):
                    peer.send(piece)
            except OSError:
                pass
            assert peer.closed() == (1002, "window_overrun")


def test_small_messages_that_stand_for_large_lists(bad):
    """10,000 requests of 90 KB each in 200 KB: a VM without memory would end, and everybody's WebSockets with it."""
    before = bad.far.stats()["wasm.wsferry_far.vm_reload_success"]
    with PlainPeer(bad.far_port) as peer:
        value = "x" * 8_000
        entering = [REQUEST, 0, True, 0, 0, b"app.example", b"/hello", ["x-large", value]]
        refer = [[REQUEST, stream, True, 0, 0, b"a", b"/", [0] * 11] for stream in range(1, 10_001)]
        try:
            peer.send(message(entering))
            peer.send(message(*refer))
        except OSError:
            pass
        assert peer.closed() == (1008, "excessive_load")
    assert bad.far.stats()["wasm.wsferry_far.vm_reload_success"] == before


def test_unknown_types_from_64_are_skipped(bad):
    with PlainPeer(bad.far_port) as peer:
        peer.send(message([64], [1000, {"a": [1, 2]}, b"x"]))
        status, fields, body = peer.get(0, b"/hello")
    assert (status, body) == (200, b"hello\n")
    assert (b"content-type", b"text/plain") in fields


def test_plain_peer_makes_requests(bad):
    """The wire protocol, from a client that knows nothing but CBOR and WebSocket; with every split of a message."""
    whole = message(request(0, b"/hello", [(b"x-one", b"1"), (b"x-two", b"\xff")]))
    with PlainPeer(bad.far_port) as peer:
        assert "sec-websocket-protocol: wsferry.v1" in peer.head
        for byte in whole:
            peer.send(bytes([byte]))
        body = b""
        for item in peer.messages():
            if item[0] == DATA:
                body += item[3]
                if item[2]:
                    break
            elif item[0] == 1:
                peer.table.read(item[4])
        assert body == b"hello\n"
        for stream in range(1, 20):
            status, fields, body = peer.get(stream, b"/hello")
            assert (status, body) == (200, b"hello\n")
            assert (b"content-length", b"6") in fields
        peer.send(frame(CLOSE, struct.pack("!H", 1000)))
        assert peer.closed()[0] == 1000


def test_ping_is_answered(bad):
    with PlainPeer(bad.far_port) as peer:
        peer.send(frame(PING, b"are you there"))
        while True:
            opcode, payload = peer.frame()
            if opcode == PING:
                peer.send(frame(10, payload))
            elif opcode == 10:
                assert payload == b"are you there"
                break


def test_garbage_costs_nothing(bad):
    """300 WebSockets with random frames, of random bytes and of damaged requests: memory stays."""
    dice = random.Random(20250101)
    sound = cbor2.dumps(request(0, b"/hello", [(b"x-%d" % n, b"value") for n in range(20)]))

    def garbage() -> bytes:
        if dice.random() < 0.5:
            return frame(BINARY, os.urandom(dice.randrange(1, 2000)))
        damaged = bytearray(sound)
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        return frame(BINARY, bytes(damaged))

    def round_of(count: int) -> None:
        for _ in range(count):
            with PlainPeer(bad.far_port) as peer:
                try:
                    peer.send(garbage() + garbage())
                except ConnectionError:
                    pass

    round_of(50)
    before = bad.far.memory()
    round_of(300)
    assert bad.far.memory() - before < 8 * MIB
