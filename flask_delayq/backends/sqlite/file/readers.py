"""The read side of one store in this process: a few idle connections, lent to one thread at a time.
Must not know what is read with them.

As in the writer, an asynchronous exception may come between any two calls. So a connection is
returned in two nested ``finally``, and values that must change together are assigned without a call
in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ....clock import machine_time
from ....errors import BackendUnavailableError
from ...nesting import refuse_inside
from .connection import Sql

T = TypeVar("T")

IDLE_LIMIT = 4
"""Maximum number of idle connections that are kept open; further readers get a temporary one."""


class _Loan:
    """One use of a connection."""

    __slots__ = ("generation", "healthy", "sql")

    def __init__(self) -> None:
        self.sql: Sql | None = None
        self.generation = 0
        self.healthy = False


class Readers:
    """Lends connections; can be shut, so that none is open at a fork.

    :param connect: opens a connection; called with the borrower's deadline.
    """

    def __init__(self, connect: Callable[[float], Sql]) -> None:
        self._connect = connect
        self.reset()

    def reset(self) -> None:
        """Reset in a forked child, where nobody will return the lent connections."""
        # Reentrant, so that a signal handler can detect that it runs inside. The lock itself is entered,
        # because an exception may be thrown into the condition's method after it got the lock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._idle: list[tuple[int, Sql]] = []  # with the generation that each belongs to
        self._loans: list[_Loan] = []
        self._shut = False
        self._generation = 0

    def lend(self, deadline: float, use: Callable[[Sql], T]) -> T:
        """Call ``use`` with a connection and return what it returns.

        :raises BackendUnavailableError: none could be had before the deadline, or this thread is in the
            middle of taking one (a signal handler).
        """
        refuse_inside(self._lock)
        loan = _Loan()
        try:
            try:
                self._take(loan, deadline)
                sql = loan.sql
                if sql is None:
                    sql = loan.sql = self._connect(deadline)
                sql.deadline = deadline
                result = use(sql)
                loan.healthy = True
                return result
            finally:
                self._give_back(loan)
        finally:
            self._give_back(loan)

    def _take(self, loan: _Loan, deadline: float) -> None:
        with self._lock:
            while self._shut:
                left = deadline - machine_time()
                if left <= 0:
                    raise BackendUnavailableError("the store is being closed or forked", reason="closed")
                self._changed.wait(left)
            generation = loan.generation = self._generation
            idle = self._idle
            loans = [*self._loans, loan]
            if idle and idle[-1][0] == generation:
                loan.sql = idle[-1][1]
                idle = idle[:-1]
            self._loans = loans
            self._idle = idle

    def _give_back(self, loan: _Loan) -> None:
        """Return the connection. Idempotent; may be interrupted at any point."""
        with self._lock:
            if loan in self._loans:
                loans = [other for other in self._loans if other is not loan]
                keep = loan.healthy and loan.generation == self._generation and not self._shut
                idle = self._idle
                surplus = loan.sql
                if keep and surplus is not None and len(idle) < IDLE_LIMIT:
                    idle = [*idle, (loan.generation, surplus)]
                    surplus = None
                self._loans = loans
                self._idle = idle
                loan.sql = surplus
            if self._shut:
                self._changed.notify_all()
        if loan.sql is not None:
            loan.sql.close(checkpoint=False)
            loan.sql = None

    def renew(self) -> None:
        """Close the idle connections; lent ones are closed when they are returned."""
        self._close_idle(checkpoint=False)

    def shut(self, deadline: float, *, checkpoint: bool) -> bool:
        """Lend no more, wait for all lent connections, close all; whether this succeeded in time.

        :meth:`open` must follow in any case.
        """
        with self._lock:
            self._shut = True
            while self._loans:
                left = deadline - machine_time()
                if left <= 0:
                    return False
                self._changed.wait(left)
        self._close_idle(checkpoint=checkpoint)
        return True

    def _close_idle(self, *, checkpoint: bool) -> None:
        with self._lock:
            idle = self._idle
            self._idle = []
            self._generation += 1
        for _, sql in idle:
            sql.close(checkpoint=checkpoint)

    def inherited(self) -> list[Sql]:
        """The connections that are open in a child because :meth:`shut` failed."""
        lent = [loan.sql for loan in self._loans if loan.sql is not None]
        return [sql for _, sql in self._idle] + lent

    def open(self) -> None:
        """Lend again."""
        with self._lock:
            self._shut = False
            self._changed.notify_all()
