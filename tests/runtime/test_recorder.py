"""The recorder: groups, a store that is away, claims that were lost."""

from __future__ import annotations

import logging

import pytest

from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import Claim, Outcome, Stored, Verb
from flask_delayq.runtime.claims import Held
from flask_delayq.runtime.recorder import PAUSE
from flask_delayq.testing.faults import Fault, FaultyBackend
from runtime_parts import Parts


def claimed(parts: Parts, jobs: int) -> list[Claim]:
    parts.task().enqueue_many([() for _ in range(jobs)])
    claims: list[Claim] = parts.backend.claim(
        None, now=parts.clock.now(), limit=jobs, owner="owner", lease=60
    )
    for claim in claims:
        parts.claims.add(Held(claim, None, 0.0, 0.0))
    return claims


def done(parts: Parts, claim: Claim) -> Outcome:
    return Outcome(claim, Verb.COMPLETE, parts.clock.now())


def test_what_arrived_is_written_as_one_group() -> None:
    faulty = FaultyBackend(Parts().backend)  # type: ignore[abstract]
    parts = Parts(faulty)
    claims = claimed(parts, 5)
    for claim in claims:
        parts.recorder.add(done(parts, claim))
    assert parts.woken == 1
    assert parts.recorder.turn(parts.clock.now()) is None
    assert faulty.calls["record"] == 1
    assert parts.recorded == [claim.id for claim in claims]
    assert len(parts.claims) == 0


def test_outcomes_that_come_all_the_time_gather_for_a_moment() -> None:
    parts = Parts()
    first, *others = claimed(parts, 4)
    write = parts.backend.record

    def others_come(outcomes: list[Outcome], *, now: float) -> list[bool]:
        parts.backend.record = write
        for claim in others:
            parts.recorder.add(done(parts, claim))
        return list(write(outcomes, now=now))

    parts.backend.record = others_come
    parts.recorder.add(done(parts, first))
    assert parts.recorder.turn(parts.clock.now()) == PAUSE
    assert parts.recorded == [first.id] and parts.woken == 1, "nobody disturbs the pause"
    assert parts.recorder.turn(parts.clock.now()) is None
    assert len(parts.recorded) == 4
    (last,) = claimed(parts, 1)
    parts.recorder.add(done(parts, last))
    assert parts.woken == 2, "after a rest the next one is written at once"


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
    assert parts.backend.get(claim.id).stored is Stored.COMPLETED
    assert parts.claims.held() == []


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
    assert parts.backend.get(claim.id).stored is Stored.WAITING
    assert parts.recorded == []


def test_an_interrupted_job_stays_held() -> None:
    parts = Parts()
    (claim,) = claimed(parts, 1)
    parts.recorder.add(Outcome(claim, Verb.INTERRUPT, parts.clock.now()))
    parts.recorder.turn(parts.clock.now())
    assert parts.claims.held() == [claim]
    parts.recorder.add(done(parts, claim))
    parts.recorder.turn(parts.clock.now())
    assert parts.backend.get(claim.id).stored is Stored.COMPLETED
