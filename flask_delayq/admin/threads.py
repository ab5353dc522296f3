"""``/delayq/threads``: every thread of the process that answers, its job and its stack.
Knows frames by file, line and function; never reads their variables."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flask import Response

from .. import launch
from ..app_state import AppState, current_state
from ..console import presenting
from ..errors import BackendError
from .replies import reply

if TYPE_CHECKING:
    from ..running import RunningJob

FRESH = 1.0
"""Seconds for which a snapshot is cached."""

DEPTH = 40
"""Maximum number of calls shown of a stack, the innermost ones."""

MOST = 300
"""Maximum number of threads shown."""

_snapshots: WeakKeyDictionary[AppState, tuple[float, dict[str, Any]]] = WeakKeyDictionary()
_taking = threading.Lock()


def threads() -> Response:
    """The threads of this process, and a list of the other processes."""
    return reply("threads", snapshot(current_state()))


def snapshot(state: AppState) -> dict[str, Any]:
    """All threads as plain data, at most :data:`FRESH` seconds old."""
    with _taking:
        now = state.clock.monotonic()
        taken = _snapshots.get(state)
        if taken is None or not 0.0 <= now - taken[0] < FRESH:
            taken = _snapshots[state] = (now, _take(state))
        return taken[1]


def _take(state: AppState) -> dict[str, Any]:
    supervisor = state.supervisor
    running: Mapping[int, RunningJob] = {}
    roles: Mapping[int, str] = {}
    if supervisor is not None:
        running, roles = dict(supervisor.claims.running), supervisor.roles()
    frames = launch.stacks()
    readable = bool(frames)  # not asked again: another interpreter may have come or gone since
    known = sorted(
        threading.enumerate(),
        key=lambda thread: (thread.ident not in running, thread.ident not in roles, thread.name),
    )
    rows = []
    for thread in known[:MOST]:
        ident = thread.ident or 0
        frame = frames.pop(ident, None)
        rows.append(
            {
                "name": thread.name,
                "ident": ident,
                "native_id": thread.native_id,
                "daemon": thread.daemon,
                "role": _role(thread, roles),
                "job": _job(running.get(ident), state.clock.now()),
                "stack": _stack(frame),
                "deeper": _is_deeper(frame),
            }
        )
    del frames
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "owner": supervisor.owner if supervisor is not None else None,
        "runs_jobs": supervisor is not None and supervisor.is_running,
        "taken_at": presenting.moment(state.clock.now()),
        "stacks": readable,
        "threads": rows,
        "left_out": max(0, len(known) - MOST),
        "processes": _others(state),
    }


def _role(thread: threading.Thread, roles: Mapping[int, str]) -> str:
    role = roles.get(thread.ident or 0)
    if role is not None:
        return role
    if thread is threading.current_thread():
        return "this request"
    return "main" if thread is threading.main_thread() else "other"


def _job(run: RunningJob | None, now: float) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "id": run.id,
        "task": run.task,
        "attempt": run.attempt,
        "running_for": max(0.0, now - run.started_at),
    }


def _stack(frame: FrameType | None) -> list[str]:
    """The innermost calls, the innermost last: never a local, never a source line."""
    lines = [
        f"{_shortened(code.co_filename)}:{line} {getattr(code, 'co_qualname', code.co_name)}"
        for code, line in _calls(frame)
    ]
    return lines[::-1]


def _calls(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    left = DEPTH
    while frame is not None and left:
        yield frame.f_code, frame.f_lineno or 0
        frame = frame.f_back
        left -= 1


def _is_deeper(frame: FrameType | None) -> bool:
    for _ in range(DEPTH):
        if frame is None:
            return False
        frame = frame.f_back
    return frame is not None


@lru_cache(maxsize=2048)
def _shortened(path: str) -> str:
    """A path without the folder of the installation."""
    for base in sorted(sys.path, key=len, reverse=True):
        if base and path.startswith(base.rstrip(os.sep) + os.sep):
            return path[len(base.rstrip(os.sep)) + 1 :]
    return os.sep.join(path.split(os.sep)[-2:])


def _others(state: AppState) -> list[dict[str, Any]]:
    try:
        return presenting.processes(state)
    except BackendError:
        return []  # the store failed, but the threads of this process are useful even more
