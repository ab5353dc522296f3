"""Jobs in this process's memory: the reference implementation, for tests and jobs that may be lost.
Must not know any other backend."""

from __future__ import annotations

from .backend import MemoryBackend as MemoryBackend
