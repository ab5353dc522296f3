"""Starting and stopping, often, at once and in many apps: nothing is left behind.

The leak detector of every test looks for threads and descriptors; here connections count as well.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from acceptance.conftest import Figure
from acceptance.stores import url_of
from flask_delayq import DelayQ, current_job
from flask_delayq.backends.sqlite.file.connection import Sql
from kit import make_app
from leaks import open_descriptors
from pace import quiet_seconds

THREADS = 10
CYCLES = 50

STOP_TIMEOUT = 5.0
"""Seconds within which a stop must be over."""


def app_on(folder: Path, name: str, **settings: Any) -> tuple[Flask, DelayQ, list[str]]:
    """An app with a task that tells of each run."""
    app, delayq = make_app(url=url_of(folder, name), **settings)
    ran: list[str] = []

    @delayq.task(name="tell")
    def tell() -> None:
        ran.append(current_job.id)

    return app, delayq, ran


def test_start_and_stop_by_many_threads(tmp_path: Path, figure: Figure) -> None:
    """Each thread starts, enqueues and stops, whatever the others do; every job runs once."""
    _app, delayq, ran = app_on(tmp_path, "store", workers=2)
    accepted: list[str] = []
    errors: list[BaseException] = []
    longest = [0.0] * THREADS
    together = threading.Barrier(THREADS)

    def cycle(number: int) -> None:
        try:
            together.wait()
            for _ in range(CYCLES):
                delayq.start()
                accepted.append(delayq.tasks.get("tell").enqueue().id)
                began = time.monotonic()
                delayq.stop(STOP_TIMEOUT)
                longest[number] = max(longest[number], quiet_seconds(began))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=cycle, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    delayq.start()
    assert delayq.join(20)
    assert delayq.stop(STOP_TIMEOUT)
    assert sorted(ran) == sorted(accepted)
    counts = delayq.counts()
    assert counts["completed"] == len(accepted) == THREADS * CYCLES
    delayq.state.close()
    figure(f"{THREADS} threads x {CYCLES} starts and stops: longest stop {max(longest):.2f} s")
    assert max(longest) < STOP_TIMEOUT
    assert Sql.how_many(str(tmp_path / "store.sqlite3")) == 0


@pytest.mark.parametrize(
    ("count", "at_once"), [(60, 20), pytest.param(200, 200, marks=pytest.mark.stress)]
)
def test_many_apps_in_one_process(tmp_path: Path, figure: Figure, count: int, at_once: int) -> None:
    """Each with its own store: it starts, runs a job and stops."""
    threads_before = set(threading.enumerate())
    descriptors_before = open_descriptors()
    began = time.monotonic()
    most = 0
    for first in range(0, count, at_once):
        names = [f"store-{number}" for number in range(first, first + at_once)]
        # A thousand threads take their time.
        apps = [app_on(tmp_path, name, workers=1, enqueue_timeout=60) for name in names]
        for _, delayq, _ in apps:
            delayq.start()
        jobs = [delayq.tasks.get("tell").enqueue() for _, delayq, _ in apps]
        for job, (_, _, ran) in zip(jobs, apps, strict=True):
            assert job.wait(20)
            assert ran == [job.id]
        most = max(most, threading.active_count())
        for _, delayq, _ in apps:
            assert delayq.stop(STOP_TIMEOUT)
    left = [thread.name for thread in threading.enumerate() if thread not in threads_before]
    assert [name for name in left if name != "delayq-launch"] == []
    assert open_descriptors() - descriptors_before == {}
    stores = [str(tmp_path / f"store-{number}.sqlite3") for number in range(count)]
    assert [store for store in stores if Sql.how_many(store)] == []
    figure(f"{count} apps, {at_once} at once, {most} threads at most: {time.monotonic() - began:.1f} s")
