"""Who could not renew may not judge: leases while the store is away, and while everything stands still.

Processes are played by their renewers and upkeep on one store and one clock, turn by turn.
"""

from __future__ import annotations

import pytest

from flask_delayq.backends.base import LONGEST_WAIT
from flask_delayq.backends.sqlite.file import store
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import ProcessRecord, StoredState
from flask_delayq.runtime.held import HeldClaim, HeldClaims
from flask_delayq.runtime.maintenance import Maintenance
from flask_delayq.runtime.renewer import Renewer
from flask_delayq.testing.faults import Fault, FaultyBackend
from runtime_parts import Parts

LEASE = 60.0


class Process:
    """A renewer and the upkeep of one process, with turns of their own."""

    def __init__(self, parts: Parts, owner: str) -> None:
        self.parts = parts
        self.owner = owner
        self.claims = HeldClaims()
        self.backend = FaultyBackend(parts.backend)  # type: ignore[abstract]
        self.renewer = Renewer(
            backend=self.backend,
            clock=parts.clock,
            owner=owner,
            lease=LEASE,
            claims=self.claims,
            on_waiting=lambda: None,
        )
        self.maintenance = Maintenance(
            backend=self.backend,
            registry=parts.registry,
            settings=parts.settings,
            clock=parts.clock,
            foreign_tasks=parts.executor.foreign_tasks,
            tell=lambda signal, **facts: None,
            owner=owner,
            judges_as_of=self.renewer.judges_as_of,
            describe=self._describe,
            on_ready=lambda: None,
            on_waiting=lambda: None,
        )

    def _describe(self) -> ProcessRecord:
        now = self.parts.clock.now()
        return ProcessRecord(self.owner, 1, "host", now, now, b"{}")

    def runs(self) -> str:
        """Let it claim a job; its id."""
        job = self.parts.task().enqueue()
        mono = self.parts.clock.monotonic()
        (claim,) = self.backend.claim(
            None, now=self.parts.clock.now(), limit=1, owner=self.owner, lease=LEASE
        )
        self.claims.add(HeldClaim(claim, None, mono, mono))
        return job.id

    def renew(self) -> None:
        self.renewer.turn(self.parts.clock.now())

    def upkeep(self) -> None:
        self.maintenance.turn(self.parts.clock.now())


@pytest.fixture
def parts() -> Parts:
    return Parts()


def settled(parts: Parts, *processes: Process) -> None:
    """Let time pass in which all of them renew on time."""
    for _ in range(5):
        for process in processes:
            process.renew()
            process.upkeep()
        parts.clock.advance(LEASE / 3)


def state(parts: Parts, job: str) -> tuple[StoredState, int]:
    record = parts.backend.get(job)
    return record.stored, record.rescues


def test_the_wait_of_a_verb_is_no_longer_than_the_judge_assumes() -> None:
    assert store.TIMEOUT <= LONGEST_WAIT


def test_a_process_alone_that_stood_still_is_judged_by_those_that_did_not(parts: Parts) -> None:
    judge, stalled = Process(parts, "judge"), Process(parts, "stalled")
    settled(parts, judge, stalled)
    job = stalled.runs()
    for _ in range(3):
        judge.renew()
        judge.upkeep()
        assert state(parts, job) == (StoredState.RUNNING, 0)
        parts.clock.advance(LEASE / 3)
    judge.renew()
    judge.upkeep()
    assert state(parts, job) == (StoredState.WAITING, 1)


def test_after_everything_stood_still_nobody_is_judged_before_it_could_renew(parts: Parts) -> None:
    judge, other = Process(parts, "judge"), Process(parts, "other")
    settled(parts, judge, other)
    mine, job = judge.runs(), other.runs()
    parts.clock.advance(LEASE * 3)
    judge.upkeep()
    assert state(parts, job) == (StoredState.RUNNING, 0), "it judged before it had renewed itself"
    judge.renew()
    judge.upkeep()
    assert state(parts, job) == (StoredState.RUNNING, 0), "the other one may be about to renew"
    other.renew()
    settled(parts, judge, other)
    assert [state(parts, one) for one in (mine, job)] == [(StoredState.RUNNING, 0)] * 2


def test_who_does_not_come_back_is_judged_after_the_time_to_settle(parts: Parts) -> None:
    judge, dead = Process(parts, "judge"), Process(parts, "dead")
    settled(parts, judge, dead)
    job = dead.runs()
    parts.clock.advance(LEASE * 3)
    judge.renew()
    began = parts.clock.monotonic()
    while state(parts, job) == (StoredState.RUNNING, 0):
        assert parts.clock.monotonic() - began < LEASE
        parts.clock.advance(1)
        if (parts.clock.monotonic() - began) % (LEASE / 3) == 0:
            judge.renew()
        judge.upkeep()
    assert parts.clock.monotonic() - began == judge.renewer.settling == 35.0


@pytest.mark.parametrize("reason", ["locked", "full"])
def test_a_store_that_was_away_costs_no_job(parts: Parts, reason: str) -> None:
    """Each of them in turn is the first to reach the store again."""
    processes = [Process(parts, name) for name in ("one", "two", "three")]
    settled(parts, *processes)
    jobs = [process.runs() for process in processes[:2]]  # the third holds nothing

    def away() -> None:
        raise BackendUnavailableError("away", reason=reason)

    for process in processes:
        process.backend.faults = [
            Fault("renew", process.backend.calls["renew"] + n, action=away) for n in range(1, 19)
        ]
    for _ in range(18):
        parts.clock.advance(LEASE / 6)
        for process in processes:
            with pytest.raises(BackendUnavailableError):
                process.renew()
    for first in (2, 0, 1):
        processes[first].upkeep()
        processes[first].renew()
        processes[first].upkeep()
        assert [state(parts, job) for job in jobs] == [(StoredState.RUNNING, 0)] * 2
    settled(parts, *processes)
    assert [state(parts, job) for job in jobs] == [(StoredState.RUNNING, 0)] * 2


def test_a_runtime_never_takes_its_own_jobs_back(parts: Parts) -> None:
    """Its renewals go on, but one claim is not among the held ones: that is no crash."""
    process = Process(parts, "one")
    settled(parts, process)
    job = process.runs()
    process.backend.faults = []
    parts.clock.advance(LEASE / 3)
    process.renew()
    # As if the renewal had not reached this one.
    parts.backend._store.rows[job].lease_end = float("-inf")
    process.upkeep()
    assert state(parts, job) == (StoredState.RUNNING, 0)


def test_a_process_that_has_just_begun_judges_no_leases(parts: Parts) -> None:
    old = Process(parts, "old")
    job = old.runs()
    parts.clock.advance(LEASE * 2)
    young = Process(parts, "young")
    young.upkeep()
    young.renew()
    young.upkeep()
    assert state(parts, job) == (StoredState.RUNNING, 0), "it cannot know what was before it"


def test_what_begins_while_a_renewal_is_put_together_is_no_orphan(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewer looks at the held claims, and stands still before it comes to the clock."""
    process = Process(parts, "one")
    held = process.claims.held
    began: list[str] = []

    def begins_meanwhile() -> object:
        found = held()
        began.append(process.runs())
        parts.clock.advance(LEASE / 6)
        return found

    monkeypatch.setattr(process.claims, "held", begins_meanwhile)
    process.renew()
    assert state(parts, began[0]) == (StoredState.RUNNING, 0)
