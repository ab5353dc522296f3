"""Arguments arrive as they left, or the caller hears which one does not; and calls bind like calls.

Must not know jobs or queues.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import inspect
import math
import re
import typing
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import flask
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_delayq.arguments import Arguments
from flask_delayq.errors import ArgumentError, ConfigurationError

UTC = dt.timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
NAN = float("nan")


class Color(str, enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


class Shape(enum.Enum):
    DOT = 1
    LINE = 2


class Mixed(enum.Enum):
    DOT = "dot"
    LINE = 2


class Text(str):
    pass


class Number(int):
    pass


class Box(dict):  # type: ignore[type-arg]
    pass


class Row(list):  # type: ignore[type-arg]
    pass


class Point(typing.NamedTuple):
    x: int
    label: str = ""


class Options(typing.TypedDict):
    depth: int


class Loose(typing.TypedDict, total=False):
    depth: int
    extra: Any


class Tree(msgspec.Struct):
    value: int
    left: Tree | None = None


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    bones: int


class Stamped(msgspec.Struct, frozen=True):
    at: dt.datetime


@dataclasses.dataclass
class Item:
    price: float | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    extra: Any = None


@dataclasses.dataclass
class Discounted(Item):
    pass


@dataclasses.dataclass(eq=False)
class Anonymous:
    price: float | None = None


@dataclasses.dataclass(eq=False)
class MoreAnonymous(Anonymous):
    pass


@dataclasses.dataclass(frozen=True)
class Frozen:
    when: dt.date
    _note: str = ""


@dataclasses.dataclass
class Order:
    items: list[Item]
    buyer: Anonymous


@dataclasses.dataclass(eq=False)
class Shelf:
    place: Anonymous


@dataclasses.dataclass
class Fussy:
    size: int

    def __post_init__(self) -> None:
        if self.size == 13:
            raise KeyError("no thirteenth")
        if self.size == 14:
            raise ValueError("no fourteenth")


@dataclasses.dataclass
class Quarrelsome:
    size: int

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")


def taking(
    annotation: Any = inspect.Parameter.empty, default: Any = inspect.Parameter.empty
) -> Arguments:
    """The arguments of a task of one parameter `x`."""
    if default is inspect.Parameter.empty:

        def function(x): ...  # type: ignore[no-untyped-def]

    else:

        def function(x=default): ...  # type: ignore[no-untyped-def]

    if annotation is not inspect.Parameter.empty:
        function.__annotations__["x"] = annotation
    return Arguments(function, "shop.pay")


UNTYPED = inspect.Parameter.empty


def through(annotation: Any, value: Any) -> Any:
    """The value as it arrives; both ways of getting it must agree."""
    arguments = taking(annotation)
    payload, arrived = arguments.encode((value,), {})
    again = arguments.decode(payload)
    assert same(arrived.x, again.x) or annotation is Quarrelsome
    return arrived.x


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        twins = {key: key for key in b}
        return len(a) == len(b) and all(
            key in b and type(twins[key]) is type(key) and same(a[key], b[key]) for key in a
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        twins = {part: part for part in b}
        return a == b and all(type(twins[part]) is type(part) for part in a)
    if dataclasses.is_dataclass(a):
        return all(
            same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
        )
    if isinstance(a, msgspec.Struct):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, dt.datetime):
        return a.utcoffset() == b.utcoffset() and a.replace(tzinfo=None) == b.replace(tzinfo=None)
    return str(a) == str(b) if isinstance(a, Decimal) else bool(a == b)


def names(table: list[Any]) -> list[str]:
    """Test ids; values cannot be shown, some of them by design."""
    return [f"{number}-{row[0]}" for number, row in enumerate(table)]


# --- what arrives as it left --------------------------------------------------------------------

ARRIVES: list[tuple[Any, Any]] = [
    *((UNTYPED, value) for value in (None, True, False, 0, 1, -1, "", "ä", "\0", "\u2028", [], {})),
    *((UNTYPED, value) for value in (2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400)),
    *((UNTYPED, value) for value in (0.0, -0.0, 1.0, 1e308, 5e-324, 0.1, 1e22)),
    (UNTYPED, {"a": [1, {"b": None}], "": [[]]}),
    (Any, {"a": [True, 1.0, "x"]}),
    (object, [1, "a"]),
    (typing.Optional[Any], {"a": 1}),  # noqa: UP045
    (dict, {"a": {"b": 1}}),
    (list, [1, [2]]),
    (tuple, (1, "a")),
    (set, {1, "a"}),
    (int, 10**400),
    (float, -0.0),
    (bytes, bytes(range(256))),
    (bytearray, bytearray(b"a")),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("NaN")),
    (Decimal, Decimal("sNaN1")),
    (Decimal, Decimal("-Infinity")),
    (Decimal, Decimal("1E+400")),
    (list[Decimal], [Decimal("NaN")]),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 678901)),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
    (dt.datetime, dt.datetime.min),
    (dt.datetime, dt.datetime.max.replace(tzinfo=UTC)),
    (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-11, minutes=-30)))),
    (dt.datetime, dt.datetime(2026, 7, 1, tzinfo=BERLIN)),
    (dt.datetime, dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN)),  # the repeated hour, both turns
    (dt.datetime, dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN)),
    (dt.datetime, dt.datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN)),  # never on a clock
    (dt.date, dt.date.min),
    (dt.time, dt.time(23, 59, 59, 999999)),
    (dt.time, dt.time(1, tzinfo=UTC)),
    (dt.timedelta, dt.timedelta.max),
    (dt.timedelta, dt.timedelta.min),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    (uuid.UUID, uuid.UUID(int=5)),
    (Color, Color.RED),
    (Level, Level.HIGH),
    (Right, Right.READ | Right.WRITE),
    (Shape, Shape.LINE),
    (Point, Point(1, "a")),
    (Options, {"depth": 3}),
    (Loose, {}),
    (Loose, {"extra": {"a": [1]}}),
    (Tree, Tree(1, Tree(2))),
    (Cat | Dog, Dog(3)),
    (list[Cat | Dog], [Cat(9), Dog(1)]),
    (Stamped, Stamped(dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN))),
    (Item, Item(1.5, ["a"], {"b": 1})),
    (Item | None, None),
    (Frozen, Frozen(dt.date(2026, 1, 1), "private")),
    (Anonymous, Anonymous(2.5)),
    (Order, Order([Item(), Item(0.0)], Anonymous())),
    (Shelf, Shelf(Anonymous(None))),
    (Fussy, Fussy(12)),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str, None], (1, "a", None)),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"b", "a"})),
    (set[Color], {Color.RED}),
    (dict[int, str], {2: "b", 1: "a"}),
    (dict[uuid.UUID, dt.date], {uuid.UUID(int=1): dt.date(2026, 1, 1)}),
    (dict[Color, list[Decimal]], {Color.BLUE: [Decimal("0.1")]}),
    (dict[str, dict[str, tuple[Item, ...]]], {"a": {"b": (Item(), Item(1.0))}}),
    (collections.abc.Sequence[int], [1]),
    (collections.abc.Mapping[str, int], {"a": 1}),
    (typing.Literal["a", 1, None], 1),
    (typing.Literal[True], True),
    (typing.Annotated[int, msgspec.Meta(gt=0)], 1),
    (typing.Annotated[str, "only a remark"], "a"),
    (typing.NewType("UserId", int), 7),
    (int | str | None, "5"),
]


@pytest.mark.parametrize(("annotation", "value"), ARRIVES, ids=names(ARRIVES))
def test_arrives_as_it_left(annotation: Any, value: Any) -> None:
    assert same(through(annotation, value), value)


@pytest.mark.parametrize(("annotation", "value"), ARRIVES, ids=names(ARRIVES))
def test_optional_parameters_arrive_just_the_same(annotation: Any, value: Any) -> None:
    arguments = taking(annotation, default=object())
    payload, arrived = arguments.encode((value,), {})
    assert same(arrived.x, value)
    assert arguments.unpack(arguments.decode(payload))[1] == {}


EQUAL_BUT_AS_ANNOTATED: list[tuple[Any, Any, Any]] = [
    (float, 1, 1.0),
    (float, Level.LOW, 1.0),
    (int, Level.LOW, 1),
    (str, Color.RED, "red"),
    (Color, "red", Color.RED),
    (Decimal, 1.5, Decimal("1.5")),
    (Level, 2, Level.HIGH),
    (bytes, bytearray(b"a"), b"a"),
    (set[int], frozenset({1}), {1}),
    (Point, (1, "a"), Point(1, "a")),
    (dict[str, int], Box(a=1), {"a": 1}),
    (list[float], [1, 2.5], [1.0, 2.5]),
    (dict[float, str], {1: "a"}, {1.0: "a"}),
    (tuple[float, Any], (1, "a"), (1.0, "a")),
]


@pytest.mark.parametrize(
    ("annotation", "value", "arrives"), EQUAL_BUT_AS_ANNOTATED, ids=names(EQUAL_BUT_AS_ANNOTATED)
)
def test_an_equal_value_becomes_what_the_annotation_says(
    annotation: Any, value: Any, arrives: Any
) -> None:
    assert same(through(annotation, value), arrives)


# --- what is refused, at the call ---------------------------------------------------------------


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def in_itself() -> Any:
    value: dict[str, Any] = {}
    value["me"] = [value]
    return value


REFUSED: list[tuple[Any, Any, str]] = [
    (UNTYPED, NAN, "x"),
    (UNTYPED, math.inf, "x"),
    (UNTYPED, {"a": [1, -math.inf]}, "x['a'][1]"),
    (UNTYPED, "\ud800", "x"),
    (UNTYPED, ["\udfff"], "x[0]"),
    (UNTYPED, {"\ud800": 1}, "x"),
    (UNTYPED, (1, 2), "x"),
    (UNTYPED, {"a": (1,)}, "x['a']"),
    (UNTYPED, {1, 2}, "x"),
    (UNTYPED, b"a", "x"),
    (UNTYPED, {1: "a"}, "x"),
    (UNTYPED, {1: "a", "1": "b"}, "x"),
    (UNTYPED, {None: 1}, "x"),
    (UNTYPED, {(1, 2): 1}, "x"),
    (UNTYPED, Color.RED, "x"),
    (UNTYPED, Level.LOW, "x"),
    (UNTYPED, {Color.RED: 1}, "x"),
    (UNTYPED, Text("a"), "x"),
    (UNTYPED, Number(1), "x"),
    (UNTYPED, Box(a=1), "x"),
    (UNTYPED, Row([1]), "x"),
    (UNTYPED, collections.OrderedDict(a=1), "x"),
    (UNTYPED, dt.datetime(2026, 1, 1), "x"),
    (UNTYPED, dt.timedelta(1), "x"),
    (UNTYPED, uuid.UUID(int=1), "x"),
    (UNTYPED, Decimal("1.0"), "x"),
    (UNTYPED, Item(), "x"),
    (UNTYPED, [Tree(1)], "x[0]"),
    (UNTYPED, Point(1), "x"),
    (UNTYPED, object(), "x"),
    (UNTYPED, [1, {"a": print}], "x[1]['a']"),
    (UNTYPED, lambda: 1, "x"),
    (UNTYPED, 1j, "x"),
    (UNTYPED, range(3), "x"),
    (UNTYPED, int, "x"),
    (UNTYPED, ..., "x"),
    (UNTYPED, (part for part in ()), "x"),
    (UNTYPED, 10**5000, "x"),
    (UNTYPED, in_itself(), "x"),
    (UNTYPED, nested(100_000), "x"),
    (list, nested(100_000), "x"),
    # Where a type inside the annotation is not said, types count as well.
    (dict[str, list[Any]], {"a": [Color.RED]}, "x['a'][0]"),
    (list[dict], [{"a": Level.LOW}], "x[0]['a']"),
    (Loose, {"extra": (1,)}, "x['extra']"),
    (Item, Item(extra=Color.RED), "x.extra"),
    (list[Item], [Item(), Item(extra=(1,))], "x[1].extra"),
    (set, {Color.RED}, "x"),
    (set, {(1, 2)}, "x"),
    (tuple, (Color.RED,), "x[0]"),
    (object, (1,), "x"),
    # A value lost on the way inside an object is found there.
    (float | None, NAN, "x"),
    (Item, Item(NAN), "x.price"),
    (Anonymous, Anonymous(NAN), "x.price"),
    (Order, Order([Item(), Item(NAN)], Anonymous()), "x.items[1].price"),
    (Order, Order([], Anonymous(math.inf)), "x.buyer.price"),
    (Shelf, Shelf(MoreAnonymous()), "x.place"),
    (Order, Order([Discounted()], Anonymous()), "x.items[0]"),
    (Item, Discounted(), "x"),
    (Anonymous, MoreAnonymous(), "x"),
    (Options, {"depth": 1, "more": 2}, "x"),
    (dict[int | str, int], {1: 1, "a": 2}, "x"),
    # The wrong type for the annotation.
    (int, 1.0, "x"),
    (int, True, "x"),
    (int, "1", "x"),
    (int, None, "x"),
    (int, Number(1), "x"),
    (float, NAN, "x"),
    (float, 2**53 + 1, "x"),
    (float, True, "x"),
    (str, 1, "x"),
    (str, Text("a"), "x"),
    (bool, 1, "x"),
    (list[int], (1, 2), "x"),
    (list[int], [1, True], "x[1]"),
    (tuple[int, str], (1,), "x"),
    (tuple[int, ...], [1], "x"),
    (dict[str, int], {"a": "b"}, "x[...]"),
    (dt.datetime, dt.date(2026, 1, 1), "x"),
    (dt.datetime, "2026-01-01T00:00:00Z", "x"),
    (dt.date, dt.datetime(2026, 1, 1), "x"),
    (dt.datetime, dt.datetime(1800, 1, 1, tzinfo=BERLIN), "x"),  # the offset has seconds
    (dt.time, dt.time(1, tzinfo=BERLIN), "x"),  # the zone is lost
    (list[dt.time], [dt.time(1, tzinfo=BERLIN)], "x[0]"),
    (uuid.UUID, str(uuid.UUID(int=1)), "x"),
    (Decimal, 1.1, "x"),
    (Decimal, "1.1", "x"),
    (typing.Literal["a"], "b", "x"),
    (typing.Annotated[int, msgspec.Meta(gt=0)], 0, "x"),
    (Item, {"price": 1}, "x"),
    (Item, "text", "x"),
    (Cat | Dog, {"type": "Cat", "lives": 1}, "x"),
]


@pytest.mark.parametrize(("annotation", "value", "path"), REFUSED, ids=names(REFUSED))
def test_what_would_arrive_changed_is_refused_and_named(annotation: Any, value: Any, path: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        taking(annotation).encode((value,), {})
    error = caught.value
    assert error.task == "shop.pay"
    if isinstance(value, (dict, list)) and len(path) == 1:
        assert error.path.startswith(path)
    else:
        assert error.path == path
    assert str(error).startswith("task 'shop.pay', argument x")
    assert isinstance(error, TypeError)
    assert len(str(error)) < 600


def test_no_pair_of_a_value_and_an_annotation_gets_through_changed() -> None:
    """Every value above with every annotation above: it arrives equal, or an ArgumentError says no."""
    annotations = [annotation for annotation, _ in ARRIVES] + [a for a, *_ in REFUSED]
    unique = list({str(annotation): annotation for annotation in annotations}.values())
    values = [value for _, value in ARRIVES] + [
        value for _, value, _ in REFUSED[:41] if type(value) is not list
    ]
    tried = refused = 0
    for annotation in unique:
        arguments = taking(annotation)
        for value in values:
            tried += 1
            try:
                _, arrived = arguments.encode((value,), {})
            except ArgumentError as error:
                assert error.path.startswith("x")
                refused += 1
            else:
                got = arrived.x
                assert same(got, value) or got == value, (annotation, value, got)
                if annotation in (UNTYPED, Any, object):
                    assert same(got, value), (annotation, value, got)
    assert tried > 5000 and 0 < refused < tried


def test_an_object_that_cannot_be_compared_is_judged_by_its_parts() -> None:
    assert through(Quarrelsome, Quarrelsome(3)).size == 3
    with pytest.raises(ArgumentError) as caught:
        taking(dict[str, Quarrelsome | None]).encode(({"a": None, "b": 5},), {})
    assert caught.value.path == "x[...]"


class Shop:
    """As an ORM's object is."""


@pytest.mark.parametrize(
    ("annotation", "value", "path", "said"),
    [
        (UNTYPED, Shop(), "x", "JSON cannot encode a Shop; pass an id or plain data"),
        (UNTYPED, [Shop()], "x[0]", "JSON cannot encode a Shop; pass an id or plain data"),
        (UNTYPED, object(), "x", "JSON cannot encode an object; pass an id or plain data"),
        (UNTYPED, lambda: 1, "x", "JSON cannot encode a function; pass data"),
        (UNTYPED, Shop, "x", "JSON cannot encode a type; pass data"),
        (UNTYPED, Path("/tmp"), "x", "pass it as a string: str(path)"),
        (UNTYPED, {1: "a"}, "x", "its key 1 would arrive as a string, because JSON has no other keys"),
        (UNTYPED, {"a": {1: 2}}, "x['a']", "annotate the parameter, for example dict[int, ...]"),
        (dict[str, int], {1: 2}, "x", "its key 1 would arrive as a string"),
        (UNTYPED, {(1, 2): 3}, "x", "a key of a dict must be a string or a number, not (1, 2)"),
        (UNTYPED, {None: 3}, "x", "a key of a dict must be a string or a number, not None"),
        (UNTYPED, {Shop: 3}, "x", "a key of a dict must be a string or a number, not <class"),
        (UNTYPED, "\ud800", "x", "lone surrogate"),
    ],
)
def test_the_error_says_what_to_pass_instead(annotation: Any, value: Any, path: str, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        taking(annotation).encode((value,), {})
    assert caught.value.path == path
    assert said in caught.value.reason


@pytest.mark.parametrize("size", [13, 14])
def test_an_object_that_refuses_its_own_data_is_an_argument_error_on_both_sides(size: int) -> None:
    hostile = Fussy(1)
    hostile.size = size
    arguments = taking(Fussy)
    with pytest.raises(ArgumentError) as caught:
        arguments.encode((hostile,), {})
    assert caught.value.path == "x"
    with pytest.raises(ArgumentError, match="argument"):
        arguments.decode(b'{"x":{"size":%d}}' % size)


@pytest.mark.parametrize("depth", [10, 100, 200, 400, 450, 600, 900, 950, 980, 1000, 1200, 5000])
@pytest.mark.parametrize("annotation", [UNTYPED, list])
def test_deep_nesting_arrives_or_is_an_argument_error(annotation: Any, depth: int) -> None:
    try:
        got = through(annotation, nested(depth))
    except ArgumentError as error:
        assert error.reason == "nested too deeply" and depth > 200
    except RecursionError:  # from the comparison of this test
        assert depth > 200
    else:
        assert isinstance(got, list)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5)
)
hostile = (
    scalars
    | st.sampled_from(
        [Color.RED, Level.LOW, Text("a"), Number(1), Point(1), b"a", dt.date(2026, 1, 1), Decimal(1)]
    )
    | st.frozensets(st.integers() | st.sampled_from(Level), max_size=2)
    | st.datetimes(timezones=st.just(UTC))
)
anything = st.recursive(
    hostile,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(scalars | st.sampled_from(Color), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(value=anything, annotation=st.sampled_from([UNTYPED, Any, object]))
def test_property_untyped_data_arrives_the_same_or_is_refused(value: Any, annotation: Any) -> None:
    try:
        got = through(annotation, value)
    except ArgumentError as error:
        assert error.path.startswith("x")
    else:
        assert same(got, value)


TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, st.text()),
    (bytes, st.binary()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (Decimal, st.decimals(allow_nan=False)),
    (uuid.UUID, st.uuids()),
    (dt.datetime, st.datetimes(timezones=st.none() | st.just(UTC))),
    (dt.date, st.dates()),
    (dt.timedelta, st.timedeltas()),
    (dt.time, st.times()),
    (Color, st.sampled_from(Color)),
    (frozenset[int], st.frozensets(st.integers())),
    (Item, st.builds(Item, st.none() | st.floats(-1e9, 1e9), st.lists(st.text()), st.none())),
    (
        dict[int, tuple[Level, ...]],
        st.dictionaries(st.integers(), st.lists(st.sampled_from(Level)).map(tuple)),
    ),
]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_property_annotated_values_arrive_the_same(data: st.DataObject) -> None:
    annotation, values = data.draw(st.sampled_from(TYPED))
    value = data.draw(values)
    assert same(through(annotation, value), value)


def test_changing_the_originals_after_the_call_changes_nothing() -> None:
    data: dict[str, Any] = {"a": [1]}
    item = Item(1.0, ["x"])

    def function(data: dict[str, Any], item: Item) -> None: ...

    payload, arrived = Arguments(function, "t").encode((data, item), {})
    data["a"].append(2)
    data["b"] = item.price = 9.0
    item.tags.clear()
    assert arrived.data == {"a": [1]} and arrived.item == Item(1.0, ["x"])
    assert (
        arrived.data is not data
        and payload == b'{"data":{"a":[1]},"item":{"price":1.0,"tags":["x"],"extra":null}}'
    )


def test_equal_arguments_have_equal_bytes() -> None:
    arguments = taking()
    assert arguments.encode(({"b": 1, "a": 2},), {})[0] == arguments.encode(({"a": 2, "b": 1},), {})[0]
    assert taking(set[str]).encode(({"b", "a", "c"},), {})[0] == b'{"x":["a","b","c"]}'


# --- binding ------------------------------------------------------------------------------------


def everything(a, /, b, c=3, *args, d, e=5, **kwargs):  # type: ignore[no-untyped-def]
    return a, b, c, args, d, e, kwargs


def only_keywords(*, a, b=2):  # type: ignore[no-untyped-def]
    return a, b


def only_positions(a, b=2, c=3, /):  # type: ignore[no-untyped-def]
    return a, b, c


def plain(a, b=2, c=3):  # type: ignore[no-untyped-def]
    return a, b, c


def nothing():  # type: ignore[no-untyped-def]
    return ()


def reserved(self, cls, _x, class_, args, kwargs, type, tag, name, delay=1):  # type: ignore[no-untyped-def]
    return self, cls, _x, class_, args, kwargs, type, tag, name, delay


def swallowing(a, /, *args, **kwargs):  # type: ignore[no-untyped-def]
    return a, args, kwargs


def typed_stars(*numbers: float, **dates: dt.date) -> object:
    return numbers, dates


CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (everything, (1, 2), {"d": 4}),
    (everything, (1, 2, 3, 4, 5), {"d": 4, "e": 6, "z": 7, "a": 8, "args": 9, "kwargs": 10, "self": 11}),
    (everything, (1,), {"b": 2, "d": 4}),
    (only_keywords, (), {"a": 1}),
    (only_keywords, (), {"b": 1, "a": 2}),
    (only_positions, (1,), {}),
    (only_positions, (1, 5), {}),
    (only_positions, (1, 5, 6), {}),
    (plain, (1,), {}),
    (plain, (1,), {"c": 5}),  # a gap: b keeps its default
    (plain, (), {"c": 5, "a": 1}),
    (nothing, (), {}),
    (reserved, tuple(range(9)), {}),
    (reserved, (), dict(zip(inspect.signature(reserved).parameters, range(10), strict=True))),
    (swallowing, (1, 2, 3), {"a": 4, "args": 5, "kwargs": 6, "self": 7, "function": 8, "values": 9}),
    (typed_stars, (1.5, 2.5), {"born": dt.date(2026, 1, 1)}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_a_stored_call_calls_the_function_as_the_call_would(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    arguments = Arguments(function, "t")
    payload, arrived = arguments.encode(args, kwargs)
    assert arguments.call(function, arrived) == function(*args, **kwargs)
    assert arguments.call(function, arguments.decode(payload)) == function(*args, **kwargs)


def test_defaults_left_out_stay_out_so_that_a_new_default_applies() -> None:
    arguments = Arguments(plain, "t")
    payload, arrived = arguments.encode((1,), {"c": 5})
    assert payload == b'{"a":1,"c":5}'
    assert arguments.unpack(arrived) == ((1,), {"c": 5})


WRONG_CALLS = [
    (plain, (), {}),
    (plain, (1, 2, 3, 4), {}),
    (plain, (1,), {"a": 1}),
    (plain, (1,), {"nope": 1}),
    (nothing, (1,), {}),
    (only_keywords, (1,), {}),
    (only_positions, (), {"a": 1}),
    (everything, (1, 2), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), WRONG_CALLS)
def test_a_call_that_does_not_fit_is_a_type_error_in_the_words_of_a_call(
    function: Any, args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError) as expected:
        inspect.signature(function).bind(*args, **kwargs)
    for try_it in (
        lambda: Arguments(function, "mail.send").encode(args, kwargs),
        lambda: Arguments(function, "mail.send").from_json(list(args), kwargs),
    ):
        with pytest.raises(TypeError) as caught:
            try_it()
        assert not isinstance(caught.value, ArgumentError)
        said, _, takes = str(caught.value).partition("; it takes ")
        assert said == f"mail.send() {expected.value}"
        assert takes.startswith("(") and all(name in takes for name in arguments_of(function))


def arguments_of(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_a_call_that_does_not_fit_is_told_what_fits_without_defaults() -> None:
    def send(to: str, *more: str, key: str = "hunter2", **rest: int) -> None: ...

    with pytest.raises(TypeError, match=re.escape("'to'; it takes (to, *more, key=..., **rest)")):
        Arguments(send, "send").encode((), {})


def test_paths_name_extra_arguments() -> None:
    for args, kwargs, path in [((1, NAN), {}, "args[0]"), ((1,), {"z": NAN}, "kwargs['z']")]:
        with pytest.raises(ArgumentError) as caught:
            Arguments(swallowing, "t").encode(args, kwargs)
        assert caught.value.path == path
    with pytest.raises(ArgumentError) as caught:
        Arguments(typed_stars, "t").encode((1.0, "a"), {})
    assert caught.value.path == "*numbers[1]"


def test_a_long_key_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ArgumentError) as caught:
        taking().encode(({"k" * 10_000: NAN},), {})
    assert len(str(caught.value)) < 300


# --- annotations --------------------------------------------------------------------------------

Callback = typing.Callable[[], int]
BAD_ANNOTATIONS: list[tuple[Any, str]] = [
    (flask.Request, "Request"),
    (list[flask.Request], "Request"),
    (dict[str, tuple[flask.Request, ...]] | None, "Request"),
    (Callback, "Callable"),
    (typing.Callable, "Callable"),
    (type, "type"),
    (complex, "complex"),
    (collections.abc.Iterator[int], "Iterator"),
    (collections.deque[int], "deque"),
    (dt.datetime | str, "str-like"),
    (Item | Anonymous, "dataclass"),
    (typing.Literal[1.5], "Literal"),
    (Mixed, "Mixed"),
    (5, "5"),
    ("Missing", "Missing"),
    ("list[Missing]", "Missing"),
    ("int(", "int("),
    ("dt.nope", "nope"),
]


@pytest.mark.parametrize(("annotation", "word"), BAD_ANNOTATIONS, ids=names(BAD_ANNOTATIONS))
def test_an_annotation_that_cannot_be_restored_names_task_and_parameter(
    annotation: Any, word: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        taking(annotation)
    assert "task 'shop.pay', parameter 'x'" in str(caught.value)
    assert word in str(caught.value)


class Holding(msgspec.Struct):
    inner: list[flask.Request]


@dataclasses.dataclass
class Unresolved:
    inner: Missing  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("annotation", [Holding, Unresolved, list[Holding] | None])
def test_a_bad_annotation_inside_a_class_is_found_as_well(annotation: Any) -> None:
    with pytest.raises(ConfigurationError, match="parameter 'x'"):
        taking(annotation)


def test_the_annotation_of_the_result_may_be_for_type_checkers_alone() -> None:
    def function(x: dt.date) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821

    _, arrived = Arguments(function, "t").encode((dt.date(2026, 1, 1),), {})
    assert arrived.x == dt.date(2026, 1, 1)


def test_a_wrapped_function_is_known_by_its_own_signature() -> None:
    @functools.wraps(typed_stars)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return typed_stars(*args, **kwargs)

    assert Arguments(wrapper, "t").encode((1.0,), {"a": dt.date(2026, 1, 1)})[0].startswith(b"{")
    with pytest.raises(ArgumentError):
        Arguments(wrapper, "t").encode(("a",), {})


@pytest.mark.parametrize("name", ["__x", "__eq__", "__init__", "__dict__", "__post_init__", "__x__"])
def test_a_parameter_that_python_itself_would_trip_over_is_refused_by_name(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def function({name}): ...", namespace)
    with pytest.raises(ConfigurationError, match=name):
        Arguments(namespace["function"], "t")


# --- from JSON ----------------------------------------------------------------------------------


def test_from_json_reads_plain_values_by_the_annotations() -> None:
    def function(when: dt.datetime, colors: list[Color], *, price: Decimal = Decimal(0)) -> None: ...

    arguments = Arguments(function, "t")
    when = dt.datetime(2026, 1, 1, tzinfo=UTC)
    payload, arrived = arguments.from_json(
        ["2026-01-01T00:00:00Z"], {"colors": ["red"], "price": "1.50"}
    )
    assert arguments.unpack(arrived) == ((when, [Color.RED]), {"price": Decimal("1.50")})
    assert payload == arguments.encode((when, [Color.RED]), {"price": Decimal("1.50")})[0]


def test_from_json_keeps_extra_arguments() -> None:
    arguments = Arguments(typed_stars, "t")
    _, arrived = arguments.from_json([1, 2.5], {"a": "2026-01-01"})
    assert arguments.unpack(arrived) == ((1.0, 2.5), {"a": dt.date(2026, 1, 1)})


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (["yesterday"], {}, "when"),
        ([5], {}, "when"),
        ([None], {}, "when"),
        (["2026-01-01T00:00:00Z"], {"counts": {"a": ["1"]}}, "counts[...][0]"),
    ],
)
def test_from_json_names_what_does_not_fit(args: list[Any], kwargs: dict[str, Any], path: str) -> None:
    def function(when: dt.datetime, counts: dict[str, list[int]] | None = None) -> None: ...

    with pytest.raises(ArgumentError) as caught:
        Arguments(function, "t").from_json(args, kwargs)
    assert caught.value.path == path
    assert "yesterday" not in str(caught.value)


@pytest.mark.parametrize("value", [NAN, "\ud800", nested(100_000)])
def test_from_json_refuses_what_was_no_json(value: Any) -> None:
    with pytest.raises(ArgumentError):
        taking(float | str | list[Any]).from_json([value], {})


# --- a signature that changed while jobs were stored --------------------------------------------


def stored_by(function: Any, *args: Any, **kwargs: Any) -> bytes:
    return Arguments(function, "t").encode(args, kwargs)[0]


def changed(old: Any, new: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = Arguments(new, "t")
    return arguments.call(new, arguments.decode(stored_by(old, *args, **kwargs)))


def test_an_added_optional_parameter_takes_its_default() -> None:
    assert changed(lambda a: None, lambda a, b=2: (a, b), 1) == (1, 2)


def test_reordered_parameters_still_get_their_own_values() -> None:
    assert changed(lambda a, b: None, lambda b, a: (b, a), 1, 2) == (2, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (lambda a: None, lambda a, b: None),  # added, required
        (lambda a, b=1: None, lambda a: None),  # removed
        (lambda a, c=1: None, lambda a, b=1: None),  # renamed
        (lambda *args: None, lambda a=1: None),
    ],
)
def test_a_payload_that_no_longer_fits_is_an_argument_error_before_anything_runs(
    old: Any, new: Any
) -> None:
    payload = stored_by(old, *([1, 2][: len(inspect.signature(old).parameters)]))
    with pytest.raises(ArgumentError):
        Arguments(new, "t").decode(payload)


def test_values_never_slip_into_a_parameter_that_was_added_before_them() -> None:
    assert changed(lambda a, *args: None, lambda a, b=0, *args: (a, b, args), 1, 2, 3) == (1, 0, (2, 3))
    new = eval("lambda a=7, b=2, /: (a, b)")
    assert changed(eval("lambda b=2, /: None"), new, 5) == (7, 5)
    keeping = eval("lambda a=7, b=2, /, **kwargs: (a, b, kwargs)")
    assert changed(eval("lambda b=2, /, **kwargs: None"), keeping, 5, c=1) == (7, 5, {"c": 1})


def test_a_changed_annotation_is_an_argument_error_without_the_value() -> None:
    with pytest.raises(ArgumentError) as caught:
        taking(int).decode(b'{"x":"hunter2-secret"}')
    assert caught.value.path == "x"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"\xff",
        b'{"x":1}{}',
        b'{"x":"\xff"}',
        b"{}",
        b'{"y":1}',
        b"[" * 100_000,
    ],
)
def test_a_payload_that_nobody_wrote_is_an_argument_error(payload: bytes) -> None:
    with pytest.raises(ArgumentError):
        taking().decode(payload)
