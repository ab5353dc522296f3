"""``/delayq/metrics``: every number is what the store and the runtime say, in a form that can be parsed.

It must not know who may see it; that is in the table of routes.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_delayq import DelayQ
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import ProcessRecord
from flask_delayq.testing import FakeClock
from kit import make_app, running
from waiting import wait_until

LABELS = r'\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*\}'
SAMPLE = re.compile(rf"(delayq_[a-z_]+)({LABELS})? (-?[0-9.e+-]+|NaN|\+Inf)")


def parsed(app: Flask) -> dict[str, float]:
    """Every sample by its name and labels; fails for what Prometheus would not take."""
    found = app.test_client().get("/delayq/metrics")
    assert found.status_code == 200
    assert found.content_type == "text/plain; version=0.0.4; charset=utf-8"
    samples: dict[str, float] = {}
    announced = ""
    assert found.text.endswith("\n")
    for line in found.text[:-1].split("\n"):
        if line.startswith("# TYPE "):
            announced = line.split()[2]
            assert line == f"# TYPE {announced} gauge"
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] == announced
            key = match[1] + (match[2] or "")
            assert key not in samples
            samples[key] = float(match[3])
    return samples


@pytest.fixture
def made() -> tuple[Flask, DelayQ]:
    app, delayq = make_app(FakeClock())
    app.debug = True
    return app, delayq


def test_jobs_and_queues_are_counted(made: tuple[Flask, DelayQ]) -> None:
    app, delayq = made

    @delayq.task(name="a", queue="x")
    def a(ok: bool = True) -> None:
        assert ok

    a.enqueue()
    a.enqueue(False)
    delayq.drain()
    a.enqueue()
    a.enqueue_in(60)
    delayq.pause("y")
    delayq.state.clock.advance(2.5)  # type: ignore[attr-defined]
    found = parsed(app)
    for state, number in delayq.counts().items():
        assert found[f'delayq_jobs{{state="{state}"}}'] == number
    assert found['delayq_jobs{state="failed"}'] == 1
    assert found['delayq_queue_jobs{queue="x",state="ready"}'] == 1
    assert found['delayq_queue_jobs{queue="x",state="scheduled"}'] == 1
    assert found['delayq_queue_jobs{queue="x",state="running"}'] == 0
    assert found['delayq_queue_oldest_ready_seconds{queue="x"}'] == 2.5
    assert found['delayq_queue_oldest_ready_seconds{queue="y"}'] == 0
    assert (found['delayq_queue_paused{queue="x"}'], found['delayq_queue_paused{queue="y"}']) == (0, 1)
    assert found["delayq_healthy"] == 1
    assert not [key for key in found if "worker" in key or "recorder" in key]  # nobody runs jobs


def test_the_runtime_is_told_by_process(tmp_path: Path) -> None:
    app, delayq = make_app(url=f"sqlite:///{tmp_path / 'store'}", workers=3)
    app.debug = True
    begun, release = threading.Event(), threading.Event()

    @delayq.task(name="a")
    def a() -> None:
        begun.set()
        release.wait(20)

    with running(delayq):
        try:
            a.enqueue()
            assert begun.wait(10)

            def told() -> dict[str, float]:
                found = parsed(app)
                return found if any("workers{" in key for key in found) else {}

            found = wait_until(told, 10, "the process is announced")
        finally:
            release.set()
        (process,) = (key[len("delayq_workers") :] for key in found if key.startswith("delayq_workers{"))
        assert found[f"delayq_workers{process}"] == 3
        assert found[f"delayq_workers_busy{process}"] == 1
        assert found[f"delayq_recorder_backlog{process}"] == 0
        for quantile in ("0.5", "0.99"):
            late = found[f'delayq_lateness_seconds{process[:-1]},quantile="{quantile}"}}']
            assert 0 <= late < 10
        assert found['delayq_store_bytes{file="data"}'] > 0
        assert found['delayq_store_bytes{file="wal"}'] > 0
    wait_until(lambda: not any("workers" in key for key in parsed(app)), 10, "the process is gone")
    delayq.state.close()


def test_a_store_that_cannot_answer_is_a_number_too(
    made: tuple[Flask, DelayQ], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, delayq = made

    def away(*args: Any, **kwargs: Any) -> Any:
        raise BackendUnavailableError("the disk is full", reason="full")

    monkeypatch.setattr(delayq.state.backend, "counts", away)
    assert parsed(app) == {"delayq_healthy": 0.0}


def test_forged_names_and_numbers_stay_one_line(made: tuple[Flask, DelayQ]) -> None:
    app, delayq = made
    backend = delayq.state.backend
    host = 'h"\\\n} 1\ndelayq_healthy 1\u202e\ud800'
    backend.announce(ProcessRecord("o1", 1, host, 0.0, 0.0, b'{"workers":1e308,"busy":"x"}'))
    backend.announce(ProcessRecord("o2", 1, host, 0.0, 0.0, b'{"workers":4,"lateness_p50":1e-9}'))
    backend.announce(ProcessRecord("o3", 1, host, 0.0, 0.0, b'{"workers":5,"lateness_p50":1e308}'))
    found = parsed(app)
    assert sum(key.startswith("delayq_workers{") for key in found) == 2
    assert sum(key.startswith("delayq_healthy") for key in found) == 1
