"""``--dspy-train``: who trains models of this machine."""

from __future__ import annotations

import pytest

from tests.plugin.projects import GATES, run


def test_what_is_no_launcher_ends_the_session_with_the_choices(project: pytest.Pytester) -> None:
    project.makepyfile(GATES)
    result = run(project, "--dspy-train=torchrn:2")
    assert "--dspy-train=torchrn:2: 'torchrn:2' is no launcher; did you mean 'torchrun'?" in (
        result.stdout.str() + result.stderr.str()
    ).replace("\n", " ")
    assert result.ret != pytest.ExitCode.OK


def test_it_does_not_matter_where_nothing_of_this_machine_is_trained(project: pytest.Pytester) -> None:
    project.makepyfile(GATES)
    result = run(project, "--dspy-train=torchrun:2", "--dspy-stage=finetune")
    result.assert_outcomes(passed=3)
