"""The states of a job, the one table of transitions, and the frozen records that the parts exchange.
Knows no storage and no thread; everything here is data."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum, IntEnum

import msgspec
from msgspec import Struct


class JobState(str, Enum):
    """The six states that a person sees.

    ``scheduled`` and ``ready`` are both stored as *waiting*; which one it is follows from ``run_at``,
    so that no write is needed when a job becomes due. A ``scheduled`` job with ``attempt > 0`` waits
    for its retry.
    """

    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether the job has ended: only an explicit retry changes it."""
        return self in _FINAL


_FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


class StoredState(IntEnum):
    """The five states as a backend stores them."""

    WAITING = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def is_final(self) -> bool:
        """Whether the job has ended: only an explicit retry changes it."""
        return self >= StoredState.COMPLETED

    @classmethod
    def of(cls, number: int) -> StoredState:
        """The state with this number; FAILED for an unknown number, because the row is damaged."""
        return cls(number) if 0 <= number <= 4 else cls.FAILED


class Priority(IntEnum):
    """The level of a job within its queue; the smaller number goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Verb(str, Enum):
    """What can happen to a stored job."""

    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    RETRY = "retry"  # by the policy or by raising Retry: the run counts
    SNOOZE = "snooze"  # the task asked to run later: the run does not count
    RELEASE = "release"  # given back before it began: the run does not count
    INTERRUPT = "interrupt"  # stopped during the run: claimable when the process has ended, not counted
    RESCUE = "rescue"  # taken back from a dead owner: counted in `rescues`
    CANCEL = "cancel"  # before it ran, or the task gave up by raising Cancel
    REVIVE = "revive"  # the explicit retry of a failed or cancelled job by a person


TRANSITIONS: dict[tuple[StoredState, Verb], StoredState] = {
    (StoredState.WAITING, Verb.CLAIM): StoredState.RUNNING,
    (StoredState.WAITING, Verb.CANCEL): StoredState.CANCELLED,
    (StoredState.RUNNING, Verb.COMPLETE): StoredState.COMPLETED,
    (StoredState.RUNNING, Verb.FAIL): StoredState.FAILED,
    (StoredState.RUNNING, Verb.CANCEL): StoredState.CANCELLED,
    (StoredState.RUNNING, Verb.RETRY): StoredState.WAITING,
    (StoredState.RUNNING, Verb.SNOOZE): StoredState.WAITING,
    (StoredState.RUNNING, Verb.RELEASE): StoredState.WAITING,
    (StoredState.RUNNING, Verb.INTERRUPT): StoredState.RUNNING,
    (StoredState.RUNNING, Verb.RESCUE): StoredState.WAITING,
    (StoredState.FAILED, Verb.REVIVE): StoredState.WAITING,
    (StoredState.CANCELLED, Verb.REVIVE): StoredState.WAITING,
}
"""All transitions of a job; any other pair is refused or changes nothing.

Two refinements: a rescue ends in FAILED instead when ``max_rescues`` is used up or the job says
``fail_on_crash``; and RETRY, SNOOZE, RELEASE and RESCUE end in CANCELLED when a cancel was requested
meanwhile.
"""


def brief(record: Struct) -> str:
    """The ``repr`` of a record with sizes instead of contents: error trackers store the ``repr`` of
    local variables, and arguments and results may contain secrets."""
    parts = []
    for name in record.__struct_fields__:
        value = getattr(record, name)
        said = f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
        parts.append(f"{name}={said}")
    return f"{type(record).__name__}({', '.join(parts)})"


class NewJob(Struct, frozen=True, gc=False):
    """A job to be stored by a backend."""

    __repr__ = brief

    id: str
    task: str
    queue: str
    priority: int
    run_at: float
    """When it is due: epoch seconds."""
    enqueued_at: float
    payload: bytes
    """The encoded arguments; opaque to backends."""
    max_attempts: int | None = None
    """Overrides the task's policy for this job."""
    fail_on_crash: bool = False
    """Whether a crash during the run ends the job as failed instead of running it again."""
    schedule: str | None = None
    """The name of the schedule that enqueued it, or ``None``."""


class Claim(Struct, frozen=True, gc=False):
    """The right to run a job once, held by one owner until the lease ends.

    ``claim_no`` is the fencing token: every claim of the job increments it, and it is never reset. A
    write with an older number changes nothing.
    """

    __repr__ = brief

    id: str
    task: str
    queue: str
    payload: bytes
    owner: str
    claim_no: int
    attempt: int
    """The number of this run: 1 for the first one that counts."""
    run_at: float
    rescues: int = 0
    max_attempts: int | None = None
    enqueued_at: float = 0.0
    priority: int = 1
    leased_at: float = 0.0
    """When its lease began, on the backend's monotonic clock."""


class Outcome(Struct, frozen=True, gc=False):
    """How a run ended, to be recorded by the backend.

    For COMPLETE, FAIL, RETRY and CANCEL the stored ``attempt`` becomes ``claim.attempt``. For SNOOZE,
    RELEASE and INTERRUPT it does not change.
    """

    claim: Claim
    verb: Verb
    at: float
    """When it ended: epoch seconds."""
    run_at: float | None = None
    """RETRY, SNOOZE: when it is due again (epoch seconds). RELEASE keeps the old time."""
    result: bytes | None = None
    error: bytes | None = None

    @property
    def failure(self) -> Failure | None:
        """``error``, decoded."""
        return None if self.error is None else msgspec.json.decode(self.error, type=Failure)

    def __repr__(self) -> str:
        # Without the result and the error message: see `brief`.
        why = ""
        with suppress(msgspec.MsgspecError):
            why = f" ({self.failure.type})" if self.failure is not None else ""
        again = f", due in {self.run_at - self.at:.3g} s" if self.run_at is not None else ""
        claim = self.claim
        return (
            f"<Outcome of {claim.task}: {self.verb.value}{why}{again}; "
            f"attempt {claim.attempt} of job {claim.id}>"
        )


class Enqueued(Struct, frozen=True, gc=False):
    """The result of ``enqueue`` for one job."""

    id: str
    created: bool
    """False: a job with this id, task and payload existed already."""
    claim: Claim | None = None
    """Set if the job was also claimed in the same transaction, for the caller to run."""


class ClaimFor(Struct, frozen=True, eq=False, gc=False):
    """A request to claim up to ``slots`` of the jobs in the transaction that enqueues them."""

    owner: str
    lease: float
    slots: int
    asked_at: float = 0.0
    """When the request was made, for the caller; backends ignore it."""


class Renewal(Struct, frozen=True):
    """The result of a renewal."""

    lost: tuple[str, ...] = ()
    """Ids of held claims that this owner has lost."""
    released: tuple[str, ...] = ()
    """Ids of running jobs of this owner that it does not hold; they wait again."""


class Rescue(Struct, frozen=True):
    """One job taken back from an owner that died or let its lease end."""

    id: str
    task: str
    queue: str
    owner: str
    rescues: int
    state: StoredState
    charged: bool = True
    """Whether ``rescues`` was incremented; not if a stop had interrupted the run, or if the job had not
    begun."""
    failure: Failure | None = None
    """Why, if the job is failed now; as stored."""


CRASHED, INTERRUPTED, CANCELLED = "Crashed", "Interrupted", "Cancelled"
"""The types of a :class:`Failure` without an exception, the same in every backend: the process died, a
stop interrupted the run, or the job was cancelled."""


class Failure(Struct, frozen=True, omit_defaults=True):
    """Why a run failed; stored as JSON in ``error``.

    :ivar type: the name of the exception, or one of :data:`CRASHED`, :data:`INTERRUPTED`,
        :data:`CANCELLED`.
    """

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class JobRecord(Struct, frozen=True):
    """A job as it is stored."""

    __repr__ = brief

    id: str
    task: str
    queue: str
    priority: int
    stored: StoredState
    run_at: float
    enqueued_at: float
    payload: bytes
    attempt: int = 0
    """The number of finished runs that count."""
    max_attempts: int | None = None
    fail_on_crash: bool = False
    schedule: str | None = None
    claim_no: int = 0
    owner: str | None = None
    rescues: int = 0
    interrupted: bool = False
    cancel_requested: bool = False
    started_at: float | None = None
    """When it was last claimed: epoch seconds."""
    finished_at: float | None = None
    result: bytes | None = None
    """The encoded result; ``None`` if the task returned ``None``."""
    error: bytes | None = None
    """The latest :class:`Failure`, encoded."""
    progress: bytes | None = None

    def state_at(self, now: float) -> JobState:
        """The state that a person sees at a time (epoch seconds)."""
        if self.stored is StoredState.WAITING:
            return JobState.READY if self.run_at <= now else JobState.SCHEDULED
        return _SHOWN[self.stored]


_SHOWN = {
    StoredState.RUNNING: JobState.RUNNING,
    StoredState.COMPLETED: JobState.COMPLETED,
    StoredState.FAILED: JobState.FAILED,
    StoredState.CANCELLED: JobState.CANCELLED,
}


class JobQuery(Struct, frozen=True):
    """Which jobs to list, newest first; see :func:`~flask_delayq.ids.age_key`."""

    states: tuple[JobState, ...] = ()
    """Empty: all."""
    queue: str | None = None
    task: str | None = None
    before: str | None = None
    """Only jobs after this job id in the list (the last id of the previous page)."""
    limit: int = 50


class QueueInfo(Struct, frozen=True):
    """A queue as shown to people."""

    name: str
    paused: bool
    scheduled: int
    ready: int
    running: int
    oldest_due: float | None
    """``run_at`` of the oldest ready job: epoch seconds."""


class TaskInfo(Struct, frozen=True):
    """The waiting jobs of one task, summed up."""

    name: str
    waiting: int
    oldest: float
    """``run_at`` of the earliest waiting job: epoch seconds."""


class ProcessRecord(Struct, frozen=True):
    """A process that runs jobs (or did until it died)."""

    __repr__ = brief

    owner: str
    """Random per start of its runtime; pid and host are for display only."""
    pid: int
    host: str
    started_at: float
    seen_at: float
    info: bytes
    """JSON object: role, app, tasks, workers, busy, queues, lateness, python; opaque to backends."""
    alive: bool = True


class ScheduleRecord(Struct, frozen=True):
    """A periodic rule and its next occurrence."""

    __repr__ = brief

    name: str
    task: str
    payload: bytes
    rule: str
    """The rule as :mod:`flask_delayq.recurrence` writes it."""
    queue: str
    priority: int
    next_due: float
    """Its next occurrence: epoch seconds."""
    last_due: float | None = None
    generation: int = 1
    """Incremented when the rule changes; an occurrence of an older version is not enqueued."""
    paused: bool = False
    from_code: bool = True
    """Declared by a decorator (reconciled at start), not added at run time."""
    max_attempts: int | None = None
    fail_on_crash: bool = False


class Health(Struct, frozen=True):
    """Whether the store can be written, and warnings for people."""

    ok: bool
    reason: str = ""
    notes: tuple[str, ...] = ()
    """Warnings that do not make it unhealthy."""
    facts: dict[str, str | int | float] = {}
