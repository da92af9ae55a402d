"""Starts the origins, and ends them."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pair import die_with_parent, end_with_parent, find_binary, free_port

HERE = Path(__file__).parent
READY_TIMEOUT = 15.0  # seconds


class OriginError(Exception):
    """Why there is no origin."""


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def python_origin(name: str) -> Iterator[int]:
    """Runs origins/NAME.py; gives its port."""
    process = subprocess.Popen(
        [sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    )
    with ended(process):
        line = process.stdout.readline().split()
        if line[:1] != ["listening"]:
            raise OriginError(f"{name} doesn't start")
        yield int(line[1])


def nginx_account() -> str:
    """Of root, nginx would make nobody, who may not read our files; anybody else stays who he is, and hears a warning."""
    return f"user {getpass.getuser()};" if os.getuid() == 0 else ""


@contextlib.contextmanager
def nginx(directory: Path, files: Path, application: int, websocket: int) -> Iterator[int]:
    """Runs nginx with the files in `files`, in front of the two other origins; gives its port."""
    port = free_port()
    text = (HERE / "nginx.conf").read_text()
    words = {
        "ACCOUNT": nginx_account(),
        "DIRECTORY": directory,
        "FILES": files,
        "PORT": port,
        "APPLICATION": application,
        "WEBSOCKET": websocket,
    }
    for word, value in words.items():
        text = text.replace(word, str(value))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nginx.conf").write_text(text)
    log = directory / "nginx.log"
    command = [find_binary("nginx"), "-c", directory / "nginx.conf", "-p", directory, "-e", log]
    with ended(subprocess.Popen(command, preexec_fn=end_with_parent)) as process:
        deadline = time.monotonic() + READY_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise OriginError(f"nginx doesn't start: {log.read_text() if log.exists() else ''}")
            time.sleep(0.02)
        yield port
