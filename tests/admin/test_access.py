"""Who gets in: the decision alone, over requests made by hand.

It must not know any page; the table of routes is in test_routes.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask import Request, abort, redirect
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder

from flask_delayq.admin.access import Access, is_local, is_same_origin, judge
from kit import make_app

TOKEN = "a-token-of-some-length"
OTHER = "ein-schlüssel-für-später"


def made(
    headers: dict[str, str] | None = None,
    remote: str | None = "127.0.0.1",
    host: str = "localhost:5000",
    **kwargs: Any,
) -> Request:
    environ = EnvironBuilder(headers=headers, **kwargs).get_environ()
    environ["HTTP_HOST"] = host
    environ.pop("REMOTE_ADDR", None)
    if remote is not None:
        environ["REMOTE_ADDR"] = remote
    return Request(environ)


def bearer(token: str) -> dict[str, str]:
    # What a client sends as UTF-8 arrives as latin-1 text.
    return {"Authorization": f"Bearer {token.encode().decode('latin-1')}"}


def decided(request: Request, **given: Any) -> Access:
    return judge(request, "read", **{"tokens": (), "function": None, "debug": False, **given})


def test_nothing_configured_is_closed() -> None:
    assert not decided(made()).allowed
    assert not decided(made(bearer(TOKEN))).allowed


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_each_token_opens_everything(token: str) -> None:
    request = made(bearer(token), remote="203.0.113.9")
    for action in ("read", "act", "produce"):
        assert judge(request, action, tokens=(TOKEN, OTHER), function=None, debug=False).via == "token"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xff\xfe\x00",
        f"Bearer {OTHER}",  # latin-1 on the wire, not the bytes of the token
    ],
)
def test_anything_else_is_no_token(header: str) -> None:
    request = made(remote="203.0.113.9")
    request.environ["HTTP_AUTHORIZATION"] = header
    assert not decided(request, tokens=(TOKEN, OTHER)).allowed


def test_a_wrong_token_closes_local_debugging_and_is_logged_without_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not decided(made(bearer("guessed-by-somebody")), tokens=(TOKEN,), debug=True).allowed
    assert "wrong admin token came from 127.0.0.1" in caplog.text
    assert "guessed" not in caplog.text


def test_the_function_decides_by_action() -> None:
    asked = []

    def function(action: str) -> bool:
        asked.append(action)
        return action == "read"

    for action, allowed in (("read", True), ("act", False), ("produce", False)):
        found = judge(made(), action, tokens=(), function=function, debug=True)
        assert found == Access(allowed, "function" if allowed else "")
    assert asked == ["read", "act", "produce"]


@pytest.mark.parametrize("answer", [1, "yes", object(), ("redirect", 302), None, 0])
def test_only_true_itself_opens(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    assert not decided(made(), function=lambda action: answer, debug=True).allowed
    assert "instead of True or False" in caplog.text


def test_a_token_goes_before_the_function() -> None:
    request = made(bearer(TOKEN))
    assert decided(request, tokens=(TOKEN,), function=lambda action: False).via == "token"


def test_a_foreign_bearer_token_is_left_to_the_function() -> None:
    request = made(bearer("somebody-elses-jwt"))
    assert decided(request, tokens=(TOKEN,), function=lambda action: True).via == "function"


def test_local_debugging_is_open_and_only_that() -> None:
    assert decided(made(), debug=True).via == "local"
    assert decided(made(), debug=True, tokens=(TOKEN,)).via == "local"
    assert not decided(made(), debug=False).allowed
    assert not decided(made(), debug=True, function=lambda action: False).allowed


@pytest.mark.parametrize("remote", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1:80", "[::1]", "[::1]:5000"])
def test_what_is_local(remote: str, host: str) -> None:
    assert is_local(made(remote=remote, host=host))


@pytest.mark.parametrize(
    "remote", [None, "", "10.0.0.1", "203.0.113.9", "::2", "::ffff:10.0.0.1", "localhost", "127.0.0.1\n"]
)
def test_a_peer_that_is_not_local(remote: str | None) -> None:
    assert not is_local(made(remote=remote))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.org",
        "localhost.example.org",
        "localhost.",
        "127.0.0.1.nip.io",
        "127.0.0.2",
        "localhost:",
        "localhost:5000\n",
        "localhost:123456",
        "evil@localhost",
        "::1",
    ],
)
def test_a_foreign_host_is_not_local(host: str) -> None:
    assert not is_local(made(host=host))


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-Forwarded-Proto",
        "X-Forwarded",
        "X-Real-IP",
        "Via",
        "True-Client-IP",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_a_trace_of_a_proxy_is_not_local(header: str, value: str) -> None:
    assert not is_local(made({header: value}))


@pytest.mark.parametrize(
    "headers, same",
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": ""}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:5000"}, False),
        ({"Origin": "http://localhost:5000"}, True),
        ({"Origin": "https://localhost:5000"}, False),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "http://localhost:5000.evil.org"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Referer": "http://localhost:5000/delayq/"}, False),
        ({}, False),
    ],
)
def test_same_origin(headers: dict[str, str], same: bool) -> None:
    assert is_same_origin(made(headers, method="POST")) is same


def test_a_decision_is_not_remembered_beyond_its_request() -> None:
    app, delayq = make_app()
    allowed = True
    delayq.admin_access(lambda action: allowed)
    client = app.test_client()
    with app.app_context():  # one context around both requests
        assert client.get("/delayq/").status_code == 200
        allowed = False
        assert client.get("/delayq/").status_code == 403


def test_behind_a_proxy_that_the_app_trusts_nobody_is_local() -> None:

    app, _ = make_app()
    app.debug = True
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1)  # type: ignore[method-assign]
    client = app.test_client()
    assert client.get("/delayq/").status_code == 200
    assert client.get("/delayq/", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 403


def test_a_function_that_aborts_or_redirects_is_obeyed() -> None:

    app, delayq = make_app()
    answer: Any = 401
    delayq.admin_access(lambda action: abort(answer))
    client = app.test_client()
    assert client.get("/delayq/").status_code == 401
    answer = redirect("/login")
    found = client.get("/delayq/")
    assert (found.status_code, found.headers["Location"]) == (302, "/login")
    assert found.headers["X-Frame-Options"] == "DENY"


def test_a_page_is_shown_to_those_whose_other_permissions_abort() -> None:

    app, delayq = make_app()

    def reader(action: str) -> bool:
        return action == "read" or abort(403)

    delayq.admin_access(reader)
    found = app.test_client().get("/delayq/")
    assert found.status_code == 200
    assert "Threads" not in found.text
