"""One store as this process has it open: when it is opened, checked, closed, and by whom it is used.
Must not know the verbs: they hand in functions that get a connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import apsw

from ...errors import BackendUnavailableError
from . import schema
from .connection import Sql, machine_time
from .location import StoreFile
from .readers import Readers
from .trouble import needs_reopening, translate
from .writer import Writer

T = TypeVar("T")

TIMEOUT = 5.0
"""Seconds that a verb without a limit of its own waits for other writers."""

_CHECK_EVERY = 1.0
_FORK_TIMEOUT = 5.0


class Store:
    """A writer, readers and the file they are on. It opens itself at the first use.

    :param path: absolute.
    :param synchronous: whether commits that say so are flushed to the disk.
    :param boot: identifies this boot of the host.
    """

    def __init__(self, path: str, *, synchronous: bool, boot: str) -> None:
        self.file = StoreFile(path)
        self.writer = Writer(self._writing, confirm=self.file.verify, discard=self._discard)
        self.readers = Readers(self._connect_reader)
        self.last_error: BackendUnavailableError | None = None
        """Why the last write failed; ``None`` after one that did not."""
        self._flushes = synchronous
        self._boot = boot
        self._write: Sql | None = None
        self._checked_at = 0.0
        self._unfit = ""

    # --- use -----------------------------------------------------------------------------------------

    def write(
        self,
        operation: Callable[[Sql], T],
        *,
        full: bool = False,
        timeout: float = TIMEOUT,
        doubts: bool = False,
    ) -> T:
        """Run an operation in a write transaction, with those of other threads (``Writer.submit``)."""
        deadline = machine_time() + timeout
        try:
            result = self.writer.submit(
                operation, full=full and self._flushes, deadline=deadline, doubts=doubts
            )
        except apsw.Error as error:
            problem = translate(error, self.file.path)
            if isinstance(problem, BackendUnavailableError):
                self.last_error = problem
            raise problem from error
        except BackendUnavailableError as error:
            self.last_error = error
            raise
        self.last_error = None
        return result

    def read(self, operation: Callable[[Sql], T], *, timeout: float = TIMEOUT) -> T:
        """Run a reading operation on a connection of its own; writers are not held up."""
        deadline = machine_time() + timeout
        if self._write is None:
            self.write(lambda sql: None, timeout=timeout)
        elif machine_time() - self._checked_at >= _CHECK_EVERY:
            try:
                self.file.verify()
            except BackendUnavailableError as error:
                self._discard_from_outside(error, deadline)
                raise
            self._checked_at = machine_time()
        try:
            with self.readers.lend(deadline) as sql:
                return operation(sql)
        except apsw.Error as error:
            if needs_reopening(error):
                self.readers.renew()
            raise translate(error, self.file.path) from error

    # --- connections ----------------------------------------------------------------------------------

    def _writing(self, deadline: float) -> Sql:
        """The write connection, for the leader."""
        if self._unfit:
            raise BackendUnavailableError(self._unfit, reason="closed")
        if self._write is None:
            self._write = self._open(deadline)
        else:
            try:
                self.file.verify()
            except BackendUnavailableError as error:
                self._discard(error)
                raise
        return self._write

    def _open(self, deadline: float) -> Sql:
        with self.file.creating:
            identity = self.file.prepare()
            sql = Sql(self.file.path, deadline=deadline)
            try:
                schema.ensure(sql, self.file.path, self._boot)
                self.file.remember(identity)
                self.file.verify()
            except BaseException:
                sql.close(checkpoint=False)
                raise
        self.readers.renew()
        self._checked_at = machine_time()
        return sql

    def _connect_reader(self, deadline: float) -> Sql:
        sql = Sql(self.file.path, deadline=deadline)
        sql.rows("PRAGMA query_only = ON")
        return sql

    def _discard(self, error: BaseException) -> None:
        """Give up all connections after an error; the next use opens the store again (leader only)."""
        sql, self._write = self._write, None
        if sql is not None:
            with suppress(apsw.Error):
                sql.close(checkpoint=False)
        self.readers.renew()

    def _discard_from_outside(self, error: BaseException, deadline: float) -> None:
        seized = self.writer.seize(deadline)
        if seized is not None:
            try:
                self._discard(error)
            finally:
                self.writer.release(seized)

    # --- closing and forking ---------------------------------------------------------------------------

    def close(self, *, checkpoint: bool = True, timeout: float = TIMEOUT) -> bool:
        """Close every connection; whether all of them could be had in time."""
        shut = self._shut(machine_time() + timeout, checkpoint=checkpoint)
        self._reopen(shut)
        self.file.forget()
        return shut is not None

    def _shut(self, deadline: float, *, checkpoint: bool) -> object | None:
        """Stop everybody and close every connection. Returns what :meth:`_reopen` needs."""
        seized = self.writer.seize(deadline)
        if seized is None:
            return None
        if not self.readers.shut(deadline, checkpoint=checkpoint):
            self._reopen(seized)
            return None
        sql, self._write = self._write, None
        if sql is not None:
            sql.close(checkpoint=checkpoint)
        return seized

    def _reopen(self, seized: object | None) -> None:
        self.readers.open()
        if seized is not None:
            self.writer.release(seized)
