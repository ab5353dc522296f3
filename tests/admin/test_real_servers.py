"""Who is let in by real servers: the development server, gunicorn and waitress, asked over real sockets.

It must not know the pages; the decision alone is tried in test_access.py.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from servers import HOST, Program, server

APP = """
from flask import Flask, g
from flask_delayq import DelayQ

app = Flask(__name__)
app.config["DELAYQ_URL"] = "memory://"
DelayQ(app)

broken = Flask("broken")
broken.config["DELAYQ_URL"] = "memory://"
DelayQ(broken).admin_access(lambda action: g.user.is_admin)
"""

COMMANDS = {
    "flask": [sys.executable, "-m", "flask", "--app", "page", "run", "--no-reload", "--port", "{port}"],
    "gunicorn": [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{{port}}", "page:app"],
    "waitress": [sys.executable, "-m", "waitress", "--listen", f"{HOST}:{{port}}", "page:app"],
}


@pytest.fixture(params=COMMANDS, scope="module")
def debugging(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Program]]:
    """A server whose app is in debug mode."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "page.py").write_text(APP)
    with server(COMMANDS[request.param], folder=folder, env={"FLASK_DEBUG": "1"}) as running:
        yield request.param, running


def ask(web: Program, path: str, version: int = 11, **headers: str) -> http.client.HTTPResponse:
    """The answer to a GET by HTTP/1.1, or another version."""
    with closing(http.client.HTTPConnection(HOST, web.port, timeout=20)) as connection:
        connection._http_vsn = version  # type: ignore[attr-defined]
        connection._http_vsn_str = f"HTTP/{version // 10}.{version % 10}"  # type: ignore[attr-defined]
        connection.request("GET", path, headers={n.replace("_", "-"): v for n, v in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer


def test_debug_mode_opens_the_development_server_alone(debugging: tuple[str, Program]) -> None:
    name, web = debugging
    assert ask(web, "/delayq/threads").status == (200 if name == "flask" else 403)
    # A proxy on this machine: nginx speaks HTTP/1.0, and waitress takes its headers away.
    assert ask(web, "/delayq/", 10, Host="127.0.0.1").status == 403
    assert ask(web, "/delayq/", X_Forwarded_For="203.0.113.9").status == 403


def test_debug_mode_opens_nothing_to_other_websites(debugging: tuple[str, Program]) -> None:
    name, web = debugging
    foreign = {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}
    for path in ("/delayq/jobs", "/delayq/threads", "/delayq/static/delayq.css"):
        assert ask(web, path, **foreign).status == 403
        own = ask(web, path, Origin=f"http://{HOST}:{web.port}")
        assert own.status == (200 if name == "flask" else 403)


def test_a_function_that_fails_makes_no_server_ill(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(APP)
    command = [*COMMANDS["gunicorn"][:-1], "page:broken"]
    with server(command, folder=tmp_path) as web:
        answer = ask(web, "/delayq/")
        assert (answer.status, answer.headers["X-Frame-Options"]) == (500, "DENY")
        for _ in range(5):
            assert ask(web, "/delayq/health").status == 200
        said = web.output()
        assert said.count("the admin_access function failed") == 1
        assert "Error handling request" not in said
