"""What became of each example: along the ladder, and between two sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.gates.regression import compare
from pytest_dspy_ft.records.baseline import baseline_of, read_baseline, saved_experiment, still_holds, write_baseline
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.run import ExampleContent, ExperimentRecord, RunRecord
from pytest_dspy_ft.records.trajectories import kind_counts, trajectories

OUTCOMES = {"u": "unparsed", "e": "error"}


def result(stage: str, scores: Any, ids: Any = None) -> StageResult:
    """A result whose scores are numbers, ``u`` (unparsed) or ``e`` (error)."""
    examples = [
        ExampleResult(
            id=identity,
            score=0 if score in OUTCOMES else float(score),
            outcome=OUTCOMES.get(score, "scored"),  # type: ignore[arg-type]
        )
        for identity, score in zip(ids or map(str, range(len(scores))), scores, strict=True)
    ]
    return StageResult(experiment="e", stage=stage, on="dev", lm="lm", key=f"key-{stage}", examples=tuple(examples))


def record(*results: StageResult, texts: dict[str, str] | None = None, **fields: Any) -> ExperimentRecord:
    contents = {identity: ExampleContent(inputs={"text": text}) for identity, text in (texts or {}).items()}
    given = {"name": "e", "lm": "lm", "metric": "m", "sizes": {"train": 0, "dev": results[0].n, "test": 0}}
    order = tuple(dict.fromkeys(r.stage for r in results))
    return ExperimentRecord(**{**given, "order": order, "results": results, "examples": contents, **fields})


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ("111", "always right"),
        ("000", "never right"),
        ("0u0", "never right"),
        ("001", "learned"),
        ("0101", "learned"),
        ("101", "regained"),
        ("010", "forgotten"),
        ("100", "lost"),
        ("11u", "lost"),
        ("1e1", "unmeasured"),
        ((0.2, 0.9, 0.5), "forgotten"),
        ((0.5, 0.9, 0.2), "lost"),
        ((0.2, 0.5, 0.5), "learned"),
        ((0.5, 0.5, 0.5), "unchanged"),
    ],
)
def test_kinds_of_trajectories(scores: Any, kind: str) -> None:
    [way] = trajectories([result(f"s{i}", [score]) for i, score in enumerate(scores)])
    assert way.kind == kind
    assert kind_counts([way]) == {kind: 1}


def test_a_trajectory_in_words() -> None:
    [way] = trajectories([result("a", "u"), result("b", "1"), result("c", [0.25])])
    assert str(way) == "a unparsed, b right, c 0.25: forgotten"


def test_copies_of_an_example_are_followed_each_for_itself() -> None:
    ways = trajectories([result("a", "01", "xx"), result("b", "11", "xx")])
    assert [way.kind for way in ways] == ["learned", "always right"]


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunRecord(created="now", experiments=(record(result("a", [1, "u", "e", 1 / 3], "dcba")),))
    path = tmp_path / "new" / "b.json"
    assert write_baseline(path, baseline_of(run))
    assert read_baseline(path) == baseline_of(run)
    assert not write_baseline(path, baseline_of(run.model_copy(update={"created": "later"})))
    scores = [row.scores["a"] for row in read_baseline(path).experiments[0].examples["dev"]]
    assert scores == [1 / 3, "error", "unparsed", 1.0]


def test_repeats_that_are_right_in_part_keep_their_score(tmp_path: Path) -> None:
    partly = ExampleResult(id="x", score=2 / 3, outcome="unparsed")
    measured = result("a", "1").model_copy(update={"examples": (partly,)})
    path = tmp_path / "b.json"
    write_baseline(path, baseline_of(RunRecord(created="now", experiments=(record(measured),))))
    [saved] = read_baseline(path).experiments
    assert saved.examples["dev"][0].scores == {"a": 2 / 3}
    assert still_holds(saved, measured)


def test_a_folder_is_no_baseline_to_write(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot write"):
        write_baseline(tmp_path, baseline_of(RunRecord(created="now")))


def test_pairs_are_of_the_same_example_with_the_same_label() -> None:
    texts = {"kept": "k", "old label": "l", "new label": "l", "gone": "g", "come": "c"}
    texts |= {"stays": "s"}
    then = saved_experiment(record(result("a", "1111", ["kept", "old label", "gone", "stays"]), texts=texts))
    now = saved_experiment(record(result("a", "0001", ["come", "new label", "kept", "stays"]), texts=texts))
    found = compare(then, now, file="f")
    [changes], [stage] = found.examples, found.stages
    assert (changes.kept, changes.new, changes.removed) == (2, ("come",), ("gone",))
    assert changes.changed == (("old label", "new label"),)
    assert (stage.n, stage.before, stage.after, stage.broke) == (2, 1.0, 0.5, ("kept",))


def test_beyond_noise_is_what_the_interval_says() -> None:
    ids = [f"{i:03}" for i in range(100)]

    def broken(count: int) -> Any:
        then = saved_experiment(record(result("a", "1" * 100, ids)))
        now = saved_experiment(record(result("a", "0" * count + "1" * (100 - count), ids)))
        return compare(then, now, file="f").stages[0]

    assert broken(0).change == "no_loss_seen"
    assert broken(2).change == "no_loss_seen"
    assert len(broken(2).broke) == 2, "listed, though no proof"
    assert broken(10).change == "regressed"
    low, high = broken(10).interval
    assert low < -0.1 < high < 0


def test_another_metric_compares_nothing_and_does_not_pass() -> None:
    then = saved_experiment(record(result("a", "1")))
    found = compare(then, saved_experiment(record(result("a", "1"), metric="other")), file="f")
    assert "metric" in found.refused
    assert not found.compared
    assert not found.passed
