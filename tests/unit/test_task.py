"""Tasks and their registry: names that last, calls that run here, functions that cannot be tasks.

Must not know how jobs are stored.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from flask_delayq.errors import (
    ConfigurationError,
    InvalidNameError,
    TaskAlreadyRegisteredError,
    TaskNotFoundError,
)
from flask_delayq.options import CallOptions, declare_task
from flask_delayq.task import Task, TaskRegistry, default_name


def nobody() -> Any:
    raise AssertionError("nothing is submitted here")


def make(function: Callable[..., Any], name: str = "t", **options: Any) -> Task[..., Any]:
    return Task(function, declare_task(name, **options), nobody)


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def add_later(a: int, b: int = 1) -> int:
    return a + b


class Service:
    def method(self, x: int) -> int:
        return x

    class Inner:
        @staticmethod
        def static() -> None: ...


# --- names --------------------------------------------------------------------------------------


def test_a_task_is_named_after_module_and_function() -> None:
    assert default_name(add) == f"{__name__}.add"
    assert default_name(Service.method) == f"{__name__}.Service.method"
    assert default_name(Service.Inner.static) == f"{__name__}.Service.Inner.static"

    def local() -> None: ...

    assert default_name(local) == f"{__name__}.test_a_task_is_named_after_module_and_function.local"


@pytest.mark.parametrize("function", [lambda: 1, functools.partial(add, 1), object(), 5], ids=range(4))
def test_what_has_no_name_needs_one(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="name="):
        default_name(function)


@pytest.mark.parametrize(
    ("spec", "file", "expected"),
    [
        (types.SimpleNamespace(name="shop.jobs"), "/srv/shop/jobs.py", "shop.jobs.work"),
        (None, "/srv/shop/app.py", "app.work"),
        (None, None, "__main__.work"),
    ],
)
def test_a_script_is_called_by_its_file(
    monkeypatch: pytest.MonkeyPatch, spec: Any, file: str | None, expected: str
) -> None:
    """`python app.py` and `flask --app app run` must agree on the names of stored jobs."""
    main = types.ModuleType("__main__")
    main.__spec__, main.__file__ = spec, file
    monkeypatch.setitem(sys.modules, "__main__", main)

    def work() -> None: ...

    work.__module__, work.__qualname__ = "__main__", "work"
    assert default_name(work) == expected


def test_a_name_that_cannot_be_one_is_refused() -> None:
    def größe() -> None: ...

    with pytest.raises(InvalidNameError):
        declare_task(default_name(größe))


# --- calling ------------------------------------------------------------------------------------


def test_calling_a_task_calls_its_function_here() -> None:
    assert make(add)(2, b=3) == 5
    assert make(add_later)(2) == 3
    with pytest.raises(TypeError):
        make(add)()


def test_a_task_looks_like_its_function() -> None:
    task = make(add, "math.add")
    assert (task.__name__, task.__doc__, task.__module__) == ("add", "Add two numbers.", __name__)
    assert inspect.signature(task) == inspect.signature(add)
    assert task.function is add
    assert repr(task) == "<Task math.add>"


def test_attributes_of_the_function_do_not_get_into_the_tasks_own() -> None:
    def marked() -> int:
        return 5

    for name in ("_task", "_options", "_plan", "name", "declared", "function", "resolve", "_arguments"):
        setattr(marked, name, "foreign")
    marked.tag = "kept"  # type: ignore[attr-defined]
    task = make(marked, "mine")
    assert (task.name, task.function, task.declared.name, task()) == ("mine", marked, "mine", 5)
    assert task._options == CallOptions() and task._task is task
    assert task.arguments.encode((), {})[0] == b"{}"
    assert task.tag == "kept"  # type: ignore[attr-defined]


def test_a_task_of_a_task_works() -> None:
    outer = make(make(add, "inner"), "outer")
    assert outer(1, 2) == 3
    assert outer.name == "outer"
    assert outer.arguments.encode((1,), {})[0] == b'{"a":1}'


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_a_generator_is_refused_as_no_call_would_run_it(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="generator"):
        make(function)


def test_what_a_call_must_give() -> None:
    def function(
        a: int, /, b: int, c: int = 1, *args: int, d: int, e: int = 2, **kwargs: int
    ) -> None: ...

    assert make(function).required_parameters() == ["a", "b", "d"]
    assert make(lambda *args, **kwargs: None).required_parameters() == []


def test_arguments_are_looked_at_when_they_are_needed_and_once() -> None:
    def late(x: int) -> None: ...

    task = make(late)
    late.__annotations__["x"] = "Missing"
    with pytest.raises(ConfigurationError, match="parameter 'x'"):
        _ = task.arguments
    late.__annotations__["x"] = "int"
    assert task.arguments is task.arguments


@pytest.mark.parametrize(
    "changes", [{"queue": "a b"}, {"priority": "urgent"}, {"colour": "red"}, {"id": ""}]
)
def test_options_are_checked_when_they_are_said(changes: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, InvalidNameError)):
        make(add).options(**changes)


# --- the registry -------------------------------------------------------------------------------


def test_a_task_is_found_by_its_name_and_its_aliases() -> None:
    registry = TaskRegistry()
    task = make(add, "new.add", aliases=["old.add", "older.add"])
    registry.add(task)
    assert [registry.find(name) for name in ("new.add", "old.add", "older.add")] == [task] * 3
    assert registry.find("other") is None
    assert len(registry) == 1 and list(registry) == [task]


def test_tasks_are_listed_by_name() -> None:
    registry = TaskRegistry()
    for name in ("c", "a", "b"):
        registry.add(make(add, name))
    assert [task.name for task in registry] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "aliases"), [("taken", []), ("free", ["taken"]), ("free", ["also-free", "old-taken"])]
)
def test_a_name_is_taken_once_and_a_refused_task_leaves_no_trace(name: str, aliases: list[str]) -> None:
    registry = TaskRegistry()
    registry.add(make(add, "taken", aliases=["old-taken"]))
    with pytest.raises(TaskAlreadyRegisteredError) as caught:
        registry.add(make(add_later, name, aliases=aliases))
    assert caught.value.name in ("taken", "old-taken")
    assert f"{__name__}.add" in str(caught.value)
    assert len(registry) == 1 and registry.find("free") is None and registry.find("also-free") is None


def test_an_unknown_task_suggests_what_looks_like_it() -> None:
    registry = TaskRegistry()
    registry.add(make(add, "mail.send"))
    with pytest.raises(TaskNotFoundError) as caught:
        registry.get("mail.sned")
    assert caught.value.suggestions == ("mail.send",)
    with pytest.raises(LookupError):
        registry.get("")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("apply_async", "use task.enqueue(...)"), ("AsyncResult", "use delayq.get(job_id)")],
)
def test_the_names_of_others_lead_to_ours(name: str, remedy: str) -> None:
    task = make(add)
    with pytest.raises(AttributeError, match=re.escape(remedy)):
        getattr(task, name)
    assert not hasattr(task, "anything")
