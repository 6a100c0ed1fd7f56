"""The walk over an object graph: plain values and containers, circles, depth, and notes of what could not be seen."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import fractions
import hashlib
import inspect
import json
import re
import types
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from pytest_dspy_ft.fingerprint.credentials import is_credential
from pytest_dspy_ft.fingerprint.origin import is_user_code

_DEEPEST = 60
"""Levels of objects inside objects; below, only the type counts."""

_MANY = 20_000
"""Objects after which one that was described before is not described again."""

_LONG_INTEGER = 4096
"""Bits; Python refuses to write much longer ones out."""

_BY_TEXT = (
    *(complex, decimal.Decimal, fractions.Fraction, range, slice, datetime.timedelta, datetime.tzinfo),
    *(type(...), type(NotImplemented)),
)


class Walk:
    """One walk; remembers what it is inside of, so that circles end, where it is, and what it could not see."""

    def __init__(self) -> None:
        self.unseen: dict[str, None] = {}
        self._inside: set[int] = set()
        self._path: list[str] = []
        self._seen: dict[int, Any] = {}
        self._visits = 0
        self._reach: set[int] = set()

    def describe(self, value: Any, at: str = "") -> Any:
        """Describe a value as JSON.

        Args:
            value: Anything; reading it never raises and runs none of its code but ``__dspy_ft_key__``.
            at: What leads to it from the object that is being described, for notes.
        """
        if value is None or type(value) in (bool, str):
            return value
        if isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum) and not self._is_own(value):
            if isinstance(value, int) and value.bit_length() > _LONG_INTEGER:
                return {"int": hex(value)}
            return value
        if isinstance(value, float) and not self._is_own(value):
            return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
        if isinstance(value, (bytes, bytearray)) and not self._is_own(value):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        self._reach.add(id(value))
        if id(value) in self._inside:
            return {"cycle": type(value).__qualname__}
        if len(self._inside) >= _DEEPEST:
            return self.note(value, "lies too deep", at)
        self._visits += 1
        if self._visits > _MANY and id(value) in self._seen:
            return {"again": name_of(type(value))}
        self._seen[id(value)] = value  # the reference keeps its id from being another's
        self._inside.add(id(value))
        self._path.append(at)
        try:
            return self.compound(value)
        except Exception as error:  # its own code was asked after all, and failed
            return self.note(value, f"cannot be read ({type(error).__name__})")
        finally:
            self._inside.discard(id(value))
            self._path.pop()

    def note(self, value: Any, why: str, at: str = "") -> Any:
        """Note that a value was not seen, and describe it by its type."""
        place = "".join([*self._path, at]).lstrip(".")
        name = name_of(type(value))
        self.unseen[f"{place}: {name} {why}" if place else f"{name} {why}"] = None
        return {"object": name}

    @contextlib.contextmanager
    def apart(self) -> Iterator[dict[str, None]]:
        """Collect notes of the block apart from the others; what is in the dict at its end is kept."""
        before, self.unseen = self.unseen, {}
        mine = self.unseen
        try:
            yield mine
        finally:
            before.update(mine)
            self.unseen = before

    def named(self, values: Mapping[str, Any], at: str = ".") -> dict[str, Any]:
        """Describe values by name, credentials left out."""
        described = {}
        for name, value in values.items():
            if is_credential(str(name), value):
                self.note(value, "looks like a credential and is left out", f"{at}{name}")
            else:
                described[str(name)] = self.describe(value, f"{at}{name}")
        return described

    def compound(self, value: Any) -> Any:
        """Describe what is no plain value."""
        if not isinstance(value, type) and has_own_key(value):
            return {"class": name_of(type(value)), "key": self.describe(value.__dspy_ft_key__(), ".__dspy_ft_key__()")}
        own = self._is_own(value)
        described = self._container(value)
        if described is None:
            return self.python(value)
        if not own:
            return described
        extra = self.named(attributes_of(value))  # a list or dict of the user's own class
        return {"class": self.class_content(type(value)), "value": described, **({"state": extra} if extra else {})}

    def python(self, value: Any) -> Any:
        """Describe what is neither plain nor a container."""
        raise NotImplementedError

    def class_content(self, cls: type) -> Any:
        """Describe a class."""
        raise NotImplementedError

    def _is_own(self, value: Any) -> bool:
        """Whether a plain value or a container is of a class of the user's: it has methods of its own."""
        cls = type(value)
        if cls.__module__ == "builtins" or isinstance(value, enum.Enum):
            return False
        return isinstance(value, (int, float, str, bytes, list, tuple, dict, set, frozenset)) and is_user_code(cls)

    def _container(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if isinstance(value, defaultdict) and value.default_factory is not None:
            factory = value.default_factory
            called = isinstance(factory, type) or not is_user_code(factory)  # DSPy keeps train_kwargs for all LMs so
            default = self.describe(factory() if called else factory)
            return {"default": default, "map": {"map": self._map(value)}}
        if isinstance(value, Mapping) and not self.by_type(value):
            return {"map": self._map(value)}
        if isinstance(value, (list, tuple, deque)):
            items = [self.describe(v, f"[{i}]") for i, v in enumerate(value)]
            return {"deque": items, "longest": value.maxlen} if isinstance(value, deque) else items
        if isinstance(value, (set, frozenset)):
            return {"set": sorted((self.describe(v) for v in value), key=sort_key)}
        if isinstance(value, (str, bytes)):
            return {"text": str(value)} if isinstance(value, str) else {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, (int, float)) and not isinstance(value, enum.Enum):
            return repr(float(value)) if isinstance(value, float) else int(value)
        return self._simple(value)

    def _simple(self, value: Any) -> Any:
        if isinstance(value, enum.Enum):
            named = {"enum": f"{name_of(type(value))}.{value.name}"}
            if not is_user_code(type(value)):
                return named
            return {**named, "class": self.class_content(type(value)), "value": self.describe(value.value)}
        if isinstance(value, PurePath):
            return {"path": value.as_posix()}
        if isinstance(value, (datetime.date, datetime.time)):
            return {"time": value.isoformat()}
        if isinstance(value, re.Pattern):
            return {"regex": value.pattern, "flags": value.flags}
        if isinstance(value, _BY_TEXT):
            return {"class": name_of(type(value)), "text": repr(value)}
        return None

    def _map(self, value: Mapping[Any, Any]) -> list[Any]:
        pairs = []
        for key, item in dict(value).items():
            if isinstance(key, str) and is_credential(key, item):
                self.note(item, "looks like a credential and is left out", f"[{key!r}]")
            else:
                pairs.append([self.describe(key), self.describe(item, f"[{key!r}]" if isinstance(key, str) else "[]")])
        return sorted(pairs, key=sort_key)

    def by_type(self, value: Any) -> bool:
        """Whether a value is known by its type alone."""
        raise NotImplementedError


def has_own_key(value: Any) -> bool:
    """Whether an object speaks for itself; looked up without running any code of its."""
    return callable(inspect.getattr_static(value, "__dspy_ft_key__", None))


def attributes_of(value: Any) -> dict[str, Any]:
    """An object's attributes, from its ``__dict__`` and slots, without running any code of its.

    What a cached property has computed is left out: it follows from the rest.
    """
    try:
        found = dict(object.__getattribute__(value, "__dict__"))
    except (AttributeError, TypeError):
        found = {}
    for cls in type(value).__mro__:
        for name in _slots(cls):
            slot = vars(cls).get(name)
            if isinstance(slot, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # not set
                    found[name] = slot.__get__(value, type(value))
        for name, member in vars(cls).items():
            if name in found and type(member).__name__ in ("cached_property", "_lru_cache_wrapper"):
                del found[name]
    return {str(name): item for name, item in found.items()}


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def name_of(value: Any) -> str:
    """The name that keys know a class or function by."""
    if isinstance(value, type) and (pinned := vars(value).get("__dspy_ft_name__")) is not None:
        return str(pinned)
    qualname = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', '') or ''}.{qualname}".lstrip(".")


def sort_key(value: Any) -> str:
    """An order of JSON values that no hash seed changes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
