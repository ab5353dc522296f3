"""The claims in hand: begun once or withdrawn, never both, and never mistaken for an older claim.

Must not know threads of the runtime or a store.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flask_delayq.backends.memory import MemoryBackend
from flask_delayq.clock import SystemClock
from flask_delayq.job import Claim, Outcome, Verb
from flask_delayq.running import RunningJob
from flask_delayq.runtime.ended import Ended
from flask_delayq.runtime.held import HeldClaim, HeldClaims

ME = 7
"""The ident of the one worker."""


def claim(job_id: str, claim_no: int = 1) -> Claim:
    return Claim(job_id, "task", "default", b"{}", "me", claim_no, 1, 0.0)


def held(job_id: str, since: float = 1.0, claim_no: int = 1) -> HeldClaim:
    return HeldClaim(claim(job_id, claim_no), None, since, since)


def run_of(one: HeldClaim) -> RunningJob:
    clock = SystemClock()
    return RunningJob(one.claim, 0.0, MemoryBackend("memory://", clock=clock), clock)


def begin(claims: HeldClaims, one: HeldClaim, **options: Any) -> bool:
    return claims.begin(one, run_of(one), ME, **options)


def ended(one: HeldClaim) -> Ended:
    return Ended(Outcome(one.claim, Verb.COMPLETE, 0.0))


def test_a_claim_is_held_from_its_arrival_until_its_end_is_written() -> None:
    claims = HeldClaims()
    first = held("a")
    assert claims.is_idle
    claims.add(first)
    assert claims.held() == [first.claim] and len(claims) == 1
    assert begin(claims, first)
    assert claims.held() == [first.claim] and claims.running[ME].id == "a"
    claims.ended.append(ended(first))
    assert claims.held() == [first.claim], "once, though it is in two stages"
    del claims.working[ME]
    assert claims.held() == [first.claim] and not claims.is_idle
    claims.ended.popleft()
    assert claims.held() == [] and claims.is_idle


class Watched(dict[Any, Any]):
    """A stage that looks, whenever something leaves it, whether all is still held."""

    claims: HeldClaims
    seen: list[list[Claim]]

    def pop(self, *key: Any) -> Any:
        self.seen.append(self.claims.held())
        found = super().pop(*key)
        self.seen.append(self.claims.held())
        return found

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self.seen.append(self.claims.held())


def test_a_claim_that_begins_is_seen_in_every_instant() -> None:
    """A stop that looks between two steps must find it running."""
    claims = HeldClaims()
    claims._unstarted = watched = Watched()
    watched.claims, watched.seen = claims, []
    first = held("a")
    claims.add(first)
    assert begin(claims, first)
    assert watched.seen == [[first.claim]] * 2


def test_a_claim_begins_once() -> None:
    claims = HeldClaims()
    first = held("a")
    claims.add(first)
    assert begin(claims, first)
    assert not begin(claims, first)
    assert not begin(claims, held("unknown"))


def test_a_claim_that_was_asked_for_too_long_ago_does_not_begin_and_can_be_withdrawn() -> None:
    claims = HeldClaims()
    late = HeldClaim(claim("a"), None, since=9.0, leased_at=1.0)
    claims.add(late)
    assert not begin(claims, late, leased_after=1.001)
    assert claims.withdraw(9.0) == [late.claim]

    claims.add(just := HeldClaim(claim("b"), None, since=9.0, leased_at=1.0))
    assert begin(claims, just, leased_after=1.0)


def test_nothing_begins_once_closed_and_all_can_be_withdrawn() -> None:
    claims = HeldClaims()
    early, late = held("a"), held("b")
    claims.add(early)
    claims.close()
    claims.add(late)
    assert not begin(claims, early) and not begin(claims, late)
    assert claims.running == {}
    assert claims.withdraw(float("inf")) == [early.claim, late.claim]
    assert claims.is_idle


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


def test_what_was_withdrawn_does_not_begin() -> None:
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert claims.withdraw(1.0) == [one.claim]
    assert claims.has_not_begun(one)
    assert not begin(claims, one)
    assert claims.running == {}


def test_what_has_begun_is_not_withdrawn() -> None:
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert claims.has_not_begun(one)
    assert begin(claims, one)
    assert not claims.has_not_begun(one)
    assert claims.withdraw(float("inf")) == []


def test_a_stale_item_in_a_workers_queue_does_not_begin_the_newer_claim_of_its_job() -> None:
    claims = HeldClaims()
    old, new = held("a", 1.0, 1), held("a", 2.0, 2)
    claims.add(old)
    assert claims.withdraw(1.0) == [old.claim]
    claims.add(new)  # released, written, and claimed again by this process
    assert not begin(claims, old)
    assert begin(claims, new)


@pytest.mark.parametrize("newer_first", [False, True])
def test_of_a_job_claimed_anew_the_newer_claim_is_renewed(newer_first: bool) -> None:
    """A renewal of the old one would report the job as lost."""
    claims = HeldClaims()
    old, new = held("a", 1.0, 1), held("a", 2.0, 2)
    claims.add(new)
    if newer_first:
        claims.ended.append(ended(old))
    else:
        claims.add(old)
    assert claims.held() == [new.claim]


def test_a_running_job_is_told_of_its_cancel() -> None:
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert begin(claims, one)
    assert not claims.request_cancel("b")
    assert claims.request_cancel("a")
    assert claims.running[ME].cancel_requested


def test_a_run_that_lost_its_job_goes_on_and_is_renewed_no_more() -> None:
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert not claims.lose(one.claim), "it does not run"
    assert begin(claims, one)
    assert claims.lose(one.claim)
    assert claims.running[ME].cancel_requested
    assert claims.held() == [] and not claims.is_idle


def test_a_run_that_has_ended_loses_nothing() -> None:
    """Its end may be written, and the claim gone by that, before its worker has let go of it."""
    claims = HeldClaims()
    one = held("a")
    claims.add(one)
    assert begin(claims, one)
    one.ended = ended(one)
    assert not claims.lose(one.claim)
    assert not one.lost


def test_each_claim_is_either_begun_or_withdrawn_however_the_threads_race() -> None:
    claims = HeldClaims()
    many = [held(f"job{i}", float(i)) for i in range(5000)]
    for one in many:
        claims.add(one)
    start = threading.Barrier(4)
    begun: list[list[str]] = [[], []]
    withdrawn: list[list[str]] = [[], []]

    def begin_all(ident: int, mine: list[str]) -> None:
        start.wait(5)
        for one in many:
            if claims.begin(one, run_of(one), ident):
                mine.append(one.claim.id)
                del claims.working[ident]

    def withdraw(mine: list[str]) -> None:
        start.wait(5)
        for moment in range(0, 5001, 50):
            mine.extend(one.id for one in claims.withdraw(float(moment)))

    threads = [threading.Thread(target=begin_all, args=args) for args in enumerate(begun)]
    threads += [threading.Thread(target=withdraw, args=(mine,)) for mine in withdrawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    taken = [job_id for mine in begun + withdrawn for job_id in mine]
    assert sorted(taken) == sorted(one.claim.id for one in many)
    assert claims.is_idle
