"""``delayq.schedules``: periodic rules added, changed, paused and removed at run time.
Knows the backend's verbs for them; the maintenance of each process enqueues the occurrences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from .backends.base import Schedulable
from .client import Client
from .errors import ScheduleNotFoundError, UnsupportedOperationError
from .ids import check_name
from .job import ScheduleRecord
from .options import to_priority
from .recurrence import make_rule
from .serializer import decode_rule, encode_rule
from .task import Task


class Schedules:
    """The schedules of one app's store. A schedule that ``@delayq.task(every=...)`` declares has the
    task's name; others can have any name.

    :param client: finds the app's client.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client

    def add(
        self,
        name: str,
        task: Task[..., Any] | str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
    ) -> ScheduleRecord:
        """Add a schedule, or change the one of this name; returns it as stored.

        It begins with its next occurrence, not at once. Only a change of the rule moves this occurrence.

        :param name: the name of the schedule.
        :param task: the task or its name.
        :param args: positional arguments of each job.
        :param kwargs: keyword arguments of each job.
        :param every: the interval: seconds or ``timedelta``. Give exactly one of ``every`` and ``cron``.
        :param cron: a cron line.
        :param timezone: the time zone of ``cron``: an IANA name, by default UTC.
        :param queue: the queue of its jobs; by default the task's.
        :param priority: ``"high"``, ``"normal"`` or ``"low"``; by default the task's.
        :raises ConfigurationError: a bad rule or option.
        :raises TaskNotFoundError: no such task.
        :raises TypeError: the arguments do not fit the task.
        """
        client = self._client()
        found = client.registry.get(task) if isinstance(task, str) else task
        rule = make_rule(every, cron, timezone)
        payload, _ = found.arguments.encode(args, kwargs or {})
        level = found.declared.priority if priority is None else to_priority(priority)
        record = ScheduleRecord(
            name=check_name("schedule", name),
            task=found.name,
            payload=payload,
            rule=encode_rule(rule),
            queue=found.declared.queue if queue is None else check_name("queue", queue),
            priority=int(level),
            next_due=rule.next_after(client.now()),
            from_code=False,
            fail_on_crash=found.declared.fail_on_crash,
        )
        return self._backend.put_schedule(record)

    def list(self) -> list[ScheduleRecord]:
        """All schedules, by name."""
        return self._backend.schedules()

    def get(self, name: str) -> ScheduleRecord:
        """The schedule of this name.

        :raises ScheduleNotFoundError: there is none.
        """
        for record in self._backend.schedules():
            if record.name == name:
                return record
        raise self._not_found(name)

    def pause(self, name: str) -> None:
        """Stop enqueueing its jobs until :meth:`resume`.

        :raises ScheduleNotFoundError: there is none.
        """
        self.get(name)  # a look: a name that is not there must not make the store
        if not self._backend.pause_schedule(name, True):
            raise self._not_found(name)

    def resume(self, name: str) -> None:
        """Resume a paused schedule with its next occurrence; occurrences during the pause are skipped.

        :raises ScheduleNotFoundError: there is none.
        """
        rule = decode_rule(self.get(name).rule)
        if not self._backend.pause_schedule(name, False, next_due=rule.next_after(self._client().now())):
            raise self._not_found(name)

    def remove(self, name: str) -> None:
        """Delete it; jobs already enqueued stay. A schedule declared in code returns at the next start.

        :raises ScheduleNotFoundError: there is none.
        """
        self.get(name)
        if not self._backend.remove_schedule(name):
            raise self._not_found(name)

    def _not_found(self, name: str) -> ScheduleNotFoundError:
        task = self._client().registry.find(name)
        declared = task is not None and task.declared.rule is not None
        stored = [record.name for record in self._backend.schedules()]
        return ScheduleNotFoundError(name, get_close_matches(name, stored, 3), declared)

    @property
    def _backend(self) -> Schedulable:
        backend = self._client().backend
        if not isinstance(backend, Schedulable):
            raise UnsupportedOperationError(f"the backend {backend.url} does not support schedules")
        return backend
