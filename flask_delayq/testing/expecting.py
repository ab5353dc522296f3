"""Asserts which jobs are enqueued, and lists the enqueued jobs in the error.
Must not run anything; it reads the store like any program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..clock import to_seconds
from ..handle import Job
from ..task import Task
from .clock import FakeClock

if TYPE_CHECKING:
    from ..extension import DelayQ

SLACK = 1.0
"""Seconds by which ``due_in`` may differ with a real clock, which goes on meanwhile."""

_EXACTLY = 0.0001  # epoch seconds are floats with a precision of about 0.2 microseconds
_SHOWN = 20
_ALL = 1_000_000


def assert_enqueued(
    delayq: DelayQ,
    task: Task[..., Any] | str,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    due_in: float | timedelta | None = None,
    count: int | None = None,
) -> list[Job[Any]]:
    """Assert that such a job waits: it is enqueued and has not run.

    :param delayq: the extension.
    :param task: the task or its name.
    :param args: with ``kwargs``, the whole call, as the task would get it. Positional and keyword
        arguments are equivalent. Without both: any call.
    :param kwargs: see ``args``.
    :param queue: the name of its queue; ``None``: any.
    :param due_in: seconds (or ``timedelta``) from now until it is due, 0 if it is due; within
        :data:`SLACK` unless the app's clock is a :class:`FakeClock`.
    :param count: the exact number of such jobs; ``None``: one or more.
    :returns: those jobs, oldest first.
    :raises AssertionError: there is no such job, or another number; lists the enqueued jobs.
    :raises TypeError: the call does not fit the task.
    """
    __tracebackhide__ = True
    wanted = _Wanted(delayq, task, args=args, kwargs=kwargs, queue=queue, due_in=due_in)
    waiting = _waiting(delayq)
    found = [job for job in waiting if wanted.fits(job)]
    if (count is None and not found) or (count is not None and len(found) != count):
        expected = "" if count is None else f" ({count} expected)"
        raise AssertionError(
            f"{wanted.times(len(found))} enqueued{expected}; {_listed(delayq, waiting)}"
        )
    return found


def refute_enqueued(
    delayq: DelayQ,
    task: Task[..., Any] | str | None = None,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    due_in: float | timedelta | None = None,
) -> None:
    """Assert that no such job waits; without a task: that no job waits.

    Parameters and errors are those of :func:`assert_enqueued`.
    """
    __tracebackhide__ = True
    wanted = _Wanted(delayq, task, args=args, kwargs=kwargs, queue=queue, due_in=due_in)
    waiting = _waiting(delayq)
    found = sum(wanted.fits(job) for job in waiting)
    if found:
        raise AssertionError(
            f"{wanted.times(found)} enqueued (none expected); {_listed(delayq, waiting)}"
        )


class _Wanted:
    """The conditions for a job."""

    def __init__(
        self,
        delayq: DelayQ,
        task: Task[..., Any] | str | None,
        *,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        queue: str | None,
        due_in: float | timedelta | None,
    ) -> None:
        self._delayq = delayq
        self._task = delayq.tasks.get(task) if isinstance(task, str) else task
        self._queue = queue
        self._due_in = None if due_in is None else to_seconds(due_in, what="due_in")
        self._call: Struct | None = None
        if args is not None or kwargs is not None:
            if self._task is None:
                raise TypeError("args and kwargs need a task: pass task=")
            # As the task would get it; arguments that cannot be enqueued are an error here, too.
            self._call = self._task.arguments.encode(tuple(args or ()), dict(kwargs or {}))[1]

    def fits(self, job: Job[Any]) -> bool:
        if self._task is not None and job.task != self._task.name:
            return False
        if self._queue is not None and job.queue != self._queue:
            return False
        if self._due_in is not None and abs(_due_in(self._delayq, job) - self._due_in) > self._slack():
            return False
        return self._call is None or self._is_call(job)

    def _slack(self) -> float:
        return _EXACTLY if isinstance(self._delayq.state.clock, FakeClock) else SLACK

    def _is_call(self, job: Job[Any]) -> bool:
        assert self._task is not None
        assert self._call is not None
        bind = self._task.arguments.signature.bind
        calls = []
        for args, kwargs in (self._task.arguments.unpack(self._call), job.arguments):
            try:
                bound = bind(*args, **kwargs)
            except TypeError:  # another version of the task stored it
                return False
            bound.apply_defaults()
            calls.append(bound.arguments)
        return bool(calls[0] == calls[1])

    def times(self, number: int) -> str:
        """The number of these jobs, in words."""
        text = {0: "no job", 1: "1 job"}.get(number, f"{number} jobs")
        if self._task is not None:
            text += f" of task {self._task.name!r}"
        if self._call is not None and self._task is not None:
            text += f" with {_shown_call(*self._task.arguments.unpack(self._call))}"
        if self._queue is not None:
            text += f" in queue {self._queue!r}"
        if self._due_in is not None:
            text += f" due in {self._due_in:g} s"
        return text


def _waiting(delayq: DelayQ) -> list[Job[Any]]:
    """All jobs that wait, oldest first."""
    return delayq.jobs("scheduled", "ready", limit=_ALL)[::-1]


def _due_in(delayq: DelayQ, job: Job[Any]) -> float:
    """Seconds until a job is due; 0 if it is."""
    return max(0.0, job.record.run_at - delayq.state.clock.now())


def _listed(delayq: DelayQ, waiting: Sequence[Job[Any]]) -> str:
    """The enqueued jobs, and the number of jobs that have run already."""
    if waiting:
        lines = [f"  {_line(delayq, job)}" for job in waiting[:_SHOWN]]
        if len(waiting) > _SHOWN:
            lines.append(f"  and {len(waiting) - _SHOWN} more")
        text = "\n".join(["enqueued are:", *lines])
    else:
        text = "nothing is enqueued"
    counts = delayq.counts()
    ended = [
        f"{counts[state]} {state}"
        for state in ("running", "completed", "failed", "cancelled")
        if counts[state]
    ]
    return f"{text}\n(not waiting any more: {', '.join(ended)})" if ended else text


def _line(delayq: DelayQ, job: Job[Any]) -> str:
    due = _due_in(delayq, job)
    when = f"due in {due:g} s" if due else "due now"
    retry = f", attempts made: {job.attempt}" if job.attempt else ""
    return f"{job.task}{_shown_call(*job.arguments)}  queue {job.queue}, {when}{retry}"


def _shown_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    parts = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    text = ", ".join(parts)
    return f"({text})" if len(text) <= 200 else f"({text[:197]}...)"
