"""Digests of functions in files agree with the names that Python gives code; references are found through modules."""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.fingerprint.source import function_digest, index_source, references, source_index

SOURCE = '''
import functools
from dataclasses import dataclass
def deco(f):
    @functools.wraps(f)
    def wrapper(*args):
        return f(*args)
    return wrapper
@deco
@functools.lru_cache(maxsize=None)
def decorated(x, key=lambda v: v):
    """Says it."""
    return [y for y in (z for z in x)]
@dataclass
class Outer:
    field: int = 3
    class Inner:
        async def method(self):
            def nested():
                return {a: b for a, b in {}}
            return nested, lambda: (lambda: 1)
    @property
    def value(self): return 1
    @value.setter
    def value(self, new): self.x = {n for n in new}
many = [lambda: 1, lambda: 2,
        lambda: 3]
if True:
    def branch(): return 1
else:
    def branch(): return 2
'''


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def test_every_code_object_is_found_by_its_name_and_line() -> None:
    index = index_source(SOURCE)
    for code in code_objects(compile(SOURCE, "f.py", "exec")):
        lines = [function.firstlineno for function in index.get(code.co_qualname, ())]
        assert code.co_qualname == "<module>" or code.co_firstlineno in lines, code.co_qualname


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("return f(*args)", "return f(*args) # why", False),
        ("return f(*args)", "return f(*args) + 1", True),
        ("    @functools.wraps(f)\n", "", True),
        ("class Outer", "class Other", False),
    ],
)
def test_digests_of_one_function(tmp_path: Path, old: str, new: str, changed: bool) -> None:
    path = tmp_path / "f.py"
    path.write_text(SOURCE)
    before = function_digest(path, "deco.<locals>.wrapper", 5)
    path.write_text("# a comment\n" + SOURCE.replace(old, new))
    os.utime(path, ns=(1, 1))
    assert before is not None
    assert (function_digest(path, "deco.<locals>.wrapper", 5) != before) is changed


def test_several_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text(SOURCE)
    first, second = (function.firstlineno for function in source_index(path)["branch"])
    digests = {function_digest(path, "branch", line) for line in (first, second, None, 1)}
    assert len(digests) == 3
    assert function_digest(path, "nobody") is None
    assert function_digest(tmp_path / "none.py", "branch") is None
    assert index_source("def (:") == {}


HELPERS = "def normalize(text): return text\nLIMIT = 3\nclass Words:\n    many = 1\n"

USER = """
import json
import ourpkg.deep.helpers
import ourpkg.deep.helpers as h
from ourpkg import deep
def by_chain(x): return ourpkg.deep.helpers.normalize(x)
def by_alias(x): return h.normalize(x)
def by_package(x): return deep.helpers.normalize(x)
def by_import(x):
    import ourpkg.deep.helpers
    return ourpkg.deep.helpers.normalize(x)
def by_import_as(x):
    import ourpkg.deep.helpers as mine
    def inner(): return mine.normalize(x)
    return inner()
def by_from(x):
    from ourpkg.deep.helpers import normalize as n, LIMIT
    return n(x, LIMIT)
def by_relative(x):
    from .deep.helpers import normalize
    return normalize(x)
def by_relative_module(x):
    from .deep import helpers
    return [helpers.normalize(y) for y in x]
def by_local(x):
    mine = ourpkg.deep.helpers
    return (lambda: mine.normalize(x))()
def by_nothing(x):
    import not_loaded_anywhere
    return not_loaded_anywhere.f(unknown, len(x))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    deep = tmp_path / "ourpkg" / "deep"
    deep.mkdir(parents=True)
    for path, text in [(deep.parent / "__init__.py", ""), (deep / "__init__.py", ""), (deep / "helpers.py", HELPERS)]:
        path.write_text(text)
    (deep.parent / "user.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("ourpkg.user")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ourpkg"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", [line.split("(")[0][4:] for line in USER.splitlines() if line.startswith("def ")])
def test_references_are_followed_through_modules(package: Any, name: str) -> None:
    function: Callable[..., Any] = getattr(package, name)
    found = references(function.__code__, vars(package))
    normalize = sys.modules["ourpkg.deep.helpers"].normalize
    if name == "by_nothing":
        assert found == {}
        return
    (label,) = (label for label, value in found.items() if value is normalize)
    assert label.endswith("normalize")
    assert [value for value in found.values() if value == 3] == ([3] if name == "by_from" else [])
