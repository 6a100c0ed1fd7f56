"""The docs' four snippets, corrected, as plain scripts: each runs on the embedded LM to its last line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "docs_as_scripts"

# What each prints, in this order; the figures of so small a run mean nothing.
PRINTED = {
    "01_ticket_sorting.py": [
        r"Baseline: \d+\.\d%",
        r"Prompt-optimized: \d+\.\d%",
        r"Fine-tuned: \d+\.\d%",
        r"Test set results:",
        r"  Baseline:         \d+\.\d%",
        r"  Prompt-optimized: \d+\.\d%",
        r"  Fine-tuned:       \d+\.\d%",
    ],
    "02_rag_distillation.py": [
        r"Teacher \(.*, optimized\): \d+\.\d%",
        r"Student \(.*, no tuning\): \d+\.\d%",
        r"Student \(.*, fine-tuned\): \d+\.\d%",
    ],
    "03_better_together.py": [
        r"Baseline: \d+\.\d%",
        r"Prompt-only: \d+\.\d%",
        r"Fine-tune-only: \d+\.\d%",
        r"Won: .*, on .+",
        r"BetterTogether: \d+\.\d%",
    ],
    "04_low_bootstrap.py": [
        r"Baseline: \d+\.\d%",
        r"Fine-tuned \(with strong teacher\): \d+\.\d%",
        r"Fine-tuned \(lenient bootstrap\): \d+\.\d%",
    ],
}


def test_every_script_is_tested() -> None:
    assert {path.name for path in SCRIPTS.glob("0*.py")} == set(PRINTED)


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DSPY_FINETUNEDIR": str(folder / "finetune"), "DSPY_CACHEDIR": str(folder / "cache")}
    environment["PYTHONPATH"] = str(SCRIPTS.parents[1])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def require_printed(done: subprocess.CompletedProcess[str], script: str) -> None:
    assert done.returncode == 0, done.stderr[-4000:]
    lines = iter(done.stdout.splitlines())
    for expected in PRINTED[script]:
        assert any(re.fullmatch(expected, line) for line in lines), f"{expected!r} is missing in:\n{done.stdout}"


@pytest.mark.parametrize("script", PRINTED)
def test_a_script_runs_on_a_scripted_lm(script: str, tmp_path: Path) -> None:
    done = run(["-m", "tests.examples.scripted_run", script, "--limit", "24"], tmp_path)
    require_printed(done, script)
    trainings = [int(n) for n in done.stdout.splitlines()[-1].removeprefix("rows of each training:").split()]
    assert len(trainings) == 1 + (script[:2] in ("03", "04"))
    assert all(0 < rows <= 24 for rows in trainings)
    assert "A step of BetterTogether failed" not in done.stdout


@pytest.mark.model
@pytest.mark.parametrize("script", PRINTED)
def test_a_script_runs_on_the_embedded_lm(script: str, tmp_path: Path) -> None:
    shown = re.search(rf"{script} --limit (\d+) ", (SCRIPTS / script).read_text("utf-8"))
    assert shown, "the script says how to try it"
    require_printed(run([SCRIPTS / script, "--lm", "local", "--limit", shown[1]], tmp_path), script)
    assert list((tmp_path / "finetune").glob("*/adapter_model.safetensors")), "weights were trained"


def test_the_name_of_a_model_is_checked(tmp_path: Path) -> None:
    done = run([SCRIPTS / "01_ticket_sorting.py", "--lm", "gpt-4o-mini"], tmp_path)
    assert done.returncode != 0
    assert "unknown LM 'gpt-4o-mini'" in done.stderr
