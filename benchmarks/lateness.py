"""How late delayed jobs begin: 2,000 delays spread over 5 s on an idle process.
Each subject runs in a process of its own (``python -m benchmarks.lateness NAME FOLDER``)."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

DELAYS = 2_000
SPREAD = 5.0


def delayq_sqlite(folder: Path) -> list[float]:
    """Flask-DelayQ on sqlite, flushed to the disk at every commit."""
    from flask import Flask

    from flask_delayq import DelayQ

    app = Flask("bench")
    app.config.update(DELAYQ_URL=f"sqlite:///{folder}/jobs.sqlite3", DELAYQ_MODE="external")
    delayq = DelayQ(app)
    late: list[float] = []

    @delayq.task(name="note")
    def note(due: float) -> None:
        late.append(time.time() - due)

    delayq.start()
    note.enqueue(time.time()).wait(10)
    late.clear()
    begin = time.time() + 3.0  # storing them comes first
    for offset in _offsets():
        due = begin + offset
        note.enqueue_in(max(0.0, due - time.time()), due)
    while len(late) < DELAYS:
        time.sleep(0.01)
    delayq.stop()
    return late


def apscheduler_memory(folder: Path) -> list[float]:
    """APScheduler 3 with its default store, which is its memory."""
    from datetime import datetime, timezone

    from apscheduler.schedulers.background import BackgroundScheduler

    late: list[float] = []
    scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"misfire_grace_time": None})
    scheduler.start()
    begin = time.time() + 3.0
    for offset in _offsets():
        due = begin + offset
        when = datetime.fromtimestamp(due, timezone.utc)
        scheduler.add_job(lambda due=due: late.append(time.time() - due), "date", run_date=when)
    while len(late) < DELAYS:
        time.sleep(0.01)
    scheduler.shutdown()
    return late


def threading_timer(folder: Path) -> list[float]:
    """``threading.Timer``: a thread for each delay."""
    late: list[float] = []
    begin = time.time() + 3.0
    timers = []
    for offset in _offsets():
        due = begin + offset
        timer = threading.Timer(due - time.time(), lambda due=due: late.append(time.time() - due))
        timer.start()
        timers.append(timer)
    for timer in timers:
        timer.join()
    return late


def _offsets() -> list[float]:
    source = random.Random(4)
    return [source.uniform(0.0, SPREAD) for _ in range(DELAYS)]


SUBJECTS: dict[str, Callable[[Path], list[float]]] = {
    "delayq_sqlite": delayq_sqlite,
    "apscheduler_memory": apscheduler_memory,
    "threading_timer": threading_timer,
}


if __name__ == "__main__":
    figures = sorted(SUBJECTS[sys.argv[1]](Path(sys.argv[2])))
    assert figures[0] >= 0, "a job began before it was due"
    half, worst = figures[len(figures) // 2], figures[len(figures) * 99 // 100]
    sys.stdout.write(json.dumps([half, worst]) + "\n")
