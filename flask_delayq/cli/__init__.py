"""``flask delayq ...``: the commands.
Knows the app only as its ``AppState``."""

from __future__ import annotations

from . import jobs, queues, status, worker
from .group import delayq_commands

__all__ = ["delayq_commands", "jobs", "queues", "status", "worker"]
