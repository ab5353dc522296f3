"""Telling other processes of this host that there may be something to claim: a datagram each.
Must not know jobs, nor SQLite; a lost ring costs a moment, so nothing here blocks or raises.

Every listening runtime binds a socket ``<owner>.bell`` in the folder beside the store; who rings sends
one byte to all of them but its own.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import weakref
from contextlib import suppress

from ..base import Doorbell
from . import forking
from .connection import machine_time

_SUFFIX = ".bell"
_LONGEST_ADDRESS = 100
"""Bytes of a path that every system takes as a socket's address (Linux 107, macOS 103)."""

_LOOK_AGAIN = 1.0


class Bells:
    """The doorbells of one store, as one backend sees them.

    :param folder: where the sockets are.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._own: weakref.WeakSet[_Bell] = weakref.WeakSet()
        self._start()
        forking.watch(self)

    def _start(self) -> None:
        self._guard = threading.Lock()
        self._sender: socket.socket | None = None
        self._names: list[str] = []
        self._looked_at = float("-inf")

    def open(self, owner: str) -> Doorbell | None:
        """Listen for an owner; ``None`` where sockets cannot be had."""
        if not hasattr(socket, "AF_UNIX"):
            return None
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            bell = _Bell(self._folder, owner)
        except OSError:
            return None
        self._own.add(bell)
        return bell

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
                if self._sender is None:
                    self._sender = _socket()
                with _Folder(self._folder) as folder:
                    for name in self._names:
                        with suppress(OSError):  # full, gone or dead: nobody waits for this ring
                            self._sender.sendto(b"!", folder.address(name))
            except OSError:
                return

    def _look_around(self) -> None:
        self._looked_at = machine_time()
        own = {bell.name for bell in self._own}
        try:
            names = os.listdir(self._folder)
        except OSError:
            names = []
        self._names = [name for name in names if name.endswith(_SUFFIX) and name not in own]

    def remove(self, owner: str) -> None:
        """Remove what a dead owner left."""
        with suppress(OSError):
            os.unlink(os.path.join(self._folder, owner + _SUFFIX))

    def close(self) -> None:
        """Stop ringing; doorbells opened here are closed by who opened them."""
        with self._guard:
            if self._sender is not None:
                self._sender.close()
            self._sender = None
            self._looked_at = float("-inf")

    def before_fork(self, timeout: float) -> None:
        """Nothing: a datagram socket may be inherited."""

    def after_fork_in_parent(self) -> None:
        """Nothing, likewise."""

    def after_fork_in_child(self) -> None:
        """Let go of the sockets; they are the parent's."""
        sender = self._sender
        self._start()
        if sender is not None:
            sender.close()
        for bell in list(self._own):
            bell.abandon()
        self._own.clear()


class _Bell(Doorbell):
    def __init__(self, folder: str, owner: str) -> None:
        self.name = owner + _SUFFIX
        self._path = os.path.join(folder, self.name)
        self._guard = threading.Lock()
        self._closed = False
        self._listening = 0
        self._socket = _socket()
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            with _Folder(folder) as opened:
                self._socket.bind(opened.address(self.name))
        except OSError:
            self._socket.close()
            raise

    def wait(self, timeout: float | None) -> bool:
        with self._guard:
            if self._closed:
                return False
            self._listening += 1
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
            return not self._closed and self._rang()
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
            if not self._closed:
                self._closed = True
                with suppress(OSError):
                    os.unlink(self._path)
                # Wakes a thread that polls; closing the descriptor under it would not.
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._listening:
            self._socket.close()

    def abandon(self) -> None:
        """In a forked child: let go of the copy; the parent's bell goes on."""
        self._guard = threading.Lock()
        self._closed = True
        self._socket.close()


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
