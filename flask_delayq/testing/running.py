"""Runs an app's jobs in the test's own thread, and moves its time as the test says.
Must not know what a test expects of them; threads and waiting have no place here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from ..backends.base import Schedulable
from ..clock import Clock, to_seconds
from ..errors import SetupError
from ..job import Outcome, Verb
from .clock import FakeClock

if TYPE_CHECKING:
    from ..app_state import AppState
    from ..extension import DelayQ

_NANO = 1_000_000_000


def use_clock(delayq: DelayQ, clock: Clock) -> None:
    """Let an app's DelayQ read the time from this clock.

    Concerns the app of this call: with several apps, call it inside an app context.

    :raises SetupError: too late: the app's store is in use with the clock that it has.
    """
    state = delayq.state
    if state.clock is not clock and not state.__dict__.keys().isdisjoint(("backend", "client")):
        raise SetupError(
            "use_clock() comes too late: this app's DelayQ has been used and has read its clock; "
            "call it right after the app is made"
        )
    state.clock = clock


def run_jobs(delayq: DelayQ, *, raise_errors: bool = True, limit: int | None = None) -> list[Outcome]:
    """``delayq.drain()`` for tests: run all that is due, and let a job that failed fail the test.

    :param raise_errors: raise if a job failed for good, after all of them have run. One that will be
        retried does not count: the task allows for that.
    :param limit: at most so many jobs.
    :returns: how each run ended, in order.
    :raises AssertionError: with the tracebacks of the tasks.
    """
    __tracebackhide__ = True
    outcomes = delayq.drain(limit)
    if raise_errors:
        _raise_failures(outcomes)
    return outcomes


def advance(
    delayq: DelayQ, clock: FakeClock, seconds: float | timedelta, *, raise_errors: bool = True
) -> list[Outcome]:
    """Let time pass, and run each job at its moment.

    The clock stops at every moment at which a job or a schedule is due, and all that is due is run
    there: delays that follow from each other, retries and periodic tasks come in their order. What
    is due at the start is run first, what is due at the very end is run as well.

    :param clock: the app's clock, see :func:`use_clock`.
    :param seconds: how far; the clock ends exactly there.
    :param raise_errors: raise as soon as a job has failed for good, as :func:`run_jobs` does; the clock
        then stands at its moment.
    :returns: how each run ended, in order.
    :raises SetupError: the app reads another clock.
    :raises AssertionError: with the tracebacks of the tasks.
    """
    __tracebackhide__ = True
    state = delayq.state
    if state.clock is not clock:
        raise SetupError("this app reads another clock; call use_clock(delayq, clock) first")
    left = round(to_seconds(seconds, what="seconds") * _NANO)
    outcomes = run_jobs(delayq, raise_errors=raise_errors)
    while left > 0:
        # Whole nanoseconds, at least one: a moment that rounding puts just ahead is reached next time.
        step = min([left, *_nanoseconds_ahead(state)])
        clock.advance(step / _NANO)
        left -= step
        outcomes += run_jobs(delayq, raise_errors=raise_errors)
    return outcomes


def _nanoseconds_ahead(state: AppState) -> list[int]:
    """How far the moments are at which the next job and the schedules are due."""
    now = state.clock.now()
    moments = [state.backend.next_due(state.settings.queues)]
    if isinstance(state.backend, Schedulable):
        moments += [schedule.next_due for schedule in state.backend.schedules()]
    return [ceil((at - now) * _NANO) for at in moments if at is not None and at > now]


def _raise_failures(outcomes: Iterable[Outcome]) -> None:
    __tracebackhide__ = True
    failed = [outcome for outcome in outcomes if outcome.verb is Verb.FAIL]
    if failed:
        raise AssertionError("\n\n".join(map(_shown, failed)))


def _shown(outcome: Outcome) -> str:
    failure = outcome.failure
    head = f"job {outcome.claim.id} ({outcome.claim.task}) failed"
    if failure is None:
        return head
    return f"{head}: {failure}\n{failure.traceback}".rstrip()
