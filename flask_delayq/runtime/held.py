"""The claims that this process holds, from the store's answer until the outcome is written.
The one place that renewal and the dispatcher ask; knows no thread and no store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from msgspec import Struct

from ..job import Claim
from ..running import RunningJob
from .ended import Ended


class HeldClaim(Struct, eq=False, gc=False):
    """A claim in this process, until a worker has handed on its end."""

    claim: Claim
    values: Struct | None
    """Its arguments, if they were decoded already."""
    since: float
    """When it came here (monotonic)."""
    leased_at: float
    """When its lease began (monotonic)."""
    run: RunningJob | None = None
    """Its run, once a worker took it."""
    begun: bool = False
    """Whether the task may have been called."""
    ended: Ended | None = None
    """How the run ended, once that is known."""
    withdrawn: bool = False
    lost: bool = False
    """Whether somebody else has the job by now; it is renewed no more."""


class HeldClaims:
    """Claims in three stages, and in no instant in none of them:

        unstarted ---- begin ----> working ---- the end is known ----> ended ---- written ---->
            `--- withdraw, with its release as its end ---------------^

    Whoever moves one puts it into the next stage before it leaves the one before, and whoever looks
    reads them in that order. So what is held is what the three hold: nothing can be forgotten in a book
    of its own when an exception strikes.

    Each step is one operation on a dict or a deque (atomic under the interpreter's lock), so that no
    worker waits for another here. Claims are told apart as objects: one that was given back may still
    lie in a worker's queue when this process has claimed the same job anew.
    """

    def __init__(self) -> None:
        # By id(), which is nobody else's while it is in here; insertion order, the oldest is first.
        self._unstarted: dict[int, HeldClaim] = {}
        self.working: dict[int, HeldClaim] = {}
        """What workers run, by the thread's ident."""
        self.ended: deque[Ended] = deque()
        """What the recorder is to write."""
        self.closed = False

    def close(self) -> None:
        """Let nothing begin any more, for good. What has not begun stays to be withdrawn."""
        self.closed = True

    def add(self, held: HeldClaim) -> None:
        """Hold a claim that has not begun."""
        self._unstarted[id(held)] = held

    def may_begin(self, held: HeldClaim, leased_after: float) -> bool:
        """Whether :meth:`begin` would say yes now: so that what it would refuse is not even marked."""
        return not (held.withdrawn or self.closed or held.leased_at < leased_after)

    def begin(
        self, held: HeldClaim, run: RunningJob, ident: int, leased_after: float = float("-inf")
    ) -> bool:
        """Take an unstarted claim to run it in this thread; False if it was withdrawn meanwhile.

        Also False, and it stays to be withdrawn, once closed, or if its lease began before
        ``leased_after``: it may have been taken from us while this process, or the thread that asked,
        stood still.
        """
        if held.leased_at < leased_after:
            return False
        held.run = run
        # Before it leaves the stage before; and before the look at `closed`: whoever closes and then
        # looks who works either sees this one, or this one sees that it is closed.
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
        """Runs under way, by the thread's ident; a copy."""
        working = self.working.copy()
        return {ident: held.run for ident, held in working.items() if held.run is not None}

    def request_cancel(self, job_id: str) -> bool:
        """Let the run of this job see that it should stop; False if it does not run here."""
        for run in self.running.values():
            if run.id == job_id:
                run.request_cancel()
                return True
        return False

    def lose(self, claim: Claim) -> bool:
        """Somebody else has the job of this claim; whether it runs here all the same."""
        for held in self.working.copy().values():
            if held.claim is claim and held.run is not None:
                held.lost = True
                held.run.request_cancel()
                return True
        return False

    def oldest_unstarted(self) -> float | None:
        """Since when (monotonic) the first unstarted claim waits."""
        for held in list(self._unstarted.values())[:1]:
            return held.since
        return None

    def held(self) -> list[Claim]:
        """All claims that are to be renewed; of a job claimed anew only the newer one."""
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
        """Workers' places that they take: those that wait for a worker, and those that run."""
        return len(self._unstarted) + len(self.working)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, runs or is to be written."""
        return not (self._unstarted or self.working or self.ended)
