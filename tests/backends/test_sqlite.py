"""The sqlite backend against the specification of every backend.

It must not test what only sqlite promises: that is in `test_sqlite_store.py` and its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.conformance import BackendConformance, InspectableConformance, SchedulableConformance
from backends.sqlite_kit import opened
from flask_delayq.backends.sqlite import SQLiteBackend
from flask_delayq.testing import FakeClock


@pytest.fixture
def stores(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[[int], SQLiteBackend]]:
    """Opens the store of a number; everything opened is closed after the test."""
    with ExitStack() as stack:
        yield lambda number: stack.enter_context(opened(tmp_path / f"{number}.sqlite3", clock))


@pytest.fixture
def backend(stores: Callable[[int], SQLiteBackend]) -> SQLiteBackend:
    return stores(0)


@pytest.fixture
def reopen(stores: Callable[[int], SQLiteBackend]) -> Callable[[], SQLiteBackend]:
    return lambda: stores(0)


@pytest.fixture
def fresh(stores: Callable[[int], SQLiteBackend]) -> Callable[[], SQLiteBackend]:
    numbers = itertools.count(1)
    return lambda: stores(next(numbers))


class TestSQLite(BackendConformance, InspectableConformance, SchedulableConformance):
    """Every promise."""
