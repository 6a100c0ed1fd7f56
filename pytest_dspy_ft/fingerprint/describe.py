"""What an object *is*, as canonical JSON and a hash of it: the raw material of the store's keys.

Two objects have one fingerprint when they would do the same work: a function is its source without comments and
formatting, its defaults, its closure, and the user's functions and constants it refers to; an LM is its model and
settings without secrets; a program is its classes, prompts, demos and settings. Process, machine, memory addresses and
field order never matter. Code that is installed (site-packages, the standard library) is known by its name alone.

An object may define ``__dspy_ft_key__()``, returning anything this module understands, to speak for itself. An
installed class that moves keeps the name that keys know it by in ``__dspy_ft_name__``.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import enum
import functools
import hashlib
import inspect
import json
import random
import re
import sys
import textwrap
import types
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, get_args

from pydantic import BaseModel

from pytest_dspy_ft.fingerprint.origin import is_user_code, is_user_module
from pytest_dspy_ft.fingerprint.source import code_digest
from pytest_dspy_ft.redaction import is_secret, without_secrets

# State that a run leaves behind, or that is random per object: never part of what a program is.
_MODULE_NOISE = frozenset({"history", "callbacks", "_compiled", "traces", "train", "stage", "lm", "candidate_programs"})

_PREDICTOR_STATE = frozenset({"signature", "demos", "config", "fields"})


def fingerprint(value: object, *, length: int = 32) -> str:
    """Hash of :func:`canonical` ``(value)``: ``length`` hexadecimal digits of its SHA-256."""
    return digest_json(canonical(value), length=length)


def digest_json(value: object, *, length: int = 32) -> str:
    """Hash of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def canonical(value: object) -> Any:
    """Describe any object as a JSON value that is equal for equal work."""
    return _Describer().describe(value)


@dataclasses.dataclass(frozen=True)
class Description:
    """What an object is, and what of it could not be seen."""

    content: Any
    """Canonical JSON."""
    unseen: tuple[str, ...] = ()
    """Parts that the content does not hold: where they are, and of which type."""


def describe(value: object) -> Description:
    """Describe any object as JSON that is equal for equal work, and say what of it could not be seen."""
    return Description(canonical(value))


class _Describer:
    """One walk over an object graph; remembers what it is inside of, so that cycles end."""

    def __init__(self) -> None:
        self._inside: set[int] = set()

    def describe(self, value: Any) -> Any:
        if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, float):
            return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if id(value) in self._inside:
            return {"cycle": type(value).__qualname__}
        self._inside.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._inside.discard(id(value))

    def _compound(self, value: Any) -> Any:
        own = getattr(value, "__dspy_ft_key__", None)
        if callable(own) and not isinstance(value, type):
            return {"class": _name(type(value)), "key": self.describe(own())}
        if isinstance(value, defaultdict) and value.default_factory is not None:
            default = self.describe(value.default_factory())  # DSPy keeps train_kwargs for all LMs this way
            return {"default": default, "map": self.describe(dict(value))}
        if isinstance(value, Mapping):
            return {"map": sorted(([self.describe(k), self.describe(v)] for k, v in value.items()), key=_key)}
        if isinstance(value, (list, tuple)):
            return [self.describe(v) for v in value]
        if isinstance(value, (set, frozenset)):
            return {"set": sorted((self.describe(v) for v in value), key=_key)}
        if isinstance(value, enum.Enum):
            return {"enum": f"{_name(type(value))}.{value.name}"}
        if isinstance(value, PurePath):
            return {"path": value.as_posix()}
        if isinstance(value, (datetime.date, datetime.time)):
            return {"time": value.isoformat()}
        if isinstance(value, re.Pattern):
            return {"regex": value.pattern, "flags": value.flags}
        if isinstance(value, random.Random):
            return {"random": hashlib.sha256(repr(value.getstate()).encode()).hexdigest()}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        dspy_view = self._dspy(value)
        if dspy_view is not None:
            return dspy_view
        return self._python(value)

    # --- DSPy's own objects ------------------------------------------------------------------------------------------

    def _dspy(self, value: Any) -> Any:
        dspy = sys.modules.get("dspy")
        if dspy is None:
            return None
        if isinstance(value, type):
            return self._signature(value) if issubclass(value, dspy.Signature) else None
        if isinstance(value, dspy.BaseLM):
            return {"lm": lm_identity(value)}
        if isinstance(value, dspy.Module):
            return self._program(value)
        if isinstance(value, dspy.Example):
            return {"example": self.describe(value.toDict())}
        return None

    def _signature(self, signature: Any) -> Any:
        fields = [
            [
                name,
                self._annotation(field.annotation),
                self.describe(field.json_schema_extra or {}),
                self._default(field),
            ]
            for name, field in signature.fields.items()
        ]
        return {"signature": signature.instructions, "fields": fields}

    def _annotation(self, annotation: Any) -> Any:
        """A field's type: its name, and what the user's classes in it are made of."""
        inner = [self._annotation(a) for a in get_args(annotation) if not isinstance(a, str)]
        own = [self._class(annotation)] if isinstance(annotation, type) and is_user_code(annotation) else []
        return [str(annotation), *own, *inner]

    def _default(self, field: Any) -> Any:
        """The default of a pydantic field, or None where it is required."""
        return None if field.is_required() else self.describe(field.get_default())

    def _program(self, program: Any) -> Any:
        dspy = sys.modules["dspy"]
        # A handed-out program is of a class that binds it to its LM; the one that the user wrote is what counts.
        written = getattr(type(program), "__dspy_ft_written__", type(program))
        described: dict[str, Any] = {"program": self._class(written)}
        if isinstance(program, dspy.Predict):
            described["signature"] = self.describe(program.signature)
            described["demos"] = [self.describe(dict(demo)) for demo in program.demos]
            described["config"] = self.describe(program.config)
            skip = _MODULE_NOISE | _PREDICTOR_STATE
        else:
            skip = _MODULE_NOISE
        parts = {k: self.describe(v) for k, v in vars(program).items() if k not in skip}
        return {**described, "parts": parts}

    # --- Python's objects --------------------------------------------------------------------------------------------

    def _python(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return {"partial": [self.describe(v) for v in (value.func, value.args, value.keywords)]}
        if isinstance(value, types.MethodType):
            return {"method": [self.describe(value.__func__), self.describe(value.__self__)]}
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            return {"builtin": _name(value)}
        if isinstance(value, type):
            return {"class": self._class(value)}
        if isinstance(value, BaseModel):
            return {"class": self._class(type(value)), "fields": self.describe(value.model_dump())}
        if dataclasses.is_dataclass(value):
            fields = {f.name: self.describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"class": self._class(type(value)), "fields": fields}
        if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # numpy arrays and scalars, without importing numpy
            return {"array": str(value.dtype), "bytes": hashlib.sha256(value.tobytes()).hexdigest()}
        noise = frozenset() if is_user_code(type(value)) else _MODULE_NOISE
        state = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in noise}
        for cls in type(value).__mro__:
            for slot in _slots(cls):
                if hasattr(value, slot):
                    state[slot] = getattr(value, slot)
        public = {k: self.describe(v) for k, v in state.items() if not is_secret(k)}
        return {"class": self._class(type(value)), "state": public}

    def _class(self, cls: type) -> Any:
        if not is_user_code(cls):
            return _name(cls)
        bases = [self._class(b) for b in cls.__bases__ if b is not object]
        methods = {
            name: self.describe(inspect.unwrap(function))
            for name, member in vars(cls).items()
            for function in _functions(member)
        }
        return {
            "name": cls.__qualname__,
            "source": _source(cls),
            "bases": bases,
            "uses": sorted(map(_key, methods.values())),
        }

    def _function(self, function: types.FunctionType) -> Any:
        if not is_user_code(function):
            return {"function": _name(function)}
        source = _source(function)
        if source.count("lambda") > 1 and function.__name__ == "<lambda>":  # several on these lines: which is it?
            source = code_digest(function.__code__)
        closure = {
            name: self._cell(cell)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        }
        return {
            "function": source,
            "defaults": self.describe(function.__defaults__),
            "kwdefaults": self.describe(function.__kwdefaults__),
            "closure": closure,
            "globals": self._globals(function),
        }

    def _cell(self, cell: types.CellType) -> Any:
        try:
            return self.describe(cell.cell_contents)
        except ValueError:  # a name of the enclosing function that is not bound yet
            return {"cell": "empty"}

    def _globals(self, function: types.FunctionType) -> dict[str, Any]:
        """The user's functions, classes and constants that a function's body refers to."""
        names = _names(function.__code__)
        found: dict[str, Any] = {}
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                if is_user_module(value):
                    used = sorted(names & vars(value).keys())
                    found[name] = {attribute: self._global(vars(value)[attribute]) for attribute in used}
            else:
                found[name] = self._global(value)
        return found

    def _global(self, value: Any) -> Any:
        dspy = sys.modules.get("dspy")
        settings = (BaseModel, *((dspy.Module, dspy.BaseLM, dspy.Example) if dspy is not None else ()))
        if isinstance(value, settings) or dataclasses.is_dataclass(value):
            lms = [self.describe(p.lm) for p in value.predictors()] if hasattr(value, "predictors") else []
            return [self.describe(value), *lms]
        plain = (str, bytes, int, float, bool, type(None), list, tuple, dict, set, frozenset, re.Pattern, enum.Enum)
        if isinstance(value, (types.FunctionType, type, functools.partial, *plain)):
            return self.describe(value)
        own = getattr(value, "__dspy_ft_key__", None)
        # Other live objects (a client, a logger) are not settings: their type is what the source relies on.
        return self.describe(value) if callable(own) else {"object": _name(type(value))}


def lm_identity(lm: Any) -> dict[str, Any]:
    """The identity of an LM: model, settings, address and engine; never a secret, never a machine's path.

    Args:
        lm: A ``dspy.BaseLM``.

    Returns:
        A JSON object. Training settings are not part of it: they belong to the stage that trains.
    """
    settings = canonical(without_secrets(getattr(lm, "kwargs", {})))
    identity: dict[str, Any] = {"class": _name(type(lm)), "model": lm.model, "settings": settings}
    if getattr(lm, "model_type", "chat") != "chat":
        identity["model_type"] = lm.model_type
    engine = getattr(lm, "engine", "auto")
    if not isinstance(engine, str):
        identity["engine"] = engine.identity() if hasattr(engine, "identity") else canonical(engine)
    return identity


def _source(value: Any) -> str:
    """Source without comments and formatting, or the compiled code where there is no source."""
    try:
        text = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        return code_digest(code) if code is not None else _name(value)
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a lambda in the middle of an expression: its line alone is no module
        code = getattr(value, "__code__", None)
        return code_digest(code) if code is not None else text


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _functions(member: Any) -> list[types.FunctionType]:
    """The functions behind a class's attribute: itself, a static or class method's, a property's."""
    found = [getattr(member, name, None) for name in ("__func__", "fget", "fset", "func")]
    return [f for f in (member, *found) if isinstance(f, types.FunctionType)]


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return tuple(s for s in ((slots,) if isinstance(slots, str) else slots) if s not in ("__dict__", "__weakref__"))


def _name(value: Any) -> str:
    if isinstance(value, type) and (pinned := vars(value).get("__dspy_ft_name__")) is not None:
        return str(pinned)
    qualname = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', '') or ''}.{qualname}".lstrip(".")


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
