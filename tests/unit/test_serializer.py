"""JSON and back: equal values give equal bytes, and foreign texts never break a record.

Must not know what the bytes mean.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_delayq.errors import RuleError
from flask_delayq.job import Failure
from flask_delayq.recurrence import Cron, Every
from flask_delayq.serializer import (
    UNENCODABLE,
    decode,
    decode_failure,
    decode_object,
    decode_rule,
    encode,
    encode_failure,
    encode_rule,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        ({2: "b", 1: "a"}, {1: "a", 2: "b"}),
        (
            {uuid.UUID(int=2): {"x", "y"}, uuid.UUID(int=1): 1},
            {uuid.UUID(int=1): 1, uuid.UUID(int=2): {"y", "x"}},
        ),
        ({"a": {"d": 1, "c": 2}}, {"a": {"c": 2, "d": 1}}),
    ],
)
def test_equal_values_give_equal_bytes(one: Any, other: Any) -> None:
    assert encode(one) == encode(other)


def test_keys_that_are_no_text_are_written_as_text() -> None:
    assert encode({10: "a", 9: {"y", "x"}}) == b'{"10":"a","9":["x","y"]}'
    assert encode({1.5: {1, "a"}}) in (b'{"1.5":[1,"a"]}', b'{"1.5":["a",1]}')


@pytest.mark.parametrize(
    "value", [object(), "\ud800", {"\ud800": 1}, {(1,): 1}, {None: 1}, 10**5000, 1j, print], ids=range(8)
)
def test_what_json_cannot_carry_raises_one_of_the_known_errors(value: Any) -> None:
    with pytest.raises(UNENCODABLE):
        encode(value)


def test_what_contains_itself_raises_one_of_them_as_well() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UNENCODABLE):
        encode(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
)
def test_property_plain_data_comes_back(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize("data", [None, b"", b"null", b"[]", b"5", b'"a"'])
def test_what_is_no_object_is_an_empty_one(data: bytes | None) -> None:
    assert decode_object(data) == {}
    assert decode_object(b'{"a":1}') == {"a": 1}


@given(st.builds(Failure, *[st.text(st.characters(codec=None), max_size=8)] * 3))
def test_property_any_failure_can_be_written_and_read(failure: Failure) -> None:
    found = decode_failure(encode_failure(failure))
    assert found is not None
    if "".join((failure.type, failure.message, failure.traceback)).isprintable():
        assert found == failure
    assert [len(found.type), len(found.message)] == [len(failure.type), len(failure.message)]


@pytest.mark.parametrize("data", [b"{", b"null", b"[]", b"{}", b'{"type":5,"message":""}', b"\xff"])
def test_a_failure_that_cannot_be_read_says_so(data: bytes) -> None:
    found = decode_failure(data)
    assert found is not None and found.type == "Unreadable"
    assert decode_failure(None) is None and decode_failure(b"") is None


@pytest.mark.parametrize(
    "rule", [Every(0.5), Every(86400.0), Cron("0 3 * * *"), Cron("*/5 * * * * *", "Europe/Berlin")]
)
def test_a_rule_comes_back(rule: Every | Cron) -> None:
    assert decode_rule(encode_rule(rule)) == rule


@pytest.mark.parametrize(
    "text", ["", "{}", '{"type":"yearly"}', '{"type":"every"}', '{"type":"every","seconds":"5"}', "[]"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(RuleError):
        decode_rule(text)


def test_the_stored_form_of_rules_does_not_change_by_accident() -> None:
    """It decides whether a rule counts as changed after a deploy."""
    assert encode_rule(Every(60.0)) == '{"type":"every","seconds":60.0}'
    assert encode_rule(Cron("0 3 * * *")) == '{"type":"cron","line":"0 3 * * *","timezone":"UTC"}'
