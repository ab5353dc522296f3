"""Finds modules of an app that have tasks and were not imported, by their source text.
Imports nothing; the number and the size of the files are limited."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..clock import machine_time

MOST_FILES = 2000
MOST_BYTES = 1 << 20
"""Bytes; larger files are skipped."""
MOST_SECONDS = 1.0

_TASK = re.compile(r"^[ \t]*@(?:\w+\.)*\w+\.task\b", re.MULTILINE)
_NOT_OURS = re.compile(r"[._].*|tests?|testing|migrations|static|templates|node_modules")


def unimported(import_name: str) -> list[tuple[str, int]]:
    """The modules beside an app that were not imported: their relative path and number of tasks.

    Only files that contain "delayq" count, so another library's ``@app.task`` does not.

    :param import_name: the app's import name; its whole package is searched, or the folder of its file.
    """
    module = sys.modules.get(import_name.partition(".")[0])
    loaded = {os.path.realpath(str(getattr(one, "__file__", ""))) for one in list(sys.modules.values())}
    found = []
    end = machine_time() + MOST_SECONDS
    for count, (root, path) in enumerate(_sources(module)):
        if count >= MOST_FILES or machine_time() > end:
            break
        if os.path.realpath(path) in loaded:
            continue
        try:
            text = path.read_text("utf-8", "replace") if path.stat().st_size <= MOST_BYTES else ""
        except OSError:
            continue
        if "delayq" in text.lower() and (tasks := len(_TASK.findall(text))):
            found.append((str(path.relative_to(root)), tasks))
    return sorted(found)


def _sources(module: object) -> Iterator[tuple[Path, Path]]:
    """The Python files of a package, or those beside a single module, each with its root."""
    folders = list(getattr(module, "__path__", ()))
    file = getattr(module, "__file__", None)
    whole = bool(folders)
    if not whole and file:
        folders = [os.path.dirname(os.path.abspath(file))]
    for folder in folders:
        for above, below, names in os.walk(folder):
            below[:] = sorted(name for name in below if whole and not _NOT_OURS.fullmatch(name))
            for name in sorted(names):
                if name.endswith(".py") and not name.startswith("test_") and name != "conftest.py":
                    yield Path(folder).parent if whole else Path(folder), Path(above, name)
