"""Guards against gates that lie: leakage, the split that chose the program, errors, broken measurements."""

from __future__ import annotations

import pytest

from tests.plugin.projects import run

ANY = "tokens(baseline) <= 9999"
"""A gate that asks for nothing these tests are about."""

GATE = """
import pytest

@pytest.mark.dspy_gate("{gate}")
def test_it(): ...
"""

CONFTEST = """
import dspy, pytest
from pytest_dspy_ft import Dataset, Stage
from parity import examples, make_experiment, toy_lm, right_label

def rows(texts):
    return [dspy.Example(text=t, label="even").with_inputs("text") for t in texts]

def passing(program, *, trainset, teacher=None, valset=None):
    program.demos = [dspy.Example(text="2", label="even")]
    return program

@pytest.fixture(scope="session")
def dspy_experiment():
    {body}
"""

LONG = (
    "{n} please tell me how many of the x{n} letters that I sent to y{n} your office last week in z{n} have been read"
)


def experiment(project: pytest.Pytester, body: str, ini: str = "") -> None:
    project.makeconftest(CONFTEST.format(body=body))
    project.makeini(f"[pytest]\n{ini}")


SELECTED = """
    data = Dataset.from_examples(examples())
    chosen = Stage("chosen", passing, compile_args={"valset": data.dev})
    return make_experiment(dataset=data, stages=[chosen, Stage("after", passing, start="chosen")])
"""


@pytest.mark.parametrize("stage", ["chosen", "after"])
def test_a_gate_on_the_split_that_chose_the_program_is_marked(project: pytest.Pytester, stage: str) -> None:
    experiment(project, SELECTED)
    project.makepyfile(GATE.format(gate=f"{stage} >= baseline"))
    result = run(project, "--dspy-stage=all")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*LeakageWarning: gate `*` is judged on 'dev', whose examples chose `*` (valset of chosen)*'test'*",
        ]
    )
    result.stdout.fnmatch_lines([f"{stage} >= baseline*PASS (!)", "(!) gate `*` is judged on 'dev'*"])


def test_or_refused_at_collection(project: pytest.Pytester) -> None:
    experiment(project, SELECTED, "dspy_selection_leak = fail")
    project.makepyfile(GATE.format(gate="chosen >= baseline"))
    result = run(project, "--dspy-stage=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*py:3: test_it: gate `chosen >= baseline` is judged on 'dev'*valset of chosen*"])
    assert not (project.path / "calls.log").exists()


def test_another_split_or_a_stage_that_saw_nothing_is_fine(project: pytest.Pytester) -> None:
    experiment(project, SELECTED, "dspy_selection_leak = fail")
    test = GATE.format(gate="baseline >= 1%") + GATE.format(gate='chosen >= baseline", on="test').replace("_it", "_b")
    project.makepyfile(test)
    run(project, "--dspy-stage=all").assert_outcomes(passed=2)


NEAR = f"""
    texts = [f"{LONG}" for n in range(20)]
    copies = [texts[3].upper() + "!", texts[5].replace("office", "house")]
    return make_experiment(dataset=Dataset(train=rows(texts[:10]), dev=rows(texts[10:]), test=rows([*copies, "2"])))
"""


def test_near_duplicates_warn_and_are_shown(project: pytest.Pytester) -> None:
    experiment(project, NEAR, "dspy_near_duplicates = warn 75%")
    project.makepyfile(GATE.format(gate=ANY))
    result = run(project)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*LeakageWarning: dataset *: 2 of 3 test examples all but repeat*", "*100% the same*", "*train[[]3]*",
         "*test[[]0]*PLEASE TELL ME*"]
    )  # fmt: skip
    result.stdout.fnmatch_lines(["(!) dataset *2 of 3 test examples*"])


def test_near_duplicates_fail_before_anything_is_spent(project: pytest.Pytester) -> None:
    experiment(project, NEAR, "dspy_near_duplicates = fail 75%")
    project.makepyfile(GATE.format(gate=ANY))
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*2 of 3 test examples all but repeat*"])
    assert not (project.path / "calls.log").exists()


@pytest.mark.parametrize(("mode", "outcome"), [("warn", {"passed": 1, "warnings": 1}), ("fail", {"failed": 1})])
def test_large_datasets_are_searched_before_the_first_build(
    project: pytest.Pytester, mode: str, outcome: dict[str, int]
) -> None:
    experiment(
        project,
        NEAR + "\nimport pytest_dspy_ft.plugin.guards as p; p.SEARCHED_AT_COLLECTION = 5",
        f"dspy_near_duplicates = {mode} 75%",
    )
    project.makepyfile(GATE.format(gate=ANY))
    result = run(project)
    result.assert_outcomes(**outcome)
    result.stdout.fnmatch_lines(["*2 of 3 test examples all but repeat*"])
    assert (project.path / "calls.log").exists() == (mode == "warn")


def test_the_same_data_are_searched_once_and_said_once(project: pytest.Pytester) -> None:
    experiment(project, NEAR, "dspy_near_duplicates = warn 75%")
    project.makepyfile(GATE.format(gate=ANY) + GATE.format(gate=ANY).replace("_it", "_b"))
    run(project, "-n2").assert_outcomes(passed=2, warnings=1)


ERRORS = """
    texts = ["raise"] * {bad} + [str(2 * n + 1) for n in range(20 - {bad})]
    dev = [dspy.Example(text=t, label="odd", n=i).with_inputs("text") for i, t in enumerate(texts)]
    return make_experiment(dataset=Dataset(dev=dev))
"""


@pytest.mark.parametrize("gate", ["baseline >= 10%", "tokens(baseline) <= 1000", "unparsed(baseline) <= 1%"])
def test_too_many_errors_fail_whatever_the_figures(project: pytest.Pytester, gate: str) -> None:
    experiment(project, ERRORS.format(bad=2))
    project.makepyfile(GATE.format(gate=gate))
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TOO MANY ERRORS in baseline: 10.0% of its examples*dspy_max_errors*"])


@pytest.mark.parametrize(
    ("bad", "gate", "ini"),
    [(1, "baseline >= 10%", ""), (2, "baseline >= 10%", "dspy_max_errors = 10%"), (2, "errors(baseline) <= 20%", "")],
)
def test_few_errors_and_gates_that_state_their_own_limit_pass(
    project: pytest.Pytester, bad: int, gate: str, ini: str
) -> None:
    experiment(project, ERRORS.format(bad=bad), ini)
    project.makepyfile(GATE.format(gate=gate))
    run(project).assert_outcomes(passed=1)


METRICS = """
    data = Dataset(dev=examples(range({n})))
    return make_experiment(dataset=data, metric=lambda example, prediction, trace=None: {score}, stages=[])
"""


@pytest.mark.parametrize(
    ("score", "n", "said"),
    [
        ("0.7", 20, "the metric gave 0.7 to every one of 20 predictions"),
        ("True", 20, "the metric gave 1 to every one of 20 predictions, though 10 of them differ from their label"),
        ("False", 20, "the metric gave 0 to every one of 20 predictions, though 10 of them equal their label"),
        ("example.label == prediction.label", 20, "every one of 20 predictions has label=odd for 2 different labels"),
    ],
)
def test_constant_measurements_are_doubted(project: pytest.Pytester, score: str, n: int, said: str) -> None:
    experiment(project, METRICS.format(n=n, score=score))
    project.makepyfile(GATE.format(gate=ANY))
    result = run(project)
    assert f"(!) `baseline` on dev: {said}"[:60] in result.stdout.str()
    assert "MeasurementWarning" not in result.stdout.str(), "it is said once"
    failed = run(project, "-Werror::pytest_dspy_ft.MeasurementWarning", "--dspy-store=other")
    failed.stdout.fnmatch_lines(["MeasurementWarning: `baseline` on dev: *"])


def test_all_right_all_wrong_unread_and_few_are_believed(project: pytest.Pytester) -> None:
    experiment(
        project,
        """
    odd = [dspy.Example(text=str(2 * n + 1), label="odd").with_inputs("text") for n in range(20)]
    unread = [dspy.Example(text="unreadable", label="even", n=n).with_inputs("text") for n in range(30)]
    return make_experiment(dataset=Dataset(dev=odd, test=unread, train=examples(range(0, 20, 2))))
    """,
    )
    gates = [GATE.format(gate=f'{ANY}", on="{on}').replace("_it", f"_{on}") for on in ("dev", "test", "train")]
    project.makepyfile("".join(gates))
    apart = "ignore::pytest_dspy_ft.errors.SplitWarning"  # on purpose: its labels lie apart
    run(project, "-W", "error", "-W", apart).assert_outcomes(passed=3)


def test_a_split_that_cannot_tell_warns(project: pytest.Pytester) -> None:
    project.makepyfile(GATE.format(gate="prompt_optimized >= baseline + 2%"))
    result = run(project, "--dspy-stage=prompt", "--collect-only")
    result.stdout.fnmatch_lines(
        ["*.py:3: ResolutionWarning: gate *: 10 examples tell differences of 32 points or more*asks for 2 points*196*"]
    )
    assert not (project.path / "calls.log").exists()


@pytest.mark.parametrize(
    ("gate", "arguments"),
    [
        ("prompt_optimized >= baseline", ["--dspy-stage=prompt"]),
        ("prompt_optimized >= baseline + 2%", ["--dspy-stage=prompt", "--dspy-limit=5"]),
        ("prompt_optimized >= baseline + 2%", []),
        ("baseline >= 99%", []),
    ],
)
def test_and_only_such_a_split(project: pytest.Pytester, gate: str, arguments: list[str]) -> None:
    project.makepyfile(GATE.format(gate=gate))
    result = run(project, "--collect-only", *arguments)
    assert "ResolutionWarning" not in result.stdout.str()


def test_a_threshold_that_nothing_could_pass_warns(project: pytest.Pytester) -> None:
    project.makepyfile(GATE.format(gate="baseline >= 99%"))
    result = run(project, "--collect-only", "--dspy-confidence=0.95")
    result.stdout.fnmatch_lines(["*ResolutionWarning: *10 examples cannot pass it even if baseline is 100%*368 *"])


def test_a_filter_decides_what_becomes_of_warnings(project: pytest.Pytester) -> None:
    project.makepyfile(GATE.format(gate="prompt_optimized >= baseline + 2%"))
    arguments = ("--dspy-stage=prompt", "--collect-only", "-W", "error::pytest_dspy_ft.DspyFtWarning")
    result = run(project, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it: gate *tell differences of 32 points*"])
    result = run(project, *arguments, "-W", "ignore::pytest_dspy_ft.ResolutionWarning")
    assert result.ret == 0


@pytest.mark.parametrize(
    "line",
    ["dspy_max_errors = many", "dspy_near_duplicates = maybe", "dspy_near_duplicates = warn 300%",
     "dspy_selection_leak = refuse"],
)  # fmt: skip
def test_wrong_ini_values(project: pytest.Pytester, line: str) -> None:
    project.makepyfile("def test_it(): ...")
    project.makeini(f"[pytest]\n{line}")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{line.split()[0]}*"])


TRIED = """
import pytest

@pytest.mark.dspy_gate("prompt_optimized >= baseline", on="train")
def test_clear(): ...

@pytest.mark.dspy_gate("prompt_optimized >= baseline", on="test")
def test_close(): ...
"""


@pytest.mark.parametrize(
    ("ini", "arguments", "outcome"),
    [
        ("", [], {"passed": 2}),
        ("dspy_correction = holm", [], {"passed": 2}),
        ("dspy_correction = holm", ["-k", "close"], {"passed": 1, "deselected": 1}),
    ],
)
def test_gates_are_counted_and_corrected(
    project: pytest.Pytester, ini: str, arguments: list[str], outcome: dict[str, int]
) -> None:
    """5 of 10 better: decided at 97.5 %; the clear gate leaves the close one its full error."""
    project.makeini(f"[pytest]\n{ini}\nfilterwarnings = ignore::pytest_dspy_ft.DspyFtWarning")
    project.makepyfile(TRIED)
    result = run(project, "--dspy-stage=prompt", "--dspy-confidence=0.95", *arguments)
    result.assert_outcomes(**outcome)
    text = result.stdout.str()
    assert ("2 gates were tried at a confidence" in text) == (not arguments)
    assert ("corrected for that by Holm" in text) == (ini != "" and not arguments)


DEMOS = """
    data = Dataset.from_examples(examples())

    def writes(program, *, trainset, teacher=None):
        program.demos = [dict(text=data_of_dev, label="even") for data_of_dev in ("{text}", "2")]
        return program

    return make_experiment(dataset=data, stages=[Stage("chosen", writes)])
"""


@pytest.mark.parametrize(("text", "marked"), [("85", True), ("5", False)])
def test_demos_from_the_split_that_judges_are_marked(project: pytest.Pytester, text: str, marked: bool) -> None:
    """The dev split holds 80 to 89; `writes` names no list of examples, so only the built program shows it."""
    experiment(project, DEMOS.format(text=text))
    project.makepyfile(GATE.format(gate="chosen >= 1%"))
    result = run(project, "--dspy-stage=all")
    result.assert_outcomes(passed=1, warnings=int(marked))
    lines = [
        "*LeakageWarning: gate `*` is judged on 'dev', of which examples stand in*`chosen` (1 of 10*",
        "*PASS (!)*",
    ]
    if marked:
        result.stdout.fnmatch_lines(lines)
    else:
        result.stdout.fnmatch_lines(["chosen >= 1%*PASS"])
        result.stdout.no_fnmatch_line("*LeakageWarning*")


def test_demos_from_the_split_that_judges_fail_the_gate(project: pytest.Pytester) -> None:
    experiment(project, DEMOS.format(text="85"), "dspy_selection_leak = fail")
    project.makepyfile(GATE.format(gate="chosen >= 1%"))
    result = run(project, "--dspy-stage=all")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*gate `chosen >= 1%` is judged on 'dev', of which examples stand in*"])
