"""The gRPC service of echo.proto, over grpcio. Prints `listening PORT`."""

import collections
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
messages, services = grpc.protos_and_services("echo.proto")
Text = messages.Text
STATUS = {code.value[0]: code for code in grpc.StatusCode}


class Echo(services.EchoServicer):
    def __init__(self):
        self.cancelled = collections.Counter()

    def Unary(self, request, context):
        given = dict(context.invocation_metadata())
        context.send_initial_metadata([("x-initial", given.get("x-given", ""))])
        context.set_trailing_metadata([("x-trailing", "last"), ("x-raw-bin", given.get("x-raw-bin", b""))])
        return request

    def Collect(self, requests, context):
        return Text(text=" ".join(request.text for request in requests))

    def Count(self, request, context):
        for number in range(request.count):
            yield Text(text=f"{request.text} {number}")

    def Talk(self, requests, context):
        for request in requests:
            yield Text(text=request.text.upper())

    def Fail(self, request, context):
        context.abort(STATUS[request.count], request.text)

    def Hang(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()
        self.cancelled[request.text] += 1
        return Text()

    def Cancelled(self, request, context):
        return Text(count=self.cancelled[request.text])


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
    services.add_EchoServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("listening", port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
