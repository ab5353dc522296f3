"""What proves that this process serves: a thread inside a server's loop, or a server around Python.
Pure checks of the current state; knows neither apps nor the consequences."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from types import FrameType
from typing import Any, NamedTuple

from ..deployment_warnings import is_under_mod_wsgi
from . import uwsgi
from .frames import stacks


class Loop(NamedTuple):
    """The public loop of a WSGI server: a function in which a thread stays for as long as it serves.

    :ivar server: what people call it, for log lines.
    :ivar function: the function's name.
    :ivar module: the module it is defined in.
    :ivar caller: or, in place of the module, the module and function that must have called it.
    """

    server: str
    function: str
    module: str = ""
    caller: tuple[str, str] = ("", "")


# A server is one row. No event loops here (asyncio, tornado): notebooks and other programs live in them.
LOOPS = (
    Loop("werkzeug", "serve_forever", "werkzeug.serving"),
    Loop("waitress", "run", "waitress.server"),
    # Whatever the worker class: `init_process` itself also loads the app, the `run` it calls does not.
    Loop("gunicorn worker", "run", caller=("gunicorn.workers.base", "init_process")),
    Loop("cheroot", "serve", "cheroot.server"),
    Loop("gevent", "serve_forever", "gevent.baseserver"),
    Loop("eventlet", "server", "eventlet.wsgi"),
)
HUBS = frozenset({"gevent.hub", "eventlet.hubs.hub"})
"""Where ``run`` is the loop that gives each greenlet of a thread its turn."""

_LOOP_NAMES = frozenset(loop.function for loop in LOOPS)


def seen_to_serve(loader: int | None) -> str | None:
    """The server that this process is seen to serve in, or ``None``.

    Looks at every thread. Costs some 20 microseconds in a small process, 2 ms with 200 deep threads.

    :param loader: the ident of the thread that loaded the app, or ``None`` before that.
    """
    frames = stacks()
    if not frames:
        return None
    try:
        # A server written in C shows no loop, but while it loads the app the loader is in Python.
        if loader is not None and loader not in frames and (server := _embedding_server()):
            return server
        stacked = chain(frames.values(), _hidden(frames.values()))
        return next(filter(None, map(loop_in, stacked)), None)
    finally:
        frames.clear()  # one of the frames is that of this call: a cycle


def loop_in(frame: FrameType | None) -> str | None:
    """The server whose loop is on this stack, or ``None``."""
    while frame is not None:
        if frame.f_code.co_name in _LOOP_NAMES:
            for loop in LOOPS:
                if _is(frame, loop):
                    return loop.server
        frame = frame.f_back
    return None


def _hidden(frames: Iterable[FrameType]) -> Iterator[FrameType | None]:
    """Where the outermost greenlets of threads wait while others run, out of sight of the stacks.

    They are found from the caller's own greenlet, and from the hubs of gevent and eventlet.
    """
    current = getattr(sys.modules.get("greenlet"), "getcurrent", None)
    if current is None:  # not in use, or another thread is still importing it
        return
    yield _outermost(current())
    for innermost in frames:
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code.co_name == "run" and module_of(frame) in HUBS:
                hub = frame.f_locals.get("self")
                yield _outermost(
                    getattr(hub, "greenlet", hub)
                )  # eventlet's hub has one, gevent's is one
            frame = frame.f_back


def _outermost(greenlet: Any) -> FrameType | None:
    while (parent := getattr(greenlet, "parent", None)) is not None:
        greenlet = parent
    found: FrameType | None = getattr(greenlet, "gr_frame", None)
    return found


def _is(frame: FrameType, loop: Loop) -> bool:
    if frame.f_code.co_name != loop.function:
        return False
    if loop.module:
        return module_of(frame) == loop.module
    caller = frame.f_back
    return caller is not None and (module_of(caller), caller.f_code.co_name) == loop.caller


def module_of(frame: FrameType) -> str:
    """The name of the module that the frame's code was written in."""
    return str(frame.f_globals.get("__name__"))


def _embedding_server() -> str | None:
    if uwsgi.worker_id():
        return "uWSGI worker"
    return "mod_wsgi" if is_under_mod_wsgi() else None


GREEN = (
    "{} has replaced the threads of this process, so a job would hold up its requests; "
    "run `flask delayq worker` beside it (jobs can be enqueued here)"
)


def reason_against_threads() -> str | None:
    """Why this process must not run jobs although it serves, as the end of a sentence, or ``None``."""
    if uwsgi.is_without_threads():
        return "uWSGI runs without threads; start it with --enable-threads"
    if uwsgi.will_be_green():
        return GREEN.format("gevent")
    for library, module, question, threads in (
        ("gevent", "gevent.monkey", "is_module_patched", "threading"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        # Another thread may be importing it: then it lacks the function, and has patched nothing yet.
        is_patched = getattr(sys.modules.get(module), question, None)
        if is_patched is not None and is_patched(threads):
            return GREEN.format(library)
    return None
