"""What Python's objects are: class and state of the user's, settings of others, the bytes of arrays and tables."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from pytest_dspy_ft.fingerprint.code import CodeWalk
from pytest_dspy_ft.fingerprint.live import holds_nothing, is_live
from pytest_dspy_ft.fingerprint.origin import is_user_code
from pytest_dspy_ft.fingerprint.walk import attributes_of, has_own_key, name_of
from pytest_dspy_ft.redaction import is_secret

_PLAIN = (str, bytes, int, float, bool, type(None), list, tuple, dict, set, frozenset, re.Pattern, enum.Enum)

_PASSING = re.compile(
    r"time|stamp|created|started|updated|uuid|nonce|session|expire|counter|calls|hits|misses|elapsed|pid$|_id$|^id$",
    re.IGNORECASE,
)
"""Attributes of others' objects that may be the moment's."""

_LARGEST = 64_000_000
"""Bytes of an array on another device, or of a table, that are read; of larger ones only their form counts."""


class ObjectWalk(CodeWalk):
    """Describes instances."""

    def by_type(self, value: Any) -> bool:
        """Whether a value is live."""
        return is_live(value)

    def python(self, value: Any) -> Any:
        """Describe what is neither plain, nor a container, nor DSPy's."""
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, functools.partial):
            parts = [self.describe(v) for v in (value.func, value.args, value.keywords)]
            return {"partial": parts}
        if isinstance(value, types.MethodType):
            return {"method": [self.describe(value.__func__), self.describe(value.__self__, ".__self__")]}
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            bound = value.__self__
            inside = (
                {} if bound is None or isinstance(bound, (types.ModuleType, type)) else {"of": self.describe(bound)}
            )
            return {"builtin": name_of(value), **(inside if inside.get("of") else {})}
        if isinstance(value, type):
            return {"class": self.class_content(value)}
        if is_live(value):
            self.note_live(value)
            return {"class": name_of(type(value)), "state": {}}
        if isinstance(value, BaseModel):
            return self._model(value)
        if dataclasses.is_dataclass(value):
            return self._dataclass(value)
        data = self._data(value)
        return self._state(value) if data is None else data

    def note_live(self, value: Any, at: str = "") -> None:
        """Note a live thing that has a content: a client, a file; locks and loggers have none."""
        if not holds_nothing(value):
            self.note(value, "is known by its type", at)

    def _model(self, value: BaseModel) -> Any:
        state = attributes_of(value)
        try:
            dumped: Any = value.model_dump(warnings=False)
        except Exception:  # a serializer of the user's
            dumped = state
        described = {"class": self.class_content(type(value)), "fields": self.describe(dumped)}
        if not is_user_code(type(value)):
            return described
        private = getattr(value, "__pydantic_private__", None) or {}
        left_out = {k: v for k, v in state.items() if not isinstance(dumped, Mapping) or k not in dumped}
        extra = self.named({**left_out, **private})
        return {**described, **({"state": extra} if extra else {})}

    def _dataclass(self, value: Any) -> Any:
        state = attributes_of(value)
        names = [field.name for field in dataclasses.fields(value)]
        described = {
            "class": self.class_content(type(value)),
            "fields": self.named({name: state[name] for name in names if name in state}),
        }
        extra = self.named({name: v for name, v in state.items() if name not in names})
        return {**described, **({"state": extra} if extra and is_user_code(type(value)) else {})}

    # --- state -------------------------------------------------------------------------------------------------------

    def _state(self, value: Any) -> Any:
        cls = type(value)
        state = self.settings_of(value, attributes_of(value))
        if not state and not _has_room(value):
            return self._opaque(value)
        if is_user_code(cls):
            public = self.named(state)
        else:
            public = {name: self.describe(v, f".{name}") for name, v in state.items() if not is_secret(name)}
        return {"class": self.class_content(cls), "state": public}

    def settings_of(self, value: Any, state: dict[str, Any]) -> dict[str, Any]:
        """The part of an object's state that is not what a run leaves behind."""
        raise NotImplementedError

    def _opaque(self, value: Any) -> Any:
        """Describe an object without attributes: by how Python would copy it where it is Python's own."""
        cls = type(value)
        described = {"class": self.class_content(cls), "state": {}}
        if cls.__module__.partition(".")[0] in sys.stdlib_module_names and cls is not object:
            try:
                made = value.__reduce_ex__(4)
            except Exception:
                made = ""
            if isinstance(made, tuple):
                return {**described, "state": self.describe([part for part in made[1:3] if part is not None])}
        if not is_user_code(cls):
            self.note(value, "has no state that can be read")
        return described

    # --- arrays and tables -------------------------------------------------------------------------------------------

    def _data(self, value: Any) -> Any:
        cls = type(value)
        package = cls.__module__.partition(".")[0]
        if package == "numpy" and cls.__name__ == "dtype":
            return {"class": "numpy.dtype", "text": str(value)}
        if package in ("pandas", "polars", "pyarrow", "torch", "tensorflow", "jax", "jaxlib"):
            return self._foreign_data(value, package)
        if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # numpy arrays and scalars, without importing numpy
            if str(value.dtype) == "object":  # its bytes are addresses
                return {"array": "object", "items": self.describe(value.tolist())}
            shape = {"shape": list(value.shape)} if is_user_code(cls) else {}
            return {"array": str(value.dtype), "bytes": hashlib.sha256(value.tobytes()).hexdigest(), **shape}
        if cls.__name__ in ("array", "memoryview") and cls.__module__ in ("array", "builtins"):
            return {"class": name_of(cls), "bytes": hashlib.sha256(value.tobytes()).hexdigest()}
        return None

    def _foreign_data(self, value: Any, package: str) -> Any:
        described: dict[str, Any] = {"class": name_of(type(value))}
        if package == "pandas" and hasattr(value, "memory_usage") and hasattr(value, "to_dict"):
            hashes = sys.modules["pandas"].util.hash_pandas_object(value, index=True)
            names = list(value.columns) if hasattr(value, "columns") else [value.name]
            types_of = [str(t) for t in value.dtypes] if hasattr(value, "columns") else [str(value.dtype)]
            rows = hashlib.sha256(hashes.to_numpy().tobytes()).hexdigest()
            return {**described, "names": self.describe(names), "types": types_of, "rows": rows}
        if package == "pandas" and hasattr(value, "tolist"):
            return {**described, "items": self.describe(value.tolist())}
        if package == "polars" and hasattr(value, "to_dict"):
            return {**described, "columns": self.describe(value.to_dict(as_series=False))}
        if hasattr(value, "to_pydict"):
            return {**described, "columns": self.describe(value.to_pydict())}
        if hasattr(value, "to_list") and package in ("polars", "pyarrow") and not hasattr(value, "collect"):
            return {**described, "items": self.describe(value.to_list())}
        if hasattr(value, "detach") and hasattr(value, "element_size"):
            described |= {"type": str(value.dtype), "shape": list(value.shape)}
            if value.numel() * value.element_size() > _LARGEST:
                self.note(value, "is too large to be read")
                return described
            plain = value.detach().cpu().contiguous()
            raw = plain.reshape(-1).view(sys.modules["torch"].uint8) if plain.numel() else plain
            return {**described, "bytes": hashlib.sha256(raw.numpy().tobytes()).hexdigest()}
        if hasattr(value, "__array__") and hasattr(value, "dtype"):
            return {**described, "array": self.describe(sys.modules["numpy"].asarray(value))}
        return None

    # --- what code refers to -----------------------------------------------------------------------------------------

    def global_content(self, value: Any, at: str) -> Any:
        """Describe a global: settings and what is the user's in full, others' objects where nothing is live."""
        if isinstance(value, types.ModuleType):
            return {"object": name_of(value)}
        if isinstance(value, (types.FunctionType, type, functools.partial, *_PLAIN)) or has_own_key(value):
            return self.describe(value, at)
        if is_live(value):
            self.note_live(value, at)
            return {"object": name_of(type(value))}
        cls = type(value)
        known = cls.__module__.partition(".")[0] in (*sys.stdlib_module_names, "dspy", "numpy", "pandas", "torch")
        if is_user_code(cls) or known or isinstance(value, (BaseModel, Mapping, types.MethodType)):
            return self.describe(value, at)
        return self._of_others(value, at)

    def _of_others(self, value: Any, at: str) -> Any:
        """Describe another package's object: its plain settings and the user's code in it, if nothing in it is live."""
        state = {name: v for name, v in attributes_of(value).items() if not is_secret(name)}
        if any(is_live(v) for v in state.values()) or not state:
            self.note(value, "is known by its type", at)
            state = {name: v for name, v in state.items() if isinstance(v, types.FunctionType) and is_user_code(v)}
            held = {name: self.describe(v, f"{at}.{name}") for name, v in state.items()}
            return {"object": name_of(type(value)), **({"holds": held} if held else {})}
        kept = {name: v for name, v in state.items() if not _PASSING.search(name)}
        with self.apart() as unseen:
            described = {name: self.describe(v, f"{at}.{name}") for name, v in kept.items()}
        if len(kept) < len(state):
            unseen[f"{at.lstrip('.')}: parts of a {name_of(type(value))} are left out"] = None
            self.unseen.update(unseen)
        return {"object": name_of(type(value)), "state": described}

    # --- types -------------------------------------------------------------------------------------------------------

    def annotation(self, annotation: Any) -> Any:
        """Describe a field's type: its name, and what the user's classes in it are made of."""
        inner = [self.annotation(a) for a in get_args(annotation) if not isinstance(a, str)]
        own = [self.describe_once(annotation)] if isinstance(annotation, type) and is_user_code(annotation) else []
        return [_type_name(annotation), *own, *inner]

    def describe_once(self, cls: type) -> Any:
        """Describe a class that may be inside itself."""
        if id(cls) in self._inside:
            return {"cycle": cls.__qualname__}
        self._inside.add(id(cls))
        try:
            return self.class_content(cls)
        finally:
            self._inside.discard(id(cls))

    def field_types(self, cls: type) -> dict[str, Any]:
        """Describe the types of a model's fields, where the user's classes are in them.

        Names in annotations that stand at the top of a module are found through the class's body; here are those of
        classes that were made inside a function, or that a body does not show.
        """
        if "<locals>" not in cls.__qualname__ and _has_source(cls):
            return {}
        if issubclass(cls, BaseModel):
            hints = {name: field.annotation for name, field in cls.model_fields.items()}
        else:
            own = vars(cls).get("__annotations__", {}) if sys.version_info < (3, 14) else {}
            hints = own
            if any(isinstance(hint, str) for hint in own.values()) or not own:
                try:
                    hints = typing.get_type_hints(cls)
                except Exception:
                    hints = own
        return {name: self.annotation(hint) for name, hint in hints.items() if _holds_own(hint)}


def _holds_own(annotation: Any) -> bool:
    if isinstance(annotation, type) and not get_args(annotation):
        return is_user_code(annotation)
    return any(_holds_own(a) for a in get_args(annotation))


def _has_source(cls: type) -> bool:
    import inspect

    try:
        return bool(inspect.getsource(cls))
    except (OSError, TypeError, IndexError):
        return False


def _type_name(annotation: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(annotation))


def _has_room(value: Any) -> bool:
    """Whether an object can have attributes that are read: a ``__dict__``, or slots."""
    try:
        object.__getattribute__(value, "__dict__")
    except (AttributeError, TypeError):
        return any("__slots__" in vars(cls) for cls in type(value).__mro__[:-1])
    return True
