"""Jobs that this process does not understand: how long each has been looked at, and when to look again.
Knows ids and moments; what is not understood about a job is the executor's affair."""

from __future__ import annotations

PATIENCE = 300.0
"""Seconds after this process's first look at which a job is given up that it still does not understand:
during a rolling deploy another process, or the next version of this one, may know the task."""

LONGEST_PAUSE = 60.0

MOST = 10_000
"""Jobs remembered at once; of more, the ones first seen are forgotten and begin anew."""


class Puzzles:
    """Remembers first looks. A process that starts anew is patient anew."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[float, int]] = {}

    def pause(self, job_id: str, now: float) -> float | None:
        """Seconds until the next look, doubling from 1 to :data:`LONGEST_PAUSE`; ``None``: give it up.

        :param now: a monotonic moment.
        """
        first, looks = self._looks.pop(job_id, (now, 0))
        if now - first >= PATIENCE:
            return None
        self._looks[job_id] = (first, looks + 1)
        if len(self._looks) > MOST:
            self._looks.pop(next(iter(self._looks)), None)
        return float(min(LONGEST_PAUSE, 2.0**looks))
