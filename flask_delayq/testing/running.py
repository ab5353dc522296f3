"""Runs an app's jobs in the test's own thread, and moves its clock.
Must not know what a test expects of them; starts no thread and never waits."""

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
    """Make an app's DelayQ use this clock.

    With several apps, call it inside the app context of one of them.

    :param delayq: the extension.
    :param clock: for example a :class:`FakeClock`.
    :raises SetupError: the app's store is already in use with another clock.
    """
    state = delayq.state
    if state.clock is not clock and not state.__dict__.keys().isdisjoint(("backend", "client")):
        raise SetupError(
            "use_clock() was called too late: this app's DelayQ has been used already; "
            "call it right after the app is created"
        )
    state.clock = clock


def run_jobs(delayq: DelayQ, *, raise_errors: bool = True, limit: int | None = None) -> list[Outcome]:
    """``delayq.drain()`` for tests: run all due jobs, and raise if one of them failed.

    :param delayq: the extension.
    :param raise_errors: raise if a job failed for good, after all jobs have run. A job that waits for
        its retry does not count.
    :param limit: maximum number of jobs.
    :returns: the outcome of each run, in order.
    :raises AssertionError: a job failed for good; with the tracebacks of the tasks.
    """
    __tracebackhide__ = True
    outcomes = delayq.drain(limit)
    if raise_errors:
        _raise_failures(outcomes)
    return outcomes


def advance(
    delayq: DelayQ, clock: FakeClock, seconds: float | timedelta, *, raise_errors: bool = True
) -> list[Outcome]:
    """Move the clock forward, and run each job when it is due.

    The clock stops at each time at which a job or a schedule is due, and the due jobs run there. So
    delays, retries and periodic tasks run in order. Jobs due at the start run first; jobs due at the
    very end run, too.

    :param delayq: the extension.
    :param clock: the app's clock, see :func:`use_clock`.
    :param seconds: how far to move the clock.
    :param raise_errors: raise as soon as a job has failed for good, as :func:`run_jobs` does; the clock
        then stays at that time.
    :returns: the outcome of each run, in order.
    :raises SetupError: the app uses another clock.
    :raises AssertionError: a job failed for good; with the tracebacks of the tasks.
    """
    __tracebackhide__ = True
    state = delayq.state
    if state.clock is not clock:
        raise SetupError("this app uses another clock; call use_clock(delayq, clock) first")
    left = round(to_seconds(seconds, what="seconds") * _NANO)
    outcomes = run_jobs(delayq, raise_errors=raise_errors)
    while left > 0:
        # Whole nanoseconds, at least one: a time that rounding puts just ahead is reached in the next
        # step.
        step = min([left, *_nanoseconds_ahead(state)])
        clock.advance(step / _NANO)
        left -= step
        outcomes += run_jobs(delayq, raise_errors=raise_errors)
    return outcomes


def _nanoseconds_ahead(state: AppState) -> list[int]:
    """Nanoseconds until the next job and the schedules are due."""
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
