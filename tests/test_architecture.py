"""The layers of docs/design.md, checked from the syntax tree: who imports whom, who may do what.

Must not import the package: it reads the sources only, so that a broken import cannot hide a rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pytest

PACKAGE = "flask_delayq"
ROOT = Path(__file__).resolve().parent.parent

# Lower never imports higher. "x.*" stands for every module inside the folder x.
WORDS, STORAGE, RUNTIME, FLASK, DOOR = range(5)
LAYERS = {
    WORDS: "errors arriving clock bell ids job retry serializer signals config recurrence "
    "options mounts texts",
    STORAGE: "task arguments client handle running schedules backends backends.*",
    RUNTIME: "runtime runtime.*",
    FLASK: "extension app_state at_exit context_executor deployment_warnings once launch launch.* "
    "console console.* cli cli.* admin admin.* testing testing.*",
    DOOR: PACKAGE,
}

# What runtime.* may import from layer 1: the words of a task and the contract, never an engine.
RUNTIME_KNOWS = {"task", "arguments", "running", "backends.base"}

# What every backend may share; any other module in backends/ belongs to one engine.
CONTRACT = {"backends.base", "backends.capabilities"}
SHARED_BY_ENGINES = {"base", "capabilities", "crashes", "endings", "nesting", "order"}

# The rooms of the sqlite engine, and what each may import of the others. See its README.
SQLITE_ROOMS = {
    "backends.sqlite.verbs.*": "backends.sqlite.file.connection backends.sqlite.file.errors "
    "backends.sqlite.file.schema",
    "backends.sqlite.file.*": "backends.sqlite.host.*",
    "backends.sqlite.host.*": "",
}

# Third-party packages: where each may be imported. One that is missing here is refused everywhere.
OUTSIDE = {
    "apsw": "backends.sqlite backends.sqlite.*",
    "blinker": "signals",
    "cronsim": "recurrence",
    "pytest": "testing.plugin",
    "msgspec": " ".join(LAYERS[layer] for layer in range(DOOR)),
    "_interpreters": "launch.frames",  # the standard library's, since Python 3.13
    **dict.fromkeys(("uwsgi", "uwsgidecorators"), "launch launch.*"),
    **dict.fromkeys(("flask", "werkzeug", "jinja2", "markupsafe", "click"), LAYERS[FLASK]),
}

BANNED_MODULES = {"pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle"}
BANNED_CALLS = {"eval", "exec", "print"}

# Calls (or base classes, or references for the clock) that belong to a few modules only.
CLOCK_READS = {
    *("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.clock_gettime"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
    "datetime.date.today",
}
CLOCK = "clock ids"  # an id must be new even while a test holds the time still
THREAD_MAKERS = {"threading.Thread", "threading.Timer", "_thread.start_new_thread"}
# exits: to see it refused
THREADS = "runtime.pool runtime.loop_threads runtime.drain runtime.exits launch launch.*"
EXECUTORS = {"concurrent.futures.ThreadPoolExecutor", "concurrent.futures.ProcessPoolExecutor"}
EXECUTOR = "context_executor"
IMPORTS_BY_NAME = {"importlib.import_module", "__import__"}
SCHEME_TABLE = "backends"

MODULE_LINES = 400
FUNCTION_LINES = 60
BY_POSITION = 3


def within(module: str, names: str) -> bool:
    """Whether `module` is one of the space-separated `names`, of which "x.*" covers a folder."""
    return any(
        module.startswith(name[:-1]) if name.endswith(".*") else module == name for name in names.split()
    )


def layer_of(module: str) -> int | None:
    return next((layer for layer, names in LAYERS.items() if within(module, names)), None)


def engine_of(module: str) -> str | None:
    """The concrete backend that a module belongs to, or None."""
    parts = module.split(".")
    engine = parts[0] == "backends" and len(parts) > 1 and parts[1] not in SHARED_BY_ENGINES
    return parts[1] if engine else None


@dataclass(frozen=True)
class Import:
    line: int
    target: str  # absolute, dotted: "flask_delayq.job", "os.path", "flask.Flask"
    for_typing: bool


@dataclass(frozen=True)
class Module:
    """One source file. `name` is relative to the package, which itself goes by its own name."""

    name: str
    path: str
    source: str
    is_package: bool = False
    tree: ast.Module = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", ast.parse(self.source, self.path))

    @property
    def folder(self) -> str:
        """The package that a relative import starts from, dotted and absolute."""
        absolute = PACKAGE if self.name == PACKAGE else f"{PACKAGE}.{self.name}"
        return absolute if self.is_package else absolute.rpartition(".")[0]

    @cached_property
    def imports(self) -> list[Import]:
        """Every import at any depth; those under TYPE_CHECKING are marked."""
        return list(self._imports(self.tree, False))

    def _imports(self, node: ast.AST, for_typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, for_typing)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = self.folder.split(".")
                kept = parents[: len(parents) - node.level + 1]
                start = ".".join([*kept, *([start] if start else [])])
            for alias in node.names:
                yield Import(node.lineno, f"{start}.{alias.name}", for_typing)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from self._imports(statement, True)
            for statement in node.orelse:
                yield from self._imports(statement, for_typing)
        else:
            for child in ast.iter_child_nodes(node):
                yield from self._imports(child, for_typing)

    @cached_property
    def origins(self) -> dict[str, str]:
        """What each imported name stands for: {"dt": "datetime.datetime"}."""
        origins: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    origins[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return origins

    def full_name(self, node: ast.AST) -> str:
        """`node` as a dotted name with its import resolved; "" when it is not a plain name."""
        if isinstance(node, ast.Attribute):
            base = self.full_name(node.value)
            return base and f"{base}.{node.attr}"
        return self.origins.get(node.id, node.id) if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class Codebase:
    modules: dict[str, Module]

    @classmethod
    def read(cls, root: Path) -> Codebase:
        modules = {}
        for path in sorted((root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(root / PACKAGE).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts) or PACKAGE
            shown = str(path.relative_to(root))
            modules[name] = Module(name, shown, path.read_text("utf-8"), is_package)
        return cls(modules)

    def imported(self, target: str) -> str:
        """The module that an absolute target lives in: the longest part of it that is one."""
        name = target.removeprefix(PACKAGE).removeprefix(".")
        while "." in name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name if name in self.modules or layer_of(name) is not None else PACKAGE

    def inner_imports(self, module: Module) -> Iterator[tuple[int, str]]:
        for an_import in module.imports:
            if an_import.target == PACKAGE or an_import.target.startswith(f"{PACKAGE}."):
                yield an_import.line, self.imported(an_import.target)


Finding = tuple[int, str]
Rule = Callable[[Codebase, Module], Iterator[Finding]]


def known_module(code: Codebase, module: Module) -> Iterator[Finding]:
    if layer_of(module.name) is None:
        yield 1, f"unknown module {module.name}: add it to the table LAYERS"


def layering(code: Codebase, module: Module) -> Iterator[Finding]:
    for line, target in code.inner_imports(module):
        if reason := why_not(module.name, target):
            yield line, f"{module.name} must not import {target}: {reason}"


def why_not(importer: str, target: str) -> str | None:
    """The rule that `importer` breaks by importing `target`, or None."""
    importer_layer, target_layer = layer_of(importer), layer_of(target)
    if importer_layer is None or target_layer is None or importer_layer == DOOR:
        return None
    if target_layer == DOOR:
        return "the door is for the application"
    if target_layer > importer_layer:
        return f"layer {importer_layer} must not know layer {target_layer}"
    if importer_layer == RUNTIME and target_layer == STORAGE and target not in RUNTIME_KNOWS:
        return f"of layer 1 the runtime knows {', '.join(sorted(RUNTIME_KNOWS))} only"
    if target_layer == STORAGE and importer_layer == STORAGE:
        return why_not_in_storage(importer, target)
    if within(importer, "cli cli.* admin admin.*") and target == "extension":
        return "it reaches the app through app_state.current_state()"
    return None


def why_not_in_storage(importer: str, target: str) -> str | None:
    storage = "backends backends.*"
    if within(importer, storage) and not within(target, storage):
        return "a backend never knows a task"
    if engine_of(importer) and target == "backends":
        return "a backend does not open backends"
    if engine_of(target) not in (None, engine_of(importer)) and importer != "backends":
        return "an engine is known to itself and to the scheme table only"
    for room, known in SQLITE_ROOMS.items():
        elsewhere = any(within(target, other) for other in SQLITE_ROOMS if other != room)
        if within(importer, room) and elsewhere and not within(target, known):
            return f"of the other rooms it knows {known or 'nothing'}"
    if importer in CONTRACT and target not in CONTRACT:
        return "the contract knows layer 0 only"
    if not within(importer, storage) and within(target, storage) and target != "backends.base":
        return "of storage it knows the contract, backends.base, only"
    return None


def no_cycle(code: Codebase, module: Module) -> Iterator[Finding]:
    """Every import through which the module reaches itself again, by runtime imports."""
    for line, target in code.inner_imports(module):
        path = way(code, target, module.name)
        if path and target != module.name:
            yield line, "import cycle: " + " > ".join([module.name, *path])


def way(code: Codebase, start: str, goal: str) -> list[str] | None:
    """A shortest chain of imports from `start` to `goal`, both included."""
    chains, seen = [[start]], {start}
    for chain in chains:
        if chain[-1] == goal:
            return chain
        if chain[-1] in code.modules:
            for _, target in code.inner_imports(code.modules[chain[-1]]):
                if target not in seen:
                    seen.add(target)
                    chains.append([*chain, target])
    return None


def outside_packages(code: Codebase, module: Module) -> Iterator[Finding]:
    for an_import in module.imports:
        name = an_import.target.partition(".")[0]
        if name in BANNED_MODULES:
            yield an_import.line, f"{name} is banned"
        elif name == PACKAGE or name in sys.stdlib_module_names or an_import.for_typing:
            continue
        elif name not in OUTSIDE:
            yield an_import.line, f"{name} is no dependency that the table OUTSIDE knows"
        elif not within(module.name, OUTSIDE[name]):
            yield an_import.line, f"{name} may be imported in {OUTSIDE[name]} only"


def reserved_actions(code: Codebase, module: Module) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = module.full_name(node)
            if name in CLOCK_READS and not within(module.name, CLOCK):
                yield node.lineno, f"{name} is read in {CLOCK} only"
        used: list[ast.expr] = []
        if isinstance(node, ast.Call):
            used = [node.func]
        elif isinstance(node, ast.ClassDef):
            used = node.bases
        for expression in used:
            name, line = module.full_name(expression), expression.lineno
            if name in BANNED_CALLS:
                yield line, f"{name}() is banned"
            if name in THREAD_MAKERS and not within(module.name, THREADS):
                yield line, f"threads are created in {THREADS} only"
            if name in EXECUTORS and not within(module.name, EXECUTOR):
                yield line, f"executors are made in {EXECUTOR} only"
            if name in IMPORTS_BY_NAME and module.name != SCHEME_TABLE:
                yield line, "a module is imported by name in the scheme table only"


def docstring(code: Codebase, module: Module) -> Iterator[Finding]:
    lines = [line for line in (ast.get_docstring(module.tree) or "").splitlines() if line.strip()]
    if len(lines) < 2:
        yield 1, "the module needs a docstring of two lines: what it is; what it must not know"


def size(code: Codebase, module: Module) -> Iterator[Finding]:
    lines = len(module.source.splitlines())
    if lines > MODULE_LINES:
        yield lines, f"{lines} lines; a module has at most {MODULE_LINES}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield node.lineno, f"{node.name}: {lines} lines; at most {FUNCTION_LINES}"


def by_keyword(code: Codebase, module: Module) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            by_position = len(node.args.posonlyargs) + len(node.args.args) - 1
            if by_position > BY_POSITION:
                yield node.lineno, f"{by_position} parameters by position; at most {BY_POSITION}"


RULES: list[Rule] = [
    *(known_module, layering, no_cycle, outside_packages, reserved_actions, docstring, size, by_keyword),
]


def violations(code: Codebase, rule: Rule) -> list[str]:
    return [
        f"{module.path}:{line}: {text}"
        for module in code.modules.values()
        for line, text in rule(code, module)
    ]


@cache
def the_package() -> Codebase:
    return Codebase.read(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule) -> None:
    found = violations(the_package(), rule)
    assert not found, "\n" + "\n".join(found)


# What follows shows that each rule bites: small sources that break one, and where.


STUBS = (
    *("__init__.py", "job.py", "retry.py", "task.py", "client.py", "extension.py"),
    *(
        "backends/__init__.py",
        "backends/base.py",
        "backends/memory.py",
        "backends/sqlite/verbs/claiming.py",
        "backends/sqlite/file/connection.py",
        "backends/sqlite/file/store.py",
    ),
    *("backends/sqlite/__init__.py", "runtime/wheel.py", "cli.py"),
)


def sample(tmp_path: Path, files: dict[str, str]) -> list[str]:
    """What all rules say of a package that holds `files`, and is else empty and good."""
    for name, source in {**dict.fromkeys(STUBS, ""), **files}.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""One.\nTwo."""\n' + source if name != "bare.py" else source)
    code = Codebase.read(tmp_path)
    return [line for rule in RULES for line in violations(code, rule)]


LONG_FUNCTION = "def long():\n" + "    a = 1\n" * 60
TYPING_IF = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "

BAD = [
    # layering
    ("job.py", "from . import task", "3: job must not import task"),
    ("job.py", "def f():\n    from .task import Task", "4: job must not import task"),
    ("job.py", "import flask_delayq.runtime.wheel", "3: job must not import runtime.wheel"),
    ("job.py", TYPING_IF + "from .task import Task", "5: job must not import task"),
    ("job.py", TYPING_IF + "x = 1\nelse:\n    import flask_delayq.task", "7: job must not import"),
    ("task.py", "from flask_delayq import DelayQ", "3: task must not import flask_delayq"),
    ("task.py", "from .backends import open_backend", "3: task must not import backends"),
    ("backends/base.py", "from ..task import Task", "3: backends.base must not import task"),
    ("backends/memory.py", "from ..task import Task", "3: backends.memory must not import task"),
    ("backends/base.py", "from .memory import X", "3: backends.base must not import backends.mem"),
    ("backends/order.py", "from .memory import X", "3: backends.order must not import backends.m"),
    ("backends/memory.py", "from . import open_backend", "3: backends.memory must not import back"),
    ("backends/memory.py", "from .sqlite import X", "3: backends.memory must not import backends."),
    (
        "backends/sqlite/verbs/claiming.py",
        "from ...memory import X",
        "3: backends.sqlite.verbs.claiming must",
    ),
    ("runtime/pool.py", "from ..backends.memory import X", "3: runtime.pool must not import back"),
    ("runtime/pool.py", "from ..backends import X", "3: runtime.pool must not import backends:"),
    ("runtime/pool.py", "from ..client import X", "3: runtime.pool must not import client"),
    ("runtime/pool.py", "from ..extension import X", "3: runtime.pool must not import extension"),
    ("cli.py", "from .extension import DelayQ", "3: cli must not import extension"),
    ("admin/pages.py", "from ..extension import DelayQ", "3: admin.pages must not import extension"),
    ("backends/sqlite/verbs/claiming.py", "from ..file.store import X", "3: backends.sqlite.verbs."),
    (
        "backends/sqlite/file/connection.py",
        "from ..verbs import claiming",
        "3: backends.sqlite.file.",
    ),
    ("backends/sqlite/host/bells.py", "from ..file import connection", "3: backends.sqlite.host.bells"),
    # outside packages
    ("runtime/pool.py", "import flask", "3: flask may be imported in extension"),
    ("runtime/pool.py", "def f():\n    from flask import g", "4: flask may be imported in extens"),
    ("backends/postgres.py", "import apsw", "3: apsw may be imported in backends.sqlite"),
    ("job.py", "import requests", "3: requests is no dependency"),
    ("job.py", "from pickle import loads", "3: pickle is banned"),
    ("cli.py", "import yaml", "3: yaml is banned"),
    # reserved actions
    ("job.py", "x = eval('1')", "3: eval() is banned"),
    ("cli.py", "def f():\n    print(1)", "4: print() is banned"),
    ("cli.py", "import importlib\nimportlib.import_module('x')", "4: a module is imported by name"),
    ("job.py", "import time\nx = time.time()", "4: time.time is read in clock"),
    ("job.py", "import time as t\nx = t.monotonic", "4: time.monotonic is read in clock"),
    ("job.py", "from time import time as now\nx = now()", "4: time.time is read in clock"),
    ("job.py", "from datetime import datetime as d\nd.now()", "4: datetime.datetime.now is read"),
    ("job.py", "import datetime\nf = datetime.datetime.utcnow", "4: datetime.datetime.utcnow is"),
    ("task.py", "import threading\nthreading.Thread()", "4: threads are created in runtime.pool"),
    ("task.py", "from threading import Thread\nclass T(Thread): ...", "4: threads are created in"),
    ("task.py", "from concurrent.futures import ThreadPoolExecutor as E\nE()", "4: executors are"),
    # form
    ("new_idea.py", "", "1: unknown module new_idea: add it to the table"),
    ("runtime_helpers.py", "", "1: unknown module runtime_helpers"),
    ("bare.py", '"""One line."""', "1: the module needs a docstring of two lines"),
    ("job.py", "\n" * 399, "401: 401 lines; a module has at most 400"),
    ("job.py", LONG_FUNCTION, "3: long: 61 lines; at most 60"),
    (
        "job.py",
        "class A:\n    def __init__(self, a, b, c, d): ...",
        "4: 4 parameters by position; at most 3",
    ),
    ("job.py", "class A:\n    async " + LONG_FUNCTION.replace("\n", "\n    "), "4: long: 61 lines"),
]


@pytest.mark.parametrize("name, source, expected", BAD)
def test_a_rule_bites(tmp_path: Path, name: str, source: str, expected: str) -> None:
    found = sample(tmp_path, {name: source})
    assert any(line.startswith(f"{PACKAGE}/{name}:{expected}") for line in found), found


@pytest.mark.parametrize("hidden", [False, True], ids=["at the top", "in a function"])
def test_a_cycle_is_found(tmp_path: Path, hidden: bool) -> None:
    last = "def f():\n    from . import job" if hidden else "from .job import Job"
    files = {"job.py": "from .retry import X", "retry.py": "from . import config"}
    found = sample(tmp_path, {**files, "config.py": last})
    assert f"{PACKAGE}/job.py:3: import cycle: job > retry > config > job" in found
    assert len(found) == 3


def test_good_code_passes(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .extension import DelayQ\nfrom .job import Job",
        "clock.py": "import time\nfrom datetime import datetime\nx = time.time, datetime.now",
        "job.py": "from msgspec import Struct\nfrom .errors import DelayQError",
        "errors.py": TYPING_IF + "from collections.abc import Callable",
        "task.py": "from .job import Job\nfrom .backends.base import Backend",
        "backends/__init__.py": "import importlib\nfrom .base import Backend\n"
        "def open_backend(name):\n    return importlib.import_module(name)",
        "backends/base.py": "from ..job import Job",
        "backends/order.py": "from .base import X",
        "backends/memory.py": "from .base import X\nfrom .order import Y",
        "backends/sqlite/__init__.py": "from ..base import Backend\nfrom .verbs import claiming",
        "backends/sqlite/verbs/claiming.py": "import apsw\nfrom ....job import Job\n"
        "from ...base import X\nfrom ..file.connection import Sql",
        "runtime/pool.py": "import threading\nfrom ..task import Task\n"
        "from ..backends import base\nt = threading.Thread()",
        "runtime/wheel.py": "import threading\ndef f(t: threading.Thread, clock):\n"
        "    return clock.time(), t.time(), threading.enumerate()",
        "context_executor.py": "from concurrent.futures import ThreadPoolExecutor\n"
        "class E(ThreadPoolExecutor): ...",
        "extension.py": "from flask import Flask\nfrom . import cli\nfrom .runtime import pool\n"
        "from .backends import open_backend",
        "cli.py": "import click\nfrom importlib.metadata import version",
        "config.py": "\n" * 398,
        "retry.py": LONG_FUNCTION.removesuffix("    a = 1\n"),
    }
    assert sample(tmp_path, files) == []
