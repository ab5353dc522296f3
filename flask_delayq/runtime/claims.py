"""The claims that this process holds, from the store's answer until the outcome is written.
The one place that renewal and the dispatcher ask; knows no thread and no store."""

from __future__ import annotations

from ..job import Claim
from ..running import RunningJob


class HeldClaims:
    """Claims by job id, in three stages: unstarted, running, ended but not yet recorded.

    Every method is one dict operation (atomic under the interpreter's lock), so that no worker waits
    for another here.
    """

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}
        self._unstarted: dict[str, tuple[Claim, float]] = {}  # insertion order: the oldest is first
        self.running: dict[int, RunningJob] = {}
        """Runs under way, by the thread's ident."""

    def add(self, claim: Claim, since: float) -> None:
        """Hold a claim that has not begun; ``since`` is a monotonic moment."""
        self._held[claim.id] = claim
        self._unstarted[claim.id] = (claim, since)

    def begin(self, claim: Claim) -> bool:
        """Take an unstarted claim to run it; False if it was withdrawn meanwhile."""
        return self._unstarted.pop(claim.id, None) is not None

    def withdraw(self, before: float) -> list[Claim]:
        """Take back the claims that have waited since ``before`` (monotonic) or longer. They are still
        held until they are recorded as released."""
        withdrawn: list[Claim] = []
        for job_id, (_, since) in list(self._unstarted.items()):
            if since > before:
                break
            taken = self._unstarted.pop(job_id, None)
            if taken is not None:
                withdrawn.append(taken[0])
        return withdrawn

    def oldest_unstarted(self) -> float | None:
        """Since when (monotonic) the first unstarted claim waits."""
        for _, since in list(self._unstarted.values())[:1]:
            return since
        return None

    def drop(self, claim: Claim) -> None:
        """The outcome is written, or somebody else owns the job."""
        held = self._held.get(claim.id)
        if held is not None and held.claim_no == claim.claim_no:
            del self._held[claim.id]

    def held(self) -> list[Claim]:
        """All of them, for renewal."""
        return list(self._held.values())

    def __len__(self) -> int:
        return len(self._held)
