"""What a worker thread does with a claim: begin it, run it, hand on how it ended, free its place.
Knows the executor and the recorder; nothing is lost here when an exception strikes from outside.

Libraries that limit the time of a call throw an exception into the thread, and may come late: anywhere
in these lines. CPython delivers it after a call or at the end of a loop, never in between. So every step
leaves behind how far it came, in the claim itself; what must happen together stands together, without
a call in between; and what was cut off in the middle is settled by whoever replaces the thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from ..clock import Clock
from ..job import Outcome, Verb
from .ended import Ended
from .executor import Executor
from .held import HeldClaim, HeldClaims
from .pool import WorkerPool
from .recorder import Recorder

_log = logging.getLogger(__name__)

RECENT = 1000
"""Jobs of which the lateness is kept."""


class Workers:
    """The worker threads of a runtime and what each of them does.

    :param freshness: seconds after which a claim that has not begun must not begin any more.
    :param on_free: see :class:`WorkerPool`.
    """

    def __init__(
        self,
        *,
        size: int,
        executor: Executor,
        claims: HeldClaims,
        recorder: Recorder,
        clock: Clock,
        freshness: float,
        on_free: Callable[[], None],
    ) -> None:
        self._executor = executor
        self._claims = claims
        self._recorder = recorder
        self._clock = clock
        self._freshness = freshness
        self._late: deque[float] = deque(maxlen=RECENT)
        self.pool: WorkerPool[HeldClaim] = WorkerPool(
            size=size, work=self._work, on_free=on_free, name="delayq"
        )
        self.pool.on_start = self._settle_predecessor
        self.on_end: Callable[[], None] | None = None
        """Called by a worker after each job, once set."""

    def _work(self, held: HeldClaim) -> None:
        claims, claim = self._claims, held.claim
        # Also before the mark: else a process that stood still marks all that it had claimed, one by one
        # as it refuses them, and by these marks a kill would charge them.
        if not claims.may_begin(held, self._clock.monotonic() - self._freshness):
            return  # its place is freed by whoever withdraws it
        ident = threading.get_ident()
        run = self._executor.start(claim)
        # Read after the mark of `start`: whoever took the job back because it was not marked did so
        # before, when the claim was too old to begin. So may be an older one that was taken for an
        # orphan at a renewal.
        began = self._clock.monotonic()
        if not claims.begin(held, run, ident, began - self._freshness):
            self._executor.not_started(claim)
            return  # as above
        try:
            if claim.claim_no == 1:  # a later claim is late for reasons of the job's own
                self._late.append(run.started_at - claim.run_at)
            held.begun = True
            held.ended = self._executor.execute(run, held.values)
            self._recorder.add(held.ended)
        except BaseException as error:  # from outside: the executor does not raise
            _log.error(
                "job %s (%s): %s was thrown into its thread", claim.id, claim.task, type(error).__name__
            )
            self._recorder.add(self._end_of(held, error))
        seconds = self._clock.monotonic() - began
        free = self.pool.free
        if ident in claims.working:  # else it was taken for dead, and its place is free
            del claims.working[ident]
            free(None)
        self.pool.account(seconds)
        if self.on_end is not None:
            self.on_end()

    def _end_of(self, held: HeldClaim, error: BaseException | None) -> Ended:
        """How a run that was cut off has ended."""
        if held.ended is None and held.begun and held.run is not None:
            held.ended = self._executor.struck(held.run, error)
        elif held.ended is None:
            held.ended = Ended(Outcome(held.claim, Verb.RELEASE, self._clock.now()))
        return held.ended

    def replace_dead(self) -> int:
        """Settle what dead threads have left and start new ones; returns how many. One at a time."""
        self.settle_dead()
        return self.pool.replace_dead()

    def settle_dead(self) -> None:
        """End the runs of threads that are no more, and free their places."""
        working = self._claims.working.copy()
        # In this order: a thread that begins to work between the two lines is none of these. One that
        # ends there has left nothing, and its ident may be another's by now.
        living = {thread.ident for thread in self.pool.living()}
        for ident, held in working.items():
            if ident not in living and self._claims.working.get(ident) is held:
                self._settle(ident, held)

    def _settle_predecessor(self) -> None:
        """A new thread may be given the ident of a dead one, which looks alive by that from now on."""
        ident = threading.get_ident()
        left = self._claims.working.get(ident)
        if left is not None:
            self._settle(ident, left)

    def _settle(self, ident: int, held: HeldClaim) -> None:
        if self._claims.has_not_begun(held):
            # Its place is freed by whoever withdraws it.
            self._claims.working.pop(ident, None)
            return
        self._recorder.add(self._end_of(held, None))
        if self._claims.working.pop(ident, None) is not None:
            self.pool.free(None)

    def lateness(self) -> tuple[float, float]:
        """By how much recent jobs began late, in seconds: the 50th and the 99th percentile."""
        return percentiles(self._late.copy())


def percentiles(values: Iterable[float]) -> tuple[float, float]:
    """The 50th and the 99th; zeros without any."""
    ordered = sorted(values)
    if not ordered:
        return 0.0, 0.0
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
