"""scripts/pair and scripts/setup, and the ports that tests take."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time

import pytest

from conftest import WASM
from pair import ROOT, PairError, check_free, free_port

RECOVERY = 5.0  # seconds


def test_pair_says_what_is_wrong(web_origins):
    """scripts/pair: a port that is taken, an origin that is none, a missing filter."""

    def complaint(*arguments: str) -> str:
        done = subprocess.run(
            [ROOT / "scripts/pair", "--wasm", WASM, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode != 0
        return done.stderr

    port = web_origins[0]
    assert f"port {port} (near)" in complaint("--origin", "127.0.0.1:1", "--near", str(port))
    for nonsense in ("nonsense", "http://127.0.0.1:8080", "127.0.0.1:65536"):
        assert f"'{nonsense}' is not HOST:PORT" in complaint("--origin", nonsense)
    assert "argument --near: '99999' is not 0 (a free one) to 65535" in complaint("--origin", "127.0.0.1:1", "--near", "99999")
    twice = str(free_port())
    assert "(far) is that of near, too" in complaint("--origin", "127.0.0.1:1", "--near", twice, "--far", twice)
    for other in ("envoy/far-health.yaml", "envoy/nginx.conf"):
        assert f"{other}: no " in complaint("--origin", "127.0.0.1:1", "--far-config", other)
    assert "Not a directory" in complaint("--origin", "127.0.0.1:1", "--log-dir", "/dev/null/logs")
    assert "no/filter.wasm" in complaint("--origin", "127.0.0.1:1", "--wasm", "no/filter.wasm")


def test_free_ports_stay_free():
    """Nobody takes them by chance, and a server can listen there, as all servers do it."""
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    check_free("one", port)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with pytest.raises(PairError, match=f"port {port}"):
            check_free("one", port)


def test_setup_says_which_envoy_it_cannot_use(tmp_path):
    """One that is too old, and one that can't run Wasm, which its version doesn't tell."""
    envoy = tmp_path / "envoy"

    def setup(script: str) -> subprocess.CompletedProcess:
        envoy.write_text(f"#!/bin/sh\n{script}\n")
        envoy.chmod(0o755)
        return subprocess.run(
            [ROOT / "scripts/setup", "--print", "envoy"],
            env=os.environ | {"ENVOY": str(envoy)},
            capture_output=True,
            text=True,
            check=False,
        )

    version = 'echo "envoy  version: 0123456789abcdef/{}/Clean/RELEASE/BoringSSL"'
    old = setup(version.format("1.35.9"))
    assert old.returncode != 0 and "1.35.9" in old.stderr
    without_wasm = setup(f'case $1 in --version) {version.format("1.40.0")} ;; *) exit 1 ;; esac')
    assert without_wasm.returncode != 0 and "Wasm" in without_wasm.stderr
    usable = setup(f'case $1 in --version) {version.format("1.100.0")} ;; esac')
    assert usable.stdout.strip() == str(envoy), usable.stderr


def test_pair_leaves_nothing_behind_when_killed(tmp_path, web_origins):
    ports = [option for name in ("near", "far", "near-admin", "far-admin") for option in (f"--{name}", "0")]
    origin = f"127.0.0.1:{web_origins[0]}"
    command = [ROOT / "scripts/pair", "--wasm", WASM, "--origin", origin, "--log-dir", tmp_path, *ports]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("ready near=http://127.0.0.1:")
    words = dict(word.split("=", 1) for word in line.split()[1:])
    near = http.client.HTTPConnection(words["near"].removeprefix("http://"), timeout=5)
    near.request("GET", "/hello")
    assert near.getresponse().read() == b"hello\n"
    process.kill()
    process.wait()
    for url in (words["near"], words["near-admin"], words["far-admin"]):
        host, port = url.removeprefix("http://").split(":")
        deadline = time.monotonic() + RECOVERY
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except ConnectionRefusedError:
                break
            assert time.monotonic() < deadline, f"somebody still listens on {url}"
            time.sleep(0.02)
