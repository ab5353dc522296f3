"""The group ``flask delayq`` itself: how it prints errors, and the option that its commands share.
Knows no single command."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup

from ..errors import DelayQError
from .output import safe


class DelayQGroup(AppGroup):
    """Turns the package's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DelayQError as error:
            raise click.ClickException(safe(str(error))) from error


delayq_commands = DelayQGroup("delayq", help="Inspect, run and control jobs.")

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
"""For every command that prints data: the name of its parameter is ``as_json``."""
