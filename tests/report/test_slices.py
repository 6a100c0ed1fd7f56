"""Slices and confusions in reports: what is shown, what is named, and that nothing is where nothing differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.gate_calibration import right
from benchmarks.slice_calibration import false_notes
from pytest_dspy_ft.records.evaluation import ExampleResult, Outcome, StageResult
from pytest_dspy_ft.records.gate import SliceVerdict, VerdictRecord
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.records.slices import SlicingRecord, in_slices
from pytest_dspy_ft.report import html, markdown
from pytest_dspy_ft.report.confusion import Confusion, confusions
from pytest_dspy_ft.report.slices import lost_slices, slice_tables, worst_slices
from pytest_dspy_ft.report.summary import cautions
from pytest_dspy_ft.report.table import render

LABELS = ["cat"] * 40 + ["dog"] * 40 + ["cow"] * 40
IDS = [f"{place:016}" for place in range(len(LABELS))]


def result(
    stage: str,
    scores: Sequence[float],
    answers: Sequence[Any] | None = None,
    outcomes: dict[int, Outcome] | None = None,
    **fields: Any,
) -> StageResult:
    given = answers if answers is not None else [None] * len(scores)
    found = tuple(
        ExampleResult(id=i, score=score, prediction={"kind": said}, outcome=(outcomes or {}).get(place, "scored"))
        for place, (i, score, said) in enumerate(zip(IDS, scores, given, strict=True))
    )
    return StageResult(experiment="zoo", stage=stage, on="dev", lm="l", key="k", examples=found, **fields)


def slicing(labels: Sequence[str] = LABELS, **fields: Any) -> SlicingRecord:
    groups = {name: tuple(i for i, own in zip(IDS, labels, strict=True) if own == name) for name in labels}
    return SlicingRecord(**{"by": "kind", "on": "dev", "source": "label", "asked": False, "groups": groups} | fields)


def record(*results: StageResult, slices: Sequence[SlicingRecord] = (slicing(),), **fields: Any) -> ExperimentRecord:
    order = tuple(r.stage for r in results)
    given = {"name": "zoo", "lm": "l", "sizes": {"dev": len(IDS)}, "order": order, "results": results, **fields}
    return ExperimentRecord(slices=tuple(slices), **given)


def right_of_40(*counts: int) -> list[float]:
    return [float(place < count) for count in counts for place in range(40)]


LEVEL = result("before", right_of_40(30, 30, 32))
LOST = result("after", right_of_40(38, 38, 12))


def test_cut_results_work_out_their_own_figures() -> None:
    assert (LOST.score, LOST.interval[0] > 0.6, LOST.usage.lm_calls) == (88 / 120, True, 0)
    parts = in_slices(LOST, slicing().groups)
    assert {name: part.score for name, part in parts.items()} == {"cat": 0.95, "dog": 0.95, "cow": 0.3}
    assert parts["cow"].interval[1] < 0.5


def test_what_stands_out_is_named() -> None:
    found = record(LEVEL, LOST)
    assert worst_slices(found) == [
        "worst slice of after on dev: kind=cow, 30.0% of 40 examples; the others 95.0% (-65.0 [-81.2, -43.0])"
    ]
    [lost] = lost_slices(found)
    assert lost.startswith(
        "`after` on dev lost in slice kind=cow what `before` had: 80.0% -> 30.0% of 40 examples (-50.0"
    )
    assert lost.endswith("corrected for 3 slices); by='kind' on a gate judges each slice")
    assert cautions(found)[0] == lost


def test_what_a_gate_has_said_is_not_said_again() -> None:
    part = SliceVerdict(name="cow", n=40, verdict="FAIL", observed="-50.0 pts", margin=-0.5)
    given = {"experiment": "zoo", "expression": "after >= before", "on": "dev", "observed": "o", "margin": -0.5}
    verdict = VerdictRecord(verdict="FAIL", passed=False, by="kind", slices=(part,), **given)
    assert lost_slices(record(LEVEL, LOST, verdicts=(verdict,))) == []
    passed = verdict.model_copy(update={"slices": (part.model_copy(update={"verdict": "PASS"}),)})
    [lost] = lost_slices(record(LEVEL, LOST, verdicts=(passed,)))
    assert lost.endswith("corrected for 3 slices)"), "a gate looks at the slices: no advice to have one"


@pytest.mark.parametrize(
    "results",
    [
        (LEVEL, result("after", right_of_40(31, 29, 30))),
        (LEVEL, result("after", right_of_40(30, 30, 0), outcomes=dict.fromkeys(range(80, 120), "error"))),
        (LEVEL,),
    ],
)
def test_nothing_is_named_where_nothing_differs_beyond_noise(results: tuple[StageResult, ...]) -> None:
    assert worst_slices(record(*results)) == lost_slices(record(*results)) == []
    # Nor where slices are too many, too few or too small to be looked at.
    for labels in (["all"] * 120, [str(place // 5) for place in range(120)], ["a"] * 115 + ["b"] * 5):
        assert lost_slices(record(LEVEL, LOST, slices=(slicing(labels),))) == []


def test_noise_is_named_rarely() -> None:
    """At most 2.5 % of the sessions each are meant; four standard errors of the simulation are allowed."""
    assert max(false_notes(right(0.8), 0.5, 80)) <= 0.025 + 4 * (0.025 / 80) ** 0.5


def test_tables_only_of_what_was_asked_for() -> None:
    assert list(slice_tables(record(LEVEL, LOST))) == []
    [table] = slice_tables(record(LEVEL, LOST, slices=(slicing(asked=True),)))
    assert (table.stages, table.left_out) == (("before", "after"), 0)
    assert [(row.name, row.n, *(c.score for c in row.cells if c)) for row in table.rows] == [
        ("cat", 40, 0.75, 0.95),
        ("dog", 40, 0.75, 0.95),
        ("cow", 40, 0.8, 0.3),
    ]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, ["by kind on dev   n  before  after        95% CI", "cow             40   80.0%  30.0%  [18.1, 45.4]"]),
        (46, ["by kind on dev   n  after        95% CI", "(no room: before)"]),
        (30, ["by kind on dev   n  after", "(no room: before, 95% CI)"]),
    ],
)
def test_a_narrow_terminal_costs_columns(width: int, expected: list[str]) -> None:
    lines = render(record(LEVEL, LOST, slices=(slicing(asked=True),)), width=width)
    assert set(expected) <= set(lines), "\n".join(lines)


def test_many_slices_are_cut_to_the_lowest() -> None:
    labels = [f"n{place // 6}" for place in range(120)]
    lines = render(record(LEVEL, LOST, slices=(slicing(labels, asked=True),)))
    assert "(the 12 lowest of 20 slices; reports hold more)" in lines
    shown = [line.split()[0] for line in lines if line.startswith("n") and line[1].isdigit()]
    assert shown == ["n0", "n1", "n2", "n3", "n4", "n6", "n13", "n15", "n16", "n17", "n18", "n19"], "in their own order"


def matrix(answers: Sequence[Any], **fields: Any) -> Confusion:
    [found] = confusions(record(result("after", [0.0] * 120, answers, **fields)))
    return found


def test_confusions_whatever_an_answer_is() -> None:
    answers = ["cat"] * 30 + [" Cat ", "dog", "dog", "lion", None, ["cat"], "x", "x", "x", "x"] + LABELS[40:]
    found = matrix(answers, outcomes={36: "unparsed", 37: "error", 38: "error"})
    assert found.answers == ("cat", "dog", "cow", "(other)", "unparsed", "errors")
    assert [found.count("cat", answer) for answer in found.answers] == [31, 2, 0, 4, 1, 2]
    assert (found.count("dog", "dog"), found.total("cat")) == (40, 40)
    assert found.confused == [("cat", "(other)"), ("cat", "dog")]
    assert found.cells["cat", "dog"] == [IDS[31], IDS[32]]


@pytest.mark.parametrize(
    ("labels", "answers", "wrong"),
    [
        (["True", "False"] * 60, [True, "false"] * 60, 0),
        (["1", "2"] * 60, [1, 2.0] * 60, 0),
        (["1", "2"] * 60, [2, 1] * 60, 120),
        (["a", "(none)"] * 60, ["a", "a"] * 60, 0),
    ],
)
def test_labels_of_any_kind(labels: list[str], answers: list[Any], wrong: int) -> None:
    [found] = confusions(record(result("after", [0.0] * 120, answers), slices=(slicing(labels),)))
    assert sum(found.count(*cell) for cell in found.confused) == wrong


def test_repeats_count_by_call() -> None:
    calls = tuple(
        ExampleResult(id=IDS[0], score=0.0, repeat=k, prediction={"kind": said})
        for k, said in enumerate(("cat", "dog"))
    )
    base = result("after", [1.0] * 120, LABELS)
    twice = base.examples[0].model_copy(update={"repeats": calls})
    [found] = confusions(record(base.model_copy(update={"examples": (twice, *base.examples[1:])})))
    assert (found.count("cat", "cat"), found.count("cat", "dog"), found.total("cat")) == (40, 1, 41)


def test_no_matrix_of_what_is_not_answered() -> None:
    other = slicing(by="tier")
    shown = slicing(source="input"), slicing(source="function"), other
    assert list(confusions(record(LOST, slices=shown))) == []


def test_the_latest_two_stages_have_one() -> None:
    stages = [result(name, [0.0] * 120, LABELS) for name in ("one", "two", "three")]
    assert [found.stage for found in confusions(record(*stages))] == ["two", "three"]


def test_evil_labels_stay_text() -> None:
    evil = ["<script>alert(1)</script>"] * 60 + ["**bold** @team"] * 60
    run = RunRecord(
        created="now",
        experiments=(record(result("after", [0.0] * 120, evil[::-1]), slices=(slicing(evil, asked=True),)),),
    )
    page, text = html.render(run), markdown.render(run)
    assert "<script>alert" not in page + text
    assert "@team" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
