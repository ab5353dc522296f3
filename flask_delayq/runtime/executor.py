"""Runs one claimed job and says how it ended: one Claim in, one Outcome out, step by step.
Knows no thread, no loop and no store beyond the job's own reports; Flask comes in as a ``scope``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from types import CoroutineType
from typing import Any, NoReturn

from msgspec import Struct

from ..backends.base import Backend
from ..clock import Clock, to_seconds
from ..config import Settings
from ..job import Claim, Failure, Outcome, Verb
from ..retry import Cancel, Retry, RetryPolicy, Snooze
from ..running import RunningJob, running_job
from ..serializer import encode, encode_failure
from ..signals import Signal, emit, job_cancelled, job_completed, job_failed, job_retried, job_started
from ..task import Task, TaskRegistry
from .puzzles import Puzzles

_log = logging.getLogger(__name__)

TEXT_LIMIT = 16_384
"""Characters kept of a traceback and of an error's message."""


# How many forks lie behind this process. A fork below Python, which runs no hooks, is not counted; to
# ask for the pid instead is a system call in every run.
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Executor:
    """Turns claims into outcomes.

    :param scope: makes the context in which each job runs (``app.app_context``); entered afresh for
        every job and left whatever happens, so that teardown functions run.
    :param sender: the sender of signals.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        scope: Callable[[], AbstractContextManager[Any]],
        sender: object,
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._clock = clock
        self._scope = scope
        self._sender = sender
        self._puzzles = Puzzles()
        self._max_result = settings.max_result
        self._default_policy = RetryPolicy(max_attempts=settings.max_attempts)

    def start(self, claim: Claim) -> RunningJob:
        """The run of a claim, for whoever shows what is running."""
        return RunningJob(claim, self._clock.now(), self._backend, self._clock)

    def execute(self, run: RunningJob, values: Struct | None = None) -> Outcome:
        """Run a job to its end; never raises.

        :param values: its arguments, if they are at hand decoded; used for a first run only, as the
            function may have changed them.
        """
        claim = run.claim
        task = self._registry.find(claim.task)
        if task is None:
            return self._misunderstood(claim, Failure("TaskNotFoundError", _no_task(claim.task)))
        try:
            if values is None:
                values = task.arguments.decode(claim.payload)
        except BaseException as error:  # restoring arguments runs foreign code: __post_init__
            return self._misunderstood(claim, Failure(type(error).__name__, _text_of(error)))
        if job_started.receivers:
            self._tell(job_started, claim, attempt=claim.attempt)
        try:
            # An empty context for each job: nothing that one sets is seen by the next.
            result = Context().run(self._run, task, run, values)
        except BaseException as error:  # the edge to foreign code: SystemExit ends a job, not a thread
            outcome = self._ended_badly(claim, task, error)
            # The frames of the failed call hold its arguments and locals; let them go.
            error.__traceback__ = None
            return outcome
        return self._completed(claim, result, run)

    def _run(self, task: Task[..., Any], run: RunningJob, values: Struct) -> Any:
        running_job.set(run)
        forks = _forks
        with self._scope():
            try:
                result = task.arguments.call(task.function, values)
                if type(result) is CoroutineType:
                    import asyncio  # slow to import, and needed by few

                    result = asyncio.run(result)
            finally:
                if _forks != forks:
                    _end_stray_child()
        return result

    def _completed(self, claim: Claim, result: Any, run: RunningJob) -> Outcome:
        now = self._clock.now()
        data = note = None
        if result is not None:
            try:
                data = encode(result)
            except Exception as error:  # whatever a foreign object answers to being looked at
                note = (
                    f"the task returned a {type(result).__name__} that JSON cannot carry: "
                    f"{_text_of(error)}"
                )
            else:
                if len(data) > self._max_result:
                    note = f"the result takes {len(data):,} bytes, the limit is {self._max_result:,}"
                    data = None
        if note is not None:
            _log.warning("job %s (%s) completed, but %s", claim.id, claim.task, note)
        if job_completed.receivers:
            self._tell(job_completed, claim, result=result, seconds=now - run.started_at)
        error_bytes = encode_failure(Failure("ResultNotStored", note)) if note else None
        return Outcome(claim, Verb.COMPLETE, now, None, data, error_bytes)

    def _ended_badly(self, claim: Claim, task: Task[..., Any], error: BaseException) -> Outcome:
        if isinstance(error, (Snooze, Cancel, Retry)):
            try:
                return self._steered(claim, task, error)
            except Exception as unclear:  # a subclass that was not made as ours are
                return self._failed(claim, task, unclear)
        return self._failed(claim, task, error)

    def _steered(self, claim: Claim, task: Task[..., Any], wish: Snooze | Cancel | Retry) -> Outcome:
        now = self._clock.now()
        if isinstance(wish, Snooze):
            run_at = now + to_seconds(wish.delay)
            self._tell(job_retried, claim, error=None, run_at=run_at)
            return Outcome(claim, Verb.SNOOZE, now, run_at)
        failure = Failure(type(wish).__name__, _text_of(wish))
        if isinstance(wish, Cancel):
            self._tell(job_cancelled, claim, reason=wish.reason)
            return Outcome(claim, Verb.CANCEL, now, error=encode_failure(failure))
        policy = self._policy(task)
        if not policy.allows(claim.attempt, on_request=True, max_attempts=claim.max_attempts):
            return self._end(claim, failure, wish)
        pause = policy.pause(claim.attempt) if wish.delay is None else to_seconds(wish.delay)
        return self._again(claim, failure, wish, now + pause)

    def _failed(self, claim: Claim, task: Task[..., Any], error: BaseException) -> Outcome:
        failure = describe(error)
        policy = self._policy(task)
        if isinstance(error, policy.retry_on) and policy.allows(
            claim.attempt, on_request=False, max_attempts=claim.max_attempts
        ):
            run_at = self._clock.now() + policy.pause(claim.attempt)
            return self._again(claim, failure, error, run_at)
        return self._end(claim, failure, error)

    def _again(self, claim: Claim, failure: Failure, error: BaseException, run_at: float) -> Outcome:
        now = self._clock.now()
        _log.warning(
            "job %s (%s) attempt %d failed, next in %.1f s: %s",
            claim.id,
            claim.task,
            claim.attempt,
            run_at - now,
            _one_line(failure),
        )
        self._tell(job_retried, claim, error=error, run_at=run_at)
        return Outcome(claim, Verb.RETRY, now, run_at, error=encode_failure(failure))

    def _end(self, claim: Claim, failure: Failure, error: BaseException | None) -> Outcome:
        _log.error(
            "job %s (%s) failed after attempt %d: %s\n%s",
            claim.id,
            claim.task,
            claim.attempt,
            _one_line(failure),
            failure.traceback,
        )
        self._tell(job_failed, claim, error=error)
        return Outcome(claim, Verb.FAIL, self._clock.now(), error=encode_failure(failure))

    def _misunderstood(self, claim: Claim, failure: Failure) -> Outcome:
        pause = self._puzzles.pause(claim.id, self._clock.monotonic())
        if pause is None:
            return self._end(claim, failure, None)
        _log.warning(
            "job %s is not understood here, next look in %.0f s: %s",
            claim.id,
            pause,
            _one_line(failure),
        )
        now = self._clock.now()
        return Outcome(claim, Verb.SNOOZE, now, now + pause)

    def _policy(self, task: Task[..., Any]) -> RetryPolicy:
        return task.declared.retry or self._default_policy

    def _tell(self, signal: Signal, claim: Claim, **facts: object) -> None:
        if not signal.receivers:
            return
        try:
            emit(signal, self._sender, job=claim, **facts)
        except BaseException:  # SystemExit in a receiver does not undo how a job ended
            _log.exception("a receiver of %s gave up on job %s", signal.name, claim.id)


def describe(error: BaseException) -> Failure:
    """An exception as bounded text. Whatever goes wrong in rendering it, something comes out."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__name__
    try:
        lines = traceback.format_exception(kind, error, error.__traceback__, limit=-40)
        text = "".join(lines)
    except BaseException:  # foreign __str__ or __cause__
        text = "".join(traceback.format_tb(error.__traceback__, limit=-40))
    if len(text) > TEXT_LIMIT:
        # Both ends: where it happened comes first, what happened last, and either may be the long one.
        half = TEXT_LIMIT // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return Failure(name, _text_of(error), _encodable(text))


def _text_of(error: BaseException) -> str:
    """What the exception says, bounded and fit for any log and store."""
    try:
        text = _encodable(str(error))
    except BaseException:  # foreign __str__
        return "(the exception cannot be shown)"
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "[...]"


def _encodable(text: str) -> str:
    # Lone surrogates are escaped, and a text of a foreign class becomes a plain one.
    return text.encode("utf-8", "backslashreplace").decode()


def _one_line(failure: Failure) -> str:
    return str(failure)[:500].encode("unicode_escape").decode("ascii")


def _end_stray_child() -> NoReturn:
    """A task has forked, and its child came back as if it were the parent. The job, its context and the
    jobs that wait are the parent's, so the child ends here, as a program at the end of its text."""
    error = sys.exc_info()[1]
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if type(error.code) is int else int(error.code is not None)
    elif error is not None:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status & 0xFF)


def _no_task(name: str) -> str:
    return f"no task named {name!r} is registered in this process"
