"""Wakes other processes of this host by a datagram when there may be something to claim.
Must not know jobs or SQLite; a lost ring only costs a short delay, so nothing here blocks or raises.

Every listening runtime binds a socket ``<owner>.bell`` in the folder beside the store. A ring sends one
byte to all of them except its own.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress

from ....clock import machine_time
from ...base import Doorbell
from . import folders, forking

_SUFFIX = ".bell"
_LONGEST_ADDRESS = 100
"""Maximum length in bytes of a socket's path on every system (Linux 107, macOS 103)."""

_LOOK_AGAIN = 1.0

_LONGEST_SLEEP = 60.0
"""Seconds after which a waiting thread checks whether the bell was closed."""


class Bells:
    """The doorbells of one store, as one backend sees them.

    :param folder: where the sockets are.
    :param store: the path of the store.
    """

    def __init__(self, folder: str, store: str) -> None:
        self._folder = folder
        self._store = store
        self._own: dict[str, _Bell] = {}  # those that are open, by name
        self._start()
        forking.watch(self)

    def _start(self) -> None:
        # Reentrant, here and below: a signal handler may ring or close in the middle of anything.
        self._guard = threading.RLock()
        self._sender: socket.socket | None = None
        self._names: list[str] = []
        self._looked_at = float("-inf")

    def open(self, owner: str) -> Doorbell | None:
        """Listen for an owner; ``None`` if sockets are not available."""
        if not hasattr(socket, "AF_UNIX"):
            return None
        try:
            folders.make_own(self._folder, self._store)
            return _Bell(self._folder, owner, self._own)
        except OSError:
            return None

    def ring(self) -> None:
        """Ring at every doorbell that was not opened through this object."""
        if not hasattr(socket, "AF_UNIX"):
            return
        with self._guard:
            if machine_time() - self._looked_at >= _LOOK_AGAIN:
                self._look_around()
            if not self._names:
                return
            try:
                sender = self._sender or _socket()
                self._sender = sender
                with _Folder(self._folder) as folder:
                    for name in self._names:
                        with suppress(OSError):  # full, gone or dead: nobody needs this ring
                            sender.sendto(b"!", folder.address(name))
            except OSError:
                return

    def _look_around(self) -> None:
        self._looked_at = machine_time()
        try:
            names = os.listdir(self._folder)
        except OSError:
            names = []
        self._names = [name for name in names if name.endswith(_SUFFIX) and name not in self._own]

    def restore(self, owner: str) -> None:
        """Create the file of an open doorbell again, if it was removed."""
        bell = self._own.get(owner + _SUFFIX)
        if bell is not None:
            with suppress(OSError):  # the next announcement tries again
                bell.restore()

    def remove(self, owner: str) -> None:
        """Remove the socket of a dead owner."""
        with suppress(OSError):
            os.unlink(folders.beside(self._folder, owner, _SUFFIX))

    def close(self) -> None:
        """Stop ringing; the callers of :meth:`open` close their doorbells."""
        with self._guard:
            if self._sender is not None:
                self._sender.close()
            self._sender = None
            self._looked_at = float("-inf")

    def before_fork(self, timeout: float) -> None:
        """Nothing: a datagram socket may be inherited."""

    def after_fork_in_parent(self) -> None:
        """Nothing, for the same reason."""

    def after_fork_in_child(self) -> None:
        """Forget the sockets; they belong to the parent."""
        sender = self._sender
        self._start()
        if sender is not None:
            sender.close()
        for bell in tuple(self._own.values()):
            bell.abandon()
        self._own.clear()


class _Bell(Doorbell):
    def __init__(self, folder: str, owner: str, own: dict[str, _Bell]) -> None:
        self.name = owner + _SUFFIX
        self._path = folders.beside(folder, owner, _SUFFIX)
        self._folder = folder
        self._own = own
        self._guard = threading.RLock()
        self._closed = self._removed = False
        self._listening = 0
        self._replaced: list[socket.socket] = []
        self._socket = _socket()
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            with _Folder(folder) as opened:
                self._socket.bind(opened.address(self.name))
        except OSError:
            self._socket.close()
            raise
        own[self.name] = self

    def wait(self, timeout: float | None) -> bool:
        with self._guard:
            self._listening += 1
        try:
            end = None if timeout is None else machine_time() + timeout
            while not self._closed:
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                left = _LONGEST_SLEEP if end is None else min(end - machine_time(), _LONGEST_SLEEP)
                rang = bool(poll.poll(max(0.0, left) * 1000))
                if rang or (end is not None and machine_time() >= end):
                    return not self._closed and self._rang()
            return False
        finally:
            with self._guard:
                self._listening -= 1
                self._close_if_unused()

    def _rang(self) -> bool:
        """Take all rings that arrived; whether there were any."""
        rang = False
        with suppress(BlockingIOError):
            while self._socket.recv(16):  # nothing is read from a socket that was shut
                rang = True
        return rang

    def close(self) -> None:
        with self._guard:
            if not self._removed:  # an exception may cut it off, and it is called again
                self._closed = True
                self._own.pop(self.name, None)
                self._wake()
                with suppress(OSError):
                    os.unlink(self._path)
                self._removed = True
            self._close_if_unused()

    def restore(self) -> None:
        """Listen at the path again, if the file is gone.

        :raises OSError: it cannot be had.
        """
        with self._guard:
            if self._closed or os.path.lexists(self._path):
                return
            new = _socket()
            try:
                with _Folder(self._folder) as folder:
                    new.bind(folder.address(self.name))
            except OSError:
                new.close()
                raise
            old, self._socket = self._socket, new
            # A thread that polls the old socket is woken and polls the new one. Until then the old one
            # stays open under its number: poll uses this number again when it wakes.
            self._replaced.append(old)
            with suppress(OSError):
                old.shutdown(socket.SHUT_RDWR)
            self._close_if_unused()

    def _wake(self) -> None:
        """Wake a polling thread; closing its file descriptor would not wake it."""
        # By a ring to itself; if the file is gone, by a shutdown (which does not work on macOS).
        try:
            with _socket() as sender, _Folder(self._folder) as folder:
                sender.sendto(b"!", folder.address(self.name))
        except OSError:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _close_if_unused(self) -> None:
        if self._listening:
            return
        while self._replaced:
            self._replaced.pop().close()
        if self._closed:
            self._socket.close()

    def abandon(self) -> None:
        """In a forked child: close the copy; the parent's bell goes on."""
        self._guard = threading.RLock()
        self._closed = self._removed = True
        self._listening = 0
        self._close_if_unused()


class _Folder:
    """Gives addresses for the sockets in a folder, also where its path is too long for one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> _Folder:
        return self

    def address(self, name: str) -> str:
        direct = os.path.join(self._path, name)
        if len(os.fsencode(direct)) <= _LONGEST_ADDRESS:
            return direct
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # The kernel resolves this name without reading the long path again (Linux).
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def __exit__(self, *exception: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.setblocking(False)
    return opened
