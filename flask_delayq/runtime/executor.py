"""Runs one claimed job and says how it ended: one Claim in, one Outcome out, step by step.
Knows no thread, no loop and no store beyond the job's own reports; Flask comes in as a ``scope``."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any

from msgspec import Struct

from ..backends.base import Backend
from ..clock import Clock
from ..config import Settings
from ..errors import ArgumentError, ConfigurationError
from ..job import Claim, Failure, Outcome, Verb
from ..retry import Cancel, Retry, RetryPolicy, Snooze, Steer
from ..running import RunningJob, running_job
from ..serializer import UNENCODABLE, encode, encode_failure
from ..signals import emit, job_cancelled, job_completed, job_failed, job_retried, job_started
from ..task import Task, TaskRegistry

_log = logging.getLogger(__name__)

TEXT_LIMIT = 16_384
"""Characters kept of a traceback and of an error's message."""

MISUNDERSTOOD_LIMIT = 12
"""Claims after which a job is failed whose task, or whose arguments, this code does not know. The pauses
before double from 1 s to 60 s, about five minutes in all: during a rolling deploy another process, or
the next version of this one, may know them."""


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
        self._max_result = settings.max_result
        self._default_policy = RetryPolicy(max_attempts=settings.max_attempts)

    def start(self, claim: Claim) -> RunningJob:
        """The run of a claim, for whoever shows what is running."""
        return RunningJob(claim, self._backend, self._clock)

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
        except (ArgumentError, ConfigurationError) as error:
            return self._misunderstood(claim, Failure(type(error).__name__, str(error)))
        if job_started.receivers:
            emit(job_started, self._sender, job=claim, attempt=claim.attempt)
        try:
            # An empty context for each job: nothing that one sets is seen by the next.
            result = Context().run(self._run, task, run, values)
        except Steer as wish:
            return self._steered(claim, task, wish)
        except BaseException as error:  # the edge to foreign code: SystemExit ends a job, not a thread
            outcome = self._failed(claim, task, error)
            # The frames of the failed call hold its arguments and locals; let them go.
            error.__traceback__ = None
            return outcome
        return self._completed(claim, result, run)

    def _run(self, task: Task[..., Any], run: RunningJob, values: Struct) -> Any:
        running_job.set(run)
        with self._scope():
            result = task.arguments.call(task.function, values)
            if task.is_async:
                result = asyncio.run(result)
        return result

    def _completed(self, claim: Claim, result: Any, run: RunningJob) -> Outcome:
        now = self._clock.now()
        data = note = None
        if result is not None:
            try:
                data = encode(result)
            except UNENCODABLE as error:
                note = f"the task returned a {type(result).__name__} that JSON cannot carry: {error}"
            else:
                if len(data) > self._max_result:
                    note = f"the result takes {len(data):,} bytes, the limit is {self._max_result:,}"
                    data = None
        if note is not None:
            _log.warning("job %s (%s) completed, but %s", claim.id, claim.task, note)
        if job_completed.receivers:
            seconds = now - run.started_at
            emit(job_completed, self._sender, job=claim, result=result, seconds=seconds)
        error_bytes = encode_failure(Failure("ResultNotStored", note)) if note else None
        return Outcome(claim, Verb.COMPLETE, now, None, data, error_bytes)

    def _steered(self, claim: Claim, task: Task[..., Any], wish: Steer) -> Outcome:
        now = self._clock.now()
        if isinstance(wish, Snooze):
            run_at = now + wish.delay
            emit(job_retried, self._sender, job=claim, error=None, run_at=run_at)
            return Outcome(claim, Verb.SNOOZE, now, run_at)
        if isinstance(wish, Cancel):
            emit(job_cancelled, self._sender, job=claim, reason=wish.reason)
            failure = Failure("Cancel", _bounded(str(wish)))
            return Outcome(claim, Verb.CANCEL, now, error=encode_failure(failure))
        if not isinstance(wish, Retry):
            return self._failed(claim, task, wish)
        policy = self._policy(task)
        failure = Failure("Retry", _bounded(str(wish)))
        if not policy.allows(claim.attempt, on_request=True, max_attempts=claim.max_attempts):
            return self._end(claim, failure, wish)
        pause = policy.pause(claim.attempt) if wish.delay is None else wish.delay
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
        emit(job_retried, self._sender, job=claim, error=error, run_at=run_at)
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
        emit(job_failed, self._sender, job=claim, error=error)
        return Outcome(claim, Verb.FAIL, self._clock.now(), error=encode_failure(failure))

    def _misunderstood(self, claim: Claim, failure: Failure) -> Outcome:
        if claim.claim_no >= MISUNDERSTOOD_LIMIT:
            return self._end(claim, failure, None)
        pause = min(60.0, 2.0 ** (claim.claim_no - 1))
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


def describe(error: BaseException) -> Failure:
    """An exception as bounded text. Whatever goes wrong in rendering it, something comes out."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__name__
    try:
        message = str(error)
    except BaseException:  # foreign __str__
        message = "(the exception cannot be shown)"
    try:
        lines = traceback.format_exception(kind, error, error.__traceback__, limit=-40)
        text = "".join(lines)
    except BaseException:  # foreign __str__ or __cause__
        text = "".join(traceback.format_tb(error.__traceback__, limit=-40))
    if len(text) > TEXT_LIMIT:
        text = "[...]\n" + text[-TEXT_LIMIT:]
    return Failure(str(name), _bounded(message), text)


def _bounded(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "[...]"


def _one_line(failure: Failure) -> str:
    text = str(failure)[:500]
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")


def _no_task(name: str) -> str:
    return f"no task named {name!r} is registered in this process"
