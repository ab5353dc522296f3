"""``/delayq/produce``: what it takes, what it refuses, and how it says so.

It must not know who may get there; every request here carries the token or comes from local debugging.
"""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import date, datetime
from typing import Any

import pytest
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from flask_delayq import DelayQ
from flask_delayq.errors import BackendUnavailableError, EnqueueUncertainError
from flask_delayq.ids import new_id
from kit import make_app

TOKEN = "a-token-of-some-length"
URL = "/delayq/produce"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def made() -> tuple[Flask, DelayQ]:
    app, delayq = make_app(admin_token=TOKEN, max_payload=2000, max_pending=20)
    app.debug = True

    @delayq.task(
        name="send",
        produce=True,
        queue="mail",
        produce_queues=["mail-slow"],
        produce_priorities=["low"],
    )
    def send(
        to: str, when: datetime | None = None, *more: int, urgent: bool = False, **rest: Any
    ) -> str:
        "Send it."
        return to

    @delayq.task(name="internal")
    def internal(secret_default: str = "not-to-be-seen") -> None: ...

    return app, delayq


@pytest.fixture
def app(made: tuple[Flask, DelayQ]) -> Flask:
    return made[0]


@pytest.fixture
def delayq(made: tuple[Flask, DelayQ]) -> DelayQ:
    return made[1]


def post(app: Flask, call: Any, **headers: str) -> TestResponse:
    return app.test_client().post(URL, json=call, headers={**AUTH, **headers})


def refused(found: TestResponse, status: int, kind: str) -> str:
    assert found.status_code == status, found.text
    error = found.json["error"]
    assert error["type"] == kind
    assert "Traceback" not in error["message"]
    return str(error["message"])


# --- what it takes ---------------------------------------------------------------------------------


def test_a_call_is_stored_and_answered_with_its_place(app: Flask, delayq: DelayQ) -> None:
    found = post(app, {"task": "send", "args": ["ada"], "kwargs": {"urgent": True}})
    assert found.status_code == 202
    shown = found.json["job"]
    assert found.headers["Location"] == f"/delayq/jobs/{shown['id']}"
    assert (shown["task"], shown["queue"], shown["state"]) == ("send", "mail", "ready")
    assert found.json["created"] is True
    args, kwargs = delayq.get(shown["id"]).arguments
    assert (args[0], kwargs) == ("ada", {"urgent": True})


def test_all_options(app: Flask, delayq: DelayQ) -> None:
    call = {
        "task": "send",
        "args": ["ada", "2030-01-01T00:00:00Z", 1, 2],
        "kwargs": {"x": None},
        "delay": 60,
        "queue": "q",
        "priority": "high",
        "id": "mine",
    }
    found = post(app, call)
    assert found.status_code == 202
    job = delayq.get("mine")
    assert (job.queue, job.priority, job.state) == ("q", "high", "scheduled")
    args, kwargs = job.arguments
    assert args[1] == datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    assert (args[2:], kwargs) == ((1, 2), {"x": None})
    again = post(app, call)
    assert (again.status_code, again.json["created"]) == (202, False)
    refused(post(app, {**call, "args": ["bob"]}), 409, "JobConflictError")


def test_a_moment(app: Flask, delayq: DelayQ) -> None:
    found = post(app, {"task": "send", "args": ["a"], "run_at": "2030-01-31T08:00:00+01:00"})
    # Further than the limit only if the clock of this machine is far off.
    assert found.json["job"]["run_at"] == "2030-01-31T07:00:00.000Z"


def test_json_works_whatever_is_accepted_and_with_a_charset(app: Flask) -> None:
    client = app.test_client()
    for accept in ("*/*", "application/json", ""):
        found = client.post(
            URL, json={"task": "send", "args": ["a"]}, headers={**AUTH, "Accept": accept}
        )
        assert (found.status_code, found.content_type) == (202, "application/json")
    body = json.dumps({"task": "send", "args": ["ü"]}, ensure_ascii=False).encode()
    found = client.post(URL, data=body, content_type="application/json; charset=utf-8", headers=AUTH)
    assert found.status_code == 202


def test_the_line_in_the_log_cannot_be_forged(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1)  # type: ignore[method-assign]
    post(app, {"task": "internal", "id": "j1"}, **{"X-Forwarded-For": "\x1b[2J\x85forged" + "x" * 500})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("produce internal as j1, by token from \\x1b[2J\\x85forgedx")
    assert line.isprintable() and len(line) < 250


# --- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, kind",
    [
        ([], "BadCallError"),
        ({}, "BadCallError"),
        ({"task": 1}, "BadCallError"),
        ({"task": "send", "args": "ada"}, "BadCallError"),
        ({"task": "send", "args": {"to": "ada"}}, "BadCallError"),
        ({"task": "send", "kwargs": ["ada"]}, "BadCallError"),
        ({"task": "send", "args": ["a"], "unknown": 1}, "BadCallError"),
        ({"task": "send", "args": ["a"], "delay": "5"}, "BadCallError"),
        ({"task": "send", "args": ["a"], "delay": True}, "BadCallError"),
        ({"task": "send", "args": ["a"], "delay": -1}, "DelayError"),
        ({"task": "send", "args": ["a"], "delay": 1e18}, "DelayError"),
        ({"task": "send", "args": ["a"], "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "BadCallError"),
        ({"task": "send", "args": ["a"], "run_at": "2030-01-01T00:00:00"}, "BadCallError"),
        ({"task": "send", "args": ["a"], "run_at": "9999-01-01T00:00:00Z"}, "DelayError"),
        ({"task": "send", "args": ["a"], "run_at": "tomorrow"}, "BadCallError"),
        ({"task": "send", "args": ["a"], "run_at": 5}, "BadCallError"),
        ({"task": "send", "args": ["a"], "queue": "a b"}, "InvalidNameError"),
        ({"task": "send", "args": ["a"], "queue": ""}, "InvalidNameError"),
        ({"task": "send", "args": ["a"], "priority": "urgent"}, "BadCallError"),
        ({"task": "send", "args": ["a"], "id": "../x"}, "InvalidNameError"),
        ({"task": "send"}, "ArgumentError"),
        ({"task": "send", "args": [1]}, "ArgumentError"),
        ({"task": "send", "args": ["a", "no date"]}, "ArgumentError"),
        ({"task": "send", "args": ["a"], "kwargs": {"to": "b"}}, "ArgumentError"),
        ({"task": "send", "args": ["a"], "kwargs": {"urgent": "yes"}}, "ArgumentError"),
    ],
)
def test_bad_calls(app: Flask, delayq: DelayQ, call: Any, kind: str) -> None:
    refused(post(app, call), 400, kind)
    assert delayq.jobs() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"task": "send", "args": ["a"], "delay": NaN}',
        b'{"task": "send", "args": ["a"], "delay": 1e999}',
        b'{"task": "send", "args": ["\\ud800"]}',
    ],
)
def test_bodies_that_are_no_call(app: Flask, delayq: DelayQ, body: bytes) -> None:
    found = app.test_client().post(URL, data=body, content_type="application/json", headers=AUTH)
    refused(found, 400, "BadCallError")
    assert delayq.jobs() == []


@pytest.mark.parametrize("depth", [1500, 2900])
@pytest.mark.parametrize("where", ['"args": [%s]', '"args": ["a"], "kwargs": {"x": %s}'])
@pytest.mark.parametrize("level", [("[", "]"), ('{"y":', "}")])
def test_a_body_of_many_levels_is_refused(
    app: Flask, delayq: DelayQ, depth: int, where: str, level: tuple[str, str]
) -> None:
    """How deep the reader of JSON goes is Python's own matter: it differs between its versions."""
    nested = level[0] * depth + "1" + level[1] * depth
    body = b'{"task": "send", %s}' % (where % nested).encode()
    found = app.test_client().post(URL, data=body, content_type="application/json", headers=AUTH)
    assert found.status_code in (400, 413)
    refused(found, found.status_code, found.json["error"]["type"])
    assert found.json["error"]["type"] in ("BadCallError", "ArgumentError", "PayloadTooLargeError")
    assert delayq.jobs() == []


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-json", "application/jsonp", "multipart/form-data; boundary=x", ""],
)
def test_the_content_type_is_exact(app: Flask, delayq: DelayQ, kind: str) -> None:
    body = b'{"task": "send", "args": ["a"]}'
    headers = {**AUTH, "Accept": "application/json"}
    found = app.test_client().post(URL, data=body, content_type=kind, headers=headers)
    refused(found, 415, "UnsupportedMediaType")
    assert delayq.jobs() == []


@pytest.mark.parametrize(
    "name", ["nobody", "internal", "os:system", "os.system", "__class__", "", "a b"]
)
def test_unknown_and_unexposed_tasks_are_not_found_alike(app: Flask, name: str) -> None:
    found = app.test_client().post(URL, json={"task": name}, headers=SAME)
    assert refused(found, 404, "NotFound") == f"no task named {name!r} may be produced here"


def test_only_a_task_that_may_be_produced_is_suggested(app: Flask) -> None:
    def told(name: str, headers: dict[str, str]) -> str:
        found = app.test_client().post(URL, json={"task": name}, headers=headers)
        return refused(found, 404, "NotFound")

    assert told("sendd", SAME).endswith("here; did you mean 'send'?")
    assert told("internall", SAME).endswith("here")
    assert told("internall", AUTH).endswith("here; did you mean 'internal'?")


def test_with_the_token_a_queue_that_is_nearly_another_one_is_noted(app: Flask) -> None:
    call = {"task": "send", "args": ["a"]}
    found = post(app, {**call, "queue": "mial"})
    assert found.status_code == 202
    assert found.json["note"].endswith("uses a queue named 'mial'; did you mean 'mail'?")
    for queue in ("mail", "mial", "brand-new"):  # that one is known now
        assert "note" not in post(app, {**call, "queue": queue}).json


def test_the_token_may_produce_any_task(app: Flask) -> None:
    assert post(app, {"task": "internal"}).status_code == 202


# --- limits ----------------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A body without end, that counts what was read of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "somebody wanted all of it"
        self.taken += size
        return b" " * size


def chunked(body: Any) -> dict[str, Any]:
    """How a server passes a body on whose length was not announced."""
    return {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}


def test_a_body_too_large_is_refused_before_it_is_read(app: Flask) -> None:
    body = Endless()
    found = app.test_client().post(
        URL,
        content_type="application/json",
        headers=AUTH,
        environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": str(1 << 40)},
    )
    refused(found, 413, "RequestEntityTooLarge")
    assert body.taken == 0


def test_a_chunked_body_is_read_up_to_the_limit(app: Flask) -> None:
    body = Endless()
    found = app.test_client().post(
        URL,
        content_type="application/json",
        headers={**AUTH, "Transfer-Encoding": "chunked"},
        environ_overrides=chunked(body),
    )
    refused(found, 413, "RequestEntityTooLarge")
    assert body.taken == 2000 + 16 * 1024 + 1


def test_a_chunked_body_within_the_limit_is_taken(app: Flask) -> None:
    found = app.test_client().post(
        URL,
        content_type="application/json",
        headers={**AUTH, "Transfer-Encoding": "chunked"},
        environ_overrides=chunked(io.BytesIO(b'{"task": "send", "args": ["a"]}')),
    )
    assert found.status_code == 202


def test_arguments_too_large(app: Flask, delayq: DelayQ) -> None:
    small = 2000 - len('{"to":""}')
    assert post(app, {"task": "send", "args": ["x" * small]}).status_code == 202
    refused(post(app, {"task": "send", "args": ["x" * (small + 1)]}), 413, "PayloadTooLargeError")


def test_a_full_queue(app: Flask) -> None:
    for _ in range(20):
        assert post(app, {"task": "send", "args": ["a"]}).status_code == 202
    found = post(app, {"task": "send", "args": ["a"]})
    refused(found, 429, "QueueFullError")
    assert int(found.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("away", reason="locked"), EnqueueUncertainError(["j1"])]
)
def test_a_store_in_trouble(
    app: Flask,
    delayq: DelayQ,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    caplog.set_level("INFO", logger="flask_delayq.admin")

    def enqueue(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(delayq.state.backend, "enqueue", enqueue)
    found = post(app, {"task": "send", "args": ["a"]})
    refused(found, 503, type(error).__name__)
    assert int(found.headers["Retry-After"]) > 0
    lines = [record.getMessage() for record in caplog.records]
    if isinstance(error, EnqueueUncertainError):
        assert found.json["error"]["job_ids"] == ["j1"]  # safe to repeat with
        assert lines == ["produce send as j1, perhaps, by token from 127.0.0.1"]
    else:
        assert lines == []


# --- without the token -----------------------------------------------------------------------------


def post_openly(app: Flask, **call: Any) -> TestResponse:
    """A call of `send` from somebody who may produce and has no token."""
    return app.test_client().post(URL, json={"task": "send", "args": ["a"], **call}, headers=SAME)


def test_without_the_token_a_queue_and_a_priority_must_be_open(app: Flask, delayq: DelayQ) -> None:
    for call in (
        {},
        {"queue": "mail"},
        {"queue": "mail-slow"},
        {"priority": "normal"},
        {"priority": "low"},
    ):
        assert post_openly(app, **call).status_code == 202
    said = refused(post_openly(app, queue="payments"), 403, "NotOpenError")
    assert (
        said == "without the admin token the queue of task 'send' is mail or mail-slow, not 'payments'"
    )
    said = refused(post_openly(app, priority="high"), 403, "NotOpenError")
    assert said == "without the admin token the priority of task 'send' is normal or low, not 'high'"
    for number in range(30):
        refused(post_openly(app, queue=f"q{number}"), 403, "NotOpenError")
    assert {queue.name for queue in delayq.client.inspect.queues(now=0.0)} == {"mail", "mail-slow"}
    assert (
        post(app, {"task": "send", "args": ["a"], "queue": "q", "priority": "high"}).status_code == 202
    )


def test_a_limit_on_waiting_jobs_cannot_be_walked_around(app: Flask) -> None:
    found = [post_openly(app, queue=("mail", "mail-slow", "q1", f"r{n}")[n % 4]) for n in range(200)]
    assert [answer.status_code for answer in found].count(202) == 2 * 20  # DELAYQ_MAX_PENDING each


def test_without_the_token_an_id_is_in_a_space_of_its_own(app: Flask, delayq: DelayQ) -> None:
    @delayq.task(name="order")
    def order(number: int) -> None: ...

    order.options(id="order-42").enqueue(42)
    found = post_openly(app, id="order-42")
    assert (found.status_code, found.json["created"], found.json["job"]["id"]) == (
        202,
        True,
        "http-order-42",
    )
    assert post_openly(app, id="order-43").status_code == 202
    order.options(id="order-43").enqueue(43)  # was not taken in advance
    # It makes the call repeatable as before, also with the id that an answer told.
    for job_id in ("order-42", "http-order-42"):
        again = post_openly(app, id=job_id)
        assert (again.json["created"], again.json["job"]["id"]) == (False, "http-order-42")
    refused(post_openly(app, id="order-42", args=["b"]), 409, "JobConflictError")
    made = post_openly(app).json["job"]["id"]
    assert made.startswith("http-")
    again = post_openly(app, id=made)
    assert (again.json["created"], again.json["job"]["id"]) == (False, made)
    refused(post_openly(app, id="x" * 124), 400, "InvalidNameError")
    refused(post_openly(app, id="../x"), 400, "InvalidNameError")


def test_without_the_token_an_id_of_the_app_cannot_be_taken(app: Flask, delayq: DelayQ) -> None:
    """Not even one that looks as DelayQ makes it: some of its digits are the time."""
    theirs = new_id()
    assert post_openly(app, id=theirs).json["job"]["id"] == f"http-{theirs}"
    ours = delayq.tasks.get("internal").enqueue()
    found = post_openly(app, id=ours.id)
    assert (found.status_code, found.json["created"]) == (202, True), "it does not tell who has it"


def test_an_enqueue_in_doubt_can_be_repeated_without_the_token(
    app: Flask, delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, told = delayq.state.backend.enqueue, []

    def in_doubt(jobs: Any, **kwargs: Any) -> Any:
        enqueue(jobs, **kwargs)
        raise EnqueueUncertainError([job.id for job in jobs])

    for call in ({}, {"id": "mine"}):
        with monkeypatch.context() as patch:
            patch.setattr(delayq.state.backend, "enqueue", in_doubt)
            answer = post_openly(app, **call)
        assert answer.status_code == 503
        told += answer.json["error"]["job_ids"]
    for job_id in told:
        again = post_openly(app, id=job_id)
        assert (again.status_code, again.json["created"]) == (202, False)
    assert len(delayq.jobs()) == 2


def test_the_form_offers_what_is_open(app: Flask) -> None:
    page = app.test_client().get(f"{URL}?task=send").text
    for text in ("mail-slow", "mail (default)", "normal (default)", "low"):
        assert f">{text}</option>" in page
    assert ">high</option>" not in page and '<input name="queue"' not in page
    with_token = app.test_client().get(f"{URL}?task=send", headers=AUTH).text
    assert ">high</option>" in with_token and '<input name="queue"' in with_token
    offered = app.test_client().get(URL, headers={"Accept": "application/json"}).json["tasks"][0]
    assert (offered["queues"], offered["priorities"]) == (["mail", "mail-slow"], ["normal", "low"])


# --- the form --------------------------------------------------------------------------------------


def form(app: Flask, **fields: str) -> TestResponse:
    fields = {
        ("argument." + name[2:] if name.startswith("a_") else name): v for name, v in fields.items()
    }
    return app.test_client().post(URL, data={"task": "send", **fields}, headers=SAME)


def test_tasks_are_offered_with_their_parameters(app: Flask) -> None:
    offered = app.test_client().get(URL, headers={"Accept": "application/json"}).json["tasks"]
    assert [task["name"] for task in offered] == ["send"]
    parameters = {one.pop("name"): one for one in offered[0]["parameters"]}
    assert parameters["to"]["required"] is True
    assert parameters["urgent"] == {
        "kind": "flag",
        "annotation": "bool",
        "default": "False",
        "required": False,
        "star": "",
        "keyword": True,
    }
    page = app.test_client().get(f"{URL}?task=send").text
    for text in ('name="argument.to"', 'name="argument.urgent"', "datetime | None", "Send it."):
        assert text in page
    assert app.test_client().get(f"{URL}?task=internal").status_code == 404
    with_token = app.test_client().get(URL, headers={**AUTH, "Accept": "application/json"})
    assert [task["name"] for task in with_token.json["tasks"]] == ["internal", "send"]
    assert "not-to-be-seen" not in with_token.text


def test_the_form_enqueues_and_leads_to_the_job(app: Flask, delayq: DelayQ) -> None:
    found = form(
        app, a_to="12", a_when="2030-01-01T00:00:00Z", a_urgent="true", delay="2.5", priority="low"
    )
    assert found.status_code == 303, found.text
    job = delayq.get(found.headers["Location"].rpartition("/")[2])
    args, kwargs = job.arguments
    assert args[0] == "12"  # a text stays one, though it looks like a number
    assert kwargs["urgent"] is True
    assert job.priority == "low" and job.state == "scheduled"


def test_more_values_and_names(app: Flask, delayq: DelayQ) -> None:
    found = form(app, a_to="x", a_when="null", a_more="[1, 2]", a_rest='{"k": [true]}')
    assert found.status_code == 303, found.text
    job = delayq.get(found.headers["Location"].rpartition("/")[2])
    assert job.arguments == (("x", None, 1, 2), {"k": [True]})
    assert "must not be empty" in form(app, a_to="x", a_more="[1]").text


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"a_when": "someday"}, "argument when"),
        ({"delay": "soon"}, "delay cannot be read"),
        ({"delay": "-1"}, "must not be negative"),
        ({"run_at": "soon"}, "run_at"),
        ({"a_rest": "[]"}, "**rest cannot be read"),
        ({"queue": "a b"}, "queue"),
        ({"priority": "x"}, "priority"),
    ],
)
def test_a_form_that_is_refused_keeps_what_was_typed(
    app: Flask, delayq: DelayQ, fields: dict[str, str], reason: str
) -> None:
    found = form(app, a_to="keep-this", **fields)
    assert found.status_code == (403 if {"queue", "priority"} & set(fields) else 400)
    assert 'value="keep-this"' in found.text
    assert reason in found.text
    assert delayq.jobs() == []


def test_the_form_says_errors_to_programs_as_json(app: Flask) -> None:
    found = app.test_client().post(
        URL, data={"task": "send", "delay": "x"}, headers={**SAME, "Accept": "application/json"}
    )
    refused(found, 400, "BadCallError")


def test_a_form_without_a_length_is_refused(app: Flask) -> None:
    found = app.test_client().post(
        URL,
        content_type="application/x-www-form-urlencoded",
        headers={**AUTH, "Transfer-Encoding": "chunked"},
        environ_overrides=chunked(Endless()),
    )
    assert found.status_code == 411


def test_annotations_that_name_types_of_the_task_only(app: Flask, delayq: DelayQ) -> None:
    @delayq.task(name="on_day", produce=True)
    def on_day(day: date, /, note: str | None = None) -> None: ...

    assert form(app, task="on_day", a_day="2030-02-03").status_code == 303
    assert delayq.jobs(task="on_day")[0].arguments == ((date(2030, 2, 3),), {})


def test_defaults_are_shown_without_their_secrets(app: Flask, delayq: DelayQ) -> None:
    @dataclasses.dataclass
    class Login:
        user: str = "ann"
        password: str = "default-hunter3"

    @delayq.task(name="t", produce=True)
    def t(
        config: dict[str, Any] = {"password": "default-hunter2", "n": 1},  # noqa: B006
        url: str = "postgres://ann:hunter4@db/x",
        login: Login = Login(),  # noqa: B008
    ) -> None: ...

    for accept in ("application/json", "text/html"):
        text = app.test_client().get(URL, headers={"Accept": accept, **AUTH}).text
        assert "hunter" not in text
        assert "[hidden]" in text
