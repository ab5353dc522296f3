"""Small apps for tests: each with its own extension, store and clock, closed when the test ends.

It must not know what is tested with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask

from flask_delayq import DelayQ
from flask_delayq.clock import Clock


def make_app(clock: Clock | None = None, **config: Any) -> tuple[Flask, DelayQ]:
    """An app with a DelayQ; jobs live in memory and nobody runs them unless the settings say so."""
    app = Flask("kit")
    settings = {"DELAYQ_URL": "memory://", "DELAYQ_MODE": "manual"}
    app.config.update(settings | {f"DELAYQ_{key.upper()}": value for key, value in config.items()})
    return app, DelayQ(app, clock=clock)


@contextmanager
def running(delayq: DelayQ) -> Iterator[DelayQ]:
    """Run jobs in this process for the length of a block."""
    delayq.start()
    try:
        yield delayq
    finally:
        delayq.stop(5)
        delayq.state.close()
