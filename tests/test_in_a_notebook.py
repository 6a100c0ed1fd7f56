"""What an interpreter and a notebook show of the public objects: one line each, tables of HTML that do no work."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Gate, Ladder, Stage
from tests.scripted import experiment, numbers, reply, scripted_lm

LONG = "a_stage_with_a_name_that_goes_on_and_on_for_longer_than_anyone_would_want_to_read_it_in_a_notebook"


def rule(fields: object, request: object) -> str:
    return reply(label="<script>alert(1)</script>")


@pytest.fixture
def ladder() -> Ladder:
    stages = [Stage("prompted", dspy.LabeledFewShot(k=2)), Stage(LONG, dspy.LabeledFewShot(k=1), start="prompted")]
    return Ladder(experiment(dspy.Predict("text -> label"), scripted_lm(rule), stages), "store")


class Tags(HTMLParser):
    """Reads a fragment; every tag must be closed, and nothing loaded or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "style")
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_each_fits_a_line(ladder: Ladder) -> None:
    result = ladder.evaluate("prompted")
    verdict = ladder.judge(Gate("prompted >= 88%", confidence=0.95, undecided="warn"))
    built = ladder.build("prompted")
    things = [
        ladder,
        ladder.experiment,
        Experiment(
            "x",
            program=dspy.Predict("text -> label"),
            dataset=Dataset.from_examples(numbers(20)),
            metric=lambda e, p, trace=None: True,
            lm=scripted_lm(rule),
            stages=[Stage(LONG, dspy.LabeledFewShot())],
        ),
        ladder.experiment.dataset,
        *ladder.experiment.stages.values(),
        Stage("tuned", dspy.BootstrapFinetune(), teacher="prompted", accept=0.5, compile_args={"x": "y" * 200}),
        Gate("prompted >= 88%", on="test", confidence=0.95),
        Gate(" + ".join(["prompted"] * 30) + " >= 1"),
        result,
        *result.examples,
        result.usage,
        verdict,
        built,
        built.record,
        ladder.record(),
    ]
    for thing in things:
        assert len(repr(thing)) <= 100, repr(thing)
        assert "\n" not in repr(thing)
    assert repr(result).startswith("StageResult(prompted on dev: 0.0% [0.0, ")
    assert repr(verdict) == "VerdictRecord(FAIL: prompted >= 88% on dev, observed 0.0%)"
    assert repr(Gate("a >= b", on="test")) == "Gate('a >= b', on='test')"
    assert (
        repr(Stage("tuned", dspy.BootstrapFinetune(), teacher="x")) == "Stage('tuned', BootstrapFinetune, teacher='x')"
    )


def test_tables_are_escaped_and_load_nothing(ladder: Ladder) -> None:
    result = ladder.evaluate("prompted")
    ladder.judge(Gate("prompted >= 88%"))
    for shown in (result, ladder):
        text = shown._repr_html_()
        assert Tags(text).open == []
        assert "0.0%" in text
        assert not re.search(r"background:\s*#|color:\s*(black|white)", text), "it reads on light and dark pages"
    assert "&lt;script&gt;" in result._repr_html_()
    assert "prompted &gt;= 88%" in ladder._repr_html_()


def test_showing_a_ladder_does_no_work(ladder: Ladder) -> None:
    assert "prompted" in ladder._repr_html_()
    assert repr(ladder) == "Ladder('scripted': 0 of 3 stages, 0 evaluations, 0 verdicts)"
    assert ladder.experiment.lm.engine.requests == []


def test_a_gate_is_made_and_checked_by_its_class() -> None:
    made = Gate(" finetuned >= 88% ", on="test", confidence=0.95)
    assert made == Gate.parse("finetuned >= 88%", on="test", confidence=0.95)
    assert (made.expression, made.stages) == ("finetuned >= 88%", {"finetuned"})
    for wrong in ({"on": "tset"}, {"confidence": 95}, {"undecided": "maybe"}, {"lm": ""}, {"min_n": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Gate("a >= b", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a string"):
        Gate(0.8)  # type: ignore[arg-type]
