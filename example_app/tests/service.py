"""The example app as a process of its own, as a person starts it: ``flask --app example_app run``.

It must not know what is asked of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from waiting import wait_until

ROOT = Path(__file__).parents[2]


class Service:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request; its status and the JSON that came back."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(
                method, path, data, {"Content-Type": "application/json"} | (headers or {})
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "null")
        finally:
            connection.close()

    def remind(self, message: str, seconds: float, webhook: str) -> dict[str, Any]:
        """Add a reminder; returns what the service says of it."""
        body = {"message": message, "seconds": seconds, "webhook": webhook}
        status, reminder = self.ask("POST", "/reminders", body)
        assert status == 202, reminder
        return dict(reminder)

    def kill(self) -> None:
        """``kill -9``: no chance to say goodbye."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Service]:
    """Serve on a free port of 127.0.0.1 for the length of a block, with the data in ``folder``."""
    log = folder / "server.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
    environment |= {"REMIND_INSTANCE": str(folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment |= {f"FLASK_{key}": value for key, value in settings.items()}
    command = [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        found = wait_until(
            lambda: (
                re.search(r"Running on http://127\.0\.0\.1:(\d+)", log.read_text())
                or _gone(process, log)
            ),
            timeout=20,
            what="the server says where it runs",
        )
        yield Service(process, int(found[1]))
    finally:
        process.kill()
        process.wait()


def _gone(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise AssertionError(f"the server ended with {process.returncode}:\n{log.read_text()}")
