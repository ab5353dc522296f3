"""The read side of one store in this process: a few idle connections, lent to one thread at a time.
Must not know what is read with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import BackendUnavailableError
from .connection import Sql, machine_time

IDLE_LIMIT = 4
"""Connections kept open while nobody reads; more readers at once get one for the occasion."""


class Readers:
    """Lends connections; can be shut so that a fork finds none of them open.

    :param connect: opens a connection; called with the borrower's deadline.
    """

    def __init__(self, connect: Callable[[float], Sql]) -> None:
        self._connect = connect
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, where nobody will give back what was lent."""
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[Sql] = []
        self._lent: list[Sql] = []
        self._borrowers = 0
        self._shut = False
        self._generation = 0

    @contextmanager
    def lend(self, deadline: float) -> Iterator[Sql]:
        """A connection for the body of the ``with`` statement.

        :raises BackendUnavailableError: none could be had before the deadline.
        """
        with self._changed:
            while self._shut:
                if not self._changed.wait(max(0.0, deadline - machine_time())) and self._shut:
                    raise BackendUnavailableError("the store is being closed or forked", reason="closed")
            self._borrowers += 1
            generation = self._generation
            sql = self._idle.pop() if self._idle else None
        healthy = False
        try:
            if sql is None:
                sql = self._connect(deadline)
            self._lent.append(sql)
            sql.deadline = deadline
            yield sql
            healthy = True
        finally:
            with self._changed:
                self._borrowers -= 1
                if sql in self._lent:
                    self._lent.remove(sql)
                keep = healthy and generation == self._generation and len(self._idle) < IDLE_LIMIT
                if keep and sql is not None:
                    self._idle.append(sql)
                elif sql is not None:
                    sql.close(checkpoint=False)
                self._changed.notify_all()

    def renew(self) -> None:
        """Close the idle connections; those lent out are closed when they come back."""
        with self._changed:
            self._generation += 1
            idle, self._idle = self._idle, []
        for sql in idle:
            sql.close(checkpoint=False)

    def shut(self, deadline: float, *, checkpoint: bool) -> bool:
        """Lend no more, wait for all that was lent, close everything; whether it came to that in time.

        :meth:`open` must follow in either case.
        """
        with self._changed:
            self._shut = True
            while self._borrowers:
                left = deadline - machine_time()
                if left <= 0 or (not self._changed.wait(left) and self._borrowers):
                    return False
            while self._idle:
                self._idle.pop().close(checkpoint=checkpoint)
            return True

    def inherited(self) -> list[Sql]:
        """The connections that a child finds open because :meth:`shut` was in vain."""
        return self._idle + self._lent

    def open(self) -> None:
        """Lend again."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()
