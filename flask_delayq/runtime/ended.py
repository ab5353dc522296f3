"""The outcome of a run before it is recorded, and the signal to send after that.
Pure data; the recorder writes it, the signal sender sends it."""

from __future__ import annotations

from msgspec import Struct

from ..job import Outcome
from ..signals import Signal


class Ended(Struct, eq=False, gc=False):
    """One end. A thread that is not sure whether the recorder has it may pass it again.

    ``gc=False``: it is in no reference cycle, and there is one for each job.
    """

    outcome: Outcome
    signal: Signal | None = None
    """The signal to send after it is written; ``None``: no receivers."""
    facts: dict[str, object] | None = None
    """The signal's keyword arguments besides ``job``."""
    written: bool = False
    tried: bool = False
    """Whether a write of it has begun: then it may be in the store, even if the write failed."""
    weight: int = 0
    """The bytes that the recorder counts for it."""

    @property
    def size(self) -> int:
        """Approximate bytes in memory: for a signal, the result or error is there as an object too."""
        outcome = self.outcome
        size = len(outcome.result or b"") + len(outcome.error or b"")
        return size if self.signal is None else size * 2

    def let_go(self) -> None:
        """Free what was kept for receivers: a traceback's frames keep a task's arguments in memory."""
        error = self.facts.get("error") if self.facts else None
        if isinstance(error, BaseException):
            error.__traceback__ = None
        self.signal = self.facts = None
