"""The claims that this process holds, from the store's answer until the outcome is written.
The one place that renewal and the dispatcher ask; knows no thread and no store."""

from __future__ import annotations

from msgspec import Struct

from ..job import Claim
from ..running import RunningJob


class Held(Struct, eq=False, gc=False):
    """A claim on its way to a worker."""

    claim: Claim
    values: Struct | None
    """Its arguments, if they are at hand decoded."""
    since: float
    """When it came here (monotonic)."""
    asked_at: float
    """When the store was asked for it (monotonic): its lease began no sooner."""


class HeldClaims:
    """Claims in three stages: unstarted, running, ended but not yet recorded.

    Told apart as objects: a claim that was given back may still lie in a worker's queue, or wait to be
    dropped, when this process has claimed the same job anew.

    Every method is one dict operation (atomic under the interpreter's lock), so that no worker waits
    for another here.
    """

    def __init__(self) -> None:
        self._held: dict[int, Claim] = {}  # by id(), which is nobody else's while it is in here
        # Insertion order: the oldest is first.
        self._unstarted: dict[int, Held] = {}
        self.running: dict[int, RunningJob] = {}
        """Runs under way, by the thread's ident."""

    def add(self, held: Held) -> None:
        """Hold a claim that has not begun."""
        key = id(held.claim)
        self._held[key] = held.claim
        self._unstarted[key] = held

    def begin(self, held: Held, asked_after: float = float("-inf")) -> bool:
        """Take an unstarted claim to run it; False if it was withdrawn meanwhile.

        Also False, and it stays to be withdrawn, if it was asked for before ``asked_after``: it may
        have been taken from us while this process, or the thread that asked, stood still.
        """
        if held.asked_at < asked_after:
            return False
        return self._unstarted.pop(id(held.claim), None) is not None

    def withdraw(self, before: float) -> list[Claim]:
        """Take back the claims that have waited since ``before`` (monotonic) or longer. They are still
        held until they are recorded as released."""
        withdrawn: list[Claim] = []
        for held in list(self._unstarted.values()):
            if held.since > before:
                break
            if self.begin(held):
                withdrawn.append(held.claim)
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
        for held in list(self._unstarted.values())[:1]:
            return held.since
        return None

    def drop(self, claim: Claim) -> None:
        """The outcome is written, or somebody else owns the job."""
        self._held.pop(id(claim), None)

    def held(self) -> list[Claim]:
        """All of them, for renewal; of a job claimed anew only the newer claim."""
        return list({claim.id: claim for claim in list(self._held.values())}.values())

    def __len__(self) -> int:
        return len(self._held)
