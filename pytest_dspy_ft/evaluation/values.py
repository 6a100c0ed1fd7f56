"""Values as JSON that gives the same values again: types that JSON lacks are tagged, ``{"$date": "2024-01-31"}``.

Each tag is one key that begins with ``$``. Classes stand by name; who reads them decides which names count.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import enum
import importlib
import json
import math
import pathlib
import re
import zoneinfo
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

import dspy
from pydantic import BaseModel

from pytest_dspy_ft.evaluation.known import full_name
from pytest_dspy_ft.fingerprint import is_user_code
from pytest_dspy_ft.insides.fields import INPUT_KEYS

Path = tuple[tuple[str, Any], ...]
"""The way from a program to a part of it: steps ``("attribute", name)``, ``("item", index)`` and ``("key", key)``."""


class UnkeptError(Exception):
    """A value that no JSON gives again; with the place where it stands, and why."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(why)
        self.path, self.why = path, why


def place(path: Path, root: str = "program") -> str:
    """A path in Python's words: ``program.rate.demos[0]['text']``."""
    steps = {"attribute": ".{}", "item": "[{}]", "key": "[{!r}]"}
    return root + "".join(steps[kind].format(step) for kind, step in path)


class Writer:
    """Writes values as tagged JSON. What is no data goes through :meth:`other`, class names through :meth:`named`."""

    def __init__(self) -> None:
        self._inside: set[int] = set()

    def write(self, value: Any, path: Path = ()) -> Any:
        """The value as JSON.

        Raises:
            UnkeptError: If it is none that could be read again.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if id(value) in self._inside:
            return self.circle(value, path)
        self._inside.add(id(value))
        try:
            return self._compound(value, kind, path)
        finally:
            self._inside.discard(id(value))

    def named(self, cls: type, path: Path) -> str:
        """The name of a class, as :class:`Reader` is told it."""
        return full_name(cls)

    def other(self, value: Any, path: Path) -> Any:
        """A value that is no data."""
        raise UnkeptError(path, f"a {full_name(type(value))} is not data")

    def circle(self, value: Any, path: Path) -> Any:
        """A value that stands inside itself."""
        raise UnkeptError(path, "it holds itself")

    def _compound(self, value: Any, kind: type, path: Path) -> Any:
        if kind is list:
            return self._items(value, path)
        if kind is dict:
            return self._mapping(value, path)
        if kind in (tuple, set, frozenset):
            items = self._items(value, path)
            return {f"${kind.__name__}": items if kind is tuple else sorted(items, key=_text)}
        if isinstance(value, enum.Enum):
            member = value.name if value.name in kind.__members__ else None  # type: ignore[attr-defined]
            rest = [] if member is not None else [self.write(value.value, path)]
            return {"$enum": [self.named(kind, path), member, *rest]}
        if (simple := _SIMPLE.get(kind)) is not None:
            return {f"${simple.tag}": simple.write(value)}
        if isinstance(value, datetime.date):  # of a subclass, such as pandas'
            return {"$moment": [self.named(kind, path), value.isoformat()]}
        if isinstance(value, pathlib.Path):
            return {"$path": str(value)}
        if kind in (collections.OrderedDict, collections.Counter, collections.defaultdict):
            return self._special_mapping(value, kind, path)
        if kind is collections.deque:
            return {"$deque": [self._items(value, path), value.maxlen]}
        if isinstance(value, dspy.Example) and not is_user_code(kind):
            return self._example(value, path)
        if isinstance(value, BaseModel):
            return self._model(value, kind, path)
        if kind.__module__ == "numpy" and hasattr(value, "dtype") and not value.dtype.hasobject:
            shape = list(value.shape) if kind.__name__ == "ndarray" else None
            return {"$array": [value.dtype.str, shape, base64.b64encode(value.tobytes()).decode("ascii")]}
        if not isinstance(value, (type, dspy.Module, dspy.BaseLM)) and (
            is_user_code(kind) or dataclasses.is_dataclass(value)
        ):
            return self.object(value, kind, path)
        return self.other(value, path)

    def object(self, value: Any, kind: type, path: Path) -> Any:
        """An object of the user's: its class, what it is as a builtin, its attributes."""
        written: dict[str, Any] = {"class": self.named(kind, path)}
        bases: tuple[Any, ...] = (str, int, float, bytes, list, tuple, dict, set, frozenset)
        for base in bases:
            if isinstance(value, base):
                written["base"] = self.write(base(value), path)
        state = {name: self.write(item, (*path, ("attribute", name))) for name, item in attributes(value).items()}
        return {"$object": {**written, "state": state}}

    def _items(self, values: Any, path: Path) -> list[Any]:
        return [self.write(item, (*path, ("item", i))) for i, item in enumerate(values)]

    def _mapping(self, value: dict[Any, Any], path: Path) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.write(item, (*path, ("key", key))) for key, item in value.items()}
        return {"$dict": self._pairs(value, path)}

    def _pairs(self, value: Any, path: Path) -> list[Any]:
        return [[self.write(k, path), self.write(item, (*path, ("key", k)))] for k, item in value.items()]

    def _special_mapping(self, value: Any, kind: type, path: Path) -> Any:
        pairs = self._pairs(value, path)
        if kind is not collections.defaultdict:
            return {f"${kind.__name__}": pairs}
        factory = value.default_factory
        if factory is not None and factory.__name__ not in _FACTORIES:
            return self.other(value, path)
        return {"$defaultdict": [None if factory is None else factory.__name__, pairs]}

    def _example(self, value: Any, path: Path) -> Any:
        fields = self._pairs(dict(value.items()), path)
        if isinstance(value, dspy.Prediction):
            return {"$prediction": fields}
        inputs = getattr(value, INPUT_KEYS, None)
        return {"$example": [fields, None if inputs is None else sorted(inputs)]}

    def _model(self, value: BaseModel, kind: type, path: Path) -> Any:
        state = value.__getstate__()
        parts = {
            name: part and {key: self.write(item, (*path, ("attribute", key))) for key, item in part.items()}
            for name, part in (
                ("fields", state["__dict__"]),
                ("extra", state["__pydantic_extra__"]),
                ("private", state["__pydantic_private__"]),
            )
        }
        return {"$model": {"class": self.named(kind, path), "set": sorted(state["__pydantic_fields_set__"]), **parts}}


class Reader:
    """Reads what :class:`Writer` wrote.

    Args:
        class_named: The class of a name; None for one that nothing declared leads to.
    """

    def __init__(self, class_named: Callable[[str], type | None]) -> None:
        self._class_named = class_named

    def read(self, written: Any) -> Any:
        """The value.

        Raises:
            ValueError: If a class is not known, or a tag.
        """
        if isinstance(written, list):
            return [self.read(item) for item in written]
        if not isinstance(written, dict):
            return written
        if len(written) == 1 and (tag := next(iter(written))).startswith("$"):
            return self.tagged(tag[1:], written[tag])
        return {key: self.read(item) for key, item in written.items()}

    def tagged(self, tag: str, content: Any) -> Any:
        """The value of a tag and its content."""
        if (simple := _TAGS.get(tag)) is not None:
            return simple.read(content)
        match tag:
            case "tuple" | "set" | "frozenset":
                return {"tuple": tuple, "set": set, "frozenset": frozenset}[tag](self.read(content))
            case "dict":
                return self._pairs(content)
            case "OrderedDict" | "Counter":
                return getattr(collections, tag)(self._pairs(content))
            case "defaultdict":
                factory = None if content[0] is None else _FACTORIES[content[0]]
                return collections.defaultdict(factory, self._pairs(content[1]))
            case "deque":
                return collections.deque(self.read(content[0]), content[1])
            case "enum":
                cls: Any = self.class_of(content[0])
                return cls(self.read(content[2])) if content[1] is None else cls[content[1]]
            case "moment":
                moment: Any = self.class_of(content[0])
                return moment.fromisoformat(content[1])
            case "example":
                example = dspy.Example(self._pairs(content[0]))
                return example if content[1] is None else example.with_inputs(*content[1])
            case "prediction":
                return dspy.Prediction(self._pairs(content))
            case "model":
                return self._model(content)
            case "array":
                return _read_array(*content)
            case "object":
                return self._object(content)
        raise ValueError(f"the tag ${tag} is not known")

    def _pairs(self, content: list[Any]) -> dict[Any, Any]:
        return {self.read(key): self.read(item) for key, item in content}

    def class_of(self, name: str) -> type:
        """The class of a name; ValueError for one that nothing declared leads to."""
        if (found := self._class_named(name)) is None:
            raise ValueError(f"the class {name} is not among those that program, data and optimizer have")
        return found

    def _model(self, content: dict[str, Any]) -> Any:
        model: Any = self.class_of(content["class"])
        made = model.__new__(model)
        parts = {
            name: content[name] and {key: self.read(item) for key, item in content[name].items()}
            for name in ("fields", "extra", "private")
        }
        made.__setstate__(
            {
                "__dict__": parts["fields"],
                "__pydantic_extra__": parts["extra"],
                "__pydantic_private__": parts["private"],
                "__pydantic_fields_set__": set(content["set"]),
            }
        )
        return made

    def _object(self, content: dict[str, Any]) -> Any:
        cls: Any = self.class_of(content["class"])
        base = self.read(content.get("base"))
        if "base" not in content:
            made = object.__new__(cls)
        elif isinstance(base, (list, dict, set)):
            made = cls.__new__(cls)
            type(base).__init__(made, base)
        else:
            made = type(base).__new__(cls, base)
        for name, item in content["state"].items():
            object.__setattr__(made, name, self.read(item))
        return made


def attributes(value: Any) -> dict[str, Any]:
    """What an object holds, by name: its ``__dict__`` and its slots."""
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                found[slot] = getattr(value, slot)
    return found


@dataclasses.dataclass(frozen=True)
class _Simple:
    """How one type without parts is written and read."""

    kind: type
    tag: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _write_moment(value: datetime.datetime | datetime.time) -> Any:
    zone = value.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return [value.replace(tzinfo=None).isoformat(), value.fold, zone.key]
    return [value.isoformat(), value.fold, None]


def _read_moment(kind: Any) -> Callable[[Any], Any]:
    def read(written: Any) -> Any:
        text, fold, zone = written
        value = kind.fromisoformat(text).replace(fold=fold)
        return value if zone is None else value.replace(tzinfo=zoneinfo.ZoneInfo(zone))

    return read


def _simples() -> Iterator[_Simple]:
    def plain(value: Any) -> str:
        return base64.b64encode(value).decode("ascii")

    yield _Simple(float, "float", repr, float)
    yield _Simple(bytes, "bytes", plain, base64.b64decode)
    yield _Simple(bytearray, "bytearray", plain, lambda text: bytearray(base64.b64decode(text)))
    yield _Simple(datetime.date, "date", str, datetime.date.fromisoformat)
    yield _Simple(datetime.datetime, "datetime", _write_moment, _read_moment(datetime.datetime))
    yield _Simple(datetime.time, "time", _write_moment, _read_moment(datetime.time))
    yield _Simple(
        datetime.timedelta,
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    )
    yield _Simple(Decimal, "decimal", str, Decimal)
    yield _Simple(Fraction, "fraction", str, Fraction)
    yield _Simple(UUID, "uuid", str, UUID)
    yield _Simple(complex, "complex", repr, complex)
    yield _Simple(range, "range", lambda r: [r.start, r.stop, r.step], lambda parts: range(*parts))
    yield _Simple(re.Pattern, "regex", lambda r: [r.pattern, r.flags], lambda parts: re.compile(*parts))
    yield _Simple(pathlib.Path, "path", str, pathlib.Path)
    yield _Simple(type(...), "ellipsis", lambda _: None, lambda _: ...)


_SIMPLE: Final = {simple.kind: simple for simple in _simples()}
_TAGS: Final = {simple.tag: simple for simple in _simples()}
_FACTORIES: Final[dict[str, Any]] = {kind.__name__: kind for kind in (list, dict, set, int, float, str, tuple)}


def _read_array(dtype: str, shape: list[int] | None, content: str) -> Any:
    numpy = importlib.import_module("numpy")  # an optional package: whoever has an array has it
    flat = numpy.frombuffer(base64.b64decode(content), dtype=numpy.dtype(dtype)).copy()
    return flat[0] if shape is None else flat.reshape(shape)


def _text(written: Any) -> str:
    return json.dumps(written, sort_keys=True)
