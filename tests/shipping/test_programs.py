"""Programs of all kinds, exported and loaded: what consists of data comes back by itself, the rest is asked for."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import pytest_dspy_ft
from pytest_dspy_ft import ExportError, ExportWarning, Ladder
from tests.parity import make_experiment, toy_lm
from tests.plugin.projects import run
from tests.shipping.exports import answers_elsewhere, export, gated_answers, receipt_in
from tests.shipping.odd import OddAdapter

SORTER = """
import enum
import dspy

class Parity(enum.Enum):
    EVEN = "even"
    ODD = "odd"

class Question(dspy.Signature):
    \"\"\"Say whether the number is even or odd.\"\"\"

    text: str = dspy.InputField()
    label: Parity = dspy.OutputField()

class Sorter(dspy.Module):
    def __init__(self, prefix=""):
        super().__init__()
        self.prefix = prefix
        self.sort = dspy.Predict(Question)
        self.again = self.sort
        self.steps = [self.sort, dspy.Predict("text -> label")]

    def forward(self, text):
        answer = self.steps[0](text=self.prefix + text)
        return dspy.Prediction(label=answer.label.value)
"""

CONFTEST = """
import dspy, pytest
from parity import make_experiment
from pytest_dspy_ft import Stage
{where}

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment(program={program}, stages=[Stage("prompt_optimized", {optimizer})])
"""

TEST = """
import pytest

@pytest.mark.dspy_gate("prompt_optimized >= {score}%")
def test_it(): ...
"""

FEW = "dspy.LabeledFewShot(k=3)"


def gate(
    project: pytest.Pytester, where: str, program: str = "Sorter()", optimizer: str = FEW, score: int = 90
) -> None:
    """Run the ladder of a project whose program is defined, or imported, in its conftest."""
    project.makeconftest(CONFTEST.format(where=where, program=program, optimizer=optimizer))
    project.makepyfile(test_it=TEST.format(score=score))
    result = run(project, "--dspy-stage=prompt")
    result.assert_outcomes(passed=1)


INPUTS = [{"text": str(number)} for number in range(80, 90)]


def test_a_class_that_can_be_imported_comes_back_by_itself(project: pytest.Pytester) -> None:
    project.makepyfile(sorter=SORTER)
    gate(project, "from sorter import Sorter")
    assert export(project.path, "prompt_optimized") == 0
    out = project.path / "out"
    assert receipt_in(out).imports == ("sorter",)
    given = {"imports": "import parity", "given": ", lm=parity.toy_lm()"}
    found = answers_elsewhere(out, INPUTS, path=project.path, **given)
    assert found == gated_answers(project.path / ".dspy_ft", "prompt_optimized", "dev")
    assert {answer["label"] for answer in found} == {"even", "odd"}


def test_modules_that_are_one_come_back_as_one(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makepyfile(sorter=SORTER)
    gate(project, "from sorter import Sorter")
    assert export(project.path, "prompt_optimized") == 0
    monkeypatch.syspath_prepend(project.path)
    loaded = pytest_dspy_ft.load(project.path / "out", lm=toy_lm())
    assert loaded.again is loaded.sort is loaded.steps[0]
    assert len(loaded.sort.demos) == 3


def test_without_its_module_it_says_what_is_missing(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makepyfile(sorter=SORTER)
    gate(project, "from sorter import Sorter")
    assert export(project.path, "prompt_optimized") == 0
    (project.path / "sorter.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ExportError, match=r"sorter:Sorter cannot be imported here; put sorter where Python finds it"):
        pytest_dspy_ft.load(project.path / "out", lm=toy_lm())


def test_a_class_in_a_conftest_is_asked_for(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    gate(project, SORTER)
    capsys.readouterr()
    assert export(project.path, "prompt_optimized") == 0
    printed = capsys.readouterr().out
    asked = "NOTE: to load it, give program: the program as it was written, a conftest.Sorter, since program"
    assert re.search(re.escape(asked) + r"\S* its class conftest\.\w+ is of a module that only pytest imports", printed)
    out = project.path / "out"
    with pytest.raises(ExportError, match=r"needs the program as it was written, a conftest.Sorter: load\(DIR, progr"):
        pytest_dspy_ft.load(out, lm=toy_lm())
    assert "program=..., lm=..." in (out / "README.md").read_text("utf-8")
    # The same class in a module of the service that calls it.
    (project.path / "service.py").write_text(SORTER, "utf-8")
    given = {"imports": "import parity, service", "given": ", service.Sorter(), lm=parity.toy_lm()"}
    found = answers_elsewhere(out, INPUTS, path=project.path, **given)
    assert found == gated_answers(project.path / ".dspy_ft", "prompt_optimized", "dev")


LIVE = """
import threading
import dspy
from parity import Labels

class Sorter(dspy.Module):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.sort = dspy.Predict(Labels)

    def forward(self, text):
        with self.lock:
            return self.sort(text=text)
"""


def test_a_program_that_holds_live_things_is_asked_for(project: pytest.Pytester) -> None:
    project.makepyfile(sorter=LIVE)
    gate(project, "from sorter import Sorter")
    assert export(project.path, "prompt_optimized") == 0
    needs = {need.partition(":")[0]: need for need in receipt_in(project.path / "out").needs}
    assert needs.keys() == {"program", "lm"}
    assert "program.lock: live _thread.lock is not data" in needs["program"]
    given = {"imports": "import parity, sorter", "given": ", sorter.Sorter(), lm=parity.toy_lm()"}
    found = answers_elsewhere(project.path / "out", INPUTS, path=project.path, **given)
    assert found == gated_answers(project.path / ".dspy_ft", "prompt_optimized", "dev")


def test_code_that_has_changed_since_is_said(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makepyfile(sorter=SORTER)
    gate(project, "from sorter import Sorter")
    assert export(project.path, "prompt_optimized") == 0
    (project.path / "sorter.py").write_text(SORTER.replace("self.prefix + text", "text.strip()"), "utf-8")
    importlib.invalidate_caches()
    monkeypatch.syspath_prepend(project.path)
    with pytest.warns(ExportWarning, match=re.escape("the code of sorter.Sorter is not the code that was gated")):
        pytest_dspy_ft.load(project.path / "out", lm=toy_lm())


def test_an_adapter_of_the_user_s_own(project: pytest.Pytester) -> None:
    terse = (
        "\nclass Terse(dspy.ChatAdapter):\n"
        "    def user_message_output_requirements(self, signature):\n        return None\n"
    )
    project.makepyfile(terse=f"import dspy\n{terse}")
    conftest = CONFTEST.format(where="from parity import Labels", program="dspy.Predict(Labels)", optimizer=FEW)
    conftest = conftest.replace("program=", "adapter=Terse(use_json_adapter_fallback=False), program=")
    given: dict[str, Any] = {"imports": "import parity, terse", "path": project.path}
    for where, needed in (("from terse import Terse\n", False), (terse, True)):
        project.makeconftest(conftest.replace("\n@pytest", f"\n{where}\n@pytest"))
        project.makepyfile(test_it=TEST.format(score=90))
        run(project, "--dspy-stage=prompt").assert_outcomes(passed=1)
        assert export(project.path, "prompt_optimized", "--replace") == 0
        out = project.path / "out"
        assert any(need.startswith("adapter: a conftest.Terse") for need in receipt_in(out).needs) is needed
        more = ", adapter=terse.Terse(use_json_adapter_fallback=False)" if needed else ""
        found = answers_elsewhere(out, INPUTS, **given, given=f", lm=parity.toy_lm(){more}")
        assert {answer["label"] for answer in found} == {"even", "odd"}
    with pytest.raises(ExportError, match=r"needs its adapter, a conftest.Terse: load\(DIR, adapter=\.\.\.\)"):
        pytest_dspy_ft.load(project.path / "out", lm=toy_lm())


def test_what_cannot_be_looked_at_fails_the_export_and_no_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ladder = Ladder(make_experiment(adapter=OddAdapter()), tmp_path / "store")
    assert ladder.evaluate("baseline").score == 0.5
    assert export(tmp_path, "baseline", "--anyway", store="store") == 2
    assert "stage 'baseline' cannot be exported: RuntimeError: not today" in capsys.readouterr().err
