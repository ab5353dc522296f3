"""Flask-DelayQ as the benchmarks use it: an app, the job that every subject runs, waiting for jobs.
Knows no peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

WORKERS = 4
PATIENCE = 80.0
"""The timeout of a wait, in seconds."""


def work(number: int, text: str) -> int:
    """The job of every subject: takes ``(int, str)``; its result is checked afterwards."""
    return number * 2 + len(text)


def make(url: str, function: Callable[[int, str], int] = work, **config: Any) -> tuple[Any, Any, Any]:
    """An app, its DelayQ and its task ``work``; nothing runs before ``delayq.start()``.

    The caller must keep a reference to the app: the extension does not.
    """
    from flask import Flask

    from flask_delayq import DelayQ

    app = Flask("bench")
    app.config.update(DELAYQ_URL=url, DELAYQ_WORKERS=WORKERS, DELAYQ_MODE="external")
    app.config.update(config)
    delayq = DelayQ(app)
    return app, delayq, delayq.task(name="work")(function)


def url_of(path: Path) -> str:
    """The URL of a store file."""
    return f"sqlite:///{path}"


def produce(count: int, producers: int, enqueue: Callable[[int], object]) -> None:
    """Call ``enqueue`` with 0 ... count - 1, from this many threads."""

    def run(start: int) -> None:
        for number in range(start, count, producers):
            enqueue(number)

    threads = [Thread(target=run, args=(start,)) for start in range(1, producers)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()


def until(seen: Callable[[], bool], pause: float = 0.001) -> None:
    """Poll until ``seen()`` is true.

    :raises TimeoutError: it was not within :data:`PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while not seen():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not end")
        time.sleep(pause)


def await_all(delayq: Any, jobs: Sequence[Any], completed: int) -> None:
    """Wait until the store counts this many completed jobs, these among them.

    It waits for the last stored job first: to count a long backlog again and again would be a load.
    """
    jobs[-1].wait(PATIENCE)
    until(lambda: bool(delayq.counts()["completed"] >= completed))


def check(jobs: Sequence[Any], text: str = "text") -> None:
    """Check that the results of some hundred jobs are correct."""
    for number in range(0, len(jobs), max(1, len(jobs) // 100)):
        assert jobs[number].refresh().result == work(number, text)


def end_to_end(url: str, count: int, producers: int = 1, **config: Any) -> float:
    """Enqueue jobs while four workers run them; jobs per second until all are seen completed."""
    _app, delayq, task = make(url, **config)
    delayq.start()
    task.enqueue(0, "warm").wait(20)
    jobs: list[Any] = [None] * count
    began = time.perf_counter()

    def enqueue(number: int) -> None:
        jobs[number] = task.enqueue(number, "text")

    produce(count, producers, enqueue)
    await_all(delayq, jobs, count + 1)
    rate = count / (time.perf_counter() - began)
    check(jobs)
    delayq.stop()
    return rate


def memory(folder: Path, count: int) -> float:
    return end_to_end("memory://", count, DELAYQ_RETENTION_COUNT=None)


def sqlite(folder: Path, count: int, synchronous: str = "FULL", producers: int = 1) -> float:
    url = url_of(folder / "jobs.sqlite3")
    return end_to_end(url, count, producers, DELAYQ_SQLITE_SYNCHRONOUS=synchronous)


def enqueue_many(folder: Path, count: int) -> float:
    """Jobs per second of a single ``enqueue_many`` call; nobody runs the jobs."""
    _app, delayq, task = make(url_of(folder / "jobs.sqlite3"))
    task.enqueue_in(3600, 0, "warm")
    calls = [(number, "text") for number in range(count)]
    began = time.perf_counter()
    jobs = task.enqueue_many(calls)
    rate = count / (time.perf_counter() - began)
    assert len(jobs) == count and delayq.counts()["ready"] == count
    return rate


def drain(folder: Path, count: int) -> float:
    """Jobs per second from ``start()`` until a stored backlog is completed."""
    _app, delayq, task = make(url_of(folder / "jobs.sqlite3"))
    jobs: list[Any] = []
    for start in range(0, count, 10_000):
        jobs += task.enqueue_many([(n, "text") for n in range(start, min(count, start + 10_000))])
    began = time.perf_counter()
    delayq.start()
    await_all(delayq, jobs, count)
    rate = count / (time.perf_counter() - began)
    check(jobs)
    delayq.stop()
    return rate


# --- stores to begin with ------------------------------------------------------------------------


def store_one(folder: Path, path: str, delay: float | None = None) -> str:
    """Put one job into the store of this file; returns its id."""
    _app, _delayq, task = make(url_of(Path(path)))
    job = task.enqueue(1, "text") if delay is None else task.enqueue_in(delay, 1, "text")
    return str(job.id)


def complete_one(folder: Path, path: str) -> str:
    """Put one job into the store of this file and run it; returns its id."""
    _app, delayq, task = make(url_of(Path(path)))
    delayq.start()
    job = task.enqueue(1, "text").wait(20)
    delayq.stop()
    return str(job.id)
