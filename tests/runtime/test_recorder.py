"""The recorder: groups, a store that is away, claims that were lost."""

from __future__ import annotations

import logging
from collections import deque

import pytest

from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import Claim, Outcome, StoredState, Verb
from flask_delayq.runtime import recorder
from flask_delayq.runtime.ended import Ended
from flask_delayq.runtime.held import HeldClaim
from flask_delayq.runtime.near_future import SAFETY
from flask_delayq.runtime.recorder import PAUSE, SMALL
from flask_delayq.signals import job_completed
from flask_delayq.testing.faults import Fault, FaultyBackend
from runtime_parts import Parts


def claimed(parts: Parts, jobs: int) -> list[Claim]:
    parts.task().enqueue_many([() for _ in range(jobs)])
    claims: list[Claim] = parts.backend.claim(
        None, now=parts.clock.now(), limit=jobs, owner="owner", lease=60
    )
    return claims


def done(parts: Parts, claim: Claim) -> Ended:
    return Ended(Outcome(claim, Verb.COMPLETE, parts.clock.now()))


def test_what_arrived_is_written_as_one_group() -> None:
    faulty = FaultyBackend(Parts().backend)  # type: ignore[abstract]
    parts = Parts(faulty)
    claims = claimed(parts, 5)
    for claim in claims:
        parts.recorder.add(done(parts, claim))
    assert parts.woken
    assert parts.recorder.turn(parts.clock.now()) == PAUSE
    assert faulty.calls["record"] == 1
    assert parts.recorded == [claim.id for claim in claims]
    assert parts.claims.is_idle


def test_after_a_group_outcomes_gather_for_a_moment() -> None:
    parts = Parts()
    first, *others = claimed(parts, 4)
    parts.recorder.add(done(parts, first))
    assert parts.recorder.turn(parts.clock.now()) == PAUSE
    for claim in others:
        parts.recorder.add(done(parts, claim))
    assert parts.recorded == [first.id] and parts.woken == 1, "nobody disturbs the pause"
    assert parts.recorder.turn(parts.clock.now()) == PAUSE
    assert len(parts.recorded) == 4
    assert parts.recorder.turn(parts.clock.now()) is None
    (last,) = claimed(parts, 1)
    parts.recorder.add(done(parts, last))
    assert parts.woken == 2, "after a rest the next one is written at once"


def test_no_outcome_waits_while_somebody_waits_for_outcomes() -> None:
    parts = Parts()
    for claim in claimed(parts, 2):
        parts.awaited = True
        parts.recorder.add(done(parts, claim))
        assert parts.recorder.turn(parts.clock.now()) is None
    assert parts.woken == 2 and len(parts.recorded) == 2


def test_after_a_wake_up_that_was_cut_off_the_next_outcome_wakes() -> None:
    """By an exception that was thrown into the worker just there."""
    parts = Parts()
    wake, strikes = parts.recorder._wake, [TimeoutError()]

    def cut_off_once() -> None:
        if strikes:
            raise strikes.pop()
        wake()

    parts.recorder._wake = cut_off_once
    first, second = (done(parts, claim) for claim in claimed(parts, 2))
    with pytest.raises(TimeoutError):
        parts.recorder.add(first)
    parts.recorder.add(second)
    assert parts.woken == 1


def test_while_the_store_is_away_outcomes_and_claims_are_kept() -> None:
    faulty = FaultyBackend(Parts().backend, Fault("record", 1), Fault("record", 2))  # type: ignore[abstract]
    parts = Parts(faulty)
    (claim,) = claimed(parts, 1)
    parts.recorder.add(done(parts, claim))
    for _ in range(2):
        with pytest.raises(BackendUnavailableError):
            parts.recorder.turn(parts.clock.now())
        assert parts.claims.held() == [claim]
    parts.recorder.turn(parts.clock.now())
    assert parts.backend.get(claim.id).stored is StoredState.COMPLETED
    assert parts.claims.held() == []


@pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.FAIL, Verb.CANCEL, Verb.RETRY, Verb.SNOOZE])
@pytest.mark.parametrize("cancelled", [False, True])
def test_an_outcome_that_was_stored_behind_an_error_is_not_called_lost(
    verb: Verb, cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that says no to what it has, or a server whose answer is lost."""
    faulty = FaultyBackend(Parts().backend, Fault("record", 1, when="after"))  # type: ignore[abstract]
    parts = Parts(faulty)
    (claim,) = claimed(parts, 1)
    if cancelled:
        parts.backend.cancel(claim.id, now=parts.clock.now())
    run_at = parts.clock.now() + 60 if verb in (Verb.RETRY, Verb.SNOOZE) else None
    parts.recorder.add(Ended(Outcome(claim, verb, parts.clock.now(), run_at, error=b"{}")))
    with pytest.raises(BackendUnavailableError):
        parts.recorder.turn(parts.clock.now())
    parts.recorder.turn(parts.clock.now())
    assert parts.recorded == [claim.id]
    assert "its claim was lost" not in caplog.text


def test_an_outcome_that_was_stored_before_ctrl_c_struck_is_not_called_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def strike() -> None:
        raise KeyboardInterrupt

    faulty = FaultyBackend(Parts().backend, Fault("record", 1, when="after", action=strike))  # type: ignore[abstract]
    parts = Parts(faulty)
    (claim,) = claimed(parts, 1)
    parts.recorder.add(done(parts, claim))
    with pytest.raises(KeyboardInterrupt):
        parts.recorder.turn(parts.clock.now())
    parts.recorder.turn(parts.clock.now())
    assert parts.recorded == [claim.id]
    assert caplog.messages == []


@pytest.mark.parametrize("claimed_again", [True, False])
def test_of_a_retry_behind_an_error_that_nobody_finds_any_more_nothing_is_claimed(
    claimed_again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else has claimed the job meanwhile, or deleted it."""
    faulty = FaultyBackend(Parts().backend, Fault("record", 1, when="after"))  # type: ignore[abstract]
    parts = Parts(faulty)
    (claim,) = claimed(parts, 1)
    now = parts.clock.now()
    parts.recorder.add(Ended(Outcome(claim, Verb.RETRY, now, now, error=b"{}")))
    with pytest.raises(BackendUnavailableError):
        parts.recorder.turn(now)
    if claimed_again:
        assert parts.backend.claim(None, now=now, limit=1, owner="another", lease=60)
    else:
        assert parts.backend.cancel(claim.id, now=now)
        assert parts.backend.prune(finished_before=now + 1, failed_before=now + 1, keep=0, limit=9)
    parts.recorder.turn(now)
    assert parts.recorded == [] and parts.claims.is_idle
    (message,) = caplog.messages
    assert "is not known" in message and "its claim was lost" not in message


@pytest.mark.parametrize("verb", [Verb.COMPLETE, Verb.FAIL, Verb.RETRY])
def test_a_job_that_was_rescued_after_an_error_is_lost(
    verb: Verb, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyBackend(Parts().backend, Fault("record", 1))  # type: ignore[abstract]
    parts = Parts(faulty)
    (claim,) = claimed(parts, 1)
    run_at = parts.clock.now() + 60 if verb is Verb.RETRY else None
    parts.recorder.add(Ended(Outcome(claim, verb, parts.clock.now(), run_at, error=b"{}")))
    with pytest.raises(BackendUnavailableError):
        parts.recorder.turn(parts.clock.now())
    taken = Verb.FAIL if verb is Verb.FAIL else Verb.RELEASE
    faulty.inner.record([Outcome(claim, taken, 0.0)], now=parts.clock.now())
    parts.recorder.turn(parts.clock.now())
    assert parts.recorded == []
    assert "its claim was lost" in caplog.text


def test_an_outcome_of_a_lost_claim_changes_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts()
    (claim,) = claimed(parts, 1)
    parts.backend.record([Outcome(claim, Verb.RELEASE, 0.0)], now=parts.clock.now())
    parts.recorder.add(done(parts, claim))
    with caplog.at_level(logging.WARNING):
        parts.recorder.turn(parts.clock.now())
    assert "its claim was lost" in caplog.text
    assert parts.backend.get(claim.id).stored is StoredState.WAITING
    assert parts.recorded == []


def test_an_interrupted_job_stays_held() -> None:
    parts = Parts()
    (claim,) = claimed(parts, 1)
    held = HeldClaim(claim, None, 0.0, 0.0)
    parts.claims.add(held)
    assert parts.claims.begin(held, parts.executor.start(claim), 1)
    parts.recorder.add_all([Outcome(claim, Verb.INTERRUPT, parts.clock.now())])
    parts.recorder.turn(parts.clock.now())
    assert parts.claims.held() == [claim]
    parts.recorder.add(done(parts, claim))
    parts.recorder.turn(parts.clock.now())
    assert parts.backend.get(claim.id).stored is StoredState.COMPLETED


# --- what is kept while the store is away ----------------------------------------------------------


def test_large_outcomes_are_counted_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand results of a megabyte would be ten gigabytes."""
    monkeypatch.setattr(recorder, "BACKLOG_BYTES", 1000 * SMALL)
    faulty = FaultyBackend(Parts().backend, Fault("record", 1))  # type: ignore[abstract]
    parts = Parts(faulty)
    big = bytes(100 * SMALL)
    ends = []
    for claim in claimed(parts, 11):
        assert not parts.recorder.is_full
        result, error = (big, None) if len(ends) % 2 else (None, big)
        outcome = Outcome(claim, Verb.FAIL if error else Verb.COMPLETE, 0.0, None, result, error)
        ends.append(Ended(outcome))
        parts.recorder.add(ends[-1])
    assert parts.recorder.is_full and parts.recorder.backlog == 11
    parts.recorder.add(ends[-1])  # by a worker that was cut off and is not sure
    with pytest.raises(BackendUnavailableError):
        parts.recorder.turn(parts.clock.now())
    assert parts.recorder.is_full
    parts.recorder.turn(parts.clock.now())
    assert not parts.recorder.is_full
    assert (parts.recorder._bytes, parts.recorder.backlog) == (0, 0)
    assert len(parts.recorded) == 11


def test_an_end_that_is_written_the_moment_it_arrives_is_counted_no_longer() -> None:
    """Its worker loses the interpreter in the middle of handing it on; counted for ever, such ends would
    add up until this process runs no job any more."""
    parts = Parts()
    told: list[int] = []
    parts.recorder._tell = lambda ended: bool(told.append(ended.weight))

    class Hasty(deque[Ended]):
        def append(self, ended: Ended) -> None:
            super().append(ended)
            parts.recorder.turn(parts.clock.now())

    parts.recorder._waiting = parts.claims.ended = Hasty()
    (claim,) = claimed(parts, 1)
    parts.recorder.add(
        Ended(Outcome(claim, Verb.COMPLETE, 0.0, None, bytes(SMALL + 1)), job_completed, {})
    )
    assert (parts.recorder._bytes, parts.recorder.backlog) == (0, 0)
    assert told == [2 * (SMALL + 1)], "who tells of it counts the same"


def test_nothing_is_claimed_while_more_is_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "BACKLOG_BYTES", SMALL)
    parts = Parts()
    (claim,) = claimed(parts, 1)
    parts.recorder.add(Ended(Outcome(claim, Verb.COMPLETE, 0.0, None, bytes(SMALL + 1))))
    parts.client.runner = parts.dispatcher
    parts.task().enqueue()
    parts.dispatcher.ring()
    parts.turn()
    assert parts.items == []
    parts.clock.advance(SAFETY)
    assert parts.turn() == SAFETY, "that a job is due is no reason to look again at once"


def test_the_same_end_twice_is_written_and_told_once() -> None:
    parts = Parts()
    (claim,) = claimed(parts, 1)
    end = done(parts, claim)
    for _ in range(3):
        parts.recorder.add(end)
    parts.recorder.turn(parts.clock.now())
    assert parts.recorded == [claim.id]
    parts.recorder.add(end)
    parts.recorder.turn(parts.clock.now())
    assert parts.recorded == [claim.id] and parts.claims.is_idle
