"""What an application's own tests need.
Must not be imported by anything that runs in production."""

from __future__ import annotations

from .clock import FakeClock as FakeClock
