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
_moment = (0, "")
_pid = os.getpid()
_tails: list[str] = []
"""Random digits for the next ids."""


def new_id() -> str:
    """Return a new job id: 28 hexadecimal digits that sort by creation.

    12 digits of milliseconds since the epoch, 6 of a counter (the order within a millisecond) and 10
    random ones: 40 random bits make ids unique even if clock and counter of two processes agree, and
    nobody can guess the next id.
    """
    # The layout follows the idea of UUIDv7 (RFC 9562, 5.7). If the clock steps back, new ids sort
    # earlier but are still unique, because the counter goes on. `Clock` is not used: ids must be
    # unique even if a test stops the time.
    global _moment
    millisecond = time_ns() // 1_000_000
    # One tuple, so that threads never combine the number of one time with the text of another.
    number, digits = _moment
    if number != millisecond:
        _forget_if_forked()
        digits = f"{millisecond:012x}"
        _moment = (millisecond, digits)
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _new_tail()
    return f"{digits}{next(_count) & 0xFFFFFF:06x}{tail}"


_MADE_HERE = re.compile(r"[0-9a-fA-F]{28}", re.ASCII)


def has_moment(job_id: str) -> bool:
    """Whether an id looks like those of :func:`new_id`, which begin with their time."""
    return _MADE_HERE.fullmatch(job_id) is not None


def age_key(job_id: str, enqueued_at: float) -> str:
    """A sort key for the order in which jobs were enqueued: the id itself if it begins with its time,
    else the time of the enqueue (epoch seconds) followed by the id."""
    return job_id if has_moment(job_id) else f"{int(enqueued_at * 1000):012x}{job_id}"


def _new_tail() -> str:
    # Many at once, because the system call takes longer than all the rest.
    global _tails
    tails = os.urandom(5 * 512).hex(" ", 5).split()
    tail = tails.pop()
    _tails = tails
    return tail


def _forget_if_forked() -> None:
    """Do not use the random digits of the parent process. Checked once a millisecond, because servers
    that fork in C (uWSGI) run no fork hook; such a child takes longer than that to its first job."""
    if _pid != os.getpid():
        _begin_anew()


def _begin_anew() -> None:
    global _moment, _pid, _tails
    _moment, _pid, _tails = (0, ""), os.getpid(), []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def check_name(what: str, value: object) -> str:
    """Return ``value`` if it may name a task, queue, schedule or job.

    :param what: its name in the error, for example ``"queue"``.
    :raises InvalidNameError: unless it is 1 to 128 ASCII letters, digits and ``. _ : -``, beginning
        with a letter or digit.
    """
    if type(value) is str and _NAME.fullmatch(value):
        return value
    raise InvalidNameError(what, value)
