"""Every block of code on every page is of a kind that a test runs or reads; those that cannot be run are counted."""

from __future__ import annotations

import json
import tomllib
from collections import Counter

import pytest
import yaml

from tests.docs.pages import Block, all_blocks, blocks
from tests.plugin.projects import run

RUN = {"python", "console", "bash", "ini", "toml", "yaml", "json", "groovy"}
"""Executed, collected, parsed, their commands checked: by the tests of this folder."""
SHOWN = {"text"}
"""What a command or a session prints, or a drawing: nothing of it can be run."""

NOT_RUN = {"docs/how-to/serving.md": 1}
"""By page, how many blocks say that they cannot be run, each with its reason."""


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    strange = [f"{block} is {block.kind or 'of no kind'}" for block in all_blocks() if block.kind not in RUN | SHOWN]
    assert strange == []
    assert len(blocks()) > 60  # they are found at all


def test_blocks_that_are_not_run_are_known() -> None:
    unrun = [block for block in all_blocks() if block.reason]
    assert Counter(block.page for block in unrun) == NOT_RUN
    assert all(len(block.reason.split()) > 4 for block in unrun), "a reason is a sentence"


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.body)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_yaml(block: Block) -> None:
    assert yaml.safe_load(block.body)


@pytest.mark.parametrize("block", [*blocks("json")] or [None], ids=str)
def test_json_is_json(block: Block | None) -> None:
    assert block is None or json.loads(block.body) is not None


@pytest.mark.parametrize("block", blocks("ini"), ids=str)
def test_pytest_takes_an_ini_file(block: Block, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makefile(".ini", pytest=block.body)
    result = run(pytester, "--strict-config", "-q")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED, result.stdout.str() + result.stderr.str()
    written = pytester.path / "pytest.ini"
    written.write_text(written.read_text("utf-8").replace("dspy_", "dspie_"), "utf-8")
    assert run(pytester, "--strict-config", "-q").ret == pytest.ExitCode.USAGE_ERROR
