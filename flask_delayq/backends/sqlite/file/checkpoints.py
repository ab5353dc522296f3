"""Copying the WAL into the store, so that it begins anew: when, by whom, and who waits for it.
Must not know jobs.

A commit begins the WAL anew only when everything in it has been copied and nobody reads from it. Beside
processes that write all the time a copy is never complete, because they go on writing meanwhile. So the
last part is copied while nobody can write: at first only the threads of this process are held up, which
is enough where no other process writes; above HOLD_ALL_BYTES all processes are, for the little that is
left by then.
"""

from __future__ import annotations

import os
from contextlib import suppress

import apsw

from ....clock import machine_time
from ....errors import BackendError
from .connection import NAP, Sql
from .store import Store

PASSIVE_BYTES = 4 * 2**20
"""With so much in the WAL that is not in the store yet, it is copied at the next turn."""

HOLD_ALL_BYTES = 16 * 2**20
"""With so much in the WAL the other processes write as well: they are held up for the last part."""

RELIEF_BYTES = 48 * 2**20
"""With so much in the WAL the thread that enqueued copies it: nobody else does, or not fast enough."""

RELIEF_STEP = 16 * 2**20
"""Bytes by which the WAL must have grown before that is tried again in vain."""

TRUNCATE_BYTES = 64 * 2**20
"""A larger WAL file is cut when everything in it has been copied and nobody writes."""

WARN_BYTES = 2 * TRUNCATE_BYTES

REST_TIMEOUT = 0.05
"""Seconds that the last part of a copy waits for its turn among the writers."""

URGENT_TIMEOUT = 0.25
"""The same above half of :data:`TRUNCATE_BYTES`, where a turn in vain costs more than it saves."""

_SLACK = 256  # frames that a short read may keep from being copied without being in the way

_PAGE = 4096

_UNKNOWN, _READ, _WRITERS, _NONE = range(4)
_CAUSES = {
    _UNKNOWN: "either a read that goes on (a backup, a shell) keeps it from being copied into the "
    "store, or no process runs jobs: those copy it",
    _READ: "a read that goes on keeps it from being copied into the store (a backup, a shell, a "
    "program with an open query?)",
    _WRITERS: "more is written than the disk takes while it is copied into the store",
    _NONE: "all of it is in the store, and the file is cut as soon as nobody writes for a moment",
}


class Checkpoints:
    """Looks after the WAL of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = (0, 0)
        self._relieve_above = 0
        self._obstacle = _UNKNOWN

    def turn(self) -> bool:
        """Copy the WAL into the store when it is long or nobody has written since the last call; True if
        it may be long again soon. For one thread that does this again and again."""
        return self._store.is_open and self._store.read(self._checkpoint, snapshot=False)

    def relieve(self) -> None:
        """Copy it in the caller's thread if it has become much too long; else cost nothing."""
        used = self._store.headroom.used
        if used < RELIEF_BYTES:
            self._relieve_above = 0
        if used < RELIEF_BYTES or used < self._relieve_above:
            return
        # Set first: one thread is enough, and where a read is in the way the next one is in vain.
        self._relieve_above = used + RELIEF_STEP
        with suppress(BackendError):  # what the caller came for is stored
            self._store.read(self._checkpoint, timeout=REST_TIMEOUT, snapshot=False)

    def _checkpoint(self, sql: Sql) -> bool:
        # In nobody's way: what cannot be locked at once is left for the next call.
        sql.deadline = 0.0
        before = self._seen
        try:
            sql.value("PRAGMA data_version")  # the connection notices what others wrote
            frames = sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.BusyError:  # also for looking, in the moment in which the WAL begins anew
            return True
        self._seen = frames
        with suppress(apsw.BusyError):  # another process is at it, or somebody reads
            self._copy_and_cut(sql, frames == before)
        return frames != before and frames[0] * _PAGE > PASSIVE_BYTES // 4

    def _copy_and_cut(self, sql: Sql, idle: bool) -> None:
        in_wal, copied = self._seen
        if in_wal > copied and (idle or (in_wal - copied) * _PAGE > PASSIVE_BYTES):
            self._obstacle = _UNKNOWN
            self._seen = sql.connection.wal_checkpoint()
            self._obstacle = _READ if self._seen[1] < in_wal - _SLACK else _WRITERS
            if self._obstacle is _WRITERS and not idle:
                self._copy_the_rest(sql)
            in_wal, copied = self._seen
            if in_wal == copied:
                self._store.headroom.expect_new_beginning()
        if in_wal == copied:
            self._obstacle = _NONE
            if idle and file_size(self._store.file.path + "-wal") > TRUNCATE_BYTES:
                # Takes the write lock, without waiting for it; with a reader in the way it gives up.
                sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _copy_the_rest(self, sql: Sql) -> None:
        """Copy what was written during the copying, while nobody writes.

        Only when nothing is left does the next commit begin the WAL anew, in blocks that the file has
        already: a commit that lengthens the file takes half as long again (ext4 writes its journal).
        """
        size = self._seen[0] * _PAGE
        if size > HOLD_ALL_BYTES:
            urgent = size > TRUNCATE_BYTES // 2
            sql.deadline = machine_time() + (URGENT_TIMEOUT if urgent else REST_TIMEOUT)
            sql.nap = NAP / 5  # those who write all the time leave the lock free for a moment only
            try:
                self._seen = sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
            finally:
                sql.nap = NAP
            return

        def copy(leads: bool) -> None:
            if leads:
                self._seen = sql.connection.wal_checkpoint()

        self._store.writer.hold(machine_time() + REST_TIMEOUT, copy)

    def warning(self, size: int) -> str:
        """A note if the WAL file has outgrown what copying should leave, and why, as far as it is known.

        :param size: of the file, in bytes.
        """
        if size <= WARN_BYTES:
            return ""
        return f"the WAL has {size:,} bytes: {_CAUSES[self._obstacle]}"


def file_size(path: str) -> int:
    """Bytes of a file, 0 if there is none; never opens it."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
