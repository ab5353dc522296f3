"""Tells an exception of a task from the refusals of an ending interpreter.
Must not know what happens to the job."""

from __future__ import annotations

import _thread
import sys

_REFUSALS = ("at interpreter shutdown", "after interpreter shutdown")
"""How ``_thread``, ``os.fork``, ``subprocess`` and ``concurrent.futures`` end their messages."""


def cut_off_by_exit(error: BaseException) -> bool:
    """Whether a run failed because its interpreter is ending and refuses new threads and processes.

    Python 3.12.0 to 3.12.2 refuse them as soon as the main thread has ended, while jobs still get time
    (python/cpython#113964); every other version does so when a job outlives its process's drain. The
    refusal may be the cause of an exception that the task raised.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, RuntimeError) and _says_so(link):
            return _is_ending()  # the message alone proves nothing
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return False


def _says_so(error: RuntimeError) -> bool:
    text = error.args[0] if error.args else ""
    return isinstance(text, str) and text.endswith(_REFUSALS)


def _is_ending() -> bool:
    """Whether this interpreter is ending: it refuses a thread, or work for a thread pool."""
    try:
        _thread.start_new_thread(int, ())
    except RuntimeError as refusal:
        return _says_so(refusal)
    pools = sys.modules.get("concurrent.futures.thread")
    return bool(getattr(pools, "_shutdown", False))
