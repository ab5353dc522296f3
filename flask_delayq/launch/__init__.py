"""Decides whether this process may run jobs: from the moment it is seen to serve, and not before.
Must not know what is started; see docs/design.md for the rule and why nothing simpler holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import uwsgi
from .frames import frames_are_safe, stacks
from .process import Launchable, Process
from .proofs import reason_against_threads as reason_against_threads

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["Launchable", "arm", "describe", "disarm", "frames_are_safe", "serving", "stacks"]

NO_SERVER = "this process serves no requests, so it runs no jobs"

_process = Process()
_is_hooked = False


def arm(state: Launchable, app: Flask) -> None:
    """Start `state` when this process is seen to serve.

    Starts one daemon thread per process that asks, every 0.1 s, later 0.5 s; each request of `app` and
    each fork ask too. A process that was forked from a serving one is never armed.

    :param state: the app's runtime; held weakly.
    :param app: the app whose requests count; held weakly.
    """
    _hook_forks()
    _process.arm(state, app)


def disarm(state: Launchable) -> None:
    """Undo :func:`arm`, because the runtime was started in another way."""
    _process.disarm(state)


def serving() -> str | None:
    """The proof that this process serves (``"gunicorn worker"``, ``"first request"``), or ``None``.

    It only reads; it changes nothing.
    """
    return _process.look()


def describe() -> str:
    """The decision for this process and its reason, in one line for people."""
    if _process.is_child_of_server:
        return "runs no jobs by itself: it was forked from a process that serves"
    proof = serving()
    if proof is not None:
        reason = reason_against_threads()
        return f"serves ({proof})" + (f", but {reason}" if reason else "")
    if not frames_are_safe():
        return "this process runs no jobs before its first request (stacks cannot be read here)"
    return NO_SERVER


def _hook_forks() -> None:
    """Hooks cannot be removed, so they are set once per process, when they are first needed."""
    global _is_hooked
    if _is_hooked:
        return
    _is_hooked = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_process.before_fork,
            after_in_parent=_process.after_fork_in_parent,
            after_in_child=_process.after_fork_in_child,
        )
    if uwsgi.is_no_worker():
        uwsgi.call_after_fork(_process.after_fork_of_uwsgi)
