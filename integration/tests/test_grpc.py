"""gRPC through the tunnel: a grpcio client and a grpcio service."""

from __future__ import annotations

import os
import sys
import time
import uuid

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # this process forks to start Envoys, never to call gRPC

import grpc
import pytest

from adaptive import services_by_authority
from pair import ROOT

sys.path.insert(0, str(ROOT / "integration/origins"))
messages, services = grpc.protos_and_services("echo.proto")
Text = messages.Text
TIMEOUT = 10.0  # seconds


@pytest.fixture(scope="module")
def stub(web):
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{web.port}", options) as channel:
        yield services.EchoStub(channel)


def test_unary_with_metadata(stub):
    raw = bytes(range(256))
    answer, call = stub.Unary.with_call(
        Text(text="hello", blob=raw), metadata=[("x-given", "42"), ("x-raw-bin", raw)], timeout=TIMEOUT
    )
    assert answer == Text(text="hello", blob=raw)
    assert ("x-initial", "42") in [tuple(pair) for pair in call.initial_metadata()]
    trailing = dict(call.trailing_metadata())
    assert trailing["x-trailing"] == "last"
    assert trailing["x-raw-bin"] == raw


def test_unary_of_8_mib(stub):
    blob = os.urandom(8 << 20)
    assert stub.Unary(Text(blob=blob), timeout=TIMEOUT).blob == blob


def test_client_streaming(stub):
    words = [f"word{number}" for number in range(500)]
    assert stub.Collect((Text(text=word) for word in words), timeout=TIMEOUT).text == " ".join(words)


def test_server_streaming(stub):
    answers = [answer.text for answer in stub.Count(Text(text="n", count=500), timeout=TIMEOUT)]
    assert answers == [f"n {number}" for number in range(500)]


def test_bidirectional_streaming_in_lockstep(stub):
    """Each message is sent only after the answer to the one before it: nothing waits for the end."""
    answers = []

    def talk():
        for number in range(50):
            while len(answers) < number:
                time.sleep(0.001)
            yield Text(text=f"message {number}")

    for answer in stub.Talk(talk(), timeout=TIMEOUT):
        answers.append(answer.text)
    assert answers == [f"MESSAGE {number}" for number in range(50)]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_status(stub, code):
    message = "wrong: 100% naïve, 日本"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Fail(Text(text=message, count=code.value[0]), timeout=TIMEOUT)
    assert (caught.value.code(), caught.value.details()) == (code, message)


def test_unknown_method(stub, web):
    with grpc.insecure_channel(f"127.0.0.1:{web.port}") as channel:
        call = channel.unary_unary("/wsferry.demo.Echo/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def wait_until_cancelled(stub, name: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while stub.Cancelled(Text(text=name), timeout=TIMEOUT).count == 0:
        assert time.monotonic() < deadline, "the service doesn't see the cancellation"
        time.sleep(0.01)


def test_deadline(stub):
    name = str(uuid.uuid4())
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Hang(Text(text=name), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 2
    wait_until_cancelled(stub, name)


def test_cancel(stub):
    name = str(uuid.uuid4())
    call = stub.Hang.future(Text(text=name))
    # The service has the call once it answers the next one.
    stub.Unary(Text(), timeout=TIMEOUT)
    call.cancel()
    wait_until_cancelled(stub, name)


@pytest.mark.parametrize("authority", [None, "grpc.example"])
def test_whatever_the_connection_manager_decides(new_pair, web_origins, authority):
    """Plain HTTP, the WebSocket, and plain HTTP again without a far Envoy. With an authority its clusters are named after it."""
    port, _, service = web_origins
    addresses = {"grpc_origin": f"127.0.0.1:{service}", "near_config": ROOT / "envoy/near-adaptive.yaml"}
    pair = new_pair(f"127.0.0.1:{port}", start=False, **addresses)
    if authority is not None:
        services_by_authority(pair.near.config, [authority, f"127.0.0.1:{pair.near_port}"])
    pair.start()

    def call_until_most_go_to(upstream: str) -> None:
        name = f"cluster.{upstream}.upstream_rq_total"
        before, deadline = pair.near.stats().get(name, 0), time.monotonic() + TIMEOUT
        while pair.near.stats().get(name, 0) < before + 20:
            assert stub.Unary(Text(text="hello"), timeout=TIMEOUT).text == "hello"
            assert time.monotonic() < deadline

    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    options += [("grpc.default_authority", authority)] if authority else []
    with grpc.insecure_channel(f"127.0.0.1:{pair.near_port}", options) as channel:
        stub = services.EchoStub(channel)
        assert stub.Unary(Text(text="cold"), timeout=TIMEOUT).text == "cold"
        call_until_most_go_to("tunnel")
        pair.far.kill()
        call_until_most_go_to(f"direct_http2/{authority}" if authority else "direct_http2")
