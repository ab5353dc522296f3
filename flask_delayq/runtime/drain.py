"""Runs all due jobs in the caller's thread: for tests, scripts, and the inline mode.
A small runtime: one extra thread renews its claims and its sign of life while jobs run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from ..backends.base import Backend, Inspectable
from ..clock import Clock
from ..config import Settings
from ..errors import BackendError
from ..ids import new_id
from ..job import Claim, Outcome, ProcessRecord, Verb
from ..running import RunningJob
from ..task import TaskRegistry
from .ended import Ended
from .executor import Executor
from .held import HeldClaim, HeldClaims
from .identity import describe
from .loop import LONGEST_PAUSE, Loop
from .maintenance import ANNOUNCE_EVERY
from .recorder import Recorder
from .renewer import Renewer
from .signal_sender import SignalSender

_log = logging.getLogger(__name__)

ROUNDS = 100_000
"""Maximum number of jobs in one drain: a task that always enqueues itself must not run for ever."""

_PATIENCE = 15.0
"""Maximum seconds that a drain waits until its outcomes are written; longer than the store's timeout for
locks. After that only its thread keeps trying."""


class Drain:
    """One drain, from its first claim to its last outcome, under one random owner id.

    :param scope: makes the context in which each job runs.
    :param sender: the sender of signals.
    :param on_recorded: called with the ids of jobs whose outcome was written; returns whether a caller
        waited for one of them.
    :param threads: whether this process can start threads; if not, nothing is renewed, so a job that
        takes longer than the lease may be taken back.
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
        on_recorded: Callable[[Iterable[str]], bool] = lambda ids: False,
        name: str = "",
        threads: bool = True,
    ) -> None:
        self.owner = f"drain-{new_id()}"
        self.signal_sender = SignalSender(
            backend=backend,
            sender=sender,
            scope=scope,
            clock=clock,
            interruptible=True,
        )
        self._backend, self._registry, self._settings = backend, registry, settings
        self._clock, self._name = clock, name
        self._started_at = clock.now()
        self._claims = HeldClaims()
        self._executor = Executor(
            registry=registry,
            backend=backend,
            settings=settings,
            clock=clock,
            scope=scope,
            sender=sender,
            interruptible=True,
        )
        self._recorder = Recorder(
            backend=backend,
            clock=clock,
            claims=self._claims,
            on_recorded=lambda outcomes: on_recorded(outcome.claim.id for outcome in outcomes),
            wake=lambda: None,
            tell=self.signal_sender.tell_end,
        )
        lease = settings.lease
        self._renewer = Renewer(
            backend=backend,
            clock=clock,
            owner=self.owner,
            lease=lease,
            claims=self._claims,
            on_waiting=lambda: None,
        )
        pause = min(self._renewer.longest_pause, LONGEST_PAUSE)
        self._keeping = Loop("renewer of a drain", self._keep, clock, longest_pause=pause)
        self._freshness = lease / 6  # see Workers
        self._threads = threads
        self._is_shown = False
        self._renew_at = self._announce_at = float("inf")
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._tried_to_end = threading.Event()

    def run(self, limit: int | None = None) -> list[Outcome]:
        """Claim and run due jobs one by one, also those that they enqueue, until none is due.

        Ctrl-C ends the drain, not the job: the job waits again, uncharged (it fails if it must not be
        repeated), and the KeyboardInterrupt is raised.

        :param limit: maximum number of jobs.
        :returns: the outcome of each run, in order. The verb is RESCUE if the job was taken back
            meanwhile: then no outcome is recorded, and another process runs it.
        :raises RuntimeError: more than :data:`ROUNDS` jobs; a task seems to enqueue itself for ever.
        """
        outcomes: list[Outcome] = []
        self.signal_sender.turn(self._clock.now())
        try:
            while limit is None or len(outcomes) < limit:
                claim = self._claim()
                if claim is None:
                    break
                outcome = self._run(claim)
                if outcome.verb is Verb.RELEASE:
                    continue  # left to other processes; the next claim excludes its task
                outcomes.append(outcome)
                self.signal_sender.turn(self._clock.now())
                if len(outcomes) >= ROUNDS:
                    raise RuntimeError(f"drain ran {ROUNDS:,} jobs and there are still more due")
        finally:
            if self._is_shown:
                self._end()
        return outcomes

    def _claim(self) -> HeldClaim | None:
        if not self._is_shown and not self._finds_something():
            return None
        asked_at = self._clock.monotonic()
        settings = self._settings
        claims: list[Claim] = self._backend.claim(
            settings.queues,
            now=self._clock.now(),
            limit=1,
            owner=self.owner,
            lease=settings.lease,
            strict=settings.strict_priority,
            tasks=self._executor.foreign_tasks.tasks,
        )
        for claim in claims:
            held = HeldClaim(claim, None, asked_at, claim.leased_at)
            self._claims.add(held)
            return held
        return None

    def _finds_something(self) -> bool:
        """Show a sign of life when there is something to run: most drains of a test suite find nothing.

        This is before the first claim, so that jobs that a kill leaves behind are known as not begun.
        """
        due = self._backend.next_due(self._settings.queues, owner=self.owner)
        if due is None or due > self._clock.now():
            return False
        self._is_shown = True  # also if the call fails half way
        self._backend.announce(self._describe())
        if self._threads:
            self._start_keeping()
        return True

    def _describe(self) -> ProcessRecord:
        return describe(
            self.owner,
            "drain",
            self._settings,
            self._registry,
            app=self._name,
            workers=1,
            busy=1,
            started_at=self._started_at,
            now=self._clock.now(),
        )

    def _start_keeping(self) -> None:
        now = self._clock.monotonic()
        # What was just claimed needs no renewal; most drains are over before the first one.
        self._renew_at, self._announce_at = now + self._settings.lease / 3, now + ANNOUNCE_EVERY
        thread = threading.Thread(target=self._keeping.run, name="delayq-drain-renewer", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread can be started
            _log.warning("the jobs of this drain are not renewed: %s", error)
        else:
            self._thread = thread

    def _keep(self, now: float) -> float | None:
        """One turn of the extra thread: renew the claims and the sign of life; at the end write the
        remaining outcomes, and withdraw."""
        if self._is_over:
            self._end_here(now)
            return None
        mono = self._clock.monotonic()
        if mono >= self._renew_at:
            self._renew_at = mono + self._renewer.turn(now)
        if mono >= self._announce_at:
            self._backend.announce(self._describe())
            self._announce_at = mono + ANNOUNCE_EVERY
        return min(self._renew_at, self._announce_at) - mono

    def _run(self, held: HeldClaim) -> Outcome:
        claim, ident = held.claim, threading.get_ident()
        run = self._begin(held, ident)
        if run is None:
            # It may have been taken back while this thread was suspended.
            released = Outcome(claim, Verb.RELEASE, self._clock.now())
            self._claims.withdraw(float("inf"))
            self._recorder.add(Ended(released))
            self._recorder.write_group(released.at)
            return released
        try:
            held.ended = self._executor.execute(run)
        finally:
            # Without an outcome it was Ctrl-C.
            ended = held.ended
            if ended is None:
                ended = Ended(Outcome(claim, Verb.INTERRUPT, self._clock.now()))
            self._recorder.add(ended)
            del self._claims.working[ident]
            if held.ended is None:
                self._excuse(claim)
        recorded = self._recorder.write_group(self._clock.now())
        if any(outcome is ended.outcome for outcome in recorded):
            return ended.outcome
        return Outcome(claim, Verb.RESCUE, ended.outcome.at)

    def _begin(self, held: HeldClaim, ident: int) -> RunningJob | None:
        """Begin a claim, if it is young enough; in the same steps as :class:`Workers`."""
        if not self._claims.may_begin(held, self._clock.monotonic() - self._freshness):
            return None
        run = self._executor.start(held.claim)
        if self._claims.begin(held, run, ident, self._clock.monotonic() - self._freshness):
            return run
        self._executor.not_started(held.claim)
        return None

    def _excuse(self, claim: Claim) -> None:
        """For a run that Ctrl-C has ended: if it may be repeated, it must stay uncharged even if a
        second Ctrl-C ends the process before its outcome is written."""
        if not isinstance(self._backend, Inspectable):
            return
        try:
            record = self._backend.get(claim.id)
        except BackendError:
            return
        if record is not None and not record.fail_on_crash:
            self._backend.unmark_begun(claim)

    def _end(self) -> None:
        """Write the remaining outcomes, and withdraw: this owner runs nothing any more.

        In the extra thread, which Ctrl-C does not reach, and which goes on if the store is unavailable:
        until then no other process runs these jobs.
        """
        self._is_over = True
        if self._thread is None:
            self._end_without_thread()
            return
        self._keeping.hurry()
        if self._tried_to_end.wait(_PATIENCE) and self._keeping.is_stopping:
            self._thread.join(_PATIENCE)

    def _end_here(self, now: float) -> None:
        is_late = self._tried_to_end.is_set()
        try:
            while self._recorder.backlog:
                self._recorder.write_group(now)
            self._withdraw()
            self._keeping.stop()
        except BackendError as error:
            if not is_late:
                _log.warning(
                    "the outcomes of %d jobs of a drain are not written yet; its thread retries: %s",
                    self._recorder.backlog,
                    error,
                )
                self._tried_to_end.set()  # the caller does not wait any longer
            self._renewer.turn(now)
            raise
        finally:
            self._tried_to_end.set()
        self.signal_sender.turn(now)  # the remaining signals

    def _end_without_thread(self) -> None:
        try:
            while self._recorder.backlog:
                self._recorder.write_group(self._clock.now())
        except BaseException as error:
            # No withdrawal, because that would release jobs that have run. As if this process had died.
            self._backend.let_go(self.owner)
            _log.warning("what this drain leaves behind is for others to take back: %s", error)
            if not isinstance(error, BackendError):
                raise
        else:
            self._withdraw()
            self.signal_sender.turn(self._clock.now())

    def _withdraw(self) -> None:
        try:
            self._backend.withdraw(self.owner)
        except BackendError as error:
            _log.warning("what this drain leaves behind is for others to take back: %s", error)
