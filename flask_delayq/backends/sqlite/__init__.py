"""Jobs in one SQLite file: the default backend, for several processes on one host.
Must not know tasks, the runtime or Flask; apsw is the only SQLite that may touch the file."""

from __future__ import annotations

from .backend import SQLiteBackend

__all__ = ["SQLiteBackend"]
