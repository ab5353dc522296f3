"""Ids that never repeat and sort by creation, and the names that are allowed.

Must not know what the names name.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from flask_delayq import ids
from flask_delayq.errors import InvalidNameError
from flask_delayq.ids import check_name, new_id


def test_ids_sort_by_creation() -> None:
    made = [new_id() for _ in range(2000)]
    assert made == sorted(made)
    assert {len(one) for one in made} == {28}
    assert all(check_name("job id", one) == one for one in made)
    assert abs(int(made[0][:12], 16) / 1000 - time.time()) < 60


def test_ids_of_many_threads_are_all_different() -> None:
    made: list[list[str]] = [[] for _ in range(4)]

    def make(mine: list[str]) -> None:
        mine.extend(new_id() for _ in range(2500))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({one for mine in made for one in mine}) == 10_000


def test_ids_that_were_seen_tell_nothing_of_the_next_one() -> None:
    made = [new_id() for _ in range(2000)]
    assert len({one[18:] for one in made}) == 2000
    assert len({one[18:20] for one in made}) > 200, "all digits are random ones"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_go_on_with_the_ids_of_its_parent() -> None:
    reader, writer = os.pipe()
    new_id()  # there are digits for the next ids
    child = os.fork()
    if child == 0:
        os.write(writer, new_id().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    ours = new_id()
    assert len(theirs) == 28
    assert theirs[18:] != ours[18:]


def test_a_child_that_ran_no_fork_hook_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    new_id()
    tails = list(ids._tails)
    monkeypatch.setattr(ids, "_pid", -1)
    monkeypatch.setattr(ids, "_moment", (0, ""))  # a millisecond has passed
    assert new_id()[18:] not in tails
    assert not set(ids._tails) & set(tails)


@pytest.mark.parametrize("name", ["a", "9", "a.b-c_d:e", "A" * 128, "mail", "0" * 28])
def test_allowed_names(name: str) -> None:
    assert check_name("queue", name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "A" * 129, " a", "a ", "a b", "a\n", "\na", "a\0", ".a", "-a", "_a", ":a", "a/b", "a\\b"),
        *("ä", "a\u0301", "\uff19", "a\ud800", "a,b", "a'b", 'a"b', "a;b", "a%b", "<a>", "../a"),
        *(None, 5, True, b"a", ["a"], object(), 10**5000),
    ],
    ids=lambda name: ascii(name)[:20] if isinstance(name, str) else type(name).__name__,
)
def test_other_names_are_refused_in_few_words(name: Any) -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_name("queue", name)
    assert str(caught.value).startswith("queue ")
    assert caught.value.value is name
    assert len(str(caught.value)) < 250


def test_a_text_of_another_class_is_refused() -> None:
    class Text(str): ...

    with pytest.raises(InvalidNameError):
        check_name("queue", Text("mail"))
