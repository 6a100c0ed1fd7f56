"""A session whose page has all that grows wide: many labels, slices, metrics and stages, long names and replies."""

from __future__ import annotations

import random

from pytest_dspy_ft.records.evaluation import ExampleResult, MetricScore, StageResult
from pytest_dspy_ft.records.history import HistoryPoint
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.records.run import ExampleContent, ExampleReplies, RunRecord
from pytest_dspy_ft.records.slices import SlicingRecord
from pytest_dspy_ft.records.usage import Usage
from tests.records.histories import point
from tests.report.test_html import full_run

LABELS = (
    *(
        "card_arrival",
        "exchange_rate",
        "pin_blocked",
        "request_refund",
        "top_up_failed",
        "wrong_amount_of_cash_received",
    ),
    *("transfer_not_received_by_recipient", "Überweisung_storniert"),
)
METRICS = ("f1", "names_the_customer_politely", "cites_its_source")
SHARES = {"baseline": 0.3, "prompt_optimized": 0.7, "finetuned": 0.85}
LONG = "<think>" + "The customer asks for the card; " * 12 + "</think>\n" + "a-word-without-any-place-to-break-it-" * 8


def wide_run() -> tuple[RunRecord, list[HistoryPoint]]:
    """The session, and the history of its store."""
    draws, [experiment] = random.Random(4), full_run().experiments
    labels = {f"{number:016x}": draws.choice(LABELS) for number in range(200)}
    results = tuple(_result(stage, share, labels, draws) for stage, share in SHARES.items())
    slicings = (
        _slicing("category", "label", labels),
        _slicing("language", "input", {one: f"language {draws.randrange(14)}" for one in labels}),
        _slicing("how_long_the_text_is", "function", {one: draws.choice(("short", "long")) for one in labels}),
    )
    contents = {
        one: ExampleContent(inputs={"text": f"Where is my {label}? {LONG[:400]}"}, expected={"category": label})
        for one, label in labels.items()
    }
    reply = Reply(text=LONG, finish_reason="length", cut_off=True, model="openai/gpt-4o-mini-2024-07-18")
    replies = tuple(ExampleReplies(stage="finetuned", on="dev", id=one, replies=(reply, reply)) for one in labels)
    wide = experiment.model_copy(
        update={
            "results": results,
            "slices": slicings,
            "examples": contents,
            "replies": replies,
            "sizes": {"train": 800, "dev": 200},
        }
    )
    history = [
        point(share - 0.02 * (8 - day) + 0.05 * (day % 2), day, stage=stage, rung=rung, experiment=experiment.name)
        for day in range(1, 9)
        for rung, (stage, share) in enumerate(SHARES.items())
    ]
    return full_run().model_copy(update={"experiments": (wide,)}), history


def _result(stage: str, share: float, labels: dict[str, str], draws: random.Random) -> StageResult:
    def example(identity: str, label: str) -> ExampleResult:
        answer = label if draws.random() < share else draws.choice(LABELS)
        said = {name: MetricScore(score=round(draws.random(), 2), feedback="could be shorter") for name in METRICS}
        used = Usage(lm_calls=1, input_tokens=700, output_tokens=20, cost=None, seconds=0.4)
        right = float(answer == label)
        return ExampleResult(id=identity, score=right, prediction={"category": answer}, further=said, usage=used)

    examples = tuple(example(*one) for one in labels.items())
    keys = dict.fromkeys(METRICS, "key")
    return StageResult(experiment="e", stage=stage, on="dev", lm="m", key=stage, examples=examples, metrics=keys)


def _slicing(by: str, source: str, slice_of: dict[str, str]) -> SlicingRecord:
    groups: dict[str, list[str]] = {}
    for identity, name in slice_of.items():
        groups.setdefault(name, []).append(identity)
    return SlicingRecord.model_validate({"by": by, "on": "dev", "source": source, "asked": True, "groups": groups})
