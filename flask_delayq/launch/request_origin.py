"""Tells a request that came through a server from a call of the app in the middle of a test or script.
Pure checks of the current state; knows neither apps nor the consequences."""

from __future__ import annotations

import _socket
import os
import sys
from collections.abc import Mapping
from errno import EBADF
from stat import S_ISSOCK
from types import FrameType
from typing import Any

CLIENTS_IN_PROCESS = frozenset({"werkzeug.test", "webtest.app", "httpx._transports.wsgi"})
"""Clients that call the app in their own thread; the environ does not show which one made it."""

OPEN_FILES = "/proc/self/fd"


def came_through_server(environ: Mapping[str, Any]) -> bool:
    """Whether the request under way in this thread was answered for a server.

    A server names itself (``SERVER_SOFTWARE``; CGI asks for it and no client in a process sets it), or
    it is in this process, with its socket. Where sockets cannot be looked at, every request counts that
    no known client makes: a job that starts in a test does less harm than one that starts never.
    """
    if _called_by_client():
        return False
    return bool(environ.get("SERVER_SOFTWARE")) or _listens() is not False


def _called_by_client() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")) in CLIENTS_IN_PROCESS:
            return True
        frame = frame.f_back
    return False


def _listens() -> bool | None:
    """Whether this process has a socket at which others can connect; ``None`` if that cannot be told."""
    if not hasattr(_socket, "SOCK_NONBLOCK"):
        return None
    try:
        numbers = sorted(map(int, os.listdir(OPEN_FILES)))  # a server's socket is among its first files
        return any(map(_is_listening, numbers))
    except OSError:
        return None


def _is_listening(number: int) -> bool:
    try:
        # Nothing but sockets is touched: to close a second descriptor of a file drops its record locks.
        if not S_ISSOCK(os.fstat(number).st_mode):
            return False
        copy = os.dup(number)
        if not S_ISSOCK(os.fstat(copy).st_mode):
            return False  # the number was used again meanwhile: rather a copy left open than a lock lost
    except OSError as error:
        if error.errno == EBADF:  # closed meanwhile
            return False
        raise
    # It belongs to somebody else. SOCK_NONBLOCK keeps Python from changing its mode, whatever the
    # default timeout is, and `socket.socket` may be gevent's. The family does not matter here.
    kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
    probe = _socket.socket(_socket.AF_INET, kind, 0, copy)
    try:
        return bool(probe.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))
    finally:
        probe.close()
