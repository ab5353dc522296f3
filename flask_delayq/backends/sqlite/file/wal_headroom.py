"""Room at the end of the WAL, made before commits need it: on most file systems a commit that lengthens
the file takes half as long again, as the file system must write its own journal for it.
Must not know what is committed.

What is appended is zeros. SQLite reads a WAL up to the first frame that is not valid, and one whose page
number is 0 never is (https://www.sqlite.org/fileformat2.html#walformat), so they are like what is left
behind the last frame whenever a WAL begins anew. It happens inside a write transaction, so nobody else
writes there or cuts the file; and they are appended (``O_APPEND``), so that they overwrite nothing even
where the path leads to another file by now. SQLite keeps no locks on this file: closing it drops none.
"""

from __future__ import annotations

import os

import apsw

from ..host import folders
from .connection import Sql

STEP = 2**20
"""Bytes by which the file is lengthened, which takes less than a millisecond."""

AHEAD = 2**18
"""Bytes: the file is lengthened when less than this is left."""

SPARE = 64 * 2**20
"""Bytes that must be free on the disk: a nearly full one is not filled with zeros."""

_HEADER, _FRAME_HEADER = 32, 24
_ZEROS = bytes(STEP)


class Headroom:
    """Makes room in the WAL of one store."""

    def __init__(self) -> None:
        self._wal = ""
        self._frame = 4096 + _FRAME_HEADER
        self.used = 0
        """Bytes of the WAL that hold commits, as of the last one of this process."""
        self._size = 0

    def watch(self, sql: Sql) -> None:
        """Learn from each commit of a connection how far the WAL is used."""
        self._wal = os.fsdecode(
            sql.connection.filename_wal.encode()
        )  # beside the file itself, where the path is a link
        self._frame = sql.value("PRAGMA page_size") + _FRAME_HEADER
        self.used = self._size = 0
        sql.connection.set_wal_hook(self._note)

    def _note(self, connection: apsw.Connection, name: str, frames: int) -> int:
        used = _HEADER + frames * self._frame
        if used < self.used:
            self._size = 0  # it began anew, and may have been cut
        self.used = used
        return apsw.SQLITE_OK

    def expect_new_beginning(self) -> None:
        """All of the WAL was copied into the store, so the next commit writes at its beginning."""
        self.used = self._size = 0

    def make(self) -> None:
        """Lengthen the file if little is left; called while the write lock is held.

        Never raises: without room the commit is slower, that is all.
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
