"""The claims that this process holds, from the store's answer until the outcome is written.
Renewal and the dispatcher read it; knows no thread and no store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from msgspec import Struct

from ..job import Claim
from ..running import RunningJob
from .ended import Ended


class HeldClaim(Struct, eq=False, gc=False):
    """A claim in this process, until its outcome is written."""

    claim: Claim
    values: Struct | None
    """Its arguments, if they are decoded already."""
    since: float
    """When it came here (monotonic)."""
    leased_at: float
    """When its lease began (monotonic)."""
    run: RunningJob | None = None
    """Its run, after a worker took it."""
    begun: bool = False
    """Whether the task may have been called."""
    ended: Ended | None = None
    """How the run ended, if it has ended."""
    withdrawn: bool = False
    lost: bool = False
    """Whether another process has the job now; then it is no longer renewed."""


class HeldClaims:
    """Claims in three stages; a claim is always in at least one of them:

        unstarted ---- begin ----> working ---- the end is known ----> ended ---- written ---->
            `--- withdraw, with its release as its end ---------------^

    A claim is added to the next stage before it is removed from the previous one, and readers
    read the stages in this order. There is no separate list of held claims, so an asynchronous exception
    cannot make one wrong.

    Each step is one operation on a dict or a deque (atomic under the GIL), so that no worker waits for
    another here. Claims are compared by identity: a released claim may still be in a worker's queue when
    this process has claimed the same job again.
    """

    def __init__(self) -> None:
        # By id(), which is unique while the object is in here; in insertion order, the oldest first.
        self._unstarted: dict[int, HeldClaim] = {}
        self.working: dict[int, HeldClaim] = {}
        """What workers run, by the thread's ident."""
        self.ended: deque[Ended] = deque()
        """What the recorder is to write."""
        self.closed = False

    def close(self) -> None:
        """Let no claim begin any more, permanently. Claims that have not begun stay until withdrawn."""
        self.closed = True

    def add(self, held: HeldClaim) -> None:
        """Hold a claim that has not begun."""
        self._unstarted[id(held)] = held

    def may_begin(self, held: HeldClaim, leased_after: float) -> bool:
        """Whether :meth:`begin` would succeed now: a claim that it would refuse must not be marked."""
        return not (held.withdrawn or self.closed or held.leased_at < leased_after)

    def begin(
        self, held: HeldClaim, run: RunningJob, ident: int, leased_after: float = float("-inf")
    ) -> bool:
        """Take an unstarted claim to run it in this thread; False if it was withdrawn meanwhile.

        Also False if this is closed, or if its lease began before ``leased_after``: another process may
        have taken it while this process or thread was suspended. Then it stays until withdrawn.
        """
        if held.leased_at < leased_after:
            return False
        held.run = run
        # Before it is removed from the previous stage, and before `closed` is read: a thread that closes
        # and then reads `working` either sees this claim, or this thread sees `closed`.
        self.working[ident] = held
        if not self.closed and self._unstarted.pop(id(held), None) is not None:
            return True
        del self.working[ident]
        return False

    def has_not_begun(self, held: HeldClaim) -> bool:
        """Whether it still waits for a worker, or was withdrawn."""
        return held.withdrawn or id(held) in self._unstarted

    def withdraw(self, before: float) -> list[Claim]:
        """Take back the claims that have waited since ``before`` (monotonic) or longer; the caller
        releases them."""
        withdrawn: list[Claim] = []
        for held in list(self._unstarted.values()):
            if held.since > before:
                break
            if self._unstarted.pop(id(held), None) is not None:
                held.withdrawn = True
                withdrawn.append(held.claim)
        return withdrawn

    @property
    def running(self) -> dict[int, RunningJob]:
        """Current runs, by the thread's ident; a copy."""
        working = self.working.copy()
        return {ident: held.run for ident, held in working.items() if held.run is not None}

    def request_cancel(self, job_id: str) -> bool:
        """Make ``cancel_requested`` of this job's run True; False if the job does not run here."""
        for run in self.running.values():
            if run.id == job_id:
                run.request_cancel()
                return True
        return False

    def lose(self, claim: Claim) -> bool:
        """Note that another process has the job of this claim; returns whether it still runs here."""
        for held in self.working.copy().values():
            # Of one that has ended the store may have the end, so that nobody has lost anything.
            if held.claim is claim and held.run is not None and held.ended is None:
                held.lost = True
                held.run.request_cancel()
                return True
        return False

    def oldest_unstarted(self) -> float | None:
        """The time (monotonic) since which the oldest unstarted claim waits."""
        for held in list(self._unstarted.values())[:1]:
            return held.since
        return None

    def held(self) -> list[Claim]:
        """All claims to renew; for a job that was claimed again only the newer claim."""
        newest: dict[str, Claim] = {}
        for claim in self._in_order():
            known = newest.get(claim.id)
            if known is None or known.claim_no < claim.claim_no:
                newest[claim.id] = claim
        return list(newest.values())

    def _in_order(self) -> Iterator[Claim]:
        for held in list(self._unstarted.values()):
            yield held.claim
        for held in self.working.copy().values():
            if not held.lost:
                yield held.claim
        for ended in self.ended.copy():
            yield ended.outcome.claim

    def __len__(self) -> int:
        return len(self.held())

    @property
    def places(self) -> int:
        """The number of workers' places in use: claims that wait for a worker, and claims that run."""
        return len(self._unstarted) + len(self.working)

    @property
    def is_idle(self) -> bool:
        """Whether no claim waits, runs or has an unwritten outcome."""
        return not (self._unstarted or self.working or self.ended)
