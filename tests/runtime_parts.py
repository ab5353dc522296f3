"""The parts of a runtime for tests, on a memory backend and a clock that the test controls.

It must not start threads; a test calls turns and runs items itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from flask_delayq.backends import open_backend
from flask_delayq.client import Client
from flask_delayq.config import Settings
from flask_delayq.job import Outcome
from flask_delayq.options import declare_task
from flask_delayq.runtime.dispatcher import Dispatcher
from flask_delayq.runtime.executor import Executor
from flask_delayq.runtime.held import HeldClaim, HeldClaims
from flask_delayq.runtime.pool import WorkerPool
from flask_delayq.runtime.recorder import Recorder
from flask_delayq.task import Task, TaskRegistry
from flask_delayq.testing import FakeClock


def finish(pool: WorkerPool[Any], seconds: float) -> None:
    """What a worker does at the end of an item that took so long."""
    pool.free(None)
    pool.account(seconds)


class Parts:
    """The parts that a supervisor has, without threads."""

    def __init__(self, backend: Any = None, clock: FakeClock | None = None, **settings: Any) -> None:
        self.clock = clock or FakeClock(now=1_800_000_000.0)
        self.settings = Settings(url="memory://", **settings)
        self.backend: Any = backend or open_backend("memory://", clock=self.clock)
        self.registry = TaskRegistry()
        self.executor = Executor(
            registry=self.registry,
            backend=self.backend,
            settings=self.settings,
            clock=self.clock,
            scope=nullcontext,
            sender=self,
        )
        self.claims = HeldClaims()
        self.items: list[HeldClaim] = []
        self.woken = 0
        self.recorded: list[str] = []
        self.awaited = False
        self.pool: WorkerPool[HeldClaim] = WorkerPool(
            size=self.settings.workers, work=self.items.append, on_free=self._wake, name="test"
        )
        self.pool.put = self.items.append  # type: ignore[method-assign]
        self.recorder = Recorder(
            backend=self.backend,
            clock=self.clock,
            claims=self.claims,
            on_recorded=self._on_recorded,
            wake=self._wake,
        )
        self.dispatcher = Dispatcher(
            backend=self.backend,
            settings=self.settings,
            clock=self.clock,
            owner="owner",
            claims=self.claims,
            pool=self.pool,
            recorder=self.recorder,
            wake=self._wake,
            foreign_tasks=self.executor.foreign_tasks,
        )
        self.dispatcher.accepting = True
        self.client = Client(
            backend=self.backend,
            registry=self.registry,
            settings=self.settings,
            clock=self.clock,
            sender=self,
        )

    def _wake(self) -> None:
        self.woken += 1

    def _on_recorded(self, outcomes: Sequence[Outcome]) -> bool:
        self.recorded.extend(outcome.claim.id for outcome in outcomes)
        return self.awaited

    def task(self, function: Callable[..., Any] = lambda: None, **options: Any) -> Task[..., Any]:
        """Register a function."""
        name = options.pop("name", f"task{len(self.registry)}")
        task: Task[..., Any] = Task(function, declare_task(name, **options), lambda: self.client)
        self.registry.add(task)
        return task

    def turn(self) -> float:
        """One turn of the dispatcher now."""
        return self.dispatcher.turn(self.clock.now())

    def run_all(self) -> list[str]:
        """Run every item of the pool and record the outcomes; returns the ids of the jobs, in order."""
        ran: list[str] = []
        while self.items:
            held = self.items.pop(0)
            run = self.executor.start(held.claim)
            if self.claims.begin(held, run, threading.get_ident()):
                ran.append(held.claim.id)
                self.recorder.add(self.executor.execute(run, held.values))
                del self.claims.working[threading.get_ident()]
                finish(self.pool, 0.001)
        self.recorder.turn(self.clock.now())
        return ran
