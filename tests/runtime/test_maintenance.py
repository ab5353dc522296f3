"""Maintenance turn by turn: announcing, rescuing, periodic tasks, pruning."""

from __future__ import annotations

from typing import Any

import pytest

from flask_delayq.job import ProcessRecord, Stored
from flask_delayq.runtime.maintenance import PRUNE_BATCH, Maintenance
from runtime_parts import Parts


class Upkeep:
    """A maintenance with what it called."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.ready = 0
        self.waiting = 0
        self.maintenance = Maintenance(
            parts.backend,
            parts.registry,
            parts.settings,
            parts.clock,
            self,
            self._describe,
            self._on_ready,
            self._on_waiting,
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


def test_a_lease_is_rescued_exactly_at_its_end() -> None:
    parts = Parts()
    upkeep = Upkeep(parts)
    job = parts.task().enqueue()
    parts.backend.claim(None, now=parts.clock.now(), limit=1, owner="dead", lease=60)
    parts.clock.advance(59.999)
    upkeep.turn()
    assert parts.backend.get(job.id).stored is Stored.RUNNING
    parts.clock.advance(0.001)
    upkeep.turn()
    record = parts.backend.get(job.id)
    assert (record.stored, record.rescues, record.attempt) == (Stored.WAITING, 1, 0)
    assert upkeep.waiting == 1


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
