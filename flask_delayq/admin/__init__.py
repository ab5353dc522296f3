"""The pages under ``/delayq``: what people see of jobs, queues, processes and threads.
Knows the extension only through ``current_app.extensions``; starts nothing."""

from __future__ import annotations

from flask import Blueprint


def admin_blueprint() -> Blueprint:
    """A new blueprint for one app."""
    return Blueprint("delayq", __name__)
