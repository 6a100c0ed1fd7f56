"""``--dspy-compare`` asks LMs that are not on this machine again: a store held against itself would show nothing."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.lms.resolve import may_change
from tests.plugin.projects import COMPARE, DEV, FULL, ITEM, SAVE, calls, run
from tests.scripted import experiment, reply, scripted_lm

STORED = "--dspy-compare-stored"


@pytest.fixture
def drifted(saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The saved project, whose LM is somebody else's and answers otherwise now, behind the same name."""
    monkeypatch.setenv("PARITY_HOSTED", "1")
    monkeypatch.setenv("PARITY_WRONG", DEV)
    return saved


def test_an_lm_that_changed_behind_its_name_is_found(drifted: pytest.Pytester) -> None:
    before = len(calls(drifted))
    result = run(drifted, FULL, COMPARE, "-v")
    result.stdout.fnmatch_lines(
        [
            f"{ITEM} FAILED*",
            "    then label='*'",
            "    now label='neither'",
            "lm toy/parity*0 built, 3 loaded * 40 LM calls*",
            "compared with *: 1 REGRESSED, 2 no loss seen *",
        ]
    )
    assert len(calls(drifted)) - before == 40, "each evaluation once, and no build"
    assert len((drifted.path / "jobs.log").read_text().splitlines()) == 1
    today = run(drifted, FULL)
    assert len(calls(drifted)) - before == 40, "what was measured anew is today's result"
    today.stdout.fnmatch_lines(["prompt_optimized  dev*0.0%*"])


def test_chosen_alone_it_measures_anew_by_itself(drifted: pytest.Pytester) -> None:
    before = len(calls(drifted))
    run(drifted, FULL, COMPARE, "-k", "compare").assert_outcomes(failed=1, deselected=3)
    assert len(calls(drifted)) - before == 40


def test_workers_measure_anew_once_between_them(drifted: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    before = len(calls(drifted))
    result = run(drifted, FULL, COMPARE, "-n2")
    result.stdout.fnmatch_lines(["*    then label='*'", "compared with *: 1 REGRESSED, 2 no loss seen *"])
    assert len(calls(drifted)) - before == 40


def test_stored_results_are_compared_where_they_are_meant(drifted: pytest.Pytester) -> None:
    before = calls(drifted)
    result = run(drifted, FULL, COMPARE, STORED, "--dspy-frozen")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["not measured in this session but read from the store (--dspy-compare-stored): baseline on dev, *"]
    )
    assert calls(drifted) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dspy-frozen"], "*ran on toy/parity*measures it anew, and --dspy-frozen calls no LM; add *compare-stored*"),
        (["--dspy-record=none"], "*recorded answers (--dspy-record=none) are those of then; add *compare-stored*"),
        (["--dspy-record=once"], "*recorded answers (--dspy-record=once) are those of then; add *compare-stored*"),
    ],
)
def test_a_session_that_may_not_ask_says_so_before_anything_runs(
    drifted: pytest.Pytester, arguments: list[str], message: str
) -> None:
    before = calls(drifted)
    result = run(drifted, FULL, COMPARE, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (result.stderr if result.errlines else result.stdout).fnmatch_lines([message])
    assert calls(drifted) == before


def test_a_plan_counts_what_would_be_measured_anew(drifted: pytest.Pytester) -> None:
    before = calls(drifted)
    result = run(drifted, FULL, COMPARE, "--dspy-plan")
    result.stdout.fnmatch_lines(["measure baseline on dev *its LM may have changed behind its name *10 *"])
    assert calls(drifted) == before


def test_what_is_not_compared_is_not_paid_again(drifted: pytest.Pytester) -> None:
    before = calls(drifted)
    run(drifted, FULL, COMPARE, "-k", "test_baseline or test_prompt").assert_outcomes(passed=2, deselected=2)
    assert calls(drifted) == before


def test_compare_stored_alone_is_a_usage_error(saved: pytest.Pytester) -> None:
    result = run(saved, STORED)
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_less_than_half_of_the_examples_fails(saved: pytest.Pytester) -> None:
    result = run(saved, FULL, COMPARE, "--dspy-limit=4")
    assert result.parseoutcomes()["failed"] >= 1
    result.stdout.fnmatch_lines(
        [
            "*compared with *: 2 with TOO FEW EXAMPLES, 2 absent",
            "  baseline on dev: TOO FEW EXAMPLES: 4 of the baseline's 10 examples are left; at least half (5)*",
        ]
    )


def test_all_experiments_of_a_session_are_one_family(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import make_experiment

        @pytest.fixture(params=["small", "large", "third"])
        def dspy_experiment(request):
            return make_experiment(request.param)
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("prompt_optimized >= 40%")
        def test_one(): ...
        """
    )
    run(project, SAVE, FULL).assert_outcomes(passed=3)
    for chosen in ((), ("-k", "compare")):
        result = run(project, COMPARE, FULL, *chosen)
        for _ in range(3):
            result.stdout.fnmatch_lines(["3 comparisons in this session, corrected for that by Holm's method*"])


# --- the core --------------------------------------------------------------------------------------------------------


def changing_lm(answers: dict[str, str], **settings: Any) -> Any:
    lm = scripted_lm(lambda inputs, request: reply(label=answers["now"]), **settings)
    lm.engine.hosted = True
    return lm


@pytest.mark.parametrize("on", ["dev", "test"])
def test_a_ladder_measures_anew_what_it_is_told_to(on: Any, tmp_path: Any) -> None:
    answers = {"now": "even"}
    lm = changing_lm(answers)
    made = experiment(dspy.Predict("text -> label"), lm)
    first = Ladder(made, tmp_path).evaluate("baseline", on)
    answers["now"] = "neither"
    assert Ladder(made, tmp_path).evaluate("baseline", on).score == first.score > 0
    with pytest.raises(StoreError, match="--dspy-compare-stored"):
        Ladder(made, tmp_path, frozen=True, measure_anew=[("baseline", on)]).evaluate("baseline", on)
    asked = len(lm.engine.requests)
    ladder = Ladder(made, tmp_path, measure_anew=[("baseline", on)])
    assert ladder.find_evaluation("baseline", on) is None
    assert ladder.evaluate("baseline", on).score == 0
    assert ladder.evaluate("baseline", on).score == 0
    assert len(lm.engine.requests) - asked == first.n
    assert Ladder(made, tmp_path).evaluate("baseline", on).score == 0, "the new result is kept"


def asked_again(made: Any, other: Any, folder: Any) -> bool:
    """Whether an evaluation that is compared asks an LM again that it has asked before."""
    Ladder(made, folder).evaluate("baseline")
    asked = len(other.engine.requests)
    assert asked
    Ladder(made, folder, measure_anew=[("baseline", "dev")]).evaluate("baseline")
    return len(other.engine.requests) > asked


class Asks(dspy.Module):
    """A program that asks an LM which no predictor holds."""

    def __init__(self, ask: Any) -> None:
        super().__init__()
        self.label = dspy.Predict("text -> label")
        self.ask = ask

    def forward(self, text: str) -> Any:
        self.ask("is it?")
        return self.label(text=text)


@pytest.mark.parametrize("hosted", [True, False], ids=["hosted", "here"])
@pytest.mark.parametrize("where", ["forward", "closure", "object", "module"])
def test_an_lm_that_is_asked_on_the_way_counts_too(where: str, hosted: bool, tmp_path: Any) -> None:
    other = scripted_lm(lambda inputs, request: reply(answer="yes"), "hosted/judge")
    other.engine.hosted = hosted
    judge = dspy.Predict("label -> answer")
    judge.set_lm(other)

    class Judge:
        def __init__(self) -> None:
            self.lm = other

        def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
            return bool(self.lm("is it?"))

    metrics: dict[str, Any] = {
        "closure": lambda example, prediction, trace=None: bool(other("is it?")),
        "object": Judge(),
        "module": lambda example, prediction, trace=None: judge(label=prediction.label).answer == "yes",
    }
    lm = scripted_lm(lambda inputs, request: reply(label="even"))
    program = Asks(lambda question: other(question)) if where == "forward" else dspy.Predict("text -> label")
    changes = {"metric": metrics[where]} if where in metrics else {}
    again = asked_again(experiment(program, lm, **changes), other, tmp_path)
    assert again == (hosted or where == "forward"), "of one that nothing declares it is not known who answers"


class OwnLM(dspy.BaseLM):
    """A class of the user's own: who answers is not known."""

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        raise NotImplementedError


def test_which_lms_may_change_behind_their_names() -> None:
    from dspy.utils import DummyLM

    assert may_change(dspy.LM("openai/gpt-4o-mini"))
    assert may_change(dspy.LM("openai/served-here", api_base="http://127.0.0.1:8000/v1", api_key="none"))
    assert may_change(OwnLM(model="gateway"))
    assert may_change(changing_lm({}))
    assert not may_change(scripted_lm(lambda inputs, request: ""))
    assert not may_change(DummyLM([{"label": "even"}]))
