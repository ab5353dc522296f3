"""The pytest plugin that comes with the package: the fixture ``delayq_clock``, and nothing else.
Must not know any app: pytest loads it in every project that has the package installed."""

from __future__ import annotations

import pytest

from .clock import FakeClock


@pytest.fixture
def delayq_clock() -> FakeClock:
    """A clock that moves only when the test moves it; give it to an app with ``use_clock``."""
    return FakeClock()
