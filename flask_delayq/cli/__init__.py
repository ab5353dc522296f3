"""``flask delayq ...``: the commands.
Knows the extension only through ``current_app.extensions``."""

from __future__ import annotations

from . import jobs, status, store, worker
from .group import delayq_commands

__all__ = ["delayq_commands", "jobs", "status", "store", "worker"]
