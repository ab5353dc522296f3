"""Jobs whose arguments do not fit their task as it is registered here: when to look at them again.
Knows ids and moments; what does not fit is the executor's affair."""

from __future__ import annotations

from threading import Lock

PATIENCE = 300.0
"""Seconds after this process's first look for which a job is put off in any case: during a rolling
deploy a process with the other version of the task may take it meanwhile."""

LONGEST_PAUSE = 60.0
"""Seconds between two looks at most."""

MOST = 10_000
"""Jobs remembered at once. The patience with further ones begins when there is room."""


class Mismatches:
    """Remembers first looks. A process that starts anew is patient anew."""

    def __init__(self) -> None:
        self._lock = Lock()
        # First look, number of looks, latest look; in the order of the latest.
        self._looks: dict[str, tuple[float, int, float]] = {}

    def look(self, job_id: str, now: float) -> tuple[float, bool]:
        """Note a look at a job; returns the seconds until the next one, doubling from 1 to
        :data:`LONGEST_PAUSE`, and whether the patience with it is used up.

        :param now: a monotonic moment.
        """
        with self._lock:
            known = self._looks.pop(job_id, None)
            if known is None and not self._has_room(now):
                return LONGEST_PAUSE, False
            first, looks, _ = known or (now, 0, now)
            self._looks[job_id] = (first, looks + 1, now)
        return float(min(LONGEST_PAUSE, 2.0 ** min(looks, 16))), now - first >= PATIENCE

    def forget(self, job_id: str) -> None:
        """The job was given up."""
        with self._lock:
            self._looks.pop(job_id, None)

    def _has_room(self, now: float) -> bool:
        """Whether one more may be remembered. A job that has not come back for a long time makes room:
        another process took it, or a person cancelled it."""
        if len(self._looks) < MOST:
            return True
        stalest, (_, _, latest) = next(iter(self._looks.items()))
        if now - latest < PATIENCE:
            return False
        del self._looks[stalest]
        return True
