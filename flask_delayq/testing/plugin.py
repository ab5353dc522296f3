"""The pytest plugin that comes with the package: the fixture ``delayq_clock``, and nothing else.
Must not know any app: it is loaded in every project whose environment holds the package."""

from __future__ import annotations

import pytest

from .clock import FakeClock


@pytest.fixture
def delayq_clock() -> FakeClock:
    """A clock that stands still until the test moves it; give it to an app with ``use_clock``."""
    return FakeClock()
