"""The owners that have ended last: an announcement that was under way must not bring them back.
Must not know what an owner leaves behind."""

from __future__ import annotations

MOST = 1000
"""Owners remembered at most. Each inline enqueue is an owner of its own, so there is no end of them; a
thread that announces one is behind by a few at most."""


class LastEnded(dict[str, bool]):
    """By owner, whatever its backend notes of it; the oldest are forgotten. Each step is one operation,
    as several threads end owners at a time."""

    def __setitem__(self, owner: str, note: bool) -> None:
        super().__setitem__(owner, note)
        if len(self) > MOST:
            for oldest in list(self)[: MOST // 2]:
                self.pop(oldest, None)
