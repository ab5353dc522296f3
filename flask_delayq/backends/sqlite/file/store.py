"""One open store of this process: opens, checks and closes it, and lends its connections.
Must not know the verbs: they pass functions that get a connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import apsw

from ....clock import machine_time
from ....errors import BackendUnavailableError
from ...nesting import is_held_here, refuse_inside
from ..host import forking
from . import schema, sidecars
from .connection import Sql
from .errors import CommitUnknown, needs_reopening, translate
from .location import Identity, StoreFile
from .readers import Readers
from .requests import Request
from .wal_headroom import Headroom
from .writer import Writer

T = TypeVar("T")

TIMEOUT = 5.0
"""Seconds that a verb without a timeout of its own waits for other writers."""

_CHECK_EVERY = 1.0

_kept: list[Sql] = []
"""Connections that were open when this process was forked. They must not be used or even closed, because
SQLite's lock table for them is the parent's."""


class Store:
    """A writer, readers and their file. The first use opens it.

    :param path: absolute, without links.
    :param given: the path as it was asked for, if that is another.
    :param synchronous: whether durable commits are flushed to the disk.
    :param boot: identifies this boot of the host.
    :param clock: tells the present on the leases' clock.
    :param lives: whether an owner shows a sign of life.
    """

    def __init__(
        self,
        path: str,
        *,
        synchronous: bool,
        boot: str,
        clock: Callable[[], float],
        lives: Callable[[str], bool | None],
        given: str | None = None,
    ) -> None:
        self.file = StoreFile(path, given or path)
        self.headroom = Headroom()
        self.writer = Writer(
            self._writing,
            prepare=self.headroom.make,
            confirm=self.file.verify,
            discard=self._discard,
        )
        self.readers = Readers(self._connect_reader)
        self.last_error: BackendUnavailableError | None = None
        """Why the last write failed; ``None`` once a durable one succeeded."""
        self.failed_at = 0.0
        """When it failed, on the machine's monotonic clock."""
        self.flushes = synchronous
        self._boot = boot
        self._clock = clock
        self._lives = lives
        self._write: Sql | None = None
        self._made: set[Callable[[Sql], None]] = set()
        self._checked_at = 0.0
        self._ticket: Request | None = None
        forking.watch(self)

    @property
    def is_open(self) -> bool:
        """Whether this process has the store open now."""
        return self._write is not None

    # --- use -----------------------------------------------------------------------------------------

    def write(
        self,
        operation: Callable[[Sql], T],
        *,
        durable: bool = False,
        timeout: float = TIMEOUT,
        may_be_uncertain: bool = False,
        may_wait: bool = False,
    ) -> T:
        """Run an operation in a write transaction, with those of other threads (``Writer.run``).

        :raises CommitUnknown: with ``may_be_uncertain`` only.
        """
        deadline = machine_time() + timeout
        try:
            result = self.writer.run(
                operation,
                durable=durable and self.flushes,
                deadline=deadline,
                may_be_uncertain=may_be_uncertain,
                may_wait=may_wait,
            )
        except CommitUnknown as error:
            if may_be_uncertain:
                raise
            # Every other operation is idempotent: it compares claims or times.
            raise BackendUnavailableError(
                f"the store {self.file.path} failed while it stored something; try again", reason="io"
            ) from error
        except apsw.Error as error:
            problem = translate(error, self.file.path)
            if isinstance(problem, BackendUnavailableError):
                self._note(problem)
            raise problem from error
        except BackendUnavailableError as error:
            self._note(error)
            raise
        if durable:
            self.last_error = None
        return result

    def once(self, make: Callable[[Sql], None], timeout: float = TIMEOUT) -> float:
        """Make a table or index on demand, in a separate transaction that a later refusal does not roll
        back; returns the remaining seconds of the timeout."""
        if make in self._made:
            return timeout
        deadline = machine_time() + timeout
        self.write(make, timeout=timeout)
        self._made.add(make)
        return max(0.0, deadline - machine_time())

    def _note(self, error: BackendUnavailableError) -> None:
        self.last_error = error
        self.failed_at = machine_time()

    def read(
        self, operation: Callable[[Sql], T], *, timeout: float = TIMEOUT, snapshot: bool = True
    ) -> T:
        """Run a reading operation on a separate connection; it does not block writers.

        :param snapshot: all its statements see the same state of the store.
        """
        deadline = machine_time() + timeout
        write = self._write
        if write is None:
            if self.file.is_not_made_yet():
                return self._read_nothing(operation, deadline)
            self._open_now(deadline)
        elif write.pid != os.getpid():
            raise self._inherited()
        elif machine_time() - self._checked_at >= _CHECK_EVERY:
            try:
                self.file.verify()
            except BackendUnavailableError as error:
                self._discard_from_outside(error, deadline)
                raise
            self._checked_at = machine_time()
        try:
            if snapshot:
                return self.readers.lend(deadline, lambda sql: _at_one_moment(sql, operation))
            return self.readers.lend(deadline, operation)
        except apsw.Error as error:
            if needs_reopening(error):
                self.readers.renew()
            raise translate(error, self.file.path) from error

    def _read_nothing(self, operation: Callable[[Sql], T], deadline: float) -> T:
        """The result for a store that does not exist yet: a read does not create the file.

        It has the lead, so that a fork waits for its end: SQLite has locks for the whole process, and a
        child that is made while a thread holds one waits for it for ever.
        """

        def read_it() -> T:
            sql = Sql(":memory:", deadline=deadline)
            try:
                schema.fill(sql)
                return _at_one_moment(sql, operation)
            finally:
                sql.close(checkpoint=False)

        return self._lead(deadline, read_it)

    # --- connections ----------------------------------------------------------------------------------

    def _writing(self, deadline: float) -> Sql:
        """The write connection, for the leader."""
        if self._write is None:
            self._write = self._open(deadline)
        elif self._write.pid != os.getpid():
            raise self._inherited()
        else:
            self._write.deadline = deadline
            try:
                self.file.verify()
            except BackendUnavailableError as error:
                self._discard(error)
                raise
        return self._write

    def _inherited(self) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"this process was forked while the store {self.file.path} was open and could not be "
            f"closed; it cannot use the store, its parent can. Where a server forks after it has loaded "
            f"the application (uWSGI), use the store only after that, or load it later (lazy-apps)",
            reason="closed",
        )

    def _open_now(self, deadline: float) -> None:
        """Open the store without a write, because a read-only file would refuse it."""
        self._lead(deadline, lambda: self._writing(deadline))

    def _lead(self, deadline: float, use: Callable[[], T]) -> T:
        """Call ``use`` while nobody else writes, and return its result.

        :raises BackendUnavailableError: the lead was not free before the deadline, or ``use`` failed.
        """

        def leading(leads: bool) -> T:
            if not leads:
                raise BackendUnavailableError(f"the store {self.file.path} is busy", reason="locked")
            return use()

        try:
            return self.writer.hold(deadline, leading)
        except apsw.Error as error:
            raise translate(error, self.file.path) from error

    def _open(self, deadline: float) -> Sql:
        if Sql.is_inherited(self.file.path):
            raise self._inherited()
        sql, identity = self._connect(deadline)
        try:
            schema.ensure(sql, self.file.path, self._boot, self._clock(), self._lives)
            self.headroom.watch(sql)
            self.file.remember(identity)
            self.file.verify()
        except BaseException:
            sql.close()
            raise
        self.readers.renew()
        self._checked_at = machine_time()
        return sql

    def _connect(self, deadline: float) -> tuple[Sql, Identity]:
        """A connection to the file, and the file's identity. Creates the file if this process has not
        seen it before.

        One at a time per path: the file descriptors that create the file and check its neighbours are
        closed before a connection is opened, because closing them would release its locks. Nothing waits
        here for a lock of SQLite.
        """
        guard = self.file.guard
        refuse_inside(guard)
        try:
            try:
                if not guard.acquire(timeout=max(0.0, min(deadline - machine_time(), TIMEOUT))):
                    raise BackendUnavailableError(f"the store {self.file.path} is busy", reason="locked")
                identity = self.file.prepare()
                if self.file.is_another(identity):
                    sidecars.check_free(self.file.path)
                return Sql(self.file.path, deadline=deadline), identity
            finally:
                if is_held_here(guard):
                    guard.release()
        finally:  # as in the writer: an exception may be thrown in before the first has done it
            if is_held_here(guard):
                guard.release()

    def _connect_reader(self, deadline: float) -> Sql:
        sql = Sql(self.file.path, deadline=deadline)
        sql.rows("PRAGMA query_only = ON")
        return sql

    def _discard(self, error: BaseException) -> None:
        """Give up all connections after an error; the next use opens the store again (leader only)."""
        sql, self._write = self._write, None
        self.readers.renew()
        if sql is None:
            return
        if isinstance(error, BackendUnavailableError):
            # The file was moved away or overwritten: copy its WAL into it, if that is possible within
            # the timeout of the thread that noticed it.
            sql.deadline = min(sql.deadline, machine_time() + 1.0)
            with suppress(apsw.Error):
                sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with suppress(apsw.Error):
            sql.close(checkpoint=False)

    def _discard_from_outside(self, error: BaseException, deadline: float) -> None:

        def discard(leads: bool) -> None:
            if leads and self._write is not None:
                self._write.deadline = deadline
                self._discard(error)

        self.writer.hold(deadline, discard)

    # --- closing and forking ---------------------------------------------------------------------------

    def close(self, *, checkpoint: bool = True, timeout: float = TIMEOUT) -> bool:
        """Close all connections; whether all were free in time."""
        deadline = machine_time() + timeout

        def close_it(leads: bool) -> bool:
            try:
                try:
                    shut = leads and self._shut(deadline, checkpoint=checkpoint)
                    if shut:
                        self.file.forget()
                    return shut
                finally:
                    self.readers.open()
            finally:
                self.readers.open()

        return self.writer.hold(deadline, close_it)

    def _shut(self, deadline: float, *, checkpoint: bool) -> bool:
        """Block all operations and close all connections; whether all were free in time (leader only).
        ``readers.open`` must follow in any case."""
        if not self.readers.shut(deadline, checkpoint=checkpoint):
            return False
        sql = self._write
        if sql is not None:
            try:
                sql.close(checkpoint=checkpoint)
            finally:
                self._write = None
        return True

    def before_fork(self, timeout: float) -> None:
        """Close all connections, if all are free in time."""
        deadline = machine_time() + timeout
        self._ticket = self.writer.ticket(deadline)
        if self.writer.seize(self._ticket):
            self._shut(deadline, checkpoint=False)

    def after_fork_in_parent(self) -> None:
        """Open again at the next use."""
        ticket = self._ticket
        if ticket is None:
            return
        try:
            self._reopen(ticket)
        finally:
            self._reopen(ticket)
        self._ticket = None

    def after_fork_in_child(self) -> None:
        """Reset; a store that was open at the fork is refused when it is opened."""
        left_open = [self._write, *self.readers.inherited()]
        _kept.extend(sql for sql in left_open if sql is not None)
        self._ticket = self._write = None
        self.file.forget_lock()
        self.writer.reset()
        self.readers.reset()

    def _reopen(self, ticket: Request) -> None:
        try:
            self.readers.open()
        finally:
            self.writer.release(ticket)


def _at_one_moment(sql: Sql, operation: Callable[[Sql], T]) -> T:
    sql.rows("BEGIN")
    try:
        return operation(sql)
    finally:
        sql.roll_back()
