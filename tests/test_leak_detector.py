"""The leak detector bites: each kind of leak fails its own test, and only that one.

Runs pytest on small bad files in a process of its own, as a contributor would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = """
import os, threading
import flask, leaks, pytest

leaks.GRACE = 0.2
held = []
release = threading.Event()

def test_leaks_thread():
    thread = threading.Thread(target=release.wait, name="forgotten", daemon=True)
    thread.start()

def test_after_leaked_thread():
    pass

def test_leaks_descriptor():
    held.append(os.open(__file__, os.O_RDONLY))

def test_leaks_second_descriptor_of_same_file():
    held.append(os.open(__file__, os.O_RDONLY))

def test_leaks_app_context():
    flask.Flask("forgetful").app_context().push()

def test_leaks_request_context():
    flask.Flask("forgetful").test_request_context().push()

def test_after_leaked_context():
    assert not flask.has_app_context() and not flask.has_request_context()

def test_thread_ends_within_grace():
    threading.Timer(0.05, lambda: None).start()

def test_launch_watcher():
    threading.Thread(target=release.wait, name="delayq-launch", daemon=True).start()

def test_descriptor_in_a_cycle():
    class Owner:
        def __init__(self):
            self.me, self.fd = self, os.open(__file__, os.O_RDONLY)
        def __del__(self):
            os.close(self.fd)
    Owner()

def test_descriptor_of_a_deleted_file(tmp_path):
    path = tmp_path / "gone"
    with path.open("w"):
        path.unlink()

def test_fails_for_its_own_reason():
    held.append(os.open(__file__, os.O_RDONLY))
    raise ValueError("own reason")

def test_needs_server():
    pytest.skip("needs a server on the moon")

@pytest.mark.skipif(True, reason="needs another moon")
def test_marked_as_needing():
    pass

@pytest.mark.skipif(True, reason="Windows only")
def test_of_another_platform():
    pass
"""

LEAKS = {
    "test_leaks_thread": "thread 'forgotten': ",
    "test_leaks_descriptor": "file descriptor (1 more): ",
    "test_leaks_second_descriptor_of_same_file": "file descriptor (1 more): ",
    "test_leaks_app_context": "AppContext of 'forgetful' is still pushed",
    "test_leaks_request_context": "Context of 'forgetful' is still pushed",
}


def run_samples(folder: Path, **environment: str) -> str:
    """The output of pytest over SAMPLES with this project's conftest and nothing else of it."""
    file = folder / "test_samples.py"
    file.write_text(SAMPLES)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    environ = {k: v for k, v in os.environ.items() if k not in ("CI", "DELAYQ_CI", "PYTEST_ADDOPTS")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "conftest", "-p", "no:cacheprovider", file],
        cwd=folder,
        env={**environ, "PYTHONPATH": os.path.dirname(__file__), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_samples(tmp_path_factory.mktemp("samples"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are seen on Linux only")
@pytest.mark.parametrize("test, finding", LEAKS.items())
def test_a_leak_fails_its_test_and_is_named(output: str, test: str, finding: str) -> None:
    errors = [line for line in output.splitlines() if line.startswith("ERROR ")]
    assert any(line.split(" - ")[0].endswith(f"::{test}") for line in errors), output
    section = output.split(f"ERROR at teardown of {test} ")[1].split("\n___")[0]
    assert finding in section


def test_nothing_else_is_blamed(output: str) -> None:
    blamed = [line for line in output.splitlines() if line.startswith("ERROR ")]
    assert len(blamed) == len(LEAKS), output


def test_a_failed_test_keeps_its_own_reason(output: str) -> None:
    failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
    assert len(failed) == 1 and "own reason" in failed[0], output


def test_a_missing_server_skips_at_home(output: str) -> None:
    assert "3 skipped" in output.splitlines()[-1]


def test_a_missing_server_fails_in_ci(tmp_path: Path) -> None:
    output = run_samples(tmp_path, DELAYQ_CI="1", PYTEST_ADDOPTS="-k 'moon or need or platform'")
    # A skip inside the test is its failure, a skip by a mark an error at its setup.
    assert "1 failed, 1 skipped, 12 deselected, 1 error" in output.splitlines()[-1], output
    assert output.count("CI must not skip this. Skipped: needs ") == 2
