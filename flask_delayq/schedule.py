"""Periodic rules: the next occurrence after a moment. Pure functions of rule and time.
Knows no job, no store and no clock."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from datetime import timezone as _timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from msgspec import Struct

from .clock import to_seconds
from .errors import ConfigurationError

SHORTEST_INTERVAL = 0.1
"""Seconds; a shorter rule would spend more on bookkeeping than on work."""


class Every(Struct, frozen=True, tag="every"):
    """Every so many seconds, counted from the epoch, so that all processes agree without a word and a
    restart moves nothing: ``every=3600`` is the full hour (UTC)."""

    seconds: float

    def next_after(self, moment: float) -> float:
        """The first occurrence later than ``moment`` (epoch seconds). Costs the same however far."""
        turn = math.floor(moment / self.seconds) + 1
        due = turn * self.seconds
        while due <= moment:  # a rounding error away from the border
            turn += 1
            due = turn * self.seconds
        return due

    def __str__(self) -> str:
        return f"every {timedelta(seconds=self.seconds)}"


class Cron(Struct, frozen=True, tag="cron"):
    """A cron line in a time zone.

    Five fields (minute hour day month weekday), or six with the seconds last, as cronsim reads them.
    When clocks change: a time in the hour that is skipped occurs once, right after the gap; a time in
    the hour that is repeated occurs once; lines with ``*`` in hour or minute follow elapsed time
    (Debian's cron does the same).
    """

    line: str
    timezone: str = "UTC"

    def next_after(self, moment: float) -> float:
        """The first occurrence later than ``moment`` (epoch seconds)."""
        zone = _timezone.utc if self.timezone == "UTC" else ZoneInfo(self.timezone)
        start = datetime.fromtimestamp(moment, zone)
        for occurrence in CronSim(self.line, start):
            due = float(occurrence.timestamp())
            if due > moment:
                return due
        raise ConfigurationError(f"cron line {self.line!r} never occurs", key="cron")

    def __str__(self) -> str:
        return f"cron {self.line} ({self.timezone})"


def make_rule(
    every: float | timedelta | None = None,
    cron: str | None = None,
    timezone: str | None = None,
) -> Every | Cron:
    """Build and check a rule.

    :param every: seconds or ``timedelta``, at least :data:`SHORTEST_INTERVAL`.
    :param cron: a cron line; exactly one of ``every`` and ``cron`` is given.
    :param timezone: IANA name for ``cron``; UTC by default.
    :raises ConfigurationError: for anything that is no rule, or a line that never occurs.
    :raises DelayError: for an interval that is no duration.
    """
    if (every is None) == (cron is None):
        raise ConfigurationError("give exactly one of every= and cron=", key="every")
    if every is not None:
        if timezone is not None:
            raise ConfigurationError("timezone= goes with cron=, not with every=", key="timezone")
        seconds = to_seconds(every, what="every")
        if seconds < SHORTEST_INTERVAL:
            raise ConfigurationError(
                f"every={every!r} is too often: at least {SHORTEST_INTERVAL} s", key="every"
            )
        return Every(seconds)
    if not isinstance(cron, str):
        raise ConfigurationError(f"cron must be a line of text, not {cron!r}", key="cron")
    rule = Cron(cron, timezone or "UTC")
    try:
        rule.next_after(0.0)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigurationError(f"no time zone is named {timezone!r}", key="timezone") from error
    except (CronSimError, StopIteration) as error:
        raise ConfigurationError(f"cron line {cron!r}: {error}", key="cron") from error
    return rule
