"""The stacks of the threads of this process, read only if this cannot crash the process.
Must not know what is searched for in the stacks."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

if sys.version_info >= (3, 13):
    # It alone can tell whether C code has made an interpreter of its own.
    with suppress(ImportError):
        import _interpreters  # noqa: F401

FREE_THREADED = "free-threading" in sys.version
"""Whether this Python was built to run without the GIL. Such a build may enable and disable the GIL
at any time (during the import of an extension module), so its current state proves nothing."""


def frames_are_safe() -> bool:
    """Whether the frames of other threads can be read now without risk to the process.

    ``sys._current_frames()`` reads the threads of *all* interpreters and makes a frame object for each.
    The caller holds its own GIL only, so a thread that runs under another GIL changes its frames
    meanwhile, and the object comes from the memory of the wrong interpreter: the heap is corrupted
    (python/cpython#158364). One interpreter is safe, and so are several that share one GIL, as those of
    mod_wsgi and uWSGI do. Without any GIL it is a use after free (python/cpython#118680).
    """
    return not FREE_THREADED and _all_share_one_gil()


def _all_share_one_gil() -> bool:
    # Until 3.11 there is one GIL. In 3.12 this module makes the isolated interpreters and cannot tell
    # them from others. That it is loaded says nothing: concurrent.futures loads it since 3.14.
    module: Any = sys.modules.get("_interpreters") or sys.modules.get("_xxsubinterpreters")
    if module is None:
        return True
    try:
        known = module.list_all()
        if len(known) == 1:
            return True
        # The main interpreter says "own" and those that use its GIL "shared".
        return [module.get_config(one[0]).gil for one in known].count("own") == 1
    except Exception:  # one of them is just beginning or ending; or the private module has changed
        return False


# Reentrant: a signal handler may fork, or ask, in the middle of an answer.
_asking = threading.RLock()
_paused = False


def stacks() -> dict[int, FrameType]:
    """Where every thread stands, by its ident; empty where asking would endanger the process.

    Whoever is done with it clears it: one of the frames is the caller's own, a cycle.
    """
    global _paused
    # Before Python 3.11.9 a collection inside the call can stop the process for good
    # (python/cpython#106883). One asks at a time, so that none switches it on under another.
    with _asking:
        outermost = not _paused and gc.isenabled()
        try:
            try:
                if outermost:
                    _paused = True
                    gc.disable()
                # As late as can be: another thread may make an interpreter at any moment before.
                return sys._current_frames() if frames_are_safe() else {}
            finally:
                if outermost:
                    _go_on()
        finally:  # whatever was thrown into the first
            if outermost:
                _go_on()


def _go_on() -> None:
    global _paused
    gc.enable()
    _paused = False


def _forget_who_asked() -> None:
    """After a fork, in the child: a thread that was asking has stayed with the parent."""
    global _asking, _paused
    _asking = threading.RLock()
    if _paused:
        gc.enable()
    _paused = False


_register: Callable[..., None] | None = getattr(os, "register_at_fork", None)
if _register is not None:
    _register(after_in_child=_forget_who_asked)
