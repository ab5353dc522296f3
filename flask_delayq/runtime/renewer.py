"""Keeps the leases of held claims alive. Does only that, so that nothing can hold it up.
Knows the claims in memory and the backend's one verb for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..backends.base import Backend
from .claims import HeldClaims

_log = logging.getLogger(__name__)


class Renewer:
    """Renews at a third of the lease, so that two renewals may fail.

    :param on_waiting: called when an orphaned job was released and waits again.
    """

    def __init__(
        self,
        backend: Backend,
        owner: str,
        lease: float,
        claims: HeldClaims,
        on_waiting: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._owner = owner
        self._lease = lease
        self._claims = claims
        self._on_waiting = on_waiting

    def turn(self, now: float) -> float:
        """Renew everything that is held; returns the seconds to wait for the next turn."""
        held = self._claims.held()
        renewal = self._backend.renew(self._owner, held, lease=self._lease)
        lost = set(renewal.lost)
        for claim in held:
            if claim.id in lost:
                if self._claims.request_cancel(claim.id):
                    _log.warning("job %s (%s): its claim was lost while it runs", claim.id, claim.task)
                self._claims.drop(claim)
        if renewal.released:
            _log.error(
                "released %d running jobs that no worker of this process held: %s",
                len(renewal.released),
                ", ".join(renewal.released[:5]),
            )
            self._on_waiting()
        return self._lease / 3
