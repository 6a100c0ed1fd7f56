"""The ticket example as the docs write it, on a hosted LM: only the address is changed, and the jobs really train.

The service on the loopback stands in for a large model by looking its answers up in the labels, some of them wrongly
without demonstrations. What it trains, and what answers as ``ft:...`` afterwards, is the embedded model.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dspy.lm15 import request_from_openai_chat

from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.provider import LocalProvider, LocalTrainingJob
from tests.finetune.hosted.http_faults import KEY
from tests.finetune.hosted.server import FineTuningService, Job, serving

pytestmark = pytest.mark.model

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "ticket_sorting"
TICKETS = {t["text"]: t["category"] for t in json.loads((EXAMPLE / "tickets.json").read_text("utf-8"))}
LIMIT = 24


class LargeModel:
    """Answers and trains for the service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: dict[str, str] = {}
        self.losses: list[float] = []

    def answer(self, model: str, messages: list[dict[str, Any]]) -> str:
        if model in self.trained:
            body = {"model": self.trained[model], "messages": messages, "max_tokens": 48}
            response = LocalEngine.shared("smollm2-135m").complete(request_from_openai_chat(body))
            return "".join(part.text for part in response.message.parts)
        text = re.search(r"\[\[ ## text ## \]\]\n(.*?)\n\n(?:\[\[|Respond)", messages[-1]["content"], re.DOTALL)
        category = TICKETS.get(text[1].strip()) if text else None
        if text is None or category is None:
            return "I have nothing to propose."
        if len(messages) == 2 and sum(text[1].encode()) % 4 == 0:
            category = "other"
        return (
            f"[[ ## reasoning ## ]]\nThe ticket is about {category}.\n\n"
            f"[[ ## category ## ]]\n{category}\n\n[[ ## completed ## ]]"
        )

    def train(self, job: Job, rows: list[Any], service: FineTuningService) -> str:
        def tell(progress: Any) -> None:
            if progress.loss is not None:
                self.losses.append(progress.loss)
                with service.lock:
                    service.step(job, progress.step, progress.total_steps, progress.loss)

        provider = LocalProvider(LocalEngine.shared("smollm2-135m"))
        settings = {"epochs": 3, "batch_size": 4, "output_dir": str(self.folder / job.id), "progress": tell}
        name = provider.finetune(LocalTrainingJob(), "local:smollm2-135m", rows, "chat", settings)
        self.trained[job.shown["name"]] = name
        return str(job.shown["name"])


def run(service: FineTuningService, store: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "examples/ticket_sorting", "-p", "no:cacheprovider"]
    command += [
        "--dspy-stage=finetune",
        "--dspy-lm=openai/gpt-4o-mini",
        f"--dspy-limit={LIMIT}",
        f"--dspy-store={store}",
    ]
    environment = {**os.environ, "OPENAI_BASE_URL": service.address, "OPENAI_API_KEY": KEY}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": str(store / "dspy_cache")}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [*command, *options], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # gates are judged; they may well fail on so few tickets
    return done.stdout


def results(store: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text("utf-8"))["result"] for path in (store / "evaluations").rglob("*.json")]
    return {f"{result['stage']}/{result['on']}": result for result in found}


def test_the_docs_ladder_runs_with_only_the_address_changed(tmp_path: Path) -> None:
    large, store = LargeModel(tmp_path), tmp_path / "store"
    with serving(answer=large.answer, train=large.train) as service:
        first = run(service, store)
        [job] = service.started()
        assert job.shown["status"] == "succeeded", first
        assert job.shown["model"] == "gpt-4o-mini"
        assert len(service.rows(job.shown["training_file"])) >= 10
        assert large.losses[-1] < large.losses[0] / 2, "it was really trained"
        assert (tmp_path / job.id / "adapter_model.safetensors").is_file()
        measured = results(store)
        assert {"baseline/dev", "prompt_optimized/dev", "prompt_optimized/test", "finetuned/test"} <= measured.keys()
        assert all(e["outcome"] != "error" for result in measured.values() for e in result["examples"]), first
        outcomes = [e["outcome"] for e in measured["finetuned/test"]["examples"]]
        assert measured["finetuned/test"]["lm"] == f"openai/{job.shown['fine_tuned_model']}"
        assert outcomes.count("scored") >= 0.75 * len(outcomes), "the trained model answers, in the trained format"
        assert re.search(r"finetuned >= prompt_optimized +test .*(PASS|FAIL|UNDECIDED)", first), first
        asked = len(service.asked)
        second = run(service, store)
        assert "0 built, 3 loaded" in second
        assert len(service.started()) == 1
        assert len(service.asked) <= asked + 1, "only the test that calls the program itself asked again"
