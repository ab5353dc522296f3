"""Worker places reserved by threads that enqueue, and the count of all used places.
Knows the pool and the held claims as numbers; runs nothing."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import Clock
from ..job import ClaimFor
from .held import HeldClaim, HeldClaims
from .pool import WorkerPool

COUNT_EVERY = 1.0
"""Seconds between two counts."""


class Reservations:
    """The current reservations. Each step is one operation on a set, because a finalizer may make one
    during another.

    :param longest: seconds after which a reservation is void: an exception has interrupted its thread.
    """

    def __init__(
        self, *, pool: WorkerPool[HeldClaim], claims: HeldClaims, clock: Clock, longest: float
    ) -> None:
        self._pool = pool
        self._claims = claims
        self._clock = clock
        self._longest = longest
        self._under_way: set[ClaimFor] = set()
        self.end: Callable[[ClaimFor], None] = self._under_way.discard
        """End a reservation: its places are used or given back."""
        self._count_at = float("-inf")  # monotonic

    def begin(self, owner: str, lease: float, jobs: int) -> ClaimFor | None:
        """Reserve places for at most this many jobs; ``None`` if none is free."""
        places = self._pool.reserve(jobs)
        if not places:
            return None
        reserved = ClaimFor(owner, lease, places, self._clock.monotonic())
        self._under_way.add(reserved)
        return reserved

    def count(self) -> None:
        """Once a second, compare the number of used places with their known users, and free the lost
        places."""
        moment = self._clock.monotonic()
        if moment < self._count_at:
            return
        self._count_at = moment + COUNT_EVERY
        known = self._claims.places
        for reserved in self._under_way.copy():
            if moment - reserved.asked_at > self._longest:
                self._under_way.discard(reserved)
            else:
                known += reserved.slots
        self._pool.settle(known)
