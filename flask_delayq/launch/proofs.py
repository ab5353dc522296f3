"""What proves that this process serves: a thread inside a server's loop, or a server around Python.
Pure questions about this moment; knows neither apps nor what follows from the answer."""

from __future__ import annotations

import gc
import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from . import uwsgi


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
_LOOP_NAMES = frozenset(loop.function for loop in LOOPS)

# Clients that call the app in their own process, without a server; nothing in the environ tells them.
CLIENTS_IN_PROCESS = frozenset({"werkzeug.test", "webtest.app", "httpx._transports.wsgi"})


# Loaded by whoever makes isolated sub-interpreters; Flask and the common library load neither.
SUBINTERPRETERS = ("_interpreters", "_xxsubinterpreters")


class Loader(NamedTuple):
    """The thread that loaded the app.

    :ivar ident: its identifier.
    :ivar root: its outermost greenlet if greenlets are in use, else ``None``. A server that waits
        inside gevent's or eventlet's hub stands there, out of sight of ``sys._current_frames()``.
    """

    ident: int
    root: Any

    @classmethod
    def here(cls) -> Loader:
        """The calling thread."""
        greenlet = sys.modules.get("greenlet")
        root = greenlet.getcurrent() if greenlet is not None else None
        while root is not None and root.parent is not None:
            root = root.parent
        return cls(get_ident(), root)


def frames_are_safe() -> bool:
    """Whether the frames of other threads can be read without risk to the process.

    They cannot on a free-threaded build that runs without the GIL (a use after free,
    python/cpython#118680), nor beside isolated sub-interpreters (heap corruption, gh-158364).
    """
    gil_is_on: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return gil_is_on() and not any(name in sys.modules for name in SUBINTERPRETERS)


_asking = threading.Lock()


def stacks() -> dict[int, FrameType]:
    """Where every thread stands, by its ident; empty where asking would endanger the process.

    Whoever is done with it clears it: one of the frames is the caller's own, a cycle.
    """
    if not frames_are_safe():
        return {}
    # Before Python 3.11.9 a collection inside the call can stop the process for good
    # (python/cpython#106883). One asks at a time, so that none switches it on under another.
    with _asking:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()


def seen_to_serve(loader: Loader | None) -> str | None:
    """The server that this process is seen to serve in, or ``None``.

    Looks at every thread. Costs some 20 microseconds in a small process, 2 ms with 200 deep threads.

    :param loader: the thread that loaded the app, or ``None`` before that.
    """
    if not frames_are_safe():
        return None
    frames = stacks()
    try:
        if loader is not None:
            # A server written in C shows no loop, but while it loads the app the loader is in Python.
            if loader.ident not in frames and (server := _embedding_server()):
                return server
            if loader.root is not None and (server := loop_in(loader.root.gr_frame)):
                return server
        return next(filter(None, map(loop_in, frames.values())), None)
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


def called_in_process() -> bool:
    """Whether the request under way in this thread came from a test client and not through a server."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if module_of(frame) in CLIENTS_IN_PROCESS:
            return True
        frame = frame.f_back
    return False


def _embedding_server() -> str | None:
    if uwsgi.worker_id():
        return "uWSGI worker"
    # Apache's mod_wsgi adds this attribute; the package of the same name alone has not got it.
    return "mod_wsgi" if hasattr(sys.modules.get("mod_wsgi"), "process_group") else None


def reason_against_threads() -> str | None:
    """Why no job may run in this process though it serves, as the end of a sentence, or ``None``."""
    if uwsgi.is_without_threads():
        return "uWSGI runs without threads; start it with --enable-threads"
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    for library, is_patched in (
        ("gevent", gevent is not None and gevent.is_module_patched("threading")),
        ("eventlet", eventlet is not None and eventlet.is_monkey_patched("thread")),
    ):
        if is_patched:
            return (
                f"{library} has replaced the threads of this process, so a job would hold up its "
                f"requests; run `flask delayq worker` beside it (jobs can be enqueued here)"
            )
    return None
