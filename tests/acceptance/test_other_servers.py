"""Servers and clients that CI installs: when jobs begin, what a stop does to them, who starts none.

It must not know how a process decides. The tables of docs/deployment.md say what is found here. The
cases run side by side, each on a store of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import NamedTuple

import pytest

from acceptance.product import APP, UWSGI, Case, Event, Site, is_gone, side_by_side, words
from pace import quiet_seconds
from servers import program, server
from waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # the first test of the module waits for all its cases

AT_ONCE = 4

PROMPT = 2.0
"""Seconds from a server's readiness, or from its first request, in which waiting jobs begin."""

WINDOW = 0.6
"""Seconds in which something must not happen."""

DRAINS, CUTS = "drains", "cuts"
"""What a signal does to a job under way: it gets time to end, or it ends with the process."""


class Server(NamedTuple):
    """How a server is started, and what is said of it."""

    command: str
    """What follows after ``python``, or a whole command whose first word is a path or ``uwsgi``."""
    package: str
    """The module without which it cannot be tried."""
    term: str = DRAINS
    interrupt: str = DRAINS
    at_boot: bool = False
    """Whether jobs begin before any request."""
    children: int = 0
    """How many children of the first process serve; 0 if that one does."""
    source: str = APP
    prepare: Callable[[Path], None] = lambda folder: None


def meanwhile(happened: Callable[[], bool]) -> bool:
    """Whether something happens within the window."""
    until = time.monotonic() + WINDOW
    wait_until(lambda: happened() or time.monotonic() > until, WINDOW + 5)
    return happened()


def begun(site: Site) -> list[Event]:
    return site.notes("begin", "beat")


def trial(one: Server, number: Signals, folder: Path) -> None:
    """Start, watch when jobs begin and where, stop in the middle of a job."""
    site = Site(folder, one.source)
    one.prepare(folder)
    left = site.leave("quick", count=2)
    env = {**site.env, "PRODUCT_BEAT": "1"}
    with server(command_line(one, folder), folder=folder, env=env) as running:
        ready = time.monotonic()
        if not one.at_boot:
            assert not meanwhile(lambda: bool(begun(site)))
            running.get("/")
            ready = time.monotonic()
        site.ran(left)
        loaded = [event.at for event in site.notes("loaded")]
        first = min(site.runs()[job][0].began for job in left)
        assert quiet_seconds(max(ready, *loaded), first) < PROMPT
        # From here, not by a request: with several workers not all of them may have been asked.
        (job,) = site.leave("hold", "gate")
        run = site.begun(job)
        for event in begun(site):
            assert event.pid == running.pid if not one.children else event.parent == running.pid
        running.send(number)
        if (one.term if number is SIGTERM else one.interrupt) == DRAINS:
            assert not meanwhile(lambda: is_gone(run.pid)), "the job got no time to end"
            (folder / "gate").touch()
            wait_until(lambda: is_gone(run.pid), 10, "the process ends")
            assert site.runs()[job][0].ended is not None
            assert site.completed([job])[job].rescues == 0
        else:
            wait_until(lambda: is_gone(run.pid), 4, "the process ends at once")
            assert site.runs()[job][0].ended is None
        wait_until(running.has_ended, 10, "the server ends")
    site.check_beats(most_missed=10)  # that none ran twice is the question here


def command_line(one: Server, folder: Path) -> list[str]:
    command = one.command.replace("{folder}", str(folder))
    return command.split() if command.startswith("/") else words(command)


# --- servers -----------------------------------------------------------------------------------------

ASGI = APP + "from a2wsgi import WSGIMiddleware\nasgi = WSGIMiddleware(app)\n"
FASTAPI = ASGI + "from fastapi import FastAPI\nasgi, inner = FastAPI(), asgi\nasgi.mount('/', inner)\n"
MAIN = "\nimport os\nif __name__ == '__main__':\n    port = int(os.environ['PORT'])\n    "
TORNADO = APP + (
    MAIN + "from tornado import httpserver, ioloop, wsgi\n"
    "    httpserver.HTTPServer(wsgi.WSGIContainer(app)).listen(port, '127.0.0.1')\n"
    "    ioloop.IOLoop.current().start()\n"
)
WSGIREF = APP + (
    MAIN + "from wsgiref.simple_server import make_server\n"
    "    make_server('127.0.0.1', port, app).serve_forever()\n"
)
GEVENT = APP + MAIN + "from gevent.pywsgi import WSGIServer\n    WSGIServer(('127.0.0.1', port), app)."
UVICORN = "-m uvicorn --port {port} --log-level warning app:asgi"
HYPERCORN = "-m hypercorn -b 127.0.0.1:{port} app:app"
GRANIAN = "-m granian --interface wsgi --port {port} app:app"
APACHE = shutil.which("apache2", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
OLD_UWSGI = Path(sys.prefix, "old-uwsgi", "bin", "uwsgi")


def apache(group: str) -> Callable[[Path], None]:
    """Write the configuration of a site in daemon mode.

    :param group: the application group: the interpreter that the app lives in.
    """

    def prepare(folder: Path) -> None:
        package = find_spec("mod_wsgi")
        assert package is not None
        (module,) = Path(str(package.origin)).parent.glob("server/mod_wsgi-py*.so")
        where = f"process-group=site application-group={group}"
        (folder / "httpd.conf").write_text(f"""
ServerName localhost
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
Listen 127.0.0.1:${{PORT}}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module {module}
WSGIPythonHome {sys.prefix}
WSGISocketPrefix {folder}/wsgi
WSGIDaemonProcess site processes=2 threads=5 home={folder}
WSGIScriptAlias / {folder}/app.wsgi {where}
WSGIImportScript {folder}/app.wsgi {where}
<Directory {folder}>
    Require all granted
</Directory>
""")
        (folder / "app.wsgi").write_text("from app import app as application\n")

    return prepare


# Apache refuses to serve as root, and another user could not read the checkout: so root gets the number
# of another user in a namespace of its own.
AS_ANOTHER = f"{shutil.which('unshare')} --user --map-user=33 --map-group=33 " if not os.getuid() else ""
APACHE_CALL = f"{AS_ANOTHER}{APACHE} -f {{folder}}/httpd.conf -DFOREGROUND"

SERVERS = {
    "uvicorn": Server(UVICORN, "uvicorn", CUTS, source=ASGI),
    "uvicorn, workers": Server(UVICORN + " --workers 2", "uvicorn", CUTS, CUTS, children=2, source=ASGI),
    "uvicorn, FastAPI": Server(UVICORN, "fastapi", CUTS, source=FASTAPI),
    "gunicorn, uvicorn": Server(
        "-m gunicorn -b 127.0.0.1:{port} -k uvicorn_worker.UvicornWorker app:asgi",
        "uvicorn_worker",
        CUTS,
        "",  # it does not end, with or without us: gunicorn kills it after --graceful-timeout
        at_boot=True,
        children=1,
        source=ASGI,
    ),
    "hypercorn": Server(HYPERCORN + " -w 0", "hypercorn"),
    "hypercorn, workers": Server(HYPERCORN + " -w 2", "hypercorn", CUTS, CUTS, children=2),
    "granian": Server(GRANIAN, "granian", children=1),
    "twisted": Server(
        "-m twisted web --wsgi app.app --listen tcp:{port}:interface=127.0.0.1", "twisted", CUTS, CUTS
    ),
    "tornado": Server("app.py", "tornado", CUTS, source=TORNADO),
    "cheroot": Server("-m cheroot --bind 127.0.0.1:{port} app:app", "cheroot", CUTS, at_boot=True),
    "gevent": Server("app.py", "gevent", CUTS, at_boot=True, source=GEVENT + "serve_forever()\n"),
    "wsgiref": Server("app.py", "wsgiref", CUTS, source=WSGIREF),
    "mod_wsgi": Server(
        APACHE_CALL, "mod_wsgi", interrupt="", at_boot=True, children=2, prepare=apache("%{GLOBAL}")
    ),
}


# --- clients of the app in one process -----------------------------------------------------------------

LAMBDA = """
event = {
    "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "", "headers": {},
    "requestContext": {
        "http": {"method": "GET", "path": "/", "sourceIp": "1.2.3.4", "protocol": "HTTP/1.1"}
    },
    "isBase64Encoded": False,
}
assert make_lambda_handler(app)(event, None)["statusCode"] == 200
"""
OVER_ASGI = """
import asyncio, httpx
async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://x") as client:
        return await client.get("/")
assert asyncio.run(ask()).status_code == 200
"""
INTERCEPT = """
import urllib.request
from wsgi_intercept import urllib_intercept, add_wsgi_intercept
urllib_intercept.install_opener()
add_wsgi_intercept("some.host", 80, lambda: app)
assert urllib.request.urlopen("http://some.host/").status == 200
"""

CLIENTS = {
    "Starlette's, a2wsgi": (
        "from a2wsgi import WSGIMiddleware\nfrom starlette.testclient import TestClient\n"
        "assert TestClient(WSGIMiddleware(app)).get('/').status_code == 200\n",
        "a2wsgi starlette",
    ),
    "Starlette's, FastAPI": (
        "from a2wsgi import WSGIMiddleware\nfrom fastapi import FastAPI\n"
        "from fastapi.testclient import TestClient\nouter = FastAPI()\n"
        "outer.mount('/', WSGIMiddleware(app))\nassert TestClient(outer).get('/').status_code == 200\n",
        "a2wsgi fastapi",
    ),
    "httpx, asgiref": (
        "from asgiref.wsgi import WsgiToAsgi\nasgi = WsgiToAsgi(app)\n" + OVER_ASGI,
        "asgiref httpx",
    ),
    "httpx": (
        "import httpx\n"
        "with httpx.Client(transport=httpx.WSGITransport(app), base_url='http://x') as client:\n"
        "    assert client.get('/').status_code == 200\n",
        "httpx",
    ),
    "wsgi-intercept": (INTERCEPT, "wsgi_intercept"),
    "apig-wsgi": ("from apig_wsgi import make_lambda_handler\n" + LAMBDA, "apig_wsgi"),
}


def client(code: str, folder: Path) -> None:
    """A script that calls the app by this code, and stays a while: nothing runs in it."""
    site = Site(
        folder, APP + "import product_app\n" + code + "product_app.threading.Event().wait(0.7)\n"
    )
    left = site.leave("quick", count=2)
    with program(words("app.py"), folder=folder, env={**site.env, "PRODUCT_BEAT": "1"}) as running:
        assert running.wait(30) == 0, running.output()
    assert site.notes("loaded")
    assert begun(site) == []
    assert set(site.rows()) == set(left)


# --- single cases --------------------------------------------------------------------------------------


def old_uwsgi(folder: Path) -> None:
    """uWSGI before 2.0.27 without --enable-threads: its threads stand still between requests."""
    site = Site(folder)
    left = site.leave("quick", count=2)
    command = f"{OLD_UWSGI} --http-socket 127.0.0.1:{{port}} --virtualenv {sys.prefix} --module app:app"
    with server([*command.split(), "--master", "-p", "2"], folder=folder, env=site.env) as running:
        wait_until(lambda: "start it with --enable-threads" in running.output(), 10, "a word on why not")
        running.get("/")
        assert not meanwhile(lambda: bool(begun(site)))
    assert set(site.rows()) == set(left)


def green_uwsgi(folder: Path) -> None:
    site = Site(folder)
    command = f"uwsgi --http-socket 127.0.0.1:{{port}} --virtualenv {sys.prefix} --module app:app"
    green = [*words(command), "--master", "-p", "2", "--gevent", "10", "--gevent-monkey-patch"]
    with server(green, folder=folder, env=site.env) as running:
        wait_until(lambda: "gevent has replaced" in running.output(), 10, "a word on why not")
        running.get("/")
        assert not meanwhile(lambda: bool(begun(site)))
        assert "Traceback" not in running.output()
        assert "Exception ignored" not in running.output()


def sub_interpreter(folder: Path) -> None:
    """Apache's default: it runs, and says what to set."""
    site = Site(folder)
    apache("%{RESOURCE}")(folder)
    call = APACHE_CALL.replace("{folder}", str(folder)).split()
    with server(call, folder=folder, env=site.env) as running:
        running.get("/")
        (job,) = site.leave("quick")
        site.ran([job])
        log = folder / "error.log"
        wait_until(lambda: "WSGIApplicationGroup %{GLOBAL}" in log.read_text(), 10, "a warning")


def process_one(command: str, folder: Path) -> None:
    """In a container its server is process 1, which SIGTERM does not end."""
    site = Site(folder)
    alone = [str(shutil.which("unshare")), "--pid", "--fork"]
    with server([*alone, *words(command)], folder=folder, env=site.env) as running:
        (job,) = site.leave("hold", "gate")
        site.begun(job)
        assert "has no SIGTERM handler" in running.output()
        (inside,) = children_of(running.pid)
        os.kill(inside, SIGTERM)
        assert not meanwhile(lambda: is_gone(inside))
        assert int(running.get("/")) == 1
        os.kill(inside, SIGINT)
        assert not meanwhile(lambda: is_gone(inside)), "the job got no time to end"
        (folder / "gate").touch()
        wait_until(running.has_ended, 10, "the server ends")
        assert site.completed([job])[job].rescues == 0


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def cases() -> Iterator[tuple[str, Case, str]]:
    """Name, case and the packages that it needs."""
    for name, one in SERVERS.items():
        for number in (SIGTERM, SIGINT):
            if number is SIGTERM or one.interrupt:
                yield f"{name}, {number.name}", partial(trial, one, number), needs(one)
    for name, (code, packages) in CLIENTS.items():
        yield f"client: {name}", partial(client, code), packages
    yield "old uWSGI without threads", old_uwsgi, str(OLD_UWSGI)
    yield "uWSGI, gevent, patched", green_uwsgi, "uwsgi gevent"
    yield "mod_wsgi, sub-interpreter", sub_interpreter, "apache2 mod_wsgi"
    for name, command in PROCESS_ONE.items():
        yield f"process 1: {name}", partial(process_one, command), "root"


def needs(one: Server) -> str:
    asgi = " a2wsgi" if "a2wsgi" in one.source else ""
    return f"apache2 {one.package}" if one.package == "mod_wsgi" else one.package + asgi


PROCESS_ONE = {
    "flask run": "-m flask run --port {port}",
    "waitress": "-m waitress --listen=127.0.0.1:{port} app:app",
}
CASES = {name: (case, packages) for name, case, packages in cases()}


def unable(name: str) -> str | None:
    """Why a case cannot be tried on this machine."""
    for package in CASES[name][1].split():
        if package == "root":
            if os.getuid() or sys.platform != "linux":
                return "only root on Linux can be process 1 of something"
        elif package == "apache2" or package.startswith("/"):
            if shutil.which(package, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") is None:
                return f"needs {package}"
        elif package == "uwsgi":
            if UWSGI is None:
                return "needs uWSGI, which is compiled from source"
        elif find_spec(package) is None:
            return f"needs {package}"
    return None


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    able = {name: case for name, (case, _) in CASES.items() if unable(name) is None}
    yield side_by_side(request, tmp_path_factory, able, AT_ONCE)


@pytest.mark.parametrize("name", CASES)
def test_servers_and_clients_are_as_the_page_says(name: str, trials: dict[str, Future[None]]) -> None:
    if (reason := unable(name)) is not None:
        pytest.skip(reason)
    trials[name].result()
