"""What can be said about a task, and about one call of it.
Data and checks only; knows no function and no job."""

from __future__ import annotations

from difflib import get_close_matches

from msgspec import Struct
from msgspec import structs

from .errors import ConfigurationError
from .ids import check_name
from .job import Priority
from .retry import RetryPolicy
from .schedule import Cron
from .schedule import Every

_LEVELS = {level.name.lower(): level for level in Priority}


class TaskOptions(Struct, frozen=True, kw_only=True):
    """What a task declares once, with its decorator."""

    name: str
    aliases: tuple[str, ...] = ()
    """Former names: stored jobs of these names still find the task."""
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    retry: RetryPolicy | None = None
    """``None``: what ``DELAYQ_MAX_ATTEMPTS`` says."""
    fail_on_crash: bool = False
    produce: bool = False
    """Whether it may be enqueued over HTTP without the admin token."""
    rule: Every | Cron | None = None
    """Set for a periodic task."""


class CallOptions(Struct, frozen=True, kw_only=True):
    """What one call changes; ``None`` leaves it to the task."""

    id: str | None = None
    queue: str | None = None
    priority: Priority | None = None
    max_attempts: int | None = None

    def but(self, **changes: object) -> CallOptions:
        """These options with changes, checked.

        :raises ConfigurationError: an unknown option (with "did you mean") or a bad value.
        :raises InvalidNameError: an id or queue name that is not allowed.
        """
        if changes.get("id") is not None:
            check_name("job id", changes["id"])
        if changes.get("queue") is not None:
            check_name("queue", changes["queue"])
        if changes.get("priority") is not None:
            changes["priority"] = to_priority(changes["priority"])
        number = changes.get("max_attempts")
        if number is not None and (type(number) is not int or number < 1):
            raise ConfigurationError(
                f"max_attempts must be a whole number from 1, not {number!r}", key="max_attempts"
            )
        for name in changes:
            if name not in self.__struct_fields__:
                near = get_close_matches(name, self.__struct_fields__, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigurationError(f"no call option is named {name!r}{hint}", key=name)
        return structs.replace(self, **changes)


def to_priority(value: object) -> Priority:
    """A level from its name (``"high"``, ``"normal"``, ``"low"``) or itself.

    :raises ConfigurationError: for anything else.
    """
    if isinstance(value, Priority):
        return value
    if isinstance(value, str) and value in _LEVELS:
        return _LEVELS[value]
    raise ConfigurationError(
        f"priority must be one of {', '.join(_LEVELS)}, not {value!r}", key="priority"
    )
