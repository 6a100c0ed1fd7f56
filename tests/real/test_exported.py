"""The embedded LM, fine-tuned, gated, exported: another process gets its answers, and so does who merges the LoRA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Gate, LabeledFinetune, Ladder, Stage, resolve_lm
from pytest_dspy_ft.cli import main
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.records.run import RunRecord
from pytest_dspy_ft.report.formats import rendered
from tests.conftest import REPOSITORY
from tests.shipping.exports import receipt_in

pytestmark = pytest.mark.model

WORDS = ["fox", "owl", "cat", "dog", "hen", "bee", "ant", "cow", "pig", "ram", "yak", "elk"]
TRAINED = 8

ELSEWHERE = """
import asyncio, json, sys
import pytest_dspy_ft
program = pytest_dspy_ft.load(sys.argv[1])
words = json.loads(sys.argv[2])
loud = [program(word=word).loud for word in words]

async def ask():
    return await asyncio.gather(*(program.acall(word=word) for word in words))

assert [answer.loud for answer in asyncio.run(ask())] == loud
assert "pytest" not in sys.modules
program.save(sys.argv[3])
print(json.dumps(loud))
"""


class Shout(dspy.Signature):
    """Repeat the word in capital letters."""

    word: str = dspy.InputField()
    loud: str = dspy.OutputField()


def shouts(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.loud == example.loud)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The exported stage's folder, and what it answered when it was gated."""
    folder = tmp_path_factory.mktemp("mit Leerzeichen – ü")
    rows = [dspy.Example(word=word, loud=word.upper()).with_inputs("word") for word in WORDS]
    settings = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 4, "validation_fraction": 0.0}
    ladder = Ladder(
        Experiment(
            "shouting – ü",
            program=dspy.Predict(Shout),
            dataset=Dataset(train=rows[:TRAINED], dev=rows[TRAINED:]),
            metric=shouts,
            lm=resolve_lm("local").copy(max_tokens=24),
            adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
            stages=[Stage("finetuned", LabeledFinetune(shouts, train_kwargs=settings), min_traces=4)],
        ),
        folder / "store",
    )
    assert ladder.judge(Gate.parse("errors(finetuned) <= 50%")).passed
    record = folder / "run.json"
    run = RunRecord(created="2026-11-30T00:00:00+00:00", experiments=(ladder.record(),))
    record.write_text(rendered(run, record), encoding="utf-8")
    arguments = [str(folder / "store"), "shouting – ü", "finetuned", "-o", str(folder / "out"), f"--record={record}"]
    assert main(["export", *arguments]) == 0
    answers = [str((example.prediction or {})["loud"]) for example in ladder.evaluate("finetuned").examples]
    return folder / "out", answers


def test_a_process_of_its_own_answers_as_the_gated_stage_did(gated: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, answers = gated
    receipt = receipt_in(folder)
    assert receipt.passed
    assert receipt.models[-1].weights.startswith("sha256:")
    assert receipt.trainings[0].settings["learning_rate"] == 3e-3
    command = [sys.executable, "-c", ELSEWHERE, str(folder), json.dumps(WORDS[TRAINED:]), str(tmp_path / "state.json")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == answers
    assert (tmp_path / "state.json").is_file()
    lora = next(folder.rglob("adapter_model.safetensors"))
    whole = lora.read_bytes()
    lora.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert main(["verify", str(folder)]) == 1
    finally:
        lora.write_bytes(whole)
    assert main(["verify", str(folder)]) == 0


def test_merged_weights_reply_as_the_lora_does(gated: tuple[Path, list[str]], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = gated
    merged = tmp_path / "merged"
    assert main(["merge", str(folder), "-o", str(merged)]) == 0
    assert main(["merge", str(folder), "-o", str(merged)]) == 2, "nothing is written over"
    (adapter,) = (folder / "adapters").iterdir()
    engine = LocalEngine("smollm2-135m", device="cpu", dtype="float32")
    engine.add_adapter(adapter.name, adapter)
    tokenizer: Any = AutoTokenizer.from_pretrained(merged)
    model: Any = AutoModelForCausalLM.from_pretrained(merged, dtype="float32")
    texts = ["Shout: yak", "Repeat the word elk in capital letters.", "What is the capital of France?"]
    replies = {}
    for name in ("", f"+{adapter.name}"):
        lm = dspy.LM(f"local:smollm2-135m{name}", engine=engine, cache=False, max_tokens=16)
        replies[name] = [lm(text)[0] for text in texts]
    engine.shutdown()
    assert replies[""] != replies[f"+{adapter.name}"], "the LoRA changes something"
    for text, expected in zip(texts, replies[f"+{adapter.name}"], strict=True):
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=16, do_sample=False)
        reply = tokenizer.decode(made[0][ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert reply.partition("[[ ## completed ## ]]")[0].strip() == expected.strip()
