"""Owns all threads of one runtime: starts them, checks that they progress, stops them in order.
Knows the other parts of this room; knows no Flask and no concrete backend.

A runtime goes through these states, forward only, and every step is one call of ``_move``. If an
exception (Ctrl-C) interrupts a step, the step can be repeated, and the next stop() repeats it:

    state     what goes on                              who moves it on
    --------  ----------------------------------------  -----------------------------------------------
    new       nothing                                   start() -> running; stop() -> ended
    running   claims are made, jobs begin               begin_no_more(), stop() or a start() that fails
                                                        -> closing
    closing   nothing is claimed and nothing begins;    stop() -> stopping, one thread at a time
              jobs under way go on
    stopping  the same, until the deadline              the same, or whoever repeats it -> stopped
    stopped   what outlived the deadline goes on, its   stop(), a worker, the recorder or the signals,
              claim kept alive                          whichever finds everything done -> ended
    ended     nothing: the owner has withdrawn          nobody
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..backends.base import Backend, Doorbell
from ..clock import Clock
from ..config import Settings
from ..errors import BackendError
from ..job import Outcome, ProcessRecord, Verb
from ..task import TaskRegistry
from .dispatcher import Dispatcher
from .executor import Executor
from .foreign_tasks import ForeignTasks
from .held import HeldClaims
from .identity import WORKER, describe
from .loop import Loop
from .loop_threads import LoopThreads
from .maintenance import Maintenance
from .near_future import SAFETY
from .recorder import Recorder
from .renewer import Renewer
from .signal_sender import SignalSender
from .troubles import troubles
from .workers import Workers

_log = logging.getLogger(__name__)

TIDYING = 1.2
"""Seconds after the drain for writing outcomes and ending threads; with the half second of retiring a
stop takes two or so beyond its deadline, and a little more while others keep the store locked."""


class Supervisor:
    """One runtime: from its start to its end in one process, under one random owner id.

    :param scope: makes the context in which each job runs.
    :param sender: the sender of signals.
    :param on_recorded: called with the ids of jobs whose outcome was written; returns whether a caller
        waited for one of them.
    :param role: what started this runtime, for the process record.
    :param on_end: called when everything has ended, in the thread that ended last.
    :param name: the app's name, for its record.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        registry: TaskRegistry,
        settings: Settings,
        clock: Clock,
        scope: Callable[[], AbstractContextManager[Any]],
        sender: object,
        on_recorded: Callable[[Iterable[str]], bool],
        role: str,
        on_end: Callable[[], None] = lambda: None,
        name: str = "",
    ) -> None:
        self.owner = secrets.token_hex(8)
        self.role, self._name, self._registry = role, name, registry
        self.settings, self._backend, self._clock = settings, backend, clock
        self._started_at = clock.now()
        self._on_recorded, self._on_end = on_recorded, on_end
        self._state = "new"
        self._lock = threading.RLock()
        self._stops: Any = threading.RLock()  # reentrant: a signal handler may call stop() during a stop
        self._make_parts(scope, sender)
        self._doorbell: Doorbell | None = None
        self._dispatching = Loop("dispatcher", self._dispatch, clock)
        self._recording = Loop("recorder", self._record, clock)
        self._maintaining = Loop("maintenance", self._maintain, clock)
        pause = self._renewer.longest_pause
        self._renewing = Loop("renewer", self._renewer.turn, clock, longest_pause=pause)
        self._telling = Loop("signals", self.signal_sender.turn, clock)
        self._listening = Loop("doorbell", self._listen, clock)  # begins once there is one
        self._threads = LoopThreads(clock)

    def _make_parts(self, scope: Callable[[], AbstractContextManager[Any]], sender: object) -> None:
        self.claims = HeldClaims()
        self.signal_sender = SignalSender(
            backend=self._backend,
            sender=sender,
            scope=scope,
            clock=self._clock,
            wake=lambda: self._telling.wake(),
            on_quiet=self._retire_if_done,
        )
        self.recorder = Recorder(
            backend=self._backend,
            clock=self._clock,
            claims=self.claims,
            on_recorded=self._recorded,
            wake=lambda: self._recording.wake(),
            tell=self.signal_sender.tell_end,
        )
        executor = Executor(
            registry=self._registry,
            backend=self._backend,
            settings=self.settings,
            clock=self._clock,
            scope=scope,
            sender=sender,
            # A web process has lines of its own.
            life=logging.INFO if self.role == WORKER else logging.DEBUG,
        )
        self._workers = Workers(
            size=self.settings.workers,
            executor=executor,
            claims=self.claims,
            recorder=self.recorder,
            clock=self._clock,
            freshness=self.settings.lease / 6,
            on_free=lambda: self._dispatching.wake(),
        )
        self.pool = self._workers.pool
        self.dispatcher = Dispatcher(
            backend=self._backend,
            settings=self.settings,
            clock=self._clock,
            owner=self.owner,
            claims=self.claims,
            pool=self.pool,
            recorder=self.recorder,
            wake=lambda: self._dispatching.wake(),
            foreign_tasks=executor.foreign_tasks,
        )
        self._renewer = Renewer(
            backend=self._backend,
            clock=self._clock,
            owner=self.owner,
            lease=self.settings.lease,
            claims=self.claims,
            on_waiting=self.dispatcher.ring,
        )
        self._maintenance = self._make_maintenance(executor.foreign_tasks)

    def _make_maintenance(self, foreign_tasks: ForeignTasks) -> Maintenance:
        return Maintenance(
            backend=self._backend,
            registry=self._registry,
            settings=self.settings,
            clock=self._clock,
            foreign_tasks=foreign_tasks,
            tell=self.signal_sender.tell,
            owner=self.owner,
            judges_as_of=self._renewer.judges_as_of,
            describe=self.describe,
            on_ready=self._ready,
            on_waiting=self.dispatcher.ring,
        )

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Every loop that turns from the start."""
        return (self._dispatching, self._recording, self._maintaining, self._renewing, self._telling)

    def _move(self, to: str, *allowed: str) -> bool:
        """Go to a state from one of the allowed ones; False, without a change, from any other."""
        with self._lock:
            if self._state not in allowed:
                return False
            self._state = to
            return True

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads. Does not open the store in the caller's thread. Idempotent; after
        :meth:`stop` it does nothing.

        :raises RuntimeError: a thread cannot be started; the others have been stopped again.
        """
        if not self._move("running", "new"):
            return
        try:
            self.pool.start()
            self._threads.start(*self.loops)
        except BaseException:
            self.stop(0.0)
            raise

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither :meth:`stop` nor :meth:`begin_no_more` was called."""
        return self._state == "running"

    @property
    def has_ended(self) -> bool:
        """Whether everything has ended, and the owner has withdrawn."""
        return self._state == "ended"

    @property
    def _is_busy(self) -> bool:
        return bool(self.claims.working or self.recorder.backlog)

    @property
    def is_idle(self) -> bool:
        """Whether this runtime holds no job: none waits, runs or has an unwritten outcome."""
        return self.claims.is_idle

    def begin_no_more(self) -> None:
        """Claim nothing more, permanently, and release claims that have not begun. Running jobs go
        on."""
        self._move("closing", "running")
        if self._state not in ("closing", "stopping"):
            return
        self.dispatcher.accepting = False
        self._backend.end_claims(self.owner)
        self.claims.close()
        self._give_back()

    def stop(self, timeout: float) -> bool:
        """Stop: claim nothing more, release claims that have not begun, let running jobs end.

        At the deadline unfinished jobs are marked as interrupted: they are claimable, uncharged, when
        this process has ended. Until then their claims are renewed, so that no job runs twice at
        the same time. Idempotent and thread-safe: a concurrent call waits for the same end, at most its
        own timeout; a later call gives unfinished jobs no more time.

        :param timeout: seconds that running jobs get.
        :returns: True if every job has ended and its outcome is stored.
        """
        deadline = self._clock.monotonic() + timeout
        if self._move("ended", "new"):
            self._on_end()
        self.begin_no_more()
        try:
            if self._stops.acquire(timeout=max(timeout, 0.0) + 2.0):
                if self._move("stopping", "closing", "stopping"):
                    self._stop(deadline)
                self._retire_if_done()
        finally:
            if self._stops._is_owned():  # whatever was thrown in between
                self._stops.release()
        return self.has_ended or (self._state == "stopped" and not self._is_busy)

    def _stop(self, deadline: float) -> None:
        end = deadline + TIDYING
        self._recording.hurry()  # failed writes are tried again before the deadline of this stop
        # Order: nothing unstarted is left by now; then the running ones, then their outcomes.
        self.pool.stop()
        for loop in (self._dispatching, self._maintaining, self._listening):
            loop.stop()
        with self._lock:  # it is opened under this lock, so none is opened after this
            doorbell = self._doorbell
        if doorbell is not None:
            doorbell.close()
        self.pool.join(deadline - self._clock.monotonic())
        self._workers.settle_dead()
        if self.claims.working:
            self._interrupt()
        self._threads.join(self._listening, self._dispatching, self._maintaining, until=end)
        # The dispatcher may have been claiming, and threads enqueueing, when this began. Who comes even
        # later is given back when the owner withdraws.
        self._give_back()
        self._recording.wake()
        self.recorder.await_empty(end - self._clock.monotonic())
        self.signal_sender.await_empty(end - self._clock.monotonic())
        self._workers.on_end = self._retire_if_done
        self._move("stopped", "stopping")

    def _give_back(self) -> None:
        self.dispatcher.release(self.claims.withdraw(float("inf")))

    def _interrupt(self) -> None:
        running = list(self.claims.running.values())
        names = ", ".join(f"{run.id} ({run.task})" for run in running[:5])
        _log.warning("%d jobs still run at the end of the drain: %s", len(running), names)
        self.recorder.add_all([Outcome(run.claim, Verb.INTERRUPT, self._clock.now()) for run in running])

    def _retire_if_done(self) -> None:
        """If the last job has ended and its outcome is written and signalled, perhaps long after the
        drain: stop the loops that renewed its claim, and withdraw."""
        if self._state != "stopped":
            return
        try:
            with self._lock:
                # In the order in which an outcome passes through them; each adds before it removes.
                if self._is_busy or self.signal_sender.backlog or self._state != "stopped":
                    return
                self._state = "ended"
            self._retire()
        except BaseException:
            self._move("stopped", "ended")
            raise

    def _retire(self) -> None:
        loops = (self._recording, self._renewing, self._telling)
        for loop in loops:
            loop.stop()
        end = self._clock.monotonic() + 0.5
        self.pool.join(0.5)
        self._threads.join(*loops, until=end)
        try:
            self._backend.withdraw(self.owner)
        except BackendError as error:
            _log.info("the record of this process is left for others to remove: %s", error)
        self._on_end()

    # --- the turns that are ours -----------------------------------------------------------------

    def _dispatch(self, now: float) -> float:
        self._threads.replace_if_dead(self._maintaining)  # which looks after all others
        if self.recorder.backlog and self._clock.monotonic() - self._recording.turned_at > SAFETY:
            self._recording.wake()  # an exception may have interrupted the wake-up
        return self.dispatcher.turn(now)

    def _record(self, now: float) -> float | None:
        wait = self.recorder.turn(now)
        # While this runtime runs, the dispatcher looks once a second whether the recorder slept on.
        return SAFETY if wait is None and self._state != "running" else wait

    def _maintain(self, now: float) -> float:
        self._workers.replace_dead()
        for loop in (*self.loops, self._listening):
            self._threads.replace_if_dead(loop)
        return self._maintenance.turn(now)

    def _ready(self) -> None:
        doorbell = self._doorbell or self._backend.open_doorbell(self.owner)  # there is no thread yet
        with self._lock:
            running = self._state == "running"
            if running:
                self._doorbell = doorbell
                self.dispatcher.accepting = True
        if doorbell is not None and running:
            self._threads.start(self._listening)
        elif doorbell is not None:
            doorbell.close()  # stopped meanwhile, and nothing else refers to it
        self.dispatcher.ring()

    def _listen(self, now: float) -> float:
        doorbell = self._doorbell
        if doorbell is not None and doorbell.wait(None):
            self.dispatcher.ring()
        return 0.0

    def _recorded(self, outcomes: Sequence[Outcome]) -> bool:
        again = [(o.claim.id, o.run_at) for o in outcomes if o.run_at is not None]
        if again:
            self.dispatcher.expect(again)
        if any([outcome.claim.rescues for outcome in outcomes]):
            self.dispatcher.ring()  # it may be a suspect; one suspect runs here at a time
        awaited = self._on_recorded(outcome.claim.id for outcome in outcomes)
        if self._state == "stopped":
            self._retire_if_done()
        return awaited

    # --- for people ----------------------------------------------------------------------------

    def roles(self) -> dict[int, str]:
        """What each thread of this runtime is, by ident: ``"worker"`` or the loop's name."""
        workers = {thread.ident: "worker" for thread in self.pool.threads if thread.ident is not None}
        return self._threads.roles() | workers

    def describe(self) -> ProcessRecord:
        """The current record of this process."""
        return describe(
            self.owner,
            self.role,
            self.settings,
            self._registry,
            app=self._name,
            workers=self.settings.workers,
            busy=len(self.claims.working),
            started_at=self._started_at,
            now=self._clock.now(),
            lateness=self._workers.lateness(),
        )

    def troubles(self) -> list[str]:
        """Why this runtime makes no progress, in words; empty if it does."""
        turning = (self._dispatching, self._maintaining)
        now = self._clock.monotonic()
        return troubles(self.loops, turning, self.recorder, self.signal_sender, now)
