"""Problems of the deployment, in sentences for the log.
Must not know apps or runtimes: it gets what it needs of them, and looks at the process itself."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from signal import SIG_DFL, SIGTERM, getsignal
from tempfile import gettempdir

from .mounts import why_temporary
from .texts import without_password

STATUS = "/proc/self/status"


def remarks(url: str) -> Iterator[str]:
    """Warnings for a process that starts running the jobs of the store at ``url``.

    Each one is the end of a sentence that begins with "the jobs of ...".
    """
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and (why := why_temporary(path)):
        yield f"are stored in {path}, which is {why}; mount a volume there, or change DELAYQ_URL"
    if group := application_group():
        yield (
            f"run in a sub-interpreter of mod_wsgi (application group {group!r}), which can crash when "
            "Apache stops its process; set WSGIApplicationGroup %{GLOBAL}"
        )
    if os.getpid() == 1 and is_deaf_to_sigterm():
        yield (
            "run in process 1 of a container, which has no SIGTERM handler: a stop kills it "
            "after the grace period; set STOPSIGNAL SIGINT (docker run --stop-signal SIGINT)"
        )


def how_to_run_jobs(mode: str, url: str, *, serving: bool = False) -> str:
    """What to do so that the jobs of the store at ``url`` run, for an app in this mode.

    :param serving: whether this process is a server.
    """
    if mode == "auto" and serving:
        return (
            "this server starts running them at its first request, so look again in a moment; "
            "or start `flask delayq worker`"
        )
    if url.startswith("memory:"):
        return (
            "this store ends with the process; run them here with delayq.start() or DELAYQ_MODE=thread, "
            "or set DELAYQ_URL to a store that other processes share"
        )
    if mode == "external":
        return "start `flask delayq worker` (in mode external the server runs no jobs)"
    if mode == "auto":
        return "start the server or `flask delayq worker`"
    return f"start `flask delayq worker`, or call delayq.start() in the server (mode {mode})"


def idle_hint(mode: str, testing: bool) -> str:
    """Why an app in this mode runs no jobs automatically, and how to run them; else empty."""
    if mode != "manual":
        return ""
    if testing:
        return (
            "no jobs run automatically with TESTING: call run_jobs(delayq) of flask_delayq.testing, "
            "or delayq.start() for real threads"
        )
    return "no jobs run automatically with DELAYQ_MODE=manual: call delayq.drain() or delayq.start()"


def doubt_store_of_tests(url: str) -> None:
    """Warn if the store at ``url`` is probably not meant for tests.

    A store in a temporary folder, or with the word "test" in its path, was chosen for tests. Any other
    store is usually inherited from the app's normal configuration.
    """
    scheme, _, path = url.partition("://")
    if scheme == "memory" or re.search(r"(?<![a-z])(py)?tests?(?![a-z])", path.lower()):
        return
    temporary = os.path.realpath(gettempdir()) + os.sep
    if scheme == "sqlite" and os.path.realpath(path[1:]).startswith(temporary):
        return
    warnings.warn(
        f"with TESTING the jobs are in {without_password(url)}, as DELAYQ_URL says: tests run the jobs "
        f"of that store, and a server runs the jobs of the tests. Set DELAYQ_URL = 'memory://' in the "
        f"configuration of the tests, or use a store with 'test' in its path",
        stacklevel=2,
    )


def is_under_mod_wsgi() -> bool:
    """Whether this process belongs to Apache."""
    # The embedding mod_wsgi adds this attribute; the package of the same name does not have it.
    return hasattr(sys.modules.get("mod_wsgi"), "process_group")


def application_group() -> str:
    """The name of this sub-interpreter of mod_wsgi; empty for the main interpreter and other servers."""
    return str(getattr(sys.modules.get("mod_wsgi"), "application_group", ""))


def is_deaf_to_sigterm() -> bool:
    """Whether SIGTERM has no handler, of Python or of C. Then SIGTERM does not end process 1."""
    if getsignal(SIGTERM) != SIG_DFL:
        return False
    with suppress(OSError, ValueError), open(STATUS, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("SigCgt:"):
                return not int(line.split()[1], 16) >> (SIGTERM - 1) & 1
    return True
