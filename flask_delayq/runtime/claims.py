"""The claims that this process holds, from the store's answer until the outcome is written.
The one place that renewal and the dispatcher ask; knows no thread and no store."""

from __future__ import annotations

from ..job import Claim
from ..running import RunningJob


class HeldClaims:
    """Claims in three stages: unstarted, running, ended but not yet recorded.

    Kept by job id and claim number: a claim that was given back may still lie in a worker's queue, or
    wait to be dropped, when this process has claimed the same job anew.

    Every method is one dict operation (atomic under the interpreter's lock), so that no worker waits
    for another here.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Claim] = {}
        # Insertion order: the oldest is first.
        self._unstarted: dict[tuple[str, int], tuple[Claim, float, float]] = {}
        self.running: dict[int, RunningJob] = {}
        """Runs under way, by the thread's ident."""

    def add(self, claim: Claim, since: float, asked_at: float | None = None) -> None:
        """Hold a claim that has not begun.

        :param since: now, a monotonic moment.
        :param asked_at: when the store was asked for it: its lease began no sooner; ``since`` if
            ``None``.
        """
        key = (claim.id, claim.claim_no)
        self._held[key] = claim
        self._unstarted[key] = (claim, since, since if asked_at is None else asked_at)

    def begin(self, claim: Claim, asked_after: float = float("-inf")) -> bool:
        """Take an unstarted claim to run it; False if it was withdrawn meanwhile.

        Also False, and it stays to be withdrawn, if it was asked for before ``asked_after``: it may
        have been taken from us while this process, or the thread that asked, stood still.
        """
        key = (claim.id, claim.claim_no)
        found = self._unstarted.get(key)
        if found is None or found[2] < asked_after:
            return False
        return self._unstarted.pop(key, None) is not None

    def withdraw(self, before: float) -> list[Claim]:
        """Take back the claims that have waited since ``before`` (monotonic) or longer. They are still
        held until they are recorded as released."""
        withdrawn: list[Claim] = []
        for claim, since, _ in list(self._unstarted.values()):
            if since > before:
                break
            if self.begin(claim):
                withdrawn.append(claim)
        return withdrawn

    def request_cancel(self, job_id: str) -> bool:
        """Let the run of this job see that it should stop; False if it does not run here."""
        for run in list(self.running.values()):
            if run.id == job_id:
                run.request_cancel()
                return True
        return False

    def oldest_unstarted(self) -> float | None:
        """Since when (monotonic) the first unstarted claim waits."""
        for _, since, _ in list(self._unstarted.values())[:1]:
            return since
        return None

    def drop(self, claim: Claim) -> None:
        """The outcome is written, or somebody else owns the job."""
        self._held.pop((claim.id, claim.claim_no), None)

    def held(self) -> list[Claim]:
        """All of them, for renewal; of a job claimed anew only the newer claim."""
        return list({claim.id: claim for claim in list(self._held.values())}.values())

    def __len__(self) -> int:
        return len(self._held)
