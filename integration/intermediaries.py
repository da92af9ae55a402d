"""What stands between the two Envoys: nginx, HAProxy and Squid, with the configurations that operators copy (envoy/),
where other addresses and time-outs are filled in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from origins.process import nginx_account
from pair import ROOT, die_with_parent, end_with_parent, find_binary, free_port

READY_TIMEOUT = 15.0  # seconds
FAR_PORT = 10001  # as it stands in the files


@dataclass
class Kind:
    """A file of envoy/, what it is for, and what stands in it."""

    binary: str
    file: str
    port: int
    timeouts: list[tuple[str, str]]  # what says how long a connection may be silent


NGINX_TIMEOUTS = [("proxy_read_timeout 60s", "proxy_read_timeout {}s"), ("proxy_send_timeout 60s", "proxy_send_timeout {}s")]
KINDS = {
    "nginx": Kind("nginx", "nginx.conf", 10080, NGINX_TIMEOUTS),
    "nginx-tls": Kind("nginx", "nginx-tls.conf", 10443, NGINX_TIMEOUTS),
    "haproxy": Kind("haproxy", "haproxy.cfg", 10080, [("timeout tunnel 60s", "timeout tunnel {}s")]),
    "squid": Kind("squid", "squid.conf", 3128, [("read_timeout 15 minutes", "read_timeout {} seconds")]),
}


class IntermediaryError(Exception):
    """Why there is no intermediary."""


def replaced(text: str, old: str, new: str) -> str:
    if old not in text:
        raise IntermediaryError(f"the configuration has no {old!r}")
    return text.replace(old, new)


class Intermediary:
    """One of KINDS in front of the port `far`, which can be killed and started again."""

    def __init__(self, kind: str, far: int, directory: Path, silence: int):
        """`silence`: seconds after which it ends a silent connection."""
        self.kind = KINDS[kind]
        self.port = free_port()
        self.directory = directory
        self.log = directory / "log"
        self.config = directory / self.kind.file
        self.process: subprocess.Popen | None = None
        directory.mkdir(parents=True)
        text = (ROOT / "envoy" / self.kind.file).read_text()
        text = replaced(text, str(self.kind.port), str(self.port))
        text = replaced(text, str(FAR_PORT), str(far))
        for old, new in self.kind.timeouts:
            text = replaced(text, old, new.format(silence))
        if self.kind.binary == "nginx":
            text = self.nginx_of_ours(text)
        if self.kind.binary == "squid":
            text = self.squid_of_ours(text)
        self.config.write_text(text)

    def nginx_of_ours(self, text: str) -> str:
        """It stays in the foreground, keeps its files with us, and, started by root, its account."""
        text = text.replace("../.cache/tls", f"{ROOT}/.cache/tls")
        main = f"{nginx_account()}\ndaemon off;\npid {self.directory}/pid;\n"
        http = "".join(
            f"    {what}_temp_path {self.directory}/{what};\n"
            for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return main + replaced(text, "http {\n", f"http {{\n    access_log {self.directory}/access;\n{http}")

    def squid_of_ours(self, text: str) -> str:
        """It writes no files, and finds the far Envoy's name in a file of ours instead of DNS."""
        # Started by root it gives up root's rights, and would not get to a file in our directory.
        self.hosts = tempfile.NamedTemporaryFile("w", prefix="wsferry-hosts-")
        self.hosts.write("127.0.0.1 far.example\n")
        self.hosts.flush()
        os.chmod(self.hosts.name, 0o644)
        off = "pid_filename none\nnetdb_filename none\ncache_log /dev/null\naccess_log none\n"
        return f"{text}\nhosts_file {self.hosts.name}\n{off}"

    def start(self) -> None:
        """Returns once it takes connections."""
        path = find_binary(self.kind.binary)
        command = {
            "nginx": [path, "-c", self.config, "-p", self.directory, "-e", self.log],
            "haproxy": [path, "-db", "-f", self.config],
            "squid": [path, "-N", "-d", "1", "-f", self.config],
        }[self.kind.binary]
        with_parent = end_with_parent if self.kind.binary == "nginx" else die_with_parent
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=with_parent
            )
        deadline = time.monotonic() + READY_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise IntermediaryError(f"{self.kind.file}: doesn't start: {self.log.read_text()}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """Ends it, with its worker processes and every connection that it has, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
