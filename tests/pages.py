"""Reads the pages for users: fenced blocks, tables, programs to run, projects of files.

It must not know the content of any page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from flask import Flask

from flask_delayq import DelayQ
from flask_delayq.clock import Clock
from servers import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page: its language, text, and the line it begins in."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file of a program, if its first line names one: ``# shop/tasks.py``."""
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found[1] if found else None


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        lines = [line.removeprefix(match[1]) for line in match[3].splitlines(keepends=True)]
        found.append(Block(match[2], "".join(lines), text.count("\n", 0, match.start()) + 2))
    return [block for block in found if block.language == language]


def name_of(page: Path) -> str:
    return page.stem


# --- programs in one namespace -----------------------------------------------------------------------


class Mails:
    """Replaces ``smtplib.SMTP``: keeps the sent messages."""

    sent: list[Any]

    def __init__(self, host: str, *, timeout: float) -> None: ...

    def __enter__(self) -> Mails:
        return self

    def __exit__(self, *error: object) -> None: ...

    def send_message(self, message: Any) -> None:
        self.sent.append(message)


def foreign_modules() -> dict[str, ModuleType]:
    """Stubs of packages that are not installed here: only the names that the pages use."""
    login, sentry, integrations, logs = map(
        ModuleType,
        ("flask_login", "sentry_sdk", "sentry_sdk.integrations", "sentry_sdk.integrations.logging"),
    )
    vars(login)["current_user"] = SimpleNamespace(is_authenticated=True, is_admin=False)
    events: list[dict[str, Any]] = []

    @contextmanager
    def new_scope() -> Iterator[SimpleNamespace]:
        tags: dict[str, str] = {}
        yield SimpleNamespace(
            set_tag=tags.__setitem__,
            capture_exception=lambda error: events.append({**tags, "error": error}),
            capture_message=lambda text, level: events.append({**tags, "text": text, "level": level}),
        )

    vars(sentry).update(new_scope=new_scope, events=events, ignored=[])
    vars(logs)["ignore_logger"] = vars(sentry)["ignored"].append
    return {module.__name__: module for module in (login, sentry, integrations, logs)}


@contextmanager
def page_namespace(
    folder: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock | None = None
) -> Iterator[dict[str, Any]]:
    """The names that the programs of a page may use: an app, and stubs of other packages."""
    monkeypatch.chdir(folder)
    for name, foreign in foreign_modules().items():
        monkeypatch.setitem(sys.modules, name, foreign)
    monkeypatch.setattr(Mails, "sent", [], raising=False)
    monkeypatch.setattr("smtplib.SMTP", Mails)
    app = Flask("page", instance_path=str(folder))
    delayq = DelayQ(app, clock=clock)
    module = ModuleType("page")
    vars(module).update(app=app, delayq=delayq, csrf=SimpleNamespace(exempt=lambda what: what.name))
    monkeypatch.setitem(sys.modules, "page", module)
    yield vars(module)
    for thing in [*vars(module).values(), delayq]:
        if isinstance(thing, DelayQ):
            thing.state.close()
    # Its functions and this dict are a reference cycle: receivers of signals would stay alive.
    vars(module).clear()


def run_programs(page: Path, namespace: dict[str, Any], part: str = "") -> None:
    """Run a page's programs, except those of files, and after each one the jobs that are due.

    :param part: the heading of a section: run only its programs.
    """
    lines = page.read_text("utf-8").splitlines()
    for block in blocks(page, "python"):
        if block.file is not None:
            continue  # a file of a project
        heads = [line.lstrip("# ") for line in lines[: block.line] if line.startswith("## ")]
        if part and heads[-1:] != [part]:
            continue
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, page, "exec", dont_inherit=True), namespace)
        run_due(namespace["delayq"])


def run_due(delayq: DelayQ) -> None:
    """Run what is due; no job may fail."""
    assert not [outcome.error for outcome in delayq.drain() if outcome.verb.value == "fail"]


# --- files of a project ------------------------------------------------------------------------------


def write_files(page: Path, folder: Path) -> int:
    """Write the files of a page; returns how many tests they hold."""
    files = [block for block in blocks(page, "python") if block.file]
    for block in files:
        path = folder / str(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    return sum(block.text.count("\ndef test_") for block in files)


def run_project(folder: Path, least: int) -> None:
    """Run the tests of a project: all must pass, and there must be at least ``least``."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed is not None and int(passed[1]) >= least, ended.stdout


# --- tables ------------------------------------------------------------------------------------------


def rows(page: Path, head: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    table: list[list[str]] = []
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells or not table or table[0][0] != head:
            table = [*table, cells] if cells else []
        else:
            break
    assert table and table[0][0] == head, f"{page} has no table {head}"
    return table[2:]
