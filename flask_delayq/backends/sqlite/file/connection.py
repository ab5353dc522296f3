"""One connection: its pragmas, bounded waits for locks, no open cursors.
Must not know a table."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import apsw

from ....clock import machine_time

Row = tuple[Any, ...]
Value = str | int | float | bytes | None
Bindings = Sequence[Value] | Mapping[str, Value]

sqlite_version: str = apsw.sqlite_lib_version()

NAP = 0.001
"""Seconds between two tries for a lock. With growing naps the last writer wins again and again: of three
processes that wrote all the time one waited 1.8 s; with a constant millisecond it waited 0.3 s."""


class Sql:
    """A connection and the one cursor that all its statements go through.

    All rows of a result are fetched at once: an open cursor would prevent checkpoints.
    """

    # Changed by single steps, without a lock: a signal handler may open a store in the middle of that.
    _open: ClassVar[set[tuple[str, int, int]]] = set()  # path, process, number
    _numbers: ClassVar[Iterator[int]] = itertools.count()

    __slots__ = (
        *("__weakref__", "_cursor", "_durable", "_name", "connection", "deadline", "made", "nap", "pid"),
        "queues",
    )

    def __init__(self, path: str, *, deadline: float) -> None:
        self.deadline = deadline
        self.nap = NAP
        self._durable: bool | None = None
        self.queues: set[str] = set()
        """Queues whose row is stored, or is being stored in the open transaction."""
        self.made: set[str] = set()
        """What is made on demand (tables, indexes) and known to be there, in the same sense."""
        self.pid = os.getpid()
        """The process that opened it, the only one that may use it."""
        self._name = (path, self.pid, next(self._numbers))
        self._open.add(self._name)
        try:
            self.connection = apsw.Connection(
                os.fsencode(path).decode(), flags=apsw.SQLITE_OPEN_READWRITE
            )
        except BaseException:
            self._open.discard(self._name)
            raise
        try:
            self._prepare()
        except BaseException:
            self.close(checkpoint=False)
            raise

    def _prepare(self) -> None:
        # No reference cycle: so a connection is closed as soon as it is dropped.
        me = weakref.ref(self)
        self.connection.set_busy_handler(lambda tries: (sql := me()) is not None and sql._busy(tries))
        # No automatic checkpoints: maintenance does them, so that callers do not wait.
        self.connection.wal_autocheckpoint(0)
        # Else this build (ENABLE_STAT4) prepares a statement anew whenever a moment in it has changed.
        self.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        self._cursor = self.connection.cursor()
        # No memory mapping: SIGBUS would end the process if the disk fails or the file is truncated.
        for pragma in ("temp_store = MEMORY", "mmap_size = 0", "trusted_schema = OFF"):
            self.rows(f"PRAGMA {pragma}")
        # On macOS a normal flush leaves the data in the drive's cache.
        for pragma in ("fullfsync = ON", "checkpoint_fullfsync = ON"):
            self.rows(f"PRAGMA {pragma}")

    def _busy(self, tries: int) -> bool:
        """Called by SQLite if a lock is not free: whether to try again."""
        left = self.deadline - machine_time()
        if left <= 0:
            return False
        time.sleep(min(left, self.nap))
        return True

    def run(self, statement: str, bindings: Bindings = ()) -> int:
        """Execute a writing statement; return how many rows it changed."""
        self._cursor.execute(statement, bindings)
        return self.connection.changes()

    def do(self, statement: str, bindings: Bindings = ()) -> None:
        """Execute a statement of which no answer is wanted."""
        self._cursor.execute(statement, bindings)

    def run_many(self, statement: str, rows: Iterable[Bindings]) -> None:
        """Execute a writing statement once for each row of bindings."""
        self._cursor.executemany(statement, rows)

    def rows(self, statement: str, bindings: Bindings = ()) -> list[Row]:
        """All rows of a query."""
        return self._cursor.execute(statement, bindings).fetchall()

    def row(self, statement: str, bindings: Bindings = ()) -> Row | None:
        """The first row of a query, or ``None``."""
        found = self._cursor.execute(statement, bindings).fetchall()
        return found[0] if found else None

    def value(self, statement: str, bindings: Bindings = ()) -> Any:
        """The first column of the first row, or ``None``."""
        found = self._cursor.execute(statement, bindings).fetchall()
        return found[0][0] if found else None

    def synchronous(self, durable: bool) -> None:
        """Set whether later commits survive a power cut (only outside of a transaction)."""
        if durable is not self._durable:
            # Forgotten first: if the statement fails the mode is not known.
            self._durable = None
            self._cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def roll_back(self) -> None:
        """Roll back an open transaction, if any."""
        self.queues.clear()
        self.made.clear()
        if self.connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def close(self, *, checkpoint: bool = True) -> None:
        """Close. The last connection to a store also empties its WAL, unless told not to."""
        if not checkpoint:
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.connection.close(True)
        self._open.discard(self._name)

    def __del__(self) -> None:
        if hasattr(self, "_name"):  # an exception may have interrupted __init__
            self._open.discard(self._name)  # apsw closes a connection that is dropped

    @classmethod
    def how_many(cls, path: str) -> int:
        """The number of connections that this process has open on a path."""
        here = os.getpid()
        return sum(name == path and pid == here for name, pid, _ in cls._open.copy())

    @classmethod
    def is_inherited(cls, path: str) -> bool:
        """Whether connections on a path were open when the parent forked this process."""
        here = os.getpid()
        return any(name == path and pid != here for name, pid, _ in cls._open.copy())
