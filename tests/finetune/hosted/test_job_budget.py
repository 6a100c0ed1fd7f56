"""``--dspy-max-cost`` and hosted jobs: what would pass the limit is not ordered, and nothing is uploaded for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.lms.budget import Budget
from pytest_dspy_ft.lms.prices import Price, Prices
from tests.finetune.hosted.server import serving
from tests.finetune.hosted.world import build, hosted_lm

DEAR = Prices([("openai/gpt-4o-mini", Price(0.15, 0.6, training=100.0))])


def test_a_job_within_the_limit_is_ordered_and_counts(tmp_path: Path) -> None:
    budget = Budget(50.0, DEAR)
    with serving() as service:
        built = build(tmp_path, hosted_lm(service), ladder={"budget": budget, "prices": DEAR})
        assert len(service.started()) == 1
    assert built.record.training[0].cost is not None
    assert built.record.training[0].cost <= budget.spent * 1.5
    assert 0 < budget.spent <= 50.0


def test_a_job_that_would_pass_the_limit_is_not_ordered(tmp_path: Path) -> None:
    budget = Budget(0.001, DEAR)
    with serving() as service:
        with pytest.raises(DspyFtError, match=r"--dspy-max-cost=0\.001: stopped before fine-tuning gpt-4o-mini"):
            build(tmp_path, hosted_lm(service), ladder={"budget": budget, "prices": DEAR})
        assert service.started() == []
        assert service.files == {}
    assert budget.spent == 0.0
