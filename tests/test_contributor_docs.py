"""The pages for contributors, compared with the code: paths, names, threads and fork hooks.

It must not know what the pages say of these: that is for readers to judge.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import pytest

from kit import make_app, running
from servers import ROOT
from test_docs import rows
from waiting import wait_until

PACKAGE = ROOT / "flask_delayq"
SQLITE = PACKAGE / "backends" / "sqlite"
CONTRIBUTING, FORKS = ROOT / "docs" / "contributing.md", ROOT / "docs" / "forks.md"
ROOMS = [PACKAGE / "runtime" / "README.md", SQLITE / "README.md"]

PATH = re.compile(
    r"(?:tests|docs|benchmarks|flask_delayq)/[\w./-]+|[\w.-]*(?:/[\w.-]+)*(?:/|\.(?:py|md|html|toml))"
)
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?:\(\))?")
INVENTED = {"NAME", "NAME.html", "test_NAME.py"}
"""What stands on a page for the reader's own words."""


def quoted(page: Path) -> list[str]:
    """What stands between backticks, outside of programs."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [
        word for word in re.findall(r"`([^`\n]+)`", text) if INVENTED.isdisjoint(re.split("[/ ]", word))
    ]


@pytest.mark.parametrize(
    "page",
    [CONTRIBUTING, FORKS, ROOT / "docs" / "design.md", *ROOMS],
    ids=lambda p: p.parent.name + p.stem,
)
def test_every_path_on_the_page_exists(page: Path) -> None:
    # A list of neighbours gives the folder once: a bare name may be in any folder that the page names.
    words = [word for words in quoted(page) for word in words.split() if PATH.fullmatch(word)]
    folders = {ROOT, PACKAGE, PACKAGE / "backends", SQLITE, page.parent}
    folders |= {ROOT / word for word in words if word.endswith("/")}
    missing = [word for word in words if not any((folder / word).exists() for folder in folders)]
    assert words and not missing


@cache
def words_of_the_code() -> frozenset[str]:
    """Every word that occurs in the sources, in the tests or in what builds them."""
    files = [
        *PACKAGE.rglob("*.*"),
        *ROOT.glob("tests/**/*.py"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]
    texts = (
        file.read_text("utf-8")
        for file in files
        if file.suffix in ("", ".py", ".html", ".toml") and file != Path(__file__)
    )
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@pytest.mark.parametrize("page", [CONTRIBUTING, FORKS], ids=lambda p: p.stem)
def test_every_name_on_the_page_is_one_of_the_code(page: Path) -> None:
    names = {match[1] for word in quoted(page) if (match := NAME.fullmatch(word))}
    assert len(names) > 20
    assert names - words_of_the_code() == set()


# --- forks -------------------------------------------------------------------------------------------

HOOKS = """
import json, os, sys
real, seen = os.register_at_fork, []

def register(**hooks):
    frame = sys._getframe(1)
    if frame.f_globals["__name__"].startswith("flask_delayq"):
        names = [getattr(hooks.get(when), "__qualname__", "") for when in WHEN]
        seen.append([os.path.realpath(frame.f_code.co_filename), *names])
    real(**hooks)

WHEN = ("before", "after_in_parent", "after_in_child")
os.register_at_fork = register
from flask import Flask
from flask_delayq import DelayQ
for number, url in enumerate(("memory://", "sqlite:///hooks.sqlite3")):
    app = Flask(f"app{number}", instance_path=os.getcwd())
    app.config.update(DELAYQ_URL=url)
    delayq = DelayQ(app)
    delayq.counts() if number == 0 else delayq.state.backend.close()
print(json.dumps(seen))
"""


def hooks_on_the_page() -> list[list[str]]:
    """The rows of the table: path, and the names of what runs before, in the parent, in the child."""
    table = rows(FORKS, "module")
    return [[cell.strip("`") for cell in (module, *names)] for module, _, *names in table]


def test_the_fork_hooks_are_registered_in_the_order_of_the_page(tmp_path: Path) -> None:
    if not hasattr(os, "register_at_fork"):
        pytest.skip("no forks here")
    found = subprocess.check_output(
        [sys.executable, "-c", HOOKS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    seen = [[str(Path(path).relative_to(ROOT)), *names] for path, *names in json.loads(found)]
    assert seen == hooks_on_the_page()


def registers(file: Path) -> bool:
    """Whether a module names ``register_at_fork`` in its code, comments and docstrings aside."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "register_at_fork")
        or (isinstance(node, ast.Constant) and node.value == "register_at_fork")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
    )


def test_every_module_with_a_fork_hook_is_on_the_page() -> None:
    modules = {str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*.py") if registers(file)}
    assert modules == {module for module, *_ in hooks_on_the_page()}


def test_every_fork_hook_is_explained_below_the_table() -> None:
    _, _, below = FORKS.read_text("utf-8").partition("### Before")
    names = {name for _, *names in hooks_on_the_page() for name in names if name}
    assert {
        name for name in names if not re.search(rf"^\d\. \*\*`(\w+\.)?{name}`\*\*", below, re.M)
    } == set()


# --- threads -----------------------------------------------------------------------------------------


def names_of_threads() -> set[str]:
    """The package's own threads of this process, with N for a number."""
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("delayq-")}
    return {re.sub(r"\d+", "N", name) for name in names}


def test_every_thread_is_on_the_page_and_no_other(tmp_path: Path) -> None:
    _, delayq = make_app(url=f"sqlite:///{tmp_path}/threads.sqlite3")
    seen: set[str] = set()

    @delayq.task
    def look() -> None:
        seen.update(names_of_threads())

    look.enqueue()
    assert len(delayq.drain()) == 1
    delayq.submit(look.function).result(10)
    with running(delayq):
        wait_until(lambda: "delayq-doorbell" in names_of_threads(), what="all threads have begun")
        seen |= names_of_threads()
    assert seen == {row[0].strip("`") for row in rows(FORKS, "thread")}
