"""What a worker thread does with a claim: begin it, run it, pass on its end, free its place.
Knows the executor and the recorder. An async exception loses nothing here.

Libraries that limit the time of a call raise an async exception in the thread. It may come late, at any
of these lines. CPython delivers it after a call or at the end of a loop, never in between. So each step
records its progress in the claim itself. Steps that must happen together have no call between them. The
code that replaces a dead thread settles what the exception interrupted.
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
"""The number of recent jobs whose lateness is kept."""


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
        """If set, each worker calls it after each job."""

    def _work(self, held: HeldClaim) -> None:
        claims, claim = self._claims, held.claim
        # Checked also before the mark. Otherwise a process that was suspended would mark each of its old
        # claims before it refuses it. If the process were killed then, the marks would charge the jobs.
        if not claims.may_begin(held, self._clock.monotonic() - self._freshness):
            return  # the code that withdraws the claim frees its place
        ident = threading.get_ident()
        run = self._executor.start(claim)
        # Read after the mark of `start`. If a rescue took the job back because it was not marked, it did
        # so before the mark, and the claim was too old to begin by then. The same is true if a renewal
        # took an old claim for an orphan.
        began = self._clock.monotonic()
        if not claims.begin(held, run, ident, began - self._freshness):
            self._executor.not_started(claim)
            return  # as above
        try:
            if claim.claim_no == 1:  # a later claim is late because of the job itself
                self._late.append(run.started_at - claim.run_at)
            held.begun = True
            held.ended = self._executor.execute(run, held.values)
            self._recorder.add(held.ended)
        except BaseException as error:  # an async exception: the executor does not raise
            _log.error(
                "job %s (%s): %s was thrown into its thread", claim.id, claim.task, type(error).__name__
            )
            self._recorder.add(self._end_of(held, error))
        seconds = self._clock.monotonic() - began
        free = self.pool.free
        if ident in claims.working:  # else this thread counts as dead, and its place is free
            del claims.working[ident]
            free(None)
        self.pool.account(seconds)
        if self.on_end is not None:
            self.on_end()

    def _end_of(self, held: HeldClaim, error: BaseException | None) -> Ended:
        """The end of an interrupted run."""
        if held.ended is None and held.begun and held.run is not None:
            held.ended = self._executor.struck(held.run, error)
        elif held.ended is None:
            held.ended = Ended(Outcome(held.claim, Verb.RELEASE, self._clock.now()))
        return held.ended

    def replace_dead(self) -> int:
        """Settle the claims of dead threads and start new threads; returns how many. One at a time."""
        self.settle_dead()
        return self.pool.replace_dead()

    def settle_dead(self) -> None:
        """End the runs of dead threads, and free their places."""
        working = self._claims.working.copy()
        # The order matters. A thread that begins to work between the two lines is not in `working`. A
        # thread that ends there has left no claim, and another thread may have its ident by now.
        living = {thread.ident for thread in self.pool.living()}
        for ident, held in working.items():
            if ident not in living and self._claims.working.get(ident) is held:
                self._settle(ident, held)

    def _settle_predecessor(self) -> None:
        """Settle the claim of a dead thread that had this new thread's ident: it will look alive now."""
        ident = threading.get_ident()
        left = self._claims.working.get(ident)
        if left is not None:
            self._settle(ident, left)

    def _settle(self, ident: int, held: HeldClaim) -> None:
        if self._claims.has_not_begun(held):
            # The code that withdraws the claim frees its place.
            self._claims.working.pop(ident, None)
            return
        self._recorder.add(self._end_of(held, None))
        if self._claims.working.pop(ident, None) is not None:
            self.pool.free(None)

    def lateness(self) -> tuple[float, float]:
        """How late recent jobs began, in seconds: the 50th and the 99th percentile."""
        return percentiles(self._late.copy())


def percentiles(values: Iterable[float]) -> tuple[float, float]:
    """The 50th and the 99th percentile; zeros if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0, 0.0
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
