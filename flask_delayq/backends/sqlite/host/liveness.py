"""Signs of life: a process is alive as long as it holds the lock on its own small file.
Must not know jobs or SQLite; works between the processes of one host, including containers.

A POSIX record lock ends when its process ends in any way, and no child inherits it. So a reused pid or a
zombie cannot be mistaken for a living process. The lock also ends when its own process closes any
file descriptor of the file. So nothing here opens a file that this process has locked, by any path.
Other code of the process may do so (a backup of the folder); the lock is taken again at each
announcement.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import NamedTuple

from . import folders

try:
    import fcntl
except ImportError:  # not a POSIX system: only leases are available
    fcntl = None  # type: ignore[assignment]


class _Held(NamedTuple):
    descriptor: int
    identity: tuple[int, int]  # device and inode: one file has many paths


# By path, for the whole process: several backends may be open on one store.
_held: dict[str, _Held] = {}
# Reentrant: a signal handler or a finalizer may interrupt any code here and use this module.
_guard = threading.RLock()


class SignsOfLife:
    """The lock files of one store.

    :param folder: where they are; created with the first sign.
    :param store: the path of the store.
    """

    def __init__(self, folder: str, store: str) -> None:
        self.folder = folder
        self._store = store

    def path(self, owner: str) -> str:
        """The file of an owner.

        :raises OSError: it is not an owner's id.
        """
        return folders.beside(self.folder, owner, ".lock")

    def show(self, owner: str) -> bool:
        """Hold the owner's lock until :meth:`let_go`; repairs it if a cleaner removed the file, or if
        other code of this process opened and closed it.

        :returns: whether it is held; False if the file system has no locks, or if the folder
            belongs to another user.
        """
        if fcntl is None:
            return False
        with _guard:
            try:
                path = self.path(owner)
                if path in _held:
                    if _same_file(_held[path], path):
                        return _lock(_held[path].descriptor)
                    os.close(_held.pop(path).descriptor)
                folders.make_own(self.folder, self._store)
                return _create(path)
            except OSError:
                return False

    def let_go(self, owner: str) -> None:
        """Release the lock and keep the file: then the owner counts as dead."""
        with _guard, suppress(OSError):
            held = _held.pop(self.path(owner), None)
            if held is not None:
                os.close(held.descriptor)

    def remove(self, owner: str) -> None:
        """Remove the file of a dead owner."""
        with suppress(OSError):
            os.unlink(self.path(owner))

    def alive(self, owner: str) -> bool | None:
        """Whether an owner with a sign of life is alive; ``None``: its file is gone, so it is
        unknown."""
        with _guard:
            try:
                path = self.path(owner)
                if path in _held:
                    return True
                if fcntl is None:
                    return None
                found = os.lstat(path)
                if any(held.identity == (found.st_dev, found.st_ino) for held in tuple(_held.values())):
                    return True
                descriptor = os.open(path, os.O_RDONLY | folders.SAFELY)
            except OSError:
                return None
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            else:
                return False
            finally:
                os.close(descriptor)


def _create(path: str) -> bool:
    """Make the file and hold it. It gets its name once it is locked: whoever finds a file that is not
    locked takes its owner for dead."""
    unnamed = f"{path}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | folders.SAFELY, 0o600)
    try:
        found = os.fstat(descriptor)
        if not _lock(descriptor):
            raise BlockingIOError
        # Before the name is there: a signal handler that looks now must not open the file.
        _held[path] = _Held(descriptor, (found.st_dev, found.st_ino))
        os.rename(unnamed, path)
    except BaseException:
        _held.pop(path, None)
        with suppress(OSError):
            os.unlink(unnamed)
        os.close(descriptor)
        raise
    return True


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same_file(held: _Held, path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return held.identity == (found.st_dev, found.st_ino)


def _forget_in_child() -> None:
    # The locks belong to the parent; the child's copies of the file descriptors are useless.
    global _guard
    _guard = threading.RLock()
    while _held:
        os.close(_held.popitem()[1].descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
