"""A real vLLM answers for the embedded LM and for a LoRA trained here: ``DSPY_FT_TEST_VLLM`` names its executable.

docs/how-to/serving.md says how vLLM is installed on a machine without a GPU. ``DSPY_FT_TEST_VLLM_PRELOAD`` names a
library that has to be loaded before it (its OpenMP).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.lms.resolve import resolve_lm
from pytest_dspy_ft.lms.serving import Serving
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.merged_folder import write_merged
from tests.real.test_ticket_slice import TICKETS

VLLM = os.environ.get("DSPY_FT_TEST_VLLM", "")

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not VLLM, reason="DSPY_FT_TEST_VLLM names no vLLM executable (docs/how-to/serving.md)"),
]


class ClassifyTicket(dspy.Signature):
    """Classify the support ticket into a category."""

    text: str = dspy.InputField()
    category: str = dspy.OutputField(desc="one of: billing, technical, account, feature_request, other")


def exact_category(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.category.strip().lower() == example.category.strip().lower())


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM of the embedded LM in float32."""
    folder = tmp_path_factory.mktemp("model") / "smollm2"
    write_merged("smollm2-135m", None, folder, dtype="float32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    settings = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "2",
        "PATH": os.pathsep.join([str(Path(VLLM).parent), os.environ.get("PATH", "")]),
    }
    if preload := os.environ.get("DSPY_FT_TEST_VLLM_PRELOAD"):
        settings["LD_PRELOAD"] = preload
    limits = ["--max-model-len", "1024", "--max-num-seqs", "16", "--max-num-batched-tokens", "1024", "--enforce-eager"]
    command = [VLLM, "serve", str(folder), "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enable-lora", "--max-lora-rank", "16", "--max-loras", "1", *limits]
    with (
        log.open("w") as out,
        subprocess.Popen(command, env={**os.environ, **settings}, stdout=out, stderr=out) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}/v1"
            end = time.monotonic() + 900
            while not _is_there(address):
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, "vLLM takes longer than 15 minutes to start"
                time.sleep(1)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def _is_there(address: str) -> bool:
    try:
        return httpx.get(f"{address}/models", timeout=5).is_success
    except httpx.HTTPError:
        return False


def listed(address: str) -> list[str]:
    return [model["id"] for model in httpx.get(f"{address}/models", timeout=30).json()["data"]]


def ticket_ladder(serving: Serving, rows: Path) -> Ladder:
    lm = resolve_lm("local").copy(max_tokens=32)
    train_kwargs = {"epochs": 1, "batch_size": 4}
    made = Experiment(
        "slice",
        program=dspy.Predict(ClassifyTicket),
        dataset=Dataset.from_file(rows, inputs=["text"], split=(0.6, 0.2, 0.2)),
        metric=exact_category,
        lm=lm,
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        stages=[Stage("finetuned", LabeledFinetune(metric=exact_category, train_kwargs=train_kwargs))],
    )
    return Ladder(made, rows.parent / "store", serving=serving)


def test_a_fine_tuned_stage_is_evaluated_there(vllm: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    data = json.loads(TICKETS.read_text(encoding="utf-8"))
    rows.write_text(json.dumps((data["data"] if isinstance(data, dict) else data)[:60]))
    with Serving(vllm) as group:
        one = ticket_ladder(group, rows)
        there = one.evaluate("finetuned", on="test")
        assert there.errors == 0
        names = [name for name in listed(vllm) if name.startswith("dspy-ft-")]
        assert len(names) == 1
        lm = one.build("finetuned").program.predictors()[0].lm
        served = group.served(lm)
        group.confirm(served)
        here = lm.engine.in_dtype("float32")
        for example in one.experiment.examples("test"):
            [system, user] = dspy.ChatAdapter().format(ClassifyTicket, [], {"text": example.text})
            request = dspy.lm15.Request(
                model=lm.model,
                messages=(dspy.lm15.Message.user(user["content"]),),
                system=system["content"],
                config=dspy.lm15.Config(max_tokens=32, temperature=0.0),
            )
            texts = [
                engine.complete(request).text.partition("[[ ## completed")[0].strip()
                for engine in (served.engine, here)
            ]
            assert texts[0] == texts[1], "in float32, vLLM says what this machine says"
        here.shutdown()
        if lm.engine.dtype == "float32":
            assert group.remarks == ()
        else:
            assert all(re.search("as this machine would in float32", said) for said in group.remarks)
    assert listed(vllm) == ["smollm2"]


def test_a_folder_that_is_not_there_is_refused(vllm: str, tmp_path: Path) -> None:
    engine = LocalEngine("smollm2-135m")
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (lora / "adapter_model.safetensors").write_bytes(b"")
    engine.add_adapter("lora", lora)
    lm = dspy.LM("local:smollm2-135m+lora", engine=engine, cache=False)
    with (
        Serving(vllm, sleep=lambda seconds: None) as group,
        pytest.raises(ServingError, match="did not load the adapter"),
    ):
        group.served(lm)
    assert listed(vllm) == ["smollm2"]
