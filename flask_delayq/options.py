"""The options of a task, and of one call of it.
Data and checks only; knows no function and no job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, TypedDict

from msgspec import Struct, structs

from .errors import ConfigurationError, shown
from .ids import check_name
from .job import Priority
from .recurrence import Cron, Every, make_rule
from .retry import RetryPolicy

_LEVELS = {level.name.lower(): level for level in Priority}


class TaskOptions(Struct, frozen=True, kw_only=True):
    """The options in the decorator of a task."""

    name: str
    aliases: tuple[str, ...] = ()
    """Former names: jobs that were stored under them still run."""
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    retry: RetryPolicy | None = None
    """``None``: use ``DELAYQ_MAX_ATTEMPTS``."""
    fail_on_crash: bool = False
    produce: bool = False
    """Whether it may be enqueued over HTTP without the admin token."""
    produce_queues: tuple[str, ...] = ()
    """Queues that may be chosen without the token, besides its own."""
    produce_priorities: tuple[Priority, ...] = ()
    """Priorities that may be chosen without the token, besides its own."""
    rule: Every | Cron | None = None
    """Set for a periodic task."""


class Plan(Struct, frozen=True, kw_only=True):
    """What every job of one call has besides its arguments and times."""

    task: str
    id: str | None
    queue: str
    priority: int
    max_attempts: int | None
    fail_on_crash: bool


Level: TypeAlias = Literal["high", "normal", "low"]


class CallChanges(TypedDict, total=False):
    """The keywords of ``task.options(...)``."""

    id: str | None
    queue: str | None
    priority: Level | Priority | None
    max_attempts: int | None


def option_among(names: Iterable[str]) -> str:
    """The hint after "unexpected keyword argument" if an option was passed as an argument."""
    for name in names:
        if name in CallChanges.__annotations__:
            return f"; pass options like this: task.options({name}=...).enqueue(...)"
        if name in CALL_HINTS:
            return f"; {CALL_HINTS[name]}"
    return ""


class CallOptions(Struct, frozen=True, kw_only=True):
    """The options of one call; ``None``: use the task's own."""

    id: str | None = None
    queue: str | None = None
    priority: Priority | None = None
    max_attempts: int | None = None

    def for_task(self, declared: TaskOptions) -> Plan:
        """The options of a call: these where given, else the task's own."""
        return Plan(
            task=declared.name,
            id=self.id,
            queue=self.queue or declared.queue,
            priority=int(declared.priority if self.priority is None else self.priority),
            max_attempts=self.max_attempts,
            fail_on_crash=declared.fail_on_crash,
        )

    def with_changes(self, **changes: object) -> CallOptions:
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
                f"max_attempts must be a whole number from 1, not {shown(number)}", key="max_attempts"
            )
        for name in changes:
            if name not in self.__struct_fields__:
                hint = unknown_option(name, self.__struct_fields__, CALL_HINTS)
                raise ConfigurationError(f"no call option is named {name!r}{hint}", key=name)
        return structs.replace(self, **changes)


class TaskKeywords(TypedDict, total=False):
    """The keywords of ``@delayq.task(...)``; ``DelayQ.task`` explains them."""

    name: str | None
    aliases: Iterable[str]
    queue: str
    priority: Level | Priority
    max_attempts: int | None
    backoff: float | Iterable[float] | timedelta | None
    retry: RetryPolicy | None
    on_crash: Literal["retry", "fail"]
    produce: bool
    produce_queues: Iterable[str]
    produce_priorities: Iterable[Level | Priority]
    every: float | timedelta | None
    cron: str | None
    timezone: str | None


_NO_LIMIT_OF_TIME = (
    "this is not supported yet; set a timeout on each call that waits, and check the time in loops"
)
_NO_RATE = (
    "this is not supported yet; give the task a separate queue=, served by "
    "`flask delayq worker --queues NAME --workers 1`"
)
_NOT_ONCE = "this is not supported yet; task.options(id=...) stores one job for each id"
_NO_END = "this is not supported yet; let the task return at once if it begins too late"

TASK_HINTS = {
    **dict.fromkeys(("retries", "max_retries"), "use max_attempts=, which counts the first run too"),
    **dict.fromkeys(("autoretry_for", "retry_for"), "use retry=RetryPolicy(retry_on=(...), ...)"),
    **dict.fromkeys(("retry_backoff", "retry_delay", "default_retry_delay"), "use backoff="),
    **dict.fromkeys(("crontab", "run_every", "interval"), "use every= seconds or cron= a cron line"),
    **dict.fromkeys(("timeout", "time_limit", "soft_time_limit", "job_timeout"), _NO_LIMIT_OF_TIME),
    **dict.fromkeys(("rate_limit", "rate", "concurrency"), _NO_RATE),
    "unique": _NOT_ONCE,
    "expires": _NO_END,
    "bind": "leave it out; the running job is flask_delayq.current_job",
    "ignore_result": "leave it out; results are kept for DELAYQ_RETENTION seconds",
}
"""For options of other libraries: what to do instead."""

CALL_HINTS = {
    **dict.fromkeys(("countdown", "delay"), "use task.enqueue_in(seconds, ...)"),
    **dict.fromkeys(("eta", "run_at", "when"), "use task.enqueue_at(when, ...)"),
    **dict.fromkeys(("job_id", "task_id"), "use task.options(id=...)"),
    **dict.fromkeys(("timeout", "time_limit", "job_timeout"), _NO_LIMIT_OF_TIME),
    **dict.fromkeys(("expires", "ttl"), _NO_END),
    "unique": "use task.options(id=...): one job is stored for each id",
    **dict.fromkeys(("retry", "retries"), "use task.options(max_attempts=...)"),
    "args": "pass the arguments directly: task.enqueue(1, 2)",
}
"""The same for options of one call."""


def unknown_option(name: str, known: Iterable[str], hints: Mapping[str, str]) -> str:
    """The hint after "no option is named ...": what to do instead, "did you mean", or the options."""
    if name in hints:
        return f": {hints[name]}"
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def declare_task(name: str, **options: Any) -> TaskOptions:
    """The options of a task from the keywords of its decorator (``DelayQ.task`` explains them).

    :raises ConfigurationError: an unknown option (with "did you mean") or a bad value.
    :raises InvalidNameError: a name that is not allowed.
    """
    for option in options:
        if option not in TaskKeywords.__annotations__:
            hint = unknown_option(option, TaskKeywords.__annotations__, TASK_HINTS)
            raise ConfigurationError(f"task {name!r}: no option is named {option!r}{hint}", key=option)
    rule = None
    if options.get("timezone") is not None and options.get("cron") is None:
        zone = shown(options["timezone"])
        raise ConfigurationError(
            f"task {name!r}: timezone={zone} needs cron=; add a cron line, or remove timezone=",
            key="timezone",
        )
    if options.get("every") is not None or options.get("cron") is not None:
        rule = make_rule(options.get("every"), options.get("cron"), options.get("timezone"))
    on_crash = options.get("on_crash", "retry")
    if on_crash not in ("retry", "fail"):
        raise ConfigurationError(
            f"task {name!r}: on_crash must be 'retry' or 'fail', not {shown(on_crash)}", key="on_crash"
        )
    produce = options.get("produce", False)
    if type(produce) is not bool:
        raise ConfigurationError(
            f"task {name!r}: produce must be True or False, not {shown(produce)}", key="produce"
        )
    return TaskOptions(
        name=check_name("task", name),
        aliases=tuple(check_name("alias", alias) for alias in _list(name, options, "aliases")),
        queue=check_name("queue", options.get("queue", "default")),
        priority=to_priority(options.get("priority", "normal")),
        retry=_retry(name, options),
        fail_on_crash=on_crash == "fail",
        produce=produce,
        produce_queues=tuple(
            check_name("queue", queue) for queue in _list(name, options, "produce_queues")
        ),
        produce_priorities=tuple(map(to_priority, _list(name, options, "produce_priorities"))),
        rule=rule,
    )


def _list(task: str, options: dict[str, Any], key: str) -> Iterable[object]:
    value = options.get(key, ())
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"task {task!r}: {key} must be a list of names, not {shown(value)}", key=key
        )
    return value


def _retry(name: str, options: dict[str, Any]) -> RetryPolicy | None:
    policy, runs, backoff = (options.get(key) for key in ("retry", "max_attempts", "backoff"))
    if policy is not None:
        if not isinstance(policy, RetryPolicy) or runs is not None or backoff is not None:
            raise ConfigurationError(
                f"task {name!r}: give retry=RetryPolicy(...), or max_attempts= and backoff=, not both",
                key="retry",
            )
        return policy
    if runs is None and backoff is None:
        return None
    if runs is None:
        raise ConfigurationError(
            f"task {name!r}: backoff={shown(backoff)} needs max_attempts=, how often it may run in all",
            key="backoff",
        )
    return RetryPolicy.of(runs, backoff)


def to_priority(value: object) -> Priority:
    """The level of a name (``"high"``, ``"normal"``, ``"low"``); a ``Priority`` is returned unchanged.

    :raises ConfigurationError: for any other value.
    """
    if isinstance(value, Priority):
        return value
    if isinstance(value, str) and value in _LEVELS:
        return _LEVELS[value]
    raise ConfigurationError(
        f"priority must be one of {', '.join(_LEVELS)}, not {shown(value)}", key="priority"
    )
