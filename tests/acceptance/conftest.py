"""What the chaos tests share: a nursery of processes per test, and figures told at the end of the run.

It must not know what is measured, nor what the processes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acceptance.nursery import Nursery, nursery

Figure = Callable[[str], None]

_figures = pytest.StashKey[list[str]]()


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Nursery]:
    """Makes processes of `chaos_app` in milliseconds; they end with the test."""
    with nursery(tmp_path) as made:
        yield made


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Call it with a line about what was measured: it is told whether the test passes or fails."""

    def tell(line: str) -> None:
        request.node.add_report_section("call", "figures", line)
        request.config.stash.setdefault(_figures, []).append(f"{request.node.name}: {line}")

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_figures, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
