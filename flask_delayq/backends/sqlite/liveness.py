"""Signs of life: a process is alive as long as it holds the lock on its own small file.
Must not know jobs, nor SQLite; works between the processes of one host, containers included.

A POSIX record lock ends with its process however that dies, and no child inherits it: no pid that is
used again, no zombie and no signal can lie. A lock also ends when its own process closes any descriptor
of the file, so a process never opens the files that it holds itself.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

try:
    import fcntl
except ImportError:  # not a POSIX system: leases alone tell
    fcntl = None  # type: ignore[assignment]

# By path, for the whole process: several backends may be open on one store.
_held: dict[str, int] = {}
_guard = threading.Lock()


class SignsOfLife:
    """The lock files of one store.

    :param folder: where they are; created with the first sign.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, owner: str) -> str:
        """The file of an owner."""
        return os.path.join(self.folder, f"{owner}.lock")

    def show(self, owner: str) -> bool:
        """Hold the owner's lock until :meth:`end`; repairs it if a cleaner removed the file.

        :returns: whether it is held; False where the file system cannot do it.
        """
        if fcntl is None:
            return False
        path = self.path(owner)
        with _guard:
            if path in _held:
                if _same_file(_held[path], path):
                    return True
                os.close(_held.pop(path))
            try:
                os.makedirs(self.folder, mode=0o700, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:
                return False
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return False
            _held[path] = descriptor
            return True

    def end(self, owner: str) -> None:
        """Give up the lock and remove the file."""
        self._release(owner, remove=True)

    def let_go(self, owner: str) -> None:
        """Give up the lock and leave the file: the owner counts as dead."""
        self._release(owner, remove=False)

    def _release(self, owner: str, *, remove: bool) -> None:
        path = self.path(owner)
        with _guard:
            descriptor = _held.pop(path, None)
            if descriptor is not None:
                if remove:
                    with suppress(OSError):
                        os.unlink(path)
                os.close(descriptor)

    def remove(self, owner: str) -> None:
        """Remove the file of a dead owner."""
        with suppress(OSError):
            os.unlink(self.path(owner))

    def alive(self, owner: str) -> bool | None:
        """Whether an owner that showed a sign lives; ``None``: its file is gone, so nobody can tell."""
        path = self.path(owner)
        with _guard:
            if path in _held:
                return True
            if fcntl is None:
                return None
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _forget_in_child() -> None:
    # The locks are the parent's; the child's copies of the descriptors are of no use.
    global _guard
    _guard = threading.Lock()
    while _held:
        os.close(_held.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
