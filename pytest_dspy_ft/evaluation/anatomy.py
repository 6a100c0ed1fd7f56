"""What a program consists of, part by part, as JSON: to hold one program against another.

Unlike a fingerprint it leaves nothing out that could change an answer: replaced methods with what they close over,
objects of the user's, LMs with address and settings, the order of keys in demos, which parts are one and the same.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args, get_origin

import dspy

from pytest_dspy_ft.evaluation.known import full_name
from pytest_dspy_ft.evaluation.values import Path, Writer, attributes, place
from pytest_dspy_ft.fingerprint import canonical, fingerprint, is_user_code, lm_identity
from pytest_dspy_ft.insides.fields import COMPILED
from pytest_dspy_ft.redaction import without_secrets

LEFT_BEHIND: Final = frozenset(
    {
        *("candidate_programs", "mb_candidate_programs", "trial_logs", "detailed_results", "results_best"),
        *("results_latest", "flag_compilation_error_occurred"),
    }
)
"""What DSPy's optimizers note on the program that they give back: no program reads it."""

_RUN_STATE: Final = frozenset({"history", "callbacks", "traces", "train"})


def module_attributes(module: Any, path: Path) -> dict[str, Any]:
    """The attributes of a module that make it what it is: not what runs and optimizers note on it."""
    skipped = _RUN_STATE
    if isinstance(module, dspy.Predict):
        skipped = skipped | {"stage"}  # a random name
    if not path:
        skipped = skipped | LEFT_BEHIND | {COMPILED}
    return {name: value for name, value in vars(module).items() if name not in skipped}


def written_class(value: Any) -> type:
    """The class that the user wrote, also of a program that brings its LM along."""
    found: type = getattr(type(value), "__dspy_ft_written__", type(value))
    return found


class Anatomy(Writer):
    """A program and all its parts as JSON.

    Args:
        program: The program.

    Attributes:
        nodes: What each part was written as, by its path.
        modules: The modules by path, each under the path where it was met first.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.nodes: dict[Path, Any] = {}
        self.modules: dict[Path, Any] = {}
        self._places: dict[int, Path] = {}
        self.root = self.write(program)

    def place_of(self, module: Any) -> Path | None:
        """Where a module was met first."""
        return self._places.get(id(module))

    def write(self, value: Any, path: Path = ()) -> Any:
        """The value as JSON; nothing is refused."""
        written = self.nodes[path] = super().write(value, path)
        return written

    def circle(self, value: Any, path: Path) -> Any:
        """A value that stands inside itself: by its type."""
        return {"circle": full_name(type(value))}

    def other(self, value: Any, path: Path) -> Any:
        """Modules, LMs, signatures, functions and live things."""
        if isinstance(value, dspy.Module):
            return self._module(value, path)
        if isinstance(value, dspy.BaseLM):
            return {"lm": lm_node(value)}
        if isinstance(value, type):
            return signature_node(value) if issubclass(value, dspy.Signature) else {"class": full_name(value)}
        if isinstance(value, types.FunctionType):
            return self._function(value, path)
        if isinstance(value, types.MethodType):
            of = self._part(value.__self__, path, "__self__")
            return {"method": self._part(value.__func__, path, "__func__"), "of": of}
        if isinstance(value, functools.partial):
            parts = {name: self._part(getattr(value, name), path, name) for name in ("func", "args", "keywords")}
            return {"partial": parts}
        if isinstance(value, (types.BuiltinFunctionType, types.ModuleType)) or get_origin(value) is not None:
            return {"name": str(value) if get_origin(value) is not None else getattr(value, "__name__", "")}
        return self._installed(value, path)

    def object(self, value: Any, kind: type, path: Path) -> Any:
        """An object of the user's: its class and its attributes."""
        if isinstance(value, dspy.Module | dspy.BaseLM | type) or callable(getattr(value, "__dspy_ft_key__", None)):
            return self.other(value, path)
        return super().object(value, kind, path)

    def _mapping(self, value: Mapping[Any, Any], path: Path) -> Any:
        names = [key if type(key) is str else _text(super(Anatomy, self).write(key, path)) for key in value]
        items = {n: self.write(value[key], (*path, ("key", key))) for n, key in zip(names, value, strict=True)}
        return {"map": items, "order": names}

    def _pairs(self, value: Mapping[Any, Any], path: Path) -> Any:
        return self._mapping(value, path)

    def _part(self, value: Any, path: Path, name: str) -> Any:
        return self.write(value, (*path, ("attribute", name)))

    def _module(self, module: Any, path: Path) -> Any:
        if (first := self._places.setdefault(id(module), path)) != path:
            return {"same": place(first)}
        self.modules[path] = module
        held = module_attributes(module, path)
        written = {name: self._part(value, path, name) for name, value in held.items()}
        return {"module": full_name(written_class(module)), "attributes": written}

    def _function(self, function: types.FunctionType, path: Path) -> Any:
        closure = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a name that is not bound yet
                closure[name] = self._part(cell.cell_contents, path, name)
        defaults = {"positional": function.__defaults__ or (), "named": function.__kwdefaults__ or {}}
        return {
            "function": full_name(function),
            **({"code": fingerprint(function, length=12)} if is_user_code(function) else {}),
            **({"closure": closure} if closure else {}),
            **{name: self._part(value, path, name) for name, value in defaults.items() if value},
        }

    def _installed(self, value: Any, path: Path) -> Any:
        """An object of an installed class: its attributes, or its type alone where it is live and cannot be copied."""
        name = full_name(type(value))
        own = getattr(value, "__dspy_ft_key__", None)
        if callable(own):
            return {"object": name, "key": self._part(own(), path, "__dspy_ft_key__")}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                copy.deepcopy(value)
                held = attributes(value) or dict(zip("ab", value.__reduce_ex__(2)[1:3], strict=False))
        except Exception:
            return {"live": name}
        return {"object": name, "state": {str(k): self._part(v, path, str(k)) for k, v in held.items()}}


def lm_node(lm: Any) -> Any:
    """An LM as JSON: class, model, settings without keys, address, engine."""
    node = lm_identity(lm)
    node["settings"] = canonical(without_secrets({n: v for n, v in lm.kwargs.items() if v is not None}))
    more = {n: getattr(lm, n, None) for n in ("cache", "num_retries", "use_developer_role")}
    if is_user_code(type(lm)):
        skipped = {"history", "callbacks", "kwargs", "model", "provider", "engine"}
        more["own"] = canonical(
            {name: value for name, value in vars(lm).items() if name not in skipped and name[0] != "_"}
        )
    return {**node, **{name: value for name, value in more.items() if value is not None}}


def signature_node(signature: Any) -> Any:
    """A signature as JSON: its instructions, and its fields in their order with all that is said of them."""
    fields = {name: field_node(field) for name, field in signature.fields.items()}
    return {"signature": signature.instructions, "fields": fields, "order": list(fields)}


def field_node(field: Any) -> Any:
    """A field of a signature as JSON."""
    extra = {name: value if isinstance(value, str) else repr(value) for name, value in _extra(field).items()}
    default = [] if field.is_required() else [repr(field.get_default())]
    return {"type": type_text(field.annotation), **extra, "default": default, "constraints": str(field.metadata)}


def type_text(annotation: Any) -> str:
    """An annotation as text that tells it from others."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return full_name(annotation)
    if isinstance(annotation, types.UnionType):
        annotation = typing.Union[get_args(annotation)]  # noqa: UP007
    inner = ", ".join(repr(a) if not isinstance(a, type) else type_text(a) for a in get_args(annotation))
    return f"{get_origin(annotation) or annotation}[{inner}]"


def _text(written: Any) -> str:
    return json.dumps(written, sort_keys=True)


def _extra(field: Any) -> dict[str, Any]:
    return dict(field.json_schema_extra or {})


ABSENT: Final = "nothing"

_STEPS: Final = {
    "map": "key",
    **dict.fromkeys(("attributes", "state", "fields", "extra", "private", "closure", "lm"), "attribute"),
}
"""Names within a node under which parts stand by name, and the steps that lead to them."""


def differences(first: Any, second: Any, path: Path = (), step: str | None = None) -> Iterator[tuple[Path, Any, Any]]:
    """Where two parts, as an :class:`Anatomy` wrote them, are not the same.

    Args:
        first: One.
        second: The other.
        path: Where they stand.
        step: What the names in them are: steps of a path, or (None) the words of a node.

    Yields:
        The path, and what stands there in each.
    """
    if type(first) is dict and type(second) is dict:
        if step is None and ("live" in first or "live" in second):  # known by its type alone
            types_ = [node.get("live", node.get("object")) for node in (first, second)]
            if types_[0] != types_[1]:
                yield path, first, second
            return
        for name in dict.fromkeys([*first, *second]):
            below = path if step is None else (*path, (step, name))
            if name in first and name in second:
                yield from differences(first[name], second[name], below, _STEPS.get(name) if step is None else None)
            else:
                yield below, first.get(name, ABSENT), second.get(name, ABSENT)
    elif type(first) is list and type(second) is list and len(first) == len(second):
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from differences(one, other, (*path, ("item", i)))
    elif first != second or type(first) is not type(second):
        yield path, first, second


def same(first: Any, second: Any) -> bool:
    """True where two parts, as an :class:`Anatomy` wrote them, are the same."""
    return next(differences(first, second), None) is None


def shown(node: Any) -> str:
    """A part in a few words, for messages."""
    if isinstance(node, Mapping):
        for name in ("live", "lm", "module", "object", "function", "signature"):
            if name in node:
                said = node[name]
                return f"{name} {said['model'] if name == 'lm' else said}"
    text = node if node == ABSENT else json.dumps(node, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
