"""A run that its ending interpreter cut off is given back, not failed; every other error is the task's.

The real end of an interpreter is tried in `acceptance/test_stopping.py`.
"""

from __future__ import annotations

import pytest

from flask_delayq.retry import Retry
from flask_delayq.runtime.exits import cut_off_by_exit

REFUSALS = [
    "can't create new thread at interpreter shutdown",
    "can't fork at interpreter shutdown",
    "cannot schedule new futures after interpreter shutdown",
]


def raised(error: BaseException, *, within: BaseException | None = None) -> BaseException:
    """The error as it arrives when it was raised while another one was handled."""
    try:
        try:
            if within is not None:
                raise within
        finally:
            raise error
    except BaseException as caught:
        return caught


@pytest.fixture(params=["threads", "pools"])
def ending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interpreter refuses at its end: new threads, or work for pools of them."""
    if request.param == "pools":
        monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
        return

    def refuse(*_: object) -> None:
        raise RuntimeError(REFUSALS[0])

    monkeypatch.setattr("_thread.start_new_thread", refuse)


@pytest.mark.parametrize("message", REFUSALS)
@pytest.mark.usefixtures("ending")
def test_a_refusal_is_known_alone_and_behind_an_error_of_the_task(message: str) -> None:
    refusal = RuntimeError(message)
    assert cut_off_by_exit(refusal)
    assert cut_off_by_exit(raised(KeyError("pool"), within=refusal))
    assert cut_off_by_exit(raised(Retry(5), within=raised(ValueError(), within=refusal)))


@pytest.mark.usefixtures("ending")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(),
        RuntimeError(5),
        RuntimeError("can't start new thread"),  # there are too many
        RuntimeError("cannot schedule new futures after shutdown"),  # a pool that the task has closed
        ValueError(REFUSALS[0]),
    ],
)
def test_other_errors_are_the_tasks(error: BaseException) -> None:
    assert not cut_off_by_exit(error)


@pytest.mark.usefixtures("ending")
def test_a_chain_that_is_a_circle_has_an_end() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not cut_off_by_exit(one)


@pytest.mark.parametrize("message", REFUSALS)
def test_while_the_process_lives_a_task_may_fail_with_these_words(message: str) -> None:
    assert not cut_off_by_exit(RuntimeError(message))
