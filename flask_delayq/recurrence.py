"""Periodic rules: the next occurrence after a moment. Pure functions of rule and time.
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
"""Seconds; a shorter rule would spend more on bookkeeping than on work."""

MOST_STEPS = 5000
"""Steps of the search for one occurrence; a line that occurs once in 40 years takes some hundred."""

_NO_ZONE = (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError)
"""What ``ZoneInfo`` raises for what is no zone, or for one that this system does not have."""


class Every(Struct, frozen=True, tag="every"):
    """Every so many seconds, counted from the epoch, so that all processes agree without a word and a
    restart moves nothing: ``every=3600`` is the full hour (UTC)."""

    seconds: float

    def __post_init__(self) -> None:
        if (
            not SHORTEST_INTERVAL <= self.seconds < math.inf
        ):  # read back from a store that somebody else wrote to
            raise ValueError(f"an interval of {self.seconds!r} s is none")

    def next_after(self, moment: float) -> float:
        """The first occurrence later than ``moment`` (epoch seconds). Costs the same however far."""
        # The quotient may be rounded up to the turn that comes, so it is asked first.
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
    """The search for an occurrence, with a bound on its steps.

    cronsim 2.8 goes in circles where clocks go back over midnight from some minutes after it, as in
    Newfoundland until 2011 (at 00:01, to 23:01 of the day before).
    """

    _steps = 0

    def advance_month(self) -> None:  # once in each step
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise CronSimError("the search for its next occurrence does not end")
        super().advance_month()


class Cron(Struct, frozen=True, tag="cron"):
    """A cron line in a time zone.

    Five fields (minute hour day month weekday), or six with the seconds first, as cronsim reads them.

    When clocks change, a line whose minute and hour both begin with a figure (``30 2 * * *``) occurs
    once: in the hour that is repeated at its first turn, and for a time that is skipped right after
    the gap. A line whose minute or hour begins with ``*``, or that has six fields, follows the clock
    on the wall as it runs: it occurs in both turns of a repeated hour, and not in a skipped one.
    (Debian's cron does the same.)
    """

    line: str
    timezone: str = "UTC"

    def next_after(self, moment: float) -> float:
        """The first occurrence later than ``moment`` (epoch seconds).

        :raises RuleError: it never occurs, is no cron line, or this system does not know the time zone.
        """
        try:
            zone = _zone(self.timezone)
        except _NO_ZONE as error:
            raise RuleError(f"no time zone is named {shown(self.timezone)} on this system") from error
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
    :raises ConfigurationError: for anything that is no rule, or a line that never occurs.
    :raises DelayError: for an interval that is no duration.
    """
    if (every is None) == (cron is None):
        given = "neither" if every is None else f"every={shown(every)} and cron={shown(cron)}"
        raise ConfigurationError(f"give exactly one of every= and cron=, not {given}", key="every")
    if every is not None:
        if timezone is not None:
            raise ConfigurationError("timezone= goes with cron=, not with every=", key="timezone")
        seconds = to_seconds(every, what="every")
        if seconds < SHORTEST_INTERVAL:
            raise ConfigurationError(
                f"every={every} is too often: at least {SHORTEST_INTERVAL} s", key="every"
            )
        return Every(seconds)
    if not isinstance(cron, str):
        raise ConfigurationError(f"cron must be a line of text, not {shown(cron)}", key="cron")
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
