"""The origin of every way: nginx with one worker, and beside it what nginx can't do (services.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from pair import PairError, end_with_parent, free_port
from processes import children, cpu_seconds

SMALL_BYTES = 1024
BULK_BYTES = tuple(mib << 20 for mib in (16, 64, 256))
READY_TIMEOUT = 10.0  # seconds

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 3600s;
  # nginx closes a connection after 1,000 requests otherwise.
  keepalive_requests 1000000000;
  client_max_body_size 0;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {directory}/files;
    location = /poll {{
      default_type application/json;
      add_header cache-control "private, no-cache";
      add_header etag '"5f-$msec"';
      add_header x-request-id $http_x_request_id;
      return 200 '{{"unread":3,"updated":"$time_iso8601","next":"$msec","items":[{{"id":48213,"state":"running"}}]}}\\n';
    }}
    # For tunnels that lead to nginx alone; the two Envoys' routes lead to the sink itself.
    location = /sink {{
      proxy_pass http://127.0.0.1:{sink};
      proxy_http_version 1.1;
      proxy_request_buffering off;
    }}
  }}
}}
"""


class Origin:
    """nginx on `port`; the sink and the idle service on ports of their own."""

    def __init__(self, nginx: str, directory: Path, port: int | None):
        self.port = port or free_port()
        self.directory = directory
        self.services = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("services.py"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,
        )
        ports = json.loads(self.services.stdout.readline())
        self.sink_port: int = ports["sink"]
        self.idle_port: int = ports["idle"]
        self.write_files()
        with (directory / "nginx.log").open("ab") as log:
            command = [nginx, "-p", str(directory), "-c", str(directory / "nginx.conf")]
            self.nginx = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        self.wait_ready()

    def write_files(self) -> None:
        files = self.directory / "files"
        files.mkdir()
        # nginx's worker may be another user.
        self.directory.chmod(0o755)
        (files / "small").write_bytes(b"x" * SMALL_BYTES)
        for size in BULK_BYTES:
            with (files / f"bulk-{size}").open("wb") as bulk:
                bulk.truncate(size)
        text = CONFIGURATION.format(directory=self.directory, port=self.port, sink=self.sink_port)
        (self.directory / "nginx.conf").write_text(text)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/small", timeout=2) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                if self.nginx.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "nginx.log").read_text(errors="replace")
                    raise PairError(f"nginx doesn't answer on port {self.port}: {log[-500:]}") from None
                time.sleep(0.02)

    @property
    def pids(self) -> list[int]:
        return [self.nginx.pid, *children(self.nginx.pid), self.services.pid]

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pids)

    def stop(self) -> None:
        for process in (self.nginx, self.services):
            process.terminate()
        for process in (self.nginx, self.services):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
