"""The scripts that make an example's data: what the tests of three examples share.

A module that uses these fixtures names its example's folder ``EXAMPLE`` and its data ``DATA``: ``generate_DATA.py``
there makes them, ``check_DATA.py`` reads and checks them.
"""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def example(request: pytest.FixtureRequest) -> SimpleNamespace:
    """The example's two scripts as modules, imported as if run from their folder and forgotten again."""
    names = [f"{kind}_{request.module.DATA}" for kind in ("generate", "check")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(request.module.EXAMPLE)
        generator, checks = map(importlib.import_module, names)
    for name in names:
        del sys.modules[name]
    return SimpleNamespace(generator=generator, checks=checks)


@pytest.fixture(scope="module")
def made(example: SimpleNamespace) -> Any:
    return example.generator.generate()


@pytest.fixture(scope="module")
def splits(example: SimpleNamespace) -> Any:
    return example.checks.load()
