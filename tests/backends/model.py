"""A naive model of a store, and random verbs that drive a backend side by side with it.

Must not be clever: every question is answered by looking at all jobs. It leaves out what the model
would have to guess, the turns of queues and of the oldest job: claims are strict, from one queue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flask_delayq.errors import JobConflictError, QueueFullError
from flask_delayq.job import Claim, ClaimFor, JobState, NewJob, Outcome, StoredState, Verb
from flask_delayq.testing import FakeClock

LEASE = 60.0
WAITING, RUNNING, COMPLETED, FAILED, CANCELLED = StoredState


@dataclass
class Job:
    new: NewJob
    run_at: float
    stored: StoredState = WAITING
    attempt: int = 0
    claim_no: int = 0
    owner: str | None = None
    rescues: int = 0
    suspect: bool = False
    interrupted: bool = False
    cancel_requested: bool = False
    finished_at: float | None = None
    held_at: float = 0.0  # monotonic moment of the claim or the latest renewal
    lease_end: float = 0.0

    def shown(self) -> tuple[object, ...]:
        return _comparable(self, self.new.queue, self.new.payload)


def _comparable(job: Any, queue: str, payload: bytes) -> tuple[object, ...]:
    return (
        job.stored,
        job.run_at if job.stored is WAITING else None,
        job.attempt,
        job.claim_no,
        job.owner,
        job.rescues,
        job.interrupted if job.stored is RUNNING else None,
        job.cancel_requested if job.stored is RUNNING else None,
        job.finished_at,
        queue,
        payload,
    )


@dataclass
class Model:
    jobs: dict[str, Job] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)

    def of(self, *states: StoredState, queue: str | None = None) -> list[Job]:
        return [
            job for job in self.jobs.values() if job.stored in states and queue in (None, job.new.queue)
        ]

    def enqueue(
        self, jobs: list[NewJob], max_pending: int | None, max_pending_total: int | None
    ) -> list[bool] | type[Exception]:
        known = {job_id: job.new for job_id, job in self.jobs.items()}
        created = []
        for new in jobs:
            there = known.setdefault(new.id, new)
            if (there.task, there.payload) != (new.task, new.payload):
                return JobConflictError
            created.append(there is new)
        fresh = [new for new, is_new in zip(jobs, created, strict=True) if is_new]
        for queue in {new.queue for new in fresh}:
            coming = sum(new.queue == queue for new in fresh)
            waiting = len(self.of(WAITING, queue=queue))
            if max_pending is not None and waiting + coming > max_pending:
                return QueueFullError
        total = len(self.of(WAITING)) + len(fresh)
        if fresh and max_pending_total is not None and total > max_pending_total:
            return QueueFullError
        for new in fresh:
            self.jobs[new.id] = Job(new, new.run_at)
        return created

    def claimable(self, queue: str, now: float, owner: str, tasks: Collection[str] | None) -> list[Job]:
        """In order; of the suspects the first only, and none while the owner runs another."""
        due = [job for job in self.of(WAITING, queue=queue) if job.run_at <= now]
        due = [job for job in due if tasks is None or job.new.task in tasks]
        due.sort(key=lambda job: (job.new.priority, job.run_at, job.new.id))
        suspects = [job for job in due if job.suspect]
        allowed = [] if self.runs_suspect(owner) else suspects[:1]
        return [job for job in due if queue not in self.paused and (not job.suspect or job in allowed)]

    def runs_suspect(self, owner: str) -> bool:
        return any(job.suspect and job.owner == owner for job in self.of(RUNNING))

    def start(self, job: Job, owner: str, mono: float) -> None:
        job.stored, job.owner, job.interrupted = RUNNING, owner, False
        job.claim_no += 1
        job.held_at, job.lease_end = mono, mono + LEASE

    def held(self, claim: Claim) -> Job | None:
        job = self.jobs.get(claim.id)
        if job is None or job.stored is not RUNNING:
            return None
        return job if (job.owner, job.claim_no) == (claim.owner, claim.claim_no) else None

    def finish(self, job: Job, state: StoredState, at: float) -> None:
        job.stored, job.owner, job.finished_at = state, None, at

    def wait(self, job: Job, at: float) -> None:
        if job.cancel_requested:
            self.finish(job, CANCELLED, at)
        else:
            job.stored, job.owner = WAITING, None

    def record(self, one: Outcome) -> bool:
        job = self.held(one.claim)
        if job is None:
            return False
        if one.verb in (Verb.COMPLETE, Verb.FAIL, Verb.CANCEL, Verb.RETRY):
            job.attempt = one.claim.attempt
        if one.verb in (Verb.RETRY, Verb.SNOOZE):
            job.rescues, job.suspect = 0, False
        if one.verb is Verb.INTERRUPT:
            job.interrupted = True
        elif one.verb in (Verb.RETRY, Verb.SNOOZE, Verb.RELEASE):
            job.run_at = job.run_at if one.run_at is None else one.run_at
            self.wait(job, one.at)
        else:
            ends = {Verb.COMPLETE: COMPLETED, Verb.FAIL: FAILED, Verb.CANCEL: CANCELLED}
            self.finish(job, ends[one.verb], one.at)
        return True

    def renew(
        self, owner: str, claims: list[Claim], mono: float, now: float
    ) -> tuple[list[str], list[str]]:
        lost, released = [], []
        kept = []
        for claim in claims:
            job = self.held(claim) if claim.owner == owner else None
            if job is None:
                lost.append(claim.id)
            else:
                kept.append(job)
                job.held_at, job.lease_end = mono, mono + LEASE
        for job in self.of(RUNNING):
            if job.owner == owner and job not in kept and mono - job.held_at >= LEASE / 6:
                released.append(job.new.id)
                self.wait(job, now)
        return lost, released

    def rescue(self, mono: float, now: float, max_rescues: int) -> set[tuple[str, StoredState]]:
        taken = [job for job in self.of(RUNNING) if job.lease_end <= mono]
        for job in taken:
            used_up = job.new.fail_on_crash
            if not job.interrupted:
                job.rescues += 1
                used_up |= job.rescues > max_rescues
            job.suspect = job.rescues >= (2 if max_rescues > 1 else 1)
            if used_up and not job.cancel_requested:
                self.finish(job, FAILED, now)
            else:
                self.wait(job, now)
        return {(job.new.id, job.stored) for job in taken}

    def prune(self, before: float, failed_before: float, keep: int | None) -> int:
        final = [*self.of(COMPLETED, CANCELLED), *self.of(FAILED)]
        final.sort(key=lambda job: (job.stored is FAILED, job.finished_at, job.new.id))
        gone = [
            job
            for job in final
            if (job.finished_at or 0) < (failed_before if job.stored is FAILED else before)
        ]
        left = [job for job in final if job not in gone]
        if keep is not None:
            gone += left[: max(0, len(left) - keep)]
        for job in gone:
            del self.jobs[job.new.id]
        return len(gone)

    def next_due(self, queue: str, owner: str, tasks: Collection[str] | None) -> float | None:
        busy = self.runs_suspect(owner)
        waiting = (j for j in self.of(WAITING, queue=queue) if tasks is None or j.new.task in tasks)
        moments = (j.run_at for j in waiting if not (busy and j.suspect))
        return None if queue in self.paused else min(moments, default=None)

    def counts(self, now: float) -> dict[str, int]:
        counts = dict.fromkeys((state.value for state in JobState), 0)
        for job in self.jobs.values():
            name = job.stored.name.lower()
            if job.stored is WAITING:
                name = "ready" if job.run_at <= now else "scheduled"
            counts[name] += 1
        return counts


ids = st.sampled_from("abcdefgh")
queues = st.sampled_from(["q", "r"])
owners = st.sampled_from(["me", "you"])
offsets = st.sampled_from([-5, 0, 0, 10])
which = st.lists(st.integers(0, 30), max_size=4)
verbs = st.sampled_from([v for v in Verb if v not in (Verb.CLAIM, Verb.RESCUE, Verb.REVIVE)])


TASKS = (None, None, None, {"t"}, {"u", "v"}, {"t", "u"}, ())
"""What a claim may ask for."""


def task_of(job_id: str) -> str:
    return "t" if job_id < "e" else "u"


class Machine(RuleBasedStateMachine):
    """Does the same to a backend and to the model, and compares all they tell."""

    def __init__(self, backend: Any, clock: FakeClock) -> None:
        super().__init__()
        self.backend, self.clock = backend, clock
        self.model = Model()
        self.claims: list[Claim] = []

    def teardown(self) -> None:
        self.backend.close()

    @property
    def now(self) -> float:
        return self.clock.now()

    def chosen(self, numbers: Iterable[int]) -> list[Claim]:
        """Some of the claims ever made, the latest being number 0."""
        found = {n: self.claims[-1 - n] for n in numbers if n < len(self.claims)}
        return list({claim.id: claim for claim in found.values()}.values())

    @rule(
        job_ids=st.lists(ids, min_size=1, max_size=3),
        queue=queues,
        priority=st.integers(0, 2),
        offset=offsets,
        payload=st.sampled_from([b"1", b"1", b"1", b"2"]),
        fail_on_crash=st.booleans(),
        max_pending=st.sampled_from([None, None, 3]),
        max_pending_total=st.sampled_from([None, None, 4]),
        slots=st.sampled_from([None, 0, 1]),
    )
    def enqueue(
        self,
        job_ids: list[str],
        queue: str,
        priority: int,
        offset: float,
        payload: bytes,
        fail_on_crash: bool,
        max_pending: int | None,
        max_pending_total: int | None,
        slots: int | None,
    ) -> None:
        now = self.now
        jobs = [
            NewJob(i, task_of(i), queue, priority, now + offset, now, payload, None, fail_on_crash)
            for i in job_ids
        ]
        waiting = self.model.of(WAITING, queue=queue)
        busy = any(job.run_at <= now and not job.suspect for job in waiting)
        expected = self.model.enqueue(jobs, max_pending, max_pending_total)
        wish = ClaimFor("me", LEASE, slots) if slots is not None else None
        try:
            answers = self.backend.enqueue(
                jobs,
                now=now,
                timeout=5.0,
                max_pending=max_pending,
                max_pending_total=max_pending_total,
                claim_for=wish,
            )
        except (JobConflictError, QueueFullError) as error:
            assert type(error) is expected
            return
        assert [answer.created for answer in answers] == expected
        claims = [answer.claim for answer in answers if answer.claim]
        created = sorted(a.id for a in answers if a.created)
        claimable = bool(slots and created and offset <= 0)
        if claimable and not busy and queue not in self.model.paused:
            assert [claim.id for claim in claims] == created[:1]
        else:
            assert claims == []
        self.started(claims, "me")

    def started(self, claims: list[Claim], owner: str) -> None:
        for claim in claims:
            job = self.model.jobs[claim.id]
            self.model.start(job, owner, self.clock.monotonic())
            assert (claim.owner, claim.claim_no) == (owner, job.claim_no)
            assert (claim.attempt, claim.rescues) == (job.attempt + 1, job.rescues)
        self.claims += claims

    @rule(queue=queues, limit=st.integers(0, 4), owner=owners, tasks=st.sampled_from(TASKS))
    def claim(self, queue: str, limit: int, owner: str, tasks: Collection[str] | None) -> None:
        expected = self.model.claimable(queue, self.now, owner, tasks)[:limit]
        claims = self.backend.claim(
            [queue], now=self.now, limit=limit, owner=owner, lease=LEASE, strict=True, tasks=tasks
        )
        assert [claim.id for claim in claims] == [job.new.id for job in expected]
        self.started(claims, owner)

    @rule(numbers=which, verb=verbs, offset=offsets)
    def record(self, numbers: list[int], verb: Verb, offset: float) -> None:
        run_at = self.now + offset if verb in (Verb.RETRY, Verb.SNOOZE) else None
        batch = [Outcome(claim, verb, self.now, run_at) for claim in self.chosen(numbers)]
        assert self.backend.record(batch, now=self.now) == [self.model.record(o) for o in batch]

    @rule(seconds=st.sampled_from([1, LEASE / 6, 25, LEASE]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(numbers=which, owner=owners)
    def renew(self, numbers: list[int], owner: str) -> None:
        held = self.chosen(numbers)
        lost, released = self.model.renew(owner, held, self.clock.monotonic(), self.now)
        renewal = self.backend.renew(owner, held, lease=LEASE)
        assert sorted(renewal.lost) == sorted(lost)
        assert sorted(renewal.released) == sorted(released)

    @rule(max_rescues=st.integers(0, 2))
    def rescue(self, max_rescues: int) -> None:
        expected = self.model.rescue(self.clock.monotonic(), self.now, max_rescues)
        rescued = self.backend.rescue(now=self.now, max_rescues=max_rescues)
        assert {(one.id, one.state) for one in rescued} == expected

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        stored = self.backend.cancel(job_id, now=self.now)
        job = self.model.jobs.get(job_id)
        if job is None:
            assert stored is None
            return
        if job.stored is WAITING:
            self.model.finish(job, CANCELLED, self.now)
        elif job.stored is RUNNING:
            job.cancel_requested = True
        assert stored is job.stored

    @rule(job_id=ids, offset=offsets)
    def revive(self, job_id: str, offset: float) -> None:
        before = self.backend.revive(job_id, run_at=self.now + offset)
        job = self.model.jobs.get(job_id)
        assert before is (None if job is None else job.stored)
        if job is not None and job.stored in (FAILED, CANCELLED):
            job.attempt = job.rescues = 0
            job.suspect = False
            job.finished_at, job.cancel_requested = None, False
            job.run_at = self.now + offset
            self.model.wait(job, self.now)

    @rule(queue=queues, paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        (self.backend.pause if paused else self.backend.resume)(queue)
        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @rule(
        age=st.sampled_from([0, 30, 1e6]),
        failed_age=st.sampled_from([0, 30, 1e6]),
        keep=st.sampled_from([None, None, 0, 2]),
    )
    def prune(self, age: float, failed_age: float, keep: int | None) -> None:
        before, failed_before = self.now - age, self.now - failed_age
        deleted = self.backend.prune(finished_before=before, failed_before=failed_before, keep=keep)
        assert deleted == self.model.prune(before, failed_before, keep)

    @rule()
    def forget_queues(self) -> None:
        self.backend.forget_queues()
        busy = {job.new.queue for job in self.model.jobs.values()} | self.model.paused
        assert {queue.name for queue in self.backend.queues(now=self.now)} == busy

    @invariant()
    def tells_the_same(self) -> None:
        for job_id in "abcdefgh":
            job, record = self.model.jobs.get(job_id), self.backend.get(job_id)
            if job is None or record is None:
                assert job is record
            else:
                assert _comparable(record, record.queue, record.payload) == job.shown(), job_id
        assert self.backend.counts(now=self.now) == self.model.counts(self.now)
        assert self.backend.audit() == []
        for queue in ("q", "r"):
            for owner, tasks in (("me", None), ("you", None), ("me", {"t"})):
                found = self.backend.next_due([queue], owner=owner, tasks=tasks)
                assert found == self.model.next_due(queue, owner, tasks)


def check_against_model(
    fresh: Callable[[], Any], clock: FakeClock, *, examples: int = 40, random: bool = False
) -> None:
    """Drive backends with random verbs, and stop at the first that tells something else than the model.

    :param random: other verbs at every call; by default the same ones, so that the suite is repeatable.
    """

    class FreshMachine(Machine):
        def __init__(self) -> None:
            super().__init__(fresh(), clock)

    run_state_machine_as_test(
        FreshMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=not random,
            suppress_health_check=list(HealthCheck),
        ),
    )
