"""Runs one claimed job, step by step: one Claim in, one Ended out.
Knows no thread and no loop, and the store only for the job's own reports. Flask is only a ``scope``."""

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
from ..errors import BackendError, JobFailedError
from ..job import CANCELLED, Claim, Failure, Outcome, Verb
from ..retry import Cancel, Fail, Retry, RetryPolicy, Snooze
from ..running import RunningJob, running_job
from ..serializer import decode, encode, encode_failure
from ..signals import (
    Signal,
    emit_contained,
    job_cancelled,
    job_completed,
    job_failed,
    job_retried,
    job_started,
)
from ..task import Task, TaskRegistry
from ..texts import indented, traceback_of, with_article
from .ended import Ended
from .exits import cut_off_by_exit
from .foreign_tasks import ForeignTasks
from .mismatches import Mismatches
from .peers import fingerprint, living

_log = logging.getLogger(__name__)

TEXT_LIMIT = 16_384
"""The most characters kept of a traceback or of an error's message."""


# The number of forks from which this process descends. A fork in C code runs no hooks and is not
# counted. To compare pids instead would cost a system call in every run.
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Executor:
    """Turns claims into outcomes.

    :param scope: makes the context in which each job runs (``app.app_context``). Each job enters a new
        one and always leaves it, so that teardown functions run.
    :param sender: the sender of signals.
    :param interruptible: do not catch KeyboardInterrupt. For callers that run jobs in the main thread:
        there it is a person's Ctrl-C, not a failure of the job.
    :param life: the log level for starts, and for ends that are no failure.
    """

    def __init__(
        self,
        *,
        registry: TaskRegistry,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        scope: Callable[[], AbstractContextManager[Any]],
        sender: object,
        interruptible: bool = False,
        life: int = logging.DEBUG,
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._clock = clock
        self._scope = scope
        self._sender = sender
        self._interruptible = interruptible
        self._life = life
        self.foreign_tasks = ForeignTasks(registry)
        """The tasks of claimed jobs that are not registered in this process."""
        self._mismatches = Mismatches()
        self._patience = settings.unknown_task_timeout
        self._max_result = settings.max_result
        self._default_policy = RetryPolicy(max_attempts=settings.max_attempts)

    def start(self, claim: Claim) -> RunningJob:
        """The run of a claim, also for pages that show running jobs. From now on it counts as begun."""
        if claim.task in self._registry.names:  # a job of another task does not begin here
            self._backend.mark_begun(claim)
        return RunningJob(claim, self._clock.now(), self._backend, self._clock)

    def not_started(self, claim: Claim) -> None:
        """Undo :meth:`start`: the run does not happen and does not count as begun."""
        self._backend.unmark_begun(claim)

    def execute(self, run: RunningJob, values: Struct | None = None) -> Ended:
        """Run a job to its end; raises nothing but KeyboardInterrupt, and that only if interruptible.

        :param values: its arguments, if they are decoded already. Pass them for a first run only,
            because the function may change them.
        """
        claim = run.claim
        task = self._registry.find(claim.task)
        if task is None:
            return self._leave_to_others(claim)
        try:
            if values is None:
                values = task.arguments.decode(claim.payload)
        except BaseException as error:  # decoding arguments runs foreign code: __post_init__
            self._pass_on(error)
            return self._put_off(claim, task, Failure(type(error).__name__, _text_of(error)))
        told = _log.isEnabledFor(self._life)  # checked once per job
        try:
            # An empty context for each job: the next job does not see what this one sets.
            result = Context().run(self._run, task, run, values, told)
        except BaseException as error:  # the edge to foreign code: SystemExit ends a job, not a thread
            self._pass_on(error)
            ended = self._ended_badly(claim, task, error)
            if ended.facts is None:
                # The frames of the failed call keep its arguments and locals in memory: free them.
                error.__traceback__ = None
            return ended
        return self._completed(claim, result, run, told)

    def _tell(self, claim: Claim, text: str, *facts: object) -> None:
        """Log a line about the life of a job. If a log filter raises, the job does not fail."""
        with suppress(Exception):
            _log.log(
                self._life,
                f"job %s (%s) attempt %d {text}",
                *(claim.id, claim.task, claim.attempt, *facts),
            )

    def _run(self, task: Task[..., Any], run: RunningJob, values: Struct, told: bool) -> Any:
        running_job.set(run)
        forks = _forks
        with self._scope():
            if told:
                self._tell(run.claim, "started")
            if job_started.receivers:
                claim = run.claim
                facts: dict[str, object] = {"job": claim, "attempt": claim.attempt}
                emit_contained(job_started, self._sender, interruptible=self._interruptible, facts=facts)
            try:
                result = task.arguments.call(task.function, values)
                if type(result) is CoroutineType:
                    import asyncio  # slow to import, and few jobs need it

                    result = asyncio.run(result)
            finally:
                if _forks != forks:
                    _end_stray_child()
        return result

    def _completed(self, claim: Claim, result: Any, run: RunningJob, told: bool) -> Ended:
        now = self._clock.now()
        if told:
            self._tell(claim, "succeeded in %.3f s", now - run.started_at)
        data = note = None
        if result is not None:
            try:
                encoded = encode(result)
                # CPython 3.14 can write deeper nesting than it can read, and a msgspec.Raw is written
                # without a check.
                decode(encoded)
            except Exception as error:  # the code of a foreign object may raise anything
                note = (
                    f"the task returned {with_article(type(result).__name__)} that JSON cannot encode: "
                    f"{_text_of(error)}"
                )
            else:
                if len(encoded) > self._max_result:
                    note = f"the result takes {len(encoded):,} bytes, the limit is {self._max_result:,}"
                else:
                    data = encoded
        if note is not None:
            _log.warning("job %s (%s) completed, but %s", claim.id, claim.task, note)
        error_bytes = encode_failure(Failure("ResultNotStored", note)) if note else None
        outcome = Outcome(claim, Verb.COMPLETE, now, None, data, error_bytes)
        if not job_completed.receivers:
            return Ended(outcome)
        return Ended(outcome, job_completed, {"result": result, "seconds": now - run.started_at})

    def struck(self, run: RunningJob, error: BaseException | None) -> Ended:
        """The end of a run that an async exception interrupted, after its task may have been called.

        It counts as a failure of the job: the same exception in the task's last line would be one too.

        :param error: the async exception; ``None``: the thread has died.
        """
        if error is None:
            error = RuntimeError("the worker thread was ended from outside while it ran the job")
        task = self._registry.find(run.task)
        if task is None:
            return self._end(run.claim, describe(error), error)
        return self._failed(run.claim, task, error)

    def _pass_on(self, error: BaseException) -> None:
        if self._interruptible and isinstance(error, KeyboardInterrupt):
            raise error

    def _ended_badly(self, claim: Claim, task: Task[..., Any], error: BaseException) -> Ended:
        if cut_off_by_exit(error):
            return self._cut_off(claim, error)
        if isinstance(error, (Snooze, Cancel, Retry, Fail)):
            try:
                return self._steered(claim, task, error)
            except Exception as unclear:  # a subclass whose attributes differ from ours
                return self._failed(claim, task, unclear)
        return self._failed(claim, task, error)

    def _steered(
        self, claim: Claim, task: Task[..., Any], request: Snooze | Cancel | Retry | Fail
    ) -> Ended:
        now = self._clock.now()
        if isinstance(request, Snooze):
            run_at = now + to_seconds(request.delay)
            self._tell(claim, "snoozed, next in %.1f s", run_at - now)
            outcome = Outcome(claim, Verb.SNOOZE, now, run_at)
            return _with_signal(outcome, job_retried, error=None, run_at=run_at)
        if isinstance(request, Cancel):
            failure = Failure(CANCELLED, _text_of(request))
            self._tell(claim, "cancelled by its task: %s", _one_line(failure))
            outcome = Outcome(claim, Verb.CANCEL, now, error=encode_failure(failure))
            return _with_signal(outcome, job_cancelled, reason=request.reason)
        failure = Failure(type(request).__name__, _text_of(request))
        if isinstance(request, Fail):
            return self._end(claim, failure, request)
        policy = self._policy(task)
        if not policy.allows(claim.attempt, on_request=True, max_attempts=claim.max_attempts):
            return self._end(claim, failure, request)
        pause = policy.pause(claim.attempt) if request.delay is None else to_seconds(request.delay)
        return self._again(claim, failure, request, now + pause)

    def _cut_off(self, claim: Claim, error: BaseException) -> Ended:
        # As at the end of a drain: not the task's fault, and the job is free once this process ends.
        _log.warning(
            "job %s (%s) was interrupted by the end of its process and runs again elsewhere: %s",
            claim.id,
            claim.task,
            _text_of(error),
        )
        return Ended(Outcome(claim, Verb.INTERRUPT, self._clock.now()))

    def _failed(self, claim: Claim, task: Task[..., Any], error: BaseException) -> Ended:
        failure = describe(error)
        policy = self._policy(task)
        if policy.covers(error) and policy.allows(
            claim.attempt, on_request=False, max_attempts=claim.max_attempts
        ):
            run_at = self._clock.now() + policy.pause(claim.attempt)
            return self._again(claim, failure, error, run_at)
        return self._end(claim, failure, error)

    def _again(self, claim: Claim, failure: Failure, error: BaseException, run_at: float) -> Ended:
        now = self._clock.now()
        _log.warning(
            "job %s (%s) attempt %d failed, next in %.1f s: %s",
            claim.id,
            claim.task,
            claim.attempt,
            max(0.0, run_at - now),
            _one_line(failure),
        )
        outcome = Outcome(claim, Verb.RETRY, now, run_at, error=encode_failure(failure))
        return _with_signal(outcome, job_retried, error=error, run_at=run_at)

    def _end(self, claim: Claim, failure: Failure, error: BaseException | None) -> Ended:
        _log.error(
            "job %s (%s) failed after attempt %d: %s\n%s",
            claim.id,
            claim.task,
            claim.attempt,
            _one_line(failure),
            indented(failure.traceback),
        )
        outcome = Outcome(claim, Verb.FAIL, self._clock.now(), error=encode_failure(failure))
        if error is None and job_failed.receivers:
            error = JobFailedError(claim.id, "failed", str(failure))
        return _with_signal(outcome, job_failed, error=error)

    def _leave_to_others(self, claim: Claim) -> Ended:
        """The task is not registered here: release the job at once, and claim no more jobs of this task.
        This process cannot know whether another one has the task."""
        if self.foreign_tasks.meet(claim.task):
            _log.info(
                "task %r is not registered in this process: its jobs are left to others (first %s)",
                claim.task,
                claim.id,
            )
        return Ended(Outcome(claim, Verb.RELEASE, self._clock.now()))

    def _put_off(self, claim: Claim, task: Task[..., Any], failure: Failure) -> Ended:
        """The arguments do not fit this version of the task; another version may read them."""
        pause, over = self._mismatches.look(claim.id, self._clock.monotonic())
        now = self._clock.now()
        if over and not (now < claim.enqueued_at + self._patience and self._others_differ(claim, task)):
            self._mismatches.forget(claim.id)
            return self._end(claim, failure, None)
        _log.warning(
            "the arguments of job %s do not fit task %r as it is here, next look in %.0f s: %s",
            claim.id,
            claim.task,
            pause,
            _one_line(failure),
        )
        return Ended(Outcome(claim, Verb.SNOOZE, now, now + pause))

    def _others_differ(self, claim: Claim, task: Task[..., Any]) -> bool:
        """Whether a living process has, or may have, another version of the task."""
        try:
            peers = living(self._backend.processes())
        except BackendError:
            return True
        here = fingerprint(task)
        return any(peer.tasks is None or peer.tasks.get(claim.task, here) != here for peer in peers)

    def _policy(self, task: Task[..., Any]) -> RetryPolicy:
        return task.declared.retry or self._default_policy


def _with_signal(outcome: Outcome, signal: Signal, **facts: object) -> Ended:
    """An end with its signal, if the signal has receivers."""
    return Ended(outcome, signal, facts) if signal.receivers else Ended(outcome)


def describe(error: BaseException) -> Failure:
    """An exception as bounded text. If rendering it fails, there is still some text."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__name__
    text = traceback_of(error)
    if len(text) > TEXT_LIMIT:
        # Keep both ends: the place comes first, the error last, and either may be the long one.
        half = TEXT_LIMIT // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return Failure(name, _text_of(error), _encodable(text))


def _text_of(error: BaseException) -> str:
    """The exception's message, bounded, and encodable for any log and store."""
    try:
        text = _encodable(str(error))
    except BaseException:  # foreign __str__
        return "(the exception cannot be shown)"
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "[...]"


def _encodable(text: str) -> str:
    # Escapes lone surrogates, and turns a subclass of str into a plain str.
    return text.encode("utf-8", "backslashreplace").decode()


def _one_line(failure: Failure) -> str:
    return str(failure)[:500].encode("unicode_escape").decode("ascii")


def _end_stray_child() -> NoReturn:
    """End a child process that a task forked and that returned from the task. The job, its context and
    the waiting jobs belong to the parent. So the child exits here, like a program at its last line."""
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
