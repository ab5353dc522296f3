"""Writes outcomes in groups: a group is everything that arrived since the previous write.
Knows the backend's one verb for it, and keeps the outcomes that cannot be written yet.

Workers do not write. So one commit (one flush) serves many outcomes, a worker is free at once, and
outcomes wait here while the store is unavailable. The cost: a crash repeats the runs whose outcome was
not committed yet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from ..backends.base import Backend, Inspectable
from ..clock import Clock
from ..job import TRANSITIONS, Outcome, StoredState, Verb
from .ended import Ended
from .held import HeldClaims

_log = logging.getLogger(__name__)

GROUP_LIMIT = 500
"""The most outcomes in one transaction, so that a long backlog does not block the store."""

PAUSE = 0.002
"""Seconds between two groups: meanwhile outcomes accumulate."""

BACKLOG_LIMIT = 10_000
"""Outcomes to keep while the store is unavailable; above this limit no further job begins."""

BACKLOG_BYTES = 64 * 2**20
"""Bytes of results and errors to keep meanwhile; above this limit no further job begins, but jobs that
run already may exceed it. Outcomes below :data:`SMALL` are not counted: they take at most 10 MB."""

SMALL = 1024
"""Outcomes up to this many bytes are not counted, so that most need no lock."""

TRACEBACKS = 500
"""Outcomes that keep their traceback for receivers of signals; in a longer backlog new ones lose it."""


class Recorder:
    """Writes the outcomes in :attr:`HeldClaims.ended` group by group.

    :param on_recorded: called with the written outcomes; returns whether anybody waited for one of them.
        If so, somebody probably waits for the next one too.
    :param wake: called when an outcome arrives and the recorder's thread sleeps.
    :param tell: called with each written end whose claim was still ours, before the end leaves the
        backlog; returns whether it keeps the end and calls :meth:`Ended.let_go` later.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        clock: Clock,
        claims: HeldClaims,
        on_recorded: Callable[[Sequence[Outcome]], bool],
        wake: Callable[[], None],
        tell: Callable[[Ended], bool] = lambda ended: False,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._on_recorded = on_recorded
        self._wake = wake
        self._tell = tell
        self._waiting = claims.ended
        self._asleep = True
        self._awaited = False
        self._written = threading.Condition()
        self._weighing = threading.RLock()
        self._bytes = 0

    def add(self, ended: Ended) -> None:
        """Take an end; the recorder's own thread writes it soon. The same one may come twice."""
        # Weighed before it enters the queue, because it may be written right after that. The recorder
        # and the sender of its signal then subtract the weight that they find.
        result, error = ended.outcome.result, ended.outcome.error
        if error is not None or (result is not None and len(result) > SMALL // 2):
            self._weigh(ended)
        self._waiting.append(ended)
        if ended.facts is not None and len(self._waiting) > TRACEBACKS:
            told = ended.facts.get("error")
            if isinstance(told, BaseException):
                told.__traceback__ = None
        if self._asleep:  # only the turn clears it: the next outcome repeats an interrupted wake-up
            self._wake()

    def add_all(self, outcomes: Sequence[Outcome]) -> None:
        """Take several outcomes that need no signal."""
        for outcome in outcomes:
            self.add(Ended(outcome))

    @property
    def backlog(self) -> int:
        """Outcomes not yet written."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no further job should begin until the store is available again."""
        return len(self._waiting) > BACKLOG_LIMIT or self._bytes > BACKLOG_BYTES

    def turn(self, now: float) -> float | None:
        """Write a group; returns the seconds to the next turn, ``None``: until an outcome arrives.

        After each group there is a pause, so that outcomes accumulate: otherwise this thread would take
        turns with every worker. There is no pause while somebody waits for outcomes.

        :raises BackendUnavailableError: the store is unavailable; all outcomes are kept.
        """
        self._asleep = False
        if self._waiting:
            self.write_group(now)
            if len(self._waiting) >= GROUP_LIMIT:
                return 0.0
            if not self._awaited:
                return PAUSE
        self._asleep = True
        if not self._waiting:  # else an outcome that came between the two lines would wait for ever
            return None
        self._asleep = False
        return 0.0

    def write_group(self, now: float) -> list[Outcome]:
        """Write one group, as atomically as :meth:`Backend.record`. One thread at a time.

        :returns: the written outcomes whose claims were still ours, in order.
        """
        group = [self._waiting[i] for i in range(min(len(self._waiting), GROUP_LIMIT))]
        tried_before = [ended.tried for ended in group]
        for ended in group:
            ended.tried = True  # set before the write, which an async exception may interrupt
        written = self._backend.record([ended.outcome for ended in group], now=now)
        ours_by_now = [
            self._is_stored(ended.outcome) if tried and not (ours or ended.written) else ours
            for ended, tried, ours in zip(group, tried_before, written, strict=True)
        ]
        recorded: list[Outcome] = []
        for ended, ours in zip(group, ours_by_now, strict=True):
            if ended.written:
                continue  # the same one came twice
            ended.written = True
            kept = False
            if ours:
                recorded.append(ended.outcome)
                if ended.signal is not None or ended.outcome.verb is not Verb.COMPLETE:
                    kept = self._tell(ended)
            else:
                _warn_of_loss(ended.outcome, _LOST if ours is False else _UNKNOWN)
            if ended.weight:
                with self._weighing:
                    self._bytes -= ended.weight
            if ended.facts is not None and not kept:
                ended.let_go()
        # They leave the queue only now. So a failed write keeps them in order, and a thread that asks
        # whether all is done finds each pending signal: it is in the sender's queue already.
        for _ in group:
            self._waiting.popleft()
        self._awaited = self._on_recorded(recorded)
        with self._written:
            self._written.notify_all()
        return recorded

    def _is_stored(self, outcome: Outcome) -> bool | None:
        """Whether an earlier try, which was interrupted or failed, has stored this very outcome.
        ``None``: unknown, because the job was claimed again or is gone."""
        record = self._backend.get(outcome.claim.id) if isinstance(self._backend, Inspectable) else None
        if record is None or record.claim_no != outcome.claim.claim_no:
            return None
        if outcome.verb is Verb.INTERRUPT:
            return record.interrupted
        if outcome.verb is Verb.FAIL and record.error != outcome.error:
            return False  # it failed because it crashed its worker
        if record.stored is StoredState.WAITING and outcome.run_at not in (None, record.run_at):
            return False  # it was rescued
        stored = TRANSITIONS[StoredState.RUNNING, outcome.verb]
        return record.stored is stored or (
            record.stored is StoredState.CANCELLED
            and stored is StoredState.WAITING  # a cancel was requested meanwhile
        )

    def await_empty(self, timeout: float) -> bool:
        """Wait until everything is written, at most ``timeout`` seconds; True if it is."""
        with self._written:
            return self._written.wait_for(lambda: not self._waiting, timeout)

    def _weigh(self, ended: Ended) -> None:
        size = ended.size
        if size > SMALL and not ended.weight:
            with self._weighing:
                ended.weight = size
                self._bytes += size


_LOST = "its claim was lost, so how its run ended (%s) is not recorded"
_UNKNOWN = (
    "whether the store has how its run ended (%s) is not known: an earlier try to write it failed, "
    "and the job has gone on since or is gone"
)


def _warn_of_loss(outcome: Outcome, what: str) -> None:
    _log.warning("job %s (%s): %s", outcome.claim.id, outcome.claim.task, what % outcome.verb.value)
