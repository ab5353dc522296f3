"""Owns every thread of one runtime: starts them, watches that they progress, stops them in order.
Knows the other parts of this room; knows no Flask and no concrete backend."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..backends.base import Backend, Doorbell
from ..clock import Clock
from ..config import Settings
from ..errors import BackendError
from ..job import Outcome, ProcessRecord, Verb
from ..serializer import encode
from ..task import TaskRegistry
from .claims import Held, HeldClaims
from .dispatcher import Dispatcher
from .executor import Executor
from .loop import Loop
from .maintenance import Maintenance
from .pool import WorkerPool
from .recorder import Recorder
from .renewer import Renewer

_log = logging.getLogger(__name__)

TIDYING = 1.2
"""Seconds after the drain for writing outcomes and ending threads; with the half second of retiring a
stop takes less than two beyond its deadline."""

RECENT = 1000
"""Jobs of which the lateness is kept."""

STALLED_AFTER = 30.0
"""Seconds without a finished turn after which a loop that should turn counts as stalled."""


class Supervisor:
    """One runtime: from its start to its end in one process, under one random owner id.

    :param scope: makes the context in which each job runs.
    :param sender: the sender of signals.
    :param on_recorded: called with the ids of jobs whose outcome was written.
    :param role: how this process came to run jobs, for its record.
    :param on_end: called when everything has ended, in whichever thread that happens.
    """

    def __init__(
        self,
        backend: Backend,
        registry: TaskRegistry,
        settings: Settings,
        clock: Clock,
        scope: Callable[[], AbstractContextManager[Any]],
        sender: object,
        on_recorded: Callable[[Iterable[str]], None],
        role: str,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.owner = secrets.token_hex(8)
        self.role = role
        self.settings = settings
        self._backend = backend
        self._clock = clock
        self._started_at = clock.now()
        self._late: deque[float] = deque(maxlen=RECENT)
        self._freshness = settings.lease / 6
        self.claims = HeldClaims()
        self._executor = Executor(registry, backend, settings, clock, scope, sender)
        self._on_recorded = on_recorded
        self._on_end = on_end
        self.pool: WorkerPool[Held] = WorkerPool(settings.workers, self._work, self._wake, "delayq")
        self.recorder = Recorder(
            backend, clock, self.claims, self._recorded, lambda: self._recording.wake()
        )
        self.dispatcher = Dispatcher(
            backend,
            settings,
            clock,
            self.owner,
            self.claims,
            self.pool,
            self.recorder,
            self._wake,
        )
        self._maintenance = Maintenance(
            backend,
            registry,
            settings,
            clock,
            sender,
            self.describe,
            self._ready,
            self.dispatcher.ring,
        )
        renewer = Renewer(backend, self.owner, settings.lease, self.claims, self.dispatcher.ring)
        self._dispatching = Loop("dispatcher", self.dispatcher.turn, clock)
        self._recording = Loop("recorder", self.recorder.turn, clock)
        self._maintaining = Loop("maintenance", self._maintain, clock)
        self._renewing = Loop("renewer", renewer.turn, clock)
        self.loops = (self._dispatching, self._recording, self._maintaining, self._renewing)
        self._threads: dict[str, threading.Thread] = {}
        self._doorbell: Doorbell | None = None
        self._state_lock = threading.Lock()
        self._state = "new"  # -> "running" -> "stopping" -> "stopped"
        self._retired = False
        self._done = threading.Event()

    def _wake(self) -> None:
        self._dispatching.wake()

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads. Opens no store in the caller's thread. Idempotent; after :meth:`stop` it
        does nothing."""
        with self._state_lock:
            if self._state != "new":
                return
            self._state = "running"
            self.pool.start()
            threads = [self._make_thread(loop.name, loop.run) for loop in self.loops]
            for thread in threads:  # all are known before the first one runs
                thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it was started and not yet told to stop."""
        return self._state == "running"

    def stop(self, timeout: float) -> bool:
        """Stop: claim nothing more, give back what has not begun, let running jobs end.

        At the deadline unfinished jobs are marked as interrupted: they are claimable, uncharged, as soon
        as this process is gone. Until then their claims are kept alive, so that none runs twice at
        the same time. Idempotent and thread-safe: a second call waits for the same end, its own
        timeout at most.

        :param timeout: seconds that running jobs get.
        :returns: True if every job had ended.
        """
        with self._state_lock:
            before, self._state = self._state, "stopping"
            if before == "new":
                self._state = "stopped"
                self._done.set()
            elif before == "stopped":
                self._state = before
        if before == "running":
            self._stop(timeout)
        else:
            self._done.wait(timeout + 2.0)
        return not self.claims.running

    def _stop(self, timeout: float) -> None:
        deadline = self._clock.monotonic() + timeout
        end = deadline + TIDYING
        self.dispatcher.open = False
        # Order: no new claims, then nothing unstarted, then the running ones, then their outcomes.
        self.dispatcher.release(self.claims.withdraw(float("inf")))
        self.pool.stop()
        self._dispatching.stop()
        self._maintaining.stop()
        if self._doorbell is not None:
            self._doorbell.close()
        self.pool.join(lambda: deadline - self._clock.monotonic())
        if self.claims.running:
            self._interrupt()
        self._join("doorbell", "dispatcher", "maintenance", until=end)
        # The dispatcher may have been claiming while we withdrew.
        self.dispatcher.release(self.claims.withdraw(float("inf")))
        self.recorder.await_empty(end - self._clock.monotonic())
        self._state = "stopped"
        self._retire_if_idle()
        self._done.set()

    def _interrupt(self) -> None:
        running = list(self.claims.running.values())
        names = ", ".join(f"{run.id} ({run.task})" for run in running[:5])
        _log.warning("%d jobs still run at the end of the drain: %s", len(running), names)
        now = self._clock.now()
        self.recorder.add_all([Outcome(run.claim, Verb.INTERRUPT, now) for run in running])

    def _retire_if_idle(self) -> None:
        """When the last job has ended and its end is written, be it long after the drain: stop the loops
        that kept its claim alive, and take back the sign of life."""
        with self._state_lock:
            if self._retired or self._state != "stopped" or self.claims.running or self.recorder.backlog:
                return
            self._retired = True
        self._recording.stop()
        self._renewing.stop()
        end = self._clock.monotonic() + 0.5
        self.pool.join(lambda: end - self._clock.monotonic())
        self._join("recorder", "renewer", until=end)
        try:
            self._backend.withdraw(self.owner)
        except BackendError as error:
            _log.info("the record of this process is left for others to remove: %s", error)
        self._on_end()

    def _join(self, *names: str, until: float) -> None:
        for name in names:
            thread = self._threads.get(name)
            if thread is None or thread.ident is None:
                continue  # not begun yet; it will find that there is nothing to do
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - self._clock.monotonic()))

    # --- the turns that are ours -----------------------------------------------------------------

    def _maintain(self, now: float) -> float:
        self.pool.replace_dead()
        for loop in self.loops:
            thread = self._threads[loop.name]
            began = thread.ident is not None
            if began and not thread.is_alive() and self.is_running:
                _log.error("the thread of the %s died and is replaced", loop.name)
                self._make_thread(loop.name, loop.run).start()
        return self._maintenance.turn(now)

    def _ready(self) -> None:
        doorbell = self._backend.open_doorbell(self.owner)
        with self._state_lock:
            running = self.is_running
            if running:
                self._doorbell = doorbell
                self.dispatcher.open = True
        if doorbell is not None and running:
            self._make_thread("doorbell", self._listen).start()
        elif doorbell is not None:
            doorbell.close()  # stopped meanwhile, and nobody else knows of it
        self.dispatcher.ring()

    def _listen(self) -> None:
        doorbell = self._doorbell
        assert doorbell is not None
        while self.is_running:
            if doorbell.wait(None):
                self.dispatcher.ring()

    def _work(self, held: Held) -> None:
        claim = held.claim
        began = self._clock.monotonic()
        # An older one may have been taken for an orphan at a renewal, and be somebody else's by now.
        if not self.claims.begin(held, began - self._freshness):
            return  # withdrawn, or to be withdrawn; its place is freed there
        ident = threading.get_ident()
        run = self._executor.start(claim)
        self.claims.running[ident] = run
        if claim.claim_no == 1:  # a later claim is late for reasons of the job's own
            self._late.append(run.started_at - claim.run_at)
        try:
            outcome = self._executor.execute(run, held.values)
        except BaseException:  # a thread's top; the executor promised not to raise
            _log.exception("job %s (%s): its run could not be ended", claim.id, claim.task)
            self.claims.drop(claim)  # held by nobody now: the renewer gives it back
        else:
            self.recorder.add(outcome)
        finally:
            del self.claims.running[ident]
            self.pool.finished(self._clock.monotonic() - began)

    def _recorded(self, outcomes: Sequence[Outcome]) -> None:
        again = [(o.claim.id, o.run_at) for o in outcomes if o.run_at is not None]
        if again:
            self.dispatcher.expect(again)
        if any(outcome.claim.rescues for outcome in outcomes):
            self.dispatcher.ring()  # rescued jobs run one at a time: now the next one may
        self._on_recorded(outcome.claim.id for outcome in outcomes)
        if self._state == "stopped":
            self._retire_if_idle()

    def _make_thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"delayq-{name}", daemon=True)
        self._threads[name] = thread
        return thread

    # --- for people ----------------------------------------------------------------------------

    def roles(self) -> dict[int, str]:
        """What each thread of this runtime is, by ident: ``"worker"`` or the loop's name."""
        roles = {thread.ident: name for name, thread in self._threads.items()}
        roles.update((thread.ident, "worker") for thread in self.pool.threads)
        return {ident: role for ident, role in roles.items() if ident is not None}

    def describe(self) -> ProcessRecord:
        """The record of this process as of now."""
        p50, p99 = percentiles(self._late)
        info = {
            "role": self.role,
            "workers": self.settings.workers,
            "busy": len(self.claims.running),
            "queues": self.settings.queues,
            "lateness_p50": p50,
            "lateness_p99": p99,
            "python": platform.python_version(),
        }
        return ProcessRecord(
            owner=self.owner,
            pid=os.getpid(),
            host=platform.node(),
            started_at=self._started_at,
            seen_at=self._clock.now(),
            info=encode(info),
        )

    def troubles(self) -> list[str]:
        """Why this runtime does not progress, in words; empty while it does."""
        troubles: list[str] = []
        now = self._clock.monotonic()
        for loop in self.loops:
            if loop.failing:
                troubles.append(f"{loop.name} fails: {loop.failing}")
            elif loop is not self._recording and loop is not self._renewing:
                if now - loop.turned_at > STALLED_AFTER:
                    troubles.append(f"{loop.name} has not turned for {now - loop.turned_at:.0f} s")
        if self.recorder.is_full:
            troubles.append(f"{self.recorder.backlog} outcomes wait to be recorded")
        return troubles


def percentiles(values: Iterable[float]) -> tuple[float, float]:
    """The 50th and the 99th of what workers note meanwhile; zeros without any."""
    ordered = sorted(tuple(values))  # a copy in one step, since workers go on
    if not ordered:
        return 0.0, 0.0
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
