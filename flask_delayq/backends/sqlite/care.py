"""Upkeep and health of a store: checkpoints, free space, what a person should know about the file.
Must not know jobs."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

import apsw

from ...errors import BackendError
from ...job import Health
from ...mounts import mount_of
from .connection import Sql, machine_time, sqlite_version
from .store import Store

PASSIVE_BYTES = 4 * 2**20
"""With so much in the WAL that is not in the store yet, it is copied at the next turn."""

TRUNCATE_BYTES = 64 * 2**20
"""A larger WAL file is cut when everything in it has been copied."""

REST_TIMEOUT = 0.05
"""Seconds that the last part of a copy waits for its turn among the writers."""

LOW_SPACE_BYTES = 16 * 2**20

_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "vboxsf", "prl_fs"),
    )
)


class Care:
    """Looks after one store; called by one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = (0, 0)

    def maintain(self) -> bool:
        """Copy the WAL into the store when it is long or nobody has written since the last call; True if
        it may be long again soon."""
        return self._store.is_open and self._store.read(self._checkpoint, snapshot=False)

    def _checkpoint(self, sql: Sql) -> bool:
        try:
            return self._copy_and_cut(sql)
        except apsw.BusyError:  # another process is at it, or reads
            return False

    def _copy_and_cut(self, sql: Sql) -> bool:
        # In nobody's way: what cannot be locked at once is left for the next call.
        sql.deadline = 0.0
        sql.value("PRAGMA data_version")  # the connection notices what others wrote
        frames = sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        idle, self._seen = frames == self._seen, frames
        in_wal, copied = frames
        page = 4096
        hurries = not idle and in_wal * page > PASSIVE_BYTES // 4
        if in_wal > copied and (idle or (in_wal - copied) * page > PASSIVE_BYTES):
            self._seen = sql.connection.wal_checkpoint()
            if not idle:
                self._copy_the_rest(sql)
            in_wal, copied = self._seen
            if in_wal == copied:
                self._store.headroom.expect_new_beginning()
        if idle and in_wal == copied and file_size(self._store.file.path + "-wal") > TRUNCATE_BYTES:
            # Takes the write lock, without waiting for it; with a reader in the way it gives up.
            sql.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return hurries

    def _copy_the_rest(self, sql: Sql) -> None:
        """Copy what was written during the copying, while no thread of this process writes.

        Only when nothing is left does the next commit begin the WAL anew, in blocks that the file has
        already: a commit that lengthens the file takes half as long again (ext4 writes its journal).
        """
        writer = self._store.writer
        lead = writer.seize(machine_time() + REST_TIMEOUT)
        if lead is None:
            return
        try:
            self._seen = sql.connection.wal_checkpoint()
        finally:
            writer.release(lead)

    def health(self) -> Health:
        """Whether a write could begin now, and the facts around the file."""
        path = self._store.file.path
        reason = ""
        # An empty transaction succeeds on a full disk: after trouble only a real write convinces.
        troubled = self._store.last_error is not None
        try:
            self._store.write(_write_something if troubled else _begin, full=troubled, timeout=1.0)
        except BackendError as error:
            reason = str(error)
        facts: dict[str, str | int | float] = {
            "path": path,
            "bytes": file_size(path),
            "wal_bytes": file_size(path + "-wal"),
            "synchronous": "FULL" if self._store.flushes else "NORMAL",
            "sqlite": sqlite_version,
        }
        notes = []
        if (free := free_space(path)) is not None:
            facts["free_bytes"] = free
            if free < LOW_SPACE_BYTES:
                notes.append(f"only {free:,} bytes are free beside the store")
        notes += filter(
            None, (open_to_others(path), on_the_network(path), wal_warning(facts["wal_bytes"]))
        )
        return Health(ok=not reason, reason=reason, notes=tuple(notes), facts=facts)


def _begin(sql: Sql) -> None:
    """Nothing: that the write lock was got says that the file can be written."""


def _write_something(sql: Sql) -> None:
    # As much as jobs need: where there is hardly any room, a few bytes would still find some.
    sql.run("INSERT OR REPLACE INTO meta VALUES ('probe', hex(randomblob(8192)))")
    sql.run("DELETE FROM meta WHERE name = 'probe'")


def file_size(path: str) -> int:
    """Bytes of a file, 0 if there is none; never opens it."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def free_space(path: str) -> int | None:
    """Bytes that this user may still write beside the file, if the system can tell."""
    try:
        found = os.statvfs(os.path.dirname(path))
    except (AttributeError, OSError):
        return None
    return found.f_bavail * found.f_frsize


def open_to_others(path: str) -> str:
    """A note if users other than the owner can read or write the store."""
    with suppress(OSError):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077 and os.name == "posix":
            return f"other users may use the store (mode {mode:04o}); chmod 600 {path}"
    return ""


def on_the_network(path: str, mounts: str | None = None) -> str:
    """A note if the store lies on a network file system, where locks and shared memory fail."""
    mount = mount_of(path, mounts)
    if mount.kind in _NETWORK:
        return (
            f"the store is on a network file system ({mount.kind} at {mount.point}); SQLite needs a "
            f"local disk, use postgresql:// or redis:// for several hosts"
        )
    return ""


def wal_warning(size: object) -> str:
    """A note if the WAL has outgrown what checkpoints should leave."""
    if isinstance(size, int) and size > 2 * TRUNCATE_BYTES:
        return f"the WAL has {size:,} bytes: a long read keeps it from being copied into the store"
    return ""
