"""The stores of the chaos tests: their settings, and a look into them from the test's own process.

It must not know what is tested with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acceptance.chaos_app import create_app
from flask_delayq import DelayQ
from flask_delayq.backends import open_backend
from waiting import wait_until


def url_of(folder: Path, name: str = "store") -> str:
    return f"sqlite:///{folder / name}.sqlite3"


def config(folder: Path, name: str = "store", **more: Any) -> dict[str, Any]:
    """Settings that prune nothing and give no job up for having been killed often."""
    kept = {"DELAYQ_MAX_RESCUES": 1000, "DELAYQ_RETENTION_COUNT": 10**7}
    return {"DELAYQ_URL": url_of(folder, name), **kept, **more}


@contextmanager
def opened(folder: Path, name: str = "store") -> Iterator[Any]:
    """A backend on the store for the length of a block."""
    backend = open_backend(url_of(folder, name))
    try:
        yield backend
    finally:
        backend.close()


def unfinished(backend: Any) -> int:
    """How many jobs are not final."""
    counts = backend.counts(now=time.time())
    return int(counts["scheduled"] + counts["ready"] + counts["running"])


def wait_until_all_final(folder: Path, timeout: float, name: str = "store") -> None:
    with opened(folder, name) as backend:
        wait_until(lambda: unfinished(backend) == 0, timeout, f"every job of {name} is final")


@contextmanager
def producing(folder: Path, name: str = "store", **more: Any) -> Iterator[DelayQ]:
    """The app of the chaos tests in this process, to enqueue its tasks; it runs none."""
    app = create_app({"name": "test", "notes": str(folder), "config": config(folder, name, **more)})
    delayq, notes = app.extensions["chaos"]
    try:
        yield delayq
    finally:
        delayq.state.close()
        notes.close()
