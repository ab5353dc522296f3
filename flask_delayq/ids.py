"""Job ids and names: time-ordered unique ids made by the client, and what a name may look like.
Must not know what the names name."""

from __future__ import annotations

import itertools
import os
import re
import secrets
from time import time_ns

from .errors import InvalidNameError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}", re.ASCII)

_count = itertools.count(secrets.randbits(16))
_moment = (0, "", "")
_process = (os.getpid(), secrets.token_hex(5))


def new_id() -> str:
    """Return a new job id: 28 hexadecimal digits that sort by creation.

    12 digits of milliseconds since the epoch, 6 of a counter (the order within a millisecond) and 10
    random ones per process: 40 random bits keep processes apart even when clock and counter agree.
    """
    # The layout follows the idea of UUIDv7 (RFC 9562, 5.7). A clock that steps back makes ids that
    # sort earlier, never ids that repeat: the counter goes on. Not through `Clock`: an id must be
    # new even when a test holds the time still.
    global _moment
    millisecond = time_ns() // 1_000_000
    # One tuple, so that threads never see the number of one moment with the text of another.
    number, digits, suffix = _moment
    if number != millisecond:
        digits, suffix = f"{millisecond:012x}", _suffix()
        _moment = (millisecond, digits, suffix)
    return f"{digits}{next(_count) & 0xFFFFFF:06x}{suffix}"


def _suffix() -> str:
    """This process's random digits. Asked for once a millisecond, since servers that fork in C (uWSGI)
    run no fork hook, and such a child takes longer than that to come to its first job."""
    global _process
    pid, suffix = _process
    if pid != os.getpid():
        _process = (os.getpid(), suffix := secrets.token_hex(5))
    return suffix


def _begin_anew() -> None:
    global _moment
    _moment = (0, "", "")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def check_name(what: str, value: object) -> str:
    """Return ``value`` if it may name a task, queue, schedule or job.

    :param what: how to call it in the error, for example ``"queue"``.
    :raises InvalidNameError: unless it is 1 to 128 ASCII letters, digits and ``. _ : -``, beginning
        with a letter or digit.
    """
    if type(value) is str and _NAME.fullmatch(value):
        return value
    raise InvalidNameError(what, value)
