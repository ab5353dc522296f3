"""``Task``: a registered function with a stable name, typed by its own signature; and the registry.
Knows the app only as a ``Submitter``, which is found at each call."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from .arguments import Arguments
from .clock import to_seconds
from .errors import ConfigurationError, DelayError, TaskAlreadyRegisteredError, TaskNotFoundError
from .handle import Job, decode_with
from .options import CallChanges, CallOptions, Plan, TaskOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")


class Submitter(Protocol):
    """Takes calls of tasks for one app."""

    def enqueue_calls(
        self,
        task: Task[..., Any],
        calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
        options: CallOptions,
        delay: float | timedelta | None = None,
        when: datetime | None = None,
    ) -> list[Job[Any]]: ...

    def enqueue_one(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], plan: Plan
    ) -> Job[Any]: ...


class BoundTask(Generic[P, R]):
    """A task together with options for its calls (``task.options(...)``)."""

    def __init__(self, task: Task[P, R], options: CallOptions) -> None:
        self._task = task
        self._options = options
        self._plan = options.for_task(task.declared)

    def options(self, **changes: Unpack[CallChanges]) -> BoundTask[P, R]:
        """A copy of the task with other options; the task itself is not changed.

        :param id: the job's id (1 to 128 characters); makes the call idempotent: the same id with the
            same arguments stores one job.
        :param queue: name of the queue.
        :param priority: ``"high"``, ``"normal"`` or ``"low"``.
        :param max_attempts: maximum number of runs, including the first one.
        :raises InvalidNameError: an id or queue name that is not allowed.
        :raises ConfigurationError: an unknown option or a bad value.
        """
        return BoundTask(self._task, self._options.with_changes(**changes))

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a job that calls the task with these arguments as soon as a worker is free.

        The job is durable when this returns.

        :raises TypeError: the arguments do not fit the function.
        :raises ArgumentError: JSON would change an argument; names it.
        :raises PayloadTooLargeError: the arguments take more than ``DELAYQ_MAX_PAYLOAD`` bytes.
        :raises JobConflictError: the id belongs to another call.
        :raises QueueFullError: the queue holds ``DELAYQ_MAX_PENDING`` jobs, or the store
            ``DELAYQ_MAX_PENDING_TOTAL``.
        :raises BackendUnavailableError: nothing was stored.
        :raises EnqueueUncertainError: the job may be stored; repeat the call with the same id.
        """
        task = self._task
        return task.resolve().enqueue_one(task, args, kwargs, self._plan)

    delay = enqueue

    def enqueue_in(self, delay: float | timedelta, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Like :meth:`enqueue`, due after a delay.

        :param delay: seconds or ``timedelta``, at most ten years.
        :raises DelayError: the delay is negative, not finite or above ten years.
        """
        task = self._task
        seconds = to_seconds(delay)
        return task.resolve().enqueue_calls(task, ((args, kwargs),), self._options, delay=seconds)[0]

    def enqueue_at(self, when: datetime, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Like :meth:`enqueue`, due at a time.

        :param when: an aware datetime, at most ten years ahead; one in the past is due now.
        :raises DelayError: the datetime is naive or more than ten years ahead.
        """
        if when is None:
            raise DelayError("run_at must be an aware datetime, not None", when)
        task = self._task
        return task.resolve().enqueue_calls(task, ((args, kwargs),), self._options, when=when)[0]

    def enqueue_many(
        self, calls: Iterable[tuple[Any, ...]], *, delay: float | timedelta | None = None
    ) -> list[Job[R]]:
        """Store one job per tuple of positional arguments, in one transaction: all of them or none.
        Raises the errors of :meth:`enqueue`.

        :param calls: for example ``[("a", 1), ("b", 2)]``.
        :param delay: seconds or ``timedelta`` after which all of them are due.
        """
        task = self._task
        none: dict[str, Any] = {}
        pairs = ((_as_args(call), none) for call in calls)
        return task.resolve().enqueue_calls(task, pairs, self._options, delay=delay)


_ELSEWHERE = {
    "apply_async": "task.enqueue(...), task.enqueue_in(seconds, ...), or task.options(queue=...)",
    "apply": "task(...), which runs the function here and now",
    "s": "enqueue(...) of the next task at the end of this one: there are no signatures",
    "retry": "raise Retry(delay) in the task",
    "AsyncResult": "delayq.get(job_id)",
    "schedule": "task.enqueue_in(seconds, ...) or task.enqueue_at(when, ...)",
}
"""What Celery and Huey call something, and what it is here."""


class Task(BoundTask[P, R]):
    """A registered function. Calling it runs the function at once, in the caller, without a job.

    :ivar name: its stable name; stored jobs find the task by it.
    :ivar declared: the :class:`~flask_delayq.options.TaskOptions` it was declared with.
    :ivar function: the function itself.
    :raises ConfigurationError: the function is a generator: a call would run none of its body.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        declared: TaskOptions,
        resolve: Callable[[], Submitter],
    ) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"task {declared.name!r} is a generator function, so a call would run none of its body; "
                f"use return instead of yield"
            )
        # First, because it copies the function's own attributes, whatever their names are.
        update_wrapper(self, function)
        self.declared = declared
        super().__init__(self, CallOptions())
        self.function = function
        self.name: str = declared.name
        self.resolve = resolve
        self._arguments: Arguments | None = None

    if not TYPE_CHECKING:  # type checkers know which attributes there are

        def __getattr__(self, name: str) -> Any:
            remedy = f"; use {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise AttributeError(f"a task has no attribute {name!r}{remedy}", name=name, obj=self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here; an ``async def`` function runs to its end in its own event loop."""
        result = self.function(*args, **kwargs)
        if inspect.iscoroutine(result):
            import asyncio  # slow to import, and needed by few

            result = asyncio.run(result)
        value: R = result
        return value

    @property
    def arguments(self) -> Arguments:
        """How its arguments are encoded and decoded.

        :raises ConfigurationError: an annotation cannot be resolved or restored.
        """
        if self._arguments is None:
            self._arguments = Arguments(self.function, self.name)
        return self._arguments

    @cached_property
    def parameters(self) -> str:
        """Its parameters with their annotations as written: ``"to: str, *rest: int"``. If this differs
        between two versions of a task, they accept different arguments."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):  # some builtins have none
            return ""
        return ", ".join(str(parameter.replace(default=parameter.empty)) for parameter in parameters)

    def required_parameters(self) -> list[str]:
        """The names of the parameters without a default."""
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [
            parameter.name
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.default is parameter.empty and parameter.kind not in kinds
        ]

    def decode_result(self, data: bytes) -> Any:
        """Decode a stored result by the return annotation."""
        try:
            hint = typing.get_type_hints(self.function, include_extras=True).get("return")
        except (NameError, TypeError, AttributeError, SyntaxError):
            hint = None
        return decode_with(hint, data)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class TaskRegistry:
    """The tasks of one extension, by name and alias."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self.names: Collection[str] = self._tasks.keys()
        """All names and aliases; a view that grows with the registry."""

    def add(self, task: Task[..., Any]) -> None:
        """Register a task under its name and aliases.

        :raises TaskAlreadyRegisteredError: one of them is in use; nothing was registered.
        """
        names = (task.name, *task.declared.aliases)
        for name in names:
            if name in self._tasks:
                existing = self._tasks[name].function
                where = f"{existing.__module__}.{existing.__qualname__}"
                raise TaskAlreadyRegisteredError(name, where)
        for name in names:
            self._tasks[name] = task

    def find(self, name: str) -> Task[..., Any] | None:
        """The task of this name or alias, or ``None``."""
        return self._tasks.get(name)

    def get(self, name: str) -> Task[..., Any]:
        """The task of this name or alias.

        :raises TaskNotFoundError: there is none; suggests similar names.
        """
        task = self._tasks.get(name)
        if task is None:
            raise TaskNotFoundError(name, get_close_matches(name, self._tasks, 3))
        return task

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(sorted(set(self._tasks.values()), key=lambda task: task.name))

    def __len__(self) -> int:
        return len(set(self._tasks.values()))


def default_name(function: Callable[..., Any]) -> str:
    """The default name of a task: module and qualified name of the function.

    For a module that runs as a script the name of its file is used, so that ``python app.py`` and
    ``flask --app app run`` agree.

    :raises ConfigurationError: the function has no name (a lambda).
    """
    qualname = getattr(function, "__qualname__", "").replace(".<locals>", "")
    if not qualname or "<" in qualname:
        raise ConfigurationError(f"{function!r} has no name of its own: pass name=...")
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        module = spec.name if spec else Path(file).stem if file else module
    return f"{module}.{qualname}"


def _as_args(call: Any) -> tuple[Any, ...]:
    if isinstance(call, (tuple, list)):
        return tuple(call)
    raise TypeError(f"each call of enqueue_many must be a tuple of arguments, not {type(call).__name__}")
