"""The pages under ``/delayq``: what people see of jobs, queues, processes and threads.
Knows the extension only through ``current_app.extensions``; starts nothing."""

from __future__ import annotations

from .blueprint import admin_blueprint

__all__ = ["admin_blueprint"]
