"""One store as this process has it open: when it is opened, checked, closed, and by whom it is used.
Must not know the verbs: they hand in functions that get a connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import apsw

from ...errors import BackendUnavailableError
from . import forking, schema, sidecars
from .connection import Sql, machine_time
from .headroom import Headroom
from .location import StoreFile
from .readers import Readers
from .trouble import CommitUnknown, needs_reopening, translate
from .writer import Writer

T = TypeVar("T")

TIMEOUT = 5.0
"""Seconds that a verb without a limit of its own waits for other writers."""

_CHECK_EVERY = 1.0

_inherited: dict[str, list[Sql | None]] = {}
"""Stores that were open when this process was forked, by path, with their connections: to be left
alone, not even closed, since closing would drop locks that are not ours."""


class Store:
    """A writer, readers and the file they are on. It opens itself at the first use.

    :param path: absolute.
    :param synchronous: whether commits that say so are flushed to the disk.
    :param boot: identifies this boot of the host.
    """

    def __init__(self, path: str, *, synchronous: bool, boot: str) -> None:
        self.file = StoreFile(path)
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
        self.flushes = synchronous
        self._boot = boot
        self._write: Sql | None = None
        self._checked_at = 0.0
        self._seized: object | None = None
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
        full: bool = False,
        timeout: float = TIMEOUT,
        doubts: bool = False,
        patient: bool = False,
    ) -> T:
        """Run an operation in a write transaction, with those of other threads (``Writer.submit``).

        :raises CommitUnknown: with ``doubts`` only.
        """
        deadline = machine_time() + timeout
        try:
            result = self.writer.submit(
                operation, full=full and self.flushes, deadline=deadline, doubts=doubts, patient=patient
            )
        except CommitUnknown as error:
            if doubts:
                raise
            # Every other operation is safe to repeat: the claims and moments it compares say so.
            raise BackendUnavailableError(
                f"the store {self.file.path} failed while it stored something; try again", reason="io"
            ) from error
        except apsw.Error as error:
            problem = translate(error, self.file.path)
            if isinstance(problem, BackendUnavailableError):
                self.last_error = problem
            raise problem from error
        except BackendUnavailableError as error:
            self.last_error = error
            raise
        if full:
            self.last_error = None
        return result

    def read(
        self, operation: Callable[[Sql], T], *, timeout: float = TIMEOUT, snapshot: bool = True
    ) -> T:
        """Run a reading operation on a connection of its own; writers are not held up.

        :param snapshot: all its statements see the store at one moment.
        """
        deadline = machine_time() + timeout
        if self._write is None:
            self._open_now(deadline)
        elif machine_time() - self._checked_at >= _CHECK_EVERY:
            try:
                self.file.verify()
            except BackendUnavailableError as error:
                self._discard_from_outside(error, deadline)
                raise
            self._checked_at = machine_time()
        try:
            with self.readers.lend(deadline) as sql:
                if not snapshot:
                    return operation(sql)
                sql.rows("BEGIN")
                try:
                    return operation(sql)
                finally:
                    sql.roll_back()
        except apsw.Error as error:
            if needs_reopening(error):
                self.readers.renew()
            raise translate(error, self.file.path) from error

    # --- connections ----------------------------------------------------------------------------------

    def _writing(self, deadline: float) -> Sql:
        """The write connection, for the leader."""
        if self.file.path in _inherited:
            raise BackendUnavailableError(
                f"this process was forked while the store {self.file.path} was in use and could not be "
                f"closed in time; it cannot use the store, its parent can",
                reason="closed",
            )
        if self._write is None:
            self._write = self._open(deadline)
        else:
            try:
                self.file.verify()
            except BackendUnavailableError as error:
                self._discard(error)
                raise
        return self._write

    def _open_now(self, deadline: float) -> None:
        """Open the store without a write, which a file that is read-only would refuse."""
        seized = self.writer.seize(deadline)
        if seized is None:
            raise BackendUnavailableError(f"the store {self.file.path} is busy", reason="locked")
        try:
            self._writing(deadline)
        except apsw.Error as error:
            raise translate(error, self.file.path) from error
        finally:
            self.writer.release(seized)

    def _open(self, deadline: float) -> Sql:
        with self.file.creating:
            identity = self.file.prepare()
            if self.file.is_another(identity):
                sidecars.check_free(self.file.path)
            sql = Sql(self.file.path, deadline=deadline)
            try:
                schema.ensure(sql, self.file.path, self._boot)
                self.headroom.watch(sql)
                self.file.remember(identity)
                self.file.verify()
            except BaseException:
                sql.close()
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
        self.readers.renew()
        if sql is None:
            return
        if isinstance(error, BackendUnavailableError):
            # The file was moved away or overwritten: what its WAL holds goes where it belongs.
            sql.deadline = machine_time() + 1.0
            with suppress(apsw.Error):
                sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with suppress(apsw.Error):
            sql.close(checkpoint=False)

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
        if shut is not None:
            self.file.forget()
        self._reopen(shut)
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

    def before_fork(self, timeout: float) -> None:
        """Close every connection, if all of them can be had in time."""
        self._seized = self._shut(machine_time() + timeout, checkpoint=False)

    def after_fork_in_parent(self) -> None:
        """Open again at the next use."""
        seized, self._seized = self._seized, None
        self._reopen(seized)

    def after_fork_in_child(self) -> None:
        """Begin anew, or refuse the store if it came over open."""
        if self._seized is None:
            _inherited[self.file.path] = [self._write, *self.readers.inherited()]
        self._seized = self._write = None
        self.file.forget_lock()
        Sql.forget_others()
        self.writer.reset()
        self.readers.reset()

    def _reopen(self, seized: object | None) -> None:
        self.readers.open()
        if seized is not None:
            self.writer.release(seized)
