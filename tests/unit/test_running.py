"""What a task says and asks about its own job: seldom enough for the store, and never its undoing.

Must not know the executor.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import Claim
from flask_delayq.running import LOOK_EVERY, NOTE_LIMIT, REPORT_EVERY, RunningJob
from flask_delayq.serializer import decode
from flask_delayq.testing import FakeClock


class Store:
    """The two verbs that a running job uses."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.looks = 0
        self.cancelled = False
        self.away = False

    def progress(self, claim: Claim, data: bytes) -> bool:
        if self.away:
            raise BackendUnavailableError("away", reason="locked")
        self.reports.append(decode(data))
        return True

    def cancel_requested(self, claim: Claim) -> bool:
        self.looks += 1
        if self.away:
            raise BackendUnavailableError("away", reason="locked")
        return self.cancelled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=1000.0)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def run(store: Store, clock: FakeClock) -> RunningJob:
    claim = Claim("j1", "mail.send", "mail", b"{}", "me", 7, 3, 990.0, rescues=2)
    return RunningJob(claim, clock.now(), store, clock)  # type: ignore[arg-type]


def test_it_knows_its_job(run: RunningJob) -> None:
    assert (run.id, run.task, run.queue, run.attempt, run.rescues) == ("j1", "mail.send", "mail", 3, 2)
    assert run.started_at == 1000.0


def test_progress_is_stored_as_told(run: RunningJob, store: Store) -> None:
    run.progress(3, 10, "third")
    assert store.reports == [{"done": 3, "total": 10, "note": "third", "at": 1000.0}]


def test_reports_in_quick_succession_are_dropped(
    run: RunningJob, store: Store, clock: FakeClock
) -> None:
    run.progress(1, 10)
    clock.advance(REPORT_EVERY - 0.001)
    run.progress(2, 10)
    assert [report["done"] for report in store.reports] == [1]
    clock.advance(0.001)
    run.progress(3, 10)
    run.progress(4)
    assert [report["done"] for report in store.reports] == [1, 3]


@pytest.mark.parametrize("done", [10, 10.0, 11])
def test_the_last_report_is_always_stored(run: RunningJob, store: Store, done: float) -> None:
    run.progress(9, 10)
    run.progress(9.99, 10)
    run.progress(done, 10)
    assert [report["done"] for report in store.reports] == [9, done]


@pytest.mark.parametrize(
    ("done", "total", "note"),
    [
        ("1", 2, ""),
        (None, 2, ""),
        (1, "2", ""),
        ([1], None, ""),
        (1, 2, None),
        (1, 2, b"x"),
        (1j, None, ""),
    ],
)
def test_what_is_no_number_or_text_is_a_type_error_whenever_it_is_said(
    run: RunningJob, store: Store, done: Any, total: Any, note: Any
) -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match="progress"):
            run.progress(done, total, note)
        run.progress(1)  # from now on reports come too early
    assert [report["done"] for report in store.reports] == [1]


class Real(float):
    pass


@pytest.mark.parametrize(
    "done",
    [math.nan, math.inf, -1, True, 0.1, 2**70, 10**5000, Real(0.5)],
    ids=lambda v: type(v).__name__,
)
def test_no_number_fails_the_job(run: RunningJob, done: Any) -> None:
    run.progress(done, 10)


def test_a_note_is_bounded_and_storable(run: RunningJob, store: Store, clock: FakeClock) -> None:
    run.progress(1, note="x" * 10_000)
    clock.advance(1)
    run.progress(2, note="half \ud800")
    assert [len(report["note"]) for report in store.reports] == [NOTE_LIMIT, len("half ?")]


def test_progress_never_fails_the_job(
    run: RunningJob, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.away = True
    run.progress(1, 10)
    assert "progress of job j1 was not stored" in caplog.text
    store.away = False
    clock.advance(REPORT_EVERY)
    run.progress(2, 10)
    assert len(store.reports) == 1


def test_the_store_is_asked_for_a_cancel_once_a_second(
    run: RunningJob, store: Store, clock: FakeClock
) -> None:
    assert not run.cancel_requested
    store.cancelled = True
    clock.advance(LOOK_EVERY - 0.001)
    assert not run.cancel_requested and store.looks == 1
    clock.advance(0.001)
    assert run.cancel_requested and store.looks == 2
    clock.advance(100)
    assert run.cancel_requested and store.looks == 2, "it is not asked again"


def test_a_wish_of_this_process_is_known_without_a_look(run: RunningJob, store: Store) -> None:
    run.request_cancel()
    assert run.cancel_requested and store.looks == 0


def test_a_store_that_is_away_means_go_on(
    run: RunningJob, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.away = True
    assert not run.cancel_requested
    assert "cannot check whether job j1 was cancelled" in caplog.text


def test_a_step_of_the_wall_clock_disturbs_neither(
    run: RunningJob, store: Store, clock: FakeClock
) -> None:
    run.progress(1)
    assert not run.cancel_requested
    clock.step_wall(-1e9)
    clock.advance(LOOK_EVERY)
    run.progress(2)
    assert not run.cancel_requested
    assert len(store.reports) == 2 and store.looks == 2
