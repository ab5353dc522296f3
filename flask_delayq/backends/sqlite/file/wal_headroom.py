"""Extends the WAL file before commits need it. On most file systems a commit that extends the file takes
half as long again, because the file system must write its own journal.
Must not know what is committed.

It appends zeros. SQLite reads a WAL up to the first invalid frame, and a frame with page number 0 is
invalid (https://www.sqlite.org/fileformat2.html#walformat). So the zeros are like the old bytes behind
the last frame after a restart of the WAL. It happens inside a write transaction, so nobody else
writes there or truncates the file. ``O_APPEND`` overwrites nothing, even if the path leads to another
file meanwhile. SQLite has no locks on this file, so closing it releases none.
"""

from __future__ import annotations

import os

import apsw

from ..host import folders
from .connection import Sql

STEP = 2**20
"""Bytes by which the file is extended, which takes less than a millisecond."""

AHEAD = 2**18
"""The file is extended if fewer bytes than this are left."""

SPARE = 64 * 2**20
"""Bytes that must be free on the disk: a nearly full disk must not be filled with zeros."""

_HEADER, _FRAME_HEADER = 32, 24
_ZEROS = bytes(STEP)


class Headroom:
    """Extends the WAL of one store."""

    def __init__(self) -> None:
        self._wal = ""
        self._frame = 4096 + _FRAME_HEADER
        self.used = 0
        """Used bytes of the WAL, after the last commit of this process."""
        self._size = 0

    def watch(self, sql: Sql) -> None:
        """Note after each commit of a connection how many bytes of the WAL are used."""
        self._wal = os.fsdecode(
            sql.connection.filename_wal.encode()
        )  # beside the file itself, where the path is a link
        self._frame = sql.value("PRAGMA page_size") + _FRAME_HEADER
        self.used = self._size = 0
        sql.connection.set_wal_hook(self._note)

    def _note(self, connection: apsw.Connection, name: str, frames: int) -> int:
        used = _HEADER + frames * self._frame
        if used < self.used:
            self._size = 0  # it was restarted, and perhaps truncated
        self.used = used
        return apsw.SQLITE_OK

    def expect_new_beginning(self) -> None:
        """All of the WAL was copied into the store, so the next commit restarts it."""
        self.used = self._size = 0

    def make(self) -> None:
        """Extend the file if little is left; call it while the write lock is held.

        Never raises: if it fails, the commit is only slower.
        """
        if self._size - self.used >= AHEAD or not self.used:
            return  # a process that stores one job and ends needs none
        # Where it fails it is tried again a step later.
        self._size = self.used + AHEAD + STEP
        try:
            disk = os.statvfs(os.path.dirname(self._wal))
            if disk.f_bavail * disk.f_frsize < SPARE:
                return
            wal = os.open(self._wal, os.O_WRONLY | os.O_APPEND | folders.SAFELY)
            try:
                size = os.fstat(wal).st_size
                if size - self.used < AHEAD:
                    size += os.write(wal, _ZEROS)
                self._size = size
            finally:
                os.close(wal)
        except (AttributeError, OSError):  # no statvfs on Windows; no WAL yet; a full disk
            return
