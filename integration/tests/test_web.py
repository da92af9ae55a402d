"""Files, uploads and event streams through the tunnel: curl as the client, nginx and a web application behind it."""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import time
import uuid

import pytest

MIB = 1 << 20
VERSIONS = {"http1": "--http1.1", "http2": "--http2-prior-knowledge"}


@pytest.fixture(params=VERSIONS)
def curl(request, web):
    """Runs curl on a path of the pair; gives what it prints."""

    def run(path: str, *arguments, **options) -> bytes:
        command = ["curl", "--silent", "--show-error", "--max-time", "40", VERSIONS[request.param], *arguments]
        command.append(f"http://127.0.0.1:{web.port}{path}")
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout

    return run


@pytest.fixture(scope="module")
def large(web):
    """64 MiB that don't compress: the file, and its SHA-256."""
    path = web.files / "large.bin"
    content = os.urandom(64 * MIB)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_download_of_64_mib(curl, large):
    assert hashlib.sha256(curl("/large.bin")).hexdigest() == large[1]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload_of_64_mib(curl, large, chunked):
    arguments = ["--header", "expect:", "--upload-file", "-" if chunked else large[0]]
    with large[0].open("rb") as file:
        answer = curl("/checksum", *arguments, stdin=file if chunked else subprocess.DEVNULL)
    assert answer.decode().split() == [large[1], str(64 * MIB)]


def test_upload_that_waits_for_100_continue(curl, large):
    answer = curl("/checksum", "--header", "expect: 100-continue", "--data-binary", f"@{large[0]}")
    assert answer.decode().split()[0] == large[1]


def test_ranges_and_conditions(curl, web):
    (web.files / "page.html").write_text("0123456789")
    head = curl("/page.html", "--head").decode().lower()
    assert "content-length: 10" in head and "content-type: text/html" in head and "server: nginx" in head
    etag = next(line.split(": ", 1)[1].strip() for line in head.splitlines() if line.startswith("etag"))
    assert curl("/page.html", "--range", "2-4") == b"234"
    answer = curl("/page.html", "--header", f"if-none-match: {etag}", "--include").decode()
    assert answer.splitlines()[0].split()[1] == "304"
    assert answer.rstrip().endswith(f"etag: {etag}")


def test_200_files_at_once(web):
    """All of them in one curl, over as many connections as it likes to open."""
    contents = {f"file{number}.txt": os.urandom(5000 + 37 * number) for number in range(200)}
    for name, content in contents.items():
        (web.files / name).write_bytes(content)
    urls = []
    for name in contents:
        urls += ["--output", web.files / f"got-{name}", f"http://127.0.0.1:{web.port}/{name}"]
    subprocess.run(["curl", "--silent", "--fail", "--parallel", "--parallel-max", "200", *urls], check=True)
    for name, content in contents.items():
        assert (web.files / f"got-{name}").read_bytes() == content


def test_each_event_arrives_when_it_is_sent(web):
    """The application sends an event only once we ask for it, after the one before it has arrived."""
    path = f"/events/{uuid.uuid4()}"
    stream = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
    stream.request("GET", f"{path}?count=4&pause=wait", headers={"accept": "text/event-stream"})
    response = stream.getresponse()
    assert response.getheader("content-type") == "text/event-stream"
    go = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
    for number in range(4):
        assert response.readline() == f"id: {number}\n".encode()
        data = response.readline().decode()
        assert data.startswith(f"data: event {number} at ")
        assert time.time() - float(data.split()[-1]) < 1
        assert response.readline() == b"\n"
        if number < 3:
            go.request("POST", path, body=b"")
            go.getresponse().read()
    assert response.read() == b""


def test_the_way_a_response_takes_is_in_the_statistics(web):
    """One WebSocket carried all of this; requests are counted at both ends."""
    asking, answering = web.pair.asking, web.pair.answering
    cluster = web.pair.tunnel

    def counts() -> tuple[int, int]:
        return asking.stats()[f"{cluster}.upstream_rq_total"], answering.stats()["http.inner.downstream_rq_total"]

    before = counts()
    for _ in range(10):
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
        connection.request("GET", "/hello")
        assert connection.getresponse().read() == b"hello\n"
        connection.close()
    assert [a - b for a, b in zip(counts(), before, strict=True)] == [10, 10]
    assert asking.stats()[f"{cluster}.upstream_cx_active"] == 1
