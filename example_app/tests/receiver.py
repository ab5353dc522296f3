"""A webhook receiver for tests: records each request with its time, and answers with a given status.

It must not know the app that sends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One request that arrived."""

    at: float
    key: str
    body: dict[str, Any]


class Receiver:
    """The requests that arrived so far.

    :ivar status: the status of the next answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 204
        self.deliveries: list[Delivery] = []

    @property
    def messages(self) -> list[str]:
        return [delivery.body["message"] for delivery in self.deliveries]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Receive on 127.0.0.1 during a block; on a free port unless one is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            at = time.time()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.deliveries.append(Delivery(at, self.headers["Idempotency-Key"], body))
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", port), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
