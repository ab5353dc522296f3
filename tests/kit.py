"""Small apps for tests: each with its own extension, store and clock, closed when the test ends.

It must not know what is tested with them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from flask_delayq import DelayQ
from flask_delayq.clock import Clock

making = threading.Lock()
"""Threads that make apps hold it: CPython 3.11 cannot compile routes in two threads at the same time
(its issue 106905)."""


class ServedClient(FlaskClient):
    """A test client whose requests look like requests to the development server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.environ_base["werkzeug.socket"] = None


def make_app(clock: Clock | None = None, **config: Any) -> tuple[Flask, DelayQ]:
    """An app with a DelayQ. By default jobs live in memory, and nobody runs them."""
    settings = {"DELAYQ_URL": "memory://", "DELAYQ_MODE": "manual"}
    with making:
        app = Flask("kit")
        app.test_client_class = ServedClient
        app.config.update(settings | {f"DELAYQ_{key.upper()}": value for key, value in config.items()})
        return app, DelayQ(app, clock=clock)


@contextmanager
def running(delayq: DelayQ) -> Iterator[DelayQ]:
    """Run jobs in this process during a block."""
    delayq.start()
    try:
        yield delayq
    finally:
        delayq.stop(5)
        delayq.state.close()
