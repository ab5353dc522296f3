"""Jobs whose arguments do not fit their task as it is registered here: when to look at them again.
Knows ids and moments; what does not fit is the executor's affair."""

from __future__ import annotations

PATIENCE = 300.0
"""Seconds after this process's first look for which a job is put off in any case: during a rolling
deploy a process with the other version of the task may take it meanwhile."""

LONGEST_PAUSE = 60.0
"""Seconds between two looks at most."""

MOST = 10_000
"""Jobs remembered at once; of more, the ones first seen are forgotten and begin anew."""


class Mismatches:
    """Remembers first looks. A process that starts anew is patient anew."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[float, int]] = {}

    def look(self, job_id: str, now: float) -> tuple[float, bool]:
        """Note a look at a job; returns the seconds until the next one, doubling from 1 to
        :data:`LONGEST_PAUSE`, and whether the patience with it is used up.

        :param now: a monotonic moment.
        """
        first, looks = self._looks.pop(job_id, (now, 0))
        self._looks[job_id] = (first, looks + 1)
        if len(self._looks) > MOST:
            self._looks.pop(next(iter(self._looks)), None)
        return float(min(LONGEST_PAUSE, 2.0 ** min(looks, 16))), now - first >= PATIENCE

    def forget(self, job_id: str) -> None:
        """The job was given up."""
        self._looks.pop(job_id, None)
