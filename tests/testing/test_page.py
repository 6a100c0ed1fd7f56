"""docs/how-to/scripted-lm.md: its blocks are a project that passes."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from tests.plugin.projects import run

PAGE = (REPOSITORY / "docs" / "how-to" / "scripted-lm.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_blocks_are_a_project_that_passes(project: pytest.Pytester) -> None:
    files = {body.partition("\n")[0].removeprefix("# "): body for kind, body in BLOCKS if kind == "python"}
    (command,) = [body.removeprefix("$ pytest ").split() for kind, body in BLOCKS if kind == "console"]
    assert len(files) == 5
    for name, body in files.items():
        (project.path / name).write_text(body, encoding="utf-8")
    result = run(project, *command)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*3 gates declared, 3 judged*"])
