"""Jobs whose arguments do not fit their task here: decides when to try them again.
Knows ids and times; the executor decides what does not fit."""

from __future__ import annotations

from threading import Lock

PATIENCE = 300.0
"""Seconds after this process's first try for which a job is always postponed: during a rolling deploy a
process with the other version of the task may take it."""

LONGEST_PAUSE = 60.0
"""Maximum seconds between two tries."""

MOST = 10_000
"""Maximum number of remembered jobs. The five minutes of a further job begin when there is room."""


class Mismatches:
    """Remembers first tries, in memory: after a restart the time begins again."""

    def __init__(self) -> None:
        self._lock = Lock()
        # First try, number of tries, latest try; ordered by the latest.
        self._looks: dict[str, tuple[float, int, float]] = {}

    def look(self, job_id: str, now: float) -> tuple[float, bool]:
        """Note a try of a job; returns the seconds until the next try, doubling from 1 to
        :data:`LONGEST_PAUSE`, and whether its time is over.

        :param now: monotonic time.
        """
        with self._lock:
            known = self._looks.pop(job_id, None)
            if known is None and not self._has_room(now):
                return LONGEST_PAUSE, False
            first, looks, _ = known or (now, 0, now)
            self._looks[job_id] = (first, looks + 1, now)
        return float(min(LONGEST_PAUSE, 2.0 ** min(looks, 16))), now - first >= PATIENCE

    def forget(self, job_id: str) -> None:
        """Forget a job, because it failed."""
        with self._lock:
            self._looks.pop(job_id, None)

    def _has_room(self, now: float) -> bool:
        """Whether one more job can be remembered. A job that has not returned for a long time is
        forgotten: another process took it, or a person cancelled it."""
        if len(self._looks) < MOST:
            return True
        stalest, (_, _, latest) = next(iter(self._looks.items()))
        if now - latest < PATIENCE:
            return False
        del self._looks[stalest]
        return True
