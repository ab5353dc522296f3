"""Who lives and who is dead, by the records of processes and their signs of life.
Must not know jobs, nor what is done about the dead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from ....job import ProcessRecord
from .liveness import SignsOfLife

SEEN_WITHIN = 120.0
"""Seconds for which a process without a sign of life is shown as alive after it was last seen."""

FORGET_AFTER = 600.0
"""Seconds after which the record of such a process is dropped."""

Records = Iterable[tuple[ProcessRecord, bool]]
"""Each with whether a sign of life is kept for it."""


class Gone(NamedTuple):
    """Owners that are no more."""

    dead: list[str]
    """For certain."""
    unseen: list[str]
    """Of which nobody can tell, and which were not seen for long; for their jobs the leases decide."""


def gone(records: Records, signs: SignsOfLife, now: float, judge: str | None) -> Gone:
    """The owners that are no more.

    :param now: the present: epoch seconds.
    :param judge: the owner who asks, who is none of them.
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
    """The records as a person sees them: with whether each process lives."""
    return [replace(process, alive=_lives(process, marked, signs, now)) for process, marked in records]


def _lives(process: ProcessRecord, marked: bool, signs: SignsOfLife, now: float) -> bool:
    sign = signs.alive(process.owner) if marked else None
    # A sign that is gone (a cleaner was there) proves nothing: then the record's age is what is left to
    # show.
    return process.seen_at > now - SEEN_WITHIN if sign is None else sign
