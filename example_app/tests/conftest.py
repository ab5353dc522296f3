"""What the tests of the example app share: a receiver of webhooks, an app, a served app.

It must not know any single test."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from example_app.tests.receiver import Receiver, receiving
from example_app.tests.service import Service, serving
from leaks import LeakWatch
from pace import measured
from servers import reserved_port


@pytest.fixture(autouse=True, scope="session")
def pace_of_the_machine(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """`wait_until` and `quiet_seconds` count seconds as a quiet machine would."""
    with measured(tmp_path_factory.mktemp("pace")):
        yield


@pytest.fixture(autouse=True)
def leak_detector() -> Generator[None, None, None]:
    """Fail the test that leaks a thread, a file descriptor (Linux) or a Flask context."""
    watch = LeakWatch()
    yield
    if findings := watch.findings():
        pytest.fail("the test left behind:\n  " + "\n  ".join(findings), pytrace=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def port() -> Iterator[int]:
    """A port for a receiver that does not run all the time."""
    with reserved_port() as port:
        yield port


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path) as service:
        yield service
