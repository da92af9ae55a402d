"""An ordinary web application, over the standard library's HTTP/1.1 server. Prints `listening PORT`.

POST or PUT /checksum   the SHA-256 of the body, and its length
GET /events/NAME?count=N&pause=SECONDS   server-sent events; with pause=wait each waits for a POST /events/NAME
POST /events/NAME   lets the next event go
ANY /slow?seconds=S   answers after S seconds
ANY /hello   answers at once
"""

import collections
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

READ = 1 << 18  # bytes at a time
WAIT = 30  # seconds that an event waits at most


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    go = collections.defaultdict(lambda: threading.Semaphore(0))

    def log_message(self, *_):
        pass

    def body(self):
        """The body in pieces."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while length := int(self.rfile.readline(), 16):
                while length:
                    piece = self.rfile.read(min(length, READ))
                    length -= len(piece)
                    yield piece
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            length = int(self.headers.get("content-length", 0))
            while length:
                piece = self.rfile.read(min(length, READ))
                if not piece:
                    return
                length -= len(piece)
                yield piece

    def answer(self, text: str, status: int = 200) -> None:
        payload = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_POST(self) -> None:
        target = urlsplit(self.path)
        if target.path == "/checksum":
            digest = hashlib.sha256()
            total = 0
            for piece in self.body():
                digest.update(piece)
                total += len(piece)
            self.answer(f"{digest.hexdigest()} {total}\n")
            return
        for _ in self.body():
            pass
        if target.path.startswith("/events/"):
            self.go[target.path].release()
            self.answer("go\n")
        else:
            self.other(target)

    do_PUT = do_POST

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        if target.path.startswith("/events/"):
            self.events(target)
        else:
            self.other(target)

    def other(self, target) -> None:
        if target.path == "/slow":
            time.sleep(float(parse_qs(target.query)["seconds"][0]))
        if target.path in ("/slow", "/hello"):
            self.answer("hello\n")
        else:
            self.answer("not found\n", 404)

    def events(self, target) -> None:
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        pause = query.get("pause", "0")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("cache-control", "no-cache")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(int(query.get("count", "3"))):
            if number and pause == "wait":
                self.go[target.path].acquire(timeout=WAIT)
            elif number:
                time.sleep(float(pause))
            event = f"id: {number}\ndata: event {number} at {time.time():.6f}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main() -> None:
    server = Server(("127.0.0.1", 0), Application)
    print("listening", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
