"""The extension contract: apps, instances, factories, settings, and what happens before `init_app`.

It must not know how jobs run.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import ModuleType

import pytest
from flask import Flask

import flask_delayq
from flask_delayq import DelayQ, JobState
from flask_delayq.errors import (
    ConfigurationError,
    SetupError,
    TaskAlreadyRegisteredError,
    TaskNotFoundError,
)
from flask_delayq.signals import job_completed, job_enqueued, job_failed, job_started
from kit import make_app, running


def named_app(name: str, **config: object) -> Flask:
    app = Flask(name)
    app.config.update({"DELAYQ_URL": "memory://", "DELAYQ_MODE": "manual", **config})
    return app


def test_init_app_opens_no_file_and_starts_no_worker(tmp_path: Path) -> None:
    app = Flask("quiet", instance_path=str(tmp_path / "instance"))
    before = {thread.name for thread in threading.enumerate()}
    DelayQ(app)
    after = {thread.name for thread in threading.enumerate()} - before
    assert not (tmp_path / "instance").exists()
    assert not any("worker" in name or "dispatcher" in name for name in after)


def test_before_init_app_the_error_says_what_to_do() -> None:
    delayq = DelayQ()
    task = delayq.task(name="t")(lambda: 1)
    with pytest.raises(SetupError, match=r"call delayq.init_app\(app\) first"):
        task.enqueue()
    assert task() == 1


def test_an_app_takes_one_delayq_only() -> None:
    app = named_app("one")
    DelayQ(app)
    with pytest.raises(SetupError, match="already has a DelayQ"):
        DelayQ(app)


def test_one_delayq_serves_several_apps_each_with_its_own_jobs() -> None:
    delayq = DelayQ()
    seen: list[str] = []

    @delayq.task
    def note(text: str) -> None:
        seen.append(text)

    apps = [named_app("first"), named_app("second")]
    for app in apps:
        delayq.init_app(app)
    with pytest.raises(SetupError, match="serves several apps"):
        note.enqueue("nowhere")
    for app in apps:
        with app.app_context():
            note.enqueue(app.name)
    with apps[0].app_context():
        assert delayq.counts()["ready"] == 1
        assert len(delayq.drain()) == 1
        assert delayq.counts()["completed"] == 1
    assert seen == ["first"]
    with apps[1].app_context():
        assert delayq.counts()["ready"] == 1


def test_a_foreign_app_context_is_refused_when_there_are_several_apps() -> None:
    delayq = DelayQ()
    task = delayq.task(name="t")(lambda: 1)
    delayq.init_app(named_app("a"))
    delayq.init_app(named_app("b"))
    with named_app("stranger").app_context(), pytest.raises(SetupError, match="'stranger'"):
        task.enqueue()


def test_two_extensions_in_one_process_do_not_meet() -> None:
    (_one, first), (_two, second) = make_app(), make_app()
    one = first.task(name="same")(lambda: "one")
    two = second.task(name="same")(lambda: "two")
    with running(first), running(second):
        assert one.enqueue().wait(5).result == "one"
        assert two.enqueue().wait(5).result == "two"


def test_a_factory_may_be_called_again_and_again() -> None:
    delayq = DelayQ()

    def create_app() -> Flask:
        app = named_app("factory")
        delayq.init_app(app)
        return app

    apps = [create_app() for _ in range(50)]
    refs = [weakref.ref(app) for app in apps]
    del apps
    gc.collect()
    assert sum(ref() is not None for ref in refs) == 0
    last = create_app()
    assert delayq.state.app is last


def test_an_app_that_nobody_held_is_named_as_the_reason() -> None:
    delayq = DelayQ()
    delayq.init_app(named_app("short-lived"))
    gc.collect()
    for _ in range(2):
        with pytest.raises(SetupError, match="garbage-collected"):
            delayq.counts()


def test_unknown_settings_are_refused_with_a_suggestion() -> None:
    app, delayq = make_app()
    app.config["DELAYQ_WORKRES"] = 3
    with pytest.raises(ConfigurationError, match="did you mean DELAYQ_WORKERS"):
        delayq.counts()


def test_settings_are_read_once() -> None:
    app, delayq = make_app(workers=2)
    assert delayq.state.settings.workers == 2
    app.config["DELAYQ_WORKERS"] = 9
    assert delayq.state.settings.workers == 2


def test_testing_means_manual_also_when_it_is_set_later() -> None:
    app = named_app("later", DELAYQ_MODE="auto")
    delayq = DelayQ(app)
    assert delayq.state.wants_to_start()
    app.testing = True
    assert delayq.state.mode == "manual"
    assert not delayq.state.wants_to_start()


def test_testing_keeps_jobs_in_memory_by_default(tmp_path: Path) -> None:
    app = Flask("tested", instance_path=str(tmp_path))
    app.testing = True
    delayq = DelayQ(app)
    task = delayq.task(name="t")(lambda: 1)
    task.enqueue()
    assert [outcome.claim.task for outcome in delayq.drain()] == ["t"]
    assert list(tmp_path.iterdir()) == []


def test_inline_runs_the_job_before_enqueue_returns() -> None:
    _app, delayq = make_app(mode="inline")
    order: list[str] = []
    inner = delayq.task(name="inner")(lambda: order.append("inner"))

    @delayq.task
    def outer() -> None:
        inner.enqueue()
        order.append("outer")

    job = outer.enqueue()
    order.append("back")
    assert order == ["outer", "inner", "back"]
    assert job.refresh().state == "completed"


def test_inline_a_task_may_drain_and_its_jobs_are_left_to_the_outer_drain() -> None:
    _app, delayq = make_app(mode="inline")
    depth, most = 0, 0

    @delayq.task
    def inner() -> None:
        nonlocal most
        most = max(most, depth)

    @delayq.task
    def outer() -> None:
        nonlocal depth
        depth += 1
        delayq.drain()
        inner.enqueue()
        depth -= 1

    job = outer.enqueue()
    assert job.refresh().state is JobState.COMPLETED
    assert most == 0, "it ran inside the task that enqueued it"


def test_inline_works_in_a_child_of_a_process_that_ran_jobs() -> None:
    _app, delayq = make_app(mode="inline")
    delayq.start()
    runtime = delayq.state.supervisor
    try:
        delayq.state.forget_runtime()  # what a fork makes a child do
        runtime.begin_no_more()  # it is not there in a child
        job = delayq.task(name="t")(lambda: 5).enqueue()
        assert job.refresh().state is JobState.COMPLETED
    finally:
        runtime.stop(5)


def test_names_are_stable_settable_and_refused_twice() -> None:
    _app, delayq = make_app()

    def work() -> None: ...

    assert delayq.task(work).name.endswith("test_names_are_stable_settable_and_refused_twice.work")
    delayq.task(name="mail", aliases=["old.mail"])(work)
    with pytest.raises(TaskAlreadyRegisteredError, match=r"old\.mail"):
        delayq.task(name="old.mail")(work)
    assert delayq.tasks.get("old.mail").name == "mail"


def test_jobs_stored_under_a_former_name_still_run() -> None:
    _app, old = make_app(url="memory://renamed")
    old.task(name="before")(lambda: 1).enqueue()
    _, new = make_app(url="memory://renamed")
    new.task(name="after", aliases=["before"])(lambda: 2)
    assert [outcome.verb.value for outcome in new.drain()] == ["complete"]


def test_a_periodic_task_cannot_need_arguments() -> None:
    _app, delayq = make_app()
    with pytest.raises(ConfigurationError, match="these have none: to"):
        delayq.task(every=5, name="t")(lambda to: None)


def test_the_script_and_the_module_agree_on_a_name(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from flask import Flask\nfrom flask_delayq import DelayQ\n"
        "app = Flask(__name__)\ndelayq = DelayQ(app)\n"
        "@delayq.task\ndef send(): ...\n"
        "if __name__ == '__main__': print(send.name)\n"
    )
    ran = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout.strip() == "app.send"


def test_signals_tell_what_happens_and_receivers_cannot_break_a_job() -> None:
    app, delayq = make_app()
    heard: list[tuple[str, object]] = []

    def on(name: str) -> object:
        def receiver(sender: object, **facts: object) -> None:
            assert sender is app
            heard.append((name, facts.get("result") or str(facts.get("error") or "")))
            raise RuntimeError("a clumsy observer")

        return receiver

    good = delayq.task(name="good")(lambda: 7)

    @delayq.task
    def bad() -> None:
        raise ValueError("no")

    receivers = [on("enqueued"), on("started"), on("completed"), on("failed")]
    signals = (job_enqueued, job_started, job_completed, job_failed)
    for signal, receiver in zip(signals, receivers, strict=True):
        signal.connect(receiver, sender=app)
    job = good.enqueue()
    bad.enqueue()
    delayq.drain()
    assert job.refresh().result == 7
    assert heard == [
        ("enqueued", ""),
        ("enqueued", ""),
        ("started", ""),
        ("completed", 7),
        ("started", ""),
        ("failed", "no"),
    ]


def test_a_client_library_is_imported_by_the_backend_that_needs_it_alone() -> None:
    code = "import sys, flask_delayq; sys.exit('apsw' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert ran.returncode == 0


def test_two_apps_of_one_process_that_run_the_jobs_of_one_store_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    apps: list[Flask] = []

    def create_app(name: str) -> DelayQ:
        apps.append(named_app("shop", DELAYQ_URL=f"sqlite:///{tmp_path}/{name}"))
        return DelayQ(apps[-1])

    one, other, again = create_app("store"), create_app("another"), create_app("store")
    try:
        one.start()
        other.start()
        assert caplog.messages == []
        again.start()
        (line,) = caplog.messages
        assert line.startswith("2 app objects of this process run the jobs of sqlite:///")
        assert "each with its own DELAYQ_WORKERS threads" in line
    finally:
        for delayq in (one, other, again):
            delayq.state.close()


def test_what_is_unfavourable_here_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flask_delayq.deployment_warnings.remarks", lambda url: [f"are stored in {url}"])
    _app, delayq = make_app()
    for _ in range(3):
        with running(delayq):
            pass
    assert caplog.messages == ["the jobs of kit are stored in memory://"]


def test_under_apache_jobs_get_less_time_than_apache_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    app = named_app("shop", DELAYQ_URL="memory://")
    state = DelayQ(app).state
    assert state.drain_timeout == 5.0
    module = ModuleType("mod_wsgi")
    monkeypatch.setitem(sys.modules, "mod_wsgi", module)
    assert state.drain_timeout == 5.0
    module.process_group = "site"  # type: ignore[attr-defined]
    assert state.drain_timeout == 2.0


def test_a_task_is_enqueued_by_its_name() -> None:
    app, delayq = make_app()

    @delayq.task(name="add", aliases=["plus"])
    def add(a: int, b: int = 1) -> int:
        return a + b

    jobs = [delayq.enqueue("add", 1, b=2), delayq.enqueue("plus", 3)]
    delayq.drain()
    with app.app_context():
        assert [job.refresh().result for job in jobs] == [3, 4]
    with pytest.raises(TaskNotFoundError, match="did you mean"):
        delayq.enqueue("ad", 1)


def test_variables_of_the_environment_are_settings_but_not_in_a_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASK_DELAYQ_WORKERS", "7")
    app = Flask("plain")
    assert DelayQ(app).state.settings.workers == 7
    tested = Flask("tested")
    tested.testing = True
    assert DelayQ(tested).state.settings.workers == 4


def test_every_error_is_at_the_door() -> None:
    errors = {
        name
        for name, value in vars(flask_delayq.errors).items()
        if isinstance(value, type) and issubclass(value, flask_delayq.DelayQError)
    }
    assert errors - {*flask_delayq.__all__} == {"RuleError"}, "which never reaches a program"
