"""Signatures as JSON: instructions, and every field by its name with its type, its prefix and its description."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import fractions
import pathlib
import types
import typing
import uuid
from collections import abc
from typing import Any, Final, get_args, get_origin

import dspy
from pydantic import Field

from pytest_dspy_ft.evaluation.anatomy import field_node, type_text
from pytest_dspy_ft.evaluation.values import Path, Reader, UnkeptError, Writer

_SPECIAL: Final[dict[str, Any]] = {"Any": Any, "None": None, "NoneType": type(None), "...": ...}

_PLAIN_TYPES: Final[dict[str, type]] = {
    kind.__name__: kind for kind in (str, int, float, bool, bytes, complex, list, dict, tuple, set, frozenset, object)
}
_VALUE_MODULES: Final[dict[str, Any]] = {
    module.__name__: module for module in (datetime, decimal, fractions, pathlib, uuid)
}
_GENERICS: Final[dict[str, Any]] = {
    **_PLAIN_TYPES,
    "Sequence": abc.Sequence,
    "Mapping": abc.Mapping,
    "Iterable": abc.Iterable,
    "Callable": abc.Callable,
}
_CONSTRAINTS: Final = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")


def write_signature(signature: Any, old: Any, writer: Writer, path: Path) -> dict[str, Any]:
    """A signature as JSON.

    Args:
        signature: The signature.
        old: The one in whose place it stands, from which fields of the same type are taken; None without one.
        writer: Writes values and names.
        path: Where it stands.

    Raises:
        UnkeptError: If a field's type or default cannot be written.
    """
    before = {} if old is None else old.fields
    fields = []
    for name, field in signature.fields.items():
        below = (*path, ("attribute", name))
        extra = dict(field.json_schema_extra or {})
        if name in before and _same_type(before[name], field):
            known = dict(before[name].json_schema_extra or {})
            changed = {k: writer.write(v, below) for k, v in extra.items() if k not in known or known[k] != v}
            fields.append({"name": name, "extra": changed, "dropped": [k for k in known if k not in extra]})
        else:
            entry = {"name": name, "type": _write_type(field.annotation, writer, below)}
            entry["extra"] = {k: writer.write(v, below) for k, v in extra.items()}
            entry["constraints"] = _write_constraints(field, writer, below)
            if field.default_factory is not None:
                raise UnkeptError(below, "its default comes from a function")
            if not field.is_required():
                entry["default"] = writer.write(field.default, below)
            fields.append(entry)
    return {"name": signature.__name__, "instructions": signature.instructions, "fields": fields}


def read_signature(written: dict[str, Any], old: Any, reader: Reader) -> Any:
    """The signature.

    Args:
        written: From :func:`write_signature`.
        old: The signature in whose place it comes, or None.
        reader: Reads values and names.

    Raises:
        ValueError: If it was taken from another one than ``old``, or names something that is not known.
    """
    before = {} if old is None else old.fields
    fields = {}
    for entry in written["fields"]:
        name = entry["name"]
        extra = {key: reader.read(value) for key, value in entry["extra"].items()}
        if "type" in entry:
            more = {key: reader.read(value) for key, value in entry["constraints"].items()}
            default = reader.read(entry["default"]) if "default" in entry else ...
            field = Field(default, json_schema_extra=extra, **more)
            fields[name] = (_read_type(entry["type"], reader), field)
        elif name in before:
            field = copy.deepcopy(before[name])
            kept = {k: v for k, v in (field.json_schema_extra or {}).items() if k not in entry["dropped"]}
            field.json_schema_extra = {**kept, **extra}
            fields[name] = (before[name].annotation, field)
        else:
            raise ValueError(f"the program's signature has no field {name!r}")
    made = dspy.Signature(fields, written["instructions"], written["name"])
    made.instructions = written["instructions"]
    return made


def _same_type(one: Any, other: Any) -> bool:
    first, second = field_node(one), field_node(other)
    return one.annotation == other.annotation and all(first[k] == second[k] for k in ("default", "constraints"))


def _write_constraints(field: Any, writer: Writer, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for constraint in field.metadata:
        names = [f.name for f in dataclasses.fields(constraint)] if dataclasses.is_dataclass(constraint) else []
        held = {name: getattr(constraint, name) for name in names}
        if not held or not held.keys() <= set(_CONSTRAINTS):
            raise UnkeptError(path, f"its constraint {constraint!r} cannot be kept")
        found |= {name: writer.write(value, path) for name, value in held.items()}
    return found


def _write_type(annotation: Any, writer: Writer, path: Path) -> Any:
    for name, special in _SPECIAL.items():
        if annotation is special:
            return name
    origin: Any = get_origin(annotation)
    arguments: Any = get_args(annotation)
    if origin is typing.Literal:
        return {"literal": [writer.write(value, path) for value in arguments]}
    if origin is typing.Union or origin is types.UnionType:
        return {"union": [_write_type(a, writer, path) for a in arguments]}
    if _GENERICS.get(getattr(origin, "__name__", "")) is origin is not None:
        return {"generic": origin.__name__, "of": [_write_type(a, writer, path) for a in arguments]}
    if origin is None and isinstance(annotation, type):
        name, module = str(annotation.__name__), annotation.__module__
        if _PLAIN_TYPES.get(name) is annotation:
            return name
        if module in _VALUE_MODULES:
            return {"standard": [module, name]}
        return {"class": writer.named(annotation, path)}
    raise UnkeptError(path, f"its type {type_text(annotation)} cannot be written down")


def _read_type(written: Any, reader: Reader) -> Any:
    if isinstance(written, str):
        return _SPECIAL[written] if written in _SPECIAL else _PLAIN_TYPES[written]
    if "literal" in written:
        return typing.Literal[tuple(reader.read(value) for value in written["literal"])]
    if "union" in written:
        return typing.Union[tuple(_read_type(part, reader) for part in written["union"])]  # noqa: UP007
    if "generic" in written:
        origin: Any = _GENERICS[written["generic"]]
        return origin[tuple(_read_type(part, reader) for part in written["of"])]
    if "standard" in written:
        module, name = written["standard"]
        return getattr(_VALUE_MODULES[module], name)
    return reader.class_of(written["class"])
