"""Real clients, a pair of Envoys, real applications: what was sent, what came back, how it crossed.

Started by scripts/demo.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # this process forks to start Envoys, never to call gRPC

import grpc
from websockets.asyncio.client import connect

from endpoints import Data, RequestHead, ResponseHead
from endpoints.http1 import Http1Client
from origins.process import OriginError, nginx, python_origin
from pair import REVERSE_SINCE, Pair, PairError, envoy_version

sys.path.insert(0, str(Path(__file__).parent / "origins"))
messages, services = grpc.protos_and_services("echo.proto")

MIB = 1 << 20
AT_ONCE = 200
TIMEOUT = 60.0  # seconds
METRICS = (
    "websockets_open",
    "websockets_opened",
    "messages_in",
    "messages_out",
    "websocket_bytes_in",
    "websocket_bytes_out",
    "streams_opened",
    "streams_reset",
    "header_bytes_before",
    "header_bytes_after",
)


@dataclass
class Report:
    """The table, line by line as things happen."""

    failed: list[str] = field(default_factory=list)

    def line(self, what: str, sent: str, got: str, matched: bool, seconds: float) -> None:
        verdict = "ok" if matched else "WRONG"
        if not matched:
            self.failed.append(what)
        print(f"{what:<26} {sent:<38} {got:<48} {seconds * 1000:>7.0f} ms  {verdict}", flush=True)


@dataclass
class Demo:
    pair: Pair
    files: Path
    report: Report

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.pair.near_port}"

    def curl(self, path: str, *arguments) -> bytes:
        command = ["curl", "--silent", "--show-error", "--fail", "--max-time", str(TIMEOUT), *arguments, self.url + path]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    def get_and_post(self) -> None:
        text = "a file of nginx\n"
        (self.files / "greeting.txt").write_text(text)
        begun = time.monotonic()
        got = self.curl("/greeting.txt").decode()
        self.report.line("GET, HTTP/1.1", "/greeting.txt", repr(got), got == text, time.monotonic() - begun)
        begun = time.monotonic()
        got = self.curl("/greeting.txt", "--http2-prior-knowledge").decode()
        self.report.line("GET, HTTP/2", "/greeting.txt", repr(got), got == text, time.monotonic() - begun)
        body = b"name=ferry&cars=12"
        begun = time.monotonic()
        got = self.curl("/checksum", "--data-binary", body.decode()).decode().split()
        wanted = [hashlib.sha256(body).hexdigest(), str(len(body))]
        self.report.line("POST", body.decode(), f"sha256 {got[0][:16]}…", got == wanted, time.monotonic() - begun)

    def bulk(self) -> None:
        content = os.urandom(64 * MIB)
        digest = hashlib.sha256(content).hexdigest()
        path = self.files / "large.bin"
        path.write_bytes(content)
        begun = time.monotonic()
        got = hashlib.sha256(self.curl("/large.bin")).hexdigest()
        seconds = time.monotonic() - begun
        rate = f"sha256 {got[:16]}… {64 / seconds:.0f} MiB/s"
        self.report.line("download of 64 MiB", f"sha256 {digest[:16]}…", rate, got == digest, seconds)
        begun = time.monotonic()
        got, length = self.curl("/checksum", "--upload-file", path).decode().split()
        seconds = time.monotonic() - begun
        rate = f"sha256 {got[:16]}… {64 / seconds:.0f} MiB/s"
        matched = (got, length) == (digest, str(64 * MIB))
        self.report.line("upload of 64 MiB", f"sha256 {digest[:16]}…", rate, matched, seconds)

    def events(self) -> None:
        stream = http.client.HTTPConnection("127.0.0.1", self.pair.near_port, timeout=TIMEOUT)
        begun = time.monotonic()
        stream.request("GET", "/events/demo?count=5&pause=0.2", headers={"accept": "text/event-stream"})
        response = stream.getresponse()
        arrivals, delays = [], []
        for line in response:
            if line.startswith(b"data:"):
                arrivals.append(time.monotonic() - begun)
                delays.append(time.time() - float(line.split()[-1]))
        matched = len(arrivals) == 5 and arrivals[0] < 0.2 and max(delays) < 0.2
        got = f"{len(arrivals)} events, the first after {arrivals[0] * 1000:.0f} ms" if arrivals else "nothing"
        sent = "5 events, 200 ms apart"
        self.report.line("server-sent events", sent, got, matched, time.monotonic() - begun)

    def grpc(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.pair.near_port}", [("grpc.enable_http_proxy", 0)]) as channel:
            stub = services.EchoStub(channel)
            begun = time.monotonic()
            answer, call = stub.Unary.with_call(messages.Text(text="ahoy"), timeout=TIMEOUT)
            got = f"{answer.text!r}, status {call.code().name}"
            self.report.line("gRPC unary", "'ahoy'", got, got == "'ahoy', status OK", time.monotonic() - begun)
            answers: list[str] = []
            answered: queue.SimpleQueue[None] = queue.SimpleQueue()

            def talk():
                for number in range(100):
                    if number > 0:
                        answered.get(timeout=TIMEOUT)
                    yield messages.Text(text=f"message {number}")

            begun = time.monotonic()
            for answer in stub.Talk(talk(), timeout=TIMEOUT):
                answers.append(answer.text)
                answered.put(None)
            matched = answers == [f"MESSAGE {number}" for number in range(100)]
            seconds = time.monotonic() - begun
            got = f"{len(answers)} answers, {seconds * 10:.1f} ms for each"
            self.report.line("gRPC bidirectional", "100 messages, each after an answer", got, matched, seconds)

    def websocket(self) -> None:
        async def talk() -> tuple[int, float]:
            begun = time.monotonic()
            url = f"ws://127.0.0.1:{self.pair.near_port}/chat"
            async with connect(url, subprotocols=["chat"], proxy=None) as chat:
                matching = 0
                for number in range(100):
                    await chat.send(f"message {number}")
                    matching += await chat.recv() == f"message {number}"
                # Without its end: Envoy keeps a connection for another second after that.
                return matching, time.monotonic() - begun

        matching, seconds = asyncio.run(asyncio.wait_for(talk(), TIMEOUT))
        got = f"{matching} echoed"
        self.report.line("WebSocket in the tunnel", "100 text messages", got, matching == 100, seconds)

    def at_once(self) -> None:
        async def ask(number: int) -> tuple[int, bytes]:
            client = Http1Client(self.pair.near_port)
            fields = [
                (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
                (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
                (b"accept-language", b"en-GB,en;q=0.5"),
                (b"accept-encoding", b"gzip, deflate, br"),
                (b"referer", b"https://app.example/orders?status=open"),
            ]
            head = RequestHead(b"GET", b"/slow?seconds=1&n=%d" % number, b"app.example", fields=fields)
            exchange = await client.open(head, end=True)
            head = await exchange.receive()
            assert isinstance(head, ResponseHead)
            body = b""
            while isinstance(event := await exchange.receive(), Data):
                body += event.payload
            await client.close()
            return head.status, body

        async def all_of_them() -> tuple[list, int]:
            asking = asyncio.gather(*(ask(number) for number in range(AT_ONCE)))
            most = 0
            while not asking.done():
                stats = await asyncio.to_thread(self.pair.asking.stats)
                most = max(most, stats[f"{self.pair.tunnel}.upstream_rq_active"])
                await asyncio.sleep(0.05)
            return asking.result(), most

        before = self.traffic()
        begun = time.monotonic()
        answers, most = asyncio.run(asyncio.wait_for(all_of_them(), TIMEOUT))
        right = answers.count((200, b"hello\n"))
        got = f"{right} answers, {most} under way at once"
        sent = f"{AT_ONCE} requests that take a second"
        matched = right == AT_ONCE and most == AT_ONCE
        self.report.line(f"{AT_ONCE} at once", sent, got, matched, time.monotonic() - begun)
        self.small = [after - first for after, first in zip(self.traffic(), before, strict=True)]

    def traffic(self) -> tuple[int, int]:
        """Bytes of HTTP between the clients and their Envoy, and of WebSocket between the Envoys, both ways."""
        stats = self.pair.asking.stats()
        plain = stats["http.ingress.downstream_cx_rx_bytes_total"] + stats["http.ingress.downstream_cx_tx_bytes_total"]
        stats = self.pair.near.stats()
        wire = stats["cluster.far.upstream_cx_rx_bytes_total"] + stats["cluster.far.upstream_cx_tx_bytes_total"]
        return plain, wire

    def evidence(self) -> None:
        near, far = metrics(self.pair.near), metrics(self.pair.far)
        # The filters hand their counts to Envoy once a second.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not counts_agree(near, far):
            time.sleep(0.1)
            near, far = metrics(self.pair.near), metrics(self.pair.far)
        print(f"\n{'counters of the filter':<26} {'near':>14} {'far':>14}")
        for name in METRICS:
            print(f"{name:<26} {near[name]:>14} {far[name]:>14}")
        opened = self.pair.near.stats()["cluster.far.upstream_cx_active"]
        why = "kept by the near Envoy" if self.pair.asking is self.pair.far else "one for each worker that had requests"
        print(f"\nWebSockets between the two Envoys: {opened} ({why})")
        plain, wire = self.traffic()
        print(f"bytes of all of the above, both ways: {plain} in plain HTTP, {wire} in WebSockets ({wire / plain:.1%})")
        plain, wire = self.small
        print(f"of the {AT_ONCE} small requests alone:    {plain} in plain HTTP, {wire} in WebSockets ({wire / plain:.1%})")
        begun = near["websockets_opened"], far["websockets_opened"]
        checks = {
            "every stream of one end arrived at the other": 0 < near["streams_opened"] == far["streams_opened"],
            "WebSockets opened at both ends": begun[0] == begun[1] > 0,
            "every message that one end sent arrived at the other": counts_agree(near, far),
            "bulk crossed in WebSocket messages": near["websocket_bytes_in"] > 64 * MIB < near["websocket_bytes_out"],
        }
        for what, holds in checks.items():
            print(f"{'ok   ' if holds else 'WRONG'} {what}")
            if not holds:
                self.report.failed.append(what)


def counts_agree(near: dict[str, int], far: dict[str, int]) -> bool:
    pairs = [("streams_opened",) * 2, ("messages_in", "messages_out"), ("messages_out", "messages_in")]
    return all(near[one] == far[other] for one, other in pairs)


def metrics(envoy) -> dict[str, int]:
    """The filter's own, from what Prometheus would get; what isn't there is -1."""
    text = envoy.admin("/stats/prometheus")
    values = {}
    for name in METRICS:
        found = re.search(rf"^\w*wsferry_{name}(?:{{[^}}]*}})? (\d+)$", text, re.MULTILINE)
        values[name] = int(found[1]) if found else -1
    return values


def run(envoy: str, wasm: Path) -> list[str]:
    report = Report()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsferry-demo-")))
        files = directory / "files"
        files.mkdir()
        application = stack.enter_context(python_origin("application"))
        websocket = stack.enter_context(python_origin("websocket_echo"))
        service = stack.enter_context(python_origin("grpc_service"))
        web = stack.enter_context(nginx(directory / "nginx", files, application, websocket))
        for reverse in (False, True):
            if reverse and envoy_version(envoy) < REVERSE_SINCE:
                print(f"\nrequests from the far end need Envoy {'.'.join(map(str, REVERSE_SINCE))}")
                break
            options = {"reverse": True, "concurrency": 1} if reverse else {}
            pair = Pair(f"127.0.0.1:{web}", grpc_origin=f"127.0.0.1:{service}", envoy=envoy, wasm=wasm, **options)
            stack.callback(pair.remove_directory)
            stack.callback(pair.stop)
            pair.start()
            if reverse:
                print("\nThe other way round: the near Envoy dials as before, and the far one sends requests (docs/reverse.md).")
            print(
                f"\nclients → {pair.asking.name} Envoy 127.0.0.1:{pair.near_port}"
                f" ═ WebSocket to 127.0.0.1:{pair.far_port} ═ {pair.answering.name} Envoy"
                f"\n        → nginx 127.0.0.1:{web} (files, web application, WebSocket service), gRPC 127.0.0.1:{service}\n"
            )
            play(Demo(pair, files, report))
    return report.failed


def play(demo: Demo) -> None:
    print(f"{'what':<26} {'sent':<38} {'came back':<48} {'time':>10}")
    before = len(demo.report.failed)
    for step in (demo.get_and_post, demo.bulk, demo.events, demo.grpc, demo.websocket, demo.at_once, demo.evidence):
        try:
            step()
        except Exception as error:  # one thing that fails must not hide what the others do
            print(f"{step.__name__}: {type(error).__name__}: {error}")
            demo.report.failed.append(step.__name__)
    if demo.report.failed[before:]:
        print(demo.pair.tails(), file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--wasm", required=True, type=Path)
    options = parser.parse_args()
    # What was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        failed = run(options.envoy, options.wasm)
    except (PairError, OriginError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("\neverything matched" if not failed else f"\nnot as it should be: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
