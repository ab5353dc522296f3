"""The example app as a process of its own, as a person starts it: ``flask --app example_app run``.

It must not know which requests the tests send."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from servers import Program, server


class Service:
    """A running server.

    :ivar program: its process.
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send one request; returns the status and the JSON of the answer."""
        connection = HTTPConnection("127.0.0.1", self.program.port, timeout=10)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "null")
        finally:
            connection.close()

    def look(self, path: str) -> dict[str, Any]:
        """The JSON that the service returns for a path."""
        status, answer = self.ask("GET", path)
        assert status == 200, answer
        return dict(answer)

    def remind(self, message: str, seconds: float, webhook: str) -> dict[str, Any]:
        """Add a reminder; returns the JSON that describes it."""
        body = {"message": message, "seconds": seconds, "webhook": webhook}
        status, reminder = self.ask("POST", "/reminders", body)
        assert status == 202, reminder
        return dict(reminder)


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """Serve on a free port during a block, with the data in ``folder``; killed at the block's end."""
    command = [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", "{port}"]
    with server(command, folder=folder, env={"REMIND_INSTANCE": str(folder)}) as program:
        yield Service(program)
