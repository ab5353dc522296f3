"""``DelayQ``: registers tasks, binds them to Flask apps and finds the app of a call.
Keeps no app itself; the ``AppState`` has everything that belongs to one app."""

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
from .errors import ConfigurationError, SetupError, shown
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
"""The job that is running in this context; only inside a task."""


class DelayQ:
    """The extension.

    One object may serve several apps; they share its tasks. Each app has its own store, settings and
    runtime.

    :param app: an app to bind at once; or call :meth:`init_app` later.
    :param clock: the source of time (tests pass a ``FakeClock``).
    """

    def __init__(self, app: Flask | None = None, *, clock: Clock | None = None) -> None:
        self.tasks: TaskRegistry = TaskRegistry()
        """The registered tasks."""
        self.schedules: Schedules = Schedules(lambda: self.client)
        """Periodic rules; they can be changed at run time."""
        self._clock = clock or SystemClock()
        # The strong reference is in app.extensions, so that the state is deleted with its app.
        self._states: list[weakref.ref[AppState]] = []
        self._access: Callable[[str], bool] | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Bind the extension to an app.

        Registers the admin pages under ``DELAYQ_URL_PREFIX`` (unless ``DELAYQ_PAGES`` is false) and the
        commands ``flask delayq ...``, and starts checking whether this process serves (with
        ``DELAYQ_MODE=auto``). Opens no file and runs no job. Settings are read when they are first
        needed; later changes have no effect.

        :param app: the Flask app.
        :raises SetupError: the app has a DelayQ already.
        """
        if KEY in app.extensions:
            raise SetupError(
                "this app already has a DelayQ; use that object instead of making another one"
            )
        state = AppState(app=app, registry=self.tasks, clock=self._clock, access=lambda: self._access)
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

        :param name: stable name; stored jobs find the task by it. Default: ``module.function``.
        :param aliases: former names: jobs that were stored under them still run.
        :param queue: the queue of its jobs. Default: ``"default"``.
        :param priority: ``"high"``, ``"normal"`` or ``"low"``, within the queue.
        :param max_attempts: maximum number of runs if it raises. Default: ``DELAYQ_MAX_ATTEMPTS`` (1).
        :param backoff: seconds (or ``timedelta``) before the second run; doubles for each further run.
            Or a list of all pauses.
        :param retry: a :class:`~flask_delayq.RetryPolicy`, instead of ``max_attempts`` and ``backoff``.
        :param on_crash: if the process dies or stops during the run: ``"retry"`` (default) runs the job
            again; ``"fail"`` fails it, for tasks that must not run twice.
        :param produce: whether people without the admin token may enqueue it at ``/delayq/produce``.
        :param produce_queues: queues that they may choose besides ``queue``.
        :param produce_priorities: priorities that they may choose besides ``priority``.
        :param every: the interval of a periodic task: seconds or ``timedelta``. It runs without
            arguments.
        :param cron: the cron line of a periodic task.
        :param timezone: the time zone of ``cron``: an IANA name, by default UTC.
        :raises ConfigurationError: an unknown option or a bad value.
        :raises TaskAlreadyRegisteredError: the name or an alias is in use.
        """
        if function is not None:
            return self._register(function, options)
        return lambda function: self._register(function, options)

    def _register(self, function: Callable[..., Any], options: dict[str, Any]) -> Task[..., Any]:
        declared = declare_task(options.pop("name", None) or default_name(function), **options)
        registered: Task[..., Any] = Task(function, declared, self._find_client)
        if declared.rule is not None and (missing := registered.required_parameters()):
            raise ConfigurationError(
                f"task {declared.name!r} is periodic, so all its parameters need defaults; "
                f"these have none: {', '.join(missing)}"
            )
        self.tasks.add(registered)
        return registered

    # --- the app a call belongs to ---------------------------------------------------------------

    @property
    def state(self) -> AppState:
        """The ``AppState`` of the current app, or of the only app.

        :raises SetupError: there is no app, or several and none is current.
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
            raise SetupError("the app of this DelayQ was garbage-collected; keep a reference to the app")
        self._states = alive
        if len(self._states) == 1:
            return self.state
        raise SetupError(
            "this DelayQ serves several apps; call this inside `with app.app_context():` of one of them"
        )

    @property
    def client(self) -> Client:
        """The client of that app: it enqueues jobs and looks at them."""
        return self.state.client

    def _find_client(self) -> Client:
        return self.state.client

    # --- jobs ------------------------------------------------------------------------------------

    def enqueue(self, task: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Enqueue a call of a task by its name. Raises the errors of ``task.enqueue``.

        :param task: the name of a task, or one of its aliases.
        :raises TaskNotFoundError: no task of this name is registered here.
        :raises TypeError: something else than a name.
        """
        if not isinstance(task, str):
            name = getattr(task, "name", getattr(task, "__name__", "task"))
            remedy = "" if isinstance(task, Task) else "decorate it with @delayq.task, then "
            remedy += f"call {name}.enqueue(...)"
            raise TypeError(f"delayq.enqueue takes the name of a task, not {shown(task)}; {remedy}")
        return self.tasks.get(task).enqueue(*args, **kwargs)

    def get(self, job_id: str) -> Job[Any]:
        """The job of this id.

        :raises JobNotFoundError: there is no such job, or it was pruned.
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

        :param states: only jobs in these states, for example ``"failed"``; none given: all states.
        :param queue: only jobs of this queue.
        :param task: only jobs of the task of this name.
        :param before: only jobs after this job id in the list (the last id of the previous page).
        :param limit: maximum number of jobs.
        :raises JobNotFoundError: the job ``before`` does not exist, or was pruned.
        """
        wanted = tuple(JobState(state) for state in states)
        return self.client.select(JobQuery(wanted, queue, task, before, limit))

    def counts(self) -> dict[str, int]:
        """The number of jobs by state; all six states are keys."""
        client = self.client
        return client.inspect.counts(now=client.now())

    def pause(self, queue: str) -> None:
        """Begin no more jobs of a queue, in any process; running jobs go on.

        :param queue: the name of the queue.
        """
        self.client.pause(queue)

    def resume(self, queue: str) -> None:
        """Undo :meth:`pause`.

        :param queue: the name of the queue.
        """
        self.client.resume(queue)

    # --- running ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Run jobs in this process from now on, whatever kind of process it is. Idempotent.

        :raises RuntimeError: no threads can be started, or the main thread of the process has ended.
        """
        self.state.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop running jobs in this process: begin none, and let running jobs end. Idempotent and
        thread-safe.

        :param timeout: seconds that running jobs get, by default ``DELAYQ_DRAIN_TIMEOUT``. Jobs that do
            not end in time go on until the process ends; then they run again in another process.
        :returns: True if every job has ended and its outcome is stored.
        """
        return self.state.stop(timeout)

    def drain(self, limit: int | None = None) -> list[Outcome]:
        """Run all due jobs in this thread (for tests and scripts), also due jobs that these jobs
        enqueue.

        :param limit: maximum number of jobs.
        :returns: the outcome of each run.
        """
        return self.state.drain(limit)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until no job is ready or running in any process, and ``delayq.executor`` is idle. Does
        not wait for jobs that are due later.

        :param timeout: seconds, or ``None`` for no limit.
        :returns: False if the timeout was reached.
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
        """A ``concurrent.futures`` thread pool whose calls run in an app context, for closures that need
        not survive the process; made when first used."""
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
        """Register the function that decides who may use the admin pages: ``@delayq.admin_access``.

        :param function: called in the request context (so ``flask_login``'s ``current_user`` works) with
            the action: ``"read"``, ``"act"`` or ``"produce"``. Only ``True`` allows the action.
        """
        self._access = function
        return function


class TaskDecorator(Protocol):
    """What ``delayq.task(...)`` with options returns, for type checkers."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
