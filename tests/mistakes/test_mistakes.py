"""Deliberate mistakes: the first three lines say what is wrong, where, and what would be right."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import pytest

from pytest_dspy_ft.cli import main
from tests.mistakes.data import DATA
from tests.mistakes.declaring import DECLARING
from tests.mistakes.gates import GATES
from tests.mistakes.mistake import TRACEBACKS, Mistake, first_lines
from tests.mistakes.options import OPTIONS
from tests.mistakes.stores import COMMANDS, STORES
from tests.mistakes.tuning import TUNING

IN_SESSIONS = (*DECLARING, *GATES, *OPTIONS, *DATA, *TUNING, *STORES)


def _named(mistakes: Sequence[Mistake]) -> list[object]:
    return [pytest.param(mistake, id=mistake.name.replace(" ", "-")) for mistake in mistakes]


@pytest.mark.parametrize("mistake", _named(IN_SESSIONS))
def test_in_a_session(mistake: Mistake, project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in mistake.environment.items():
        monkeypatch.setenv(name, value)
    _written(mistake, project)
    if mistake.missing:
        for name in mistake.missing:
            monkeypatch.setitem(sys.modules, name, None)  # for `import` and `find_spec`, as if it were not installed
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        run = project.runpytest_subprocess if mistake.own_process else project.runpytest_inprocess
        result = run("-p", "no:xdist", "-p", "no:cacheprovider", *mistake.arguments)
    out, err = result.stdout.str(), result.stderr.str()
    _check(mistake, int(result.ret), out, err)
    if not mistake.spends:
        assert not (project.path / "calls.log").exists(), "an LM was called first"


@pytest.mark.parametrize("mistake", _named(COMMANDS))
def test_in_a_command(mistake: Mistake, project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    _written(mistake, project)
    try:
        code = main(mistake.arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    _check(mistake, code, *capsys.readouterr())


def _written(mistake: Mistake, project: pytest.Pytester) -> None:
    for name, content in mistake.project().items():
        path = project.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def _check(mistake: Mistake, code: int, out: str, err: str) -> None:
    lines = first_lines(out, err)
    seen = "\n".join(lines)
    print(f"\n### {mistake.name} (exit {code})\n{seen}\n###")
    assert code != 0, out + err
    missing = [word for word in (*mistake.what, *mistake.where, *mistake.right) if word not in seen]
    assert not missing, f"{missing} not in:\n{seen}\n\n{out[-3000:]}\n{err[-3000:]}"
    assert not [word for word in TRACEBACKS if word in out + err], out + err


def test_a_plan_says_what_cannot_be_built(project: pytest.Pytester) -> None:
    mistake = next(mistake for mistake in TUNING if mistake.name == "a fine-tuned DummyLM")
    _written(mistake, project)
    result = project.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", "--dspy-plan", *mistake.arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*build tuned*", "(!) stage 'tuned': 'dummy' cannot be fine-tuned*", "nothing was run"]
    )
    assert not [word for word in TRACEBACKS if word in result.stdout.str() + result.stderr.str()]
