"""An exception thrown into a thread in the middle of the store's own lines, at each instant in turn: the
lead, the guard and every connection are given back.

It must not test what is stored, beyond that it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backends.sqlite_kit import backend_on, opened, put
from flask_delayq.backends import nesting
from flask_delayq.backends.sqlite import file
from flask_delayq.backends.sqlite.file import checkpoints, schema
from flask_delayq.backends.sqlite.file.connection import Sql
from flask_delayq.errors import BackendUnavailableError
from thrower import Thrower, instants

# Not what has no lock and no connection of its own, nor the statements of the tables.
FILES = {str(one) for one in Path(file.__file__).parent.glob("*.py")} - {schema.__file__}
FILES |= {nesting.__file__}


class Open:
    """The first use of a process: a read opens the store."""

    def __init__(self, path):
        with opened(path, synchronous="NORMAL") as others:
            put(others)
        self.backend = backend_on(path, synchronous="NORMAL")

    def act(self):
        self.backend.counts(now=0.0)


class Close:
    def __init__(self, path):
        self.backend = backend_on(path, synchronous="NORMAL")
        put(self.backend)
        self.backend.counts(now=0.0)

    def act(self):
        self.backend._store.close(timeout=1)


class Discard(Close):
    """What a read does that finds another file in the store's place."""

    def act(self):
        self.backend._store._discard_from_outside(
            BackendUnavailableError("it was replaced", reason="replaced"), sys.maxsize
        )


class Checkpoint(Close):
    """One that copies the last part while nobody writes."""

    def act(self):
        self.backend.maintain()


@pytest.fixture(autouse=True)
def every_checkpoint_copies_the_rest(monkeypatch):
    monkeypatch.setattr(checkpoints, "PASSIVE_BYTES", 0)


@pytest.mark.parametrize("scene", [Open, Close, Discard, Checkpoint])
def test_whenever_an_exception_strikes_everything_is_given_back(tmp_path, scene):
    path = tmp_path / "delayq.sqlite3"
    among = instants(lambda thrower: run(scene(path), thrower), FILES)
    assert among > 15
    struck = 0
    for nth in range(among):
        thrower = Thrower(nth, FILES)
        run(scene(path), thrower, nth)
        struck += thrower.has_thrown
    # CPython 3.13 does not trace every step of every call.
    assert struck == among or (sys.version_info >= (3, 13) and struck >= among / 2)


def run(scene, thrower, nth=-1):
    thrower.run(scene.act)
    store = scene.backend._store
    assert store.writer._leader is None, nth
    assert store.writer._waiting == store.readers._loans == [], nth
    assert store.file.guard.acquire(timeout=0), nth
    store.file.guard.release()
    assert put(scene.backend, timeout=1), nth
    assert scene.backend.counts(now=0.0), nth
    assert store.close(timeout=1), nth
    assert Sql.how_many(store.file.path) == 0, nth
