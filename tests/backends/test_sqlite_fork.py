"""Forks of a process that uses a sqlite store: nothing that anybody acknowledged may vanish.

It must not fork the test process itself; the children of `sqlite_child.py` do that.
"""

from __future__ import annotations

import apsw
import pytest

from backends.sqlite_kit import child, line, opened, tell, total


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


@pytest.mark.parametrize(
    "forks", [60, pytest.param(1000, marks=[pytest.mark.stress, pytest.mark.timeout(600)])]
)
def test_what_was_acknowledged_around_forks_is_present(path, forks):
    with child("fork", path, forks) as process:
        acknowledged, present = map(int, line(process).split())
        assert process.wait(30) == 0
    assert acknowledged == present > 2 * forks
    with opened(path) as backend:
        assert total(backend) == acknowledged
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


def test_a_child_forked_too_early_refuses_the_store_and_its_parent_goes_on(path):
    with child("fork_in_a_hurry", path) as process:
        assert [line(process) for _ in range(5)] == ["closed", "closed", "closed", "False", "2"]
        assert process.wait(20) == 0


def test_a_child_tells_whether_its_parent_lives(path):
    with child("fork_owner", path) as process:
        assert sorted([line(process), line(process)]) == ["True", "[True]"]
        process.wait(5)
        tell(process)
        assert line(process) == "[False]"
