"""Values as tagged JSON: what is read again is what was written."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import json
import zoneinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

import dspy
import numpy as np
import pytest
from pydantic import BaseModel, PrivateAttr

from pytest_dspy_ft.evaluation.anatomy import Anatomy
from pytest_dspy_ft.evaluation.known import Known
from pytest_dspy_ft.evaluation.values import Reader, UnkeptError, Writer


class Colour(enum.Enum):
    RED = "red"


class Rights(enum.Flag):
    READ, WRITE = 1, 2


class Line(BaseModel):
    name: str
    colour: Colour | None = None
    _seen: int = PrivateAttr(default=0)


class Day(datetime.date):
    """A date of the user's own class."""


class Label(str):
    """A text of the user's own class."""


class Pair(NamedTuple):
    left: int
    right: str


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    tags: set[str]


def line() -> Line:
    made = Line(name="\ud83d é", colour=Colour.RED)
    made._seen = 3
    return made


VALUES: list[Any] = [
    *(2**70, 0.1 + 0.2, float("nan"), float("-inf"), -0.0, "\ud83d", None, True, 1j, b"\x00\xff", bytearray(b"a")),
    *((1, [2, (3,)]), {1, "a"}, frozenset({2}), {1: "x", (1, 2): None}, {"$date": "no tag"}, {"b": 1, "a": 2}),
    *(datetime.date(2024, 1, 31), datetime.timedelta(days=1, microseconds=7), datetime.time(1, 2, fold=1)),
    datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    *(Decimal("1.10"), Fraction(1, 3), UUID(int=7), range(1, 9, 2), Colour.RED, Rights.READ | Rights.WRITE),
    *(collections.OrderedDict(b=1, a=2), collections.Counter("aab"), collections.deque([1], 3)),
    collections.defaultdict(list, {"a": [1]}),
    *(np.arange(6, dtype=np.int8).reshape(2, 3), np.float32(0.1), np.array(["a", "bc"])),
    *(line(), [line()], Point(0.5, {"b", "a"}), Label("x"), Day(2024, 1, 31), Pair(1, "r")),
    dspy.Example(b=Colour.RED, a=(1,)).with_inputs("a"),
    dspy.Prediction(z=1, a=2),
    dspy.Image("data:image/png;base64,iVBORw0KGgo="),
    dspy.History(messages=[{"text": "a", "label": "b"}]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    written = json.loads(json.dumps(Writer().write(value), allow_nan=False))
    back = Reader(Known([VALUES]).class_named).read(written)
    assert type(back) is type(value)
    assert Anatomy(back).root == Anatomy(value).root
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset, Point))


def test_a_class_that_nothing_declared_leads_to_is_not_made() -> None:
    written = Writer().write(Colour.RED)
    with pytest.raises(ValueError, match="Colour is not among those"):
        Reader(Known(["nothing"]).class_named).read(written)


@pytest.mark.parametrize("value", [lambda: 1, open, [object()]])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(UnkeptError, match="is not data"):
        Writer().write(value)


def test_what_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnkeptError, match="it holds itself"):
        Writer().write(value)
