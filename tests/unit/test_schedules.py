"""Periodic rules at run time: added, changed, paused and removed.

On the memory backend, in manual mode, with a clock held by the test; must not know maintenance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flask_delayq import DelayQ
from flask_delayq.errors import (
    ArgumentError,
    ConfigurationError,
    DelayError,
    DelayQError,
    InvalidNameError,
    ScheduleNotFoundError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from flask_delayq.job import ScheduleRecord
from flask_delayq.recurrence import Cron, Every
from flask_delayq.serializer import decode_rule
from flask_delayq.testing import FakeClock
from kit import make_app

START = 1_800_000_000.0  # a full hour


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=START + 1)


@pytest.fixture
def delayq(clock: FakeClock) -> Iterator[DelayQ]:
    _, delayq = make_app(clock=clock)
    yield delayq
    delayq.state.close()


@pytest.fixture
def runs(delayq: DelayQ) -> list[Any]:
    """Calls of the task `report`."""
    runs: list[Any] = []

    @delayq.task(name="report", queue="reports", priority="low")
    def report(kind: str, copies: int = 1) -> None:
        runs.append((kind, copies))

    return runs


def test_a_new_schedule_begins_with_its_next_occurrence(
    delayq: DelayQ, clock: FakeClock, runs: list[Any]
) -> None:
    record = delayq.schedules.add("hourly", "report", ("short",), {"copies": 2}, every=3600)
    assert record.next_due == START + 3600
    assert decode_rule(record.rule) == Every(3600.0)
    assert (record.queue, record.priority, record.from_code, record.paused) == (
        "reports",
        2,
        False,
        False,
    )
    assert delayq.drain() == [] and runs == []
    clock.advance(3598.999)
    assert delayq.drain() == []
    clock.advance(0.001)
    assert len(delayq.drain()) == 1 and delayq.drain() == []
    assert runs == [("short", 2)]


def test_a_schedule_may_have_its_own_queue_and_level(delayq: DelayQ, runs: list[Any]) -> None:
    record = delayq.schedules.add(
        "a", "report", ("x",), every=timedelta(hours=1), queue="slow", priority="high"
    )
    assert (record.queue, record.priority) == ("slow", 0)
    cron = delayq.schedules.add(
        "b", delayq.tasks.get("report"), ("x",), cron="0 3 * * *", timezone="Asia/Tokyo"
    )
    assert decode_rule(cron.rule) == Cron("0 3 * * *", "Asia/Tokyo")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, ConfigurationError),
        ({"every": 60, "cron": "* * * * *"}, ConfigurationError),
        ({"every": 0.01}, ConfigurationError),
        ({"every": math.nan}, DelayError),
        ({"cron": "* * 31 2 *"}, ConfigurationError),
        ({"cron": "* * * * *", "timezone": "Nope"}, ConfigurationError),
        ({"every": 60, "task": "reprot"}, TaskNotFoundError),
        ({"every": 60, "args": ()}, TypeError),
        ({"every": 60, "args": (5,)}, ArgumentError),
        ({"every": 60, "kwargs": {"nope": 1}}, TypeError),
        ({"every": 60, "queue": "a b"}, InvalidNameError),
        ({"every": 60, "priority": "urgent"}, ConfigurationError),
        ({"every": 60, "name": "a b"}, InvalidNameError),
        ({"every": 60, "name": ""}, InvalidNameError),
    ],
    ids=str,
)
def test_what_makes_no_sense_adds_nothing(
    delayq: DelayQ, runs: list[Any], change: dict[str, Any], error: type[Exception]
) -> None:
    given: dict[str, Any] = {"name": "n", "task": "report", "args": ("x",)} | change
    with pytest.raises(error):
        delayq.schedules.add(**given)
    assert delayq.schedules.list() == []


def test_the_same_rule_again_moves_nothing_and_another_one_does(
    delayq: DelayQ, clock: FakeClock, runs: list[Any]
) -> None:
    first = delayq.schedules.add("n", "report", ("x",), every=3600)
    clock.advance(1800)
    again = delayq.schedules.add("n", "report", ("y",), every=3600)
    assert (again.next_due, again.generation) == (first.next_due, first.generation)
    assert again.payload != first.payload
    other = delayq.schedules.add("n", "report", ("y",), every=600)
    assert other.generation == first.generation + 1
    assert other.next_due == START + 2400
    assert [record.name for record in delayq.schedules.list()] == ["n"]


def test_a_paused_schedule_enqueues_nothing_and_what_it_missed_stays_missed(
    delayq: DelayQ, clock: FakeClock, runs: list[Any]
) -> None:
    delayq.schedules.add("n", "report", ("x",), every=3600)
    delayq.schedules.pause("n")
    delayq.schedules.pause("n")
    assert delayq.schedules.get("n").paused
    clock.advance(10 * 3600)
    assert delayq.drain() == []
    delayq.schedules.resume("n")
    record = delayq.schedules.get("n")
    assert not record.paused and record.next_due == START + 11 * 3600
    assert delayq.drain() == []
    clock.advance(3600)
    delayq.drain()
    assert runs == [("x", 1)]


def test_a_removed_schedule_is_gone_and_its_jobs_stay(
    delayq: DelayQ, clock: FakeClock, runs: list[Any]
) -> None:
    delayq.schedules.add("n", "report", ("x",), every=3600)
    clock.advance(3600)
    assert len(delayq.drain(limit=1)) == 1
    delayq.schedules.remove("n")
    clock.advance(36_000)
    assert delayq.drain() == [] and delayq.schedules.list() == []
    assert delayq.counts()["completed"] == 1


@pytest.mark.parametrize("verb", ["get", "pause", "resume", "remove"])
def test_a_schedule_that_is_not_there_says_so(delayq: DelayQ, verb: str) -> None:
    with pytest.raises(ScheduleNotFoundError, match="nope") as caught:
        getattr(delayq.schedules, verb)("nope")
    assert caught.value.name == "nope"
    assert isinstance(caught.value, DelayQError) and isinstance(caught.value, LookupError)


def test_a_backend_without_schedules_is_named(delayq: DelayQ, runs: list[Any]) -> None:
    class Bare:
        url = "bare://"

    delayq.client.backend = Bare()  # type: ignore[assignment]
    for call in (delayq.schedules.list, lambda: delayq.schedules.add("n", "report", ("x",), every=60)):
        with pytest.raises(UnsupportedOperationError, match="bare://"):
            call()


def test_a_schedule_of_an_unknown_time_zone_disturbs_no_enqueue_in_inline_mode() -> None:
    _, delayq = make_app(mode="inline")
    runs: list[int] = []
    task = delayq.task(name="report")(lambda: runs.append(1))
    rule = '{"type":"cron","line":"0 3 * * *","timezone":"America/Nowhere"}'
    schedule = ScheduleRecord("nightly", "report", b"{}", rule, "default", 1, 0.0, from_code=False)
    delayq.state.backend.put_schedule(schedule)
    task.enqueue()
    assert runs == [1]
    with pytest.raises(DelayQError, match="America/Nowhere"):
        delayq.schedules.resume("nightly")
    delayq.state.close()
