"""Periodic rules: the next occurrence after a time. Pure functions of rule and time.
Knows no job, no store and no clock."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, tzinfo
from datetime import timezone as _timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError
from msgspec import Struct

from .clock import to_seconds
from .errors import ConfigurationError, RuleError, shown

SHORTEST_INTERVAL = 0.1
"""Seconds; with a shorter interval bookkeeping would cost more than the work."""

MOST_STEPS = 5000
"""Maximum steps of the search for one occurrence; a line that occurs once in 40 years takes some 100."""

_NO_ZONE = (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError)
"""What ``ZoneInfo`` raises for a bad name, or for a zone that this system does not have."""


class Every(Struct, frozen=True, tag="every"):
    """An interval in seconds, counted from the epoch, so that all processes agree without communication
    and a restart moves nothing: ``every=3600`` is the full hour (UTC)."""

    seconds: float

    def __post_init__(self) -> None:
        if not SHORTEST_INTERVAL <= self.seconds < math.inf:  # from a store that somebody else wrote to
            raise ValueError(f"an interval must be a positive number of seconds, not {self.seconds!r}")

    def next_after(self, moment: float) -> float:
        """The first occurrence later than ``moment`` (both epoch seconds); in constant time."""
        # The quotient may be rounded up to the next occurrence, so this one is checked first.
        turn = math.floor(moment / self.seconds)
        while (due := turn * self.seconds) <= moment:
            turn += 1
        return due

    def __str__(self) -> str:
        for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60)):
            if self.seconds % seconds == 0:
                many = int(self.seconds // seconds)
                return f"every {unit}" if many == 1 else f"every {many} {unit}s"
        return "every second" if self.seconds == 1 else f"every {self.seconds:.12g} seconds"


class _BoundedCronSim(CronSim):
    """The search for an occurrence, with a maximum number of steps.

    cronsim 2.8 loops for ever if clocks go back over midnight from some minutes after it, as in
    Newfoundland until 2011 (at 00:01, to 23:01 of the day before).
    """

    _steps = 0

    def advance_month(self) -> None:  # once in each step
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise CronSimError("its next occurrence was not found within the maximum number of steps")
        super().advance_month()


class Cron(Struct, frozen=True, tag="cron"):
    """A cron line in a time zone.

    Five fields (minute hour day month weekday), or six with the seconds first, as cronsim reads them.

    When clocks change, a line whose minute and hour both begin with a digit (``30 2 * * *``) occurs
    once: in a repeated hour the first time, and for a skipped time right after the gap. A line whose
    minute or hour begins with ``*``, or that has six fields, occurs as often as the wall clock shows
    its time: twice in a repeated hour, never in a skipped one. (Debian's cron does the same.)
    """

    line: str
    timezone: str = "UTC"

    def next_after(self, moment: float) -> float:
        """The first occurrence later than ``moment`` (both epoch seconds).

        :raises RuleError: it never occurs, is not a cron line, or this system does not know the time
            zone.
        """
        try:
            zone = _zone(self.timezone)
        except _NO_ZONE as error:
            raise RuleError(f"this system has no time zone named {shown(self.timezone)}") from error
        try:
            # Whole seconds: a moment just before an occurrence must not be rounded up to it.
            start = datetime.fromtimestamp(math.floor(moment), zone)
            for occurrence in _BoundedCronSim(self.line, start):
                due = float(occurrence.timestamp())
                if due > moment:
                    return due
        except (CronSimError, ValueError, OverflowError) as error:
            raise RuleError(f"cron line {shown(self.line)}: {error}") from error
        raise RuleError(f"cron line {shown(self.line)} never occurs")

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
    :raises ConfigurationError: a bad rule, or a cron line that never occurs.
    :raises DelayError: the interval is not a duration.
    """
    if (every is None) == (cron is None):
        given = "neither" if every is None else f"every={shown(every)} and cron={shown(cron)}"
        raise ConfigurationError(f"give exactly one of every= and cron=, not {given}", key="every")
    if every is not None:
        if timezone is not None:
            raise ConfigurationError("timezone= needs cron=; every= has no time zone", key="timezone")
        seconds = to_seconds(every, what="every")
        if seconds < SHORTEST_INTERVAL:
            raise ConfigurationError(
                f"every={every} is too short; it must be at least {SHORTEST_INTERVAL} s", key="every"
            )
        return Every(seconds)
    if not isinstance(cron, str):
        raise ConfigurationError(f"cron must be a cron line (a string), not {shown(cron)}", key="cron")
    rule = Cron(cron, "UTC" if timezone is None else timezone)
    try:
        _zone(rule.timezone)
    except _NO_ZONE as error:
        why = f"no time zone is named {shown(timezone)}"
        if not available_timezones():
            why += ": this system knows none; install the package tzdata (pip install tzdata)"
        raise ConfigurationError(why, key="timezone") from error
    try:
        rule.next_after(0.0)
    except RuleError as error:
        like = "the fields are minute hour day month weekday, for example '30 3 * * 1-5'"
        raise ConfigurationError(f"{error}; {like}", key="cron") from error
    return rule


def _zone(name: str) -> tzinfo:
    return _timezone.utc if name == "UTC" else ZoneInfo(name)
