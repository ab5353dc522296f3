"""Which requests show that a process serves, and which are a test's or a script's own calls of the app.

Clients of other packages are tried in `acceptance/test_other_servers.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder

from extension.standing import Recorder, make_app
from flask_delayq.launch import request_origin
from flask_delayq.launch.process import Process


@pytest.fixture
def app() -> Flask:
    return make_app()


@pytest.fixture
def state(app: Flask) -> Recorder:
    recorder = Recorder()
    Process().arm(recorder, app)
    return recorder


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def call(app: Flask, **environ: str) -> None:
    """A call of the app with no client on the stack."""
    list(app(EnvironBuilder(environ_base=environ).get_environ(), lambda *_: lambda chunk: None))


def test_a_bare_call_of_the_app_starts_nothing(app: Flask, state: Recorder) -> None:
    call(app)
    with app.test_request_context("/"):
        app.full_dispatch_request()
    app.test_client().get("/")
    assert state.told == []


def test_a_server_that_names_itself_starts_the_jobs(app: Flask, state: Recorder) -> None:
    call(app, SERVER_SOFTWARE="unheard-of/0.1")
    assert state.told == ["first request"]


@pytest.mark.usefixtures("listener")
def test_a_server_that_does_not_is_known_by_its_socket(app: Flask, state: Recorder) -> None:
    app.test_client().get("/")
    assert state.told == []
    call(app)
    assert state.told == ["first request"]


def test_a_server_at_a_path_is_known_as_well(
    app: Flask, state: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        call(app)
        assert state.told == []
        listening.listen()
        call(app)
    assert state.told == ["first request"]


def test_other_sockets_are_no_server(app: Flask, state: Recorder, listener: socket.socket) -> None:
    address = listener.getsockname()
    with socket.create_connection(address), listener.accept()[0]:
        listener.close()
        one, other = socket.socketpair()
        with one, other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 0))
            call(app)
    assert state.told == []


def test_looking_at_a_socket_changes_nothing_about_it(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)  # gevent replaces it by one that changes modes
    before = set(os.listdir("/proc/self/fd"))
    was = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        assert request_origin.came_through_server({})
    finally:
        socket.setdefaulttimeout(was)
    assert set(os.listdir("/proc/self/fd")) == before
    assert os.get_blocking(listener.fileno())


def test_where_sockets_cannot_be_looked_at_every_request_counts(
    app: Flask, state: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_origin, "OPEN_FILES", "/nowhere")
    app.test_client().get("/")
    assert state.told == []
    call(app)
    assert state.told == ["first request"]


def test_a_file_that_took_the_number_of_a_socket_keeps_its_locks(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close any descriptor of a file drops the locks that its process holds on it."""
    copies: list[int] = []
    with open(tmp_path / "store", "wb") as store:

        def used_again(number: int) -> int:
            copies.append(copy(store.fileno()))
            return copies[-1]

        copy = os.dup
        monkeypatch.setattr(os, "dup", used_again)
        assert not request_origin._is_listening(listener.fileno())
        (left,) = copies
        os.close(left)  # which raises if it was closed
