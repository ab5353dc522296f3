"""What is told about an unfavourable place to run jobs: process 1, a sub-interpreter of mod_wsgi.

Stores in a container are tried in `test_mounts.py`, real servers in `acceptance/test_other_servers.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from flask_delayq import deployment_warnings
from flask_delayq.deployment_warnings import doubt_store_of_tests, remarks

URL = "sqlite:////srv/app/delayq.sqlite3"


def status(path: Path, caught: int) -> str:
    path.write_text(f"Name:\tflask\nSigIgn:\t0000000001001000\nSigCgt:\t{caught:016x}\nThreads:\t9\n")
    return str(path)


@pytest.fixture
def default() -> Iterator[None]:
    """SIGTERM as Python leaves it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_an_ordinary_place_is_not_remarked_on() -> None:
    assert list(remarks(URL)) == list(remarks("memory://")) == []


@pytest.mark.parametrize(
    ("url", "doubtful"),
    [
        ("memory://", False),
        (f"sqlite:///{tempfile.gettempdir()}/pytest-of-ann/jobs.sqlite3", False),
        ("sqlite:////srv/app/instance/test.sqlite3", False),
        ("sqlite:////srv/app/tests/data/jobs.sqlite3", False),
        ("postgresql://localhost/shop_test", False),
        ("sqlite:////srv/app/instance/delayq.sqlite3", True),
        ("sqlite:////srv/latest/contest/jobs.sqlite3", True),
        ("postgresql://localhost/shop", True),
    ],
)
def test_a_store_that_was_not_chosen_for_tests_is_doubted(url: str, doubtful: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        doubt_store_of_tests(url)
    assert [str(warning.message).count(url) for warning in caught] == [1] * doubtful


@pytest.mark.usefixtures("default")
def test_process_1_without_a_handler_for_sigterm_is_told_how_to_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(deployment_warnings, "STATUS", status(tmp_path / "status", caught=0x2))
    (remark,) = remarks(URL)
    assert "has no SIGTERM handler" in remark
    assert "STOPSIGNAL SIGINT" in remark
    monkeypatch.setattr(deployment_warnings, "STATUS", str(tmp_path / "missing"))
    assert len(list(remarks(URL))) == 1
    # A server in C has one that Python knows nothing of: bit 14 is signal 15.
    monkeypatch.setattr(deployment_warnings, "STATUS", status(tmp_path / "status", caught=0x4000))
    assert list(remarks(URL)) == []
    monkeypatch.setattr(deployment_warnings, "STATUS", status(tmp_path / "status", caught=0x2))
    signal.signal(signal.SIGTERM, lambda *_: None)
    assert list(remarks(URL)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the system's own word in /proc")
def test_the_system_says_what_python_says() -> None:
    code = (
        "import signal\n"
        "from flask_delayq.deployment_warnings import is_deaf_to_sigterm\n"
        "assert is_deaf_to_sigterm()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "assert not is_deaf_to_sigterm()\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "assert not is_deaf_to_sigterm()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_a_sub_interpreter_of_mod_wsgi_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mod_wsgi")
    monkeypatch.setitem(sys.modules, "mod_wsgi", module)
    assert list(remarks(URL)) == []
    module.application_group = ""  # type: ignore[attr-defined]
    assert list(remarks(URL)) == []
    module.application_group = "example.org|/shop"  # type: ignore[attr-defined]
    (remark,) = remarks(URL)
    assert "sub-interpreter of mod_wsgi (application group 'example.org|/shop')" in remark
    assert "WSGIApplicationGroup %{GLOBAL}" in remark
