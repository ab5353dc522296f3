"""Who gets in: the decision alone, over requests made by hand.

It must not know any page; the table of routes is in test_routes.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask import Request, abort, redirect
from flask.testing import FlaskClient
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, TooManyRequests, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import RequestRedirect
from werkzeug.test import Client, EnvironBuilder

from flask_delayq.admin.access import Access, is_local, is_same_origin, judge
from flask_delayq.admin.token_throttle import BURST, PAUSE, WrongTokens
from flask_delayq.config import Settings
from flask_delayq.testing import FakeClock
from kit import make_app

TOKEN = "a-token-of-some-length"
OTHER = "ein-schlüssel-für-später"
DIGESTS = Settings.read({"DELAYQ_ADMIN_TOKEN": [TOKEN, OTHER]}, folder="/").admin_token


def made(
    headers: dict[str, str] | None = None,
    remote: str | None = "127.0.0.1",
    host: str = "localhost:5000",
    **kwargs: Any,
) -> Request:
    environ = EnvironBuilder(headers=headers, **kwargs).get_environ()
    environ["HTTP_HOST"] = host
    environ["werkzeug.socket"] = None  # as the development server passes its own
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
        assert judge(request, action, tokens=DIGESTS, function=None, debug=False).via == "token"


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
    assert not decided(request, tokens=DIGESTS).allowed


def test_a_wrong_token_closes_local_debugging_and_is_logged_without_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    access = decided(made(bearer("guessed-by-somebody")), tokens=DIGESTS, debug=True)
    assert not access.allowed and access.wrong_token
    app, _ = make_app(admin_token=TOKEN)
    app.debug = True
    found = app.test_client().get("/delayq/", headers=bearer("guessed-by-somebody"))
    assert found.status_code == 403
    assert "wrong admin token came from 127.0.0.1 for '/delayq/'" in caplog.text
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
    assert decided(request, tokens=DIGESTS, function=lambda action: False).via == "token"


def test_a_foreign_bearer_token_is_left_to_the_function() -> None:
    request = made(bearer("somebody-elses-jwt"))
    found = decided(request, tokens=DIGESTS, function=lambda action: True)
    assert found == Access(True, "function", wrong_token=True)
    found = decided(request, tokens=DIGESTS, function=lambda action: True, pause=1.0)
    assert found == Access(True, "function"), "it was not looked at"


def test_local_debugging_is_open_and_only_that() -> None:
    assert decided(made(), debug=True).via == "local"
    assert decided(made(), debug=True, tokens=DIGESTS).via == "local"
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


def test_an_international_name_is_the_same_origin_in_ascii() -> None:
    for host in ("xn--bcher-kva.example", "XN--BCHER-KVA.example"):
        request = made({"Origin": "http://xn--bcher-kva.example"}, host=host, method="POST")
        assert is_same_origin(request)


# --- local debugging, seen from other websites and through proxies ----------------------------------

SEEN = [
    ({}, True),
    ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
    ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, True),
    ({"Origin": "http://localhost:5000"}, True),
    ({"Origin": "http://localhost:5001"}, False),
    ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "null"}, False),
    ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "style"}, False),
    # A link that a person follows, and a frame in a foreign page.
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
]


@pytest.mark.parametrize("headers, allowed", SEEN)
def test_local_debugging_is_no_opening_for_other_websites(
    headers: dict[str, str], allowed: bool
) -> None:
    assert decided(made(headers), debug=True).allowed is allowed
    # With a proof of its own the origin does not matter: no browser sends these by itself.
    assert decided(made(headers), debug=True, function=lambda action: True).allowed


def test_a_form_of_another_website_is_no_followed_link() -> None:
    followed = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert not decided(made(followed, method="POST"), debug=True).allowed


def test_an_app_that_shares_all_its_answers_does_not_share_these() -> None:
    app, _ = make_app()
    app.debug = True

    @app.after_request
    def share(response: Any) -> Any:  # what flask-cors does
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["access-control-allow-credentials"] = "true"
        return response

    client = app.test_client()
    for path, status in (("/delayq/jobs", 200), ("/delayq/static/delayq.css", 200), ("/delayq/x", 404)):
        found = client.get(path, buffered=True)
        assert found.status_code == status
        assert not [name for name, _ in found.headers if name.lower().startswith("access-control")]
        assert found.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert client.get("/elsewhere").headers["Access-Control-Allow-Origin"] == "*"
    assert client.get("/delayq/jobs", headers={"Origin": "https://evil.example"}).status_code == 403


def test_local_debugging_is_for_the_development_server() -> None:
    app, _ = make_app()
    app.debug = True
    other_server = FlaskClient(app, app.response_class)
    assert other_server.get("/delayq/").status_code == 403
    assert app.test_client().get("/delayq/").status_code == 200
    old = app.test_client().get("/delayq/", environ_overrides={"SERVER_PROTOCOL": "HTTP/1.0"})
    assert old.status_code == 403


# --- functions ---------------------------------------------------------------------------------------


def broken(action: str) -> bool:
    return None.is_admin  # type: ignore[attr-defined,no-any-return]


def test_a_function_that_fails_is_an_error_of_this_request_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    app, delayq = make_app(clock, admin_token=TOKEN)
    delayq.admin_access(broken)
    client = app.test_client()
    for headers in ({}, {"Accept": "application/json"}):
        found = client.get("/delayq/", headers=headers)
        assert found.status_code == 500
        assert found.headers["Cache-Control"] == "no-store"
        assert "Traceback" not in found.text and "is_admin" not in found.text
    assert client.get("/delayq/", headers=bearer(TOKEN)).status_code == 200
    caplog.clear()
    for _ in range(3):
        found = client.get("/delayq/health")
        assert (found.status_code, found.text) == (200, "ok\n")
    assert [r.getMessage().partition("\n")[0] for r in caplog.records] == [
        "the admin_access function failed (1 times since this was said)"
    ]
    clock.advance(60)
    client.get("/delayq/health")
    assert "(3 times since" in caplog.text


def test_a_page_does_not_hang_on_a_function_that_fails_for_other_actions() -> None:
    app, delayq = make_app()
    delayq.admin_access(lambda action: action == "read" or broken(action))
    found = app.test_client().get("/delayq/")
    assert found.status_code == 200
    assert "Threads" not in found.text


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


def test_an_abort_of_the_function_is_answered_by_the_app() -> None:
    app, delayq = make_app()
    delayq.admin_access(lambda action: abort(404))
    client = app.test_client()
    other, same = make_app()
    same.admin_access(lambda action: abort(404))
    assert "DelayQ" not in other.test_client().get("/delayq/").text
    app.register_error_handler(404, lambda error: ("the app's own page", 404))
    found = client.get("/delayq/")
    assert (found.status_code, found.text) == (404, "the app's own page")
    assert found.text == client.get("/nowhere").text
    assert client.get("/delayq/", headers={"Accept": "application/json"}).json["error"]


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_an_abort_of_the_function_keeps_its_headers(accept: str) -> None:
    app, delayq = make_app()
    errors: list[HTTPException] = []

    @delayq.admin_access
    def may(action: str) -> bool:
        raise errors[0]

    def answered(error: HTTPException) -> Any:
        errors[:] = [error]
        found = app.test_client().get("/delayq/", headers={"Accept": accept})
        assert found.mimetype == ("application/json" if accept == "application/json" else "text/plain")
        assert found.headers["X-Frame-Options"] == "DENY"
        assert len(found.headers.getlist("Content-Type")) == 1
        return found

    ways = [WWWAuthenticate("basic", {"realm": "jobs"}), WWWAuthenticate("bearer")]
    found = answered(Unauthorized(www_authenticate=ways))
    assert (found.status_code, found.headers.getlist("WWW-Authenticate")) == (
        401,
        [str(one) for one in ways],
    )
    found = answered(TooManyRequests(retry_after=7))
    assert (found.status_code, found.headers["Retry-After"]) == (429, "7")


def test_a_redirect_that_the_function_raises_is_one() -> None:
    def may(action: str) -> bool:
        raise RequestRedirect("/login")

    app, delayq = make_app()
    delayq.admin_access(may)
    found = app.test_client().get("/delayq/")
    assert (found.status_code, found.headers["Location"]) == (308, "/login")
    assert found.headers["X-Frame-Options"] == "DENY"


def test_a_decision_for_one_app_is_none_for_another() -> None:
    open_app, first = make_app()
    first.admin_access(lambda action: True)
    closed, _ = make_app()

    def cascade(environ: Any, start: Any) -> Any:
        """As a dispatcher does that asks the second app when the first one has no such page."""
        list(open_app(environ, lambda *args: lambda data: None))
        return closed(environ, start)

    found = Client(cascade).get("/delayq/jobs/secret", headers={"Accept": "application/json"})
    assert found.status_code == 403


def test_a_page_is_shown_to_those_whose_other_permissions_abort() -> None:

    app, delayq = make_app()

    def reader(action: str) -> bool:
        return action == "read" or abort(403)

    delayq.admin_access(reader)
    found = app.test_client().get("/delayq/")
    assert found.status_code == 200
    assert "Threads" not in found.text


# --- wrong tokens ----------------------------------------------------------------------------------


def guess(client: FlaskClient, remote: str, token: str = "wrong", **headers: str) -> int:
    return client.get(
        "/delayq/jobs",
        headers={**bearer(token), **headers},
        environ_overrides={"REMOTE_ADDR": remote},
    ).status_code


def test_wrong_tokens_are_slowed_by_address_and_told_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    app, _ = make_app(clock, admin_token=TOKEN)
    client = app.test_client()
    found = [guess(client, "203.0.113.9") for _ in range(40)]
    assert found == [403] * BURST + [429] * (40 - BURST)
    refused = client.get(
        "/delayq/", headers=bearer(TOKEN), environ_overrides={"REMOTE_ADDR": "203.0.113.9"}
    )
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "6")
    assert refused.headers["Cache-Control"] == "no-store"
    # Others do not notice, and whoever sends no token is told what anybody is.
    assert guess(client, "203.0.113.10", TOKEN) == 200
    nobody = client.get("/delayq/", environ_overrides={"REMOTE_ADDR": "203.0.113.9"})
    assert nobody.status_code == 403
    clock.advance(PAUSE - 0.001)
    assert guess(client, "203.0.113.9", TOKEN) == 429
    clock.advance(0.001)
    assert guess(client, "203.0.113.9", TOKEN) == 200
    assert [guess(client, "203.0.113.9") for _ in range(2)] == [403, 429]
    assert len(caplog.records) == 1
    clock.advance(60)
    guess(client, "203.0.113.9")
    assert [record.getMessage() for record in caplog.records] == [
        "a wrong admin token came from 203.0.113.9 for '/delayq/jobs'",
        f"{BURST} wrong admin tokens came, the latest from 203.0.113.9 for '/delayq/jobs'",
    ]


def test_a_network_of_addresses_is_one_and_a_proxy_is_not() -> None:
    app, _ = make_app(FakeClock(), admin_token=TOKEN)
    client = app.test_client()
    assert [guess(client, f"2606:4700:1:2::{n:x}") for n in range(BURST + 1)][-2:] == [403, 429]
    assert guess(client, "2606:4700:1:3::1") == 403
    # Behind a proxy on this machine that the app was not told about.
    for _ in range(BURST + 5):
        guess(client, "127.0.0.1", **{"X-Forwarded-For": "203.0.113.9"})
    assert guess(client, "127.0.0.1", TOKEN, **{"X-Forwarded-For": "198.51.100.7"}) == 200
    forged = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9"}
    assert guess(client, "127.0.0.1", TOKEN, **forged) == 429
    # A peer that is no proxy cannot become somebody else by saying so.
    for n in range(BURST):
        guess(client, "8.8.8.8", **{"X-Forwarded-For": f"1.2.3.{n}"})
    assert guess(client, "8.8.8.8", **{"X-Forwarded-For": "9.9.9.9"}) == 429


def test_where_a_server_takes_both_kinds_of_addresses_each_is_one() -> None:
    app, _ = make_app(FakeClock(), admin_token=TOKEN)
    client = app.test_client()
    assert [guess(client, "::ffff:8.8.8.8") for _ in range(BURST + 1)][-2:] == [403, 429]
    assert guess(client, "::ffff:9.9.9.9", TOKEN) == 200
    assert guess(client, "8.8.8.8", TOKEN) == 429, "the same one, written otherwise"
    # A proxy on the same network is one as well, and a public peer is still none.
    through = {"X-Forwarded-For": "::ffff:192.0.2.1"}
    assert [guess(client, "::ffff:10.0.0.4", **through) for _ in range(BURST + 1)][-1] == 429
    assert guess(client, "::ffff:10.0.0.4", TOKEN, **{"X-Forwarded-For": "192.0.2.2"}) == 200
    assert guess(client, "::ffff:8.8.8.8", TOKEN, **through) == 429


@pytest.mark.parametrize(
    "hop, other",
    [
        ("203.0.113.9:50122", "198.51.100.7:40000"),
        ("[2001:db8:1:2::3]:50122", "[2001:db8:1:3::3]:50122"),
        ("[2001:db8:1:2::3]", "2001:db8:1:3::3"),
    ],
)
def test_a_proxy_that_writes_the_port_keeps_people_apart(hop: str, other: str) -> None:
    app, _ = make_app(FakeClock(), admin_token=TOKEN)
    client = app.test_client()
    for _ in range(BURST):
        assert guess(client, "10.0.0.4", **{"X-Forwarded-For": f"192.0.2.1, {hop}"}) == 403
    without_port = hop.strip("[]").partition("]")[0] if "[" in hop else hop.partition(":")[0]
    assert guess(client, "10.0.0.4", TOKEN, **{"X-Forwarded-For": without_port}) == 429
    assert guess(client, "10.0.0.4", TOKEN, **{"X-Forwarded-For": other}) == 200


def test_health_is_no_way_around_and_goes_on() -> None:
    app, _ = make_app(FakeClock(), admin_token=TOKEN)
    client = app.test_client()
    for _ in range(BURST + 3):
        found = client.get("/delayq/health", headers=bearer("wrong"))
        assert (found.status_code, found.text) == (200, "ok\n")
    assert client.get("/delayq/health", headers=bearer(TOKEN)).text == "ok\n"  # not looked at
    assert guess(client, "127.0.0.1", TOKEN) == 429


def test_tokens_of_somebody_else_are_no_guesses_where_the_function_opens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = {"REMOTE_ADDR": "203.0.113.9"}
    app, delayq = make_app(FakeClock(), admin_token=TOKEN)
    delayq.admin_access(lambda action: action == "read")
    client = app.test_client()
    assert {guess(client, "203.0.113.9", "a-jwt") for _ in range(BURST + 5)} == {200}
    assert guess(client, "203.0.113.9", TOKEN) == 200
    threads = client.get("/delayq/threads", headers=bearer(TOKEN), environ_overrides=peer)
    assert threads.status_code == 200, "the token is looked at"
    assert caplog.records == []


def test_guesses_are_slowed_also_where_the_function_opens(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    app, delayq = make_app(clock, admin_token=TOKEN)
    delayq.admin_access(lambda action: action == "produce")

    @delayq.task(name="internal")
    def internal() -> None: ...

    def sees_all(token: str) -> bool:
        found = app.test_client().get("/delayq/produce", headers=bearer(token))
        assert found.status_code == 200
        return "internal" in found.text

    assert sees_all(TOKEN)
    for number in range(BURST):
        assert not sees_all(f"guess-{number}")
    assert not sees_all(TOKEN), "is not looked at"
    clock.advance(PAUSE)
    assert sees_all(TOKEN)
    assert caplog.records == []


def test_what_is_remembered_of_wrong_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_delayq.admin.token_throttle.ADDRESSES", 3)
    found = WrongTokens()
    for n in range(100):
        found.wrong(f"192.0.2.{n}", "/", 0.0)
    assert len(found._full_until) == 3


def test_an_address_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    WrongTokens().wrong("1.2.3.4\x1b[2J\nCRITICAL forged", "/\u202e", 0.0)
    assert caplog.records[0].getMessage().isprintable()
