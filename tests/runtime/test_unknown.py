"""Jobs of tasks that this process does not know: left to others, told once, given up in the end."""

from __future__ import annotations

from typing import Any

import pytest

from flask_delayq.errors import JobFailedError
from flask_delayq.job import Claim, NewJob, ProcessRecord, StoredState
from flask_delayq.runtime.unknown import GRACE, LOOK_EVERY, UnknownTasks
from flask_delayq.serializer import decode_failure, encode
from runtime_parts import Parts

WEEK = 7 * 86_400.0


class Shared:
    """A process that knows task `ours`, on a store with jobs of others."""

    def __init__(self, **settings: Any) -> None:
        self.parts = Parts(**settings)
        self.clock, self.backend = self.parts.clock, self.parts.backend
        self.ours = self.parts.task(name="ours")
        self.failed: list[str] = []
        self.unknown = UnknownTasks(
            backend=self.backend,
            foreign_tasks=self.parts.executor.foreign_tasks,
            settings=self.parts.settings,
            clock=self.clock,
            owner="owner",
            tell=self._tell,
        )

    def _tell(self, signal: object, job: Claim, error: JobFailedError) -> None:
        assert error.job_id == job.id and "no process knows task" in str(error)
        self.failed.append(job.id)

    def put(self, job_id: str, task: str = "theirs", queue: str = "default") -> None:
        now = self.clock.now()
        job = NewJob(job_id, task, queue, 1, now, now, b"{}")
        self.backend.enqueue([job], now=now, timeout=5)

    def meet(self) -> None:
        """Come across what waits, as a process does at its start."""
        self.parts.turn()
        self.parts.run_all()
        self.parts.recorder.turn(self.clock.now())

    def announce(self, owner: str, **info: Any) -> None:
        now = self.clock.now()
        self.backend.announce(ProcessRecord(owner, 4711, "host", now, now, encode(info)))

    def turn(self, after: float = 0.0) -> None:
        self.clock.advance(after)
        self.unknown.turn(self.clock.now())

    def state(self, job_id: str) -> StoredState:
        found: StoredState = self.backend.get(job_id).stored
        return found


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "theirs" in record.getMessage()]


def test_what_is_met_goes_back_and_only_ours_is_claimed() -> None:
    shared = Shared(workers=2)
    for number in range(20):
        shared.put(f"t{number}")
    shared.meet()
    touched = [job for job in range(20) if shared.backend.get(f"t{job}").claim_no]
    assert 0 < len(touched) < 20
    assert shared.backend.counts(now=shared.clock.now())["ready"] == 20
    mine = shared.ours.enqueue()
    shared.parts.dispatcher.ring()
    shared.meet()
    assert shared.state(mine.id) is StoredState.COMPLETED
    for _ in range(5):
        shared.clock.advance(1)
        shared.parts.dispatcher.ring()
        shared.meet()
    assert [job for job in range(20) if shared.backend.get(f"t{job}").claim_no] == touched


def test_a_delayed_job_of_ours_is_expected_after_a_stranger_was_met() -> None:
    shared = Shared()
    shared.put("t")
    later = shared.ours.enqueue_in(5)
    shared.meet()
    shared.meet()
    assert shared.parts.turn() <= 5
    shared.clock.advance(5)
    shared.meet()
    assert shared.state(later.id) is StoredState.COMPLETED


def test_a_job_that_nobody_knows_is_told_once_and_fails_after_the_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = Shared()
    for number in range(3):
        shared.put(f"t{number}")
    shared.meet()
    for _ in range(5):
        shared.turn(LOOK_EVERY)
    (line,) = [line for line in lines(caplog) if "no process knows" in line]
    assert "3 of its jobs wait" in line and "import its module where the app is made" in line
    shared.turn(WEEK - 5 * LOOK_EVERY - 1)
    assert shared.failed == []
    shared.turn(LOOK_EVERY)
    assert sorted(shared.failed) == ["t0", "t1", "t2"]
    record = shared.backend.get("t0")
    assert (record.stored, record.attempt) == (StoredState.FAILED, 0)
    failure = decode_failure(record.error)
    assert failure is not None and failure.type == "TaskNotFoundError" and "'theirs'" in failure.message


@pytest.mark.parametrize(
    "info", [{"tasks": {"theirs": "x"}, "app": "shop"}, {}], ids=["knows it", "does not tell"]
)
def test_while_another_process_may_know_the_task_its_jobs_wait(
    info: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_delayq")
    shared = Shared()
    shared.put("t")
    shared.announce("other", **info)
    shared.meet()
    shared.turn()
    shared.turn(2 * WEEK)
    assert shared.state("t") is StoredState.WAITING
    assert any("left to process 4711" in line for line in lines(caplog))
    shared.backend.withdraw("other")
    shared.turn(LOOK_EVERY)
    assert shared.state("t") is StoredState.FAILED


def test_the_own_record_proves_nothing() -> None:
    shared = Shared(unknown_task_timeout=5)
    shared.put("t")
    shared.announce("owner")
    shared.meet()
    shared.turn()
    shared.turn(5)
    assert shared.state("t") is StoredState.FAILED


def test_a_process_that_has_just_started_gives_others_time_to_start_as_well() -> None:
    """After an outage that was longer than the timeout."""
    shared = Shared()
    shared.put("t")
    shared.clock.advance(2 * WEEK)
    shared.meet()
    shared.turn()
    shared.turn(GRACE - 1)
    assert shared.state("t") is StoredState.WAITING
    shared.turn(LOOK_EVERY)
    assert shared.state("t") is StoredState.FAILED


def test_only_what_is_served_here_is_given_up() -> None:
    shared = Shared(queues=("default",), unknown_task_timeout=5)
    shared.put("t")
    shared.put("elsewhere", queue="other")
    shared.meet()
    shared.turn()
    shared.turn(60)
    assert (shared.state("t"), shared.state("elsewhere")) == (StoredState.FAILED, StoredState.WAITING)


def test_many_are_given_up_in_steps() -> None:
    shared = Shared(unknown_task_timeout=5)
    for number in range(250):
        shared.put(f"t{number}")
    shared.meet()
    shared.turn()
    shared.turn(60)
    assert len(shared.failed) == 250


def test_a_store_without_strangers_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared()
    shared.ours.enqueue()
    shared.meet()
    monkeypatch.setattr(shared.backend, "waiting_tasks", None)
    shared.turn(2 * WEEK)
    assert shared.parts.executor.foreign_tasks.tasks is None
