"""The outcome of a run before it is recorded, and the signal to send after that.
Pure data; the recorder writes it, the signal sender sends it."""

from __future__ import annotations

from msgspec import Struct

from ..job import Outcome
from ..signals import Signal


class Ended(Struct, eq=False, gc=False):
    """One end. It may be handed to the recorder again, by whoever is not sure that it was.

    ``gc=False``: nothing that it refers to refers back to it, and there is one for each job.
    """

    outcome: Outcome
    signal: Signal | None = None
    """The signal to send after it is written; ``None``: no receivers."""
    facts: dict[str, object] | None = None
    """The keywords for it besides ``job``."""
    written: bool = False
    tried: bool = False
    """Whether a try to write it has begun: then it may be in the store, even if the try failed."""
    weight: int = 0
    """Bytes for which the recorder counts it."""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly: what is told is there as an object as well."""
        outcome = self.outcome
        size = len(outcome.result or b"") + len(outcome.error or b"")
        return size if self.signal is None else size * 2

    def let_go(self) -> None:
        """Free what was kept for receivers: the frames of a traceback refer to a task's arguments."""
        error = self.facts.get("error") if self.facts else None
        if isinstance(error, BaseException):
            error.__traceback__ = None
        self.signal = self.facts = None
