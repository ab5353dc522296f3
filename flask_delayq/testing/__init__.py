"""Helpers for an application's own tests.
Must not be imported by anything that runs in production."""

from __future__ import annotations

from .clock import FakeClock
from .expecting import assert_enqueued, refute_enqueued
from .running import advance, run_jobs, use_clock

__all__ = ["FakeClock", "advance", "assert_enqueued", "refute_enqueued", "run_jobs", "use_clock"]
