# ruff: noqa: E501 - tables stand here as they are printed
from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from pytest_dspy_ft.records.build import BootstrapRecord, BuildRecord, TrainingRecord
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.report.table import render, title

OUTCOMES = {"1": ("scored", 1.0), "0": ("scored", 0.0), "u": ("unparsed", 0.0), "e": ("error", 0.0)}  # fmt: skip


def result(stage: str, pattern: str, *, tokens: int = 238, cost: float | None = 0.0, **fields: Any) -> StageResult:
    """A result with one example for each letter of the pattern: see OUTCOMES."""
    usage = Usage(lm_calls=1, input_tokens=tokens - 8, output_tokens=8, cost=cost, seconds=0.1)
    found = tuple(
        ExampleResult(id=f"{i:016}", outcome=OUTCOMES[letter][0], score=OUTCOMES[letter][1], usage=usage)
        for i, letter in enumerate(pattern)
    )
    given = {"experiment": "tickets", "on": "dev", "lm": "l", "key": "k", "wall_seconds": 10.0, **fields}
    return StageResult(stage=stage, examples=found, **given)


def build(stage: str, kind: str, status: str, **fields: Any) -> BuildRecord:
    return BuildRecord(experiment="tickets", stage=stage, kind=kind, key="k", status=status, **fields)


def gate(expression: str, observed: str, verdict: str, **fields: Any) -> VerdictRecord:
    given = {"experiment": "tickets", "on": "dev", "passed": verdict == "PASS", "margin": 0.0, **fields}
    return VerdictRecord(expression=expression, observed=observed, verdict=verdict, **given)


BUILDS = (
    build("baseline", "baseline", "loaded", usage=Usage(lm_calls=99_999), seconds=99_999),
    build("prompt_optimized", "prompt", "built", usage=Usage(lm_calls=1724), seconds=71),
    build(
        "finetuned",
        "finetune",
        "built",
        seconds=60.4,
        bootstrap=BootstrapRecord(
            teacher="prompt_optimized", accept=None, kept=112, rejected=30, unparsed=18, raised=0
        ),
        training=(TrainingRecord(model="m", predictors=("self",), rows=112, train_loss=0.412),),
    ),
)
BASELINE = result("baseline", "u" * 60)
PROMPT = result("prompt_optimized", "1" * 33 + "uuu" + "0" * 24, tokens=711, cost=0.00124)
FINETUNED = result("finetuned", "00" + "1" * 53 + "00000", tokens=1212, cost=None)
GATES = (
    gate("finetuned >= 80%", "88.3%", "PASS"),
    gate("finetuned >= prompt_optimized", "+33.3 pts", "UNDECIDED", undecided="warn"),
    gate("baseline >= 10%", "0.0%", "FAIL"),
)


def record(**fields: Any) -> ExperimentRecord:
    given = {
        "name": "tickets",
        "lm": "local:smollm2-135m",
        "sizes": {"train": 160, "dev": 60, "test": 60},
        "order": ("baseline", "prompt_optimized", "finetuned"),
        "stages": BUILDS,
        "results": (BASELINE, PROMPT, FINETUNED),
        "verdicts": GATES,
    }
    return ExperimentRecord(**(given | fields))


def check(lines: list[str], expected: str) -> None:
    assert "\n".join(lines) == inspect.cleandoc(expected)


def stage_lines(shown: ExperimentRecord, width: int = 130, **options: Any) -> list[str]:
    """The stage table alone."""
    lines = render(shown, width=width, **options)
    start = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    end = next((i for i, line in enumerate(lines) if i > start and not line), len(lines))
    return lines[start:end]


def test_the_whole_table():
    check(
        render(record(), width=130),
        """
        lm local:smollm2-135m · train 160 / dev 60 / test 60 · seed 0 · 2 built, 1 loaded · 1 904 LM calls · 2 min 41 s

        stage             on   score  95% CI                 vs previous  fixed  broke  unparsed  errors  tokens/call  $/1k calls
        baseline          dev   0.0%  [ 0.0,  6.0]                                            60       0          238        0.00
        prompt_optimized  dev  55.0%  [42.5, 66.9]  +55.0 [+42.5, +66.9]     33      0         3       0          711        1.24
        finetuned         dev  88.3%  [77.8, 94.2]  +33.3 [+19.4, +46.9]     22      2         0       0        1 212           ?

        finetuned: 112 of 160 traces kept (70%), 30 rejected, 18 unparsed; trained on 112 rows, loss 0.41

        examples of dev, lowest to highest stage: 53 learned, 2 forgotten, 5 never right

        gate                           on    observed  verdict
        finetuned >= 80%               dev      88.3%  PASS
        finetuned >= prompt_optimized  dev  +33.3 pts  UNDECIDED (warn)
        baseline >= 10%                dev       0.0%  FAIL
        """,
    )


def test_narrow():
    check(
        render(record(limit=60), width=80),
        """
        lm local:smollm2-135m · train 160 / dev 60 / test 60 · limit 60 · seed 0
        2 built, 1 loaded · 1 904 LM calls · 2 min 41 s

        stage             on   score  95% CI        vs previous  unparsed  errors
        baseline          dev   0.0%  [ 0.0,  6.0]                     60       0
        prompt_optimized  dev  55.0%  [42.5, 66.9]        +55.0         3       0
        finetuned         dev  88.3%  [77.8, 94.2]        +33.3         0       0
        (no room: $/1k calls, tokens/call, 95% CI of the difference, fixed and broke)

        finetuned: 112 of 160 traces kept (70%), 30 rejected, 18 unparsed; trained on
          112 rows, loss 0.41

        examples of dev, lowest to highest stage: 53 learned, 2 forgotten, 5 never right

        gate                           on    observed  verdict
        finetuned >= 80%               dev      88.3%  PASS
        finetuned >= prompt_optimized  dev  +33.3 pts  UNDECIDED (warn)
        baseline >= 10%                dev       0.0%  FAIL
        """,
    )


def test_a_narrow_terminal_costs_columns_in_order():
    shown: dict[str, int] = {}  # headers to the widest terminal that shows just these
    for width in range(121, 45, -1):
        lines = render(record(), width=width)
        assert max(map(len, lines)) <= width
        shown.setdefault(" | ".join(re.split(r"  +", stage_lines(record(), width)[0])), width)
    always = "unparsed | errors"
    assert shown == {
        f"stage | on | score | 95% CI | vs previous | fixed | broke | {always} | tokens/call | $/1k calls": 121,
        f"stage | on | score | 95% CI | vs previous | fixed | broke | {always} | tokens/call": 120,
        f"stage | on | score | 95% CI | vs previous | fixed | broke | {always}": 108,
        f"stage | on | score | 95% CI | vs previous | {always}": 86,
        f"stage | on | score | vs previous | {always}": 72,
        f"stage | on | score | {always}": 58,
    }
    assert any("+33.3 [" in line for line in stage_lines(record(), 96))
    assert not any("+33.3 [" in line for line in stage_lines(record(), 95))


def test_ascii():
    shown = record(
        name="käse",
        lm="local:modèles/x",
        stages=(build("finetuned", "finetune", "failed", reason="loss ≥ 10 … “stopped”"),),
        results=(),
        verdicts=(gate("finetuned ≥ 80%", "× 0.41", "FAIL"),),
    )
    lines = render(shown, unicode=False, width=60)
    check(
        lines,
        """
        lm local:mod?les/x - train 160 / dev 60 / test 60 - seed 0
        0 built, 0 loaded, 1 failed - 0 LM calls - 0.0 s

        stage
        finetuned  failed: loss >= 10 ... "stopped"

        gate              on   observed  verdict
        finetuned >= 80%  dev    x 0.41  FAIL
        """,
    )
    assert all(line.isascii() for line in lines)


def test_failed_and_skipped_stages_say_so():
    shown = record(
        stages=(
            BUILDS[0],
            build(
                "prompt_optimized",
                "prompt",
                "failed",
                reason="optuna is not installed: pip install 'dspy[optuna]' " * 3,
            ),
            build("finetuned", "finetune", "skipped", reason="needs --dspy-stage=finetune"),
            build("unused", "prompt", "built"),
        ),
        order=("baseline", "prompt_optimized", "finetuned", "unused", "unheard_of"),
        results=(BASELINE,),
        verdicts=(),
    )
    check(
        render(shown),
        """
        lm local:smollm2-135m · train 160 / dev 60 / test 60 · seed 0
        1 built, 1 loaded, 1 failed · 60 LM calls · 10 s

        stage             on   score  95% CI      unparsed  errors  tokens/call
        baseline          dev   0.0%  [0.0, 6.0]        60       0          238
        prompt_optimized  failed: optuna is not installed: pip install 'dspy[optuna]' o…
        finetuned         skipped: needs --dspy-stage=finetune
        unused            built, not evaluated
        (no room: $/1k calls)
        """,
    )


def test_only_notes():
    check(
        render(record(results=(), stages=(build("baseline", "baseline", "failed"),), verdicts=(), lm="l", limit=3)),
        """
        lm l · train 160 / dev 60 / test 60 · limit 3 · seed 0
        0 built, 0 loaded, 1 failed · 0 LM calls · 0.0 s

        stage
        baseline  failed
        """,
    )


def test_nothing_at_all():
    check(
        render(record(results=(), stages=(), verdicts=())),
        """
        lm local:smollm2-135m · train 160 / dev 60 / test 60 · seed 0
        0 built, 0 loaded · 0 LM calls · 0.0 s
        """,
    )


def test_splits_are_compared_with_themselves():
    shown = record(
        stages=(),
        verdicts=(),
        results=(
            result("baseline", "0000", on="test"),
            result("prompt_optimized", "1110"),
            result("finetuned", "1111", on="test"),
            result("finetuned", "0110"),
            result("tried by hand", "ee10", cost=0.00000001),
            result("baseline", "", on="train"),
        ),
    )
    check(
        stage_lines(shown),
        """
        stage             on     score  95% CI                    vs previous  fixed  broke  unparsed  errors  tokens/call  $/1k calls
        baseline          no examples in train
        baseline          test    0.0%  [ 0.0,  49.0]                                               0       0          238        0.00
        prompt_optimized  dev    75.0%  [30.1,  95.4]                                               0       0          238        0.00
        finetuned         dev    50.0%  [15.0,  85.0]   -25.0 [-69.9,  +36.2]      0      1         0       0          238        0.00
        finetuned         test  100.0%  [51.0, 100.0]  +100.0 [ +2.0, +100.0]      4      0         0       0          238        0.00
        tried by hand     dev    25.0%  [ 4.6,  69.9]                                               0       2          238     <0.0001
        """,
    )


def test_a_difference_is_over_the_examples_that_both_hold():
    longer = result("prompt_optimized", "1100")
    unrelated = longer.model_copy(
        update={
            "stage": "finetuned",
            "examples": tuple(e.model_copy(update={"id": "x" + e.id}) for e in longer.examples),
        }
    )
    lines = stage_lines(record(results=(result("baseline", "10"), longer, unrelated)))
    check(
        lines,
        """
        stage             on   score  95% CI                 vs previous  fixed  broke  unparsed  errors  tokens/call  $/1k calls
        baseline          dev  50.0%  [ 9.5, 90.5]                                             0       0          238        0.00
        prompt_optimized  dev  50.0%  [15.0, 85.0]  +50.0 [-48.6, +90.5]      1      0         0       0          238        0.00
        finetuned         dev  50.0%  [15.0, 85.0]                                             0       0          238        0.00
        """,
    )


def test_training_notes():
    bootstrap = BootstrapRecord(teacher="t", accept=0.5, kept=0, rejected=0, unparsed=0, raised=0)
    jobs = (
        TrainingRecord(model="m", predictors=("answer", "check"), rows=1),
        TrainingRecord(model="m", predictors=("search",), rows=1200, train_loss=0.5),
    )
    shown = record(
        results=(),
        verdicts=(),
        stages=(
            build("a", "finetune", "failed", bootstrap=bootstrap, reason="no trace was kept"),
            build(
                "b", "finetune", "built", bootstrap=bootstrap.model_copy(update={"kept": 2, "raised": 1}), training=jobs
            ),
            build("c", "better_together", "loaded", training=jobs[:1]),
        ),
    )
    check(
        [line for line in render(shown, width=60) if line],
        """
        lm local:smollm2-135m · train 160 / dev 60 / test 60
        seed 0 · 1 built, 1 loaded, 1 failed · 0 LM calls · 0.0 s
        a: 0 of 0 traces kept
        b: 2 of 3 traces kept (67%), 1 raised; trained on 1 row
          (answer, check) and 1 200 rows (search), loss 0.50
        c: trained on 1 row
        """,
    )


@pytest.mark.parametrize("unicode", [True, False])
def test_hostile_text_is_harmless(unicode):
    evil = "\x1b[31mred\x1b[0m\ttab\r\n\x1b]0;title\x07\u202eright\u2028to\x9b0mleft\x00"
    shown = record(
        name=evil,
        lm=evil,
        order=("baseline", evil, "finetuned"),
        stages=(
            build(evil, "prompt", "failed", reason=f"\n\x1b[2J\n \t{evil}", bootstrap=BUILDS[2].bootstrap),
            build("finetuned", "finetune", "skipped", reason="\x1b[2J\x1b"),
        ),
        results=(result(evil, "10"),),
        verdicts=(gate(evil, evil, "PASS"),),
    )
    lines = [title(shown), *render(shown, unicode=unicode, width=120)]
    assert all(line.isprintable() for line in lines)
    assert lines[0] == "dspy: red tab right to0mleft"
    assert "red tab right to0mleft  failed: red tab" in lines
    assert "finetuned               skipped" in lines


def test_calls_that_a_cache_answered_are_counted_apart():
    shown = record(
        results=(), stages=(build("baseline", "baseline", "built", usage=Usage(lm_calls=1, cached_calls=1)),)
    )
    assert render(shown)[1].startswith("1 built, 0 loaded · 1 LM call (1 answered from a cache) · 0.0 s")


@pytest.mark.parametrize(
    ("cost", "shown"),
    [(None, "?"), (0.0, "0.00"), (0.00000001, "<0.0001"), (0.000004, "0.0040"), (0.00123, "1.23"), (2.5, "2 500.00")],
)
def test_prices(cost, shown):
    assert stage_lines(record(results=(result("baseline", "1", cost=cost),)))[1].endswith(f"  {shown}")


def test_lines_know_what_is_good_and_bad():
    shown = record(
        results=(BASELINE, result("prompt_optimized", "1ee0")),
        stages=(*BUILDS[:2], build("finetuned", "finetune", "failed", reason="no luck")),
    )
    marked = [piece for line in render(shown, width=130) for piece in line.pieces() if piece[1]]
    assert marked == [
        ("2", "bad"),
        ("failed: no luck", "bad"),
        ("PASS", "good"),
        ("UNDECIDED (warn)", "unsure"),
        ("FAIL", "bad"),
    ]
    assert all("".join(text for text, _ in line.pieces()) == line for line in render(shown, width=50))


def test_a_name_beyond_ascii():
    assert title(record(name="käse → brot"), unicode=False) == "dspy: k?se -> brot"
