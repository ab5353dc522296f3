"""Writes how runs ended, in groups: a group is whatever arrived since the last one was written.
Knows the backend's one verb for it, and keeps what cannot be written yet."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..backends.base import Backend
from ..clock import Clock
from ..job import Outcome, Verb
from .claims import HeldClaims

_log = logging.getLogger(__name__)

GROUP_LIMIT = 500
"""Outcomes in one transaction at most, so that a long backlog does not hold the store up."""

PAUSE = 0.002
"""Seconds for which outcomes gather while they come all the time."""

BACKLOG_LIMIT = 10_000
"""Outcomes kept while the store is away; above it no further job is begun."""


class Recorder:
    """Collects outcomes and writes them group by group.

    :param on_recorded: called with the outcomes that were written.
    :param wake: called when an outcome arrives and nobody is writing.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        claims: HeldClaims,
        on_recorded: Callable[[Sequence[Outcome]], None],
        wake: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._claims = claims
        self._on_recorded = on_recorded
        self._wake = wake
        self._waiting: deque[Outcome] = deque()
        self._asleep = True
        self._written = threading.Condition()

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; it is written soon, by the recorder's own thread."""
        self._waiting.append(outcome)
        if self._asleep:
            self._asleep = False
            self._wake()

    def add_all(self, outcomes: Sequence[Outcome]) -> None:
        """Take several outcomes."""
        for outcome in outcomes:
            self.add(outcome)

    @property
    def backlog(self) -> int:
        """Outcomes not yet written."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no further job should begin until the store is back."""
        return len(self._waiting) > BACKLOG_LIMIT

    def turn(self, now: float) -> float | None:
        """Write a group; returns the seconds to the next one, ``None``: until an outcome comes.

        While outcomes come faster than they are written there is a pause between two groups, so that
        this thread does not take turns with every worker.

        :raises BackendUnavailableError: the store is away; all outcomes are kept.
        """
        if self._waiting:
            self.write_group(now)
        if self._waiting:
            return 0.0 if len(self._waiting) >= GROUP_LIMIT else PAUSE
        self._asleep = True
        if not self._waiting:  # an outcome that came between the two lines would sleep for ever
            return None
        self._asleep = False
        return 0.0

    def write_group(self, now: float) -> None:
        """Write one group; atomic as :meth:`Backend.record` is. One thread at a time."""
        group = [self._waiting[i] for i in range(min(len(self._waiting), GROUP_LIMIT))]
        written = self._backend.record(group, now=now)
        # Only now do they leave the queue: a failed write keeps them, in order.
        for _ in group:
            self._waiting.popleft()
        recorded: list[Outcome] = []
        for outcome, ours in zip(group, written, strict=True):
            if outcome.verb is not Verb.INTERRUPT:
                self._claims.drop(outcome.claim)
            if ours:
                recorded.append(outcome)
            else:
                _log.warning(
                    "job %s (%s): its claim was lost, so how its run ended (%s) is not recorded",
                    outcome.claim.id,
                    outcome.claim.task,
                    outcome.verb.value,
                )
        self._on_recorded(recorded)
        with self._written:
            self._written.notify_all()

    def await_empty(self, timeout: float) -> bool:
        """Wait until everything is written, at most ``timeout`` seconds; True if it is."""
        with self._written:
            return self._written.wait_for(lambda: not self._waiting, timeout)
