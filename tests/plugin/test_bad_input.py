"""What is wrong is said at collection, with its place and what would be right; nothing runs and nothing is lost."""

from __future__ import annotations

import pytest

from pytest_dspy_ft.plugin.options import TABLE, Options
from tests.plugin.projects import run


def usage_error(project: pytest.Pytester, *lines: str, arguments: tuple[str, ...] = ()) -> None:
    result = run(project, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str() + result.stderr.str()
    result.stderr.fnmatch_lines(list(lines))
    assert not (project.path / "calls.log").exists()
    assert not (project.path / ".dspy_ft").exists()


def gate(marker: str) -> str:
    return f"import pytest\n\n@pytest.mark.{marker}\ndef test_it(): ...\n"


def test_misspelt_keyword(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%", confidense=0.9)'))
    usage_error(project, "*test_a.py:3: test_it: *unexpected keyword argument 'confidense'*confidence*")


def test_unparsable_gate(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline => 40%")'))
    usage_error(project, "*test_a.py:3: test_it: *>=*")


def test_gate_without_expression(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate("dspy_gate"))
    usage_error(project, "*test_a.py:3: test_it: *expression*")


def test_unknown_stage_in_a_gate(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("finetuend >= 40%")'))
    usage_error(project, "*test_a.py:3: test_it: *finetuend*finetuned*")


def test_unknown_stage_in_a_marker(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_stage("promt_optimized")'))
    usage_error(project, "*test_a.py:3: test_it: *promt_optimized*prompt_optimized*")


def test_unknown_split_and_empty_split(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%", on="tset")'))
    usage_error(project, "*test_a.py:3: test_it: *tset*test*")


def test_wrong_gates_of_deselected_tests_are_found(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline => 40%")') + "\ndef test_other(): ...\n")
    usage_error(project, "*test_a.py:3: test_it: *", arguments=("-k", "other"))


def test_unknown_stage_option(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    usage_error(project, "*--dspy-stage: no stage 'finetine'*finetune*", arguments=("--dspy-stage=finetine",))


def test_unknown_rebuild(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    usage_error(
        project, "*--dspy-rebuild: no stage 'nothing'; choices are all, *", arguments=("--dspy-rebuild=nothing",)
    )


@pytest.mark.parametrize(
    ("lm", "message"),
    [
        ("gpt-4o-mini", "*--dspy-lm=gpt-4o-mini: unknown LM*openai/gpt-4o-mini*"),
        ("opnai/gpt-4o-mini", "*--dspy-lm=opnai/gpt-4o-mini: unknown LM*openai*"),
        ("local:/no/such/folder", "*--dspy-lm=local:/no/such/folder: *"),
    ],
)
def test_unknown_lm(project: pytest.Pytester, lm: str, message: str) -> None:
    project.makeconftest(
        """
        import pytest
        from parity import make_experiment

        @pytest.fixture(scope="session")
        def dspy_experiment(dspy_lm):
            return make_experiment(lm=dspy_lm)
        """
    )
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    usage_error(project, message, arguments=(f"--dspy-lm={lm}",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages=[Stage('a'), Stage('a')]", "*two stages are named 'a'*"),
        ("stages=[Stage('a', start='b')]", "*start='b'*"),
        ("stages=[Stage('a', dspy.LabeledFewShot(), teacher='basline')]", "*teacher='basline'*baseline*"),
        ("stages=[Stage('a', start='b'), Stage('b', start='a')]", "*circle: a -> b -> a*"),
        ("stages=[Stage('baseline')]", "*'baseline' is always there*"),
        ("stages=[Stage('not a name')]", "*Python identifier*not_a_name*"),
        ("stages=[Stage('a', dspy.LabeledFewShot)]", "*is the class LabeledFewShot; give an instance*"),
        ("dataset=Dataset.from_file('nowhere.json', inputs=['text'])", "*nowhere.json*"),
        ("dataset=Dataset.from_examples(examples(), split=(0.8, 0.1, 0.2))", "*sum*"),
        (
            "dataset=Dataset(train=examples(range(9)), dev=examples(range(8, 20)))",
            "*conftest.py:*the same example is in two splits, train and dev*",
        ),
    ],
)
def test_wrong_declarations(project: pytest.Pytester, change: str, message: str) -> None:
    project.makeconftest(
        f"""
        import dspy, pytest
        from parity import examples, make_experiment
        from pytest_dspy_ft import Dataset, Stage

        @pytest.fixture(scope="session")
        def dspy_experiment():
            return make_experiment({change})
        """
    )
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    usage_error(project, message)


def test_two_experiments_of_one_name(project: pytest.Pytester) -> None:
    for name in ("one", "two"):
        folder = project.mkpydir(name)
        (folder / "conftest.py").write_text((project.path / "conftest.py").read_text())
        (folder / f"test_{name}.py").write_text(gate('dspy_gate("baseline >= 40%")'))
    usage_error(project, "*two experiments are named 'parity': *one*conftest.py:*two*conftest.py:*")


def test_no_experiment(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*define a fixture dspy_experiment*"])


@pytest.mark.parametrize(
    "option", ["--dspy-limit=0", "--dspy-limit=many", "--dspy-num-threads=0", "--dspy-confidence=95"]
)
def test_option_values(project: pytest.Pytester, option: str) -> None:
    result = run(project, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option.split('=')[0]}*{option.split('=')[1]}*is not*"])


def test_ini_values(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ndspy_num_threads = lots\n")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*tox.ini: dspy_num_threads = 'lots' is not a whole number of threads, at least 1"])


def test_each_option_is_a_field() -> None:
    made = {"compare", "near_duplicates_from"}
    parts = {"record", "offline", "record_lms"}
    assert {entry.field for entry in TABLE} - parts == set(Options._fields) - made


def test_collect_only_checks_and_builds_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    result = run(project, "--collect-only", "-q")
    assert result.ret == 0
    assert not (project.path / "calls.log").exists()
    assert not (project.path / ".dspy_ft").exists()


def test_a_price_that_is_none(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=gate('dspy_gate("baseline >= 40%")'))
    project.makeini("[pytest]\ndspy_prices =\n    local:* = 0.02 0.02\n    openai/gpt-4o = cheap\n")
    usage_error(project, "*tox.ini: dspy_prices: 'openai/gpt-4o = cheap': 'cheap' is not a price*MODEL = INPUT OUTPUT*")
