"""Runs a command and ends every process that it leaves behind; one left behind is a failure.

Usage: contain.py COMMAND... It must not know what the command is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE = 5.0


def become_subreaper() -> None:
    """From now on an orphan below us becomes our child, whatever its session or process group."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def living_children() -> dict[int, str]:
    """Reap what has ended; return pid and command line of the children that still run."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The command's name stands in parentheses and may hold anything, even ") ".
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
                children[int(stat.parent.name)] = command.strip()
    return children


def children_left(seconds: float) -> dict[int, str]:
    """What still runs when everything has ended, or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while (children := living_children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return children


def main(command: list[str]) -> int:
    become_subreaper()
    status = subprocess.call(command)
    left = children_left(GRACE)
    for pid, line in left.items():
        print(f"left behind: process {pid}: {line}", file=sys.stderr)
    while children := living_children():  # ending a parent hands us its children
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        children_left(0.2)
    return status or (1 if left else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
