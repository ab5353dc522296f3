"""Job ids and names: time-ordered unique ids made by the client, and what a name may look like.
Must not know what the names name."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time

from .errors import InvalidNameError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}", re.ASCII)

_count = itertools.count(secrets.randbits(16))
_process = (os.getpid(), secrets.token_hex(5))
_moment = (0, "")


def new_id() -> str:
    """Return a new job id: 28 hexadecimal digits that sort by creation.

    12 digits of milliseconds since the epoch, 6 of a counter (the order within a millisecond) and 10
    random ones per process: 40 random bits keep processes apart even when clock and counter agree.
    """
    # The layout follows the idea of UUIDv7 (RFC 9562, 5.7). A clock that steps back makes ids that
    # sort earlier, never ids that repeat: the counter goes on. Not through `Clock`: an id must be
    # new even when a test holds the time still.
    global _moment, _process
    pid, suffix = _process
    if pid != os.getpid():
        # A forked child would go on with its parent's suffix and counter. Asked here and not by a fork
        # hook, because servers that fork in C (uWSGI) run none.
        _process = (os.getpid(), suffix := secrets.token_hex(5))
    millisecond = time.time_ns() // 1_000_000
    moment = _moment
    if moment[0] != millisecond:
        # One tuple, so that threads never see the number of one moment with the text of another.
        moment = _moment = (millisecond, f"{millisecond:012x}")
    return f"{moment[1]}{next(_count) & 0xFFFFFF:06x}{suffix}"


def check_name(what: str, value: object) -> str:
    """Return ``value`` if it may name a task, queue, schedule or job.

    :param what: how to call it in the error, for example ``"queue"``.
    :raises InvalidNameError: unless it is 1 to 128 ASCII letters, digits and ``. _ : -``, beginning
        with a letter or digit.
    """
    if type(value) is str and _NAME.fullmatch(value):
        return value
    raise InvalidNameError(what, value)
