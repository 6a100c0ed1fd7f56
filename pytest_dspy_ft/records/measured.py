"""A stage measured on a split, without its examples: how many, how well, and which they were."""

from __future__ import annotations

from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import Record
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.receipt import ShippedScore
from pytest_dspy_ft.records.run import MetricSummary


class MeasuredStage(Record):
    """One evaluation in a few figures."""

    stage: str
    build: str
    """Content hash of the build that was measured."""
    ids: str
    """Digest of the ids of its examples, whatever their order."""
    score: ShippedScore

    @classmethod
    def of(cls, result: StageResult) -> MeasuredStage:
        """The figures of an evaluation.

        Args:
            result: It has examples.
        """
        metrics = {name: result.metric(name) for name in result.metrics}
        return cls(
            stage=result.stage,
            build=result.build,
            ids=digest_json(sorted(result.ids), length=16),
            score=ShippedScore(
                on=result.on,
                n=result.n,
                score=result.score,
                interval=result.interval,
                errors=result.errors,
                unparsed=result.unparsed,
                metrics={
                    name: MetricSummary(score=seen.score, interval=seen.interval, errors=seen.errors)
                    for name, seen in metrics.items()
                },
            ),
        )
