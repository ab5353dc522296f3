"""Every route, who may use it and by which method: the table that a new route has to enter.

It must not know what the pages show.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask, Response, request
from werkzeug.exceptions import BadRequest
from werkzeug.test import TestResponse

from flask_delayq import DelayQ
from flask_delayq.admin.actions import PURGE_STEP
from flask_delayq.admin.replies import HEADERS
from flask_delayq.errors import BackendUnavailableError
from kit import make_app

TOKEN = "a-token-of-some-length"

# Path, method and what it needs. "everybody" gets a word, the rest needs the permission.
ROUTES = {
    ("/", "GET"): "read",
    ("/jobs", "GET"): "read",
    ("/jobs/<job_id>", "GET"): "read",
    ("/jobs/<job_id>/cancel", "POST"): "act",
    ("/jobs/<job_id>/retry", "POST"): "act",
    ("/queues", "GET"): "read",
    ("/queues/<name>/pause", "POST"): "act",
    ("/queues/<name>/resume", "POST"): "act",
    ("/queues/<name>/purge", "POST"): "act",
    ("/schedules", "GET"): "read",
    ("/schedules/<name>/pause", "POST"): "act",
    ("/schedules/<name>/resume", "POST"): "act",
    ("/schedules/<name>/remove", "POST"): "act",
    ("/processes", "GET"): "read",
    ("/metrics", "GET"): "read",
    ("/threads", "GET"): "act",
    ("/produce", "GET"): "produce",
    ("/produce", "POST"): "produce",
    ("/health", "GET"): "everybody",
    ("/static/<path:filename>", "GET"): "read",
    ("/<path:rest>", "any"): "read",
}

CALLERS: dict[str, frozenset[str]] = {
    "stranger": frozenset(),
    "stranger, locally": frozenset(),
    "stranger, wrong token": frozenset(),
    "reader": frozenset({"read"}),
    "actor": frozenset({"read", "act"}),
    "producer": frozenset({"read", "produce"}),
    "token": frozenset({"read", "act", "produce"}),
    "local debug": frozenset({"read", "act", "produce"}),
    "local debug, forwarded": frozenset(),
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def an_app(caller: str) -> tuple[Flask, DelayQ, dict[str, Any]]:
    """An app that knows one job and one schedule, and how this caller speaks to it."""
    app, delayq = make_app(admin_token=TOKEN)
    how: dict[str, Any] = {"headers": {}, "environ_overrides": {"REMOTE_ADDR": "203.0.113.9"}}
    if caller in ("reader", "actor", "producer"):
        delayq.admin_access(lambda action: action in CALLERS[caller])
    if caller == "token":
        how["headers"]["Authorization"] = f"Bearer {TOKEN}"
    if caller == "stranger, wrong token":
        how["headers"]["Authorization"] = f"Bearer {TOKEN}x"
    if "local" in caller:
        how["environ_overrides"]["REMOTE_ADDR"] = "127.0.0.1"
    app.debug = caller.startswith("local debug")
    if caller.endswith("forwarded"):
        how["headers"]["X-Forwarded-For"] = "127.0.0.1"

    @delayq.task(name="note", produce=True)
    def note() -> None: ...

    note.options(id="j1").enqueue_in(60)
    delayq.schedules.add("s1", note, every=60)
    return app, delayq, how


def address(path: str) -> str:
    real = {"<job_id>": "j1", "<path:filename>": "delayq.css", "<path:rest>": "no/such/page"}
    real["<name>"] = "s1" if "schedules" in path else "default"
    for name, value in real.items():
        path = path.replace(name, value)
    return f"/delayq{path}"


def ask(app: Flask, how: dict[str, Any], path: str, method: str, *, proof: bool = True) -> TestResponse:
    headers = {"Accept": "application/json", **how["headers"]}
    if proof:
        headers["Sec-Fetch-Site"] = "same-origin"
    json = {"task": "note"} if (path, method) == ("/produce", "POST") else None
    return app.test_client().open(
        address(path),
        method=method,
        json=json,
        headers=headers,
        environ_overrides=how["environ_overrides"],
        buffered=True,
    )


def snapshot(delayq: DelayQ) -> Any:
    backend = delayq.client.inspect
    jobs = [job.record for job in delayq.jobs()]
    return jobs, delayq.schedules.list(), backend.queues(now=0.0)


def test_the_table_is_complete() -> None:
    app, _, _ = an_app("stranger")
    found = set()
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("delayq."):
            path = rule.rule.removeprefix("/delayq") or "/"
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            if rule.endpoint == "delayq.nothing":
                path, methods = "/<path:rest>", {"any"}
            found |= {(path, method) for method in methods}
    assert found == set(ROUTES)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("path, method", [key for key in ROUTES if key[1] != "any"])
def test_who_may(path: str, method: str, caller: str) -> None:
    app, delayq, how = an_app(caller)
    before = snapshot(delayq)
    found = ask(app, how, path, method)
    needs = ROUTES[path, method]
    if needs == "everybody" or needs in CALLERS[caller]:
        usual = {"/jobs/<job_id>/retry": 409, "/produce": 200 if method == "GET" else 202}
        assert found.status_code == usual.get(path, 200)
    else:
        assert found.status_code == 403
        assert "@delayq.admin_access" in found.json["error"]["message"]  # how to open it
        assert snapshot(delayq) == before


@pytest.mark.parametrize("caller", [*CALLERS])
@pytest.mark.parametrize("path, method", [key for key in ROUTES if key[1] == "POST"])
def test_what_changes_something_needs_a_proof_or_the_token(path: str, method: str, caller: str) -> None:
    app, delayq, how = an_app(caller)
    before = snapshot(delayq)
    status = ask(app, how, path, method, proof=False).status_code
    if caller == "token":
        assert status in (200, 202, 409)
    else:
        assert status == 403
        assert snapshot(delayq) == before


@pytest.mark.parametrize("caller", ["stranger", "token", "local debug"])
@pytest.mark.parametrize("path", sorted({path for path, method in ROUTES}))
def test_other_methods_do_nothing(path: str, caller: str) -> None:
    app, delayq, how = an_app(caller)
    before = snapshot(delayq)
    for method in METHODS:
        wanted = "GET" if method == "HEAD" else method
        if (path, wanted) in ROUTES or method == "OPTIONS":
            continue
        status = ask(app, how, path, method).status_code
        if caller == "stranger" or (path == "/<path:rest>"):
            assert status == (403 if caller == "stranger" else 404), method
        else:
            assert status == 405, method
    assert snapshot(delayq) == before


@pytest.mark.parametrize("caller", ["stranger", "reader"])
def test_a_question_about_methods_is_behind_the_guard_too(caller: str) -> None:
    app, _, how = an_app(caller)
    status = ask(app, how, "/jobs", "OPTIONS").status_code
    assert status == (403 if caller == "stranger" else 200)


@pytest.mark.parametrize("caller", ["stranger", "token"])
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_safe_headers_on_every_answer(caller: str, accept: str) -> None:
    app, _, how = an_app(caller)
    for path, method in (*ROUTES, ("/jobs", "DELETE"), ("/jobs/none", "GET"), ("", "GET")):
        found = app.test_client().open(
            address(path),
            method="GET" if method == "any" else method,
            headers={**how["headers"], "Accept": accept, "Sec-Fetch-Site": "same-origin"},
            environ_overrides=how["environ_overrides"],
            buffered=True,
        )
        headers = found.headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self';")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


def test_the_safe_headers_stand_whatever_the_app_adds_to_all_its_answers() -> None:
    app, _, how = an_app("token")

    class Their(Response):
        theirs = True

    app.response_class = Their

    @app.after_request
    def harden(response: Response) -> Response:  # as flask-talisman does
        response.headers["Content-Security-Policy"] = "default-src 'self'; object-src 'none'"
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        response.headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
        response.headers["Cache-Control"] = "max-age=3600"
        response.headers["Strict-Transport-Security"] = "max-age=31556926"
        response.set_cookie("theirs", "x")
        return response

    client = app.test_client()
    for path in ("/", "/jobs", "/jobs/none", "/nothing", "/health", "/static/delayq.css"):
        for headers in (how["headers"], {}):
            found = client.get(f"/delayq{path}", headers=headers, buffered=True).headers
            assert found.getlist("Content-Security-Policy") == [HEADERS["Content-Security-Policy"]]
            assert {name: found[name] for name in HEADERS} == HEADERS
            assert found["Strict-Transport-Security"] and "theirs=x" in found["Set-Cookie"]
    assert client.get("/elsewhere").headers["X-Frame-Options"] == "SAMEORIGIN"


def test_errors_are_ours_whatever_the_app_answers_to_its_own() -> None:
    app, _, how = an_app("token")
    for code in (400, 404, 405, 411, 413, 415, 500):
        app.register_error_handler(code, lambda error: ("<h1>the app's own</h1>", error.code))
    client = app.test_client()
    headers = {**how["headers"], "Accept": "application/json"}
    found = [
        (400, client.get("/delayq/jobs?limit=x", headers=headers)),
        (404, client.get("/delayq/nothing", headers=headers)),
        (405, client.delete("/delayq/jobs", headers=headers)),
        (415, client.post("/delayq/produce", data="x", headers=headers)),
    ]
    for status, answer in found:
        assert answer.status_code == status
        assert answer.json["error"]["message"]
    assert "the app's own" not in client.get("/delayq/nothing", headers=how["headers"]).text
    assert "the app's own" in client.get("/nothing").text


def test_a_csrf_extension_says_which_line_is_missing() -> None:
    app, _, how = an_app("token")

    class CSRFError(BadRequest):
        "The name that Flask-WTF's error has."

        description = "The CSRF token is missing."

    @app.before_request
    def protect() -> None:
        if request.method == "POST":
            raise CSRFError()

    headers = {**how["headers"], "Accept": "application/json"}
    found = app.test_client().post("/delayq/queues/x/pause", headers=headers)
    assert found.status_code == 400
    assert 'csrf.exempt(app.blueprints["delayq"])' in found.json["error"]["message"]


def test_an_app_without_pages() -> None:
    app, delayq = make_app(pages=False)
    app.debug = True
    client = app.test_client()
    for path in ("", "/", "/jobs", "/health", "/static/delayq.css"):
        assert client.get(f"/delayq{path}").status_code == 404
    assert "delayq" not in app.blueprints
    assert delayq.counts()["ready"] == 0


def test_who_may_only_produce_gets_the_style_and_no_dead_links() -> None:
    app, delayq = make_app()
    delayq.admin_access(lambda action: action == "produce")

    @delayq.task(name="note", produce=True)
    def note() -> None: ...

    client = app.test_client()
    assert client.get("/delayq/static/delayq.css", buffered=True).status_code == 200
    seen = client.get("/delayq/produce")
    assert seen.status_code == 200
    for link in re.findall(r'(?:href|action)="([^"]+)"', seen.text):
        assert client.get(link, buffered=True).status_code == 200, link
    proof = {"Sec-Fetch-Site": "same-origin"}
    found = client.post("/delayq/produce", data={"task": "note"}, headers=proof)
    assert found.status_code == 303
    after = client.get(found.headers["Location"])
    assert after.status_code == 200
    job = delayq.jobs()[0]
    assert f"Stored as job {job.id}" in after.text
    found = client.post("/delayq/produce", json={"task": "note"}, headers=proof)
    assert found.status_code == 202 and "Location" not in found.headers
    for hostile in ("%3Cb%3E", "a%20b", "x" * 200, ""):
        assert "StoredState as" not in client.get(f"/delayq/produce?stored={hostile}").text


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/../../etc/passwd",
        "/jobs/..%2f..%2fetc%2fpasswd",
        "/jobs/%2e%2e",
        "/jobs/%00",
        "/jobs/" + "x" * 129,
        "/jobs/<script>",
        "/jobs/%F0%9F%92%A9",
        "/static/../access.py",
        "/static/..%2faccess.py",
        "/static/%2fetc%2fpasswd",
    ],
)
def test_hostile_paths_are_not_found(path: str) -> None:
    app, _, how = an_app("token")
    found = app.test_client().get(f"/delayq{path}", headers=how["headers"])
    assert found.status_code == 404
    assert b"root:" not in found.data
    assert "text/html" in found.content_type and b"<script" not in found.data


def test_hostile_names_in_actions_are_not_found() -> None:
    app, _, how = an_app("token")
    for path in ("/queues/%3Cb%3E/pause", "/schedules/a%20b/remove", "/jobs/a%0Ab/cancel"):
        assert app.test_client().post(f"/delayq{path}", headers=how["headers"]).status_code == 404


def test_strangers_learn_one_word_of_health() -> None:
    app, _, how = an_app("stranger")
    found = app.test_client().get("/delayq/health", environ_overrides=how["environ_overrides"])
    assert (found.status_code, found.text) == (200, "ok\n")
    found = ask(app, how, "/health", "GET")
    assert found.json == {"status": "ok"}


@pytest.mark.parametrize("host", ["localhost:5000", "www.example.org"])
def test_an_app_that_tells_its_hosts_apart_has_the_pages_on_all_of_them(host: str) -> None:
    app = Flask("hosts", host_matching=True, static_folder=None)
    app.config.update(DELAYQ_URL="memory://", DELAYQ_MODE="manual", DELAYQ_ADMIN_TOKEN=TOKEN)
    delayq = DelayQ(app)

    @delayq.task(name="note")
    def note() -> None: ...

    job = note.enqueue_in(60)
    client = app.test_client()
    base = {"base_url": f"http://{host}", "headers": {"Authorization": f"Bearer {TOKEN}"}}
    for path in ("", "/", "/jobs", f"/jobs/{job.id}", "/queues", "/health", "/metrics", "/produce"):
        found = client.get(f"/delayq{path}", **base)
        assert found.status_code == 200, path
        for link in re.findall(r'href="([^"]+)"', found.text):
            assert client.get(link, buffered=True, **base).status_code == 200, link
    found = client.post(f"/delayq/jobs/{job.id}/cancel", **base)
    assert (found.status_code, found.headers["Location"]) == (303, f"/delayq/jobs/{job.id}")
    assert client.get("/delayq/no/page", **base).status_code == 404
    assert client.delete("/delayq/jobs", **base).status_code == 405
    assert client.get("/delayq/jobs", base_url=f"http://{host}").status_code == 403


def test_a_prefix_of_ones_own_and_a_slash_too_many() -> None:
    app, _ = make_app(url_prefix="/ops/jobs")
    app.debug = True
    client = app.test_client()
    for path in ("/ops/jobs", "/ops/jobs/", "/ops/jobs/queues"):
        found = client.get(path)
        assert found.status_code == 200
        assert 'href="/ops/jobs/queues"' in found.text
    assert client.get("/ops/jobs/queues/").status_code == 200
    assert client.get("/delayq/").status_code == 404


# --- the log ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path, method in ROUTES if method == "POST"])
def test_every_change_leaves_a_line_in_the_log(path: str, caplog: pytest.LogCaptureFixture) -> None:
    app, delayq, how = an_app("token")
    if path.endswith("/retry"):
        delayq.jobs()[0].cancel()
    caplog.set_level("INFO", logger="flask_delayq.admin")
    assert ask(app, how, path, "POST").status_code in (200, 202)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "by token from" in line


def test_a_purge_that_meets_trouble_half_way_leaves_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, delayq, how = an_app("token")
    delayq.tasks.get("note").enqueue_many([()] * (PURGE_STEP + 5))
    purge, steps = delayq.state.backend.purge, []

    def in_trouble(*args: Any, **kwargs: Any) -> int:
        steps.append(1)
        if len(steps) == 2:
            raise BackendUnavailableError("away", reason="locked")
        return int(purge(*args, **kwargs))

    monkeypatch.setattr(delayq.state.backend, "purge", in_trouble)
    caplog.set_level("INFO", logger="flask_delayq.admin")
    assert ask(app, how, "/queues/<name>/purge", "POST").status_code == 503
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("purge_queue default, by token from ")
    assert line.endswith(f" ({PURGE_STEP} jobs, perhaps not all: BackendUnavailableError)")


@pytest.mark.parametrize("path", ["/jobs/<job_id>/cancel", "/queues/<name>/pause"])
def test_a_change_that_is_done_leaves_a_line_also_if_its_answer_fails(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, delayq, how = an_app("token")
    backend, done = delayq.state.backend, []

    def in_trouble(name: str) -> Any:
        verb = getattr(backend, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if done:
                raise BackendUnavailableError("away", reason="locked")
            return verb(*args, **kwargs)

        return call

    def noting(name: str) -> Any:
        verb = getattr(backend, name)
        return lambda *args, **kwargs: (verb(*args, **kwargs), done.append(name))[0]

    for name in ("get", "queues"):
        monkeypatch.setattr(backend, name, in_trouble(name))
    for name in ("cancel", "pause"):
        monkeypatch.setattr(backend, name, noting(name))
    caplog.set_level("INFO", logger="flask_delayq.admin")
    assert ask(app, how, path, "POST").status_code == 503
    (line,) = [record.getMessage() for record in caplog.records]
    assert done[0] in line and "by token from" in line
