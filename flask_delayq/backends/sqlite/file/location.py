"""The store as a file: where the URL points, how it is created, whether it is still the same one.
Must not know SQL; never opens a file that a connection may have open (that would drop its locks)."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import ClassVar
from urllib.parse import unquote_to_bytes

from ....errors import BackendError, BackendUnavailableError, ConfigurationError, StoreMismatchError
from ...nesting import Lock
from ..host import folders

Identity = tuple[int, int]


def path_of(url: str) -> str:
    """Return the absolute path that a ``sqlite:///`` URL names.

    :raises ConfigurationError: if it names none.
    """
    quoted = url.removeprefix("sqlite://").partition("?")[0]
    # As bytes, because paths are bytes for the file system.
    path = os.fsdecode(unquote_to_bytes(quoted.encode("utf-8", "surrogateescape")))
    if "\0" in path:
        raise ConfigurationError(f"{url!r} holds a null character; no path does", key="DELAYQ_URL")
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


def as_text(path: str) -> str:
    """The path as SQLite wants it and people see it, whatever the locale makes of its bytes.

    :raises ConfigurationError: it is no UTF-8.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"the path {path!a} is not UTF-8, and SQLite needs UTF-8; set DELAYQ_URL to another file, "
            f"or rename the folder",
            key="DELAYQ_URL",
        ) from None


def resolve(path: str) -> str:
    """The path without symbolic links, so that it is the same for all links to the file.

    A dangling link is kept: nothing must be created at its end, because a volume may be missing.
    """
    return path if _dangling(path) else os.path.realpath(path)


def _dangling(path: str) -> str:
    """The dangling link in a path, else empty."""
    while path != (above := os.path.dirname(path)):
        if os.path.islink(path) and not os.path.exists(path):
            return path
        path = above
    return ""


class StoreFile:
    """One path, and the file that was there at the last opening.

    :param path: absolute, without links.
    :param given: the path as it was asked for.
    """

    _guards: ClassVar[dict[str, Lock]] = {}

    def __init__(self, path: str, given: str) -> None:
        self.path = path
        self._given = given
        self._identity: Identity | None = None
        self.guard = self._guards.setdefault(path, threading.RLock())
        """Held while a connection is opened; every path has its own."""

    def prepare(self) -> Identity:
        """Create the file if this process has not seen it before; check that it can be a store.

        :returns: what identifies the file, for :meth:`remember`.
        :raises BackendUnavailableError: it vanished while in use, or cannot be created.
        :raises StoreMismatchError: it is not a regular file.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if self._identity is not None:
                raise self._vanished() from None
            found = self._create()
        except OSError as error:
            raise self._unusable(error) from error
        self._check(found)
        return found.st_dev, found.st_ino

    def is_not_made_yet(self) -> bool:
        """Whether there is no file, this process has had none open, and one could be made."""
        return self._identity is None and not os.path.lexists(self.path) and not self.glance()

    def glance(self) -> str:
        """Why the store cannot be opened or created, without opening it; else empty."""
        try:
            self._check(os.stat(self.path))
            if not os.access(self.path, os.R_OK | os.W_OK):
                raise self._unusable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        except FileNotFoundError:
            try:
                self._refuse_dangling()
                folders.check_room_for(self.path)
            except OSError as error:
                return str(self._unusable(error))
            except BackendError as error:
                return str(error)
        except OSError as error:
            return str(self._unusable(error))
        except BackendError as error:
            return str(error)
        return ""

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise StoreMismatchError(f"{self.path} is {what}; DELAYQ_URL must name a file")
        self._refuse_planted()

    def _refuse_planted(self) -> None:
        """Refuse a file that another user may have put here: the writer of a store decides which jobs
        run."""
        if not hasattr(os, "geteuid"):
            return
        for path in {self._given, self.path}:
            try:
                owner = os.lstat(path).st_uid
                open_to_all = os.stat(os.path.dirname(path)).st_mode & stat.S_IWOTH
            except OSError:  # a link that was removed after it had been followed
                continue
            if open_to_all and owner not in (os.geteuid(), 0):
                raise StoreMismatchError(
                    f"{path} belongs to user id {owner}, in a folder where everybody may put files; "
                    f"jobs from it are not run. Put the store into a folder that only the user of the "
                    f"application (id {os.geteuid()}) may write"
                )

    def _create(self) -> os.stat_result:
        self._refuse_dangling()
        try:
            folders.make_private(os.path.dirname(self.path))
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            try:
                descriptor = os.open(self.path, flags, 0o600)
            except FileExistsError:  # another process was first
                return os.stat(self.path)
            try:
                return os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unusable(error) from error

    def _refuse_dangling(self) -> None:
        if link := _dangling(self.path):
            raise BackendUnavailableError(
                f"cannot create {self.path}: {link} is a link to {os.readlink(link)}, which does not "
                f"exist; make that (is a volume not mounted?), or set DELAYQ_URL",
                reason="read-only",
            )

    def remember(self, identity: Identity) -> None:
        """From now on the store is this file."""
        self._identity = identity

    def forget(self) -> None:
        """Accept any file at the next opening, also a new one."""
        self._identity = None

    def is_another(self, identity: Identity) -> bool:
        """Whether this process has had a different file open as the store."""
        return self._identity not in (None, identity)

    def forget_lock(self) -> None:
        """Replace the lock in a forked child: the thread that held it does not exist there."""
        if self._guards.get(self.path) is self.guard:
            self._guards[self.path] = threading.RLock()
        self.guard = self._guards[self.path]  # the same for all that are on this path

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
        return BackendUnavailableError(
            f"cannot create or reach {self.path}: {error.strerror}; {self._advice(error.errno)}, or set "
            f"DELAYQ_URL",
            reason="full" if error.errno in _FULL else "read-only",
        )

    def _advice(self, code: int | None) -> str:
        """What would help, as the middle of a sentence."""
        folder = os.path.dirname(self.path)
        there = folder
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            return f"{there} is not a folder: remove it"
        if code == errno.ENOENT:  # /proc and its like
            return f"{there} takes no new files: choose another folder"
        if code == errno.EROFS:
            return f"mount the file system of {there} so that it can be written"
        if code in _FULL:
            return f"make room on the disk of {there}"
        who = f" (user id {os.geteuid()})" if hasattr(os, "geteuid") else ""
        return f"make the folder {there} writable for the user that runs the application{who}"


_FULL = (errno.ENOSPC, errno.EDQUOT)
