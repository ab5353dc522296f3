"""``Job``: a snapshot of one submitted call, with methods to refresh, wait, cancel and retry.
Knows the store by the few verbs of ``JobStore``; knows no Flask and no runtime."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from .clock import to_datetime, to_seconds
from .errors import (
    InvalidTransitionError,
    JobFailedError,
    JobNotFinishedError,
    JobNotFoundError,
    WaitInsideTaskError,
    WaitTimeoutError,
)
from .job import Failure, JobRecord, JobState, NewJob, Priority, StoredState
from .running import running_job
from .serializer import decode_failure, decode_object

R = TypeVar("R")


class JobStore(Protocol):
    """What a ``Job`` needs of its app."""

    def record_of(self, job_id: str) -> JobRecord | None: ...
    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    def cancel(self, job_id: str, reason: str) -> StoredState | None: ...
    def revive(self, job_id: str) -> StoredState | None: ...
    def await_change(self, job_id: str, look: Callable[[], bool], timeout: float | None) -> bool: ...
    def decode_result(self, task: str, data: bytes) -> Any: ...
    def arguments_of(self, record: JobRecord) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
    def why_idle(self) -> str: ...


class Job(Struct, Generic[R], eq=False, gc=False):
    """One submitted call of a task.

    The attributes are a snapshot, taken when the object was made; :meth:`refresh` updates them.
    Times are aware UTC datetimes, or ``None`` if it has not happened.
    """

    id: str
    _store: JobStore
    _record: JobRecord | None = None
    _new: NewJob | None = None
    created: bool = False
    """Whether the call that returned this object stored the job (False: a job had this id already)."""
    _partial: bool = False
    """It comes from a list, which omits arguments, result and error: they are fetched when read."""

    @property
    def record(self) -> JobRecord:
        """The whole snapshot, as stored."""
        record = self._record
        if record is None:
            new = self._new
            assert new is not None
            record = self._record = JobRecord(
                id=new.id,
                task=new.task,
                queue=new.queue,
                priority=new.priority,
                stored=StoredState.WAITING,
                run_at=new.run_at,
                enqueued_at=new.enqueued_at,
                payload=new.payload,
                max_attempts=new.max_attempts,
                fail_on_crash=new.fail_on_crash,
                schedule=new.schedule,
            )
        return record

    def _whole(self) -> JobRecord:
        if self._partial:
            self.refresh()
        return self.record

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record.task

    @property
    def queue(self) -> str:
        return self.record.queue

    @property
    def priority(self) -> str:
        """``"high"``, ``"normal"`` or ``"low"``."""
        return Priority(self.record.priority).name.lower()

    @property
    def state(self) -> JobState:
        """One of the six states, at the time of the snapshot (a ``scheduled`` job becomes ``ready`` when
        it is due)."""
        return self.record.state_at(self._store.now())

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.record.stored.is_final

    @property
    def attempt(self) -> int:
        """The number of runs that count, including the current one."""
        record = self.record
        return record.attempt + (record.stored is StoredState.RUNNING)

    @property
    def rescues(self) -> int:
        """How often in a row it was taken back from a process that died."""
        return self.record.rescues

    @property
    def run_at(self) -> datetime:
        """When it is, or was, due."""
        moment = to_datetime(self.record.run_at)
        assert moment is not None
        return moment

    @property
    def enqueued_at(self) -> datetime:
        """When it was enqueued, or when :meth:`retry` was last called."""
        moment = to_datetime(self.record.enqueued_at)
        assert moment is not None
        return moment

    @property
    def started_at(self) -> datetime | None:
        """When the latest run was claimed."""
        return to_datetime(self.record.started_at)

    @property
    def finished_at(self) -> datetime | None:
        return to_datetime(self.record.finished_at)

    @property
    def cancel_requested(self) -> bool:
        return self.record.cancel_requested

    @property
    def schedule(self) -> str | None:
        """The name of the schedule that enqueued it, or ``None``."""
        return self.record.schedule

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments as ``(args, kwargs)``; decoded by the task's annotations, if it is
        registered here."""
        return self._store.arguments_of(self._whole())

    @property
    def error(self) -> Failure | None:
        """Why the latest failed run failed; for a completed job, why its result is not stored."""
        return decode_failure(self._whole().error)

    @property
    def progress(self) -> dict[str, Any]:
        """The latest report: ``done``, ``total``, ``note``, ``at`` (epoch seconds); or empty."""
        return decode_object(self.record.progress)

    @property
    def result(self) -> R:
        """What the task returned, decoded by its return annotation.

        ``None`` also if the result could not be stored; then :attr:`error` says why.

        :raises JobFailedError: the job failed or was cancelled.
        :raises JobNotFinishedError: it has not ended (in this snapshot).
        """
        record = self._whole()
        if record.stored is StoredState.COMPLETED:
            if record.result is None:
                return None  # type: ignore[return-value]
            value: R = self._store.decode_result(record.task, record.result)
            return value
        if record.stored.is_final:
            error = self.error
            raise JobFailedError(self.id, self.state.value, str(error) if error else None)
        raise JobNotFinishedError(self.id, self.state.value)

    def refresh(self) -> Job[R]:
        """Update this object from the store, and return it.

        :raises JobNotFoundError: the job was pruned.
        """
        record = self._store.record_of(self.id)
        if record is None:
            raise JobNotFoundError(self.id)
        self._record = record
        self._partial = False
        return self

    def wait(self, timeout: float | timedelta | None = None) -> Job[R]:
        """Block until the job is final and return this object, refreshed.

        :param timeout: seconds or ``timedelta``, or ``None`` for no limit.
        :raises DelayError: ``timeout`` is negative, not finite or not a duration.
        :raises WaitTimeoutError: the job was not final in time.
        :raises WaitInsideTaskError: called inside a task, and the job is not final: workers that wait
            for workers can deadlock.
        :raises JobNotFoundError: the job was pruned.
        """
        limit = None if timeout is None else to_seconds(timeout, what="timeout")
        self.refresh()
        if self.is_final:
            return self
        if running_job.get(None) is not None:
            raise WaitInsideTaskError(self.id)
        if not self._store.await_change(self.id, lambda: self.refresh().is_final, limit):
            raise WaitTimeoutError(self.id, limit or 0.0, self._store.why_idle())
        return self

    def cancel(self, reason: str = "") -> bool:
        """Cancel the job; True if it is cancelled now.

        A waiting job is cancelled at once. A running job is asked to stop: this returns False, and
        the task sees ``current_job.cancel_requested``. A final job is not changed (False unless it was
        cancelled before).

        :param reason: stored as the job's error message.
        :raises JobNotFoundError: the job was pruned.
        """
        stored = self._store.cancel(self.id, reason)
        if stored is None:
            raise JobNotFoundError(self.id)
        self.refresh()
        return stored is StoredState.CANCELLED

    def retry(self) -> Job[R]:
        """Run a failed or cancelled job again, now, with all its attempts left; returns this object.

        :raises InvalidTransitionError: the job is in another state.
        :raises JobNotFoundError: the job was pruned.
        """
        before = self._store.revive(self.id)
        if before is None:
            raise JobNotFoundError(self.id)
        if before not in (StoredState.FAILED, StoredState.CANCELLED):
            raise InvalidTransitionError(self.id, self.refresh().state.value, "retry")
        return self.refresh()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.task} {self.state}>"


def decode_with(annotation: Any, data: bytes) -> Any:
    """Decode a stored result by the task's return annotation, if possible."""
    if annotation is not None:
        try:
            return msgspec.json.decode(data, type=annotation)
        except (msgspec.MsgspecError, TypeError):
            pass  # another version of the task wrote it: return plain JSON
    return msgspec.json.decode(data)
