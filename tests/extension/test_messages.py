"""What somebody new to the package types wrongly, and what they read: what is wrong, with the value, and
what to do about it.

It must not know where a message is made; the errors themselves have tests of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import current_app, request, url_for

from flask_delayq import DelayQ, current_job
from flask_delayq.console.remedies import remedy
from flask_delayq.texts import with_article
from kit import make_app


class User: ...


class Invoice: ...


MISTAKES: dict[str, tuple[Callable[[Any, DelayQ], object], str]] = {
    "an argument is missing": (lambda add, d: add.enqueue(1), "'b'; it takes (a, b)"),
    "one too many": (lambda add, d: add.enqueue(1, 2, 3), "positional arguments; it takes (a, b)"),
    "an option among them": (
        lambda add, d: add.enqueue(1, 2, queue="x"),
        "argument 'queue'; pass options like this: task.options(queue=...)",
    ),
    "countdown": (lambda add, d: add.enqueue(1, 2, countdown=3), "; use task.enqueue_in(seconds, ...)"),
    "no such call option": (
        lambda add, d: add.options(zzz=1),
        "is named 'zzz'; there are id, queue, priority, max_attempts",
    ),
    "an object": (lambda add, d: add.enqueue(User(), 1), "cannot encode a User; pass an id"),
    "another": (lambda add, d: add.enqueue(Invoice(), 1), "cannot encode an Invoice; pass an id"),
    "a NaN": (
        lambda add, d: add.enqueue(float("nan"), 1),
        "would arrive as None; pass None or a string",
    ),
    "a job that is not there": (lambda add, d: d.get("x"), "'x'; ended ones are deleted after"),
    "a result too early": (lambda add, d: add.enqueue(1, 2).result, "is ready; wait for it"),
    "a retry too early": (
        lambda add, d: add.enqueue(1, 2).retry(),
        "it is ready; only a failed or cancelled job can run again",
    ),
    "current_job": (lambda add, d: current_job.id, "while a task runs; ask `if current_job:` first"),
    "a cron line": (
        lambda add, d: d.task(name="c", cron="x y")(User),
        "'x y': Wrong number of fields; the fields are minute hour day month weekday, for example",
    ),
    "two rules": (
        lambda add, d: d.schedules.add("s", add, every=5, cron="* * * * *"),
        "exactly one of every= and cron=, not every=5 and cron='* * * * *'",
    ),
    "no rule": (lambda add, d: d.schedules.add("s", add), "one of every= and cron=, not neither"),
    "a zone alone": (
        lambda add, d: d.task(name="z", timezone="Asia/Tokyo")(User),
        "timezone='Asia/Tokyo' needs cron=; add a cron line, or remove timezone=",
    ),
    "a backoff alone": (
        lambda add, d: d.task(name="b", backoff=3)(User),
        "backoff=3 needs max_attempts=, how often it may run in all",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_value_and_what_to_do(mistake: str) -> None:
    app, delayq = make_app()
    add = delayq.task(name="add")(lambda a, b: a + b)
    do, said = MISTAKES[mistake]
    with pytest.raises(Exception, match=re.escape(said)):
        do(add, delayq)
    assert app


@pytest.mark.parametrize(
    "config, said",
    [
        ({"url": "delayq.sqlite3"}, "(there are memory://, sqlite://); a path is written "),
        ({"workes": 3}, "DELAYQ_WORKES is no setting; did you mean DELAYQ_WORKERS?"),
        ({"colour": 3}, "DELAYQ_COLOUR is no setting; remove it"),
    ],
)
def test_so_is_a_setting(config: dict[str, Any], said: str) -> None:
    app, delayq = make_app(**config)
    with pytest.raises(Exception, match=re.escape(said)):
        delayq.counts()
    assert app


def test_a_full_queue_says_what_helps() -> None:
    for setting in ("max_pending", "max_pending_total"):
        app, delayq = make_app(**{setting: 1})
        task = delayq.task(name="t")(User)
        task.enqueue()
        with pytest.raises(Exception, match=f"run more workers, or raise DELAYQ_{setting.upper()}$"):
            task.enqueue()
        assert app


def _url() -> str:
    return url_for("index")


def _path() -> str:
    return str(request.path)


@pytest.mark.parametrize(
    "task, said", [(_url, "set SERVER_NAME and PREFERRED_URL_SCHEME"), (_path, "pass what it needs")]
)
def test_an_error_of_flask_in_a_task_gets_a_remedy(task: Callable[[], str], said: str) -> None:
    app, delayq = make_app()
    app.debug = True
    job = delayq.task(name="t")(task).enqueue()
    delayq.drain()
    page = app.test_client().get(f"/delayq/jobs/{job.id}")
    assert said in page.text
    error = app.test_client().get(f"/delayq/jobs/{job.id}", headers={"Accept": "application/json"}).json
    assert said in error["job"]["error"]["remedy"]
    shown = app.test_cli_runner().invoke(args=["delayq", "show", job.id]).stdout
    assert "remedy:       a task has" in shown and said in shown


def test_other_errors_have_none() -> None:
    app, delayq = make_app()
    app.debug = True
    job = delayq.task(name="t")(lambda: 1 / 0).enqueue()
    delayq.drain()
    found = app.test_client().get(f"/delayq/jobs/{job.id}", headers={"Accept": "application/json"}).json
    assert found["job"]["error"]["remedy"] is None
    assert "remedy" not in app.test_cli_runner().invoke(args=["delayq", "show", job.id]).stdout


def test_a_thread_that_a_task_starts_is_told_of_the_app_context() -> None:
    with pytest.raises(RuntimeError) as caught:
        _ = current_app.name
    assert "app.app_context()" in str(remedy(str(caught.value)))


def test_an_article_fits_its_noun() -> None:
    nouns = ("list", "User", "UUID", "URL", "Universe", "object", "Upload", "unknown", "int")
    said = [with_article(noun) for noun in nouns]
    assert said == [
        *("a list", "a User", "a UUID", "a URL", "a Universe"),
        *("an object", "an Upload", "an unknown", "an int"),
    ]


def test_what_is_enqueued_by_name_must_be_a_name() -> None:
    _, delayq = make_app()

    @delayq.task(name="add")
    def add(a: int) -> int:
        return a

    with pytest.raises(
        TypeError, match=r"takes the name of a task, not .*; call add\.enqueue\(\.\.\.\)"
    ):
        delayq.enqueue(add, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"decorate it with @delayq\.task, then call plain\.enqueue"):

        def plain() -> None: ...

        delayq.enqueue(plain)  # type: ignore[arg-type]
