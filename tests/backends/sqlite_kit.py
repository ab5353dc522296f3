"""Stores, jobs and other processes for the tests of the sqlite backend.

It must not know what is tested with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask_delayq.backends.sqlite import SQLiteBackend
from flask_delayq.clock import Clock, SystemClock
from flask_delayq.ids import new_id
from flask_delayq.job import NewJob

CHILD = Path(__file__).with_name("sqlite_child.py")
ROOT = CHILD.parent.parent.parent


def backend_on(path: Path, clock: Clock | None = None, **options: object) -> SQLiteBackend:
    return SQLiteBackend(f"sqlite:///{path}", clock=clock or SystemClock(), **options)


@contextmanager
def opened(path: Path, clock: Clock | None = None, **options: object) -> Iterator[SQLiteBackend]:
    backend = backend_on(path, clock, **options)
    try:
        yield backend
    finally:
        backend.close()


def job(**facts: object) -> NewJob:
    now = time.time()
    defaults = {
        "id": new_id(),
        "task": "send",
        "queue": "default",
        "priority": 1,
        "run_at": now,
        "enqueued_at": now,
        "payload": b"{}",
    }
    return NewJob(**(defaults | facts))


def put(backend: SQLiteBackend, *, timeout: float = 5, **facts: object) -> str:
    new = job(**facts)
    backend.enqueue([new], now=time.time(), timeout=timeout)
    return new.id


def total(backend: SQLiteBackend) -> int:
    return sum(backend.counts(now=time.time()).values())


@contextmanager
def child(*arguments: object, stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a verb of `sqlite_child.py`; it is killed if it still runs at the end."""
    # Since 3.12 Python warns of every fork beside threads, and such forks are what is tried.
    quiet = ("-W", "ignore:This process:DeprecationWarning")
    process = subprocess.Popen(
        [sys.executable, *quiet, str(CHILD), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a child prints; it waits for it."""
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Let a child that waits for its input go on."""
    process.stdin.write("\n")
    process.stdin.flush()
