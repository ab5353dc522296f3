"""When the next job is due, as far as this process knows: the wheel, and how it is filled.
Knows the store's queries about due times; claims nothing and decides nothing.

The wheel is filled from three sources, so that a delayed job costs the store one claim and no query:

    jobs that this process stores      ``expect``, from any thread
    jobs stored before it began        ``refill``, page by page, half of the horizon at least ahead
    jobs that other processes store    ``look``, once a second and after each ring: the store's next due
                                       moment, if the wheel has none so early (taken out as ``NEXT``)

The next ``look`` finds jobs that none of them reports: they are late by at most :data:`SAFETY`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from ..backends.base import Backend
from ..clock import Clock
from .foreign_tasks import ForeignTasks
from .wheel import TimingWheel

SAFETY = 1.0
"""Maximum seconds between two queries of the store, whatever the wheel says. So it is the maximum delay
by a lost ring, a clock step or a process that died after enqueueing."""

PAGE = 2000
"""Jobs read into the wheel with one query."""

WHEEL_LIMIT = 200_000
"""Maximum number of jobs in the wheel; with more the horizon is shorter than configured."""

EXPECTED_LIMIT = WHEEL_LIMIT
"""Maximum number of jobs on their way into the wheel, if the dispatcher is blocked; ``look`` finds the
oldest ones that are dropped."""

NEXT = ""
"""Stands for a job's id: the next due time that the store reported."""


class NearFuture:
    """The due times of the next hour or so. All methods but :meth:`expect` are for one thread.

    :param queues: the queues that are served, ``None``: all.
    :param horizon: seconds for which it is filled ahead.
    :param foreign_tasks: says for which tasks to query the store.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        owner: str,
        *,
        queues: Sequence[str] | None,
        horizon: float,
        foreign_tasks: ForeignTasks,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._owner = owner
        self._queues = queues
        self._horizon = horizon
        self._foreign_tasks = foreign_tasks
        # `expect` takes no lock: its caller may be a finalizer, which interrupts any code of its thread.
        self._expected: deque[tuple[str, float]] = deque(maxlen=EXPECTED_LIMIT)
        self.forget()

    def forget(self) -> None:
        """Empty the wheel; it will be filled again."""
        self._wheel = TimingWheel()
        self._loaded_until = -math.inf  # the wheel has what was stored by then and is due by then
        self._named: float | None = None  # what the store named, and the wheel lacks

    def __len__(self) -> int:
        return len(self._wheel)

    def expect(self, job_id: str, run_at: float) -> None:
        """A job was stored that is due at ``run_at`` (epoch seconds). Call it from any thread."""
        self._expected.append((job_id, run_at))

    @property
    def is_behind(self) -> bool:
        """Whether jobs are on their way into the wheel."""
        return bool(self._expected)

    @property
    def is_named(self) -> bool:
        """Whether the store reported a due time that the wheel lacks."""
        return self._named is not None

    def reload(self, now: float) -> None:
        """Read the jobs that other processes have stored since it was filled."""
        self._loaded_until = -math.inf
        self.refill(now)

    def take(self, now: float) -> list[tuple[float, str]]:
        """Remove and return the jobs due at ``now``: (due, id), at most :data:`PAGE` of the wheel."""
        self._take_expected()
        due = self._wheel.advance(now, PAGE)
        if self._named is not None and self._named <= now:
            due.append((self._named, NEXT))
            self._named = None
        return due

    def next_due(self) -> float | None:
        """The earliest known due time; ``None``: none."""
        self._take_expected()
        known = self._wheel.next_due()
        if self._named is None:
            return known
        return self._named if known is None else min(known, self._named)

    def _take_expected(self) -> None:
        for _ in range(len(self._expected)):
            job_id, run_at = self._expected.popleft()
            if run_at > self._loaded_until:
                continue  # it comes with its page
            if len(self._wheel) < WHEEL_LIMIT:
                self._wheel.add(job_id, run_at)
            else:
                self._loaded_until = math.nextafter(run_at, -math.inf)

    def look(self, now: float) -> bool:
        """Query the store for its next due time; True if something is due now."""
        due = self._backend.next_due(self._queues, owner=self._owner, tasks=self._foreign_tasks.tasks)
        self._named = None
        if due is None or due <= now:
            return due is not None
        known = self.next_due()
        # A time after the next look need not be known.
        if due <= now + SAFETY and (known is None or due < known):
            self._named = due
        return False

    def refill(self, now: float) -> bool:
        """Read a page into the wheel once half of the horizon is used up; True if there are more."""
        until = now + self._horizon
        if self._loaded_until >= now + self._horizon / 2 or len(self._wheel) >= WHEEL_LIMIT:
            return False
        after = max(self._loaded_until, now)
        tasks = self._foreign_tasks.tasks
        page = self._backend.upcoming(self._queues, after=after, until=until, limit=PAGE, tasks=tasks)
        for due, job_id in page:
            self._wheel.add(job_id, due)
        self._loaded_until = page[-1][0] if len(page) >= PAGE else until
        return len(page) >= PAGE
