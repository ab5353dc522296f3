"""Keeps the leases of held claims alive, and knows from that whether other leases may be judged.
Does only that, so that nothing can hold it up; knows the claims in memory and the backend's one verb."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..backends.base import LONGEST_WAIT, Backend
from ..clock import Clock
from .held import HeldClaims

_log = logging.getLogger(__name__)


class Renewer:
    """Renews at a third of the lease, so that two renewals may fail.

    *Who could not renew may not judge.* While the store is away, or everything stands still, no process
    can renew, and all leases end. So the end of another one's lease means something only to a process
    whose own renewals (also those with nothing to renew, which write all the same) have been on time,
    and for long enough that every other process must have come to renew after such a time.

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
        """Seconds at most between two tries to renew while the store is away."""
        return self._lease / 6

    @property
    def settling(self) -> float:
        """Seconds of renewals on time after which every other process that lives has renewed as well:
        until its next turn, or its next try after one that failed, and its wait for the store."""
        return self._lease / 3 + self.longest_pause + LONGEST_WAIT

    def judges_as_of(self) -> float | None:
        """The monotonic moment as of which leases may be judged, the present; ``None``: they may not."""
        now = self._clock.monotonic()
        on_time = now - self._renewed_at <= self._lease / 2
        return now if on_time and now - self._on_time_since >= self.settling else None

    def turn(self, now: float) -> float:
        """Renew everything that is held; returns the seconds to wait for the next turn."""
        # The clock first: what begins from now on is young, though it is not among the held ones.
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
                    _log.warning("job %s (%s): its claim was lost while it runs", claim.id, claim.task)
        if renewal.released:
            _log.error(
                "released %d running jobs that no worker of this process held: %s",
                len(renewal.released),
                ", ".join(renewal.released[:5]),
            )
            self._on_waiting()
        return self._lease / 3
