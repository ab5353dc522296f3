"""Signals reach who listens, and what a listener does to itself stays with it.

Must not know when they are sent.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from flask_delayq import signals
from flask_delayq.signals import emit, job_completed


@pytest.fixture
def heard() -> list[Any]:
    return []


def test_receivers_get_the_sender_and_the_facts(heard: list[Any]) -> None:
    def receive(sender: object, **facts: object) -> None:
        heard.append((sender, facts))

    app = object()
    with job_completed.connected_to(receive):
        emit(job_completed, app, job="j", result=5)
    emit(job_completed, app, job="nobody listens")
    assert heard == [(app, {"job": "j", "result": 5})]


def test_a_receiver_may_listen_to_one_app_alone(heard: list[Any]) -> None:
    mine, other = object(), object()

    def receive(sender: object, **facts: object) -> None:
        heard.append(sender)

    with job_completed.connected_to(receive, sender=mine):
        emit(job_completed, other, job="j")
        emit(job_completed, mine, job="j")
    assert heard == [mine]


def test_a_receiver_that_raises_is_logged_and_the_others_hear_it(
    heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def bad(sender: object, **facts: object) -> None:
        raise ValueError("bad receiver")

    def good(sender: object, **facts: object) -> None:
        heard.append(facts)

    with job_completed.connected_to(bad), job_completed.connected_to(good):
        emit(job_completed, object(), job="j")
    assert len(heard) == 1
    (record,) = caplog.records
    first, *others = record.getMessage().split("\n")
    assert (record.levelno, first) == (logging.ERROR, "a receiver of job-completed failed")
    assert others[-1] == "  ValueError: bad receiver"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_receiver_is_not_swallowed(error: type[BaseException]) -> None:
    def receive(sender: object, **facts: object) -> None:
        raise error

    with job_completed.connected_to(receive), pytest.raises(error):
        emit(job_completed, object(), job="j")


def test_all_seven_signals_have_names_of_their_own() -> None:
    found = {name: getattr(signals, name) for name in dir(signals) if name.startswith("job_")}
    assert len(found) == 7
    assert all(signal.name == name.replace("_", "-") for name, signal in found.items())
    assert all(not signal.receivers for signal in found.values()), "a test left a receiver behind"
