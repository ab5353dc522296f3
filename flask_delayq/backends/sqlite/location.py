"""The store as a file: where the URL points, how it is created, whether it is still the same one.
Must not know SQL; never opens a file that a connection may have open (that would drop its locks)."""

from __future__ import annotations

import os
import socket
import stat
import threading
from urllib.parse import unquote

from ...errors import BackendUnavailableError, ConfigurationError, StoreMismatchError

Identity = tuple[int, int]


def path_of(url: str) -> str:
    """Return the absolute path that a ``sqlite:///`` URL names.

    :raises ConfigurationError: if it names none.
    """
    path = unquote(url.removeprefix("sqlite://").partition("?")[0])
    if path in ("", "/") or path.startswith("/:memory:"):
        raise ConfigurationError(
            f"{url!r} names no file; use sqlite:///delayq.sqlite3, or memory:// for jobs that may "
            f"be forgotten",
            key="DELAYQ_URL",
        )
    if not path.startswith("/"):
        raise ConfigurationError(
            f"{url!r} has a host part; a path follows three slashes (sqlite:///delayq.sqlite3), "
            f"an absolute one four",
            key="DELAYQ_URL",
        )
    return os.path.abspath(path[1:])


def boot_id() -> str:
    """What tells this boot of the host from others: leases are kept on a clock that starts with it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"unknown:{socket.gethostname()}"


class StoreFile:
    """One path and the file that was found there at the last opening."""

    # The descriptor that creates a file is closed before SQLite opens it; a second thread that opened
    # the file in between would lose its locks by that close.
    creating = threading.Lock()

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: Identity | None = None

    def prepare(self) -> Identity:
        """Create the file if this process has not seen it before; check that it can be a store.

        :returns: what identifies the file, for :meth:`remember`.
        :raises BackendUnavailableError: it vanished while in use, or cannot be created.
        :raises StoreMismatchError: it is no regular file.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if self._identity is not None:
                raise self._vanished() from None
            found = self._create()
        except OSError as error:
            raise self._unusable(error) from error
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise StoreMismatchError(f"{self.path} is {what}; DELAYQ_URL must name a file")
        return found.st_dev, found.st_ino

    def _create(self) -> os.stat_result:
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            descriptor = os.open(self.path, flags, 0o600)
            try:
                return os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except FileExistsError:
            return os.stat(self.path)
        except OSError as error:
            raise self._unusable(error) from error

    def remember(self, identity: Identity) -> None:
        """From now on the store is this file."""
        self._identity = identity

    def forget(self) -> None:
        """Any file will do at the next opening, also a new one."""
        self._identity = None

    def is_another(self, identity: Identity) -> bool:
        """Whether this process has had a different file open as the store."""
        return self._identity not in (None, identity)

    @classmethod
    def forget_lock(cls) -> None:
        """In a forked child: whoever held the lock does not exist there."""
        cls.creating = threading.Lock()

    def verify(self) -> None:
        """Check that the path still leads to the file that is open; about a microsecond.

        :raises BackendUnavailableError: reason ``"replaced"``.
        """
        try:
            found = os.stat(self.path)
        except OSError:
            raise self._vanished() from None
        if (found.st_dev, found.st_ino) != self._identity:
            raise BackendUnavailableError(
                f"the store {self.path} was replaced by another file while in use; "
                f"the new one is opened at the next try",
                reason="replaced",
            )

    def _vanished(self) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"the store {self.path} was deleted or moved while in use; put it back, or restart the "
            f"application to begin with an empty one",
            reason="replaced",
        )

    def _unusable(self, error: OSError) -> BackendUnavailableError:
        folder = os.path.dirname(self.path)
        who = f" (user id {os.geteuid()})" if hasattr(os, "geteuid") else ""
        return BackendUnavailableError(
            f"cannot create or reach {self.path}: {error.strerror}; make the folder {folder} "
            f"writable for the user that runs the application{who}, or set DELAYQ_URL",
            reason="full" if error.errno == 28 else "read-only",
        )
