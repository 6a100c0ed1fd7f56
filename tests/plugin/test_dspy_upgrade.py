"""Another version of DSPy in a session: what the plan says of it, and what it takes to have stages built anew."""

from __future__ import annotations

import dspy
import pytest

from tests.plugin.projects import FULL, GATES, calls, run


def test_an_upgrade_is_planned_refused_and_asked_for(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dspy, "__version__", "3.4.1")
    project.makepyfile(GATES)
    run(project, FULL).assert_outcomes(passed=3)
    before = len(calls(project))

    monkeypatch.setattr(dspy, "__version__", "3.5.0")
    result = run(project, FULL)
    result.assert_outcomes(passed=3)
    assert "stage 'finetuned' was built with DSPy 3.4" in result.stdout.str()
    assert len(calls(project)) == before

    describe = dspy.ChatAdapter.format_task_description
    monkeypatch.setattr(
        dspy.ChatAdapter, "format_task_description", lambda self, signature: describe(self, signature) + " Be brief."
    )
    run(project, FULL, "--dspy-plan").stdout.fnmatch_lines(
        ["build finetuned *DSPy 3.4 -> 3.5 changes *--dspy-rebuild=upgraded builds it *what building it took before"]
    )
    refused = run(project, FULL)
    assert refused.ret == 1
    assert "'baseline' was built with DSPy 3.4, and DSPy 3.5 changes its prompts: " in refused.stdout.str()
    assert len(calls(project)) == before

    run(project, FULL, "--dspy-rebuild=upgraded").assert_outcomes(passed=3)
    after = len(calls(project))
    assert after > before
    run(project, FULL).assert_outcomes(passed=3)
    assert len(calls(project)) == after
