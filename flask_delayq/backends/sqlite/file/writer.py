"""Group commit: many threads, one write connection, one transaction for all who wait.
Must not know what the operations do; only that each may be run again after a rollback.

If no thread is writing, the calling thread leads: it begins a transaction, runs its own operation and
those of the waiting threads, commits once, returns the results, and passes the lead to the first thread
that came later. A lone thread never waits for another one; eight threads share one flush of the disk.

    in line ------ taken into the leader's group -----> in the group ---- committed ----> DONE
       |   ^-------- rolled back, not its fault -------------/
       `----- first in line when a leader leaves ------> LEADING -------------------------> DONE

An asynchronous exception (KeyboardInterrupt, a time limit) may come between any two calls. So the
lead is passed on in two nested ``finally``, each idempotent. Whether the transaction was committed
is read from the connection and the stage, never from the position in the code. Values that must
change together are in one ``with self._mutex`` without a call in between, because CPython delivers such
exceptions only after calls and at the end of loops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar, cast

import apsw

from ....clock import machine_time
from ....errors import BackendUnavailableError
from ...nesting import is_held_here, nested
from .connection import Sql
from .errors import OPERATION_ERRORS, CommitUnknown, leaves_doubt, needs_reopening
from .requests import Request, State

T = TypeVar("T")

GROUP_LIMIT = 64
"""Maximum operations in one transaction, so that the last one does not wait for hundreds."""

PATIENCE = 0.002
"""Seconds for which a patient operation waits for the transaction of another thread."""

BUSY = 0.01
"""If the last caller came within this many seconds, the next one is expected, so patience is useful."""

_LONGEST_WAIT = 3600.0  # a lock accepts this timeout on every system


class _Stage(Enum):
    """The progress of the leader's transaction; only in COMMITTING it can be committed."""

    OPEN = auto()
    COMMITTING = auto()
    REFUSED = auto()


_WAITING, _LEADING, _DONE = State
_OPEN, _COMMITTING, _REFUSED = _Stage


def _too_late() -> BackendUnavailableError:
    return BackendUnavailableError(
        "the store was busy until the timeout; nothing was done", reason="locked"
    )


class Writer:
    """The write side of one store in this process.

    :param connect: called by the leader before each transaction with its deadline; returns the write
        connection, opened and checked.
    :param prepare: called at the beginning of a transaction whose commit must be durable.
    :param confirm: called after a durable commit; raises if the file is no longer the store.
    :param discard: called with an error after which the connection must not be used again.
    """

    def __init__(
        self,
        connect: Callable[[float], Sql],
        *,
        prepare: Callable[[], None] = lambda: None,
        confirm: Callable[[], None],
        discard: Callable[[BaseException], None],
    ) -> None:
        self._connect = connect
        self._prepare = prepare
        self._confirm = confirm
        self._discard = discard
        self.reset()

    def reset(self) -> None:
        """Reset in a forked child, where the other threads and their requests do not exist."""
        # Reentrant: a signal handler that interrupts this must be refused, not deadlock.
        self._mutex: Any = threading.RLock()
        self._leader: int | None = None
        self._waiting: list[Request] = []
        self._in_line: dict[int, Request] = {}
        """The latest request of each thread that had to wait; one that is done means nothing."""
        self._group: list[Request] = []
        self._stage = _OPEN
        self._sql: Sql | None = None
        self._busy_until = 0.0

    def run(
        self,
        operation: Callable[[Sql], T],
        *,
        durable: bool,
        deadline: float,
        may_be_uncertain: bool = False,
        may_wait: bool = False,
    ) -> T:
        """Run ``operation`` inside a write transaction and return its result once that is committed.

        Its exceptions are raised here, and its changes are rolled back; the other operations of its
        group are not affected. It may run more than once; the last run counts.

        :param durable: the commit must survive a power cut.
        :param deadline: on the machine's monotonic clock; an operation not begun by then is withdrawn.
        :param may_be_uncertain: at the deadline raise CommitUnknown instead of waiting for the commit.
        :param may_wait: while other threads write all the time, wait up to :data:`PATIENCE` for one of
            their transactions, instead of making a separate commit.
        :raises BackendUnavailableError: reason ``"locked"``: the deadline passed, or this thread is
            inside another write (a signal handler); nothing was done.
        :raises CommitUnknown: it is unknown whether it was stored.
        """
        if self._mutex._is_owned():  # `refuse_inside`, without its call
            raise nested()
        began = machine_time()
        if not may_wait:
            self._busy_until = began + BUSY
        may_wait = may_wait and began < self._busy_until
        request = Request(
            operation,
            durable=durable,
            may_be_uncertain=may_be_uncertain,
            deadline=deadline,
            may_wait=may_wait,
        )
        try:
            try:
                self._stand_in_line(request)
                if request.state is _LEADING:
                    self._lead(request)
            finally:
                self._leave(request)
        finally:
            self._leave(request)
        self._in_line.pop(request.thread, None)  # else its result would be kept
        if request.error is not None:
            raise request.error
        return cast(T, request.result)

    # --- the lead without a transaction: opening, closing, forking ----------------------------------

    def hold(self, deadline: float, use: Callable[[bool], T]) -> T:
        """Call ``use`` while nobody writes, and return what it returns.

        :param use: called with whether the lead was free before the deadline.
        """
        ticket = self.ticket(deadline)
        try:
            try:
                return use(self.seize(ticket))
            finally:
                self._leave(ticket)
        finally:
            self._leave(ticket)

    def ticket(self, deadline: float) -> Request:
        """A ticket for :meth:`seize`, around a fork, where :meth:`hold` cannot be used. It is made
        first, so that :meth:`release` works even if an exception interrupts :meth:`seize`."""
        return Request(None, durable=False, may_be_uncertain=False, deadline=deadline)

    def seize(self, ticket: Request) -> bool:
        """Take the lead and keep it: nobody writes until :meth:`release`, which must follow in any case.
        Returns whether the lead was free in time."""
        if is_held_here(self._mutex):
            return False
        try:
            self._stand_in_line(ticket)
        except BackendUnavailableError:
            return False
        return ticket.state is _LEADING

    def release(self, ticket: Request) -> None:
        """Pass the lead on, if :meth:`seize` got it. Idempotent; call it twice, in nested
        ``finally``."""
        self._leave(ticket)

    # --- waiting --------------------------------------------------------------------------------------

    def _stand_in_line(self, request: Request) -> None:
        """Return once the request leads or is done; raise at its deadline."""
        with self._mutex:
            if self._leader is None and not request.may_wait:
                self._leader = request.thread
                request.state = _LEADING
                return
            # Also behind a request of its own: that may come to lead, and nobody would.
            mine = self._in_line.get(request.thread)
            if self._leader == request.thread or (mine is not None and mine.state is not _DONE):
                request.state = _DONE
                raise nested()
            self._in_line[request.thread] = request
            self._waiting.append(request)
        if request.may_wait and self._is_served(request):
            return
        while True:
            left = request.deadline - machine_time()
            if request.wake.acquire(timeout=max(0.0, min(left, _LONGEST_WAIT))):
                return
            if left > _LONGEST_WAIT:
                continue
            with self._mutex:
                if request in self._waiting:
                    raise _too_late()
                if request.state is not _WAITING:
                    return  # it was done, or got the lead, just now
                if request.may_be_uncertain:
                    raise CommitUnknown
            # It is in a transaction that already has the lock, and will end.
            request.wake.acquire()
            return

    def _is_served(self, request: Request) -> bool:
        """Wait for the transaction of another thread; whether it was executed, or leads now itself."""
        if request.wake.acquire(timeout=PATIENCE):
            return True
        with self._mutex:
            others = [other for other in self._waiting if other is not request]
            request.may_wait = False
            if self._leader is None and len(others) < len(self._waiting):
                self._waiting = others
                self._leader = request.thread
                request.state = _LEADING
                return True
        return False

    def _leave(self, request: Request) -> None:
        """Withdraw the request, or end its lead and promote the next one. Idempotent."""
        if request.state is _DONE:
            return
        if request.state is _LEADING:
            self._settle()
        with self._mutex:
            if request.state is _WAITING:
                others = [other for other in self._waiting if other is not request]
                request.state = _DONE  # also in a group: its caller no longer waits
                self._waiting = others
            elif request.state is _LEADING:
                heirs = [other for other in self._waiting if not other.may_wait]
                if not heirs:  # patient requests wake up by themselves
                    request.state = _DONE
                    self._leader = None
                    return
                heir = heirs[0]
                others = [other for other in self._waiting if other is not heir]
                request.state = _DONE
                self._waiting = others
                heir.state = _LEADING
                self._leader = heir.thread
                heir.wake.release()

    # --- leading --------------------------------------------------------------------------------------

    def _lead(self, leader: Request) -> None:
        """Run the leader's operation and the waiting ones in one transaction."""
        # The synchronous mode cannot be changed inside a transaction, so it is set before, by the
        # requests that wait then.
        durable = leader.durable or any([request.durable for request in self._waiting])
        try:
            sql = self._connect(leader.deadline)
            sql.deadline = leader.deadline
            sql.synchronous(durable)
            while not self._transact(sql, leader, durable):
                pass
        except apsw.Error as error:
            if leader.error is None:
                leader.error = error
            self._roll_back()
            if needs_reopening(error):
                self._drop(error)

    def _transact(self, sql: Sql, leader: Request, durable: bool) -> bool:
        """One transaction; False if it must be repeated without one of its operations."""
        self._sql = sql
        sql.do("BEGIN IMMEDIATE")
        if durable:
            self._prepare()
        self._gather(leader, durable)
        if self._run_group(sql):
            sql.roll_back()
            # The lock is free now, and another process may keep it: the others stand in line again,
            # where their time can end.
            self._settle()
            return leader.error is not None
        self._commit(sql, durable)
        return True

    def _gather(self, leader: Request, durable: bool) -> None:
        """Add the waiting requests to the group, after the lock was acquired: until then they may
        withdraw."""
        with self._mutex:
            fit = [r for r in self._waiting if r.operation is not None and (durable or not r.durable)]
            fit = fit[: GROUP_LIMIT - 1]
            late = [r for r in self._waiting if r not in fit] if fit else self._waiting
            group = [leader, *fit]
            self._group = group
            self._waiting = late

    def _run_group(self, sql: Sql) -> bool:
        """Run all members that are not done; whether one failed half way, so that all must be rolled
        back."""
        for request in self._group:
            if request.error is not None or request.operation is None:
                continue
            changes = sql.connection.total_changes()
            try:
                request.result = request.operation(sql)
            except OPERATION_ERRORS as error:
                request.error = error
                if isinstance(error, apsw.Error) and needs_reopening(error):
                    self._spread(error)
                    raise
                if not sql.connection.in_transaction or sql.connection.total_changes() != changes:
                    return True
        return False

    def _commit(self, sql: Sql, durable: bool) -> None:
        self._stage = _COMMITTING
        try:
            sql.do("COMMIT")
        except apsw.Error as error:
            self._stage = _REFUSED
            self._spread(CommitUnknown() if leaves_doubt(error) else error)
            raise
        if durable:
            try:
                self._confirm()
            except BackendUnavailableError as error:
                self._stage = _REFUSED
                self._spread(CommitUnknown())
                self._drop(error)

    def _spread(self, error: BaseException) -> None:
        for request in self._group:
            if request.error is None:
                request.error = error

    def _drop(self, error: BaseException) -> None:
        self._sql = None
        self._discard(error)

    def _roll_back(self) -> None:
        if self._sql is not None:
            try:
                self._sql.roll_back()
            except apsw.Error as error:
                self._drop(error)

    def _settle(self) -> None:
        """End the transaction in any stage, and return the results or put the group back in line."""
        sql = self._sql
        if sql is not None and sql.connection.in_transaction:
            self._stage = _OPEN
            self._roll_back()
        now = machine_time()
        with self._mutex:
            committed = self._stage is _COMMITTING
            for request in self._group:
                if not committed and request.deadline <= now and request.error is None:
                    request.error = _too_late()  # it waits without a limit since then
                if request.state is _WAITING and (committed or request.error is not None):
                    request.state = _DONE
                    request.wake.release()
            back = [request for request in self._group if request.state is _WAITING]
            waiting = back + self._waiting
            self._waiting = waiting
            self._group = []
            self._stage = _OPEN
            self._sql = None
