"""Everything that belongs to one app: its settings, backend and client, and its runtime while it runs.
Knows all lower layers; the extension, the commands and the admin pages reach them through it."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from flask import current_app
from msgspec import structs

from . import deployment_warnings, launch
from .at_exit import OVER, all_running, drain_at_exit, is_over
from .backends import ENGINE_SETTINGS, open_backend, options_for
from .backends.base import Backend
from .client import Client
from .clock import Clock
from .config import Mode, Settings, with_environment
from .context_executor import ContextExecutor
from .errors import BackendError, SetupError
from .job import Health, Outcome
from .once import once
from .runtime.drain import Drain
from .runtime.periodic import Periodic
from .runtime.supervisor import Supervisor
from .schedules import Schedules
from .task import TaskRegistry

if TYPE_CHECKING:
    from flask import Flask

_log = logging.getLogger(__name__)

KEY = "delayq"
STATE_KEY = "delayq.state"
"""The keys of ``app.extensions`` for the extension and for its :class:`AppState`."""

DRAIN_WEB = 5.0
"""Seconds that running jobs get when a web process stops; servers soon kill it."""

DRAIN_APACHE = 2.0
"""The same under mod_wsgi: Apache kills its processes three seconds after it told them to end."""

DRAIN_RELOADER = 1.0
"""The same in a development server with reloader, because a developer waits for it."""

DRAIN_WORKER = 25.0
"""The same in ``flask delayq worker``: less than the 30 s that orchestrators allow."""

_states: weakref.WeakSet[AppState] = weakref.WeakSet()


class AppState:
    """One app's share of an extension.

    Everything is lazy: settings are read when first needed, the first verb opens the store, and
    :meth:`start` starts the threads.

    :param access: returns the function that decides who may use the pages, or ``None``.
    """

    def __init__(
        self,
        *,
        app: Flask,
        registry: TaskRegistry,
        clock: Clock,
        access: Callable[[], Callable[[str], bool] | None],
    ) -> None:
        self._app = weakref.ref(app)
        self.name = app.import_name
        self.registry = registry
        self.clock = clock
        self._find_access = access
        self.supervisor: Supervisor | None = None
        self._earlier: list[Supervisor] = []
        """Stopped runtimes with a job that still runs."""
        self.declined: str | None = None
        """Why this process will not run jobs by itself, if this was decided."""
        self.lock = threading.RLock()
        """Held while one of the parts is made, and while a runtime starts or stops."""
        self._draining = threading.local()
        self._hint_given = self._remarked = False
        self._why_not_started: str | None = None
        _states.add(self)

    # --- what there is ---------------------------------------------------------------------------

    @property
    def app(self) -> Flask:
        """The application.

        :raises SetupError: it was garbage-collected.
        """
        app = self._app()
        if app is None:
            raise SetupError("the app of this DelayQ was garbage-collected; keep a reference to the app")
        return app

    @property
    def config(self) -> Mapping[str, Any]:
        """The app's configuration, plus ``FLASK_DELAYQ_...`` of the environment for keys that it does
        not have. With ``TESTING`` the environment is ignored: it may be that of a developer's shell."""
        app = self.app
        return app.config if app.testing else with_environment(app.config, os.environ)

    @once
    def settings(self) -> Settings:
        """The app's settings, read once.

        :raises ConfigurationError: one of them cannot be used.
        """
        app = self.app
        return Settings.read(
            self.config, folder=app.instance_path, testing=app.testing, engine_settings=ENGINE_SETTINGS
        )

    @once
    def backend(self) -> Backend:
        """The app's backend; the first verb opens its store."""
        settings = self.settings
        options = options_for(settings.url, settings.of_engines)
        backend = open_backend(settings.url, clock=self.clock, **options)
        if self.app.testing:
            deployment_warnings.doubt_store_of_tests(backend.url)
        return backend

    @once
    def client(self) -> Client:
        """The client: it enqueues jobs and looks at them."""
        app = self.app
        client = Client(
            backend=self.backend,
            registry=self.registry,
            settings=self.settings,
            clock=self.clock,
            sender=app,
        )
        client.after_enqueue = self._after_enqueue
        client.idle_hint = lambda: deployment_warnings.idle_hint(self.mode, app.testing)
        return client

    @once
    def _periodic(self) -> Periodic:
        return Periodic(self.backend, self.registry)

    @once
    def schedules(self) -> Schedules:
        """The app's schedules, to be changed at run time."""
        return Schedules(lambda: self.client)

    @property
    def access(self) -> Callable[[str], bool] | None:
        """The function that decides who may use the pages, registered by ``@delayq.admin_access``."""
        return self._find_access()

    @once
    def executor(self) -> ContextExecutor:
        """The thread pool for closures."""
        return ContextExecutor(self.app.app_context, self.settings.workers)

    @property
    def mode(self) -> Mode:
        """The effective mode: with ``TESTING``, ``auto`` becomes ``manual``."""
        app = self.app
        if app.testing and app.config.get("DELAYQ_MODE", "auto") == "auto":
            return "manual"
        return self.settings.mode

    @property
    def drain_timeout(self) -> float:
        """Seconds that running jobs get at a stop."""
        if self.settings.drain_timeout is not None:
            return self.settings.drain_timeout
        if deployment_warnings.is_under_mod_wsgi():
            return DRAIN_APACHE
        # Like werkzeug.serving.is_running_from_reloader, without importing a server into every app.
        return DRAIN_RELOADER if os.environ.get("WERKZEUG_RUN_MAIN") == "true" else DRAIN_WEB

    # --- running jobs ----------------------------------------------------------------------------

    def wants_to_start(self) -> bool:
        """Whether a process that is seen to serve should run jobs."""
        return self.mode == "auto"

    def start_serving(self, proof: str) -> None:
        """Run jobs, because this process serves; ``proof`` says how this was seen."""
        self.start(role=proof)
        _log.info("running jobs of %s in this process (%s)", self.name, proof)

    def decline(self, reason: str) -> None:
        """Log once that this process cannot run jobs by itself."""
        if self.declined is None:
            self.declined = reason
            _log.warning("no jobs of %s run in this process: %s", self.name, reason)

    def start(self, *, role: str = "start()", settings: Settings | None = None) -> Supervisor:
        """Run jobs in this process from now on; returns the runtime. Idempotent while it runs.

        :param role: what started it, for the process record.
        :param settings: used instead of the app's own (the worker command changes some).
        :raises RuntimeError: the threads cannot be started, or the main thread has ended; nothing of the
            runtime is left.
        """
        with self.lock:
            if self.supervisor is not None and self.supervisor.is_running:
                return self.supervisor
            launch.disarm(self)  # the check whether this process serves is no longer needed
            app = self.app
            client = self.client
            runtime = Supervisor(
                backend=self.backend,
                registry=self.registry,
                settings=settings or self.settings,
                clock=self.clock,
                scope=app.app_context,
                sender=app,
                on_recorded=client.announce_end,
                role=role,
                on_end=lambda: self._ended(runtime),
                name=self.name,
            )
            if self.supervisor is not None and not self.supervisor.has_ended:
                self._earlier.append(self.supervisor)
            self.supervisor = runtime
            try:
                drain_at_exit(self)
                runtime.start()
            except BaseException as error:
                self._why_not_started = f"{type(error).__name__}: {error}"
                runtime.stop(0.0)  # also if it was started, because nothing refers to it
                raise
            client.runner = runtime.dispatcher
            client.after_enqueue = None
            self._tell_of_surroundings()
            self._why_not_started, self._hint_given = None, True  # who runs jobs needs no hint on that
            return runtime

    def _tell_of_surroundings(self) -> None:
        url = self.backend.url
        if not self._remarked:
            self._remarked = True
            for remark in deployment_warnings.remarks(url):
                _log.warning("the jobs of %s %s", self.name, remark)
        beside = [one for one in all_running() if one is not self and one.runs_jobs_of(url)]
        if beside and not url.startswith("memory:"):
            _log.warning(
                "%d app objects of this process run the jobs of %s, each with its own DELAYQ_WORKERS "
                "threads; if that is too many, create one app or set DELAYQ_MODE=external in the others",
                len(beside) + 1,
                url,
            )

    def runs_jobs_of(self, url: str) -> bool:
        supervisor = self.supervisor
        if supervisor is None or not supervisor.is_running:
            return False
        return bool(self.__dict__["backend"].url == url)  # exists; the property would take a lock

    def begin_no_more(self) -> None:
        """Begin no more jobs; running jobs go on. Call :meth:`stop` afterwards."""
        supervisor = self.supervisor
        if supervisor is not None:
            self.client.runner = None
            supervisor.begin_no_more()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop running jobs; see :meth:`Supervisor.stop`. True if every job has ended and its outcome is
        stored.

        :param timeout: seconds that running jobs get; by default ``DELAYQ_DRAIN_TIMEOUT``.
        """
        with self.lock:
            runtimes = [one for one in (self.supervisor, *self._earlier) if one is not None]
            if not runtimes:
                return True
            self.client.runner = None
            self.client.after_enqueue = self._after_enqueue
        now = self.clock.monotonic
        end = now() + (self.drain_timeout if timeout is None else timeout)
        return all([one.stop(max(0.0, end - now())) for one in runtimes])

    def _ended(self, runtime: Supervisor) -> None:
        """Called when a runtime has ended: at a stop, or later when its last job has ended."""
        with self.lock:
            self._earlier = [earlier for earlier in self._earlier if earlier is not runtime]
            if self.supervisor is runtime:
                self.supervisor = None
                if is_over():  # other threads may serve on, and nothing runs their jobs
                    self._why_not_started, self._hint_given = OVER, False
            if self.supervisor is not None or self._earlier:
                return  # another runtime has jobs and needs the store
        self.backend.close()

    def drain(self, limit: int | None = None) -> list[Outcome]:
        """Run all due jobs in this thread; see :meth:`~flask_delayq.runtime.drain.Drain.run`.

        Occurrences of schedules that are due are enqueued first.
        """
        app = self.app
        drain = Drain(
            backend=self.backend,
            registry=self.registry,
            settings=self.settings,
            clock=self.clock,
            scope=app.app_context,
            sender=app,
            on_recorded=self.client.announce_end,
            name=self.name,
            threads=launch.reason_against_threads() is None,
        )
        now = self.clock.now()
        self._periodic.declare(now)
        self._periodic.fire_due(now, drain.signal_sender.tell)
        outer = getattr(self._draining, "active", False)
        self._draining.active = True
        try:
            return drain.run(limit)
        finally:
            self._draining.active = outer

    def _after_enqueue(self, stored: bool) -> None:
        if self.client.runner is not None:
            return
        mode = self.mode
        if mode == "inline":
            # If a job of a drain enqueues another job, that drain runs it.
            if not getattr(self._draining, "active", False):
                self._run_inline()
        elif stored and mode in ("auto", "external") and not self._hint_given:
            self._hint_given = True
            self._tell_if_unattended()

    def _run_inline(self) -> None:
        try:
            self.drain()
        except BackendError as error:  # the enqueued job is stored, so its caller gets no error
            _log.error("a job was stored, but could not be run inline: %s", error)

    def _tell_if_unattended(self) -> None:
        try:
            attended = any(process.alive for process in self.backend.processes())
        except BackendError:
            return
        if not attended:
            url = self.backend.url
            advice = deployment_warnings.how_to_run_jobs(self.mode, url)
            _log.warning("a job was stored, but no process runs the jobs of %s now: %s", url, advice)

    def health(self, *, probe: bool = True) -> Health:
        """Whether jobs can be stored and, if jobs run here, whether they progress; ``probe`` as in
        ``Backend.health``."""
        health = self.backend.health(probe=probe)
        supervisor = self.supervisor
        troubles = supervisor.troubles() if supervisor is not None and supervisor.is_running else []
        if supervisor is None and self._why_not_started is not None:
            troubles = [f"this process cannot run jobs: {self._why_not_started}"]
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
        """Forget the runtime after a fork, in the child: its threads are in the parent."""
        self.lock = threading.RLock()
        self._draining = threading.local()
        self.supervisor = None
        self._earlier = []
        self.__dict__.pop("executor", None)
        if "client" in self.__dict__:
            self.client.forget_threads()
            self.client.after_enqueue = self._after_enqueue


def current_state() -> AppState:
    """The ``AppState`` of the current app."""
    return cast(AppState, current_app.extensions[STATE_KEY])


# --- process-wide hooks ----------------------------------------------------------------------------


def _forget_runtimes() -> None:
    for state in list(_states):
        state.forget_runtime()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_runtimes)
