"""What code says: digests of the functions in a file, and the objects that a function's code refers to by name.

Comments and formatting never count: a source is parsed and written anew before it is hashed. Nothing is imported here;
what a function would import is looked up among the modules that are loaded.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib.util
import inspect
import sys
import textwrap
import types
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dspy_ft.fingerprint.origin import is_user_module
from pytest_dspy_ft.fingerprint.walk import name_of


@dataclass(frozen=True)
class SourceFunction:
    """A function, lambda, comprehension or class as it stands in a file."""

    firstlineno: int
    """Its first line, decorators included: what ``co_firstlineno`` says of its code."""
    digest: str
    """Hash of its source without comments and formatting, decorators and defaults included."""


SourceIndex = Mapping[str, tuple[SourceFunction, ...]]
"""Everything in a file by its qualified name (``co_qualname``): ``Class.method``, ``outer.<locals>.<lambda>``."""


def source_index(path: str | Path) -> SourceIndex:
    """What stands in a file, by qualified name; read again when the file has another time stamp or size.

    A file that cannot be read or parsed holds nothing.
    """
    try:
        state = Path(path).stat()
    except OSError:
        return {}
    return _index_of_file(str(path), state.st_mtime_ns, state.st_size)


def index_source(text: str) -> SourceIndex:
    """What stands in a source text, by qualified name."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    found: dict[str, list[SourceFunction]] = {"<module>": [SourceFunction(1, _digest(tree))]}
    for qualname, node in _definitions(tree, ""):
        found.setdefault(qualname, []).append(SourceFunction(_first_line(node), _digest(node)))
    return {name: tuple(functions) for name, functions in found.items()}


def function_digest(path: str | Path, qualname: str, firstlineno: int | None = None) -> str | None:
    """The digest of one function in a file.

    Args:
        path: The file.
        qualname: Its qualified name, as ``co_qualname`` says it.
        firstlineno: Its first line, to tell several of one name apart; where none of them begins there (the file
            changed since it was loaded), or it is None, the digest is of all of that name together.

    Returns:
        None where there is no such function.
    """
    functions = source_index(path).get(qualname, ())
    here = [function for function in functions if function.firstlineno == firstlineno] or list(functions)
    if len(here) <= 1:
        return here[0].digest if here else None
    return hashlib.sha256("".join(function.digest for function in here).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _index_of_file(path: str, _mtime_ns: int, _size: int) -> SourceIndex:
    try:
        text = Path(path).read_bytes()
        return index_source(importlib.util.decode_source(text))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}


def _digest(node: ast.AST) -> str:
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):  # thousands of operators in one expression
        text = ast.dump(node) if isinstance(node, ast.Module) else str(getattr(node, "lineno", ""))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min(int(part.lineno) for part in (node, *decorators))


_COMPREHENSIONS: dict[type[ast.AST], str] = {
    ast.Lambda: "<lambda>",
    ast.ListComp: "<listcomp>",
    ast.SetComp: "<setcomp>",
    ast.DictComp: "<dictcomp>",
    ast.GeneratorExp: "<genexpr>",
}


def _definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Everything below a node that has a code object of its own, with its qualified name."""
    todo: list[tuple[ast.AST, str]] = [(child, prefix) for child in ast.iter_child_nodes(tree)]
    while todo:
        node, inside = todo.pop()
        made = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        name = getattr(node, "name", "") if made else _COMPREHENSIONS.get(type(node))
        if not name:
            todo.extend((child, inside) for child in ast.iter_child_nodes(node))
            continue
        qualname = inside + name
        yield qualname, node
        within = f"{qualname}." if isinstance(node, ast.ClassDef) else f"{qualname}.<locals>."
        outside = _evaluated_outside(node)
        todo.extend((child, inside) for child in outside)
        todo.extend((child, within) for child in _children(node) if child not in outside)


def _children(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        arguments = node.args
        shown = [a.annotation for a in ast.walk(arguments) if isinstance(a, ast.arg) and a.annotation is not None]
        defaults = [default for default in (*arguments.defaults, *arguments.kw_defaults) if default is not None]
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        return [*shown, *defaults, *getattr(node, "decorator_list", []), *body]
    return list(ast.iter_child_nodes(node))


def _evaluated_outside(node: ast.AST) -> list[ast.AST]:
    """Parts of a definition whose code belongs to what surrounds it: decorators, defaults, bases, a first iterable."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [child for child in _children(node) if child not in node.body]
    if isinstance(node, ast.Lambda):
        return [child for child in _children(node) if child is not node.body]
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords]
    generators: list[ast.comprehension] = getattr(node, "generators", [])
    return [generators[0].iter] if generators else []


# --- what code refers to ----------------------------------------------------------------------------------------------

_TRANSPARENT = frozenset(
    {
        "CACHE",
        "COPY",
        "EXTENDED_ARG",
        "MAKE_CELL",
        "NOP",
        "NOT_TAKEN",
        "POP_TOP",
        "PUSH_NULL",
        "RESUME",
        "ROT_TWO",
        "SWAP",
    }
)
"""Instructions between a name and its attribute, or an import and the name that it is bound to."""


def references(code: types.CodeType, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What a code object refers to by name, nested functions included.

    Args:
        code: A function's code.
        namespace: The globals it runs in.

    Returns:
        Objects by label, in alphabetical order: globals (``normalize``), what is reached through modules of the
        user's (``pkg.helpers.normalize``, each chain as far as it leads through modules), and what the function imports
        (by the place it comes from, ``pkg.text.clean``). Of objects other than modules no attributes are followed.
        Modules that are not loaded, names that are not bound and builtins are left out.
    """
    found: dict[str, Any] = {}
    try:
        _CodeReader(namespace, found).read(code, {})
    except Exception:  # an instruction of a Python that this was not written for
        for name in names_in(code):
            if name in namespace:
                found.setdefault(name, namespace[name])
    return dict(sorted(found.items()))


_FROM_NAMESPACE = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})

_Bound = tuple[str, Any]


class _CodeReader:
    """Reads instructions with an eye on which of the namespace's objects lies on the stack."""

    def __init__(self, namespace: Mapping[str, Any], found: dict[str, Any]) -> None:
        self._namespace, self._found = namespace, found

    def read(self, code: types.CodeType, aliases: dict[str, _Bound]) -> None:
        """Note what one code object refers to, then the functions inside it; ``aliases``: modules under local names."""
        top: _Bound | None = None
        imported: _Bound | None = None
        before: tuple[Any, Any] = (None, None)
        for instruction in dis.get_instructions(code):
            name, argument = instruction.opname, instruction.argval
            if name in _TRANSPARENT:
                continue
            if name == "IMPORT_NAME":
                imported = top = self._imported(argument, *before)
            elif name == "IMPORT_FROM":
                top = self._step(imported, argument)
                imported = top if _goes_down(instruction, code) else imported
            elif name in ("LOAD_ATTR", "LOAD_METHOD") and top is not None and isinstance(top[1], types.ModuleType):
                if is_user_module(top[1]):
                    self._found.pop(top[0], None)
                top = self._step(top, argument)
            elif name.startswith("STORE_") and name.endswith(("_FAST", "_DEREF", "_NAME", "_GLOBAL")):
                *stored, last = argument if isinstance(argument, tuple) else (argument, None)
                if top is not None and isinstance(stored[0], str):
                    aliases[stored[0]] = top
                top = aliases.get(last) if "LOAD" in name and last else None
            elif name.startswith("LOAD_"):
                last = argument[-1] if isinstance(argument, tuple) else argument
                local = "_FAST" in name or "_DEREF" in name or "_CLASSDEREF" in name
                top = aliases.get(last) if local else self._global(last) if name in _FROM_NAMESPACE else None
            else:
                top = None
            if top is not None and not name.startswith("STORE_"):
                self._found.setdefault(*top)
            before = before[1], argument
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.read(constant, dict(aliases))

    def _global(self, name: str) -> _Bound | None:
        return (name, self._namespace[name]) if name in self._namespace else None

    def _step(self, bound: _Bound | None, name: str) -> _Bound | None:
        """A name in a module, or a module inside it."""
        if bound is None or not isinstance(bound[1], types.ModuleType) or not is_user_module(bound[1]):
            return None
        label, module = f"{bound[0]}.{name}", bound[1]
        if name in vars(module):
            return label, vars(module)[name]
        inside = sys.modules.get(f"{vars(module).get('__name__')}.{name}")
        return None if inside is None else (label, inside)

    def _imported(self, name: str, level: Any, wanted: Any) -> _Bound | None:
        """The module that an import gives: the named one for ``from x import y``, else the outermost."""
        if isinstance(level, int) and level > 0:
            package = self._namespace.get("__package__") or str(self._namespace.get("__name__", "")).rpartition(".")[0]
            parents = str(package).split(".")
            name = ".".join([*parents[: len(parents) - level + 1], *([name] if name else [])])
        module = sys.modules.get(name)
        if module is None:
            return None
        if not wanted and "." in name:
            outer = name.partition(".")[0]
            return (outer, sys.modules[outer]) if outer in sys.modules else None
        return name, module


def _goes_down(instruction: dis.Instruction, code: types.CodeType) -> bool:
    """Whether an IMPORT_FROM goes down a dotted name: the compiler's way of ``import a.b.c as d``."""
    following = code.co_code[instruction.offset + 2 : instruction.offset + 4]
    return bool(following) and dis.opname[following[0]] in ("SWAP", "ROT_TWO")


def loaded_module(name: str | None) -> types.ModuleType | None:
    """A module by its name, where it is loaded; nothing is imported."""
    return sys.modules.get(name or "")


def names_in(code: types.CodeType) -> set[str]:
    """Names of globals and attributes in a code object and the functions inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_in(constant)
    return names


# --- the source of a loaded function or class -------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def body_of(cls: Hashable) -> ast.ClassDef | None:
    """A class's source as a tree; None where there is none."""
    try:
        text = inspect.getsource(cls)  # type: ignore[arg-type]
        tree = ast.parse(textwrap.dedent(text))
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    first = tree.body[0] if tree.body else None
    return first if isinstance(first, ast.ClassDef) else None


def source_of(value: Any) -> str:
    """Source without comments and formatting, or the compiled code where there is no source."""
    return _read_source(value, getattr(value, "__code__", None))


@functools.lru_cache(maxsize=4096)
def _read_source(value: Hashable, code: types.CodeType | None) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(value if code is None else code))  # type: ignore[arg-type]
    except (OSError, TypeError, IndexError):
        return code_digest(code) if code is not None else name_of(value)
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a lambda in the middle of an expression: its line alone is no module
        return code_digest(code) if code is not None else text


def code_digest(code: types.CodeType) -> str:
    """Hash of compiled code: what stands for a function whose source cannot be had."""
    constants = [_constant(c) for c in code.co_consts]
    payload = repr((code.co_code.hex(), constants, code.co_names, code.co_varnames))
    return hashlib.sha256(payload.encode()).hexdigest()


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return code_digest(value)
    if isinstance(value, frozenset):  # its order is that of the process's hash seed
        return f"frozenset({sorted(map(_constant, value))})"
    if isinstance(value, tuple):
        return f"({[_constant(v) for v in value]})"
    return repr(value)
