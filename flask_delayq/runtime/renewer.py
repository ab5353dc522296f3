"""Renews the leases of held claims, and decides from that whether other leases may be judged.
Does nothing else, so that nothing can delay it; knows the claims in memory and one verb of the
backend."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..backends.base import LONGEST_WAIT, Backend
from ..clock import Clock
from .held import HeldClaims

_log = logging.getLogger(__name__)


class Renewer:
    """Renews every third of the lease, so that two renewals may fail.

    *A process that could not renew must not judge.* If the store is unavailable, or the machine is
    suspended, no process can renew, and all leases end. So a process judges the leases of others only
    while its own renewals (also empty ones, which write as well) are on time, and have been for so long
    that every other living process has renewed after such a time.

    :param on_waiting: called when an orphaned job was released and waits again.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        clock: Clock,
        owner: str,
        lease: float,
        claims: HeldClaims,
        on_waiting: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._claims = claims
        self._on_waiting = on_waiting
        self._renewed_at = self._on_time_since = float("-inf")

    @property
    def longest_pause(self) -> float:
        """Maximum seconds between two tries to renew while the store is unavailable."""
        return self._lease / 6

    @property
    def settling(self) -> float:
        """Seconds of renewals on time after which every other living process has renewed as well: the
        time until its next turn or its next try after a failure, plus its wait for the store."""
        return self._lease / 3 + self.longest_pause + LONGEST_WAIT

    def judges_as_of(self) -> float | None:
        """The monotonic time for which leases may be judged: now; ``None``: they must not be judged."""
        now = self._clock.monotonic()
        on_time = now - self._renewed_at <= self._lease / 2
        return now if on_time and now - self._on_time_since >= self.settling else None

    def turn(self, now: float) -> float:
        """Renew all held claims; returns the seconds until the next turn."""
        # The clock first: a claim that is added from now on is young, so it need not be in `held`.
        asked_at = self._clock.monotonic()
        held = self._claims.held()
        renewal = self._backend.renew(self._owner, held, lease=self._lease, asked_at=asked_at)
        if asked_at - self._renewed_at > self._lease / 2:
            self._on_time_since = self._clock.monotonic()
        self._renewed_at = asked_at
        lost = set(renewal.lost)
        for claim in held:
            if claim.id in lost:
                if self._claims.lose(claim):
                    _log.warning("job %s (%s) lost its claim during the run", claim.id, claim.task)
        if renewal.released:
            _log.error(
                "released %d running jobs that no worker of this process held: %s",
                len(renewal.released),
                ", ".join(renewal.released[:5]),
            )
            self._on_waiting()
        return self._lease / 3
