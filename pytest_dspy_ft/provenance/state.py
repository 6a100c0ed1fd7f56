"""What functions refer to by name, as digests: settings, objects and their attributes, and which function a name means.

Functions are named, not read: those that ran are compared one by one. Objects of the user's are taken apart into their
attributes, so that one that running changes (a counter, a cache) can be left out and the others still be compared.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_dspy_ft.fingerprint.credentials import is_credential
from pytest_dspy_ft.fingerprint.describe import Description, describe, digest_json
from pytest_dspy_ft.fingerprint.origin import is_user_code, is_user_module
from pytest_dspy_ft.fingerprint.source import references
from pytest_dspy_ft.provenance.modules import Modules
from pytest_dspy_ft.records.footprint import NOT_COMPARED
from pytest_dspy_ft.redaction import HIDDEN, redact

SELF = ""
"""Stands, among an object's attributes, for what the object itself is."""

CREDENTIAL = "is a credential"
"""What a record says of a key that was not compared."""

_OUTSIDE = {
    "open": "files",
    "read_text": "files",
    "read_bytes": "files",
    "environ": "environment variables",
    "getenv": "environment variables",
}
"""Names that tell that a function reads what nobody declared."""


@dataclass
class State:
    """What some functions refer to."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    """Digests by name (``ourapp.settings:CONFIG``) and attribute; :data:`SELF` for the value itself."""
    unseen: set[str] = field(default_factory=set)
    """What may matter and cannot be read, in words."""


def state_of(codes: Iterable[types.CodeType], modules: Modules) -> State:
    """What functions refer to: globals, names through modules, imports in their bodies, attributes of their class.

    Args:
        codes: Code objects of the user's functions.
        modules: Where they live.
    """
    state = State()
    for code in codes:
        home, space = modules.name_of(code), modules.namespace_of(code)
        for name, value in references(code, space).items():
            if not _is_foreign_module(space.get(name.partition(".")[0])):
                _note(state, f"{home}:{name}", value)
        owner = owner_of(code, space)
        if owner is not None:
            _note(state, f"{home}:{owner.__qualname__}", owner)
        reads = sorted({_OUTSIDE[name] for name in code.co_names if name in _OUTSIDE})
        if reads:
            state.unseen.add(f"{home}.{code.co_qualname} reads {' and '.join(reads)}")
    return state


def state_named(name: str, value: Any) -> dict[str, str]:
    """The digests of one value and its attributes, by attribute."""
    state = State()
    _note(state, name, value)
    return state.values.get(name, {})


def owner_of(code: types.CodeType, space: Mapping[str, Any]) -> type | None:
    """The class in whose body a method's code was written; None for a function, and where it has no name."""
    path = code.co_qualname.split(".")[:-1]
    if not path or "<locals>" in path:
        return None
    value: Any = space.get(path[0])
    for name in path[1:]:
        value = vars(value).get(name) if isinstance(value, type) else None
    return value if isinstance(value, type) else None


def _is_foreign_module(value: Any) -> bool:
    """A module of an installed package: what it holds is not the user's, and may be anything (``os.environ``)."""
    return isinstance(value, types.ModuleType) and not is_user_module(value)


def _note(state: State, name: str, value: Any) -> None:
    if name in state.values or isinstance(value, types.ModuleType):
        return
    if _is_credential(name.rpartition(":")[2].rpartition(".")[2], value):
        state.values[name] = {SELF: NOT_COMPARED}
        state.unseen.add(f"{name.replace(':', '.')} {CREDENTIAL}")
        return
    what, attributes = _parts(value)
    digests = {SELF: digest_json(what, length=16)}
    for attribute, part in attributes.items():
        if _is_credential(attribute, part):
            digests[attribute] = NOT_COMPARED
            state.unseen.add(f"{name.replace(':', '.')}.{attribute} {CREDENTIAL}")
            continue
        described = _described(part)
        digests[attribute] = digest_json(described.content, length=16)
        state.unseen |= {f"{name}.{attribute}{_at(where)}" for where in described.unseen}
    if not attributes and what is _DATA:
        described = _described(value)
        digests[SELF] = digest_json(described.content, length=16)
        state.unseen |= {f"{name}{_at(where)}" for where in described.unseen}
    state.values[name] = digests


def _is_credential(name: str, value: Any) -> bool:
    """True for a key: whose it is, and whether a session has one, changes with the machine, not with the code."""
    return is_credential(name, value) or (isinstance(value, str) and redact(value) == HIDDEN)


def _at(where: str) -> str:
    return f": {where}" if where else ""


_DATA = {"data": True}
"""The value is described whole."""


def _parts(value: Any) -> tuple[Any, dict[str, Any]]:
    """What a value is, as JSON, and its attributes where they are compared one by one."""
    if isinstance(value, type):
        if not is_user_code(value):
            return _identity(value), {}
        return (_DATA, {}) if _holds_data(value) else (_identity(value), _class_attributes(value))
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, functools.partial, types.MethodType)):
        return _callable(value), {}
    if getattr(value, "__dict__", {}).get("__wrapped__") is not None:
        return _callable(value), {}
    kind = type(value)
    own_key = callable(getattr(kind, "__dspy_ft_key__", None))
    if not own_key and (isinstance(value, types.SimpleNamespace) or _is_users_object(value)):
        attributes = {**_class_attributes(kind), **vars(value)} if is_user_code(kind) else dict(vars(value))
        return _identity(kind), {k: v for k, v in attributes.items() if not _computed(kind, k)}
    return _DATA, {}


def _is_users_object(value: Any) -> bool:
    """An object of a class of the user's, that is not described as a whole already (programs, LMs, data models)."""
    kind = type(value)
    if not is_user_code(kind) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    return not (_holds_data(kind) or any(base.__module__.partition(".")[0] == "dspy" for base in kind.__mro__))


def _holds_data(kind: type) -> bool:
    """True for data models (signatures among them) and enumerations: what they are is what their fields say."""
    return any(base.__module__.partition(".")[0] in ("pydantic", "enum") for base in kind.__mro__)


def _computed(kind: type, name: str) -> bool:
    """True for the attribute that a cached property fills when it is first read."""
    return any(isinstance(vars(cls).get(name), functools.cached_property) for cls in kind.__mro__)


def _class_attributes(cls: type) -> dict[str, Any]:
    """Attributes of a class and its bases of the user's that are no functions, and methods from elsewhere."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not is_user_code(base):
            continue
        for name, value in vars(base).items():
            if isinstance(value, (types.FunctionType, staticmethod, classmethod)):
                function = getattr(value, "__func__", value)
                if _identity(function) != f"{base.__module__}.{base.__qualname__}.{name}":  # not what its body says
                    found[name] = _Named(_callable(function))
            elif not (name.startswith("__") and name.endswith("__")) and not hasattr(type(value), "__get__"):
                found[name] = value
    return found


@dataclass(frozen=True)
class _Named:
    """A function as which it is, rather than as what it says."""

    content: Any

    def __dspy_ft_key__(self) -> Any:
        return self.content


def _identity(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _callable(value: Any) -> Any:
    """Which function a callable is, with what it is bound to: what it says is compared where it ran."""
    if isinstance(value, functools.partial):
        bound = [_content(part) for part in (*value.args, *sorted(value.keywords.items()))]
        return {"partial": _callable(value.func), "bound": bound}
    if isinstance(value, types.MethodType):
        return {"method": _identity(value.__func__), "of": _content(value.__self__)}
    described: dict[str, Any] = {"function": _identity(value), "kind": type(value).__qualname__}
    wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
    if wrapped is not None:
        described["wraps"] = _callable(wrapped)
    if isinstance(value, types.FunctionType):
        described["written"] = value.__code__.co_qualname
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(_content(cell.cell_contents))
            except ValueError:  # not bound yet
                cells.append(None)
        described["closure"] = cells
        described["defaults"] = [_content(part) for part in value.__defaults__ or ()]
    return described


def _content(value: Any) -> Any:
    """A part of a callable: another callable as which it is, anything else as what it holds."""
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, functools.partial, types.MethodType)):
        return _callable(value)
    return _identity(value) if isinstance(value, type) else _described(value).content


def _described(value: Any) -> Description:
    return describe(value.content if isinstance(value, _Named) else value)
