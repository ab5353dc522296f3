"""The pages for users, tried: programs run, sessions show what they show, tables say what the code says.

It must not know more than the pages: what they do not show is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask

from flask_delayq import DelayQ
from flask_delayq.admin.blueprint import ROUTES
from flask_delayq.backends import _SCHEMES, ENGINE_SETTINGS
from flask_delayq.cli import delayq_commands
from flask_delayq.config import MODES, PREFIX, REDACTED, Settings
from pages import (
    FENCE,
    PAGES,
    README,
    blocks,
    name_of,
    page_namespace,
    rows,
    run_programs,
    run_project,
    write_files,
)
from servers import ROOT, fetch, server
from waiting import wait_until


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    with page_namespace(tmp_path, monkeypatch) as names:
        yield names


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_the_programs_of_a_page_run(
    page: Path, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    run_programs(page, namespace)


def test_the_files_of_the_page_on_testing_are_a_project_that_passes(tmp_path: Path) -> None:
    number = write_files(ROOT / "docs" / "testing.md", tmp_path)
    assert number >= 4
    run_project(tmp_path, number)
    assert not list(tmp_path.rglob("*.sqlite3"))


def test_the_program_of_the_readme_serves(tmp_path: Path) -> None:
    (source,) = blocks(README, "python")
    (tmp_path / "app.py").write_text(source.text)
    flask = [sys.executable, "-m", "flask"]

    def status() -> Any:
        """What another terminal sees."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [*flask, "delayq", "status", "--json"]
        return json.loads(subprocess.check_output(command, cwd=tmp_path, env=environment, timeout=60))

    with server([*flask, "run", "--port", "{port}"], folder=tmp_path) as web:
        assert fetch(f"{web.url}/signup/ann", method="POST", body=b"") == ""
        wait_until(lambda: "to ann: welcome\n" in web.output(), 20, "the mail is sent")
        found = wait_until(lambda: (now := status())["processes"] and now, 20, "the process is known")
        assert [process["pid"] for process in found["processes"]] == [web.pid]
        assert found["counts"]["completed"] and found["counts"]["scheduled"] == 1
        assert [schedule["name"] for schedule in found["schedules"]] == ["app.clean_up"]
        assert "still there" not in web.output()


# --- the session of the page on commands ---------------------------------------------------------------

CLI = ROOT / "docs" / "cli.md"
MASKS = [
    # Where the file lies, on a disk or in a container, is the machine's affair.
    (re.compile(r"^  the file is .*$", re.MULTILINE), "PLACE"),
    (re.compile(r"^.* are stored in .*; mount a volume .*\n", re.MULTILINE), ""),
    (re.compile(r"sqlite:////\S+?/delayq\.sqlite3"), "STORE"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "MOMENT"),
    (re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ INFO"), "INFO"),
    (re.compile(r"worker \d+"), "worker PID"),
    (re.compile(r"\b[\d.]+ (?:ms|s|min|h)\b"), "SPAN"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r" +$", re.MULTILINE), ""),
]


class Ids:
    """The jobs of a session, known by the order in which they appear."""

    PATTERN = re.compile(r"\b[0-9a-f]{18}(?:[0-9a-f]{10})?\b")  # whole, or as lists show them

    def __init__(self) -> None:
        self.seen: list[str] = []

    def mask(self, text: str) -> str:
        """The text with each id as the number of its job, and what differs from run to run masked."""
        for job_id in self.PATTERN.findall(text):
            if job_id not in self.seen:
                self.seen.append(job_id)
        text = self.PATTERN.sub(lambda match: f"JOB{self.seen.index(match[0])}", text)
        for pattern, word in MASKS:
            text = pattern.sub(word, text)
        return text.strip()


@pytest.fixture
def readme_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The README's program, as the module ``app`` in a folder of its own."""
    path = tmp_path / "app.py"
    path.write_text(blocks(README, "python")[0].text)
    spec = importlib.util.spec_from_file_location("app", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "app", module)
    spec.loader.exec_module(module)
    yield module.app
    module.delayq.state.close()


@contextlib.contextmanager
def plain_logging() -> Iterator[None]:
    """Logging as a new process has it, without the handlers that pytest adds for each call."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_the_session_on_the_page_is_what_a_terminal_shows(readme_app: Flask) -> None:
    (session,) = blocks(CLI, "console")
    theirs, ours = Ids(), Ids()
    for step in re.split(r"^\$ ", session.text, flags=re.MULTILINE)[1:]:
        command, _, expected = step.partition("\n")
        _flask, *words = shlex.split(command)
        words = [ours.seen[theirs.seen.index(word)] if word in theirs.seen else word for word in words]
        with plain_logging():
            result = readme_app.test_cli_runner().invoke(args=words)
        found, wanted = ours.mask(result.output), theirs.mask(expected)
        if "worker" in words:  # the command and its thread log side by side
            found, wanted = ("\n".join(sorted(text.splitlines())) for text in (found, wanted))
        assert found == wanted, command
        assert result.exit_code == 0, command


# --- tables that say what the code says --------------------------------------------------------------


WORDS: dict[str, Any] = {
    "all": None,
    "none": (),
    "no limit": None,
    "7 days": 7 * 86_400.0,
    "14 days": 14 * 86_400.0,
    "5; worker 25; mod_wsgi 2; reloader 1": None,
    "password, token, ...": REDACTED,
}
"""Defaults that the page says in words."""


def test_every_setting_is_on_its_page_with_its_default() -> None:
    defaults = Settings.read({}, folder="/app")
    page = {
        key.strip("`"): default for key, default, _ in rows(ROOT / "docs" / "configuration.md", "key")
    }
    names = {*Settings.__struct_fields__} - {"of_engines"}
    assert sorted(page) == sorted(PREFIX + name.upper() for name in names | ENGINE_SETTINGS)
    for key, said in page.items():
        name = key.removeprefix(PREFIX).lower()
        if name in ENGINE_SETTINGS:
            assert said == f"`{default_of_a_backend(name)}`"
            continue
        if said.startswith("`"):
            value = getattr(Settings.read({key: said.strip("`")}, folder="/app"), name)
        else:
            value = WORDS[said]
        assert value == getattr(defaults, name), key


def default_of_a_backend(setting: str) -> object:
    """The default of a setting for one backend alone, as its ``__init__`` says."""
    scheme, _, option = setting.partition("_")
    engine = _SCHEMES[scheme]
    backend = getattr(importlib.import_module(engine.module), engine.backend)
    return signature(backend).parameters[option].default


def test_the_waits_at_a_stop_are_as_the_page_says() -> None:
    from flask_delayq.app_state import DRAIN_APACHE, DRAIN_RELOADER, DRAIN_WEB, DRAIN_WORKER

    said = (
        f"{DRAIN_WEB:g}; worker {DRAIN_WORKER:g}; mod_wsgi {DRAIN_APACHE:g}; reloader {DRAIN_RELOADER:g}"
    )
    assert said in WORDS


def test_every_mode_is_on_its_page() -> None:
    page = rows(ROOT / "docs" / "configuration.md", "`DELAYQ_MODE`")
    assert [row[0].strip("`") for row in page] == list(MODES)


def command_paths(group: click.Group, before: str = "") -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        found[f"{before}{name}"] = command
        if isinstance(command, click.Group):
            found |= command_paths(command, f"{before}{name} ")
    return found


def test_every_command_and_option_is_on_its_page_and_no_other() -> None:
    commands = command_paths(delayq_commands)
    page: set[str] = set()
    for said, _ in rows(CLI, "command"):
        for usage in re.findall(r"`([^`]+)`", said):
            name, *more = usage.split(maxsplit=1)
            page.add(name)
            if choices := re.match(r"\[([a-z|\\]+) [A-Z]+\]", " ".join(more)):
                page |= {f"{name} {choice}" for choice in choices[1].replace("\\", "").split("|")}
    assert page == set(commands)
    options = {
        option
        for command in commands.values()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    table = "".join("".join(row) for row in rows(CLI, "command"))
    assert set(re.findall(r"--[a-z-]+", table)) == options


def test_every_route_is_on_its_page_and_no_other() -> None:
    page: set[tuple[str, str]] = set()
    for said, _ in rows(ROOT / "docs" / "admin.md", "route"):
        method, before = "", ""
        for word in re.findall(r"`([^`]+)`", said):
            verb, _, path = word.rpartition(" ")
            method = verb or method
            # `/resume` after `POST /queues/<name>/pause` stands for its neighbour.
            full = path if verb else before.rpartition("/")[0] + path
            page.add((method, shape(full)))
            before = full if verb else before
    known = {(method, shape(path)) for method, path, _, _ in ROUTES} | {("GET", "/health")}
    assert page == known


def shape(path: str) -> str:
    """A path with its variables unnamed."""
    return re.sub(r"<\w+>", "<>", path)


def test_every_backend_is_on_its_page() -> None:
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    head = next(line for line in page.splitlines() if line.startswith("| |"))
    assert set(re.findall(r"(\w+)://", head)) == set(_SCHEMES)


def test_a_job_takes_the_space_that_the_page_says(readme_app: Flask) -> None:
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    said = re.search(r"A job takes some (\d+) bytes, and its arguments", page)
    assert said is not None
    delayq: DelayQ = readme_app.extensions["delayq"]
    task = delayq.tasks.get("app.send_mail")
    file = Path(readme_app.instance_path, "delayq.sqlite3")

    def size() -> int:
        delayq.state.backend.cancel("nobody", now=0.0)  # opens the store, or makes it
        delayq.state.backend.close()  # which empties the WAL into the file
        return file.stat().st_size

    empty = size()
    task.enqueue_many([("ann", "x" * 85)] * 2000)
    arguments = len(json.dumps({"to": "ann", "text": "x" * 85}, separators=(",", ":")))
    assert (size() - empty) / 2000 - arguments == pytest.approx(int(said[1]), rel=0.25)


# --- links -------------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    text = FENCE.sub("", page.read_text("utf-8"))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


LINKED = list(dict.fromkeys([*PAGES, *ROOT.glob("*/README.md"), ROOT / "CHANGELOG.md"]))


@pytest.mark.parametrize("page", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_list_of_guides_names_every_page() -> None:
    guides = ROOT / "docs" / "README.md"
    named = {(guides.parent / link).resolve() for link in links(guides)}
    assert {page for page in PAGES if page not in (README, guides)} <= named


def cells(page: str, section: str, column: int = 0) -> list[str]:
    """The names in code type in one column of the tables of a section."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[column] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([a-z_]+)`", row)]


def test_the_page_about_jobs_has_every_option_of_a_task() -> None:
    from flask_delayq.options import TaskKeywords

    assert sorted(cells("jobs.md", "The options of a task")) == sorted(TaskKeywords.__annotations__)


def test_the_page_about_jobs_has_every_attribute_of_a_job() -> None:
    from flask_delayq.handle import Job

    shown = {name for name in vars(Job) if not name.startswith("_") and not callable(vars(Job)[name])}
    assert sorted(cells("jobs.md", "Follow it")) == sorted(shown)


def test_the_page_about_jobs_has_every_signal_with_its_keywords() -> None:
    from flask_delayq import signals

    names = [name for name in vars(signals) if name.startswith("job_")]
    assert cells("jobs.md", "Signals")[: len(names)] == names
