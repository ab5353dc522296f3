"""Health of a store: whether it can be written, and warnings about the file.
Must not know jobs."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from ....clock import machine_time
from ....errors import BackendError
from ....job import Health
from ....mounts import mount_of
from ..host import folders
from .checkpoints import Checkpoints, file_size
from .connection import Sql, sqlite_version
from .location import as_text
from .store import Store

PROBE_TIMEOUT = 1.0
"""Seconds that a health check waits for other writers."""

PROBE_AGAIN = 1.0
"""Seconds after a failed write for which a glance repeats its error without a new try."""

_LASTING = ("full", "io", "read-only")
"""Reasons that are assumed to last until a write succeeds. Others, such as a lock, may end any time."""

GLANCE_TIMEOUT = 0.2
"""Maximum seconds that a glance waits for a fork or for the opening of the file."""

LOW_SPACE_BYTES = 16 * 2**20

NOT_MADE_YET = "no store yet: the first job, or the first process that runs jobs, makes it"

_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "vboxsf", "prl_fs"),
    )
)


class StoreHealth:
    """Checks the health of one store."""

    def __init__(self, store: Store, checkpoints: Checkpoints) -> None:
        self._store = store
        self._checkpoints = checkpoints

    def health(self, *, probe: bool) -> Health:
        """Whether a write could begin now, and warnings about the file; see ``Backend.health``."""
        path = self._store.file.path
        missing = self._store.file.is_not_made_yet()
        reason = self._try(PROBE_TIMEOUT) if probe and not missing else self._glance()
        wal = file_size(path + "-wal")
        facts: dict[str, str | int | float] = {
            "path": as_text(path),
            "bytes": file_size(path),
            "wal_bytes": wal,
            "synchronous": "FULL" if self._store.flushes else "NORMAL",
            "sqlite": sqlite_version,
        }
        notes = [NOT_MADE_YET] if missing and not reason else []
        if (free := free_space(path)) is not None:
            facts["free_bytes"] = free
            if free < LOW_SPACE_BYTES:
                notes.append(f"only {free:,} bytes are free beside the store")
        notes += filter(
            None,
            (
                *(open_to_others(path), prepared_by_others(path), on_the_network(path)),
                self._checkpoints.warning(wal),
            ),
        )
        return Health(ok=not reason, reason=reason, notes=tuple(notes), facts=facts)

    def _try(self, timeout: float) -> str:
        """Try a write; returns why it failed, else empty."""
        # An empty transaction succeeds on a full disk: after an error only a real write proves health.
        troubled = self._is_in_trouble()
        try:
            self._store.write(
                _write_something if troubled else _begin, durable=troubled, timeout=timeout
            )
        except BackendError as error:
            return str(error)
        return ""

    def _glance(self) -> str:
        """A check that creates nothing and waits for nobody; returns the problem, else empty."""
        store = self._store
        if store.last_error is not None and machine_time() - store.failed_at < PROBE_AGAIN:
            return str(store.last_error)
        if self._is_in_trouble() and file_size(store.file.path):  # an empty file would become a store
            # Perhaps no other thread writes, so nobody else would notice that the store is healthy
            # again.
            return self._try(0.0)
        if not store.is_open:
            return store.file.glance()
        try:
            store.read(_look, timeout=GLANCE_TIMEOUT, snapshot=False)
        except BackendError as error:
            return str(error)
        return ""

    def _is_in_trouble(self) -> bool:
        error = self._store.last_error
        return error is not None and error.reason in _LASTING


def _begin(sql: Sql) -> None:
    """Do nothing: getting the write lock proves that the file can be written."""


def _look(sql: Sql) -> None:
    sql.value("SELECT name FROM meta LIMIT 1")


def _write_something(sql: Sql) -> None:
    # As much as jobs need: on a nearly full disk a few bytes could still be written.
    sql.run("INSERT OR REPLACE INTO meta VALUES ('probe', hex(randomblob(8192)))")
    sql.run("DELETE FROM meta WHERE name = 'probe'")


def free_space(path: str) -> int | None:
    """Free bytes for this user on the disk of the file; ``None`` if unknown."""
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


def prepared_by_others(path: str) -> str:
    """A note if the ``.live`` folder is not used, because it belongs to another user."""
    with suppress(OSError):
        if reason := folders.foreign(folder := f"{path}.live", path):
            return f"{folder} {reason} and is not used: a crash is noticed when leases end; remove it"
    return ""


def on_the_network(path: str, mounts: str | None = None) -> str:
    """A note if the store is on a network file system, where locks and shared memory fail."""
    mount = mount_of(path, mounts)
    if mount.kind in _NETWORK:
        return (
            f"the store is on a network file system ({mount.kind} at {mount.point}); SQLite needs a "
            f"local disk: put the store on one, and run all processes on one host"
        )
    return ""
