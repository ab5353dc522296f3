"""Every public exception, under one root, with the facts as attributes. (``console.json_calls`` has two
more, for calls written as JSON; engines convert their own errors into these.)
Knows no other module. There are two families: usage errors and backend errors."""

from __future__ import annotations

from collections.abc import Sequence


class DelayQError(Exception):
    """The root: ``except DelayQError`` catches everything that this package raises on purpose.

    ``Retry``, ``Snooze``, ``Cancel`` and ``Fail`` of :mod:`flask_delayq.retry` are not errors and not
    subclasses of it.
    """


# --- how the package is set up and called ------------------------------------------------------


class ConfigurationError(DelayQError):
    """A ``DELAYQ_*`` setting, a backend URL or a task option that cannot be used.

    :ivar key: the setting or option at fault, or ``None``.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class SetupError(DelayQError, RuntimeError):
    """The extension is used before ``init_app``, outside its apps, or is registered twice."""


class TaskNotFoundError(DelayQError, LookupError):
    """No task of this name is registered.

    :ivar name: the name asked for.
    :ivar suggestions: registered names that look like it.
    """

    def __init__(self, name: str, suggestions: Sequence[str] = ()) -> None:
        asked = "is its module imported?"
        if suggestions:
            asked = f"did you mean {suggestions[0]!r}? If not, {asked}"
        super().__init__(f"no task named {name!r} is registered; {asked}")
        self.name = name
        self.suggestions: tuple[str, ...] = tuple(suggestions)


class ScheduleNotFoundError(DelayQError, LookupError):
    """No schedule has this name.

    :ivar name: the name asked for.
    :ivar suggestions: stored names that look like it.
    :ivar declared: whether a task of this name declares one that no process has stored yet.
    """

    def __init__(self, name: str, suggestions: Sequence[str] = (), declared: bool = False) -> None:
        if declared:
            hint = "the code declares it, and the first process that runs jobs stores it"
        elif suggestions:
            hint = f"did you mean {suggestions[0]!r}?"
        else:
            hint = "`flask delayq schedules` lists those that there are"
        super().__init__(f"no schedule named {name!r} is stored; {hint}")
        self.name = name
        self.suggestions: tuple[str, ...] = tuple(suggestions)
        self.declared = declared


class RuleError(DelayQError, ValueError):
    """The rule of a schedule cannot be used in this process: a damaged one, or one with a time zone that
    this system does not know."""


class TaskAlreadyRegisteredError(DelayQError):
    """Two functions have the same task name or alias.

    :ivar name: the name.
    """

    def __init__(self, name: str, existing: str) -> None:
        super().__init__(
            f"a task named {name!r} is already registered ({existing}); "
            f"give one of them another name: @delayq.task(name=...)"
        )
        self.name = name


class ArgumentError(DelayQError, TypeError):
    """An argument that JSON would change, or a stored argument that does not fit the function.

    :ivar task: the task's name.
    :ivar path: where the value is, for example ``"order.items[2].price"``.
    :ivar reason: what is wrong with it.
    """

    def __init__(self, task: str, path: str, reason: str) -> None:
        super().__init__(f"task {task!r}, argument {path}: {reason}")
        self.task = task
        self.path = path
        self.reason = reason


class DelayError(DelayQError, ValueError):
    """A delay or time that is negative, naive, not finite or more than ten years ahead.

    :ivar value: the value given.
    """

    def __init__(self, message: str, value: object) -> None:
        super().__init__(message)
        self.value = value


class PayloadTooLargeError(DelayQError, ValueError):
    """Encoded arguments or a result above the limit.

    :ivar size: its size in bytes.
    :ivar limit: bytes allowed (``DELAYQ_MAX_PAYLOAD`` or ``DELAYQ_MAX_RESULT``).
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what}: {size:,} bytes, the limit is {limit:,}")
        self.size = size
        self.limit = limit


class InvalidNameError(DelayQError, ValueError):
    """A job id, task name or queue name with characters or a length that are not allowed.

    :ivar value: the name given.
    """

    def __init__(self, what: str, value: object) -> None:
        super().__init__(
            f"{what} {shown(value)} is not allowed: use 1 to 128 letters, digits and . _ : - "
            f"(the first one a letter or digit)"
        )
        self.value = value


# --- one job -----------------------------------------------------------------------------------


class JobError(DelayQError):
    """An error about one job.

    :ivar job_id: its id.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFoundError(JobError, LookupError):
    """No job has this id. Perhaps it was pruned: finished jobs are kept for the retention only."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"no job has the id {shown(job_id)}; ended ones are deleted after DELAYQ_RETENTION seconds",
            job_id,
        )


class JobConflictError(JobError):
    """The id belongs to a job with another task or other arguments."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job {job_id!r} exists already with another task or other arguments; "
            f"an id may be repeated only with the same ones",
            job_id,
        )


class InvalidTransitionError(JobError):
    """The job's state does not allow the action.

    :ivar state: its state.
    :ivar action: the action (``"retry"``, ``"cancel"``, ...).
    """

    def __init__(self, job_id: str, state: str, action: str) -> None:
        hint = "; only a failed or cancelled job can run again" if action == "retry" else ""
        super().__init__(f"cannot {action} job {job_id!r}: it is {state}{hint}", job_id)
        self.state = state
        self.action = action


class JobFailedError(JobError):
    """``result`` was read of a job that failed or was cancelled.

    :ivar state: ``"failed"`` or ``"cancelled"``.
    :ivar error: the stored error message, or ``None``.
    """

    def __init__(self, job_id: str, state: str, error: str | None) -> None:
        super().__init__(f"job {job_id!r} is {state}" + (f": {error}" if error else ""), job_id)
        self.state = state
        self.error = error


class JobNotFinishedError(JobError):
    """``result`` was read before the job was final."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(
            f"job {job_id!r} has no result yet: it is {state}; wait for it, or refresh() and look again",
            job_id,
        )
        self.state = state


class WaitTimeoutError(JobError, TimeoutError):
    """``wait(timeout)`` ended before the job did."""

    def __init__(self, job_id: str, timeout: float, hint: str = "") -> None:
        why = f"; {hint}" if hint else ""
        super().__init__(f"job {job_id!r} was not final after {timeout:g} s{why}", job_id)
        self.timeout = timeout


class WaitInsideTaskError(JobError, RuntimeError):
    """``wait`` was called inside a task: workers that wait for workers can deadlock."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"waiting for job {job_id!r} inside a task could deadlock all workers; "
            f"let this task end, and let the other job enqueue the next step",
            job_id,
        )


# --- where jobs live ---------------------------------------------------------------------------


class BackendError(DelayQError):
    """The backend refused or failed."""


class BackendUnavailableError(BackendError):
    """The backend cannot answer now (locked, full, unreachable, read-only); nothing was done.

    Loops retry only this error. A program may try again later.

    :ivar reason: one machine-readable word: ``"locked"``, ``"full"``, ``"read-only"``,
        ``"io"``, ``"replaced"``, ``"closed"``, ``"unreachable"``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class EnqueueUncertainError(BackendError):
    """It is unknown whether the commit succeeded: the jobs may or may not be stored.

    Enqueueing again with the same ids is idempotent: it stores the missing jobs, and no job twice.

    :ivar job_ids: the ids of these jobs.
    """

    def __init__(self, job_ids: Sequence[str]) -> None:
        shown = ", ".join(job_ids[:3]) + (", ..." if len(job_ids) > 3 else "")
        super().__init__(
            f"it is unknown whether the job was stored ({shown}); "
            f"enqueue it again with the same id: this is idempotent"
        )
        self.job_ids: tuple[str, ...] = tuple(job_ids)

    @property
    def job_id(self) -> str:
        """The id of the first of these jobs."""
        return self.job_ids[0]


class QueueFullError(BackendError):
    """The queue holds ``DELAYQ_MAX_PENDING`` waiting jobs, or the store ``DELAYQ_MAX_PENDING_TOTAL``;
    nothing was stored.

    :ivar queue: its name; ``None`` if it is the limit of all queues together.
    :ivar limit: the limit.
    """

    def __init__(self, queue: str | None, limit: int) -> None:
        if queue is None:
            full, setting = f"the store is full: at most {limit:,} jobs may wait in all queues", "_TOTAL"
        else:
            full, setting = f"queue {queue!r} is full: at most {limit:,} jobs may wait in it", ""
        super().__init__(
            f"{full}; try again later, run more workers, or raise DELAYQ_MAX_PENDING{setting}"
        )
        self.queue = queue
        self.limit = limit


class StoreCorruptError(BackendError):
    """The store is corrupt. Nothing is deleted or overwritten; a person must repair or replace it."""


class StoreMismatchError(BackendError):
    """The file is not a store of this package, or was written by a newer version of it."""


class UnsupportedOperationError(BackendError):
    """This backend cannot do that (see the capability table in docs/backends.md)."""


def shown(value: object) -> str:
    """The ``repr`` of any value, shortened for an error message."""
    try:
        text = repr(value)
    except Exception:  # foreign __repr__; also whole numbers of thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
