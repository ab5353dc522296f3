"""What every backend's tests share: a clock, and readable asserts inside the suite.
Must not know any backend."""

from __future__ import annotations

import pytest

from flask_delayq.testing import FakeClock

pytest.register_assert_rewrite("backends.conformance", "backends.model")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
