"""What functions and classes are: their source without comments, and what it refers to outside itself."""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from pytest_dspy_ft.fingerprint.credentials import is_credential
from pytest_dspy_ft.fingerprint.origin import is_user_code, is_user_file, is_user_module
from pytest_dspy_ft.fingerprint.source import body_of, code_digest, loaded_module, names_in, references, source_of
from pytest_dspy_ft.fingerprint.walk import Walk, name_of, sort_key

_MUCH = 500
"""Functions and classes in one walk, after which one that was described is not described again."""

_BIG = 200_000
"""Characters of a description of code above which its hash stands for it: helpers that share helpers multiply."""


class CodeWalk(Walk):
    """Describes functions and classes."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[int, bool], tuple[Any, frozenset[int], Any]] = {}
        self._had: dict[int, Any] = {}
        self._described = 0

    def global_content(self, value: Any, at: str) -> Any:
        """Describe what code refers to by a name outside itself."""
        raise NotImplementedError

    def _once(self, value: Any, describe: Callable[[Any], Any]) -> Any:
        """Describe a function or class, or take what is known of it: what it refers to would read the same again.

        It would not where something that it refers to is being described: there it ends in a circle. Where functions
        refer to each other in every way, those that were described are named only, from some number on.
        """
        around = self._inside - {id(value)}
        key = id(value), id(value) in self._inside
        if key in self._known:
            _, reach, content = self._known[key]
            if reach.isdisjoint(around):
                self._reach |= reach
                return content
        if self._described > _MUCH and id(value) in self._had:
            return {"again": name_of(value)}
        self._described += 1
        outer, self._reach = self._reach, {id(value)}
        try:
            content = describe(value)
            if len(text := sort_key(content)) > _BIG:
                content = {"folded": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}
            self._had[id(value)] = value
            if self._reach.isdisjoint(around):
                self._known[key] = value, frozenset(self._reach), content
            return content
        finally:
            outer |= self._reach
            self._reach = outer

    # --- functions ---------------------------------------------------------------------------------------------------

    def function(self, function: types.FunctionType) -> Any:
        """Describe a function: its code where it is the user's, its name and what of the user's it holds where not."""
        return self._once(function, self._function)

    def _function(self, function: types.FunctionType) -> Any:
        wrapped = vars(function).get("__wrapped__")
        if not is_user_code(function):
            held = self._held_code(function)
            return {"function": name_of(function), **({"holds": held} if held else {})}
        around = {} if wrapped is None else {"wrapped": self.describe(wrapped, ".__wrapped__")}
        code = function.__code__
        if wrapped is not None and not _is_made_up(code) and not is_user_file(code.co_filename):
            # A decorator of somebody else's: its code is known by its name, under the name of what it wraps.
            module = function.__globals__.get("__name__", "")
            return {"function": f"{module}.{code.co_qualname}", **around, "holds": self._held_code(function)}
        source = source_of(function)
        if source.count("lambda") > 1 and function.__name__ == "<lambda>":  # several on these lines: which is it?
            source = code_digest(code)
        attributes = {name: v for name, v in vars(function).items() if not name.startswith("__")}
        return {
            "function": source,
            "defaults": self.describe(function.__defaults__),
            "kwdefaults": self.describe(function.__kwdefaults__),
            "closure": {name: self._cell(name, cell) for name, cell in _closure(function)},
            "globals": self._globals(function),
            **around,
            **({"attributes": self.named(attributes)} if attributes else {}),
            **self._elsewhere(function),
        }

    def _cell(self, name: str, cell: types.CellType) -> Any:
        try:
            value = cell.cell_contents
        except ValueError:  # a name of the enclosing function that is not bound yet
            return {"cell": "empty"}
        if is_credential(name, value):
            return self.note(value, "looks like a credential and is left out", f".{name}")
        return self.describe(value, f".{name}")

    def _held_code(self, function: types.FunctionType) -> dict[str, Any]:
        """The user's functions and classes in the closure and the attributes of somebody else's function."""
        attributes = {n: v for n, v in vars(function).items() if not n.startswith("__") and _holds_user_code(v)}
        held = self.named(attributes)
        for name, cell in _closure(function):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if _holds_user_code(value):
                held[name] = self.describe(value, f".{name}")
        return held

    def _globals(self, function: types.FunctionType) -> dict[str, Any]:
        """The user's functions, classes and constants that a function's body refers to."""
        names = names_in(function.__code__)
        found: dict[str, Any] = {}
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                if is_user_module(value):
                    used = sorted(names & vars(value).keys())
                    found[name] = {a: self._outside(f"{name}.{a}", vars(value)[a]) for a in used}
            else:
                found[name] = self._outside(name, value)
        return found

    def _elsewhere(self, function: types.FunctionType) -> dict[str, Any]:
        """What a function's body reaches through several modules, or imports itself."""
        space = function.__globals__
        found = {}
        for label, value in references(function.__code__, space).items():
            parts = label.split(".")
            near = isinstance(space.get(parts[0]), types.ModuleType) and len(parts) == 2
            if isinstance(value, types.ModuleType) or near or (len(parts) == 1 and label in space):
                continue  # a module as such, or what is among the globals already
            found[label] = self._outside(label, value)
        return {"elsewhere": found} if found else {}

    def _outside(self, name: str, value: Any) -> Any:
        if is_credential(name.rpartition(".")[2], value):
            return self.note(value, "looks like a credential and is left out", f":{name}")
        return self.global_content(value, f":{name}")

    # --- classes -----------------------------------------------------------------------------------------------------

    def class_content(self, cls: type) -> Any:
        """Describe a class: what stands in it and what that refers to where it is the user's, else its name."""
        if not is_user_code(cls):
            return name_of(cls)
        return self._once(cls, self._class)

    def _class(self, cls: type) -> Any:
        bases = [self.class_content(b) for b in cls.__bases__ if b is not object]
        methods = {
            name: self.describe(function, f".{name}")
            for name, member in vars(cls).items()
            for function in _functions(member)
        }
        source, body = source_of(cls), body_of(cls)
        described = {
            "name": cls.__qualname__,
            "source": source,
            "bases": bases,
            "uses": sorted(map(sort_key, methods.values())),
        }
        extra = {
            "metaclass": self.class_content(type(cls)) if is_user_code(type(cls)) else None,
            "refers": {} if body is None else self._body_references(cls, body),
            "data": self._class_data(cls, body),
            "types": self.field_types(cls),
            "schema": self._schema(cls) if body is None else None,
        }
        return {**described, **{name: content for name, content in extra.items() if content}}

    def _body_references(self, cls: type, body: ast.ClassDef) -> dict[str, Any]:
        """The user's constants, types and functions that a class's body names outside its methods."""
        module = loaded_module(cls.__module__)
        if module is None:
            return {}
        space, found = vars(module), {}
        for label in sorted(_labels(body)):
            value = _reach(space, label)
            if value is None or isinstance(value, types.ModuleType) or value is cls:
                continue
            owner = value if isinstance(value, (type, types.FunctionType)) else type(value)
            theirs = getattr(owner, "__module__", "") not in ("builtins", "typing", "types") and not is_user_code(owner)
            named = isinstance(value, (types.BuiltinFunctionType, type, types.FunctionType)) and not is_user_code(value)
            if not (theirs or named or value in cls.__bases__):
                found[label] = self._outside(label, value)
        return found

    def _class_data(self, cls: type, body: ast.ClassDef | None) -> dict[str, Any]:
        """Attributes of a class that are not what its body says: set, or changed, somewhere else."""
        if issubclass(cls, enum.Enum):
            return {n: self.describe(m.value) for n, m in cls.__members__.items()} if body is None else {}
        said = {} if body is None else _said(body)
        model = issubclass(cls, BaseModel)
        found = {}
        for name, value in vars(cls).items():
            if (
                name.startswith("__")
                or name in _MADE
                or _is_code(value)
                or (model and name not in vars(cls)["__class_vars__"])
            ):
                continue
            if name in said and (said[name] is _UNKNOWN or _same(said[name], value)):
                continue
            found[name] = value
        return self.named(found)

    def field_types(self, cls: type) -> dict[str, Any]:
        """Describe the types of a model's fields, where the user's classes are in them."""
        raise NotImplementedError

    def _schema(self, cls: type) -> Any:
        """A model without source: made by a function."""
        return self.describe(cls.model_json_schema()) if issubclass(cls, BaseModel) else None


# fmt: off
_MADE = frozenset({
    "_abc_impl", "model_config", "_is_protocol", "_is_runtime_protocol", "_fields", "_field_defaults", "_make",
    "_replace", "_asdict", "_field_types",
})
# fmt: on
"""Names that base classes and decorators put on a class."""

_FEW = 100

_UNKNOWN = object()


def _said(body: ast.ClassDef) -> dict[str, Any]:
    """What a class's body assigns, by name; of what is no literal only that it is assigned."""
    said: dict[str, Any] = {}
    for statement in ast.walk(body):
        if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.NamedExpr)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            value = getattr(statement, "value", None)
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        plain = node is target and isinstance(statement, (ast.Assign, ast.AnnAssign))
                        said[node.id] = _literal(value) if plain and node.id not in said else _UNKNOWN
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            said |= {(alias.asname or alias.name).partition(".")[0]: _UNKNOWN for alias in statement.names}
        elif isinstance(statement, ast.ClassDef) and statement is not body:
            said[statement.name] = _UNKNOWN
    return said


def _literal(node: ast.AST | None) -> Any:
    try:
        return _UNKNOWN if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN


def _same(one: Any, two: Any) -> bool:
    try:
        return type(one) is type(two) and repr(one) == repr(two) if not isinstance(one, set) else one == two
    except Exception:
        return False


def _is_code(value: Any) -> bool:
    code = (types.FunctionType, staticmethod, classmethod, property, types.MemberDescriptorType)
    return isinstance(value, (*code, types.GetSetDescriptorType, functools.cached_property)) or (
        isinstance(value, type) or bool(_functions(value))
    )


def _labels(body: ast.ClassDef) -> set[str]:
    """Names and dotted names in a class's body, its decorators and bases, outside its functions."""
    found: set[str] = set()
    todo: list[ast.AST] = [*body.body, *body.decorator_list, *body.keywords]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo.extend([*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)])
        elif isinstance(node, ast.Attribute) and (label := _dotted(node)):
            found.add(label)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Constant):
            todo.extend([*_quoted(node.annotation), node.value] if node.value else _quoted(node.annotation))
        elif not isinstance(node, ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
    return found


def _quoted(annotation: ast.Constant) -> list[ast.AST]:
    try:
        return [ast.parse(str(annotation.value), mode="eval")]
    except SyntaxError:
        return []


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    inner = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else ""


def _reach(space: Mapping[str, Any], label: str) -> Any:
    """What a dotted name leads to, as far as modules of the user's go."""
    first, *rest = label.split(".")
    value = space.get(first)
    for name in rest:
        if not isinstance(value, types.ModuleType) or not is_user_module(value):
            break
        value = vars(value).get(name)
    return value


def _closure(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)


def _holds_user_code(value: Any) -> bool:
    """Whether a value is, or a container holds, a function, a class or an object of the user's."""
    if type(value) in (list, tuple, set, frozenset, dict, types.MappingProxyType):
        return any(map(_holds_user_code, [*(value.values() if hasattr(value, "values") else value)][:_FEW]))
    code = value.__func__ if isinstance(value, types.MethodType) else value
    owner = code if isinstance(code, (types.FunctionType, type)) else type(code)
    return owner.__module__ not in ("builtins", "functools") and is_user_code(owner)


def _is_made_up(code: types.CodeType) -> bool:
    return code.co_filename.startswith("<")


def _functions(member: Any) -> list[Any]:
    """The functions behind a class's attribute: itself, a static or class method's, a property's, a cached one's."""
    if isinstance(member, (staticmethod, classmethod, property)):
        behind = [getattr(member, name, None) for name in ("__func__", "fget", "fset")]
    elif isinstance(member, (functools.cached_property, functools.partialmethod, functools.partial)):
        behind = [getattr(member, "func", None)]
    else:
        behind = [member]
    cached = "_lru_cache_wrapper"
    return [f for f in behind if isinstance(f, types.FunctionType) or type(f).__name__ == cached]
