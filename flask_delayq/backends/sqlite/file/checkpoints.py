"""Checkpoints: copy the WAL into the store, so that the WAL restarts from its beginning.
Must not know jobs.

A commit restarts the WAL only when all of it has been copied and nobody reads from it. While other
threads or processes write all the time, a copy is never complete. So the last part is copied while
writers are blocked: first only those of this process, which is enough if no other process writes; above
HOLD_ALL_BYTES those of all processes, for the small rest.
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
"""Bytes in the WAL that are not in the store yet, above which the next turn copies them."""

HOLD_ALL_BYTES = 16 * 2**20
"""Bytes above which other processes must be writing as well: they are blocked for the last part."""

RELIEF_BYTES = 48 * 2**20
"""Bytes above which the enqueueing thread copies them: nobody else does, or not fast enough."""

RELIEF_STEP = 16 * 2**20
"""Bytes by which the WAL must have grown before it tries again after a failure."""

TRUNCATE_BYTES = 64 * 2**20
"""A larger WAL file is truncated when all of it has been copied and nobody writes."""

WARN_BYTES = 2 * TRUNCATE_BYTES

REST_TIMEOUT = 0.05
"""Seconds that the last part of a copy waits for the write lock."""

URGENT_TIMEOUT = 0.25
"""The same above half of :data:`TRUNCATE_BYTES`, where a failed try costs more than it saves."""

_SLACK = 256  # frames that a short read may keep from being copied without being in the way

_PAGE = 4096

_UNKNOWN, _READ, _WRITERS, _NONE = range(4)
_CAUSES = {
    _UNKNOWN: "either a read that does not end (a backup, a shell) prevents checkpoints, or no process "
    "runs jobs (such processes do the checkpoints)",
    _READ: "a read that does not end prevents checkpoints (a backup, a shell, a program with an open "
    "query?)",
    _WRITERS: "more is written during a checkpoint than the disk can copy",
    _NONE: "all of it is in the store, and the file is truncated when nobody writes for a moment",
}


class Checkpoints:
    """The checkpoints of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = (0, 0)
        self._relieve_above = 0
        self._obstacle = _UNKNOWN

    def turn(self) -> bool:
        """Copy the WAL into the store if it is long, or if nobody has written since the last call; True
        if it may be long again soon. One thread calls this again and again."""
        return self._store.is_open and self._store.read(self._checkpoint, snapshot=False)

    def relieve(self) -> None:
        """Copy the WAL in the caller's thread if it has become much too long; else do nothing."""
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
        # Without blocking anybody: if a lock is not free, the next call tries again.
        sql.deadline = 0.0
        before = self._seen
        try:
            sql.value("PRAGMA data_version")  # the connection notices what others wrote
            frames = sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.BusyError:  # a reader gets this, too, at the moment of a restart of the WAL
            return True
        self._seen = frames
        with suppress(apsw.BusyError):  # another process does a checkpoint, or somebody reads
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
                # Takes the write lock without waiting; fails if there is a reader.
                sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _copy_the_rest(self, sql: Sql) -> None:
        """Copy the frames that were written during the copy, while writers are blocked.

        Only then does the next commit restart the WAL, in blocks that the file already has. A commit
        that extends the file takes half as long again (ext4 writes its journal).
        """
        size = self._seen[0] * _PAGE
        if size > HOLD_ALL_BYTES:
            urgent = size > TRUNCATE_BYTES // 2
            sql.deadline = machine_time() + (URGENT_TIMEOUT if urgent else REST_TIMEOUT)
            sql.nap = NAP / 5  # busy writers release the lock only for a moment
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
        """A note if the WAL file is longer than it should be, with the reason if known; else empty.

        :param size: its size in bytes.
        """
        if size <= WARN_BYTES:
            return ""
        return f"the WAL has {size:,} bytes: {_CAUSES[self._obstacle]}"


def file_size(path: str) -> int:
    """The size of a file in bytes, 0 if there is none; never opens it."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
