"""``flask delayq ...``: the commands.
Knows the extension only through ``current_app.extensions``."""

from __future__ import annotations

from flask.cli import AppGroup

delayq_commands = AppGroup("delayq", help="Jobs: look at them, run them, steer them.")
