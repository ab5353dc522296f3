"""The -wal and -shm files beside a store, after the store was replaced by another file.
Must not know SQL; opens the -shm only while this process has no connection to the store.

SQLite finds them by name. With a file that they do not belong to, they would corrupt it (SQLite:
howtocorrupt, 1.4). So a new file is opened only when the old ones are no longer in use.
"""

from __future__ import annotations

import os

from ....errors import BackendUnavailableError
from ..host import folders
from .connection import Sql

try:
    import fcntl
except ImportError:  # not a POSIX system, where open files cannot be replaced
    fcntl = None  # type: ignore[assignment]

_EVERY_USER_HOLDS = 128  # the byte of the -shm that each connection locks (SQLite: UNIX_SHM_DMS)


def check_free(path: str) -> None:
    """Check that no process uses the files beside ``path``, and that they have no unsaved changes.

    :raises BackendUnavailableError: reason ``"replaced"``.
    """
    if Sql.how_many(path) or _others_use(path + "-shm"):
        raise BackendUnavailableError(
            f"the store {path} was replaced, and a process still has the old one open; the new one is "
            f"opened when all processes have closed it. Stop all processes before you replace a store",
            reason="replaced",
        )
    if _size(path + "-wal"):
        raise BackendUnavailableError(
            f"the store {path} was replaced, but {path}-wal still holds changes of the old one; "
            f"stop the application and move that file away",
            reason="replaced",
        )


def _others_use(shm: str) -> bool:
    if fcntl is None:
        return False
    try:
        descriptor = os.open(shm, os.O_RDWR | folders.SAFELY)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _EVERY_USER_HOLDS)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
