"""Why a runtime makes no progress, in words for ``/health`` and the log.
Reads the state of the parts; changes nothing."""

from __future__ import annotations

from collections.abc import Collection

from .loop import Loop
from .recorder import Recorder
from .signal_sender import SignalSender

STALLED_AFTER = 30.0
"""Seconds without a successful turn after which a loop counts as stalled."""


def troubles(
    loops: Collection[Loop],
    turning: Collection[Loop],
    recorder: Recorder,
    signal_sender: SignalSender,
    now: float,
) -> list[str]:
    """One sentence for each problem; empty if there is none.

    :param turning: the loops that always turn about once a second.
    :param now: monotonic time.
    """
    found: list[str] = []
    for loop in loops:
        if loop.failing:
            found.append(f"{loop.name} fails: {loop.failing}")
        elif loop in turning and now - loop.turned_at > STALLED_AFTER:
            found.append(f"{loop.name} has not turned for {now - loop.turned_at:.0f} s")
    if recorder.is_full:
        found.append(f"{recorder.backlog} outcomes wait to be recorded")
    if stuck := signal_sender.at_work(STALLED_AFTER):
        found.append(f"{signal_sender.backlog} signals wait to be sent: {stuck}")
    return found
