"""Enqueues jobs in one app's backend and reads them.
Knows tasks, the backend and, if jobs run in this process, a ``Runner`` that may run them at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from msgspec import Struct

from .backends.base import Backend, Inspectable
from .bell import Bell
from .clock import Clock, machine_time, to_seconds, to_timestamp
from .config import Settings
from .errors import (
    ArgumentError,
    ConfigurationError,
    JobNotFoundError,
    PayloadTooLargeError,
    UnsupportedOperationError,
)
from .handle import Job, decode_with
from .ids import check_name, new_id
from .job import Claim, ClaimFor, Enqueued, JobQuery, JobRecord, NewJob, StoredState
from .options import CallOptions, Plan
from .serializer import decode
from .signals import emit, job_cancelled, job_enqueued
from .task import Task, TaskRegistry

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """The runtime of this process, as an enqueueing thread sees it."""

    def reserve(self, jobs: int) -> ClaimFor | None:
        """Reserve worker places for at most this many jobs; ``None`` if none is free now."""

    def hand_over(self, reserved: ClaimFor, claims: Sequence[tuple[Claim, Struct | None]]) -> None:
        """Run these claims (with their decoded arguments); unused places are freed."""

    def expect(self, jobs: Sequence[tuple[str, float]]) -> None:
        """These jobs (id, due time) were stored and wait; some may be due already."""

    def expect_now(self) -> None:
        """A job was stored that is due and waits."""

    def request_cancel(self, job_id: str) -> None:
        """If the job runs in this process, make its ``cancel_requested`` True at once."""

    def ring(self) -> None:
        """Query the store now: a job may be due that the runtime does not know."""


class Client:
    """Enqueues and reads the jobs of one app.

    :param backend: stores the jobs.
    :param registry: the tasks of this process.
    :param settings: the limits of a call.
    :param clock: the source of time.
    :param sender: the sender of signals.
    :ivar runner: set while jobs run in this process.
    :ivar idle_hint: says how to run jobs, if this process does not run them automatically.
    :ivar after_enqueue: called after every successful call (the inline mode runs jobs there), with
        whether it stored anything.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        registry: TaskRegistry,
        settings: Settings,
        clock: Clock,
        sender: object,
    ) -> None:
        self.backend = backend
        self.registry = registry
        self.settings = settings
        self._max_payload = settings.max_payload
        self._timeout = settings.enqueue_timeout
        self._max_pending = settings.max_pending
        self._max_pending_total = settings.max_pending_total
        self.clock = clock
        self.sender = sender
        self.runner: Runner | None = None
        self.after_enqueue: Callable[[bool], None] | None = None
        self.idle_hint: Callable[[], str] = str
        self._waiting: dict[str, list[Bell]] = {}
        self._waiting_lock = threading.RLock()

    # --- producing -----------------------------------------------------------------------------

    def enqueue_one(
        self,
        task: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        plan: Plan,
    ) -> Job[Any]:
        """Enqueue one call that is due at once."""
        payload, arrived = task.arguments.encode(args, kwargs)
        now = self.clock.now()
        return self._store_one(self._new(plan, payload, now, now), arrived, now)

    def enqueue_calls(
        self,
        task: Task[..., Any],
        calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
        options: CallOptions,
        delay: float | timedelta | None = None,
        when: datetime | None = None,
    ) -> list[Job[Any]]:
        """Enqueue calls, all due after ``delay`` or at ``when``."""
        encode = task.arguments.encode
        return self.enqueue_encoded(
            task, [encode(args, kwargs) for args, kwargs in calls], options, delay, when
        )

    def enqueue_encoded(
        self,
        task: Task[..., Any],
        calls: Sequence[tuple[bytes, Struct]],
        options: CallOptions,
        delay: float | timedelta | None = None,
        when: datetime | None = None,
    ) -> list[Job[Any]]:
        """Enqueue calls whose arguments are encoded already (see ``Task.arguments``)."""
        now = self.clock.now()
        run_at = now
        if delay is not None:
            run_at = now + to_seconds(delay)
        elif when is not None:
            run_at = max(now, to_timestamp(when, now=now))
        if options.id is not None and len(calls) > 1:
            raise ConfigurationError(
                "options(id=...) names one job; enqueue_many cannot use it", key="id"
            )
        plan = options.for_task(task.declared)
        jobs = [self._new(plan, payload, now, run_at) for payload, _ in calls]
        if len(jobs) == 1:
            return [self._store_one(jobs[0], calls[0][1], now)]
        return self._store(jobs, [arrived for _, arrived in calls], now) if jobs else []

    def _new(self, plan: Plan, payload: bytes, now: float, run_at: float) -> NewJob:
        if len(payload) > self._max_payload:
            raise PayloadTooLargeError(
                f"the arguments of task {plan.task!r}", len(payload), self._max_payload
            )
        return NewJob(
            plan.id or new_id(),
            plan.task,
            plan.queue,
            plan.priority,
            run_at,
            now,
            payload,
            plan.max_attempts,
            plan.fail_on_crash,
        )

    def _store_one(self, new: NewJob, arrived: Struct, now: float) -> Job[Any]:
        """Like :meth:`_store`, for one job: this case must be fast."""
        runner = self.runner
        reserved = runner.reserve(1) if runner is not None and new.run_at <= now else None
        claim = None
        try:
            (answer,) = self.backend.enqueue(
                (new,),
                now=now,
                timeout=self._timeout,
                max_pending=self._max_pending,
                max_pending_total=self._max_pending_total,
                claim_for=reserved,
            )
            claim = answer.claim
        finally:
            if reserved is not None and runner is not None:
                runner.hand_over(reserved, () if claim is None else ((claim, arrived),))
        if claim is None and answer.created and runner is not None:
            if new.run_at <= now:
                runner.expect_now()
            else:
                runner.expect(((new.id, new.run_at),))
        if answer.created and job_enqueued.receivers:
            emit(job_enqueued, self.sender, job=new)
        if self.after_enqueue is not None:
            self.after_enqueue(answer.created)
        return Job(new.id, self, None, new, True) if answer.created else self._known(new)

    def _store(self, jobs: list[NewJob], arrived: list[Struct], now: float) -> list[Job[Any]]:
        """Store jobs of one due moment, and run at once as many as there are places for."""
        runner = self.runner
        due = jobs[0].run_at <= now
        reserved = runner.reserve(len(jobs)) if runner is not None and due else None
        answers: list[Enqueued] = []
        try:
            answers = self.backend.enqueue(
                jobs,
                now=now,
                timeout=self._timeout,
                max_pending=self._max_pending,
                max_pending_total=self._max_pending_total,
                claim_for=reserved,
            )
        finally:
            if reserved is not None and runner is not None:
                pairs = zip(answers, arrived, strict=False)
                runner.hand_over(reserved, [(a.claim, values) for a, values in pairs if a.claim])
        created = [new for new, answer in zip(jobs, answers, strict=True) if answer.created]
        if runner is not None:
            claimed = {answer.id for answer in answers if answer.claim is not None}
            runner.expect([(new.id, new.run_at) for new in created if new.id not in claimed])
        for new in created:
            emit(job_enqueued, self.sender, job=new)
        if self.after_enqueue is not None:
            self.after_enqueue(bool(created))
        return [
            Job(new.id, self, None, new, True) if answer.created else self._known(new)
            for new, answer in zip(jobs, answers, strict=True)
        ]

    def _known(self, new: NewJob) -> Job[Any]:
        return Job(new.id, self, self.record_of(new.id), new)

    # --- asking --------------------------------------------------------------------------------

    @property
    def inspect(self) -> Inspectable:
        """The backend, if it can look up jobs.

        :raises UnsupportedOperationError: it cannot.
        """
        if not isinstance(self.backend, Inspectable):
            raise UnsupportedOperationError(f"the backend {self.backend.url} cannot look up jobs")
        return self.backend

    def get(self, job_id: str) -> Job[Any]:
        """The job of this id.

        :raises JobNotFoundError: there is none (any more).
        """
        job = self.find(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    def find(self, job_id: str) -> Job[Any] | None:
        """The job of this id, or ``None``."""
        record = self.record_of(job_id)
        return None if record is None else Job(record.id, self, record)

    def select(self, query: JobQuery) -> list[Job[Any]]:
        """The jobs that match a query."""
        records = self.inspect.list(query, now=self.clock.now())
        return [Job(record.id, self, record, _partial=True) for record in records]

    def record_of(self, job_id: str) -> JobRecord | None:
        return self.inspect.get(job_id)

    def now(self) -> float:
        return self.clock.now()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def cancel(self, job_id: str, reason: str = "") -> StoredState | None:
        """Cancel a job; returns its state afterwards, ``None`` if there is no such job."""
        before, now = self.record_of(job_id), self.clock.now()
        stored = self.inspect.cancel(job_id, now=now, reason=reason)
        if stored is StoredState.CANCELLED and before and not before.stored.is_final:
            after = self.record_of(job_id)
            # Else the job ran meanwhile, or another caller cancelled it and sends the signal.
            if after is not None and after.finished_at == now:
                emit(job_cancelled, self.sender, job=before, reason=reason)
                self.announce_end([job_id])
        elif stored is StoredState.RUNNING and self.runner is not None:
            self.runner.request_cancel(job_id)
        return stored

    def revive(self, job_id: str) -> StoredState | None:
        """Let a failed or cancelled job run again; returns its state before, ``None`` if no such job."""
        now = self.clock.now()
        before = self.inspect.revive(job_id, run_at=now)
        if before in (StoredState.FAILED, StoredState.CANCELLED):
            if self.runner is not None:
                self.runner.expect([(job_id, now)])
            if self.after_enqueue is not None:
                self.after_enqueue(True)
        return before

    def pause(self, queue: str) -> None:
        """Begin no more jobs of a queue, in any process; running jobs continue."""
        self.inspect.pause(check_name("queue", queue))

    def resume(self, queue: str) -> None:
        """Undo :meth:`pause`."""
        self.inspect.resume(check_name("queue", queue))
        if self.runner is not None:
            self.runner.ring()

    def decode_result(self, task: str, data: bytes) -> Any:
        found = self.registry.find(task)
        return found.decode_result(data) if found else decode_with(None, data)

    def arguments_of(self, record: JobRecord) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a stored job; by name if they no longer fit the function."""
        found = self.registry.find(record.task)
        if found is not None:
            try:
                return found.arguments.unpack(found.arguments.decode(record.payload))
            except (ArgumentError, ConfigurationError):
                pass
        values = decode(record.payload)
        return ((), values) if isinstance(values, dict) else ((values,), {})

    def forget_threads(self) -> None:
        """After a fork, in the child: the runner and the waiting threads do not exist here."""
        self.runner = None
        self._waiting = {}
        self._waiting_lock = threading.RLock()

    # --- waiting -------------------------------------------------------------------------------

    def why_idle(self) -> str:
        """Why perhaps no process runs the awaited job, and what to do; empty if jobs run here."""
        return "" if self.runner is not None else self.idle_hint()

    def announce_end(self, job_ids: Iterable[str]) -> bool:
        """Wake the threads of this process that wait for these jobs; returns whether there are any."""
        found = False
        if self._waiting:
            for job_id in job_ids:
                for bell in tuple(self._waiting.get(job_id, ())):  # a copy: the list may change
                    bell.ring()
                    found = True
        return found

    def await_change(self, job_id: str, look: Callable[[], bool], timeout: float | None) -> bool:
        """Repeat ``look`` until it is true, at most ``timeout`` seconds.

        The end of the job in this process wakes it. An end in another process is found by polling: at
        first every few milliseconds, later twice a second.
        """
        if timeout is None and (hint := self.why_idle()) and not look():
            _log.warning("waiting without a limit, but %s", hint)
        bell = Bell()  # not an Event: a signal handler may end the job during the wait
        with self._waiting_lock:
            self._waiting.setdefault(job_id, []).append(bell)
        deadline = None if timeout is None else machine_time() + to_seconds(timeout, what="timeout")
        pause = 0.002
        try:
            while not look():
                left = pause if deadline is None else deadline - machine_time()
                if left <= 0:
                    return False
                bell.wait(min(pause, left))
                pause = min(pause * 1.5, 0.5)
            return True
        finally:
            with self._waiting_lock:
                bells = self._waiting[job_id]
                bells.remove(bell)
                if not bells:
                    self._waiting.pop(job_id, None)
