"""What is unfavourable about the place where jobs run, in sentences for the log.
Must not know apps or runtimes: it is told what it needs of them, and looks at the process itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from signal import SIG_DFL, SIGTERM, getsignal

from .mounts import why_temporary

STATUS = "/proc/self/status"


def remarks(url: str) -> Iterator[str]:
    """What is worth a warning in a process that begins to run the jobs of the store at ``url``.

    Each remark is the end of a sentence that begins with whose jobs they are.
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
            "run in process 1 of a container, whose server does not listen to SIGTERM: a stop kills it "
            "after the grace period; set STOPSIGNAL SIGINT (docker run --stop-signal SIGINT)"
        )


def how_to_run_jobs(mode: str, url: str) -> str:
    """What to do so that the jobs of the store at ``url`` run, as an app in this mode can do it."""
    if url.startswith("memory:"):
        return (
            "they end with this process; run them here with delayq.start() or DELAYQ_MODE=thread, "
            "or set DELAYQ_URL to a store that other processes share"
        )
    if mode == "external":
        return "start `flask delayq worker` (in mode external the server runs none)"
    if mode == "auto":
        return "start the server or `flask delayq worker`"
    return f"start `flask delayq worker`, or call delayq.start() in the server (mode {mode})"


def is_under_mod_wsgi() -> bool:
    """Whether this process is one of Apache's."""
    # mod_wsgi adds this attribute; the package of the same name alone has not got it.
    return hasattr(sys.modules.get("mod_wsgi"), "process_group")


def application_group() -> str:
    """The sub-interpreter of mod_wsgi that this is; empty for the main one, and anywhere else."""
    return str(getattr(sys.modules.get("mod_wsgi"), "application_group", ""))


def is_deaf_to_sigterm() -> bool:
    """Whether SIGTERM has no handler, of Python or of C; process 1 is not even ended by it then."""
    if getsignal(SIGTERM) != SIG_DFL:
        return False
    with suppress(OSError, ValueError), open(STATUS, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("SigCgt:"):
                return not int(line.split()[1], 16) >> (SIGTERM - 1) & 1
    return True
