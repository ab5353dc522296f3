"""Runs everything that is due in the caller's thread: for tests, and for the manual and inline modes.
Knows no thread and no loop; uses the executor and the backend's verbs alone."""

from __future__ import annotations

from ..backends.base import Backend
from ..clock import Clock
from ..config import Settings
from ..job import Outcome
from .executor import Executor

ROUNDS = 100_000
"""Jobs in one drain at most: a task that always enqueues itself again must not drain for ever."""


def drain(
    backend: Backend,
    executor: Executor,
    settings: Settings,
    clock: Clock,
    owner: str,
    limit: int | None = None,
) -> list[Outcome]:
    """Claim and run due jobs one by one, also those that they enqueue, until none is due.

    :param limit: at most so many jobs.
    :returns: how each run ended, in order.
    :raises RuntimeError: more than :data:`ROUNDS` jobs; a task seems to enqueue itself for ever.
    """
    outcomes: list[Outcome] = []
    while limit is None or len(outcomes) < limit:
        claims = backend.claim(
            settings.queues,
            now=clock.now(),
            limit=1,
            owner=owner,
            lease=settings.lease,
            strict=settings.strict_priority,
        )
        if not claims:
            break
        outcome = executor.execute(executor.start(claims[0]))
        backend.record([outcome], now=clock.now())
        outcomes.append(outcome)
        if len(outcomes) >= ROUNDS:
            raise RuntimeError(f"drain ran {ROUNDS:,} jobs and there are still more due")
    return outcomes
