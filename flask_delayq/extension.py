"""``DelayQ``: registers tasks, binds them to Flask apps and finds the app a call belongs to.
Keeps no app itself; what belongs to one app is its ``AppState``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from flask import Flask, current_app, has_app_context
from werkzeug.local import LocalProxy

from . import launch
from .admin import admin_blueprint
from .app_state import KEY, STATE_KEY, AppState
from .cli import delayq_commands
from .client import Client
from .clock import Clock, SystemClock
from .config import url_prefix, wants_pages
from .errors import ConfigurationError, SetupError
from .handle import Job
from .job import JobQuery, JobState, Outcome
from .options import TaskKeywords, declare_task
from .running import RunningJob, running_job
from .schedules import Schedules
from .task import Task, TaskRegistry, default_name

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

NO_JOB = "current_job is known only while a task runs; ask `if current_job:` first"

current_job: RunningJob = cast(
    RunningJob,
    LocalProxy(running_job, unbound_message=NO_JOB),
)
"""The job that runs here, inside a task."""


class DelayQ:
    """The extension.

    One object may serve several apps; its tasks are those of all of them. Each app has its own store,
    settings and runtime.

    :param app: an app to bind at once; or call :meth:`init_app` later.
    :param clock: where time is read (tests pass a ``FakeClock``).
    """

    def __init__(self, app: Flask | None = None, *, clock: Clock | None = None) -> None:
        self.tasks: TaskRegistry = TaskRegistry()
        """The registered tasks."""
        self.schedules: Schedules = Schedules(lambda: self.client)
        """Periodic rules, to be changed at run time."""
        self._clock = clock or SystemClock()
        # The strong reference is in app.extensions, so that an app takes its state with it.
        self._states: list[weakref.ref[AppState]] = []
        self._access: Callable[[str], bool] | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Bind the extension to an app.

        Registers the pages under ``DELAYQ_URL_PREFIX`` (unless ``DELAYQ_PAGES`` is false) and the
        commands ``flask delayq ...``, and has the process watched for the moment at which it serves.
        Opens no file and runs no job. Settings are read when they are first needed; later changes have
        no effect.

        :raises SetupError: the app has a DelayQ already.
        """
        if KEY in app.extensions:
            raise SetupError(
                "this app already has a DelayQ; import and use that object instead of making another"
            )
        state = AppState(app, self.tasks, self._clock, lambda: self._access)
        app.extensions[KEY] = self
        app.extensions[STATE_KEY] = state
        self._states = [ref for ref in self._states if ref() is not None]
        self._states.append(weakref.ref(state))
        config = state.config
        if wants_pages(config):
            blueprint = admin_blueprint(any_host=app.url_map.host_matching)
            app.register_blueprint(blueprint, url_prefix=url_prefix(config))
        app.cli.add_command(delayq_commands)
        if config.get("DELAYQ_MODE") == "thread":
            state.start(role="DELAYQ_MODE=thread")
        else:
            launch.arm(state, app)

    # --- tasks -----------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(self, /, **options: Unpack[TaskKeywords]) -> TaskDecorator: ...

    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Register a function as a task: ``@delayq.task`` or ``@delayq.task(queue="mail")``.

        :param name: stable name, by which stored jobs find it; by default ``module.function``.
        :param aliases: former names, so that jobs stored under them still run.
        :param queue: the queue its jobs go to, ``"default"`` unless said.
        :param priority: ``"high"``, ``"normal"`` or ``"low"``, within the queue.
        :param max_attempts: runs in all when it raises; 1 unless said (or ``DELAYQ_MAX_ATTEMPTS``).
        :param backoff: seconds before the second run, doubling; or all pauses as a list.
        :param retry: a whole :class:`~flask_delayq.RetryPolicy`, instead of the two above.
        :param on_crash: ``"retry"`` (default): a run cut off by a crash is repeated; ``"fail"``: the
            job fails, for tasks that must not run twice.
        :param produce: whether ``/delayq/produce`` offers it to people without the admin token.
        :param produce_queues: queues that they may choose besides ``queue``.
        :param produce_priorities: priorities that they may choose besides ``priority``.
        :param every: run it every so many seconds (or ``timedelta``), without arguments.
        :param cron: run it by a cron line, with ``timezone`` (IANA name, UTC by default).
        :raises ConfigurationError: an unknown option or one that does not fit.
        :raises TaskAlreadyRegisteredError: the name or an alias is taken.
        """
        if function is not None:
            return self._register(function, options)
        return lambda function: self._register(function, options)

    def _register(self, function: Callable[..., Any], options: dict[str, Any]) -> Task[..., Any]:
        declared = declare_task(options.pop("name", None) or default_name(function), **options)
        registered: Task[..., Any] = Task(function, declared, self._find_client)
        if declared.rule is not None and (missing := registered.required_parameters()):
            raise ConfigurationError(
                f"task {declared.name!r} is periodic, so it cannot need arguments: {', '.join(missing)}"
            )
        self.tasks.add(registered)
        return registered

    # --- the app a call belongs to ---------------------------------------------------------------

    @property
    def state(self) -> AppState:
        """What belongs to the app of this call: the current app, or the only one there is.

        :raises SetupError: no app, or no way to tell which.
        """
        if len(self._states) == 1:
            only = self._states[0]()
            if only is not None:
                return only
        if has_app_context():
            state = current_app.extensions.get(STATE_KEY)
            if state is not None and current_app.extensions[KEY] is self:
                return cast(AppState, state)
            raise SetupError(
                f"this DelayQ is not bound to the current app {current_app.name!r}; "
                f"call delayq.init_app(app), or use the DelayQ that the app has"
            )
        if not self._states:
            raise SetupError("this DelayQ is bound to no app yet; call delayq.init_app(app) first")
        alive = [ref for ref in self._states if ref() is not None]
        if not alive:
            raise SetupError("the app that this DelayQ was bound to is gone: hold on to the app")
        self._states = alive
        if len(self._states) == 1:
            return self.state
        raise SetupError(
            "this DelayQ serves several apps, so say which: call inside `with app.app_context():`"
        )

    @property
    def client(self) -> Client:
        """The producing side of that app."""
        return self.state.client

    def _find_client(self) -> Client:
        return self.state.client

    # --- jobs ------------------------------------------------------------------------------------

    def enqueue(self, task: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Enqueue a call of the task of this name, where the function is not at hand.

        :param task: the name of a task, or one of its aliases.
        :raises TaskNotFoundError: none is registered under it here; else as ``task.enqueue``.
        """
        return self.tasks.get(task).enqueue(*args, **kwargs)

    def get(self, job_id: str) -> Job[Any]:
        """The job of this id.

        :raises JobNotFoundError: there is none (any more).
        """
        return self.client.get(job_id)

    def jobs(
        self,
        *states: JobState | str,
        queue: str | None = None,
        task: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job[Any]]:
        """Jobs, newest first.

        :param states: only these (all without one), for example ``"failed"``.
        :param queue: only of this queue.
        :param task: only of the task of this name.
        :param before: only older than the job of this id (the last one of the page before).
        :param limit: at most so many.
        :raises JobNotFoundError: there is no job ``before`` (any more).
        """
        wanted = tuple(JobState(state) for state in states)
        return self.client.select(JobQuery(wanted, queue, task, before, limit))

    def counts(self) -> dict[str, int]:
        """How many jobs there are by state; all six states are present."""
        client = self.client
        return client.inspect.counts(now=client.now())

    def pause(self, queue: str) -> None:
        """Begin no more jobs of a queue, in any process; running ones go on."""
        self.client.pause(queue)

    def resume(self, queue: str) -> None:
        """Undo :meth:`pause`."""
        self.client.resume(queue)

    # --- running ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Run jobs in this process from now on, whatever kind of process it is. Idempotent.

        :raises RuntimeError: threads cannot be had, or the main thread of the process has ended.
        """
        self.state.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop running jobs here: begin none, let running ones end.

        :param timeout: seconds that they get, ``DELAYQ_DRAIN_TIMEOUT`` by default; those that still run
            then go on until the process ends and are repeated elsewhere afterwards.
        :returns: True if every job had ended and the store has how. Idempotent and thread-safe.
        """
        return self.state.stop(timeout)

    def drain(self, limit: int | None = None) -> list[Outcome]:
        """Run everything that is due, here and now, in this thread (for tests and scripts).

        Jobs that these enqueue and that are due are run as well.

        :param limit: at most so many jobs.
        :returns: how each run ended.
        """
        return self.state.drain(limit)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is ready or running any more (jobs due later are not waited for), in any
        process, and until ``delayq.executor`` has nothing to do.

        :param timeout: seconds, or ``None`` for no limit.
        :returns: False if the time was up.
        """
        return self.client.await_change("(join)", lambda: not self._has_work(), timeout)

    def _has_work(self) -> bool:
        state = self.state
        counts = self.counts()
        if counts["ready"] or counts["running"]:
            return True
        return "executor" in state.__dict__ and state.executor.pending > 0

    @property
    def executor(self) -> Any:
        """A ``concurrent.futures`` thread pool with the app context, for closures that need not survive
        the process; made when first used."""
        return self.state.executor

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """``executor.submit``: run a closure in the background, in an app context. Not durable."""
        return self.state.executor.submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., T], /, *iterables: Iterable[Any], timeout: float | None = None
    ) -> Iterator[T]:
        """``executor.map``: the results of calls in the background, in order. Not durable."""
        return self.state.executor.map(fn, *iterables, timeout=timeout)

    # --- access ----------------------------------------------------------------------------------

    def admin_access(self, function: Callable[[str], bool]) -> Callable[[str], bool]:
        """Register the function that opens the pages: ``@delayq.admin_access``.

        It is called inside the request with the action, ``"read"``, ``"act"`` or ``"produce"``, and
        returns whether the person may do it (``flask_login``'s ``current_user`` is at hand there).
        """
        self._access = function
        return function


class TaskDecorator(Protocol):
    """What ``delayq.task(...)`` with options returns, for type checkers."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
