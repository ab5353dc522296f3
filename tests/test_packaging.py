"""What is built from the sources: the source distribution is the project, the wheel the package alone.

It must not know what is inside the files.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from flit_core import buildapi

from pages import README
from servers import ROOT

FOLDERS = (".ci", "benchmarks", "docs", "example_app", "flask_delayq", "tests")
FILES = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"}
MADE = {"__pycache__", "instance", ".pytest_cache"}
"""Folders that a use of the sources leaves among them."""


def files_below(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file() and not MADE & set(path.parts) and path.suffix != ".pyc"
    }


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source distribution, unpacked."""
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / buildapi.build_sdist(str(tmp_path))) as archive:
        archive.extractall(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    return folder


def test_the_source_distribution_is_the_whole_project(sources: Path) -> None:
    for name in FOLDERS:
        assert files_below(sources / name) == files_below(ROOT / name)
    assert {path.name for path in sources.iterdir()} == {*FOLDERS, *FILES, "PKG-INFO"}
    assert not [path for path in sources.rglob("*") if path.name in MADE or path.suffix == ".pyc"]


def test_the_wheel_is_the_package_alone(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sources)  # as pip and build make it
    with zipfile.ZipFile(tmp_path / buildapi.build_wheel(str(tmp_path))) as archive:
        names = set(archive.namelist())
    described = {name for name in names if ".dist-info/" in name}
    assert {name.split("/", 1)[1] for name in described} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    assert names - described == files_below(ROOT / "flask_delayq")
    kinds = {path.suffix or path.name for path in map(Path, names - described)}
    # The README of a folder says its rule to those who read the installed code.
    assert kinds == {".py", ".typed", ".html", ".css", ".md"}


def test_the_readme_has_no_link_that_is_dead_where_packages_are_shown() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", README.read_text("utf-8"))
    assert [link for link in links if "://" not in link] == []
