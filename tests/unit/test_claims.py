"""The claims in hand: begun once or withdrawn, never both, and never mistaken for an older claim.

Must not know threads of the runtime or a store.
"""

from __future__ import annotations

import threading

from flask_delayq.backends.memory import MemoryBackend
from flask_delayq.clock import SystemClock
from flask_delayq.job import Claim
from flask_delayq.running import RunningJob
from flask_delayq.runtime.claims import Held, HeldClaims


def claim(job_id: str, claim_no: int = 1) -> Claim:
    return Claim(job_id, "task", "default", b"{}", "me", claim_no, 1, 0.0)


def held(job_id: str, since: float = 1.0, claim_no: int = 1) -> Held:
    return Held(claim(job_id, claim_no), None, since, since)


def test_a_claim_is_held_from_its_arrival_until_it_is_dropped() -> None:
    claims = HeldClaims()
    first = held("a")
    claims.add(first)
    assert claims.held() == [first.claim] and len(claims) == 1
    assert claims.begin(first)
    assert claims.held() == [first.claim]
    claims.drop(first.claim)
    assert claims.held() == [] and len(claims) == 0
    claims.drop(first.claim)


def test_a_claim_begins_once() -> None:
    claims = HeldClaims()
    first = held("a")
    claims.add(first)
    assert claims.begin(first)
    assert not claims.begin(first)
    assert not claims.begin(held("unknown"))


def test_a_claim_that_was_asked_for_too_long_ago_does_not_begin_and_can_be_withdrawn() -> None:
    claims = HeldClaims()
    late = Held(claim("a"), None, since=9.0, asked_at=1.0)
    claims.add(late)
    assert not claims.begin(late, asked_after=1.001)
    assert claims.withdraw(9.0) == [late.claim]

    claims.add(just := Held(claim("b"), None, since=9.0, asked_at=1.0))
    assert claims.begin(just, asked_after=1.0)


def test_withdrawn_are_those_that_wait_since_the_moment_or_longer_in_order() -> None:
    claims = HeldClaims()
    a, b, c = (held(name, since) for name, since in (("a", 1.0), ("b", 2.0), ("c", 3.0)))
    for one in (a, b, c):
        claims.add(one)
    assert claims.oldest_unstarted() == 1.0
    assert claims.withdraw(0.999) == []
    assert claims.withdraw(2.0) == [a.claim, b.claim]
    assert claims.oldest_unstarted() == 3.0
    assert claims.withdraw(2.999) == []
    assert claims.withdraw(float("inf")) == [c.claim]
    assert claims.oldest_unstarted() is None


def test_what_was_withdrawn_does_not_begin_and_stays_held_until_its_release_is_written() -> None:
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert claims.withdraw(1.0) == [one.claim]
    assert not claims.begin(one)
    assert claims.held() == [one.claim]


def test_what_has_begun_is_not_withdrawn() -> None:
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert claims.begin(one)
    assert claims.withdraw(float("inf")) == []


def test_a_stale_item_in_a_workers_queue_does_not_begin_the_newer_claim_of_its_job() -> None:
    claims = HeldClaims()
    old, new = held("a", 1.0, 1), held("a", 2.0, 2)
    claims.add(old)
    assert claims.withdraw(1.0) == [old.claim]
    claims.add(new)  # released, written, and claimed again by this process
    assert not claims.begin(old)
    assert claims.begin(new)


def test_dropping_an_old_claim_keeps_the_newer_one() -> None:
    claims = HeldClaims()
    old, new = held("a", 1.0, 1), held("a", 2.0, 2)
    claims.add(old)
    claims.add(new)
    assert claims.held() == [new.claim], "a renewal of the old one would report the job as lost"
    claims.drop(old.claim)
    assert claims.held() == [new.claim]
    claims.drop(new.claim)
    assert len(claims) == 0


def test_a_running_job_is_told_of_its_cancel() -> None:
    claims = HeldClaims()
    run = RunningJob(claim("a"), 0.0, MemoryBackend("memory://", clock=SystemClock()), SystemClock())
    claims.running[threading.get_ident()] = run
    assert not claims.request_cancel("b")
    assert claims.request_cancel("a")
    assert run.cancel_requested


def test_each_claim_is_either_begun_or_withdrawn_however_the_threads_race() -> None:
    claims = HeldClaims()
    many = [held(f"job{i}", float(i)) for i in range(5000)]
    for one in many:
        claims.add(one)
    start = threading.Barrier(4)
    begun: list[list[str]] = [[], []]
    withdrawn: list[list[str]] = [[], []]

    def begin(mine: list[str]) -> None:
        start.wait(5)
        mine.extend(one.claim.id for one in many if claims.begin(one))

    def withdraw(mine: list[str]) -> None:
        start.wait(5)
        for moment in range(0, 5001, 50):
            mine.extend(one.id for one in claims.withdraw(float(moment)))

    threads = [threading.Thread(target=begin, args=(mine,)) for mine in begun]
    threads += [threading.Thread(target=withdraw, args=(mine,)) for mine in withdrawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    taken = [job_id for mine in begun + withdrawn for job_id in mine]
    assert sorted(taken) == sorted(one.claim.id for one in many)
    assert len(claims) == 5000
