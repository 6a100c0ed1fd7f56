"""A user's module from source, and what an edit of it changes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pytest_dspy_ft.fingerprint import fingerprint

Loader = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Loader]:
    """Makes a user's module from source; a new file each time, all under the name ``users``."""
    made: list[str] = []

    def load(source: str) -> ModuleType:
        path = tmp_path / f"users_{len(made)}.py"
        path.write_text(source, encoding="utf-8")
        made.append(str(path))
        spec = importlib.util.spec_from_file_location("users", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["users"] = module
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("users", None)


IMPORTS = """
import collections, dataclasses, dspy, enum, functools, logging, os, random, re, threading, types, typing
from types import SimpleNamespace
from typing import *
from pydantic import BaseModel, Field
"""

METRIC = """
import re, functools
from dataclasses import dataclass
BAR = 0.5
WORDS = {"a", "b"}
PATTERN = re.compile("x+")
@dataclass
class Settings:
    bar: float = 0.5
SETTINGS = Settings()
def normal(text, *, lower=True):
    return text.lower() if lower else text
def outer(limit):
    def inner(example, prediction, trace=None):
        return prediction.label == example.label and limit > 0
    return inner
class Metric:
    weight = 1.0
    def __init__(self, bar=0.5):
        self.bar = bar
    def __call__(self, example, prediction, trace=None):
        return self.judge(prediction)
    def judge(self, prediction):
        return len(prediction.label) > self.bar * self.weight
    @property
    def twice(self):
        return 2 * BAR
instance = Metric()
closed = outer(1)
partial = functools.partial(normal, lower=False)
def metric(example, prediction, trace=None, tolerance=0.1):
    helper = lambda x: normal(x)
    return helper(prediction.label) in WORDS and BAR > tolerance and bool(PATTERN)
def by_settings(example, prediction, trace=None):
    return SETTINGS.bar > 0
"""


def changed(load: Loader, name: str, old: str, new: str, source: str = METRIC) -> bool:
    """Whether an edit of the source changes the fingerprint of what is called ``name`` there."""
    assert source.count(old) == 1, f"{old!r} must be there once"
    before = fingerprint(getattr(load(source), name))
    return before != fingerprint(getattr(load(source.replace(old, new)), name))
