"""The specification of a backend in executable form: a backend inherits what its capabilities cover.

Must not know any backend. It needs these fixtures:

``clock``    a FakeClock
``backend``  a backend on an empty store, reading that clock
``reopen``   returns another backend object on the same store
``fresh``    returns a backend on a new empty store, reading the same clock
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Any, TypeAlias

import pytest
from msgspec.structs import replace

from backends.model import check_against_model
from flask_delayq.backends import endings
from flask_delayq.backends.base import Backend, Inspectable, Schedulable
from flask_delayq.errors import JobConflictError, JobNotFoundError, QueueFullError
from flask_delayq.job import (
    TRANSITIONS,
    Claim,
    ClaimFor,
    Enqueued,
    Failure,
    JobQuery,
    JobRecord,
    JobState,
    NewJob,
    Outcome,
    Priority,
    ProcessRecord,
    QueueInfo,
    Rescue,
    ScheduleRecord,
    StoredState,
    TaskInfo,
    Verb,
)
from flask_delayq.serializer import decode_failure
from flask_delayq.testing import FakeClock

NOW = FakeClock().now()
LEASE = 60.0
TICK = 1e-6
"""The smallest step that every engine can tell apart."""

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
WISH = ClaimFor("me", LEASE, 100)
HOSTILE = (
    "it's",
    'say "hi"',
    "a\0b",
    "🙈 sí ß 中",
    "'); DROP TABLE job; --",
    "%s %(x)s {x} $1 ?1 :x",
    "back\\slash\n\r\t",
    " padded ",
    "NULL",
    "*",
)


class Inspected(Backend, Inspectable):
    """For type checkers: what the fixture gives where a test needs Inspectable as well."""


class Scheduled(Backend, Schedulable):
    """For type checkers: what the fixture gives where a test needs Schedulable as well."""


Fresh: TypeAlias = Callable[[], Any]


# --- saying it briefly ---------------------------------------------------------------------------


def new(job_id: str, **fields: Any) -> NewJob:
    """A job that is due at NOW."""
    values: dict[str, Any] = {
        "task": "work",
        "queue": "default",
        "priority": NORMAL,
        "run_at": NOW,
        "enqueued_at": NOW - 1,
        "payload": b'{"x":1}',
    }
    return NewJob(id=job_id, **{**values, **fields})


def some(count: int, prefix: str = "job", **fields: Any) -> list[NewJob]:
    return [new(f"{prefix}-{i:04d}", **fields) for i in range(count)]


def put(
    backend: Backend,
    *jobs: NewJob,
    now: float = NOW,
    max_pending: int | None = None,
    max_pending_total: int | None = None,
    claim_for: ClaimFor | None = None,
) -> list[Enqueued]:
    return backend.enqueue(
        jobs,
        now=now,
        timeout=5.0,
        max_pending=max_pending,
        max_pending_total=max_pending_total,
        claim_for=claim_for,
    )


def take(
    backend: Backend,
    limit: int = 100,
    *,
    queues: Sequence[str] | None = None,
    now: float = NOW,
    owner: str = "me",
    lease: float = LEASE,
    strict: bool = False,
    tasks: Collection[str] | None = None,
) -> list[Claim]:
    return backend.claim(
        queues, now=now, limit=limit, owner=owner, lease=lease, strict=strict, tasks=tasks
    )


def take_one(backend: Backend, **options: Any) -> Claim:
    (claim,) = take(backend, 1, **options)
    return claim


def started(backend: Backend, job_id: str = "a", **fields: Any) -> Claim:
    """A job that runs."""
    put(backend, new(job_id, **fields))
    return take_one(backend)


def end(backend: Backend, claim: Claim, verb: Verb = Verb.COMPLETE, **fields: Any) -> bool:
    (written,) = backend.record([outcome(claim, verb, **fields)], now=fields.get("at", NOW))
    return written


def outcome(claim: Claim, verb: Verb = Verb.COMPLETE, **fields: Any) -> Outcome:
    fields.setdefault("at", NOW)
    if verb in (Verb.RETRY, Verb.SNOOZE):
        fields.setdefault("run_at", NOW)
    return Outcome(claim, verb, **fields)


def rescue(backend: Backend, **options: Any) -> list[Rescue]:
    return backend.rescue(**{"now": NOW, "max_rescues": 3, **options})


def crash(backend: Backend, clock: FakeClock, job_id: str = "a", **fields: Any) -> Rescue:
    """Let a job run, and its owner vanish."""
    started(backend, job_id, **fields)
    clock.advance(LEASE)
    (rescued,) = rescue(backend)
    return rescued


def make_suspects(backend: Backend, clock: FakeClock, *jobs: NewJob) -> None:
    """Let jobs crash twice and wait again."""
    put(backend, *jobs)
    for _ in range(2):
        assert len(take(backend)) == len(jobs)
        clock.advance(LEASE)
        assert len(rescue(backend)) == len(jobs)


def ids(things: Iterable[Any]) -> list[str]:
    return [thing.id for thing in things]


def record_of(backend: Inspectable, job_id: str = "a") -> JobRecord:
    record = backend.get(job_id)
    assert record is not None
    return record


def in_threads(count: int, work: Callable[[int], object]) -> list[Any]:
    """What `work(0)` ... `work(count - 1)` return or raise, begun all at once."""
    gate = threading.Barrier(count)
    answers: list[Any] = [None] * count

    def run(number: int) -> None:
        gate.wait(10)
        try:
            answers[number] = work(number)
        except Exception as error:  # it is the answer
            answers[number] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return answers


class EnqueueConformance:
    """Putting jobs in."""

    def test_enqueue_answers_each_job_in_order(self, backend: Backend) -> None:
        jobs = [new("b"), new("a"), new("c", run_at=NOW + 5)]
        assert put(backend, *jobs) == [Enqueued(i, True) for i in ("b", "a", "c")]

    def test_enqueue_of_nothing_is_nothing(self, backend: Backend) -> None:
        assert put(backend) == []
        assert take(backend) == []

    def test_what_was_enqueued_comes_out_unchanged(self, backend: Backend, clock: FakeClock) -> None:
        fields: dict[str, Any] = {
            "task": "mail.send",
            "queue": "mail",
            "priority": LOW,
            "run_at": NOW - 2.5,
        }
        put(backend, new("a", payload=b"\x00\xff{}", max_attempts=7, **fields))
        assert take(backend, owner="w1") == [
            Claim(
                id="a",
                payload=b"\x00\xff{}",
                owner="w1",
                claim_no=1,
                attempt=1,
                rescues=0,
                max_attempts=7,
                enqueued_at=NOW - 1,
                leased_at=clock.monotonic(),
                **fields,
            )
        ]

    def test_what_was_enqueued_is_seen_by_other_objects(self, backend: Backend, reopen: Fresh) -> None:
        put(backend, new("a"))
        assert ids(take(reopen())) == ["a"]
        assert take(backend) == []

    def test_enqueue_again_finds_the_job_there(self, backend: Backend) -> None:
        put(backend, new("a"))
        assert put(backend, new("a"), new("b")) == [Enqueued("a", False), Enqueued("b", True)]
        assert ids(take(backend)) == ["a", "b"]

    def test_enqueue_again_ignores_what_is_neither_task_nor_payload(self, backend: Backend) -> None:
        put(backend, new("a"))
        again = new("a", queue="other", priority=HIGH, run_at=NOW + 9, max_attempts=2)
        assert put(backend, again) == [Enqueued("a", False)]
        (claim,) = take(backend)
        assert (claim.queue, claim.priority, claim.run_at) == ("default", NORMAL, NOW)

    @pytest.mark.parametrize("state", ["running", "completed", "failed", "retrying"])
    def test_enqueue_again_in_any_state_changes_nothing(self, backend: Backend, state: str) -> None:
        claim = started(backend)
        if state != "running":
            verb = {"completed": Verb.COMPLETE, "failed": Verb.FAIL}.get(state, Verb.RETRY)
            end(backend, claim, verb, **({"run_at": NOW + 9} if verb is Verb.RETRY else {}))
        assert put(backend, new("a"), claim_for=WISH) == [Enqueued("a", False)]
        assert take(backend) == []

    @pytest.mark.parametrize("change", [{"payload": b'{"x":2}'}, {"task": "other"}])
    @pytest.mark.parametrize("final", [False, True])
    def test_an_id_taken_by_another_call_is_a_conflict(
        self, backend: Backend, change: dict[str, Any], final: bool
    ) -> None:
        claim = started(backend)
        if final:
            end(backend, claim)
        with pytest.raises(JobConflictError) as caught:
            put(backend, new("a", **change))
        assert caught.value.job_id == "a"

    def test_one_conflict_and_nothing_is_stored(self, backend: Backend) -> None:
        put(backend, new("a", run_at=NOW + 9))
        with pytest.raises(JobConflictError):
            put(backend, new("b"), new("a", task="other"), new("c"), claim_for=WISH)
        assert take(backend) == []
        assert put(backend, new("b"), new("c")) == [Enqueued("b", True), Enqueued("c", True)]

    def test_an_id_twice_in_one_call_is_one_job(self, backend: Backend) -> None:
        answers = put(backend, new("a"), new("b"), new("a"))
        assert answers == [Enqueued("a", True), Enqueued("b", True), Enqueued("a", False)]
        assert ids(take(backend)) == ["a", "b"]

    def test_an_id_for_two_calls_in_one_call_is_a_conflict(self, backend: Backend) -> None:
        with pytest.raises(JobConflictError):
            put(backend, new("a"), new("a", payload=b"[]"))
        assert take(backend) == []

    def test_equal_calls_from_many_threads_are_one_job(self, backend: Backend) -> None:
        answers = in_threads(8, lambda _: put(backend, new("a"))[0].created)
        assert Counter(answers) == {True: 1, False: 7}
        assert ids(take(backend)) == ["a"]

    # max_pending

    def test_max_pending_is_exact(self, backend: Backend) -> None:
        put(backend, *some(2), max_pending=3)
        with pytest.raises(QueueFullError) as caught:
            put(backend, new("x"), new("y"), max_pending=3)
        assert (caught.value.queue, caught.value.limit) == ("default", 3)
        assert put(backend, new("x"), max_pending=3) == [Enqueued("x", True)]
        with pytest.raises(QueueFullError):
            put(backend, new("z"), max_pending=3)
        assert ids(take(backend)) == ["job-0000", "job-0001", "x"]

    def test_max_pending_counts_scheduled_jobs(self, backend: Backend) -> None:
        put(backend, new("a", run_at=NOW + 9), max_pending=1)
        with pytest.raises(QueueFullError):
            put(backend, new("b"), max_pending=1)

    def test_max_pending_counts_each_queue_apart_and_refuses_the_whole_call(
        self, backend: Backend
    ) -> None:
        put(backend, new("a", queue="full"), max_pending=1)
        with pytest.raises(QueueFullError) as caught:
            put(backend, new("b", queue="free"), new("c", queue="full"), max_pending=1)
        assert caught.value.queue == "full"
        assert put(backend, new("b", queue="free"), max_pending=1)[0].created

    def test_max_pending_does_not_count_running_and_final_jobs(self, backend: Backend) -> None:
        end(backend, started(backend, "a"))
        started(backend, "b")
        assert put(backend, new("c"), max_pending=1)[0].created

    def test_a_known_job_makes_no_queue(self, backend: Inspectable) -> None:
        put(backend, new("a", queue="one"))
        assert put(backend, new("a", queue="two")) == [Enqueued("a", False)]
        with pytest.raises(JobConflictError):
            put(backend, new("a", queue="three", payload=b"{}"))
        assert [queue.name for queue in backend.queues(now=NOW)] == ["one"]

    def test_max_pending_lets_known_jobs_pass(self, backend: Backend) -> None:
        put(backend, *some(3))
        assert put(backend, *some(3), max_pending=1) == [Enqueued(j.id, False) for j in some(3)]
        assert put(backend, *some(4), *some(4), max_pending=4)[3].created

    def test_max_pending_counts_what_is_claimed_in_the_same_step(self, backend: Backend) -> None:
        with pytest.raises(QueueFullError):
            put(backend, *some(2), max_pending=1, claim_for=WISH)
        assert put(backend, new("a"), max_pending=1, claim_for=WISH)[0].claim is not None

    def test_max_pending_counts_what_came_without_a_limit(self, backend: Backend) -> None:
        put(backend, *some(4))
        take(backend, 2)
        with pytest.raises(QueueFullError):
            put(backend, new("x"), max_pending=2)
        put(backend, new("y"))
        assert put(backend, new("x"), max_pending=4)[0].created

    def test_max_pending_counts_what_waits_again(self, backend: Backend) -> None:
        put(backend, *some(2), max_pending=2)
        first, second = take(backend)
        assert put(backend, new("x"), max_pending=2)[0].created
        end(backend, first, Verb.RELEASE)
        end(backend, second, Verb.COMPLETE)
        with pytest.raises(QueueFullError):
            put(backend, new("y"), max_pending=2)
        assert put(backend, new("y"), max_pending=3)[0].created

    def test_max_pending_holds_among_all_objects(self, backend: Backend, reopen: Fresh) -> None:
        put(backend, new("a"), max_pending=3)
        other = reopen()
        put(other, new("b"))
        put(backend, new("c"))
        for one in (other, backend):
            with pytest.raises(QueueFullError):
                put(one, new("d"), max_pending=3)
        take(other, 1)
        assert put(backend, new("d"), max_pending=3)[0].created

    @pytest.mark.parametrize("more", [(), (new("y"),)], ids=["single", "batch"])
    def test_the_limit_of_all_queues_together(self, backend: Backend, more: tuple[NewJob, ...]) -> None:
        put(backend, new("a", queue="one"), new("b", queue="two", run_at=NOW + 9))
        with pytest.raises(QueueFullError) as caught:
            put(backend, new("x", queue="three"), *more, max_pending_total=2)
        assert (caught.value.queue, caught.value.limit) == (None, 2)
        assert put(backend, new("a", queue="one"), max_pending_total=2) == [Enqueued("a", False)]
        take(backend)
        answers = put(backend, new("x", queue="three"), *more, max_pending=2, max_pending_total=3)
        assert answers[0].created

    def test_a_queue_that_is_full_is_named_before_the_store(self, backend: Backend) -> None:
        put(backend, new("a"), max_pending=1, max_pending_total=1)
        with pytest.raises(QueueFullError) as caught:
            put(backend, new("b"), max_pending=1, max_pending_total=1)
        assert caught.value.queue == "default"
        # What is refused leaves no queue behind.
        with pytest.raises(QueueFullError) as caught:
            put(backend, new("b", queue="other"), max_pending=1, max_pending_total=1)
        assert caught.value.queue is None
        if isinstance(backend, Inspectable):
            assert "unknown" not in [queue.name for queue in backend.queues(now=NOW)]

    def test_max_pending_holds_against_many_threads(self, backend: Backend) -> None:
        answers = in_threads(50, lambda i: put(backend, new(f"t{i}"), max_pending=20))
        assert Counter(type(answer) for answer in answers) == {list: 20, QueueFullError: 30}
        assert len(take(backend)) == 20

    # claim_for

    def test_claim_for_claims_in_the_same_step(self, backend: Backend, clock: FakeClock) -> None:
        wish = ClaimFor("w7", LEASE, 1)
        (answer,) = put(backend, new("a", max_attempts=2), claim_for=wish)
        assert answer.created
        assert answer.claim == Claim(
            id="a",
            task="work",
            queue="default",
            payload=b'{"x":1}',
            owner="w7",
            claim_no=1,
            attempt=1,
            run_at=NOW,
            max_attempts=2,
            enqueued_at=NOW - 1,
            priority=NORMAL,
            leased_at=clock.monotonic(),
        )
        assert take(backend) == []
        assert end(backend, answer.claim)

    def test_claim_for_gives_a_lease(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, new("a"), claim_for=ClaimFor("me", 5.0, 1))
        clock.advance(5.0 - TICK)
        assert rescue(backend) == []
        clock.advance(TICK)
        assert ids(rescue(backend)) == ["a"]

    def test_a_claim_says_when_its_lease_began(self, backend: Backend, clock: FakeClock) -> None:
        clock.advance(7.0)
        put(backend, new("later", run_at=NOW + 1))
        (one,) = put(backend, new("a"), claim_for=WISH)
        many = put(backend, new("b"), new("c"), claim_for=WISH)
        began = [answer.claim.leased_at for answer in (one, *many) if answer.claim]
        assert began == [clock.monotonic()] * 3
        clock.advance(2.0)
        (claim,) = take(backend, now=NOW + 1)
        assert claim.leased_at == clock.monotonic()

    @pytest.mark.parametrize(("run_at", "claimed"), [(NOW, True), (NOW + TICK, False)])
    def test_claim_for_takes_due_jobs_only(self, backend: Backend, run_at: float, claimed: bool) -> None:
        (answer,) = put(backend, new("a", run_at=run_at), claim_for=WISH)
        assert (answer.claim is not None) is claimed

    def test_claim_for_fills_its_slots_in_the_order_of_claims(self, backend: Backend) -> None:
        jobs = [
            new("d"),
            new("c"),
            new("b", run_at=NOW - 1),
            new("e", priority=HIGH),
            new("a", priority=LOW, run_at=NOW - 9),
        ]
        answers = put(backend, *jobs, claim_for=ClaimFor("me", LEASE, 3))
        assert ids(answers) == ["d", "c", "b", "e", "a"]
        assert [answer.id for answer in answers if answer.claim] == ["c", "b", "e"]
        assert ids(take(backend)) == ["d", "a"]

    def test_claim_for_without_slots_claims_nothing(self, backend: Backend) -> None:
        none = ClaimFor("me", LEASE, 0)
        assert put(backend, new("a"), claim_for=none) == [Enqueued("a", True)]
        assert put(backend, *some(2), claim_for=none)[1].claim is None

    def test_claim_for_leaves_the_place_to_older_due_work(self, backend: Backend) -> None:
        put(backend, new("old"))
        assert put(backend, new("a", priority=HIGH), claim_for=WISH) == [Enqueued("a", True)]
        assert [a.claim for a in put(backend, *some(2), claim_for=WISH)] == [None, None]
        assert len(take(backend)) == 4

    def test_claim_for_passes_by_work_that_is_not_due_or_runs_or_is_elsewhere(
        self, backend: Backend
    ) -> None:
        started(backend, "running")
        put(backend, new("later", run_at=NOW + TICK), new("elsewhere", queue="other"))
        (answer,) = put(backend, new("a"), claim_for=WISH)
        assert answer.claim is not None

    def test_claim_for_judges_each_queue_by_itself(self, backend: Backend) -> None:
        put(backend, new("old", queue="busy"))
        answers = put(backend, new("a", queue="busy"), new("b", queue="idle"), claim_for=WISH)
        assert [answer.claim is not None for answer in answers] == [False, True]

    def test_claim_for_shares_the_slots_between_the_queues(self, backend: Backend) -> None:
        jobs = some(3, "a", queue="a") + some(3, "b", queue="b")
        answers = put(backend, *jobs, claim_for=ClaimFor("me", LEASE, 2))
        assert [a.id for a in answers if a.claim] == ["a-0000", "b-0000"]

    def test_claim_for_claims_no_job_twice(self, backend: Backend) -> None:
        first, second = put(backend, new("a"), new("a"), claim_for=WISH)
        assert first.claim is not None
        assert second == Enqueued("a", False)
        assert put(backend, new("a"), claim_for=WISH) == [Enqueued("a", False)]


class ClaimConformance:
    """Taking jobs out."""

    def test_an_empty_store_has_nothing(self, backend: Backend) -> None:
        assert take(backend) == []
        assert backend.next_due(None, owner="me") is None
        assert backend.upcoming(None, after=0, until=NOW, limit=10) == []
        assert rescue(backend) == []
        assert backend.record([], now=NOW) == []
        assert backend.prune(finished_before=NOW, failed_before=NOW, keep=0) == 0

    @pytest.mark.parametrize(("run_at", "due"), [(-TICK, True), (0, True), (TICK, False)])
    def test_a_job_is_due_from_its_very_moment_on(
        self, backend: Backend, run_at: float, due: bool
    ) -> None:
        put(backend, new("a", run_at=NOW + 5 + run_at))
        assert ids(take(backend, now=NOW + 5)) == (["a"] if due else [])

    def test_the_present_is_the_callers_not_the_clocks(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, new("a", run_at=NOW + 5))
        clock.step_wall(99)
        assert take(backend, now=NOW) == []
        clock.step_wall(-999)
        assert ids(take(backend, now=NOW + 5)) == ["a"]

    @pytest.mark.parametrize("run_at", [0, -1.5, 1_700_000_000, 2**53, 2**70])
    def test_any_moment_can_be_stored(self, backend: Backend, run_at: float) -> None:
        put(backend, new("a", run_at=run_at))
        assert backend.next_due(None, owner="me") == run_at
        assert [claim.run_at for claim in take(backend, now=float(run_at))] == [run_at]

    def test_limit_is_kept(self, backend: Backend) -> None:
        put(backend, *some(5))
        assert take(backend, 0) == []
        assert [len(take(backend, 2)) for _ in range(4)] == [2, 2, 1, 0]

    def test_order_is_priority_then_moment_then_id(self, backend: Backend) -> None:
        put(
            backend,
            new("d", priority=LOW, run_at=NOW - 9),
            new("c", run_at=NOW - 1),
            new("b", run_at=NOW - 1),
            new("a"),
            new("f", run_at=NOW - 2),
            new("e", priority=HIGH),
        )
        assert ids(take(backend)) == ["e", "f", "b", "c", "a", "d"]

    def test_order_is_the_same_one_by_one(self, backend: Backend) -> None:
        put(backend, *some(3, "n"), *some(2, "l", priority=LOW), *some(2, "h", priority=HIGH))
        taken = [take_one(backend).id for _ in range(7)]
        assert taken == ids(some(2, "h") + some(3, "n") + some(2, "l"))

    def test_every_eighth_claim_of_a_queue_takes_the_oldest(self, backend: Backend) -> None:
        put(backend, *some(20, "h", priority=HIGH), *some(9, "l", priority=LOW, run_at=NOW - 9))
        first, second = ids(take(backend, 5)), ids(take(backend, 12))
        taken = first + second
        assert [i + 1 for i, job_id in enumerate(taken) if job_id[0] == "l"] == [8, 16]
        assert taken[7] == "l-0000"
        assert taken[15] == "l-0001"

    def test_the_turn_of_the_oldest_falls_to_the_next_job_in_order_if_that_is_older(
        self, backend: Backend
    ) -> None:
        put(backend, *some(9, "h", priority=HIGH, run_at=NOW - 9), *some(2, "l", priority=LOW))
        assert all(job_id[0] == "h" for job_id in ids(take(backend, 9)))

    def test_strict_has_no_turn_of_the_oldest(self, backend: Backend) -> None:
        put(backend, *some(9, "h", priority=HIGH), *some(9, "l", priority=LOW, run_at=NOW - 9))
        assert all(job_id[0] == "h" for job_id in ids(take(backend, 9, strict=True)))

    def test_queues_take_turns(self, backend: Backend) -> None:
        put(backend, *some(3, "a", queue="a"), *some(2, "b", queue="b"), *some(1, "c", queue="c"))
        taken = ids(take(backend))
        assert [job_id[0] for job_id in taken] == ["a", "b", "c", "a", "b", "a"]

    def test_queues_take_turns_from_call_to_call(self, backend: Backend) -> None:
        for name in "abc":
            put(backend, *some(3, name, queue=name))
        taken = [take_one(backend).queue for _ in range(7)]
        assert taken == ["a", "b", "c", "a", "b", "c", "a"]

    def test_a_full_queue_does_not_keep_another_waiting(self, backend: Backend) -> None:
        put(backend, *some(50, "a", queue="a", priority=HIGH), new("z", queue="b", priority=LOW))
        assert "z" in ids(take(backend, 2))

    def test_only_the_queues_asked_for(self, backend: Backend) -> None:
        for name in "abc":
            put(backend, new(name, queue=name))
        assert take(backend, queues=[]) == []
        assert take(backend, queues=["unknown"]) == []
        assert ids(take(backend, queues=["c", "a", "c"])) == ["a", "c"]
        assert ids(take(backend)) == ["b"]

    def test_only_the_tasks_asked_for(self, backend: Backend) -> None:
        put(
            backend, *some(3, "x", task="x", run_at=NOW - 9), *some(3, "y", task="y"), new("z", task="z")
        )
        assert take(backend, tasks=[]) == []
        assert ids(take(backend, tasks={"y", "unknown"})) == ["y-0000", "y-0001", "y-0002"]
        assert ids(take(backend, 3, tasks={"x", "z"}, queues=["other"])) == []
        assert ids(take(backend, 3, tasks={"x", "z"}, queues=["default"])) == [
            "x-0000",
            "x-0001",
            "x-0002",
        ]
        assert ids(take(backend)) == ["z"]

    def test_the_order_among_tasks_is_that_among_all(self, backend: Backend) -> None:
        moments = [(level, NOW - 20 + i % 7) for level in Priority for i in range(9)]
        jobs = [
            new(f"j{i:02}", task="abc"[i % 3], queue="pq"[i % 2], priority=level, run_at=run_at)
            for i, (level, run_at) in enumerate(moments)
        ]
        put(backend, *jobs)
        expected = sorted(
            (j for j in jobs if j.task != "b" and j.queue == "p"),
            key=lambda job: (job.priority, job.run_at, job.id),
        )
        taken = []
        while more := take(backend, 2, queues=["p"], tasks={"a", "c"}, strict=True):
            taken += ids(more)
        assert taken == [job.id for job in expected]
        assert len(take(backend)) == len(jobs) - len(taken)

    def test_every_eighth_claim_of_some_tasks_takes_their_oldest(self, backend: Backend) -> None:
        put(backend, new("foreign", task="other", priority=LOW, run_at=NOW - 99))
        put(backend, *some(20, priority=HIGH), new("old", priority=LOW, run_at=NOW - 9))
        assert ids(take(backend, 8, tasks={"work"}))[7] == "old"

    def test_tasks_of_a_paused_queue_wait(self, backend: Inspected) -> None:
        put(backend, new("a"))
        backend.pause("default")
        assert take(backend, tasks={"work"}) == []
        assert backend.next_due(None, owner="me", tasks={"work"}) is None

    def test_a_suspect_is_taken_if_its_task_is_asked_for(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        for task in ("x", "y"):
            put(backend, new(task, task=task, run_at=NOW - (task == "x")))
            for _ in range(2):
                take(backend, tasks={task})
                clock.advance(LEASE)
                rescue(backend)
        assert backend.next_due(None, owner="me", tasks={"y"}) == NOW
        assert backend.next_due(None, owner="me", tasks={"x"}) == NOW - 1
        assert backend.next_due(None, owner="me", tasks={"z"}) is None
        assert take(backend, tasks={"z"}) == []
        assert ids(take(backend, tasks={"y"})) == ["y"]
        assert backend.next_due(None, owner="me", tasks={"x"}) is None
        assert take(backend, tasks={"x"}) == []
        assert ids(take(backend, tasks={"x"}, owner="you")) == ["x"]

    def test_next_due_and_upcoming_of_some_tasks(self, backend: Backend) -> None:
        put(
            backend, new("a", task="x", run_at=NOW + 1), new("b", task="y", run_at=NOW + 2, priority=LOW)
        )
        put(backend, new("c", task="y", run_at=NOW + 3, queue="other"))
        found = [
            backend.next_due(None, owner="me", tasks=tasks) for tasks in ({"x"}, {"y"}, ["x", "y"], ())
        ]
        assert found == [NOW + 1, NOW + 2, NOW + 1, None]
        assert backend.next_due(["other"], owner="me", tasks={"x"}) is None
        assert backend.next_due(["other"], owner="me", tasks={"y"}) == NOW + 3
        page = backend.upcoming(None, after=NOW, until=NOW + 9, limit=1, tasks={"y"})
        page += backend.upcoming(None, after=NOW + 2, until=NOW + 9, limit=1, tasks={"y"})
        assert page == [(NOW + 2, "b"), (NOW + 3, "c")]
        assert backend.upcoming(None, after=NOW, until=NOW + 9, limit=9, tasks=()) == []

    def test_jobs_that_come_and_go_after_tasks_were_asked_for(self, backend: Backend) -> None:
        put(backend, new("a", task="x"), new("later", task="x", run_at=NOW + 5))
        assert take(backend, tasks={"y"}) == []
        put(backend, new("b", task="y"), new("c", task="x"))
        assert ids(take(backend, tasks={"y"})) == ["b"]
        (a,) = take(backend, 1, tasks={"x"})
        end(backend, a, Verb.RELEASE)
        assert ids(take(backend, tasks={"y", "x"})) == ["a", "c"]
        assert ids(take(backend, now=NOW + 5)) == ["later"]

    def test_what_was_due_when_it_came_is_brought_forward(self, backend: Backend) -> None:
        """The clock was an hour ahead when they were enqueued."""
        then = NOW + 3600
        put(
            backend,
            new("b", run_at=then, enqueued_at=then),
            new("a", run_at=then, enqueued_at=then, priority=LOW, task="other"),
            new("occurrence", run_at=then - 9, enqueued_at=then, queue="other"),
            new("delayed", run_at=then + TICK, enqueued_at=then),
            new("before", run_at=NOW, enqueued_at=NOW),
            now=then,
        )
        (running,) = take(backend, 1, now=then, queues=["other"])
        assert ids(take(backend)) == ["before"]
        assert backend.bring_forward(now=NOW, ahead=3600) == 0  # not more than that ahead
        assert backend.bring_forward(now=NOW) == 2
        assert backend.bring_forward(now=NOW) == 0
        assert backend.next_due(None, owner="me") == NOW
        end(backend, running, Verb.RELEASE)
        assert backend.bring_forward(now=NOW) == 1
        assert sorted(ids(take(backend))) == ["a", "b", "occurrence"]
        assert ids(take(backend, now=then)) == []
        assert ids(take(backend, now=then + TICK)) == ["delayed"]

    def test_a_retry_and_a_snooze_keep_their_moment(self, backend: Backend) -> None:
        then = NOW + 3600
        for job_id, verb in (("r", Verb.RETRY), ("s", Verb.SNOOZE)):
            put(backend, new(job_id, run_at=then, enqueued_at=then), now=then)
            end(backend, take_one(backend, now=then), verb, run_at=then + 5)
        assert backend.bring_forward(now=NOW) == 0
        assert backend.next_due(None, owner="me") == then + 5

    @pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE])
    def test_they_keep_it_when_the_clock_was_set_back_in_the_run(
        self, backend: Backend, verb: Verb
    ) -> None:
        then = NOW + 3600
        put(backend, new("a", run_at=then, enqueued_at=then), now=then)
        end(backend, take_one(backend, now=then), verb, run_at=NOW + 600)
        assert backend.bring_forward(now=NOW) == 0
        assert ids(take(backend, now=NOW + 600 - TICK)) == []
        # Once that moment has come it is like any other job that waits for a place.
        end(backend, take_one(backend, now=NOW + 600), Verb.RELEASE)
        assert backend.bring_forward(now=NOW) == 1

    def test_what_is_given_back_or_revived_is_brought_forward(self, backend: Backend) -> None:
        then = NOW + 3600
        put(backend, new("a", run_at=then, enqueued_at=then), now=then)
        take_one(backend, now=then)
        backend.withdraw("me")
        assert backend.bring_forward(now=NOW) == 1
        if isinstance(backend, Inspectable):
            put(backend, new("b", run_at=then, enqueued_at=then, queue="other"), now=then)
            claim = take_one(backend, now=then, queues=["other"])
            end(backend, claim, Verb.SNOOZE, run_at=then)
            backend.cancel("b", now=then)
            backend.revive("b", run_at=then)
            assert backend.bring_forward(now=NOW) == 1

    def test_what_was_revived_long_after_it_was_enqueued_is_brought_forward(
        self, backend: Backend
    ) -> None:
        if not isinstance(backend, Inspectable):
            pytest.skip("no person steers jobs here")
        then = NOW + 3600
        end(backend, started(backend), Verb.FAIL)
        backend.revive("a", run_at=then)
        assert take(backend) == []
        assert backend.bring_forward(now=NOW) == 1
        claim = take_one(backend)
        end(backend, claim, Verb.RETRY, run_at=then)
        assert backend.bring_forward(now=NOW) == 0, "a retry keeps its moment"

    def test_next_due_is_the_earliest_waiting_moment(self, backend: Backend) -> None:
        put(backend, new("a", run_at=NOW + 9, priority=HIGH), new("b", run_at=NOW + 5))
        put(backend, new("c", run_at=NOW + 2, queue="other"))
        assert backend.next_due(None, owner="me") == NOW + 2
        assert backend.next_due(["default"], owner="me") == NOW + 5
        assert backend.next_due(["default", "other"], owner="me") == NOW + 2
        assert backend.next_due(["unknown"], owner="me") is None
        assert backend.next_due([], owner="me") is None
        take(backend, now=NOW + 5)
        assert backend.next_due(None, owner="me") == NOW + 9

    def test_next_due_may_lie_in_the_past(self, backend: Backend) -> None:
        put(backend, new("a", run_at=NOW - 99))
        assert backend.next_due(None, owner="me") == NOW - 99

    def test_upcoming_excludes_its_start_and_includes_its_end(self, backend: Backend) -> None:
        put(backend, *(new(f"j{i}", run_at=NOW + i) for i in range(5)))
        page = backend.upcoming(None, after=NOW + 1, until=NOW + 3, limit=10)
        assert page == [(NOW + 2, "j2"), (NOW + 3, "j3")]

    def test_upcoming_is_ordered_by_moment_and_id_whatever_the_priority(self, backend: Backend) -> None:
        put(backend, new("b", run_at=NOW + 1, priority=LOW), new("c", priority=HIGH, run_at=NOW + 2))
        put(backend, new("a", run_at=NOW + 1, queue="other"), new("d", run_at=NOW + 1))
        page = backend.upcoming(None, after=NOW, until=NOW + 9, limit=10)
        assert [job_id for _, job_id in page] == ["a", "b", "d", "c"]
        page = backend.upcoming(["default"], after=NOW, until=NOW + 9, limit=10)
        assert [job_id for _, job_id in page] == ["b", "d", "c"]

    def test_upcoming_shows_waiting_jobs_only(self, backend: Backend) -> None:
        end(backend, started(backend, "a"))
        started(backend, "b")
        put(backend, new("c"))
        assert backend.upcoming(None, after=0, until=NOW, limit=10) == [(NOW, "c")]

    def test_upcoming_pages_cover_everything_once_and_end_no_moment_in_the_middle(
        self, backend: Backend
    ) -> None:
        moments = [1, 2, 2, 2, 2, 3, 4, 5, 5, 6, 6, 6]
        put(backend, *(new(f"j{i:02d}", run_at=NOW + m) for i, m in enumerate(moments)))
        pages: list[list[tuple[float, str]]] = []
        after = NOW
        while page := backend.upcoming(None, after=after, until=NOW + 99, limit=2):
            pages.append(page)
            assert len(pages) <= 12, "each page goes on behind the one before"
            after = page[-1][0]
        assert [entry for page in pages for entry in page] == [
            (NOW + moment, f"j{i:02d}") for i, moment in enumerate(moments)
        ]
        assert [len(page) for page in pages] == [5, 2, 2, 3]


class RecordConformance:
    """How runs end, and who may say so."""

    @pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.FAIL, Verb.CANCEL])
    def test_a_final_outcome_ends_the_job(self, backend: Backend, verb: Verb) -> None:
        assert end(backend, started(backend), verb, result=b"1", error=b"{}")
        assert take(backend, now=NOW + 1e6) == []
        assert backend.next_due(None, owner="me") is None

    @pytest.mark.parametrize(
        ("verb", "run_at", "attempt"),
        [(Verb.RETRY, NOW + 5, 2), (Verb.SNOOZE, NOW + 5, 1), (Verb.RELEASE, NOW, 1)],
    )
    def test_a_job_that_did_not_end_waits_for_its_next_run(
        self, backend: Backend, verb: Verb, run_at: float, attempt: int
    ) -> None:
        moment = {} if verb is Verb.RELEASE else {"run_at": run_at}
        assert end(backend, started(backend), verb, **moment)
        assert backend.next_due(None, owner="me") == run_at
        assert take(backend, now=run_at - TICK) == []
        claim = take_one(backend, now=run_at, owner="other")
        assert (claim.owner, claim.claim_no, claim.attempt) == ("other", 2, attempt)
        assert (claim.run_at, claim.rescues) == (run_at, 0)

    def test_attempts_count_runs_that_count(self, backend: Backend) -> None:
        claim = started(backend)
        for verb in (Verb.RETRY, Verb.SNOOZE, Verb.RETRY, Verb.RELEASE, Verb.RETRY):
            end(backend, claim, verb)
            claim = take_one(backend)
        assert (claim.attempt, claim.claim_no) == (4, 6)

    def test_an_interrupted_job_keeps_running(self, backend: Backend) -> None:
        claim = started(backend)
        assert end(backend, claim, Verb.INTERRUPT)
        assert take(backend) == []
        assert end(backend, claim, Verb.INTERRUPT)
        assert not backend.cancel_requested(claim)

    def test_an_interrupted_job_may_still_write_its_end(self, backend: Backend) -> None:
        claim = started(backend)
        end(backend, claim, Verb.INTERRUPT)
        assert end(backend, claim, Verb.COMPLETE)

    # fencing

    @pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.FAIL, Verb.RETRY, Verb.RELEASE])
    def test_a_batch_written_again_changes_nothing(self, backend: Backend, verb: Verb) -> None:
        put(backend, *some(3))
        batch = [outcome(claim, verb) for claim in take(backend)]
        assert backend.record(batch, now=NOW) == [True, True, True]
        assert backend.record(batch, now=NOW) == [False, False, False]

    def test_a_batch_written_again_does_not_touch_the_next_run(self, backend: Backend) -> None:
        claim = started(backend)
        batch = [outcome(claim, Verb.RETRY)]
        backend.record(batch, now=NOW)
        again = take_one(backend)
        assert backend.record(batch, now=NOW) == [False]
        assert end(backend, again)

    def test_an_outcome_twice_in_one_batch_is_written_once(self, backend: Backend) -> None:
        one = outcome(started(backend), Verb.RETRY)
        assert backend.record([one, one], now=NOW) == [True, False]
        assert take_one(backend).attempt == 2

    def test_release_and_a_new_claim_by_the_same_owner_fence_the_old_one(self, backend: Backend) -> None:
        old = started(backend)
        end(backend, old, Verb.RELEASE)
        current = take_one(backend)
        assert current.claim_no == old.claim_no + 1
        assert not end(backend, old)
        assert backend.cancel_requested(old)
        assert not backend.progress(old, b"1")
        assert not backend.cancel_requested(current)
        assert end(backend, current)

    def test_another_owner_writes_nothing(self, backend: Backend) -> None:
        claim = started(backend)
        assert not end(backend, replace(claim, owner="other"))
        assert not backend.progress(replace(claim, owner="other"), b"1")
        assert backend.cancel_requested(replace(claim, owner="other"))
        assert end(backend, claim)

    @pytest.mark.parametrize("reclaimed", [False, True])
    def test_who_finishes_after_the_rescue_writes_nothing(
        self, backend: Backend, clock: FakeClock, reclaimed: bool
    ) -> None:
        late = started(backend)
        clock.advance(LEASE)
        rescue(backend)
        current = take_one(backend) if reclaimed else None
        for verb in Verb:
            if verb not in (Verb.CLAIM, Verb.RESCUE, Verb.REVIVE):
                assert not end(backend, late, verb)
        current = current or take_one(backend)
        assert (current.claim_no, current.attempt) == (2, 1)
        assert end(backend, current)

    def test_a_claim_of_an_unknown_job_is_not_ours(self, backend: Backend) -> None:
        ghost = replace(started(backend), id="ghost")
        assert not end(backend, ghost)
        assert not backend.progress(ghost, b"1")
        assert backend.cancel_requested(ghost)

    def test_an_expired_lease_that_nobody_rescued_is_still_ours(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        claim = started(backend)
        clock.advance(LEASE * 10)
        assert not backend.cancel_requested(claim)
        assert end(backend, claim)

    def test_a_row_that_fails_fails_alone(self, backend: Backend) -> None:
        put(backend, *some(5))
        first, lost, broken, other, last = take(backend)
        end(backend, lost, Verb.RELEASE)
        batch = [
            outcome(first, result=b"1"),
            outcome(lost),
            outcome(broken, Verb.RETRY, run_at=None),
            outcome(other, Verb.SNOOZE, run_at=NOW + 5),
            outcome(last, Verb.FAIL, error=b"{}"),
        ]
        assert backend.record(batch, now=NOW) == [True, False, False, True, True]
        assert ids(take(backend, now=NOW + 5)) == [lost.id, other.id]
        assert end(backend, broken), "the one that could not be stored goes on running"

    # progress

    def test_progress_is_accepted_from_the_claim_that_runs(self, backend: Backend) -> None:
        claim = started(backend)
        assert backend.progress(claim, b'{"done":1}')
        assert backend.progress(claim, b'{"done":2}')
        end(backend, claim)
        assert not backend.progress(claim, b'{"done":3}')


class LeaseConformance:
    """Who is dead, and what becomes of the jobs."""

    def test_a_lease_ends_at_its_very_moment(self, backend: Backend, clock: FakeClock) -> None:
        started(backend)
        clock.advance(LEASE - TICK)
        assert rescue(backend) == []
        clock.advance(TICK)
        assert rescue(backend) == [Rescue("a", "work", "default", "me", 1, StoredState.WAITING)]
        assert rescue(backend) == []

    def test_a_wall_clock_that_steps_ends_no_lease(self, backend: Backend, clock: FakeClock) -> None:
        started(backend)
        clock.step_wall(1e6)
        assert rescue(backend, now=clock.now()) == []
        clock.step_wall(-2e6)
        clock.advance(LEASE)
        assert ids(rescue(backend, now=clock.now())) == ["a"]

    def test_each_claim_has_its_own_lease(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, new("a"), new("b"))
        take(backend, 1, lease=10)
        take(backend, 1, lease=20)
        clock.advance(10)
        assert ids(rescue(backend)) == ["a"]
        clock.advance(10)
        assert ids(rescue(backend)) == ["b"]

    def test_renewing_extends_from_now(self, backend: Backend, clock: FakeClock) -> None:
        claim = started(backend)
        clock.advance(LEASE - TICK)
        assert backend.renew("me", [claim], lease=LEASE).lost == ()
        clock.advance(LEASE - TICK)
        assert rescue(backend) == []
        clock.advance(TICK)
        assert ids(rescue(backend)) == ["a"]

    def test_renewing_revives_a_lease_that_ended_but_was_not_judged(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        claim = started(backend)
        clock.advance(LEASE * 2)
        assert backend.renew("me", [claim], lease=LEASE).lost == ()
        assert rescue(backend) == []

    def test_renewing_reports_what_is_lost(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, *some(4))
        rescued, done, again, held = take(backend)
        clock.advance(LEASE - 1)
        backend.renew("me", [done, again, held], lease=LEASE)
        clock.advance(1)
        rescue(backend)
        end(backend, done)
        end(backend, again, Verb.RELEASE)
        take(backend)
        renewal = backend.renew("me", [rescued, done, again, held], lease=LEASE)
        assert sorted(renewal.lost) == [rescued.id, done.id, again.id]

    def test_renewing_in_anothers_name_is_lost_and_changes_nothing(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        claim = started(backend)
        clock.advance(LEASE - 1)
        assert backend.renew("other", [claim], lease=LEASE).lost == ("a",)
        assert backend.renew("other", [replace(claim, owner="other")], lease=LEASE).lost == ("a",)
        clock.advance(1)
        assert ids(rescue(backend)) == ["a"]

    def test_a_job_that_nobody_holds_is_released_after_a_sixth_of_the_lease(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        claim = started(backend)
        clock.advance(LEASE / 6 - TICK)
        assert backend.renew("me", [], lease=LEASE).released == ()
        clock.advance(TICK)
        assert backend.renew("me", [], lease=LEASE).released == ("a",)
        assert backend.renew("me", [], lease=LEASE).released == ()
        assert not end(backend, claim)
        again = take_one(backend)
        assert (again.attempt, again.rescues, again.claim_no) == (1, 0, 2)

    def test_renewing_makes_a_job_young_again(self, backend: Backend, clock: FakeClock) -> None:
        claim = started(backend)
        clock.advance(LEASE / 3)
        backend.renew("me", [claim], lease=LEASE)
        clock.advance(LEASE / 6 - TICK)
        assert backend.renew("me", [], lease=LEASE).released == ()
        clock.advance(TICK)
        assert backend.renew("me", [], lease=LEASE).released == ("a",)

    def test_an_interrupted_job_is_kept_though_nobody_holds_it(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        claim = started(backend)
        end(backend, claim, Verb.INTERRUPT)
        clock.advance(LEASE - TICK)
        renewal = backend.renew("me", [], lease=LEASE)
        assert (renewal.lost, renewal.released) == ((), ())
        clock.advance(LEASE - TICK)
        assert rescue(backend) == [], "its lease was extended"
        assert take(backend) == []
        assert end(backend, claim)

    def test_renewing_releases_nothing_of_others(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, new("a"), new("b"))
        theirs, mine = take_one(backend, owner="other"), take_one(backend)
        clock.advance(LEASE / 2)
        renewal = backend.renew("me", [mine], lease=LEASE)
        assert (renewal.lost, renewal.released) == ((), ())
        assert end(backend, theirs)

    def test_an_older_claim_of_the_job_does_not_hold_it(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        old = started(backend)
        end(backend, old, Verb.RELEASE)
        take_one(backend)
        clock.advance(LEASE / 6)
        renewal = backend.renew("me", [old], lease=LEASE)
        assert (renewal.lost, renewal.released) == (("a",), ("a",))

    # rescue

    def test_a_rescued_job_waits_again_charged_as_rescue_not_as_attempt(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        put(backend, new("a", run_at=NOW - 5))
        end(backend, take_one(backend), Verb.RETRY, run_at=NOW - 3)
        take(backend)
        clock.advance(LEASE)
        rescue(backend)
        claim = take_one(backend)
        assert (claim.attempt, claim.rescues, claim.claim_no) == (2, 1, 3)
        assert claim.run_at == NOW - 3

    def test_a_job_is_rescued_so_many_times_and_then_failed(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        put(backend, new("a"))
        for number in (1, 2):
            take(backend)
            clock.advance(LEASE)
            assert [(r.rescues, r.state) for r in rescue(backend, max_rescues=2)] == [
                (number, StoredState.WAITING)
            ]
        claim = take_one(backend)
        clock.advance(LEASE)
        (last,) = rescue(backend, max_rescues=2)
        assert (last.rescues, last.state) == (3, StoredState.FAILED)
        assert take(backend) == []
        assert not end(backend, claim)

    def test_no_rescue_is_allowed_at_all(self, backend: Backend, clock: FakeClock) -> None:
        started(backend)
        clock.advance(LEASE)
        assert [r.state for r in rescue(backend, max_rescues=0)] == [StoredState.FAILED]

    def test_a_job_that_must_not_repeat_fails_at_the_first_crash(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        assert crash(backend, clock, fail_on_crash=True).state is StoredState.FAILED
        assert take(backend) == []

    def test_an_interrupted_job_that_must_not_be_repeated_fails(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        end(backend, started(backend, fail_on_crash=True), Verb.INTERRUPT)
        clock.advance(LEASE)
        assert [(r.rescues, r.state) for r in rescue(backend)] == [(0, StoredState.FAILED)]
        assert take(backend) == []

    def test_an_interrupted_job_waits_again_uncharged(self, backend: Backend, clock: FakeClock) -> None:
        end(backend, started(backend), Verb.INTERRUPT)
        clock.advance(LEASE)
        assert [(r.rescues, r.state) for r in rescue(backend)] == [(0, StoredState.WAITING)]
        claim = take_one(backend)
        assert (claim.attempt, claim.rescues) == (1, 0)
        clock.advance(LEASE)
        assert rescue(backend)[0].rescues == 1, "the next run begins uninterrupted"

    def test_rescue_keeps_its_limit(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, *some(5))
        take(backend)
        clock.advance(LEASE)
        assert [len(rescue(backend, limit=2)) for _ in range(4)] == [2, 2, 1, 0]

    def test_rescue_touches_neither_waiting_nor_final_jobs(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        put(backend, *some(3))
        for claim, verb in zip(take(backend), (Verb.COMPLETE, Verb.FAIL, Verb.CANCEL), strict=True):
            end(backend, claim, verb)
        end(backend, started(backend, "waiting"), Verb.RELEASE)
        clock.advance(1e6)
        assert rescue(backend) == []

    def test_jobs_that_crashed_once_run_side_by_side(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, *some(3), new("other", queue="other"))
        take(backend)
        clock.advance(LEASE)
        assert {(r.rescues, r.charged) for r in rescue(backend)} == {(1, True)}
        assert backend.next_due(None, owner="me") == NOW
        assert sorted(claim.rescues for claim in take(backend)) == [1, 1, 1, 1]

    def test_an_owner_runs_one_suspect_at_a_time(self, backend: Backend, clock: FakeClock) -> None:
        make_suspects(backend, clock, *some(3), new("other", queue="other"))
        put(backend, new("x"), new("y"))
        first = take(backend)
        assert sum(claim.rescues == 2 for claim in first) == 1
        assert {"x", "y"} < set(ids(first))
        (suspect,) = (claim for claim in first if claim.rescues)
        assert take(backend) == []
        assert backend.next_due(None, owner="me") is None, "what cannot be claimed is not due"
        end(backend, suspect, Verb.INTERRUPT)
        assert take(backend) == [], "an interrupted one still runs"
        end(backend, suspect)
        assert backend.next_due(None, owner="me") == NOW
        assert len(take(backend)) == 1

    @pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.FAIL, Verb.CANCEL, Verb.SNOOZE, Verb.RETRY])
    def test_the_next_suspect_may_run_once_the_first_has_ended(
        self, backend: Backend, clock: FakeClock, verb: Verb
    ) -> None:
        make_suspects(backend, clock, *some(2))
        later = {"run_at": NOW + 9} if verb in (Verb.SNOOZE, Verb.RETRY) else {}
        assert end(backend, take_one(backend), verb, **later)
        assert ids(take(backend)) == ["job-0001"]

    def test_each_owner_runs_a_suspect_of_its_own(
        self, backend: Backend, reopen: Fresh, clock: FakeClock
    ) -> None:
        """A long one holds up the suspects of its own process only."""
        make_suspects(backend, clock, *some(3))
        other = reopen()
        assert ids(take(backend)) == ["job-0000"]
        assert other.next_due(None, owner="me") is None
        assert other.next_due(None, owner="other") == NOW
        (second,) = take(other, owner="other")
        assert take(backend) == take(other, owner="other") == []
        assert backend.next_due(None, owner="other") is None
        end(other, second)
        assert take(backend) == []
        assert ids(take(other, owner="other")) == ["job-0002"]

    def test_who_finds_a_moment_in_the_past_can_claim_something(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        put(backend, new("early", run_at=NOW - 9), new("later", run_at=NOW - 5))
        for _ in range(2):
            (claim,) = take(backend, 1)
            clock.advance(LEASE)
            assert ids(rescue(backend)) == [claim.id] == ["early"]
        assert backend.next_due(None, owner="me") == NOW - 9
        assert ids(take(backend, 1)) == ["early"]
        assert backend.next_due(None, owner="me") == NOW - 5
        assert ids(take(backend)) == ["later"]
        assert backend.next_due(None, owner="me") is None

    def test_where_one_rescue_is_allowed_the_first_crash_makes_a_suspect(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        put(backend, *some(2))
        take(backend)
        clock.advance(LEASE)
        assert [r.state for r in rescue(backend, max_rescues=1)] == [StoredState.WAITING] * 2
        assert len(take(backend)) == 1

    @pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE])
    def test_a_run_that_ended_well_clears_the_count_of_crashes(
        self, backend: Backend, clock: FakeClock, verb: Verb
    ) -> None:
        put(backend, *some(2))
        for now in (NOW, NOW + 1, NOW + 2):
            claims = take(backend, now=now)
            assert [claim.rescues for claim in claims] == [0, 0], "neither charged nor a suspect"
            for crashes in (1, 2):
                clock.advance(LEASE)
                assert {r.rescues for r in rescue(backend, max_rescues=2)} == {crashes}
                claims = take(backend, now=now)
            while claims:
                assert end(backend, claims.pop(), verb, run_at=now + 1)
                claims += take(backend, now=now)

    def test_a_release_keeps_the_count_of_crashes(self, backend: Backend, clock: FakeClock) -> None:
        make_suspects(backend, clock, *some(2))
        end(backend, take_one(backend), Verb.RELEASE)
        (claim,) = take(backend)
        assert claim.rescues == 2

    def test_a_suspect_keeps_its_place_in_the_order(self, backend: Backend, clock: FakeClock) -> None:
        make_suspects(backend, clock, new("b"))
        put(backend, new("a"), new("c"), new("d", priority=HIGH))
        assert ids(take(backend)) == ["d", "a", "b", "c"]

    def test_a_suspect_that_is_not_taken_holds_up_no_other(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        """Of two in different queues the more urgent one comes first, however few are claimed."""
        urgent = new("urgent", queue="b", priority=HIGH)
        make_suspects(backend, clock, new("low", queue="a", priority=LOW), urgent)
        put(backend, *(replace(job, queue="a") for job in some(20)))
        assert "urgent" in ids(take(backend, limit=8))

    def test_a_suspect_that_waits_does_not_slow_new_jobs_down(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        """It may wait for hours; what is enqueued meanwhile is still claimed in the same step."""
        make_suspects(backend, clock, *some(2))
        take(backend)
        for batch in ([new("one")], [new("two"), new("three")]):
            assert all(answer.claim for answer in put(backend, *batch, claim_for=WISH))
        (first,) = put(backend, new("first"), claim_for=replace(WISH, slots=0))
        assert first.claim is None
        (second,) = put(backend, new("second"), claim_for=WISH)
        assert second.claim is None, "an older job is due before it"

    @pytest.mark.parametrize("seed", range(8))
    def test_a_poison_job_fails_and_takes_no_neighbour_with_it(
        self, backend: Backend, clock: FakeClock, seed: int
    ) -> None:
        """Two processes of four workers; the one with the poison dies with all that runs there."""
        chance = Random(seed)
        jobs = some(30)
        chance.shuffle(jobs)
        poison = jobs[chance.randrange(30)].id
        put(backend, *jobs)
        names = iter(range(1000))
        held: dict[str, list[Claim]] = {f"p{next(names)}": [] for _ in range(2)}
        crashes: Counter[str] = Counter()
        completed: set[str] = set()
        failed: set[str] = set()
        while any(held.values()) or backend.next_due(None, owner="new") is not None:
            owner = chance.choice(sorted(held))
            claims = held[owner]
            claims += take(backend, 4 - len(claims), owner=owner)
            if poison in ids(claims) and chance.random() < 0.7:
                del held[owner]
                for _ in range(2):
                    clock.advance(LEASE / 2)
                    for living, kept in held.items():
                        assert backend.renew(living, kept, lease=LEASE).lost == ()
                rescued = rescue(backend)
                crashes.update(ids(rescued))
                failed |= {one.id for one in rescued if one.state is StoredState.FAILED}
                held[f"p{next(names)}"] = []
            else:
                harmless = [claim for claim in claims if claim.id != poison]
                if harmless:
                    claims.remove(done := chance.choice(harmless))
                    assert end(backend, done)
                    completed.add(done.id)
        assert crashes.pop(poison) == 4
        assert max(crashes.values(), default=0) <= 2
        assert failed == {poison}
        assert completed == set(ids(jobs)) - {poison}

    def test_rescue_by_many_threads_takes_each_job_back_once(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        put(backend, *some(40))
        take(backend)
        clock.advance(LEASE)
        answers = in_threads(4, lambda _: ids(rescue(backend)))
        assert Counter(job_id for a in answers for job_id in a) == Counter(ids(some(40)))


class StoreConformance:
    """Processes, care, and everything at once."""

    def test_processes_are_listed_oldest_first(self, backend: Backend, reopen: Fresh) -> None:
        young = ProcessRecord("w1", 11, "host", NOW, NOW, b'{"workers":4}')
        old = ProcessRecord("w2", 12, "höst's", NOW - 5, NOW, b"{}")
        backend.announce(young)
        backend.announce(old)
        assert backend.processes() == [old, young]
        assert reopen().processes() == [old, young]
        backend.announce(replace(young, seen_at=NOW + 9, info=b"[]"))
        assert backend.processes() == [old, replace(young, seen_at=NOW + 9, info=b"[]")]
        backend.withdraw("w2")
        backend.withdraw("w2")
        backend.withdraw("unknown")
        assert [process.owner for process in backend.processes()] == ["w1"]
        backend.withdraw("w1")
        assert backend.processes() == []

    def test_an_announcement_that_comes_late_brings_nobody_back(self, backend: Backend) -> None:
        """The thread that announces may outlive the wait of whoever stops it."""
        late = ProcessRecord("me", 1, "host", NOW, NOW, b"{}")
        backend.announce(late)
        backend.withdraw("me")
        backend.announce(late)
        assert backend.processes() == []

    def test_of_those_who_withdrew_only_the_last_are_remembered(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each inline enqueue is an owner of its own, so there is no end of them."""
        monkeypatch.setattr(endings, "MOST", 10)
        for number in range(30):
            backend.withdraw(f"w{number}")
        late = ProcessRecord("w29", 1, "host", NOW, NOW, b"{}")
        backend.announce(late)
        assert backend.processes() == []
        assert len(backend._ended) <= 10  # type: ignore[attr-defined]

    def test_a_living_process_is_not_rescued_from(self, backend: Backend, reopen: Fresh) -> None:
        backend.announce(ProcessRecord("me", 1, "host", NOW, NOW, b"{}"))
        claim = started(backend)
        assert rescue(reopen()) == []
        assert [process.owner for process in backend.processes()] == ["me"]
        assert end(backend, claim)
        backend.withdraw("me")

    def test_a_living_process_is_judged_by_its_leases(self, backend: Backend, clock: FakeClock) -> None:
        backend.announce(ProcessRecord("me", 1, "host", NOW, NOW, b"{}"))
        started(backend)
        clock.advance(LEASE)
        assert ids(rescue(backend)) == ["a"]
        assert [process.owner for process in backend.processes()] == ["me"]
        backend.withdraw("me")

    def test_an_owner_that_was_told_so_claims_nothing_more(self, backend: Backend) -> None:
        put(backend, *some(3))
        held = take_one(backend)
        backend.end_claims("me")
        assert take(backend) == []
        assert ids(take(backend, 1, owner="other")) == ["job-0001"], "others may"
        (answer,) = backend.enqueue(
            [new("x", queue="x")], now=NOW, timeout=5, claim_for=ClaimFor("me", LEASE, 1)
        )
        assert (answer.created, answer.claim) == (True, None)
        many = [new("y", queue="y"), new("z", queue="y")]
        answers = backend.enqueue(many, now=NOW, timeout=5, claim_for=ClaimFor("me", LEASE, 2))
        assert [(one.created, one.claim) for one in answers] == [(True, None)] * 2
        assert backend.renew("me", [held], lease=LEASE).lost == ()
        assert end(backend, held), "what it holds it keeps"

    def test_who_withdraws_releases_what_is_in_its_name(self, backend: Backend) -> None:
        """It had not begun, so nothing is charged, and a job that must not be repeated may run."""
        backend.announce(ProcessRecord("me", 1, "host", NOW, NOW, b"{}"))
        put(backend, new("a"), new("b", fail_on_crash=True), new("c"))
        mine = take(backend, 2)
        others = take_one(backend, owner="other")
        backend.withdraw("me")
        assert rescue(backend) == []
        assert [end(backend, claim) for claim in mine] == [False, False]
        again = take(backend, owner="other")
        assert [(c.id, c.attempt, c.rescues, c.claim_no) for c in again] == [
            ("a", 1, 0, 2),
            ("b", 1, 0, 2),
        ]
        assert end(backend, others)

    def test_a_withdrawal_waits_again_what_was_interrupted_unless_it_must_not_be_repeated(
        self, backend: Backend
    ) -> None:
        put(backend, new("a"), new("b", fail_on_crash=True))
        for claim in take(backend):
            end(backend, claim, Verb.INTERRUPT)
        backend.withdraw("me")
        assert [(c.id, c.rescues) for c in take(backend, owner="other")] == [("a", 0)]
        assert rescue(backend) == []

    def test_nobody_takes_its_own_jobs_back(self, backend: Backend, clock: FakeClock) -> None:
        put(backend, new("a"), new("b"))
        take_one(backend)
        take_one(backend, owner="other")
        clock.advance(LEASE)
        assert ids(rescue(backend, judge="me")) == ["b"]
        assert ids(rescue(backend, judge="other")) == ["a"]

    def test_leases_are_not_judged_by_who_must_not(self, backend: Backend, clock: FakeClock) -> None:
        started(backend)
        clock.advance(LEASE)
        assert rescue(backend, leases=False) == []
        assert ids(rescue(backend)) == ["a"]

    def test_leases_are_judged_as_of_the_moment_at_which_that_was_allowed(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        asked_at = clock.monotonic()
        started(backend)
        clock.advance(LEASE)  # everybody stood still
        assert rescue(backend, asked_at=asked_at) == []
        assert rescue(backend, asked_at=asked_at + LEASE - TICK) == []
        assert ids(rescue(backend, asked_at=asked_at + LEASE)) == ["a"]

    def test_a_renewal_counts_from_when_it_was_put_together(
        self, backend: Backend, clock: FakeClock
    ) -> None:
        """One that began after that is not among the held ones, and not an orphan for it."""
        asked_at = clock.monotonic()
        started(backend)
        clock.advance(LEASE / 2)  # whoever renews stood still
        assert backend.renew("me", [], lease=LEASE, asked_at=asked_at).released == ()
        held = started(backend, "b")
        backend.renew("me", [held], lease=LEASE, asked_at=asked_at + 1)
        assert sorted(ids(rescue(backend, asked_at=asked_at + LEASE + 1))) == ["a", "b"]

    def test_a_doorbell_waits_and_closes(self, backend: Backend) -> None:
        bell = backend.open_doorbell("me")
        if bell is None:
            return  # nobody else can enqueue
        assert bell.wait(0) is False
        waiter = threading.Thread(target=bell.wait, args=(None,))
        waiter.start()
        bell.close()
        waiter.join(5)
        assert not waiter.is_alive()
        bell.close()

    def test_a_working_store_is_healthy_and_bears_upkeep(self, backend: Backend) -> None:
        assert backend.health().ok
        put(backend, new("a"))
        backend.maintain()
        health = backend.health()
        assert (health.ok, health.reason) == (True, "")
        glance = backend.health(probe=False)
        assert (glance.ok, glance.reason, glance.notes) == (True, "", health.notes)
        # Not the figures: others write to the disk meanwhile.
        assert glance.facts.keys() == health.facts.keys()
        assert ids(take(backend)) == ["a"]

    def test_a_closed_backend_opens_again(self, backend: Backend) -> None:
        backend.close()
        put(backend, new("a"))
        backend.close()
        backend.close()
        assert ids(take(backend)) == ["a"]
        assert "://" in backend.url

    def test_each_job_runs_once_however_many_threads_there_are(
        self, backend: Backend, reopen: Fresh
    ) -> None:
        threads, each = 8, 250
        objects = [backend, reopen()]
        written: list[str] = []
        deadline = time.monotonic() + 20

        def work(number: int) -> None:
            mine = objects[number % 2]
            wish = ClaimFor(f"w{number}", LEASE, 20)
            for start in range(0, each, 50):
                jobs = [new(f"{number}-{i}", priority=i % 3) for i in range(start, start + 50)]
                claims = [a.claim for a in put(mine, *jobs, claim_for=wish) if a.claim]
                claims += take(mine, 50, owner=wish.owner)
                finish(mine, claims)
            while len(written) < threads * each and time.monotonic() < deadline:
                finish(mine, take(mine, 50, owner=wish.owner))

        def finish(mine: Backend, claims: list[Claim]) -> None:
            done = mine.record([outcome(claim) for claim in claims], now=NOW)
            written.extend(c.id for c, ours in zip(claims, done, strict=True) if ours)

        assert in_threads(threads, work) == [None] * threads
        assert len(written) == len(set(written)) == threads * each


class BackendConformance(
    EnqueueConformance, ClaimConformance, RecordConformance, LeaseConformance, StoreConformance
):
    """All that every backend promises."""


class InspectableConformance:
    """Looking at single jobs, and telling them what to do."""

    def test_get_gives_the_job_as_stored(self, backend: Inspected, clock: FakeClock) -> None:
        assert backend.get("a") is None
        put(backend, new("a", max_attempts=3, fail_on_crash=True, schedule="nightly"))
        waiting = JobRecord(
            id="a",
            task="work",
            queue="default",
            priority=NORMAL,
            stored=StoredState.WAITING,
            run_at=NOW,
            enqueued_at=NOW - 1,
            payload=b'{"x":1}',
            max_attempts=3,
            fail_on_crash=True,
            schedule="nightly",
        )
        assert backend.get("a") == waiting
        claim = take_one(backend, now=NOW + 1)
        running = replace(
            waiting, stored=StoredState.RUNNING, claim_no=1, owner="me", started_at=NOW + 1
        )
        assert backend.get("a") == running
        end(backend, claim, result=b"[1]", at=NOW + 2)
        assert backend.get("a") == replace(
            running,
            stored=StoredState.COMPLETED,
            owner=None,
            attempt=1,
            finished_at=NOW + 2,
            result=b"[1]",
        )

    def test_a_retry_keeps_its_error_until_the_job_completes(self, backend: Inspected) -> None:
        claim = started(backend)
        end(backend, claim, Verb.RETRY, run_at=NOW + 5, error=b'{"type":"E","message":""}')
        record = record_of(backend)
        assert (record.stored, record.owner, record.run_at) == (StoredState.WAITING, None, NOW + 5)
        assert (record.attempt, record.error) == (1, b'{"type":"E","message":""}')
        assert record.state_at(NOW + 5 - TICK) is JobState.SCHEDULED
        assert record.state_at(NOW + 5) is JobState.READY
        claim = take_one(backend, now=NOW + 5)
        assert record_of(backend).error is not None
        end(backend, claim)
        assert record_of(backend).error is None
        assert record_of(backend).attempt == 2

    @pytest.mark.parametrize("verb", [Verb.FAIL, Verb.CANCEL])
    def test_an_end_without_success_keeps_what_it_tells(self, backend: Inspected, verb: Verb) -> None:
        end(backend, started(backend), verb, at=NOW + 3, error=b'{"type":"E","message":"m"}')
        record = record_of(backend)
        assert (record.attempt, record.finished_at, record.owner) == (1, NOW + 3, None)
        assert record.error == b'{"type":"E","message":"m"}'

    @pytest.mark.parametrize("verb", [Verb.SNOOZE, Verb.RELEASE])
    def test_what_does_not_count_leaves_no_trace(self, backend: Inspected, verb: Verb) -> None:
        put(backend, new("a"))
        before = record_of(backend)
        end(backend, take_one(backend), verb)
        after = record_of(backend)
        assert replace(after, claim_no=0, started_at=None) == before
        assert after.claim_no == 1

    def test_a_claim_begins_anew(self, backend: Inspected, clock: FakeClock) -> None:
        claim = started(backend)
        backend.progress(claim, b"50")
        assert record_of(backend).progress == b"50"
        end(backend, claim, Verb.INTERRUPT)
        record = record_of(backend)
        assert (record.stored, record.owner, record.interrupted) == (StoredState.RUNNING, "me", True)
        clock.advance(LEASE)
        rescue(backend)
        assert record_of(backend).owner is None
        take(backend, now=NOW + 7, owner="other")
        record = record_of(backend)
        assert (record.progress, record.interrupted) == (None, False)
        assert (record.owner, record.started_at) == ("other", NOW + 7)

    def test_a_write_that_is_fenced_off_leaves_the_job_as_it_is(self, backend: Inspected) -> None:
        old = started(backend)
        end(backend, old, Verb.RELEASE)
        current = take_one(backend)
        before = record_of(backend)
        for verb in Verb:
            if verb not in (Verb.CLAIM, Verb.RESCUE, Verb.REVIVE):
                end(backend, old, verb, result=b"1", error=b"2", run_at=NOW - 9)
                end(backend, replace(current, owner="x"), verb, result=b"1", run_at=NOW - 9)
        backend.progress(old, b"99")
        assert record_of(backend) == before

    def test_a_crash_is_told(self, backend: Inspected, clock: FakeClock) -> None:
        crash(backend, clock, fail_on_crash=True)
        record = record_of(backend)
        assert (record.stored, record.owner, record.rescues) == (StoredState.FAILED, None, 1)
        assert (record.attempt, record.finished_at) == (0, NOW)
        assert decode_failure(record.error) == Failure(
            "Crashed", "crashed the worker, and the task has on_crash='fail'"
        )

    def test_a_job_that_crashed_too_often_says_so(self, backend: Inspected, clock: FakeClock) -> None:
        put(backend, new("a"), new("b"))
        for allowed in (3, 3, 2):
            take_one(backend)
            clock.advance(LEASE)
            rescue(backend, max_rescues=allowed)
        assert decode_failure(record_of(backend).error) == Failure(
            "Crashed", "crashed the worker 3 times in a row"
        )
        take_one(backend)
        clock.advance(LEASE)
        rescue(backend, max_rescues=0)
        assert decode_failure(record_of(backend, "b").error) == Failure(
            "Crashed", "crashed the worker once"
        )

    def test_an_interruption_that_must_not_be_repeated_is_told(
        self, backend: Inspected, clock: FakeClock
    ) -> None:
        end(backend, started(backend, fail_on_crash=True), Verb.INTERRUPT)
        clock.advance(LEASE)
        rescue(backend)
        assert decode_failure(record_of(backend).error) == Failure(
            "Interrupted", "a stop interrupted the run, and the task has on_crash='fail'"
        )

    # the life of a job

    @pytest.mark.parametrize("state", list(StoredState))
    def test_every_transition_leads_where_the_table_says(
        self, backend: Inspected, clock: FakeClock, state: StoredState
    ) -> None:
        for verb in Verb:
            job_id = f"{state.name}-{verb.value}"
            claim = _bring_to(backend, job_id, state)
            before = record_of(backend, job_id)
            assert before.stored is state
            _apply(backend, clock, verb, claim)
            after = record_of(backend, job_id)
            expected = TRANSITIONS.get((state, verb))
            if expected is None:
                assert after == before, f"{verb} changed a job that is {state.name}"
            else:
                assert after.stored is expected, f"{verb} of a job that is {state.name}"
                assert after != before
            _retire(backend, after)

    # cancel

    def test_cancelling_a_waiting_job_ends_it(self, backend: Inspected) -> None:
        put(backend, new("a"), new("b", run_at=NOW + 99))
        assert backend.cancel("a", now=NOW + 1) is StoredState.CANCELLED
        assert backend.cancel("b", now=NOW + 1, reason="no longer needed") is StoredState.CANCELLED
        assert take(backend, now=NOW + 99) == []
        assert backend.next_due(None, owner="me") is None
        assert backend.upcoming(None, after=0, until=NOW + 99, limit=9) == []
        record = record_of(backend, "a")
        assert (record.finished_at, record.attempt, record.error) == (NOW + 1, 0, None)
        assert decode_failure(record_of(backend, "b").error) == Failure("Cancelled", "no longer needed")

    def test_cancelling_a_running_job_asks_it_to_stop(self, backend: Inspected) -> None:
        claim = started(backend)
        assert not backend.cancel_requested(claim)
        assert backend.cancel("a", now=NOW) is StoredState.RUNNING
        assert backend.cancel("a", now=NOW) is StoredState.RUNNING
        assert backend.cancel_requested(claim)
        record = record_of(backend)
        assert (record.stored, record.cancel_requested) == (StoredState.RUNNING, True)
        assert end(backend, claim)
        assert record_of(backend).stored is StoredState.COMPLETED, "it was quicker"

    @pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.FAIL, Verb.CANCEL])
    def test_cancelling_a_final_job_changes_nothing(self, backend: Inspected, verb: Verb) -> None:
        end(backend, started(backend), verb)
        before = record_of(backend)
        assert backend.cancel("a", now=NOW + 9, reason="late") is before.stored
        assert record_of(backend) == before

    def test_cancelling_what_is_not_there(self, backend: Inspected) -> None:
        assert backend.cancel("a", now=NOW) is None

    @pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE, Verb.RELEASE])
    def test_a_job_asked_to_stop_does_not_wait_again(self, backend: Inspected, verb: Verb) -> None:
        claim = started(backend)
        backend.cancel("a", now=NOW)
        assert end(backend, claim, verb, at=NOW + 4)
        record = record_of(backend)
        assert (record.stored, record.finished_at) == (StoredState.CANCELLED, NOW + 4)
        assert take(backend) == []

    @pytest.mark.parametrize("interrupted", [False, True])
    def test_a_rescued_job_asked_to_stop_is_cancelled(
        self, backend: Inspected, clock: FakeClock, interrupted: bool
    ) -> None:
        claim = started(backend, fail_on_crash=True)
        if interrupted:
            end(backend, claim, Verb.INTERRUPT)
        backend.cancel("a", now=NOW)
        clock.advance(LEASE)
        assert [r.state for r in rescue(backend, max_rescues=0)] == [StoredState.CANCELLED]
        assert record_of(backend).finished_at == NOW

    def test_a_withdrawal_cancels_what_was_asked_to_stop(self, backend: Inspected) -> None:
        put(backend, new("a"), new("b", fail_on_crash=True), new("c", fail_on_crash=True))
        _, second, third = take(backend)
        for job_id in ("a", "b"):
            backend.cancel(job_id, now=NOW)
        for claim in (second, third):
            end(backend, claim, Verb.INTERRUPT)
        backend.withdraw("me")
        records = [record_of(backend, job_id) for job_id in "abc"]
        ended = [StoredState.CANCELLED, StoredState.CANCELLED, StoredState.FAILED]
        assert [record.stored for record in records] == ended
        assert all(record.owner is None and record.finished_at for record in records)
        failure = decode_failure(records[2].error)
        assert failure is not None and failure.type == "Interrupted"

    def test_an_orphan_asked_to_stop_is_cancelled(self, backend: Inspected, clock: FakeClock) -> None:
        started(backend)
        backend.cancel("a", now=NOW)
        clock.advance(LEASE)
        backend.renew("me", [], lease=LEASE)
        assert record_of(backend).stored is StoredState.CANCELLED

    def test_cancelling_many_leaves_the_others_in_order(self, backend: Inspected) -> None:
        moments = Random(1).sample(range(150), 150)
        put(backend, *(new(f"job-{m:04d}", run_at=NOW - 200 + m) for m in moments))
        for moment in moments[40:]:
            backend.cancel(f"job-{moment:04d}", now=NOW)
        assert ids(take(backend)) == [f"job-{moment:04d}" for moment in sorted(moments[:40])]

    # revive

    @pytest.mark.parametrize("verb", [Verb.FAIL, Verb.CANCEL])
    def test_reviving_begins_anew(self, backend: Inspected, verb: Verb) -> None:
        claim = started(backend)
        end(backend, claim, Verb.RETRY)
        claim = take_one(backend)
        backend.cancel("a", now=NOW)
        end(backend, claim, verb, error=b'{"type":"E","message":"m"}')
        before = record_of(backend)
        assert backend.revive("a", run_at=NOW + 5) is before.stored
        assert record_of(backend) == replace(
            before,
            stored=StoredState.WAITING,
            run_at=NOW + 5,
            enqueued_at=NOW + 5,
            attempt=0,
            finished_at=None,
            cancel_requested=False,
        )
        assert before.error is not None
        again = take_one(backend, now=NOW + 5)
        assert (again.attempt, again.claim_no) == (1, 3)

    def test_reviving_a_crashed_job_forgets_the_rescues(
        self, backend: Inspected, clock: FakeClock
    ) -> None:
        started(backend)
        clock.advance(LEASE)
        rescue(backend, max_rescues=0)
        assert backend.revive("a", run_at=NOW) is StoredState.FAILED
        assert record_of(backend).rescues == 0
        assert take_one(backend).rescues == 0

    def test_reviving_leaves_other_states_alone(self, backend: Inspected) -> None:
        assert backend.revive("a", run_at=NOW) is None
        put(backend, new("a"))
        assert backend.revive("a", run_at=NOW + 9) is StoredState.WAITING
        claim = take_one(backend)
        assert backend.revive("a", run_at=NOW + 9) is StoredState.RUNNING
        end(backend, claim)
        before = record_of(backend)
        assert backend.revive("a", run_at=NOW + 9) is StoredState.COMPLETED
        assert record_of(backend) == before

    # queues

    def test_a_paused_queue_hands_out_nothing(self, backend: Inspected, reopen: Fresh) -> None:
        put(backend, new("a"), new("b", queue="other"))
        running = take_one(backend, queues=["default"])
        put(backend, new("c"))
        backend.pause("default")
        backend.pause("default")
        assert backend.next_due(["default"], owner="me") is None
        assert ids(take(backend)) == ["b"]
        assert take(reopen(), queues=["default"]) == []
        assert end(backend, running), "what runs goes on"
        backend.resume("default")
        backend.resume("default")
        backend.resume("unknown")
        assert "unknown" not in [queue.name for queue in backend.queues(now=NOW)]
        assert backend.next_due(["default"], owner="me") == NOW
        assert ids(take(backend)) == ["c"]

    @pytest.mark.parametrize("more", [(), (new("b"),)], ids=["single", "batch"])
    def test_claim_for_respects_a_paused_queue(
        self, backend: Inspected, more: tuple[NewJob, ...]
    ) -> None:
        backend.pause("default")
        answers = put(backend, new("a"), *more, claim_for=WISH)
        assert answers == [Enqueued(job.id, True) for job in (new("a"), *more)]
        assert put(backend, new("z", queue="other"), claim_for=WISH)[0].claim is not None

    def test_upcoming_shows_paused_queues_as_well(self, backend: Inspected) -> None:
        put(backend, new("a"))
        backend.pause("default")
        assert backend.upcoming(None, after=0, until=NOW, limit=9) == [(NOW, "a")]

    def test_queues_are_described(self, backend: Inspected) -> None:
        assert backend.queues(now=NOW) == []
        put(backend, new("r", queue="b"), new("x", queue="done"))
        take(backend)
        end(backend, started(backend, "y", queue="done"))
        put(backend, new("s", queue="b", run_at=NOW + TICK), new("o", queue="b", run_at=NOW - 3))
        put(backend, new("p", queue="b", priority=HIGH, run_at=NOW))
        backend.pause("b")
        backend.pause("a")
        assert backend.queues(now=NOW) == [
            QueueInfo("a", True, 0, 0, 0, None),
            QueueInfo("b", True, 1, 2, 1, NOW - 3),
            QueueInfo("done", False, 0, 0, 1, None),
        ]

    def test_a_queue_whose_jobs_are_all_done_is_still_known(self, backend: Inspected) -> None:
        end(backend, started(backend))
        assert backend.queues(now=NOW) == [QueueInfo("default", False, 0, 0, 0, None)]

    def test_the_tasks_that_wait(self, backend: Inspected) -> None:
        assert backend.waiting_tasks() == []
        put(backend, *some(2, task="x"), new("y", task="y", run_at=NOW + 9, queue="other"))
        put(backend, new("old", task="x", run_at=NOW - 9, priority=LOW))
        started(backend, "ran", task="z", run_at=NOW - 99)
        both = [TaskInfo("x", 3, NOW - 9), TaskInfo("y", 1, NOW + 9)]
        assert backend.waiting_tasks() == both
        assert backend.waiting_tasks(besides=["y", "z"]) == both[:1]
        take(backend, 0, tasks=["x"])
        assert backend.waiting_tasks() == both

    def test_the_books_of_a_store_are_right(self, backend: Inspected, clock: FakeClock) -> None:
        assert backend.audit() == []
        put(backend, *some(3), new("b", queue="other"), max_pending=9, max_pending_total=9)
        crash(backend, clock, "c", queue="third")
        end(backend, take(backend, 1)[0])
        assert backend.audit() == []

    def test_a_queue_without_any_job_is_forgotten(self, backend: Inspected, reopen: Fresh) -> None:
        end(backend, started(backend, "a", queue="pruned"))
        end(backend, started(backend, "b", queue="finished"))
        put(backend, new("c", queue="waiting", run_at=NOW + 9), max_pending=5)
        started(backend, "d", queue="running")
        backend.pause("paused")
        backend.pause("resumed")
        backend.resume("resumed")
        assert backend.prune(finished_before=NOW + 1, failed_before=NOW, keep=None, limit=1) == 1
        left = ["finished", "paused", "running", "waiting"]
        other = reopen()
        assert other.forget_queues() == 2
        assert other.forget_queues() == 0
        assert [queue.name for queue in backend.queues(now=NOW)] == left
        # Who has used it before may use it again.
        put(backend, new("e", queue="pruned"), max_pending=5)
        assert [queue.name for queue in backend.queues(now=NOW)] == sorted([*left, "pruned"])
        assert ids(take(backend, queues=["pruned"])) == ["e"]
        assert [queue.name for queue in other.queues(now=NOW)] == sorted([*left, "pruned"])
        backend.pause("pruned")
        put(backend, new("f", queue="pruned"))
        assert take(backend, queues=["pruned"]) == []
        assert backend.audit() == []

    def test_purging_cancels_what_waits(self, backend: Inspected) -> None:
        running = started(backend, "running")
        put(backend, *some(5), new("s", run_at=NOW + 99, priority=LOW), new("b", queue="other"))
        assert backend.purge("default", now=NOW + 1, limit=4) == 4
        assert backend.counts(now=NOW)["cancelled"] == 4
        put(backend, new("u", priority=HIGH), max_pending=3)
        assert backend.purge("default", now=NOW + 1, limit=2) == 2
        assert backend.purge("default", now=NOW + 1) == 1
        assert backend.counts(now=NOW)["cancelled"] == 7
        assert backend.purge("default", now=NOW + 1) == 0
        assert backend.purge("unknown", now=NOW) == 0
        record = record_of(backend, "s")
        assert (record.stored, record.finished_at) == (StoredState.CANCELLED, NOW + 1)
        assert ids(take(backend, now=NOW + 99)) == ["b"]
        assert not backend.cancel_requested(running)

    def test_purging_reaches_suspects(self, backend: Inspected, clock: FakeClock) -> None:
        make_suspects(backend, clock, new("a"))
        assert backend.purge("default", now=NOW) == 1
        assert take(backend) == []

    # list and counts

    def test_counts_name_every_state(self, backend: Inspected, clock: FakeClock) -> None:
        names = ("scheduled", "ready", "running", "completed", "failed", "cancelled")
        assert backend.counts(now=NOW) == dict.fromkeys(names, 0)
        put(backend, *some(6))
        claims = take(backend)
        for claim, verb in zip(claims, (Verb.COMPLETE, Verb.FAIL, Verb.CANCEL), strict=False):
            end(backend, claim, verb)
        end(backend, claims[3], Verb.RETRY, run_at=NOW + 5)
        put(backend, new("x"), new("y"), new("z"))
        backend.cancel("z", now=NOW)
        expected = dict(scheduled=1, ready=2, running=2, completed=1, failed=1, cancelled=2)
        assert backend.counts(now=NOW + 5 - TICK) == expected
        assert backend.counts(now=NOW + 5) == {**expected, "scheduled": 0, "ready": 3}
        clock.advance(LEASE)
        rescue(backend)
        assert backend.counts(now=NOW + 5) == {**expected, "scheduled": 0, "ready": 5, "running": 0}
        backend.revive(claims[1].id, run_at=NOW + 9)
        backend.prune(finished_before=NOW + 9, failed_before=NOW + 9, keep=None)
        counts = backend.counts(now=NOW + 5)
        assert counts == {**dict.fromkeys(names, 0), "scheduled": 1, "ready": 5}

    def test_list_is_newest_first_in_pages(self, backend: Inspected) -> None:
        put(backend, *reversed(some(7)))
        assert self.pages(backend) == ids(reversed(some(7)))
        assert backend.list(JobQuery(limit=0), now=NOW) == []

    def test_an_id_of_any_text_stands_where_its_moment_is(self, backend: Inspected) -> None:
        """Ids that somebody chose neither stand first for ever nor hide behind the others."""
        moments = {"b": 1, "zz": 2, "0": 3, "http-z": 3, "a": 4, "z": 5, "0b": 6}
        jobs = [new(job_id, enqueued_at=NOW + at) for job_id, at in moments.items()]
        put(backend, *jobs[::2], *jobs[1::2])
        newest = ["0b", "z", "a", "http-z", "0", "zz", "b"]
        assert self.pages(backend) == newest
        assert self.pages(backend, states=(JobState.READY,)) == newest
        assert self.pages(backend, queue="default", task="work", limit=1) == newest
        for job_id in ("z", "0"):
            backend.cancel(job_id, now=NOW)
        assert self.pages(backend, states=(JobState.READY,)) == ["0b", "a", "http-z", "zz", "b"]
        final = (JobState.CANCELLED, JobState.FAILED)
        assert self.pages(backend, states=final, limit=1) == ["z", "0"]
        # The mark itself need not be one of those that match.
        assert ids(backend.list(JobQuery(states=final, before="a"), now=NOW)) == ["0"]

    def test_a_page_behind_a_job_that_is_gone_is_refused(self, backend: Inspected) -> None:
        put(backend, new("a"))
        with pytest.raises(JobNotFoundError) as caught:
            backend.list(JobQuery(before="b"), now=NOW)
        assert caught.value.job_id == "b"

    @staticmethod
    def pages(backend: Inspected, limit: int = 3, **fields: Any) -> list[str]:
        seen: list[str] = []
        before = None
        while page := backend.list(JobQuery(limit=limit, before=before, **fields), now=NOW):
            assert len(page) <= limit
            seen += ids(page)
            assert len(seen) <= 7, "each page goes on behind the one before"
            before = page[-1].id
        return seen

    def test_list_filters_by_state_queue_and_task(self, backend: Inspected) -> None:
        put(backend, new("a", queue="q"), new("b", task="other"), new("c", run_at=NOW + 5))
        end(backend, started(backend, "d", priority=HIGH), Verb.FAIL)
        backend.cancel("a", now=NOW)

        def found(now: float = NOW, **fields: Any) -> list[str]:
            return ids(backend.list(JobQuery(**fields), now=now))

        assert found() == ["d", "c", "b", "a"]
        assert found(queue="q") == ["a"]
        assert found(task="other") == ["b"]
        assert found(task="other", queue="q") == []
        assert found(states=(JobState.SCHEDULED,)) == ["c"]
        assert found(states=(JobState.READY,)) == ["b"]
        assert found(states=(JobState.READY,), now=NOW + 5) == ["c", "b"]
        assert found(states=(JobState.FAILED, JobState.CANCELLED)) == ["d", "a"]
        assert found(states=(JobState.RUNNING, JobState.COMPLETED)) == []
        assert found(states=(JobState.FAILED, JobState.CANCELLED), before="d") == ["a"]
        take(backend, 1)
        assert found(states=(JobState.RUNNING,)) == ["b"]

    def test_list_gives_the_records(self, backend: Inspected) -> None:
        started(backend)
        (listed,) = backend.list(JobQuery(), now=NOW)
        empty = {"payload": b"", "result": None, "error": None}
        assert replace(listed, **empty) == replace(record_of(backend), **empty)

    # prune

    @pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.CANCEL, Verb.FAIL])
    def test_prune_deletes_what_finished_earlier(self, backend: Inspected, verb: Verb) -> None:
        end(backend, started(backend), verb, at=NOW)

        def prune(moment: float, *, other: float) -> int:
            failed = verb is Verb.FAIL
            return backend.prune(
                finished_before=other if failed else moment,
                failed_before=moment if failed else other,
                keep=None,
            )

        assert prune(NOW, other=NOW + 99) == 0
        assert backend.get("a") is not None
        assert prune(NOW + TICK, other=0) == 1
        assert backend.get("a") is None
        assert put(backend, new("a", task="other")) == [Enqueued("a", True)]

    def test_prune_never_deletes_what_is_not_final(self, backend: Inspected) -> None:
        started(backend)
        put(backend, new("b"), new("c", run_at=NOW + 9))
        end(backend, started(backend, "d", priority=HIGH), Verb.FAIL)
        backend.revive("d", run_at=NOW)
        assert backend.prune(finished_before=NOW + 1e9, failed_before=NOW + 1e9, keep=0) == 0
        assert sum(backend.counts(now=NOW).values()) == 4

    def test_prune_keeps_its_limit_and_takes_the_earliest_first(self, backend: Inspected) -> None:
        put(backend, *some(6))
        for age, claim in enumerate(take(backend)):
            end(backend, claim, at=NOW - age)
        sizes = [
            backend.prune(finished_before=NOW, failed_before=NOW, keep=None, limit=2) for _ in range(3)
        ]
        assert sizes == [2, 2, 1]
        assert ids(backend.list(JobQuery(), now=NOW)) == ["job-0000"]

    def test_prune_keeps_its_limit_over_all_kinds(self, backend: Inspected) -> None:
        put(backend, *some(4))
        for claim, verb in zip(take(backend), [Verb.COMPLETE, Verb.FAIL] * 2, strict=True):
            end(backend, claim, verb)
        bounds: dict[str, Any] = {"finished_before": NOW, "failed_before": NOW}
        assert [backend.prune(**bounds, keep=0, limit=3) for _ in range(2)] == [3, 1]

    def test_prune_by_count_spares_failed_jobs_longest(self, backend: Inspected) -> None:
        put(backend, *some(8))
        verbs = [Verb.FAIL, Verb.COMPLETE, Verb.CANCEL, Verb.FAIL, Verb.COMPLETE, Verb.COMPLETE]
        for i, (claim, verb) in enumerate(zip(take(backend), verbs, strict=False)):
            end(backend, claim, verb, at=NOW + i)

        def left(keep: int, limit: int = 500) -> list[str]:
            backend.prune(finished_before=0, failed_before=0, keep=keep, limit=limit)
            states = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
            return [i[-1] for i in ids(backend.list(JobQuery(states=states), now=NOW))]

        assert left(6) == ["5", "4", "3", "2", "1", "0"]
        assert left(4) == ["5", "4", "3", "0"]
        assert left(2, limit=1) == ["5", "3", "0"]
        assert left(2) == ["3", "0"]
        assert left(1) == ["3"]
        assert left(0) == []
        assert backend.counts(now=NOW)["running"] == 2

    # anything may come in

    def test_hostile_texts_go_in_and_out_unchanged(self, backend: Inspected) -> None:
        for text in HOSTILE:
            data = text.encode()
            put(backend, new(text, task=text, queue=text, payload=data), max_pending=9)
            assert backend.next_due([text], owner="me") == NOW
            claim = take_one(backend, queues=[text], owner=text)
            assert (claim.id, claim.task, claim.queue, claim.owner) == (text,) * 4
            assert backend.progress(claim, data)
            assert backend.renew(text, [claim], lease=LEASE).lost == ()
            assert end(backend, claim, Verb.RETRY, error=data)
            backend.pause(text)
            assert take(backend, queues=[text]) == []
            backend.resume(text)
            assert ids(backend.list(JobQuery(queue=text, task=text), now=NOW)) == [text]
            assert end(backend, take_one(backend, queues=[text]), result=data)
            record = record_of(backend, text)
            assert (record.id, record.payload, record.result) == (text, data, data)
        assert [info.name for info in backend.queues(now=NOW)] == sorted(HOSTILE)
        assert backend.counts(now=NOW)["completed"] == len(HOSTILE)

    def test_a_large_payload_goes_in_and_out_unchanged(self, backend: Inspected) -> None:
        data = bytes(range(256)) * 4096
        claim = started(backend, payload=data)
        assert claim.payload == data
        end(backend, claim, result=data[::-1])
        assert record_of(backend).payload == data
        assert record_of(backend).result == data[::-1]
        assert put(backend, new("a", payload=data)) == [Enqueued("a", False)]
        with pytest.raises(JobConflictError):
            put(backend, new("a", payload=data[:-1]))

    def test_random_verbs_lead_where_a_naive_model_says(self, fresh: Fresh, clock: FakeClock) -> None:
        check_against_model(fresh, clock)


def _bring_to(backend: Inspected, job_id: str, state: StoredState) -> Claim:
    """A job in a state, and its claim: the latest, or one that would be next."""
    claim = started(backend, job_id, queue=job_id)
    verb = {
        StoredState.WAITING: Verb.RELEASE,
        StoredState.COMPLETED: Verb.COMPLETE,
        StoredState.FAILED: Verb.FAIL,
        StoredState.CANCELLED: Verb.CANCEL,
    }.get(state)
    if verb is not None:
        assert end(backend, claim, verb)
    return claim


def _apply(backend: Inspected, clock: FakeClock, verb: Verb, claim: Claim) -> None:
    """Try a verb on a job by every way there is."""
    if verb is Verb.CLAIM:
        take(backend, queues=[claim.queue])
    elif verb is Verb.RESCUE:
        clock.advance(LEASE)
        rescue(backend)
    elif verb is Verb.REVIVE:
        backend.revive(claim.id, run_at=NOW)
    elif verb is Verb.CANCEL:
        end(backend, claim, verb)
        backend.cancel(claim.id, now=NOW)
    else:
        end(backend, claim, verb, result=b"1", error=b"{}")


def _retire(backend: Inspected, record: JobRecord) -> None:
    """End a job, so that it stands in nobody's way."""
    backend.cancel(record.id, now=NOW)
    if record.stored is StoredState.RUNNING:
        payload, owner = record.payload, record.owner or ""
        no, attempt = record.claim_no, record.attempt + 1
        claim = Claim(record.id, record.task, record.queue, payload, owner, no, attempt, NOW)
        assert end(backend, claim)


class SchedulableConformance:
    """Periodic rules."""

    def test_a_schedule_is_stored_as_given(self, backend: Scheduled, reopen: Fresh) -> None:
        assert backend.schedules() == []
        assert backend.next_occurrence() is None
        given = ScheduleRecord(
            name="nightly",
            task="report",
            payload=b"\x00{}",
            rule='{"every":60}',
            queue="slow",
            priority=LOW,
            next_due=NOW + 60,
            from_code=False,
            max_attempts=2,
            fail_on_crash=True,
        )
        assert backend.put_schedule(given) == given
        assert backend.schedules() == [given]
        assert reopen().schedules() == [given]
        assert backend.next_occurrence() == NOW + 60

    def test_schedules_are_listed_by_name(self, backend: Scheduled) -> None:
        for name in ("b", "c", "a"):
            backend.put_schedule(schedule(name))
        assert [s.name for s in backend.schedules()] == ["a", "b", "c"]

    def test_putting_an_unchanged_rule_keeps_where_it_stands(self, backend: Scheduled) -> None:
        backend.put_schedule(schedule(next_due=NOW))
        backend.fire(schedule(next_due=NOW), None, next_due=NOW + 60)
        backend.pause_schedule("s", True)
        again = schedule(
            next_due=NOW + 999,
            task="other",
            payload=b"[2]",
            queue="q",
            priority=HIGH,
            max_attempts=9,
            fail_on_crash=True,
            from_code=False,
        )
        expected = replace(again, next_due=NOW + 60, last_due=NOW, paused=True)
        assert backend.put_schedule(again) == expected
        assert backend.schedules() == [expected]

    def test_putting_a_changed_rule_begins_a_generation(self, backend: Scheduled) -> None:
        first = backend.put_schedule(schedule(next_due=NOW))
        backend.fire(first, None, next_due=NOW + 60)
        backend.pause_schedule("s", True)
        stored = backend.put_schedule(schedule(rule="new", next_due=NOW + 5))
        assert (stored.rule, stored.next_due, stored.generation) == ("new", NOW + 5, 2)
        assert (stored.last_due, stored.paused) == (NOW, True)
        assert backend.schedules() == [stored]
        assert backend.put_schedule(schedule(rule="newer")).generation == 3

    def test_putting_without_replacing_leaves_what_is_there(self, backend: Scheduled) -> None:
        first = backend.put_schedule(schedule(), replace=False)
        assert backend.put_schedule(schedule(rule="new", task="other"), replace=False) == first
        assert backend.schedules() == [first]

    def test_removing(self, backend: Scheduled) -> None:
        stored = backend.put_schedule(schedule(next_due=NOW))
        backend.fire(stored, new("a"), next_due=NOW + 60)
        assert backend.remove_schedule("s")
        assert not backend.remove_schedule("s")
        assert backend.schedules() == []
        assert ids(take(backend)) == ["a"], "jobs already enqueued stay"
        assert backend.fire(stored, new("b"), next_due=NOW + 60) is None
        assert backend.put_schedule(schedule()).generation == 1

    def test_pausing_and_going_on(self, backend: Scheduled) -> None:
        stored = backend.put_schedule(schedule(next_due=NOW))
        backend.put_schedule(schedule("late", next_due=NOW + 99))
        assert not backend.pause_schedule("unknown", True)
        assert backend.pause_schedule("s", True)
        assert backend.next_occurrence() == NOW + 99
        assert backend.fire(stored, new("a"), next_due=NOW + 60) is None
        assert take(backend) == []
        assert backend.pause_schedule("s", False)
        assert backend.next_occurrence() == NOW
        assert backend.pause_schedule("s", True)
        assert backend.pause_schedule("s", False, next_due=NOW + 7)
        assert backend.next_occurrence() == NOW + 7
        assert backend.pause_schedule("late", True)
        assert backend.pause_schedule("s", True)
        assert backend.next_occurrence() is None

    def test_firing_enqueues_one_job_and_moves_on(self, backend: Scheduled) -> None:
        stored = backend.put_schedule(schedule(next_due=NOW))
        job = new("a", schedule="s", priority=HIGH)
        assert backend.fire(stored, job, next_due=NOW + 60) == Enqueued("a", True)
        assert backend.schedules() == [replace(stored, next_due=NOW + 60, last_due=NOW)]
        assert backend.next_occurrence() == NOW + 60
        assert ids(take(backend)) == ["a"]

    def test_an_occurrence_is_enqueued_once_among_all_objects(
        self, backend: Scheduled, reopen: Fresh
    ) -> None:
        stored = backend.put_schedule(schedule(next_due=NOW))
        objects = [backend, reopen()]

        def fire(number: int) -> Enqueued | None:
            job = new(f"occurrence-{number}", schedule="s")
            fired: Enqueued | None = objects[number % 2].fire(stored, job, next_due=NOW + 60)
            return fired

        answers = in_threads(6, fire)
        (winner,) = (answer for answer in answers if answer is not None)
        assert isinstance(winner, Enqueued)
        assert ids(take(backend)) == [winner.id]
        assert backend.schedules()[0].next_due == NOW + 60

    def test_pruning_does_not_bring_an_occurrence_back(self, backend: Scheduled) -> None:
        stored = backend.put_schedule(schedule(next_due=NOW))
        backend.fire(stored, new("a"), next_due=NOW + 60)
        end(backend, take_one(backend))
        assert backend.prune(finished_before=NOW + 1, failed_before=0, keep=None) == 1
        assert backend.fire(stored, new("a"), next_due=NOW + 60) is None
        assert take(backend) == []

    def test_an_occurrence_of_an_older_generation_is_not_enqueued(self, backend: Scheduled) -> None:
        old = backend.put_schedule(schedule(next_due=NOW))
        stored = backend.put_schedule(schedule(rule="new", next_due=NOW))
        assert backend.fire(old, new("a"), next_due=NOW + 60) is None
        assert backend.schedules() == [stored]
        assert take(backend) == []

    def test_skipping_an_occurrence(self, backend: Scheduled) -> None:
        stored = backend.put_schedule(schedule(next_due=NOW))
        assert backend.fire(stored, None, next_due=NOW + 60) is None
        assert backend.schedules() == [replace(stored, next_due=NOW + 60, last_due=NOW)]
        assert take(backend) == []

    def test_firing_a_job_that_is_there_moves_on_all_the_same(self, backend: Scheduled) -> None:
        put(backend, new("a"))
        stored = backend.put_schedule(schedule(next_due=NOW))
        assert backend.fire(stored, new("a"), next_due=NOW + 60) == Enqueued("a", False)
        assert backend.next_occurrence() == NOW + 60

    def test_firing_a_job_in_conflict_changes_nothing(self, backend: Scheduled) -> None:
        put(backend, new("a"))
        stored = backend.put_schedule(schedule(next_due=NOW))
        with pytest.raises(JobConflictError):
            backend.fire(stored, new("a", task="other"), next_due=NOW + 60)
        assert backend.schedules() == [stored]

    def test_hostile_names_of_schedules(self, backend: Scheduled) -> None:
        for text in HOSTILE:
            stored = backend.put_schedule(schedule(text, rule=text, task=text, queue=text))
            assert (stored.name, stored.rule, stored.generation) == (text, text, 1)
        assert [s.name for s in backend.schedules()] == sorted(HOSTILE)
        for text in HOSTILE:
            assert backend.pause_schedule(text, True)
            assert backend.remove_schedule(text)
        assert backend.schedules() == []


def schedule(name: str = "s", **fields: Any) -> ScheduleRecord:
    values: dict[str, Any] = {
        "task": "work",
        "payload": b"{}",
        "rule": "rule",
        "queue": "default",
        "priority": NORMAL,
        "next_due": NOW + 60,
    }
    return ScheduleRecord(name=name, **{**values, **fields})
