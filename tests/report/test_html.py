"""The HTML report as a file: complete, harmless, and of one piece."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from importlib import resources
from pathlib import Path

import pytest

from pytest_dspy_ft.records.build import (
    BootstrapRecord,
    FailedTrace,
    FieldRecord,
    LossCurve,
    LossPoint,
    PredictorRecord,
    PredictorTraces,
    Remedy,
    StageDetails,
)
from pytest_dspy_ft.records.comparison import ComparisonRecord, ExampleChanges, StageComparison
from pytest_dspy_ft.records.evaluation import ExampleResult
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.records.run import ExampleContent, ExampleReplies, RunRecord
from pytest_dspy_ft.records.slices import SlicingRecord
from pytest_dspy_ft.report import charts
from pytest_dspy_ft.report.html import render, shown_value
from pytest_dspy_ft.report.prompts import compared, prompt_table
from tests.plugin import projects
from tests.report.test_table import BUILDS, GATES, build, gate, record, result

EVIL = (
    "</script><script>window.pwned=1</script><!--<script> \"'`& <img src=x onerror=window.pwned=2> "
    "\u202eright to left \x1b[31m\x00 ${1+1} {{ 7*7 }}"
)


def predictor(instructions: str, *demos: str) -> PredictorRecord:
    fields = (FieldRecord(name="text", prefix="Text:", description="what came in"),)
    return PredictorRecord(
        name="predict", instructions=instructions, fields=fields, demos=tuple({"text": d, "n": 3} for d in demos)
    )


def full_run(*, dev: int = 60, said: str = "billing") -> RunRecord:
    """A session in which everything happened that the page can show."""
    patterns = {"baseline": "u" * dev, "prompt_optimized": "1" * 33 + "uue", "finetuned": "00" + "1" * 53}
    results = []
    for stage, pattern in patterns.items():
        measured = result(stage, (pattern + "0" * dev)[:dev])
        results.append(
            measured.model_copy(
                update={
                    "examples": tuple(
                        e.model_copy(
                            update={"prediction": {"category": said}}
                            if e.outcome == "scored"
                            else {"error": f"{said}: no category in {i}"}
                        )
                        for i, e in enumerate(measured.examples)
                    )
                }
            )
        )
    results.append(result("finetuned", "1011", on="test"))
    ids = dict.fromkeys(e.id for r in results for e in r.examples)
    contents = {
        identity: ExampleContent(inputs={"text": f"ticket number {i} {said}"}, expected={"category": f"gold {i}"})
        for i, identity in enumerate(ids)
    }
    on_dev = [e.id for e in results[0].examples]
    slicing = SlicingRecord(
        by="category",
        on="dev",
        source="label",
        asked=True,
        groups={said: tuple(on_dev[: dev // 2]), f"no {said}": tuple(on_dev[dev // 2 :])},
    )
    bootstrap = BootstrapRecord(
        teacher="prompt_optimized",
        accept=0.5,
        kept=112,
        rejected=30,
        unparsed=18,
        raised=2,
        scores=(1.0,) * 112 + (0.2,) * 30,
        predictors=(PredictorTraces(predictor="predict", calls=142, rows=112, unparsed=18, raised=2),),
        examples=(FailedTrace(id="f1", outcome="unparsed", inputs={"text": said}, reply=said),),
        remedies=(Remedy(name="stronger_teacher", advice="a stronger teacher", evidence="18 could not be read"),),
    )
    points = tuple(LossPoint(step=i, loss=2 / i, validation_loss=1 / i if i % 10 == 0 else None) for i in range(1, 31))
    details = (
        StageDetails(stage="baseline", digest="1", predictors=(predictor("Classify the ticket."),)),
        StageDetails(
            stage="prompt_optimized", digest="2", predictors=(predictor("Classify the ticket well.", said, "b"),)
        ),
        StageDetails(
            stage="finetuned",
            digest="3",
            predictors=(predictor("Classify the ticket."),),
            curves=(LossCurve(name="0ff5", points=points),),
        ),
    )
    comparison = ComparisonRecord(
        file="baseline.json",
        confidence=0.95,
        stages=(
            StageComparison(
                stage="finetuned",
                on="dev",
                status="compared",
                n=dev,
                before=0.95,
                after=0.883,
                interval=(-0.12, -0.01),
                change="regressed",
            ),
            StageComparison(stage="baseline", on="test", status="absent", reason="not measured"),
        ),
        examples=(ExampleChanges(on="dev", kept=58, new=("a",), removed=("b", "c")),),
    )
    replies = (
        Reply(model="toy", text=f"cut {said}", finish_reason="length", limit=16, cut_off=True, output_tokens=16),
        Reply(model="toy", text="again", finish_reason="stop", fallback=True),
    )
    stages = (*BUILDS[:2], BUILDS[2].model_copy(update={"bootstrap": bootstrap}))
    return RunRecord(
        created="2026-11-24T21:00:00+00:00",
        seconds=3.0,
        versions={"dspy": "3.4.1"},
        experiments=(
            record(
                stages=(*stages, build("better_together", "better_together", "failed", reason=f"no luck {said}")),
                order=("baseline", "prompt_optimized", "finetuned", "better_together"),
                results=tuple(results),
                slices=(slicing,),
                verdicts=(*GATES[:2], gate("baseline >= 10%", "0.0%", "FAIL", message=f"Gate failed\n  {said}")),
                examples=contents,
                details=details,
                comparison=comparison,
                replies=(ExampleReplies(stage="baseline", on="dev", id=next(iter(ids)), replies=replies),),
            ),
        ),
    )


class Page(html.parser.HTMLParser):
    """All elements with their attributes, the text outside of scripts, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._in: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.raw:
            self._in = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in:
            self.raw[self._in][-1] += data
        else:
            self.text += data


@pytest.mark.parametrize("said", ["billing", EVIL], ids=["harmless", "hostile"])
def test_nothing_is_loaded_and_nothing_foreign_could_run(said: str) -> None:
    page = Page(render(full_run(said=said)))
    assert [tag for tag, _ in page.elements].count("script") == 2, "the data and the script"
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "link", "base", "embed")
        assert not any(name.startswith("on") or name in ("style", "src", "srcset") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = [a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    ours = {
        base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()
        for t in (page.raw["script"][-1], *page.raw["style"])
    }
    assert policy.startswith("default-src 'none';")
    assert allowed == ours
    assert "unsafe" not in policy


def test_hostile_text_is_shown_as_what_it_is() -> None:
    text = render(full_run(said=EVIL))
    assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", text)
    page = Page(text)
    assert "<script>window.pwned=1</script>" in page.text
    assert "⟨U+202E⟩right to left ⟨U+001B⟩[31m⟨U+0000⟩ ${1+1} {{ 7*7 }}" in page.text
    data = json.loads(page.raw["script"][0])
    first = data["splits"]["dev"]["rows"][0]
    assert first[4] == "forgotten"
    assert first[3][0][4][0][0] == "toy · ended: length · cut off at 16 tokens · 0 + 16 tokens"
    assert first[3][0][4][1] == ["toy · ended: stop · asked again by the JSON adapter", "again"]
    assert first[1] == [["text", f"ticket number 0 {shown_value(EVIL)}"]]


def test_the_page_says_everything() -> None:
    page = Page(render(full_run()))
    words = " ".join(page.text.split())
    for said in (
        "2 of 3 gates failed",
        "88.3%",
        "[77.8, 94.2]",
        "112 of 162 traces kept (69.1%)",
        "a stronger teacher",
        "Against the saved baseline",
        "1 evaluation got worse beyond noise.",
        "dev: 58 examples in both, 1 new, 2 removed, 0 with another label.",
        "in 30 steps",
        "better_together failed: no luck",
        "2 demos",
        "as baseline",
    ):
        assert said in words, said
    assert words.index("baseline >= 10%") < words.index("finetuned >= 80%"), "failed gates first"


def test_a_page_without_anything() -> None:
    assert "No experiment was run." in Page(render(RunRecord(created="2026"))).text
    bare = RunRecord(created="2026", experiments=(record(stages=(), results=(), verdicts=()),), incomplete=("x",))
    words = Page(render(bare)).text
    assert "no gates" in words
    assert "Incomplete:" in words


def test_huge_texts_are_cut_and_say_so() -> None:
    run = full_run(said="x" * 300_000)
    text = render(run)
    assert len(text) < 3_000_000
    assert "290 000 more characters" in text.replace("290 016", "290 000")


def test_ten_thousand_examples_stay_a_file_that_opens() -> None:
    text = render(full_run(dev=10_000, said="word " * 400))
    assert len(text) < 60_000_000
    data = json.loads(Page(text).raw["script"][0])
    assert len(data["splits"]["dev"]["rows"]) == 10_000


def test_what_is_new_in_a_prompt_is_marked() -> None:
    assert compared("Sort the ticket.", "Sort each ticket now.") == [
        ("same", "Sort "),
        ("gone", "the"),
        ("new", "each"),
        ("same", " ticket"),
        ("new", " now"),
        ("same", "."),
    ]
    assert compared("Sort the ticket.", "Ω") == [("new", "Ω")]
    assert compared("", "Sort.") == [("same", "Sort.")]
    (row,) = prompt_table(full_run().experiments[0].details)
    assert [cell.same_as for cell in row.cells] == ["", "", "baseline"]
    assert [cell.new_demos for cell in row.cells] == [0, 2, 0]


def test_charts_of_odd_data() -> None:
    assert charts.loss_curve(LossCurve(name="x", points=(LossPoint(step=1),))) is None
    one = charts.loss_curve(LossCurve(name="x", points=(LossPoint(step=1, loss=0.0),)))
    assert one is not None
    assert one.raw == "100,100"
    empty = BootstrapRecord(teacher="t", accept=None, kept=0, rejected=0, unparsed=3, raised=0)
    assert charts.histogram(empty) == []
    assert [share.width for share in charts.share_bar(empty)] == [0, 0, 100, 0]


def test_the_parts_of_the_page_are_in_the_package() -> None:
    folder = resources.files("pytest_dspy_ft.report") / "page"
    parts = {"page.html", "slices.html", "trend.html", "page.css", "page.js"}
    assert {part.name for part in folder.iterdir()} == parts


def test_a_session_writes_the_page(project: pytest.Pytester) -> None:
    project.makepyfile(projects.LADDER)
    projects.run(project, "--dspy-stage=finetune", "--dspy-report=run.html").assert_outcomes(passed=4)
    page = Page(Path(project.path / "run.html").read_text("utf-8"))
    assert "all 5 gates hold" in " ".join(page.text.split())
    data = json.loads(page.raw["script"][0])
    assert data["splits"]["dev"]["stages"] == ["baseline", "prompt_optimized"]
    assert len(data["splits"]["dev"]["rows"]) == 10
    assert data["splits"]["dev"]["rows"][0][3][0][1] == "scored"


def test_copies_of_an_example_are_rows_of_their_own() -> None:
    once = (result("baseline", "10"), result("finetuned", "01"))
    twice = [r.model_copy(update={"examples": r.examples * 2}) for r in once]
    run = RunRecord(created="2026", experiments=(record(results=tuple(twice), verdicts=()),))
    rows = json.loads(Page(render(run)).raw["script"][0])["splits"]["dev"]["rows"]
    assert [row[4] for row in rows] == ["lost", "learned", "lost", "learned"]


def test_an_example_that_a_stage_did_not_see() -> None:
    first, second = result("baseline", "10"), result("finetuned", "1")
    extra = ExampleResult(id="other", score=0.5, prediction={"a": [1, {"b": None}]})
    second = second.model_copy(update={"examples": (*second.examples, extra)})
    run = RunRecord(created="2026", experiments=(record(results=(first, second), verdicts=()),))
    rows = json.loads(Page(render(run)).raw["script"][0])["splits"]["dev"]["rows"]
    assert [[a and a[0] for a in row[3]] for row in rows] == [[1.0, 1.0], [0.0, None], [None, 0.5]]
    assert rows[2][3][1][2] == [["a", '[1, {"b": null}]']]
