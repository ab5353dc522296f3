"""Rules for every test: it leaves nothing behind, and in CI it may not skip for want of a server.

Must not know any feature of the package: fixtures for those live beside their tests.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from typing import TypeVar

import pytest

import pace
from flask_delayq import mounts
from leaks import LeakWatch

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

passed = pytest.StashKey[bool]()


def pytest_configure() -> None:
    # A shell starts background programs with SIGINT ignored, and child processes inherit that. Tests
    # need SIGINT as it is in a terminal.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def lasting_files() -> Generator[None, None, None]:
    """The same results inside a container, where the package would warn of files that do not last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mounts, "TABLE", os.devnull)
        patch.setattr(mounts, "MARKS", ())
        yield


@pytest.fixture(autouse=True, scope="session")
def pace_of_the_machine(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """`wait_until` and `quiet_seconds` count seconds as a quiet machine would."""
    with pace.measured(tmp_path_factory.mktemp("pace")):
        yield


@pytest.fixture(autouse=True)
def leak_detector(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fail the test that leaks a thread, a file descriptor (Linux) or a Flask context."""
    watch = LeakWatch()
    yield
    # The traceback of a failed test keeps its frames alive, and so the descriptors that they hold.
    if request.node.stash.get(passed, False) and (findings := watch.findings()):
        pytest.fail("the test left behind:\n  " + "\n  ".join(findings), pytrace=False)


@pytest.fixture(autouse=True)
def undecided() -> Generator[None, None, None]:
    """Forget that this process was seen to serve: it must not start jobs in the next test."""
    yield
    launch = sys.modules.get("flask_delayq.launch")
    if launch is not None:
        launch._process.proof = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[passed] = report.passed
    return refuse_skip_in_ci(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return refuse_skip_in_ci((yield))


def refuse_skip_in_ci(report: Report) -> Report:
    """Locally a missing server skips its tests; CI promised one, so there it is an error."""
    if report.skipped and os.environ.get("DELAYQ_CI") and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if reason.removeprefix("Skipped: ").startswith("needs "):
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: CI must not skip this. {reason}"
    return report
