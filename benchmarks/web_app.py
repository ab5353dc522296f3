"""The app that gunicorn serves: ``GET /`` does nothing, ``POST /`` enqueues one job with one peer.
Its argument and the variables ``DELAYQ_BENCH_...`` choose the peer and its settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from flask import Flask

from .ours import WORKERS, work


def make(kind: str) -> Flask:
    """``gunicorn "benchmarks.web_app:make('delayq')"``."""
    interval = os.environ.get("DELAYQ_BENCH_SWITCH_INTERVAL")
    if interval:
        sys.setswitchinterval(float(interval))
    app = Flask("bench")
    enqueue, stored = _KINDS[kind](app)

    @app.get("/")
    def nothing() -> str:
        return "ok"

    @app.post("/")
    def post() -> str:
        enqueue()
        return "ok"

    @app.get("/stored")
    def how_many() -> str:
        """The number of jobs stored so far, in any state."""
        return str(stored())

    return app


Ways = tuple[Callable[[], Any], Callable[[], int]]


def _nothing(app: Flask) -> Ways:
    return lambda: None, lambda: 0


def _delayq(app: Flask) -> Ways:
    from flask_delayq import DelayQ

    app.config["DELAYQ_URL"] = os.environ["DELAYQ_BENCH_URL"]
    app.config["DELAYQ_WORKERS"] = int(os.environ.get("DELAYQ_BENCH_WORKERS", WORKERS))
    delayq = DelayQ(app)
    task = delayq.task(name="work")(work)
    return lambda: task.enqueue(1, "text"), lambda: sum(delayq.counts().values())


def _flask_executor(app: Flask) -> Ways:
    from flask_executor import Executor

    app.config["EXECUTOR_MAX_WORKERS"] = WORKERS
    executor = Executor(app)
    done: list[int] = []

    def job(number: int, text: str) -> None:
        done.append(work(number, text))

    return lambda: executor.submit(job, 1, "text"), lambda: len(done)


def _rq(app: Flask) -> Ways:
    from redis import Redis
    from rq import Queue
    from rq.registry import FinishedJobRegistry

    connection = Redis(port=int(os.environ["DELAYQ_BENCH_REDIS"]))
    queue = Queue(connection=connection)
    finished = FinishedJobRegistry(queue=queue)
    return lambda: queue.enqueue(work, 1, "text"), lambda: len(queue) + len(finished)


_KINDS: dict[str, Callable[[Flask], Ways]] = {
    "nothing": _nothing,
    "delayq": _delayq,
    "flask_executor": _flask_executor,
    "rq": _rq,
}
