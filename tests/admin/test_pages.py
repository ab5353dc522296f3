"""What the pages show: complete, bounded, without secrets, and harmless whatever is stored.

It must not know how access is decided; every request here comes from local debugging.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import apsw
import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import StrictUndefined

from flask_delayq import DelayQ, RetryPolicy, current_job
from flask_delayq.admin import threads
from flask_delayq.console.presenting import size
from flask_delayq.errors import BackendUnavailableError, JobNotFoundError
from flask_delayq.job import NewJob, ProcessRecord
from flask_delayq.testing import FakeClock
from kit import make_app, running
from pace import quiet_seconds
from waiting import wait_until

CANARY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{37*37}}"
SECRET = "hunter2-and-more"

JSON = {"Accept": "application/json"}
PAGES = ("/", "/jobs", "/queues", "/schedules", "/processes", "/threads", "/produce", "/health")


class Page(HTMLParser):
    """A parsed page: its texts, and what would be active in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.active: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "object", "embed", "style", "svg"):
            self.active.append(tag)
        self.active += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.active += [value for _, value in attrs if value and value.startswith("javascript:")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture
def app_and_delayq() -> tuple[Flask, DelayQ]:
    app, delayq = make_app()
    app.debug = True
    return app, delayq


@pytest.fixture
def client(app_and_delayq: tuple[Flask, DelayQ]) -> FlaskClient:
    return app_and_delayq[0].test_client()


@pytest.fixture
def delayq(app_and_delayq: tuple[Flask, DelayQ]) -> DelayQ:
    return app_and_delayq[1]


def page(client: FlaskClient, path: str, status: int = 200) -> Page:
    found = client.get(f"/delayq{path}")
    assert found.status_code == status, found.text
    assert found.content_type == "text/html; charset=utf-8"
    return Page(found.text)


def data(client: FlaskClient, path: str, status: int = 200) -> Any:
    found = client.get(f"/delayq{path}", headers=JSON)
    assert found.status_code == status, found.text
    assert found.content_type == "application/json"
    return found.json


# --- hostile data ----------------------------------------------------------------------------------


@pytest.fixture
def poisoned(delayq: DelayQ) -> Iterator[list[str]]:
    """Canaries wherever a store or a program can put a text; returns job ids."""

    @delayq.task(name="fails")
    def fails(value: str) -> None:
        current_job.progress(1, 2, CANARY)
        raise ValueError(CANARY)

    @delayq.task(name="works", produce=True)
    def works(value: str = CANARY) -> dict[str, str]:
        return {value: value}

    works.function.__doc__ = CANARY
    ids = [fails.enqueue(CANARY).id, works.enqueue(CANARY).id]
    delayq.schedules.add("poll", works, kwargs={"value": CANARY}, every=60)
    delayq.drain()
    backend = delayq.state.backend
    forged = NewJob("forged", CANARY, CANARY, 1, 1e18, 0.0, b"\x80 no JSON")
    backend.enqueue([forged], now=0.0, timeout=1.0)
    info = json.dumps({"role": CANARY, "workers": CANARY, "queues": [CANARY]}).encode()
    backend.announce(ProcessRecord("o1", 1, CANARY, 0.0, 0.0, info))
    backend.announce(ProcessRecord("o2", 2, "h", 0.0, -1e18, b"no JSON"))
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name=CANARY)
    thread.start()
    yield [*ids, "forged"]
    release.set()
    thread.join()


def test_no_stored_text_becomes_part_of_a_page(client: FlaskClient, poisoned: list[str]) -> None:
    seen = 0
    for path in (*PAGES, "/produce?task=works", *(f"/jobs/{job_id}" for job_id in poisoned)):
        found = page(client, path)
        assert found.active == [], path
        assert "1369" not in found.text or "{{37*37}}" in found.text
        seen += "<script>alert(1)</script>" in found.text
        data(client, path)
    assert seen >= 8  # it is shown, as text


@pytest.mark.parametrize(
    "path", ["/jobs?queue=" + CANARY, "/jobs?state=" + CANARY, "/jobs?limit=" + CANARY, "/" + CANARY]
)
def test_no_parameter_becomes_part_of_a_page(client: FlaskClient, path: str) -> None:
    found = client.get(f"/delayq{path}")
    assert found.status_code in (400, 404)
    assert Page(found.text).active == []


def test_what_was_typed_into_the_form_stays_text(client: FlaskClient, poisoned: list[str]) -> None:
    fields = {"task": "works", "argument.value": CANARY, "delay": CANARY, "queue": CANARY, "id": CANARY}
    found = client.post("/delayq/produce", data=fields, headers={"Sec-Fetch-Site": "same-origin"})
    assert found.status_code == 400
    assert Page(found.text).active == []


def test_forms_can_prove_their_origin_on_plain_http(client: FlaskClient) -> None:
    # Under "no-referrer", which answers carry, browsers send "Origin: null" with a form.
    found = client.get("/delayq/produce")
    assert found.headers["Referrer-Policy"] == "no-referrer"
    assert '<meta name="referrer" content="same-origin">' in found.text


@pytest.mark.parametrize(
    "change",
    [
        {"autoescape": False},
        {"variable_start_string": "[[", "variable_end_string": "]]", "block_start_string": "<%"},
        {"undefined": StrictUndefined},
        {"trim_blocks": True, "lstrip_blocks": True, "line_statement_prefix": "#"},
    ],
    ids=lambda change: "-".join(change),
)
def test_the_pages_do_not_depend_on_how_the_app_sets_up_its_templates(
    client: FlaskClient,
    app_and_delayq: tuple[Flask, DelayQ],
    poisoned: list[str],
    change: dict[str, Any],
) -> None:
    app = app_and_delayq[0]
    for name, value in change.items():
        setattr(app.jinja_env, name, value)
    app.jinja_env.globals.clear()
    app.jinja_env.filters.clear()
    for path in (*PAGES, f"/jobs/{poisoned[0]}"):
        found = page(client, path)
        assert found.active == []
        assert "DelayQ" in found.text and "url_for" not in found.text and "{%" not in found.text
    assert "<script>alert(1)</script>" in page(client, f"/jobs/{poisoned[0]}").text
    assert poisoned[0] in page(client, "/jobs").text


def test_marks_that_reverse_a_text_are_seen(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="bidi", produce=True)
    def bidi(text: str) -> None:
        raise ValueError(text)

    job = bidi.enqueue("a\u202eb\u2066c\u0007d")
    delayq.drain()
    found = page(client, f"/jobs/{job.id}").text
    assert not any(mark in found for mark in "\u202e\u2066\u0007")
    assert "a\\u202eb\\u2066c\\x07d" in found
    # The data is what it is, and so is what a person typed into a form.
    assert data(client, f"/jobs/{job.id}")["job"]["arguments"] == {"text": "a\u202eb\u2066c\u0007d"}
    fields = {"task": "bidi", "argument.text": "a\u200db", "delay": "x"}
    typed = client.post("/delayq/produce", data=fields, headers={"Sec-Fetch-Site": "same-origin"})
    assert 'value="a\u200db"' in typed.text


def test_failed_jobs_of_a_list_can_be_told_apart(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="pay", retry=RetryPolicy(max_attempts=8, never_on=ConnectionError))
    def pay(order: int, api_key: str, note: str = "") -> None:
        raise ConnectionError(f"order {order}: {api_key} was refused\nby the bank")

    first, second = pay.enqueue(1, SECRET), pay.enqueue(2, SECRET, note="x" * 500)
    huge = pay.enqueue(3, SECRET, note="y" * 9000)
    delayq.drain()
    text = page(client, "/jobs?state=failed").text
    assert 'order=1, api_key="[hidden]"' in text
    assert "ConnectionError: order 1: [hidden] was refused by the bank" in text
    assert "order 2" in text and "x" * 40 in text and "x" * 100 not in text
    assert "9,0" in text and "order 3" not in text, "what is too large for a list is not read"
    assert text.count("1 of 8") == 3
    assert data(client, f"/jobs/{first.id}")["job"]["max_attempts"] == 8
    assert SECRET not in text
    assert all(job.id in text for job in (first, second, huge))
    assert "arguments" not in data(client, "/jobs")["jobs"][0], "programs ask for each job"


def test_a_job_that_is_pruned_while_a_list_is_made_has_its_line(
    client: FlaskClient, delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(job_id: str) -> Any:
        raise JobNotFoundError(job_id=job_id)

    job = delayq.task(name="t")(lambda: None).enqueue()
    monkeypatch.setattr(delayq.state.client, "get", gone)
    assert job.id in page(client, "/jobs").text


@pytest.mark.parametrize("path", PAGES)
def test_every_cell_has_a_name_where_tables_become_cards(
    client: FlaskClient, delayq: DelayQ, path: str
) -> None:
    @delayq.task(name="t", every=60, produce=True)
    def t() -> None:
        "Does it."

    t.enqueue()
    with running(delayq):
        answer = client.get(f"/delayq{path}", headers={"Accept": "text/html"})
    tables = re.findall(r"<table.*?</table>", answer.text, re.DOTALL)
    for table in tables:
        assert table.startswith('<table class="stack">')
        assert (
            re.findall(r"<td(?![^>]*(?:data-label=|class=\"(?:what|does|empty)\"))[^>]*>", table) == []
        )
    assert bool(tables) is (path != "/health")
    assert "<h1>" in answer.text


# --- secrets ---------------------------------------------------------------------------------------


def test_secrets_are_hidden_by_name_at_any_depth_and_in_texts(
    client: FlaskClient, delayq: DelayQ
) -> None:
    @delayq.task(name="login")
    def login(user: str, Password: str, options: dict[str, Any]) -> Any:  # noqa: N803
        current_job.progress(1, 2, f"trying {Password}")
        if user == "bad":
            raise PermissionError(f"no: {Password!r} in {options}")
        return {"echo": Password, "session": {"X-Api-Key": "k-12345678"}}

    deep = {
        "headers": [{"Authorization": "Basic Zm9vOmJhcg"}],
        "db_secret": {"a": ["s3cr3t-value"]},
        "n": 1,
    }
    ids = [login.enqueue(user, SECRET, deep).id for user in ("good", "bad")]
    delayq.drain()
    for job_id in ids:
        for text in (
            page(client, f"/jobs/{job_id}").text,
            json.dumps(data(client, f"/jobs/{job_id}")),
            page(client, "/jobs").text,
        ):
            for secret in (SECRET, "Zm9vOmJhcg", "s3cr3t-value", "k-12345678"):
                assert secret not in text
            assert "[hidden]" in text
    shown = data(client, f"/jobs/{ids[0]}")["job"]
    assert shown["arguments"] == {
        "user": "good",
        "Password": "[hidden]",
        "options": {"headers": [{"Authorization": "[hidden]"}], "db_secret": "[hidden]", "n": 1},
    }


def test_what_is_hidden_can_be_configured(client: FlaskClient) -> None:
    app, delayq = make_app(redact=["iban"])
    app.debug = True

    @delayq.task(name="pay")
    def pay(my_IBAN: str, password: str) -> None: ...  # noqa: N803

    job = pay.enqueue("DE02 1203", "open")
    shown = data(app.test_client(), f"/jobs/{job.id}")["job"]["arguments"]
    assert shown == {"my_IBAN": "[hidden]", "password": "open"}


# --- jobs ------------------------------------------------------------------------------------------


def test_a_job_is_shown_whole(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="add", queue="sums", priority="high")
    def add(a: int, b: int = 2) -> int:
        current_job.progress(3, 4, "adding")
        return a + b

    job = add.enqueue(1)
    delayq.drain()
    shown = data(client, f"/jobs/{job.id}")["job"]
    assert shown["state"] == "completed"
    assert (shown["queue"], shown["priority"], shown["attempt"]) == ("sums", "high", 1)
    assert (shown["arguments"], shown["result"], shown["error"]) == ({"a": 1}, 3, None)
    assert shown["run_at"] <= shown["started_at"] <= shown["finished_at"]
    text = page(client, f"/jobs/{job.id}").text
    assert "add" in text and "completed" in text and '"a": 1' in text


def test_a_failed_job_shows_its_traceback_and_can_be_retried(
    client: FlaskClient, delayq: DelayQ
) -> None:
    @delayq.task(name="divide")
    def divide(a: int) -> float:
        return 1 / a

    job = divide.enqueue(0)
    delayq.drain()
    text = page(client, f"/jobs/{job.id}").text
    assert "ZeroDivisionError" in text and "return 1 / a" in text and "Retry now" in text
    same = {"Sec-Fetch-Site": "same-origin"}
    found = client.post(f"/delayq/jobs/{job.id}/retry", headers=same)
    assert (found.status_code, found.headers["Location"]) == (303, f"/delayq/jobs/{job.id}")
    assert job.refresh().state == "ready"
    assert client.post(f"/delayq/jobs/{job.id}/retry", headers=same).status_code == 409
    found = client.post(f"/delayq/jobs/{job.id}/cancel", headers={**same, **JSON})
    assert found.json["job"]["state"] == "cancelled"
    assert "Retry now" in page(client, f"/jobs/{job.id}").text


def test_an_unknown_job_is_not_found(client: FlaskClient) -> None:
    assert data(client, "/jobs/nobody", 404)["error"]["type"] == "JobNotFoundError"
    assert "nobody" in page(client, "/jobs/nobody", 404).text


def in_another_millisecond(enqueue: Callable[[], str]) -> str:
    """Lists tell no more than milliseconds apart."""
    now = time.time_ns() // 1_000_000
    wait_until(lambda: time.time_ns() // 1_000_000 > now)
    return enqueue()


def test_jobs_are_filtered_and_paged_by_key(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="a", queue="x")
    def a() -> None: ...

    @delayq.task(name="b", queue="y")
    def b() -> None: ...

    ids = [job.id for _ in range(5) for job in (a.enqueue(), b.enqueue_in(60))]
    newest = ids[::-1]

    def listed(query: str) -> list[str]:
        return [job["id"] for job in data(client, f"/jobs?{query}")["jobs"]]

    assert listed("") == newest
    assert listed("state=ready") == listed("queue=x") == listed("task=a") == newest[1::2]
    assert listed("state=ready&state=scheduled") == newest
    assert listed("state=failed") == listed("queue=none") == []
    assert listed("queue=&task=&state=") == newest  # the form, with nothing filled in
    pages, path = [], "/jobs?queue=y&limit=2"
    while path:
        found = data(client, path)
        pages.append([job["id"] for job in found["jobs"]])
        path = (found["next"] or "").removeprefix("/delayq")
    assert pages == [newest[0:4:2], newest[4:8:2], newest[8:10:2]]
    chosen = in_another_millisecond(lambda: a.options(id="zzz").enqueue().id)
    last = in_another_millisecond(lambda: a.enqueue().id)
    assert listed("") == [last, chosen, *newest]  # whatever an id looks like
    assert listed(f"before={chosen}") == newest
    assert "Older jobs" in page(client, "/jobs?limit=9").text
    assert "Older jobs" not in page(client, "/jobs?limit=12").text


@pytest.mark.parametrize(
    "query, status",
    [
        ("limit=-1", 200),
        ("limit=0", 200),
        ("limit=999999999", 200),
        ("limit=1e18", 400),
        ("limit=text", 400),
        ("limit=" + "9" * 5000, 400),
        ("limit=\u0661", 400),
        ("limit=1&limit=2", 400),
        ("queue=a&queue=b", 400),
        ("queue=a'%20OR%201=1", 400),
        ("before=../x", 400),
        ("before=gone", 404),
        ("task=" + "x" * 129, 400),
        ("state=waiting", 400),
        ("state=ready&state=nothing", 400),
        ("queue=%00", 400),
    ],
)
def test_hostile_parameters(client: FlaskClient, delayq: DelayQ, query: str, status: int) -> None:
    @delayq.task(name="a")
    def a() -> None: ...

    a.enqueue_many([()] * 210)
    found = data(client, f"/jobs?{query}", status)
    if status == 200:
        assert len(found["jobs"]) == (200 if "999" in query else 1)


def test_damaged_and_forged_rows_are_shown_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    app, delayq = make_app(url=f"sqlite:///{tmp_path / 'store'}")
    app.debug = True

    @delayq.task(name="a")
    def a() -> None: ...

    job, other = a.enqueue(), a.enqueue()
    delayq.schedules.add("s", a, every=60)
    delayq.schedules.add("u", a, every=60)
    info = b'{"queues":5,"lateness_p50":"x","role":{},"workers":[],"busy":null,"python":1}'
    for number, row in enumerate((info, b"\xff", b"[]", b'{"queues":["a",5]}')):
        delayq.state.backend.announce(ProcessRecord(f"o{number}", 1, "h", 0.0, 1e18, row))
    delayq.state.backend.close()
    with closing(apsw.Connection(str(tmp_path / "store"))) as forging:
        forging.execute("UPDATE body SET progress = x'ff', error = x'ff', result = x'ff'")
        forging.execute(
            "UPDATE job SET state = 9, run_at = 9e999, priority = 77 WHERE id = ?", (other.id,)
        )
        forging.execute("UPDATE schedule SET next_due = 9e999, rule = '[' WHERE name = 'u'")
    client = app.test_client()
    for path in (*PAGES, f"/jobs/{job.id}", f"/jobs/{other.id}"):
        page(client, path)
        data(client, path)
    assert "the row has the state 9" in page(client, f"/jobs/{other.id}").text
    for path in (f"/jobs/{other.id}/cancel", f"/jobs/{other.id}/retry"):
        found = client.post(f"/delayq{path}", headers={"Sec-Fetch-Site": "same-origin"})
        assert found.status_code in (303, 409)
    for number in range(4):
        delayq.state.backend.withdraw(f"o{number}")
    delayq.state.close()


@pytest.mark.parametrize("state", "scheduled ready running stopping completed cancelled".split())
def test_the_page_of_a_job_offers_what_its_state_allows(
    client: FlaskClient, delayq: DelayQ, state: str
) -> None:
    task = delayq.task(name="t")(_nothing)
    job = task.enqueue_in(60) if state == "scheduled" else task.enqueue()
    if state in ("completed", "cancelled"):
        if state == "cancelled":
            job.cancel()
        delayq.drain()
    elif state in ("running", "stopping"):
        now = delayq.state.clock.now()
        assert delayq.state.backend.claim(None, now=now, limit=1, owner="o", lease=60.0)
        if state == "stopping":
            job.cancel()
    offered = re.findall(r"<button>(.*?)</button>", client.get(f"/delayq/jobs/{job.id}").text)
    wanted = {"running": ["Ask it to stop"], "cancelled": ["Retry now"], "stopping": [], "completed": []}
    assert offered == wanted.get(state, ["Cancel"])
    delayq.admin_access(lambda action: action == "read")
    assert "<button" not in client.get(f"/delayq/jobs/{job.id}").text


# --- queues and schedules --------------------------------------------------------------------------


def test_a_queue_is_paused_resumed_and_purged(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="a", queue="x")
    def a() -> None: ...

    a.enqueue()
    a.enqueue_in(60)
    same = {"Sec-Fetch-Site": "same-origin", **JSON}
    assert client.post("/delayq/queues/x/pause", headers=same).json["queue"]["paused"] is True
    assert delayq.drain() == []
    assert "paused" in page(client, "/queues").text
    assert client.post("/delayq/queues/x/resume", headers=same).json["queue"]["paused"] is False
    assert "Cancel all 2 waiting jobs" in page(client, "/queues").text
    found = client.post("/delayq/queues/x/purge", headers=same).json
    assert (found["purged"], found["more"]) == (2, False)
    assert delayq.counts()["cancelled"] == 2


@pytest.mark.parametrize("verb", ["pause", "resume", "purge"])
def test_a_queue_that_nobody_uses_is_not_found(client: FlaskClient, delayq: DelayQ, verb: str) -> None:
    delayq.task(name="a", queue="mail")(_nothing)
    same = {"Sec-Fetch-Site": "same-origin", **JSON}
    found = client.post(f"/delayq/queues/mial/{verb}", headers=same)
    assert found.status_code == 404
    assert found.json["error"]["message"] == (
        "no task, schedule, job or process uses a queue named 'mial'; did you mean 'mail'? "
        "(?force=1 does it nevertheless)"
    )
    assert delayq.state.backend.queues(now=0.0) == []
    assert client.post(f"/delayq/queues/mial/{verb}?force=1", headers=same).status_code == 200
    assert client.post(f"/delayq/queues/mail/{verb}", headers=same).status_code == 200


def test_a_filter_that_finds_nothing_says_what_was_perhaps_meant(
    client: FlaskClient, delayq: DelayQ
) -> None:
    delayq.task(name="app.send", queue="mail")(_nothing)

    def said(query: str) -> str:
        return page(client, f"/jobs{query}").text

    assert "No job matches." in said("")
    assert "No job matches." in said("?queue=mail&task=app.send")
    assert (
        "No job matches; no task, schedule, job or process uses a queue named 'mial'; "
        "did you mean 'mail'?"
    ) in said("?queue=mial")
    assert "no task named 'send' is registered; did you mean 'app.send'?" in said("?task=send")
    both = said("?task=xyz&queue=mial")
    assert "named 'xyz' is registered; no task, schedule, job" in both and "did you mean 'mail'?" in both
    assert "'app.send'? No task, schedule, job or process uses" in said("?task=send&queue=mial")
    html = client.get("/delayq/jobs").text
    assert '<option value="mail">' in html and '<option value="app.send">' in html


def test_a_schedule_is_paused_resumed_and_removed(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="a")
    def a() -> None: ...

    delayq.schedules.add("nightly", a, cron="0 3 * * *", timezone="Europe/Berlin")
    shown = data(client, "/schedules")["schedules"][0]
    assert shown["rule"] == "cron 0 3 * * * (Europe/Berlin)"
    assert shown["next_due"].endswith("Z")
    same = {"Sec-Fetch-Site": "same-origin", **JSON}
    assert (
        client.post("/delayq/schedules/nightly/pause", headers=same).json["schedule"]["paused"] is True
    )
    assert (
        client.post("/delayq/schedules/nightly/resume", headers=same).json["schedule"]["paused"] is False
    )
    assert client.post("/delayq/schedules/nightly/remove", headers=same).json == {"schedule": None}
    assert client.post("/delayq/schedules/nightly/remove", headers=same).status_code == 404


# --- processes, threads, health --------------------------------------------------------------------


def test_threads_show_what_runs_where_but_no_values(client: FlaskClient, delayq: DelayQ) -> None:
    begun, release = threading.Event(), threading.Event()

    @delayq.task(name="long_one")
    def long_one(text: str) -> None:
        hidden_local = text * 2
        begun.set()
        release.wait(20)
        assert hidden_local

    with running(delayq):
        enqueued = time.monotonic()
        try:
            job = long_one.enqueue("never-shown")
            assert begun.wait(5)
            found = data(client, "/threads")
            until_now = time.monotonic() - enqueued
            html = client.get("/delayq/threads").text
        finally:
            release.set()
        assert "never-shown" not in json.dumps(found) + html
        assert "hidden_local" not in json.dumps(found) + html
        first = found["threads"][0]
        assert first["role"] == "worker"
        assert (first["job"]["id"], first["job"]["task"], first["job"]["attempt"]) == (
            job.id,
            "long_one",
            1,
        )
        assert 0 <= first["job"]["running_for"] <= until_now + 0.1
        assert any(line.endswith("long_one") and "test_pages.py:" in line for line in first["stack"])
        assert not any(line.startswith("/") for line in first["stack"])
        roles = [thread["role"] for thread in found["threads"]]
        assert {"worker", "dispatcher", "recorder", "maintenance", "renewer", "this request"} <= set(
            roles
        )
        assert roles.count("worker") == delayq.state.settings.workers
        assert found["owner"] == delayq.state.supervisor.owner
        assert job.id in html and "long_one" in html


def test_threads_are_bounded_and_taken_once_a_second(
    client: FlaskClient, delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            ready.release()
            release.wait()

    ready, release = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(threads, "MOST", 5)
    started = [threading.Thread(target=deep, args=(100,)) for _ in range(8)]
    try:
        for thread in started:
            thread.start()
        for _ in started:
            ready.acquire()
        first = data(client, "/threads")
        assert len(first["threads"]) == 5
        assert first["left_out"] >= 4
        html = client.get("/delayq/threads").text
        assert f"{threads.DEPTH}+ calls" in html and "<details>" in html
        deepest = [thread for thread in first["threads"] if thread["deeper"]]
        assert all(len(thread["stack"]) == threads.DEPTH for thread in deepest)
        assert deepest
        assert data(client, "/threads") == first
    finally:
        release.set()
        for thread in started:
            thread.join()


def test_without_safe_frames_there_are_no_stacks(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_delayq.launch.frames.FREE_THREADED", True)
    found = data(client, "/threads")
    assert found["threads"]
    assert all(thread["stack"] == [] for thread in found["threads"])
    assert "cannot show stacks" in page(client, "/threads").text


def test_processes_name_this_one(client: FlaskClient, delayq: DelayQ) -> None:
    assert "No process runs jobs" in page(client, "/processes").text
    with running(delayq):
        found = wait_until(
            lambda: data(client, "/processes")["processes"], what="the process is announced"
        )
        assert [(one["this"], one["alive"], one["role"]) for one in found] == [(True, True, "start()")]
        assert found[0]["workers"] == delayq.state.settings.workers
        assert "this one" in page(client, "/processes").text


@pytest.mark.parametrize(
    "mode, scheme, serves, wanted, unwanted",
    [
        ("external", "sqlite", True, "flask delayq worker (in mode external the server runs", "start()"),
        (
            "auto",
            "sqlite",
            True,
            "this server starts running them at its first request",
            "start the server",
        ),
        ("auto", "memory", True, "this server starts running them at its first request", "ends with"),
        ("auto", "sqlite", False, "start the server or flask delayq worker", "first request"),
        ("auto", "memory", False, "this store ends with the process", "worker"),
        ("manual", "sqlite", True, "delayq.start() in the server (mode manual)", "start the server"),
    ],
)
def test_where_no_process_runs_jobs_the_page_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    scheme: str,
    serves: bool,
    wanted: str,
    unwanted: str,
) -> None:
    monkeypatch.setattr("flask_delayq.launch.serving", lambda: "werkzeug" if serves else None)
    url = "memory://" if scheme == "memory" else f"sqlite:///{tmp_path}/store"
    app, delayq = make_app(mode=mode, url=url)
    app.debug = True
    monkeypatch.setattr(delayq.state, "wants_to_start", lambda: False)
    job = delayq.task(name="t")(_nothing).enqueue()
    for path in ("/", "/processes", "/threads"):
        (cell,) = re.findall(r"No process runs jobs: .*", page(app.test_client(), path).text)
        assert wanted in cell and unwanted not in cell, path
    text = page(app.test_client(), f"/jobs/{job.id}").text
    assert "It waits because no process runs jobs" in text and wanted in text
    delayq.state.close()


def test_a_process_that_cannot_run_jobs_says_why(client: FlaskClient, delayq: DelayQ) -> None:
    delayq.state.decline("gevent has replaced the threads; run `flask delayq worker` beside it")
    assert (
        "No process runs jobs: this one cannot, since gevent has replaced the threads; "
        "run flask delayq worker beside it." in page(client, "/processes").text
    )


def test_a_waiting_job_tells_why_and_what_to_do(client: FlaskClient, delayq: DelayQ) -> None:
    now, backend = time.time(), delayq.state.backend
    backend.enqueue([NewJob("j", "a", "q", 1, now, now, b"{}")], now=now, timeout=1.0)

    def why() -> str:
        return re.sub(r"\s+", " ", page(client, "/jobs/j").text).partition("It waits because ")[2]

    def announce(**facts: Any) -> None:
        info = json.dumps(facts).encode()
        backend.announce(ProcessRecord("o", 1, "here", now, time.time(), info))

    assert why().startswith("no process runs jobs: ")
    announce(tasks={"b": "x"})
    assert why().startswith("no process knows this task: import its module where the app is made, or")
    announce(tasks={"a": "x"}, queues=["other"])
    assert "start flask delayq worker --queues q, or add the queue to DELAYQ_QUEUES." in why()
    delayq.pause("q")
    assert why().startswith("queue 'q' is paused: resume it with flask delayq resume q, or on")
    delayq.resume("q")
    announce(tasks={"a": "x"}, queues=["q"])
    assert why() == ""


def test_health_tells_people_with_access_why(
    client: FlaskClient, delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = data(client, "/health")["health"]
    assert (found["status"], found["store"]["url"], found["mode"]) == ("ok", "memory://", "manual")
    with running(delayq):
        supervisor = delayq.state.supervisor
        monkeypatch.setattr(supervisor, "troubles", lambda: ["dispatcher fails: of a test"])
        found = data(client, "/health", 503)["health"]
        assert (found["status"], found["reason"]) == ("failing", "dispatcher fails: of a test")
        assert "dispatcher fails" in page(client, "/health", 503).text
        far = client.get("/delayq/health", environ_overrides={"REMOTE_ADDR": "203.0.113.9"})
        assert (far.status_code, far.text) == (503, "failing\n")


def test_the_page_of_health_is_for_people(tmp_path: Path) -> None:
    app, delayq = make_app(url=f"sqlite:///{tmp_path}/a.sqlite3")
    app.debug = True
    delayq.task(name="t")(lambda: None).enqueue()
    text = page(app.test_client(), "/health").text
    assert "\u2713 Jobs can be stored" in text and "This process runs no jobs" in text
    assert re.search(r"Free on the disk[\s\d.,]+[kMGT]B", text)
    assert "_bytes" not in text and "Path" in text
    delayq.state.close()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (57_344, "57 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (79_811_108_864, "80 GB"),
        (5e15, "5,000 TB"),
    ],
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text


def test_health_notes_a_due_queue_that_nobody_serves_and_stays_well() -> None:
    clock = FakeClock()
    app, delayq = make_app(clock)
    app.debug = True
    client = app.test_client()

    @delayq.task(name="a")
    def a() -> None: ...

    a.enqueue()
    clock.advance(61)
    assert data(client, "/")["status"] == "failing"
    found = data(client, "/health", 200)["health"]
    assert (found["status"], found["notes"][-1]) == (
        "ok",
        "jobs have been due for 61 s and no process runs any: this store ends with the process; run "
        "them here with delayq.start() or DELAYQ_MODE=thread, or set DELAYQ_URL to a store that other "
        "processes share",
    )


def test_health_makes_no_store_and_waits_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "instance" / "store"
    app, delayq = make_app(FakeClock(), url=f"sqlite:///{path}")
    app.debug = True
    client = app.test_client()
    for headers in ({}, JSON, {"X-Forwarded-For": "203.0.113.9"}):
        assert client.get("/delayq/health", headers=headers).status_code == 200
    assert not path.exists() and not path.parent.exists()
    delayq.state.backend.pause("made by a write")
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        for headers in ({}, {"X-Forwarded-For": "203.0.113.9"}):
            assert client.get("/delayq/health", headers=headers).status_code == 200
        # A probe would have waited a whole second for each of them.
        assert quiet_seconds(begun) < 1.0
    delayq.state.close()


def _nothing() -> None: ...


def test_a_page_makes_no_store(tmp_path: Path) -> None:
    path = tmp_path / "instance" / "store"
    app, delayq = make_app(url=f"sqlite:///{path}")
    app.debug = True
    client = app.test_client()
    for where in PAGES:
        text = page(client, where).text
        assert ("no store yet" in text) is (where in ("/", "/health")), where
        assert client.get(f"/delayq{where}", headers=JSON).status_code == 200
    assert not path.parent.exists()
    other_app, other = make_app(url=f"sqlite:///{path}")
    with other_app.app_context():
        other.task(name="a")(_nothing).enqueue()
    assert data(client, "/")["counts"]["ready"] == 1
    assert "no store yet" not in page(client, "/").text
    other.state.close()
    delayq.state.close()


def test_a_store_that_is_away_is_said_on_the_page(
    client: FlaskClient, delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise BackendUnavailableError("the disk is full", reason="full")

    for verb in ("list", "get", "counts", "queues"):
        monkeypatch.setattr(delayq.state.backend, verb, away)
    found = client.get("/delayq/jobs", headers=JSON)
    assert (found.status_code, found.headers["Retry-After"]) == (503, "5")
    assert found.json["error"] == {"type": "BackendUnavailableError", "message": "the disk is full"}
    assert "the disk is full" in page(client, "/jobs/x", 503).text
    assert "the disk is full" in page(client, "/").text  # the overview still opens
    assert data(client, "/")["healthy"] is False


def test_where_the_store_lies_is_told_to_readers_alone(
    delayq: DelayQ, app_and_delayq: tuple[Flask, DelayQ], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, allowed = app_and_delayq[0], {"produce", "act"}
    delayq.admin_access(lambda action: action in allowed)

    @delayq.task(name="a", produce=True)
    def a() -> None: ...

    def away(*args: object, **kwargs: object) -> None:
        raise BackendUnavailableError("/srv/app/store is locked", reason="locked")

    for verb in ("enqueue", "get", "pause"):
        monkeypatch.setattr(delayq.state.backend, verb, away)
    client = app.test_client()
    same = {"Sec-Fetch-Site": "same-origin"}
    for told in (False, True):
        for accept in ("application/json", "text/html"):
            headers = {**same, "Accept": accept}
            for found in (
                client.post("/delayq/produce", json={"task": "a"}, headers=headers),
                client.post("/delayq/produce", data={"task": "a"}, headers=headers),
                client.post("/delayq/queues/default/pause", headers=headers),
            ):
                assert found.status_code == 503
                assert ("/srv/app" in found.text) is told
        allowed.add("read")


def test_a_wrong_setting_is_no_secret_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = make_app(workers="many", admin_token="a-token-of-some-length")
    app.debug = True
    client = app.test_client()
    found = client.get("/delayq/")
    assert found.status_code == 500
    assert "DELAYQ_WORKERS" not in found.text and "DELAYQ_WORKERS" in caplog.text
    assert found.headers["Cache-Control"] == "no-store"
    assert client.get("/delayq/health").status_code == 503


def test_the_overview_has_everything_at_a_glance(client: FlaskClient, delayq: DelayQ) -> None:
    @delayq.task(name="a", every=60)
    def a() -> None: ...

    a.enqueue()
    delayq.drain()
    a.enqueue_in(5)
    found = data(client, "/")
    assert found["healthy"] is True
    assert found["counts"] == delayq.counts()
    assert [queue["name"] for queue in found["queues"]] == ["default"]
    assert found["schedules"][0]["rule"] == "every minute"
    text = page(client, "/").text
    for word in ("scheduled", "completed", "default", "every minute", "No process runs jobs"):
        assert word in text


def test_a_suspect_tells_for_which_other_one_it_waits() -> None:
    clock = FakeClock()
    app, delayq = make_app(clock)
    app.debug = True
    delayq.task(name="work")(lambda: None)
    backend, work = delayq.state.backend, delayq.tasks.get("work")
    work.options(id="a-hung").enqueue()
    work.options(id="b-good").enqueue()

    def claim(owner: str) -> list[str]:
        return [one.id for one in backend.claim(None, now=clock.now(), limit=2, owner=owner, lease=60)]

    def why(job_id: str) -> Any:
        return data(app.test_client(), f"/jobs/{job_id}")["job"]["waits_because"]

    def start(owner: str) -> None:
        backend.announce(ProcessRecord(owner, 1, "here", clock.now(), clock.now(), b"{}"))

    for _ in range(2):
        assert claim("gone") == ["a-hung", "b-good"]
        clock.advance(60)
        assert len(backend.rescue(now=clock.now(), max_rescues=3)) == 2
    start("first")
    assert claim("first") == ["a-hung"]
    crashes = (
        "it is a suspect (its process crashed during its last runs), "
        "and every process is running one already: "
    )
    assert why("b-good") == f"{crashes}a-hung"
    assert why("a-hung") is None
    work.options(id="c-plain").enqueue()
    assert why("c-plain") is None
    start("second")
    assert why("b-good") is None, "the other process is free to take it"
    assert claim("second") == ["b-good", "c-plain"]
