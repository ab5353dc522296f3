"""The dispatcher turn by turn: when it looks, what it takes, what it gives back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flask_delayq.job import StoredState
from flask_delayq.runtime import near_future
from flask_delayq.runtime.dispatcher import UNSTARTED_LIMIT
from flask_delayq.runtime.near_future import SAFETY, NearFuture
from flask_delayq.runtime.pool import COUNTS
from flask_delayq.runtime.wheel import TimingWheel
from runtime_parts import Parts, finish


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_an_empty_store_is_looked_at_once_a_second(parts: Parts) -> None:
    assert parts.turn() == pytest.approx(SAFETY)
    assert parts.items == []


@pytest.mark.parametrize("early", [0.001, 1e-5])
def test_nothing_is_claimed_before_its_moment(parts: Parts, early: float) -> None:
    parts.turn()
    parts.client.runner = parts.dispatcher
    job = parts.task().enqueue_in(30)
    parts.clock.advance(30 - early)
    wait = parts.turn()
    assert parts.items == []
    assert wait == pytest.approx(early, abs=1e-6)
    parts.clock.advance(early)
    parts.turn()
    assert parts.run_all() == [job.id]


def test_a_sooner_job_wakes_the_sleeper_and_a_later_one_does_not(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    task = parts.task()
    parts.turn()
    task.enqueue_in(0.5)
    assert parts.woken == 1
    task.enqueue_in(0.7)
    assert parts.woken == 1
    task.enqueue_in(0.2)
    assert parts.woken == 2
    assert parts.turn() == pytest.approx(0.2)


def test_a_job_of_another_process_is_found_within_the_safety_turn(parts: Parts) -> None:
    parts.turn()
    job = parts.task().enqueue()  # no runner: as if another process had stored it
    parts.clock.advance(SAFETY)
    parts.turn()
    assert parts.run_all() == [job.id]


def test_a_ring_makes_it_look_at_once(parts: Parts) -> None:
    parts.turn()
    job = parts.task().enqueue()
    parts.turn()
    assert parts.items == []
    parts.dispatcher.ring()
    parts.turn()
    assert parts.run_all() == [job.id]


def test_it_claims_no_more_than_there_are_places(parts: Parts) -> None:
    parts.task().enqueue_many([() for _ in range(50)])
    parts.dispatcher.ring()
    parts.turn()
    assert len(parts.items) == parts.pool.places == parts.pool.busy
    assert parts.pool.hungry


def test_a_claim_that_no_worker_begins_goes_back_uncharged(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    job = parts.task().enqueue()
    parts.clock.advance(UNSTARTED_LIMIT - 0.001)
    parts.turn()
    assert parts.backend.get(job.id).stored is StoredState.RUNNING
    parts.clock.advance(0.001)
    parts.turn()
    parts.recorder.turn(parts.clock.now())
    record = parts.backend.get(job.id)
    assert (record.stored, record.attempt) == (StoredState.WAITING, 0)
    assert parts.run_all() == []  # the worker that gets to it late leaves it alone
    assert parts.pool.busy == 0


def test_a_job_enqueued_here_is_handed_over_without_a_turn(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    job = parts.task(lambda: 7).enqueue()
    assert parts.run_all() == [job.id]
    assert job.refresh().result == 7


def test_when_all_places_are_taken_the_next_job_waits_in_the_store(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    task = parts.task()
    jobs = [task.enqueue() for _ in range(parts.pool.places + 1)]
    assert len(parts.items) == parts.pool.places
    assert parts.backend.get(jobs[-1].id).stored is StoredState.WAITING
    parts.run_all()
    parts.turn()
    assert parts.run_all() == [jobs[-1].id]


def test_a_job_stored_while_a_claim_is_under_way_is_not_forgotten(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.client.runner = parts.dispatcher
    task = parts.task()
    claim = parts.backend.claim

    def claim_and_meanwhile(*args: Any, **kwargs: Any) -> Any:
        found = claim(*args, **kwargs)
        monkeypatch.undo()
        task.enqueue()  # by another thread: too late for this claim, which has all the places
        return found

    monkeypatch.setattr(parts.backend, "claim", claim_and_meanwhile)
    parts.dispatcher.ring()
    parts.woken = 0
    parts.turn()
    assert parts.items == []
    assert parts.woken, "it would be found a second later"
    parts.turn()
    assert len(parts.items) == 1


def test_a_place_that_was_reserved_in_vain_wakes_whoever_waits_for_one() -> None:
    parts = Parts(workers=1)
    task = parts.task()
    parts.turn()
    place = parts.dispatcher.reserve(1)
    assert place and parts.dispatcher.reserve(1) is None
    task.enqueue()  # by a thread without a place, before the one that has it
    parts.dispatcher.expect_now()
    task.enqueue()  # so this one is not claimed as it is stored
    parts.woken = 0
    parts.dispatcher.hand_over(place, ())
    parts.dispatcher.expect_now()
    assert parts.woken, "nobody works, so nobody would end next"
    parts.turn()
    assert len(parts.items) == 1


def test_jobs_that_go_back_unstarted_are_not_claimed_again_at_once() -> None:
    parts = Parts(workers=2)
    task = parts.task()
    for _ in range(200):  # short ones make many places
        parts.pool.reserve(1)
        finish(parts.pool, 0.00001)
    task.enqueue_many([()] * 500)
    parts.dispatcher.ring()
    parts.turn()
    assert len(parts.items) == 500
    for ident, held in enumerate(parts.items[:2]):  # two long ones
        assert parts.claims.begin(held, parts.executor.start(held.claim), ident)
    parts.clock.advance(UNSTARTED_LIMIT)
    parts.turn()
    assert parts.claims.oldest_unstarted() is None
    parts.recorder.turn(parts.clock.now())
    parts.clock.advance(SAFETY)
    parts.turn()
    assert parts.claims.oldest_unstarted() is None, "both workers are busy"
    assert parts.client.inspect.counts(now=parts.clock.now())["ready"] == 498


def test_a_job_that_has_to_wait_takes_no_place_from_the_next(parts: Parts) -> None:
    task = parts.task()
    task.enqueue()  # an older one, for which a newer one has to wait
    parts.client.runner = parts.dispatcher
    task.enqueue()
    assert parts.items == [] and parts.woken
    assert parts.dispatcher.reserve(1), "else each job would wait for the one before it"


def test_closed_it_claims_nothing(parts: Parts) -> None:
    parts.dispatcher.accepting = False
    parts.client.runner = parts.dispatcher
    parts.task().enqueue()
    parts.dispatcher.ring()
    parts.turn()
    assert parts.items == []


@pytest.mark.parametrize("step", [-3600.0, -315_360_000.0])
def test_a_clock_that_steps_back_costs_no_job(parts: Parts, step: float) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    parts.clock.step_wall(step)
    job = parts.task().enqueue_in(5)
    parts.turn()
    parts.clock.advance(5)
    parts.turn()
    assert parts.run_all() == [job.id]


def test_a_clock_that_leaps_forward_makes_due_what_is_due(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    jobs = [parts.task().enqueue_in(delay) for delay in (60, 3600 * 24 * 365)]
    parts.clock.step_wall(315_360_000.0)
    parts.turn()
    assert sorted(parts.run_all()) == sorted(job.id for job in jobs)


def test_many_far_jobs_are_read_page_by_page(parts: Parts) -> None:
    task = parts.task()
    task.enqueue_many([() for _ in range(4500)], delay=600)
    for n in range(4500):
        task.enqueue_in(601 + n / 10)
    fresh = Parts(parts.backend, parts.clock)
    pages = 0
    while fresh.turn() == 0.0:
        pages += 1
    assert pages >= 2
    assert len(fresh.dispatcher._future) == 9000


# --- code that comes in the middle: finalizers, signal handlers, exceptions from outside --------------


def test_a_finalizer_that_enqueues_in_the_middle_of_a_turn_is_served(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.client.runner = parts.dispatcher
    task = parts.task()
    parts.turn()
    job = task.enqueue_in(0.5)
    add = TimingWheel.add
    inside: list[str] = []

    def add_and_finalize(wheel: TimingWheel, key: str, due: float) -> None:
        add(wheel, key, due)
        if not inside:
            inside.append("")
            inside[0] = task.enqueue_in(0.2).id

    monkeypatch.setattr(TimingWheel, "add", add_and_finalize)
    waits: list[float] = []
    thread = threading.Thread(target=lambda: waits.append(parts.turn()), daemon=True)
    thread.start()
    thread.join(5)
    assert waits, "it stands still"
    assert parts.turn() == pytest.approx(0.2)
    parts.clock.advance(0.5)
    parts.turn()
    assert parts.run_all() == [inside[0], job.id]


def test_a_job_stored_while_the_sleep_is_worked_out_shortens_it(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.client.runner = parts.dispatcher
    task = parts.task()
    parts.turn()
    next_due = TimingWheel.next_due

    def meanwhile(wheel: TimingWheel) -> float | None:
        found = next_due(wheel)
        monkeypatch.undo()
        task.enqueue_in(0.2)
        return found

    monkeypatch.setattr(TimingWheel, "next_due", meanwhile)
    assert parts.turn() == 0.0
    assert parts.turn() == pytest.approx(0.2)


@pytest.mark.parametrize("cut_off", ["reserve", "hand_over", "between"])
def test_places_taken_along_by_threads_that_were_cut_off_come_back(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, cut_off: str
) -> None:
    dispatcher, pool = parts.dispatcher, parts.pool
    parts.turn()
    if cut_off == "reserve":
        assert pool.reserve(10_000)
    else:
        while (reserved := dispatcher.reserve(1)) is not None:
            if cut_off == "hand_over":
                with monkeypatch.context() as patch:
                    patch.setattr(pool, "give_back", lambda places: None)
                    dispatcher.hand_over(reserved, ())
    assert pool.busy == pool.places
    parts.client.runner = dispatcher
    job = parts.task().enqueue()
    parts.clock.advance(parts.settings.enqueue_timeout + 2 * SAFETY)
    ran: list[str] = []
    for _ in range(COUNTS):
        parts.clock.advance(SAFETY)
        parts.turn()
        ran += parts.run_all()
    assert ran == [job.id]
    assert pool.busy == 0


def test_places_of_jobs_that_run_and_of_threads_that_enqueue_are_not_lost() -> None:
    parts = Parts(workers=3)
    parts.task().enqueue()
    parts.turn()
    (held,) = parts.items
    assert parts.claims.begin(held, parts.executor.start(held.claim), 1)
    parts.clock.advance(60)
    reserved = parts.dispatcher.reserve(1)
    assert reserved
    for _ in range(2 * COUNTS):
        parts.clock.advance(parts.settings.enqueue_timeout / COUNTS / 2)
        parts.turn()
    assert parts.pool.busy == 2
    parts.dispatcher.hand_over(reserved, ())
    assert parts.pool.busy == 1


def test_a_place_that_was_taken_for_lost_is_not_there_twice(parts: Parts) -> None:
    parts.turn()
    reserved = parts.dispatcher.reserve(1)
    assert reserved
    for _ in range(COUNTS + 1):
        parts.clock.advance(parts.settings.enqueue_timeout + 2 * SAFETY)
        parts.turn()
    assert parts.pool.busy == 0
    parts.dispatcher.hand_over(reserved, ())  # its thread had only stood still
    assert parts.pool.busy == -1
    for _ in range(COUNTS):
        parts.clock.advance(SAFETY)
        parts.turn()
    assert parts.pool.busy == 0


# --- how old a claim is -------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", ["before", "after"])
def test_a_claim_may_begin_after_a_long_wait_for_the_store_and_not_after_one_on_the_way_here(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    parts.task().enqueue()
    claim, wait = parts.backend.claim, parts.settings.lease / 2

    def slow(*args: Any, **kwargs: Any) -> Any:
        if waits == "before":
            parts.clock.advance(wait)
        claims = claim(*args, **kwargs)
        if waits == "after":
            parts.clock.advance(wait)
        return claims

    monkeypatch.setattr(parts.backend, "claim", slow)
    parts.dispatcher.ring()
    parts.turn()
    (held,) = parts.items
    young = parts.clock.monotonic() - parts.settings.lease / 6
    run = parts.executor.start(held.claim)
    assert parts.claims.begin(held, run, 1, young) is (waits == "before")


# --- what it asks of the store ----------------------------------------------------------------------


QUESTIONS = ("claim", "next_due", "upcoming")


@pytest.fixture
def asked(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the store was asked, by verb, since the first turn."""
    parts.turn()
    counts: Counter[str] = Counter()

    def counting(verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count_and_call(*args: Any, **kwargs: Any) -> Any:
            counts[verb] += 1
            return call(*args, **kwargs)

        return count_and_call

    for verb in QUESTIONS:
        monkeypatch.setattr(parts.backend, verb, counting(verb, getattr(parts.backend, verb)))
    return counts


def run_until(parts: Parts, moment: float) -> list[str]:
    """Turn whenever the dispatcher wants to, until a moment."""
    ran: list[str] = []
    wait = parts.turn()
    while parts.clock.now() + wait <= moment:
        parts.clock.advance(wait)
        wait = parts.turn()
        ran += parts.run_all()
    parts.clock.advance(max(0.0, moment - parts.clock.now()))
    return ran


def test_a_delayed_job_of_this_process_costs_one_claim(parts: Parts, asked: Counter[str]) -> None:
    parts.client.runner = parts.dispatcher
    start, task = parts.clock.now(), parts.task()
    jobs = [task.enqueue_in(n * 0.05 + 0.01) for n in range(200)]
    assert run_until(parts, start + 10.001) == [job.id for job in jobs]
    assert asked["claim"] == 200
    assert asked["upcoming"] == 0
    assert asked["next_due"] <= 10, "once a second, whatever happens"


def test_jobs_read_from_the_store_cost_one_claim_each(parts: Parts) -> None:
    start, task = parts.clock.now(), parts.task()
    jobs = [task.enqueue_in(n * 0.05 + 0.01) for n in range(200)]  # no runner: before it began
    calls = []
    claim, next_due = parts.backend.claim, parts.backend.next_due
    parts.backend.claim = lambda *a, **k: calls.append("claim") or claim(*a, **k)
    parts.backend.next_due = lambda *a, **k: calls.append("look") or next_due(*a, **k)
    assert run_until(parts, start + 10.001) == [job.id for job in jobs]
    assert calls.count("claim") == 200
    assert calls.count("look") <= 11


def test_an_idle_process_looks_once_a_second(parts: Parts, asked: Counter[str]) -> None:
    parts.client.runner = parts.dispatcher
    parts.task().enqueue_in(1000)
    run_until(parts, parts.clock.now() + 60)
    assert asked["next_due"] <= 61
    assert asked["claim"] == asked["upcoming"] == 0


def test_delayed_jobs_of_another_process_run_on_time(parts: Parts) -> None:
    """They are not in the wheel; it is told of them by the store, one after the other."""
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    jobs = [task.enqueue_in(n * 0.05 + 0.01) for n in range(100)]
    parts.dispatcher.ring()
    late = []
    wait = parts.turn()
    for n, job in enumerate(jobs):
        while not (ran := parts.run_all()):
            parts.clock.advance(wait)
            wait = parts.turn()
        assert ran == [job.id]
        late.append(parts.clock.now() - (start + n * 0.05 + 0.01))
        wait = parts.turn()
    assert max(late) < 0.001


def test_what_is_expected_has_a_bound_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near_future, "EXPECTED_LIMIT", 30)
    parts = Parts()
    parts.client.runner = parts.dispatcher
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    jobs = [task.enqueue_in(0.01 * n + 5) for n in range(100)]
    assert len(parts.dispatcher._future._expected) == 30
    assert sorted(run_until(parts, start + 10)) == sorted(job.id for job in jobs)


def test_the_wheel_has_a_bound_and_every_job_runs_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_future, "WHEEL_LIMIT", 50)
    parts = Parts()
    parts.client.runner = parts.dispatcher
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    jobs = [task.enqueue_in(5 + n * 0.02) for n in range(400)]
    parts.turn()
    future: NearFuture = parts.dispatcher._future
    assert len(future) <= 51
    assert run_until(parts, start + 14) == [job.id for job in jobs]


def test_a_job_handed_over_behind_a_long_one_lets_the_dispatcher_turn_in_time(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    for _ in range(16):
        parts.pool.account(0.0001)  # short jobs were seen, so places are there for some that wait
    task = parts.task()
    for _ in range(parts.pool.size):
        task.enqueue()
    woken = parts.woken
    task.enqueue()
    assert parts.woken == woken + 1
    assert parts.turn() <= UNSTARTED_LIMIT + 1e-6


def test_a_second_look_keeps_what_the_store_named(parts: Parts) -> None:
    """Beside a job of this process that is due later, in the same slot of the wheel."""
    parts.client.runner = parts.dispatcher
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    task.enqueue_in(40)
    parts.client.runner = None
    job = task.enqueue_in(0.8)  # as if another process had stored it
    for _ in range(3):
        parts.dispatcher.ring()
        parts.turn()
        parts.clock.advance(0.1)
    assert run_until(parts, start + 0.801) == [job.id]


def test_what_the_store_named_may_move_to_a_later_moment(parts: Parts) -> None:
    parts.client.runner = parts.dispatcher
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    task.enqueue_in(40)
    parts.client.runner = None
    first, second = task.enqueue_in(0.5), task.enqueue_in(0.8)
    parts.dispatcher.ring()
    parts.turn()
    parts.backend.cancel(first.id, now=start)
    parts.dispatcher.ring()
    parts.turn()
    assert run_until(parts, start + 0.801) == [second.id]


def test_what_the_store_names_may_come_to_earlier_moments_and_later_ones(parts: Parts) -> None:
    """Another process stores jobs in any order, each with a ring: none of them is late."""
    parts.client.runner = parts.dispatcher
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    task.enqueue_in(40)
    parts.client.runner = None
    late = []
    for delay in (0.9, 0.5, 0.7, 0.3, 0.6, 0.8, 0.4):
        task.enqueue_in(delay)
        parts.dispatcher.ring()
        parts.turn()
    wait = parts.turn()
    for n in range(7):
        while not (ran := parts.run_all()):
            parts.clock.advance(wait)
            wait = parts.turn()
        assert len(ran) == 1
        late.append(parts.clock.now() - start - (0.3 + n * 0.1))
        wait = parts.turn()
    assert max(late) < 0.001


def test_a_look_that_finds_more_than_there_are_places_is_made_again(parts: Parts) -> None:
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    due = [
        task.enqueue_in(0.95).id for _ in range(parts.pool.places)
    ]  # by another process, without a ring
    later = task.enqueue_in(1.2)
    parts.clock.advance(1.0)
    parts.turn()  # the safety turn: it takes all places
    assert parts.pool.hungry
    assert parts.run_all() == due
    assert run_until(parts, start + 1.201) == [later.id]


def test_jobs_of_another_process_between_our_own_are_not_late(parts: Parts) -> None:
    parts.turn()
    start, task = parts.clock.now(), parts.task()
    jobs = []
    for n in range(40):  # by turns of this process and another one
        parts.client.runner = parts.dispatcher if n % 2 else None
        jobs.append(task.enqueue_in(0.2 + n * 0.02))
        if not n % 2:
            parts.dispatcher.ring()
            parts.turn()
    late = []
    wait = parts.turn()
    for n, job in enumerate(jobs):
        while not (ran := parts.run_all()):
            parts.clock.advance(wait)
            wait = parts.turn()
        assert ran == [job.id]
        late.append(parts.clock.now() - (start + 0.2 + n * 0.02))
        wait = parts.turn()
    assert max(late) < 0.001
