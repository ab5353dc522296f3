"""The order of due jobs: levels, the turn of the oldest, queues in turn.
Must not know any backend."""

from __future__ import annotations

from flask_delayq.backends.base import TURN_OF_THE_OLDEST
from flask_delayq.backends.order import Row, Turns


def rows(name: str, count: int, *, start: float = 0.0) -> list[Row]:
    return [(start + i, f"{name}{i:02d}", "more") for i in range(count)]


def ids(chosen: list[Row]) -> list[str]:
    return [row[1] for row in chosen]


def test_nothing_due_gives_nothing() -> None:
    turns = Turns()
    assert turns.choose({}, 5, False) == []
    assert turns.choose({"a": ([], [], [])}, 5, False) == []
    assert turns.choose({"a": ([], [], []), "b": ([], [], [])}, 5, False) == []
    assert turns.choose({"a": (rows("h", 1), [], [])}, 0, False) == []


def test_one_level_is_taken_from_its_front() -> None:
    level = rows("n", 20)
    assert Turns().choose({"a": ([], level, [])}, 12, False) == level[:12]


def test_levels_go_in_order_whatever_the_age() -> None:
    due = {"a": (rows("h", 2, start=50), rows("n", 2, start=20), rows("l", 2))}
    assert ids(Turns().choose(due, 5, True)) == ["h00", "h01", "n00", "n01", "l00"]


def test_every_eighth_is_the_oldest_of_all_levels() -> None:
    due = {"a": (rows("h", 20, start=50), rows("n", 20, start=20), rows("l", 20))}
    chosen = ids(Turns().choose(due, 20, False))
    assert [i + 1 for i, name in enumerate(chosen) if name[0] != "h"] == [8, 16]
    assert [chosen[7], chosen[15]] == ["l00", "l01"]
    assert TURN_OF_THE_OLDEST == 8


def test_the_count_goes_on_from_call_to_call() -> None:
    turns = Turns()
    turns.choose({"a": ([], rows("x", 5), [])}, 5, False)
    turns.choose({"a": (rows("y", 1, start=9), [], rows("z", 1))}, 1, True)
    due = {"a": (rows("h", 3, start=50), [], rows("l", 3))}
    assert [ids(turns.choose(due, 1, False)) for _ in range(3)] == [["h00"], ["l00"], ["h00"]]


def test_jobs_handed_out_without_a_choice_count() -> None:
    turns = Turns()
    turns.served("a", 6)
    turns.served("a")
    due = {"a": (rows("h", 3, start=50), [], rows("l", 3)), "b": ([], rows("n", 1), [])}
    assert ids(turns.choose(due, 2, False)) == ["n00", "l00"]


def test_strict_has_no_turn_of_the_oldest() -> None:
    due = {"a": (rows("h", 9, start=50), [], rows("l", 9))}
    assert all(name[0] == "h" for name in ids(Turns().choose(due, 9, True)))


def test_queues_are_counted_apart() -> None:
    turns = Turns()
    turns.choose({"a": ([], rows("x", 7), [])}, 7, False)
    for queue, expected in (("b", "h00"), ("a", "l00")):
        due = {queue: (rows("h", 1, start=50), [], rows("l", 1))}
        assert ids(turns.choose(due, 1, False)) == [expected]


def test_queues_take_turns_one_job_each() -> None:
    due = {"b": ([], rows("b", 2), []), "a": ([], rows("a", 4), []), "c": (rows("c", 1), [], [])}
    chosen = ids(Turns().choose(due, 7, False))
    assert chosen == ["a00", "b00", "c00", "a01", "b01", "a02", "a03"]


def test_the_turn_goes_on_after_the_queue_served_last() -> None:
    turns = Turns()
    due = {name: ([], rows(name, 3), []) for name in ("a", "b", "c")}
    assert ids(turns.choose(due, 2, False)) == ["a00", "b00"]
    assert ids(turns.choose(due, 2, False)) == ["c00", "a00"]
    turns.choose({"c": due["c"]}, 1, False)
    assert ids(turns.choose(due, 1, False)) == ["a00"]


def test_a_queue_that_is_gone_leaves_its_turn_to_the_next() -> None:
    turns = Turns()
    turns.choose({"b": ([], rows("b", 1), [])}, 1, False)
    due = {name: ([], rows(name, 1), []) for name in ("a", "c")}
    assert ids(turns.choose(due, 2, False)) == ["c00", "a00"]


def test_equal_moments_are_ordered_by_id() -> None:
    turns = Turns()
    turns.choose({"a": ([], rows("x", 7), [])}, 7, False)
    due = {"a": ([(1.0, "b")], [(1.0, "c")], [(1.0, "a")])}
    assert ids(turns.choose(due, 1, False)) == ["a"]
