"""Which owners are alive and which are dead, by the process records and signs of life.
Must not know jobs, or what happens to the jobs of dead owners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from ....job import ProcessRecord
from .liveness import SignsOfLife

SEEN_WITHIN = 120.0
"""Seconds after its last announcement for which a process without a sign of life is shown as alive."""

FORGET_AFTER = 600.0
"""Seconds after which the record of such a process is deleted."""

Records = Iterable[tuple[ProcessRecord, bool]]
"""Each with whether a sign of life is kept for it."""


class Gone(NamedTuple):
    """Owners that are gone."""

    dead: list[str]
    """For certain."""
    unseen: list[str]
    """Unknown, and not seen for a long time; for their jobs the leases decide."""


def gone(records: Records, signs: SignsOfLife, now: float, judge: str | None) -> Gone:
    """The owners that are gone.

    :param now: the current time, epoch seconds.
    :param judge: the calling owner, which is never gone.
    """
    found = Gone([], [])
    for process, marked in records:
        if process.owner == judge:
            continue
        sign = signs.alive(process.owner) if marked else None
        if sign is False:
            found.dead.append(process.owner)
        elif sign is None and process.seen_at < now - FORGET_AFTER:
            found.unseen.append(process.owner)
    return found


def shown(records: Records, signs: SignsOfLife, now: float) -> list[ProcessRecord]:
    """The records for people, each with whether its process is alive."""
    return [replace(process, alive=_lives(process, marked, signs, now)) for process, marked in records]


def _lives(process: ProcessRecord, marked: bool, signs: SignsOfLife, now: float) -> bool:
    sign = signs.alive(process.owner) if marked else None
    # A missing sign of life (a cleaner removed it) proves nothing: then only the record's age is known.
    return process.seen_at > now - SEEN_WITHIN if sign is None else sign
