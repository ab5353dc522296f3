"""Everything that belongs to one app: its settings, backend and client, and the runtime while one runs.
Knows all the rooms below; the extension, the commands and the admin pages reach them through here."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from msgspec import structs

from . import launch
from .backends import open_backend
from .backends.base import Backend
from .background import ContextExecutor
from .client import Client
from .clock import Clock
from .config import Mode, Settings
from .errors import BackendError, SetupError
from .job import Health, Outcome
from .runtime.drain import Drain
from .runtime.maintenance import declare_schedules, fire_due
from .runtime.supervisor import Supervisor
from .surroundings import is_under_mod_wsgi, remarks
from .task import TaskRegistry

if TYPE_CHECKING:
    from flask import Flask

_log = logging.getLogger(__name__)

DRAIN_WEB = 5.0
"""Seconds that running jobs get when a web process stops; servers kill soon after."""

DRAIN_APACHE = 2.0
"""The same under mod_wsgi: Apache kills its processes three seconds after it told them to end."""

DRAIN_RELOADER = 1.0
"""The same in a development server that reloads: a developer waits for it."""

DRAIN_WORKER = 25.0
"""The same in ``flask delayq worker``, below the 30 s that orchestrators grant."""

T = TypeVar("T")

_states: weakref.WeakSet[AppState] = weakref.WeakSet()


class once(Generic[T]):  # noqa: N801  # used like `property`
    """A property of an :class:`AppState` that is made at its first use and kept in its ``__dict__``.

    The first requests and the launch come at once, in many threads: what is made is the same for all of
    them. ``functools.cached_property`` has no lock since Python 3.12, and before that one lock for all
    states, which a fork can leave locked for ever; the state's own lock is made anew in a child.
    """

    def __init__(self, make: Callable[[AppState], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, state: None, owner: type[AppState]) -> once[T]: ...

    @overload
    def __get__(self, state: AppState, owner: type[AppState]) -> T: ...

    def __get__(self, state: AppState | None, owner: type[AppState]) -> once[T] | T:
        if state is None:
            return self
        with state._lock:
            kept = state.__dict__
            if self._name not in kept:
                # A signal handler may have made it meanwhile, in this very thread: then its own stays.
                kept.setdefault(self._name, self._make(state))
            value: T = kept[self._name]
            return value


class AppState:
    """One app's share of an extension.

    Nothing is opened or read before it is asked for: settings when they are first needed, the store at
    the first verb, threads by :meth:`start`.
    """

    def __init__(self, app: Flask, registry: TaskRegistry, clock: Clock) -> None:
        self._app = weakref.ref(app)
        self.name = app.import_name
        self.registry = registry
        self.clock = clock
        self.supervisor: Supervisor | None = None
        self.declined: str | None = None
        """Why this process will not run jobs by itself, if it has been decided."""
        self._lock = threading.RLock()
        """Held while one of the parts is made, and while jobs begin or cease to run here."""
        self._draining = threading.local()
        self._unusable: set[str] = set()
        self._told = False
        self._why_not_started: str | None = None
        _states.add(self)

    # --- what there is ---------------------------------------------------------------------------

    @property
    def app(self) -> Flask:
        """The application.

        :raises SetupError: it is gone.
        """
        app = self._app()
        if app is None:
            raise SetupError("the application of this DelayQ state is gone")
        return app

    @once
    def settings(self) -> Settings:
        """The app's settings, read once.

        :raises ConfigurationError: one of them cannot be used.
        """
        app = self.app
        return Settings.read(app.config, folder=app.instance_path, testing=bool(app.testing))

    @once
    def backend(self) -> Backend:
        """The app's backend; its store is opened by the first verb."""
        settings = self.settings
        options = {}
        if settings.url.startswith("sqlite:"):
            options["synchronous"] = settings.sqlite_synchronous
        return open_backend(settings.url, clock=self.clock, **options)

    @once
    def client(self) -> Client:
        """The producing side."""
        app = self.app
        client = Client(self.backend, self.registry, self.settings, self.clock, app)
        client.after_enqueue = self._after_enqueue
        return client

    @once
    def executor(self) -> ContextExecutor:
        """The thread pool for closures."""
        return ContextExecutor(self.app.app_context, self.settings.workers)

    @property
    def mode(self) -> Mode:
        """What is in force now: ``TESTING`` turns ``auto`` into ``manual``."""
        app = self.app
        if app.testing and app.config.get("DELAYQ_MODE", "auto") == "auto":
            return "manual"
        return self.settings.mode

    @property
    def drain_timeout(self) -> float:
        """Seconds that running jobs get at a stop."""
        if self.settings.drain_timeout is not None:
            return self.settings.drain_timeout
        if is_under_mod_wsgi():
            return DRAIN_APACHE
        # As werkzeug.serving.is_running_from_reloader does, without importing a server into every app.
        return DRAIN_RELOADER if os.environ.get("WERKZEUG_RUN_MAIN") == "true" else DRAIN_WEB

    # --- running jobs ----------------------------------------------------------------------------

    def wants_to_start(self) -> bool:
        """Whether a process that is seen to serve should run jobs."""
        return self.mode == "auto"

    def start_serving(self, proof: str) -> None:
        """This process serves: run jobs in it."""
        self.start(role=proof)
        _log.info("running jobs of %s in this process (%s)", self.name, proof)

    def decline(self, reason: str) -> None:
        """This process cannot run jobs by itself; say so once."""
        if self.declined is None:
            self.declined = reason
            _log.warning("no jobs of %s run in this process: %s", self.name, reason)

    def start(self, *, role: str = "start()", settings: Settings | None = None) -> Supervisor:
        """Run jobs in this process from now on; returns the runtime. Idempotent while it runs.

        :param role: how it came to this, for the process record.
        :param settings: instead of the app's own (the worker command changes some).
        :raises RuntimeError: the threads cannot be had; nothing of the runtime is left.
        """
        with self._lock:
            if self.supervisor is not None and self.supervisor.is_running:
                return self.supervisor
            launch.disarm(self)  # it need not be watched for any more
            app = self.app
            client = self.client
            runtime = Supervisor(
                self.backend,
                self.registry,
                settings or self.settings,
                self.clock,
                app.app_context,
                app,
                client.announce_end,
                role,
                lambda: self._ended(runtime),
                self.name,
            )
            self.supervisor = runtime
            _drain_at_exit()
            try:
                runtime.start()
            except BaseException as error:
                self.supervisor = None
                self._why_not_started = f"{type(error).__name__}: {error}"
                raise
            self._why_not_started = None
            client.runner = runtime.dispatcher
            client.after_enqueue = None
            self._tell_of_surroundings()
            self._told = True  # who ran jobs and stopped needs no word on how to run them
            return runtime

    def _tell_of_surroundings(self) -> None:
        url = self.backend.url
        for remark in remarks(url):
            _log.warning("the jobs of %s %s", self.name, remark)
        beside = [state for state in list(_states) if state is not self and state._runs_jobs_of(url)]
        if beside and not url.startswith("memory:"):
            _log.warning(
                "%d app objects of this process run the jobs of %s, each with DELAYQ_WORKERS threads "
                "of its own; if that is too many, make one app or set DELAYQ_MODE=external in others",
                len(beside) + 1,
                url,
            )

    def _runs_jobs_of(self, url: str) -> bool:
        supervisor = self.supervisor
        if supervisor is None or not supervisor.is_running:
            return False
        return bool(self.__dict__["backend"].url == url)  # made by now; asked for, it would take a lock

    def stop(self, timeout: float | None = None) -> bool:
        """Stop running jobs; see :meth:`Supervisor.stop`. True if every job had ended and the
        store has how.

        :param timeout: seconds that running jobs get; by default ``DELAYQ_DRAIN_TIMEOUT``.
        """
        with self._lock:
            supervisor = self.supervisor
            if supervisor is None:
                return True
            self.client.runner = None
            self.client.after_enqueue = self._after_enqueue
        return supervisor.stop(self.drain_timeout if timeout is None else timeout)

    def _ended(self, runtime: Supervisor) -> None:
        """A runtime has come to its end, at a stop or when its last job ended long after."""
        with self._lock:
            if self.supervisor is not runtime:
                return  # another one was started meanwhile
            self.supervisor = None
        self.backend.close()

    def drain(self, limit: int | None = None) -> list[Outcome]:
        """Run everything that is due in this thread; see :meth:`~flask_delayq.runtime.drain.Drain.run`.

        Schedules that are due enqueue their occurrence first.
        """
        app = self.app
        drain = Drain(
            self.backend,
            self.registry,
            self.settings,
            self.clock,
            app.app_context,
            app,
            self.client.announce_end,
            self.name,
            threads=launch.reason_against_threads() is None,
        )
        now = self.clock.now()
        declare_schedules(self.backend, self.registry, now)
        fire_due(self.backend, self.registry, now, drain.teller.tell, self._unusable)
        self._draining.active = True
        try:
            return drain.run(limit)
        finally:
            self._draining.active = False

    def _after_enqueue(self) -> None:
        if self.client.runner is not None:
            return
        mode = self.mode
        if mode == "inline":
            # A job that enqueues another inside a drain leaves it to that drain.
            if not getattr(self._draining, "active", False):
                self._run_inline()
        elif mode == "auto" and not self._told:
            self._told = True
            self._tell_if_unattended()

    def _run_inline(self) -> None:
        try:
            self.drain()
        except BackendError as error:  # what was to be enqueued is stored, so its caller gets no error
            _log.error("a job was stored, but could not be run inline: %s", error)

    def _tell_if_unattended(self) -> None:
        try:
            attended = any(process.alive for process in self.backend.processes())
        except BackendError:
            return
        if not attended:
            _log.warning(
                "a job was stored, but no process runs the jobs of %s now: start the server or "
                "`flask delayq worker`, or say delayq.start() or DELAYQ_MODE=thread to run them here",
                self.backend.url,
            )

    def health(self, *, probe: bool = True) -> Health:
        """Whether jobs can be stored and, where they run here, progress; ``probe`` as in
        ``Backend.health``."""
        health = self.backend.health(probe=probe)
        supervisor = self.supervisor
        troubles = supervisor.troubles() if supervisor is not None and supervisor.is_running else []
        if supervisor is None and self._why_not_started is not None:
            troubles = [f"jobs cannot be run in this process: {self._why_not_started}"]
        if troubles and health.ok:
            return structs.replace(health, ok=False, reason="; ".join(troubles))
        return health

    def close(self) -> None:
        """Stop without waiting and close the store."""
        self.stop(0.0)
        if "executor" in self.__dict__:
            self.executor.shutdown(wait=False, cancel_futures=True)
        if "backend" in self.__dict__:
            self.backend.close()

    def forget_runtime(self) -> None:
        """After a fork, in the child: the threads stayed with the parent."""
        self._lock = threading.RLock()
        self._draining = threading.local()
        self.supervisor = None
        self.__dict__.pop("executor", None)
        if "client" in self.__dict__:
            self.client.forget_threads()


# --- process-wide hooks ----------------------------------------------------------------------------


def _forget_runtimes() -> None:
    for state in list(_states):
        state.forget_runtime()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_runtimes)

_exit_hook_lock = threading.Lock()
_exit_hook_set = False


def _drain_at_exit() -> None:
    """Arrange for the drain before the interpreter refuses new threads: jobs that use thread pools or
    asyncio keep working meanwhile. ``atexit`` would be too late for them."""
    global _exit_hook_set
    with _exit_hook_lock:
        if _exit_hook_set:
            return
        _exit_hook_set = True
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_stop_all)
    except RuntimeError:  # the interpreter is shutting down already
        _stop_all()


def _stop_all() -> None:
    """Stop every runtime of this process; together they get as long as the most patient one."""
    running = [state for state in list(_states) if state.supervisor is not None]
    if not running:
        return
    clock = running[0].clock
    deadline = clock.monotonic() + max(state.drain_timeout for state in running)
    for state in running:
        state.client.runner = None  # no job begins in the second app while the first one drains
    for state in running:
        state.stop(max(0.0, deadline - clock.monotonic()))
