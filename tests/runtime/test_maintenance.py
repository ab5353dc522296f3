"""Maintenance turn by turn: announcing, rescuing, periodic tasks, pruning."""

from __future__ import annotations

from typing import Any

import pytest

from flask_delayq.errors import JobFailedError
from flask_delayq.job import ProcessRecord, ScheduleRecord, StoredState
from flask_delayq.runtime.maintenance import PRUNE_BATCH, RESCUE_BATCH, Maintenance
from flask_delayq.signals import job_failed
from runtime_parts import Parts


class Upkeep:
    """A maintenance with what it called."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.ready = 0
        self.waiting = 0
        self.may_judge = True
        self.told: list[tuple[Any, dict[str, Any]]] = []
        self.maintenance = Maintenance(
            backend=parts.backend,
            registry=parts.registry,
            settings=parts.settings,
            clock=parts.clock,
            foreign_tasks=parts.executor.foreign_tasks,
            tell=lambda signal, **facts: self.told.append((signal, facts)),
            owner="owner",
            judges_as_of=lambda: parts.clock.monotonic() if self.may_judge else None,
            describe=self._describe,
            on_ready=self._on_ready,
            on_waiting=self._on_waiting,
        )

    def _describe(self) -> ProcessRecord:
        now = self.parts.clock.now()
        return ProcessRecord("owner", 1, "host", now, now, b"{}")

    def _on_ready(self) -> None:
        self.ready += 1

    def _on_waiting(self) -> None:
        self.waiting += 1

    def turn(self) -> float:
        return self.maintenance.turn(self.parts.clock.now())


def jobs_of(parts: Parts) -> list[Any]:
    from flask_delayq.job import JobQuery

    found: list[Any] = parts.backend.list(JobQuery(limit=1000), now=parts.clock.now())
    return found


def test_the_first_turn_announces_the_process_and_says_that_it_is_ready() -> None:
    upkeep = Upkeep(Parts())
    upkeep.turn()
    upkeep.turn()
    assert upkeep.ready == 1
    assert [process.owner for process in upkeep.parts.backend.processes()] == ["owner"]


def test_the_record_is_refreshed_every_ten_seconds() -> None:
    upkeep = Upkeep(Parts())
    upkeep.turn()
    first = upkeep.parts.backend.processes()[0].seen_at
    upkeep.parts.clock.advance(9.9)
    upkeep.turn()
    assert upkeep.parts.backend.processes()[0].seen_at == first
    upkeep.parts.clock.advance(0.1)
    upkeep.turn()
    assert upkeep.parts.backend.processes()[0].seen_at == first + 10


def test_a_turn_that_waits_for_the_store_is_no_clock_that_was_set_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    upkeep.turn()
    monkeypatch.setattr(parts.backend, "announce", lambda process: parts.clock.advance(5))
    parts.clock.advance(10)
    upkeep.turn()
    assert "set back" not in caplog.text


def test_a_lease_is_rescued_exactly_at_its_end() -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    job = parts.task().enqueue()
    parts.backend.claim(None, now=parts.clock.now(), limit=1, owner="dead", lease=60)
    parts.clock.advance(59.999)
    upkeep.turn()
    assert parts.backend.get(job.id).stored is StoredState.RUNNING
    parts.clock.advance(0.001)
    upkeep.turn()
    record = parts.backend.get(job.id)
    assert (record.stored, record.rescues, record.attempt) == (StoredState.WAITING, 1, 0)
    assert upkeep.waiting == 1


def test_receivers_hear_of_a_crash_what_the_store_has() -> None:
    parts = Parts(max_rescues=0)
    upkeep = Upkeep(parts)
    job = parts.task().enqueue()
    (claim,) = parts.backend.claim(None, now=parts.clock.now(), limit=1, owner="dead", lease=60)
    parts.backend.mark_begun(claim)
    parts.clock.advance(60)
    upkeep.turn()
    (error,) = [facts["error"] for signal, facts in upkeep.told if signal is job_failed]
    assert isinstance(error, JobFailedError) and error.job_id == job.id
    assert error.error == str(job.refresh().error) == "Crashed: crashed the worker once"


def test_many_lost_jobs_are_taken_back_without_a_pause() -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    parts.task().enqueue_many([()] * (2 * RESCUE_BATCH + 1))
    upkeep.turn()
    parts.backend.claim(None, now=parts.clock.now(), limit=1000, owner="dead", lease=60)
    parts.clock.advance(60)
    pauses = [upkeep.turn() for _ in range(3)]
    assert {job.rescues for job in jobs_of(parts)} == {1}
    assert max(pauses[:2]) < 0.1
    assert pauses[2] > 0.5


def test_a_new_schedule_begins_with_its_next_occurrence_and_fires_once() -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    parts.task(every=10, name="tick")
    parts.clock.step_wall(3 - parts.clock.now() % 10)
    assert upkeep.turn() <= 1.0
    assert jobs_of(parts) == []
    parts.clock.advance(6.5)
    assert upkeep.turn() == pytest.approx(0.5)
    assert jobs_of(parts) == []
    parts.clock.advance(0.5)
    upkeep.turn()
    upkeep.turn()
    (job,) = jobs_of(parts)
    assert job.run_at % 10 == 0 and job.schedule == "tick"


def test_after_a_downtime_one_job_is_enqueued_for_all_that_was_missed() -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    parts.task(every=1, name="tick")
    upkeep.turn()
    parts.clock.step_wall(315_360_000.0)
    upkeep.turn()
    assert len(jobs_of(parts)) == 1
    parts.clock.advance(1)
    upkeep.turn()
    assert len(jobs_of(parts)) == 2


@pytest.mark.parametrize(
    "rule",
    [
        '{"type":"cron","line":"0 3 * * *","timezone":"America/Nowhere"}',
        '{"type":"cron","line":"0 3 * * *","timezone":"../etc"}',
        '{"type":"cron","line":"0 0 31 2 *"}',
        '{"type":"cron","line":"every noon"}',
        '{"type":"every","seconds":1e-300}',
        '{"type":"yearly"}',
        "{",
    ],
)
def test_a_schedule_that_cannot_be_used_here_is_told_once_and_holds_up_nothing(
    rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    parts.task(every=10, name="tick")
    strange = ScheduleRecord("strange", "tick", b"{}", rule, "default", 1, 0.0, from_code=False)
    parts.backend.put_schedule(strange)
    for _ in range(9):
        upkeep.turn()
        parts.clock.advance(10)
    assert upkeep.ready == 1
    assert {job.schedule for job in jobs_of(parts)} == {"tick"}
    (said,) = [text for text in caplog.messages if "'strange'" in text]
    assert "cannot be used" in said


def test_two_processes_enqueue_one_occurrence() -> None:
    first = Parts()
    second = Parts(first.backend, first.clock)
    for parts in (first, second):
        parts.task(every=5, name="tick")
    ours, theirs = Upkeep(first), Upkeep(second)
    for _ in range(4):
        ours.turn()
        theirs.turn()
        first.clock.advance(5)
    ours.turn()
    theirs.turn()
    assert len(jobs_of(first)) == 4


def test_a_rule_removed_from_the_code_stops_and_unknown_tasks_are_left_alone() -> None:
    parts = Parts()
    parts.task(every=5, name="tick")
    Upkeep(parts).turn()
    stranger = Parts(parts.backend, parts.clock)
    Upkeep(stranger).turn()
    parts.clock.advance(5)
    Upkeep(stranger).turn()
    assert jobs_of(parts) == []  # the stranger does not know the task, so it does not start it
    assert [schedule.name for schedule in parts.backend.schedules()] == ["tick"]
    later = Parts(parts.backend, parts.clock)
    later.task(name="tick")
    Upkeep(later).turn()
    assert parts.backend.schedules() == []


def test_finished_jobs_are_pruned_in_small_batches() -> None:
    parts = Parts(retention=60.0, retention_count=None)
    upkeep = Upkeep(parts)
    parts.client.runner = parts.dispatcher
    parts.dispatcher.turn(parts.clock.now())
    task = parts.task()
    for _ in range(PRUNE_BATCH + 50):
        task.enqueue()
        parts.run_all()
    upkeep.turn()
    parts.clock.advance(61)
    assert upkeep.turn() < 0.1  # more to delete: it comes back soon
    assert len(jobs_of(parts)) == 50
    upkeep.turn()
    assert jobs_of(parts) == []


def test_queues_that_nobody_uses_any_more_do_not_stay_for_ever() -> None:
    parts = Parts(retention=60.0)
    upkeep = Upkeep(parts)
    task = parts.task()
    task.options(queue="used").enqueue_in(864_000)
    upkeep.turn()
    for number in range(300):
        job = task.options(queue=f"invented{number}").enqueue_in(1)
        parts.backend.cancel(job.id, now=parts.clock.now())

    def names() -> list[str]:
        return [queue.name for queue in parts.backend.queues(now=parts.clock.now())]

    assert len(names()) == 301
    for _ in range(3):
        parts.clock.advance(3600)
        while upkeep.turn() < 0.1:  # there is more to prune
            pass
    assert names() == ["used"]
