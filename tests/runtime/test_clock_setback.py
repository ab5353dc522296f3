"""A wall clock that is set back: what was to run at once runs, what was delayed waits for its moment."""

from __future__ import annotations

import pytest

from flask_delayq.job import Outcome, Verb
from flask_delayq.runtime.clock_setback import AGAIN, TOLERANCE, ClockSetBack
from runtime_parts import Parts


class Watched:
    """Parts with somebody who watches the clock."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.clock = self.parts.clock
        self.task = self.parts.task()
        self.set_back = ClockSetBack(self.parts.backend, self.clock)

    def turn(self) -> int:
        return self.set_back.turn()

    def claim(self) -> list[str]:
        claims = self.parts.backend.claim(None, now=self.clock.now(), limit=9, owner="me", lease=60)
        return [claim.id for claim in claims]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]


def test_jobs_enqueued_before_the_step_run_at_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    assert watched.turn() == 0
    at_once = watched.task.enqueue()
    watched.task.enqueue_in(1)
    watched.clock.step_wall(-3600)
    assert watched.claim() == []
    assert watched.turn() == 1
    assert watched.claim() == [at_once.id]
    assert watched.turn() == 0
    (line,) = told(caplog)
    assert "set back by 3600.0 s" in line


def test_a_delayed_job_never_runs_before_its_moment(watched: Watched) -> None:
    watched.turn()
    delayed = watched.task.enqueue_in(10)
    watched.clock.step_wall(-3600)
    watched.turn()
    watched.clock.advance(3609)
    watched.turn()
    assert watched.claim() == []
    watched.clock.advance(1)
    assert watched.claim() == [delayed.id]


@pytest.mark.parametrize("step", [-TOLERANCE, 0, 3600])
def test_slewing_and_steps_forward_are_no_matter(
    watched: Watched, caplog: pytest.LogCaptureFixture, step: float
) -> None:
    watched.turn()
    watched.task.enqueue()
    watched.clock.step_wall(step)
    watched.clock.advance(1)
    assert watched.turn() == 0
    assert told(caplog) == []


def test_a_process_that_starts_finds_what_an_earlier_clock_left(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    job = watched.task.enqueue()
    watched.clock.step_wall(-3600)
    assert watched.turn() == 1
    assert watched.claim() == [job.id]
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("ahead", [0.5, TOLERANCE])
def test_what_others_enqueue_during_the_first_look_says_nothing_of_the_clock(
    watched: Watched, caplog: pytest.LogCaptureFixture, ahead: float
) -> None:
    """The moment is read before the store is: what comes in between is a little ahead of it."""
    watched.clock.advance(ahead)
    watched.task.enqueue()
    watched.clock.step_wall(-ahead)
    assert watched.turn() == 0
    assert told(caplog) == []


def test_what_waits_again_before_the_clock_has_caught_up_is_found_as_well(watched: Watched) -> None:
    watched.turn()
    watched.task.enqueue()
    (claim,) = watched.parts.backend.claim(None, now=watched.clock.now(), limit=1, owner="me", lease=60)
    watched.clock.step_wall(-3600)
    watched.turn()
    now = watched.clock.now()
    watched.parts.backend.record([Outcome(claim, Verb.RELEASE, now)], now=now)
    watched.clock.advance(AGAIN)
    assert watched.turn() == 1
    assert watched.claim() == [claim.id]


def test_a_store_that_was_away_is_asked_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.turn()
    watched.task.enqueue()
    watched.clock.step_wall(-3600)

    def away(*, now: float, ahead: float) -> int:
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(watched.parts.backend, "bring_forward", away)
        with pytest.raises(OSError):
            watched.turn()
    watched.clock.advance(1)
    assert watched.turn() == 1
