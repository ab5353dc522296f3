"""One connection as every part here wants it: pragmas, bounded waiting for locks, no open cursors.
Must not know a table."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import apsw

from ...clock import SystemClock

Row = tuple[Any, ...]
Value = str | int | float | bytes | None
Bindings = Sequence[Value] | Mapping[str, Value]

sqlite_version: str = apsw.sqlite_lib_version()

machine_time = SystemClock.monotonic
"""For waiting: a deadline passes in real time even where a test holds the package's clock."""

_NAP = 0.001
"""Seconds between two tries for a lock. Growing naps let whoever just wrote win again and again: of
three processes that wrote all the time one waited 1.8 s, at a steady millisecond 0.3 s."""


class Sql:
    """A connection and the one cursor that all its statements go through.

    Every answer is fetched whole at once: an open cursor would keep checkpoints from finishing.
    """

    _open: ClassVar[Counter[str]] = Counter()
    _guard: ClassVar[threading.Lock] = threading.Lock()

    __slots__ = ("_cursor", "_full", "_path", "connection", "deadline", "queues")

    def __init__(self, path: str, *, deadline: float) -> None:
        self.deadline = deadline
        self._full: bool | None = None
        self.queues: set[str] = set()
        """Queues whose row is known to be stored, or is stored in the open transaction."""
        self.connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        self._path = path
        with self._guard:
            self._open[path] += 1
        self.connection.set_busy_handler(self._busy)
        # Checkpoints belong to maintenance alone: a caller never pays for one.
        self.connection.wal_autocheckpoint(0)
        self._cursor = self.connection.cursor()
        # Memory-mapped files end a process by SIGBUS when the disk fails or the file is cut.
        for pragma in ("temp_store = MEMORY", "mmap_size = 0", "trusted_schema = OFF"):
            self.rows(f"PRAGMA {pragma}")

    def _busy(self, tries: int) -> bool:
        """Called by SQLite when a lock is taken: whether to try again."""
        left = self.deadline - machine_time()
        if left <= 0:
            return False
        time.sleep(min(left, _NAP))
        return True

    def run(self, statement: str, bindings: Bindings = ()) -> int:
        """Execute a writing statement; return how many rows it changed."""
        self._cursor.execute(statement, bindings)
        return self.connection.changes()

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

    def synchronous(self, full: bool) -> None:
        """Whether the commits from now on survive a power cut (outside of a transaction only)."""
        if full is not self._full:
            # Forgotten first: if the statement fails the mode is not known.
            self._full = None
            self._cursor.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._full = full

    def roll_back(self) -> None:
        """End an open transaction, if any, without effect."""
        self.queues.clear()
        if self.connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def close(self, *, checkpoint: bool = True) -> None:
        """Close. The last connection to a store also empties its WAL, unless told not to."""
        if not checkpoint:
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.connection.close(True)
        with self._guard:
            self._open[self._path] -= 1

    @classmethod
    def how_many(cls, path: str) -> int:
        """The connections that this process has open on a path."""
        return cls._open[path]

    @classmethod
    def forget_others(cls) -> None:
        """In a forked child: whatever was open is not the child's."""
        cls._open = Counter()
        cls._guard = threading.Lock()
