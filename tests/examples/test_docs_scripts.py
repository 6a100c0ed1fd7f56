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
        r"Teacher \(local:smollm2-135m, optimized\): \d+\.\d%",
        r"Student \(local:smollm2-135m, no tuning\): \d+\.\d%",
        r"Student \(local:smollm2-135m, fine-tuned\): \d+\.\d%",
    ],
    "03_better_together.py": [
        r"Baseline: \d+\.\d%",
        r"Prompt-only: \d+\.\d%",
        r"Fine-tune-only: \d+\.\d%",
        r"Won: .*, on local:smollm2-135m.*",
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


@pytest.mark.model
@pytest.mark.parametrize("script", PRINTED)
def test_a_script_runs_on_the_embedded_lm(script: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DSPY_FINETUNEDIR": str(tmp_path / "finetune"), "DSPY_CACHEDIR": str(tmp_path / "c")}
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, "--lm", "local", "--limit", "24"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = iter(done.stdout.splitlines())
    for expected in PRINTED[script]:
        assert any(re.fullmatch(expected, line) for line in lines), f"{expected!r} is missing in:\n{done.stdout}"
    assert list((tmp_path / "finetune").glob("*/adapter_model.safetensors")), "weights were trained"


@pytest.mark.parametrize("script", PRINTED)
def test_the_name_of_a_model_is_checked(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, "--lm", "gpt-4o-mini"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "unknown LM 'gpt-4o-mini'" in done.stderr
