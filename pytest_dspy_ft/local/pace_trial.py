"""A short trial of this machine with a local model, where nothing was noted yet: a few answers and a short training."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dspy import lm15

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.pace import NOTES, Pace
from pytest_dspy_ft.local.weights import load, release

_SYSTEM = (
    "Your input fields are:\n1. `text` (str)\nYour output fields are:\n1. `label` (str)\nAll interactions will be "
    "structured in the following way, with the appropriate values filled in.\n\n[[ ## text ## ]]\n{text}\n\n"
    "[[ ## label ## ]]\n{label}\n\n[[ ## completed ## ]]\nIn adhering to this structure, your objective is to label it."
)
_ANSWERS = 24
_REPLY_TOKENS = 16
_ROWS = 16


def try_out(engine: LocalEngine) -> Pace:
    """Answer a few prompts and train two steps, and give the pace that was noted.

    It takes some 20 seconds with the embedded model on two cores; nothing is downloaded where the engine is
    :attr:`~LocalEngine.quickly_asked`.

    Args:
        engine: The model's.

    Raises:
        LMError: If the model cannot be loaded, or its packages are not installed.
        TrainingError: If it cannot be trained.
    """
    from pytest_dspy_ft.local.training.config import LoraTrainingConfig
    from pytest_dspy_ft.local.training.run import train_lora

    def ask(number: int) -> Any:
        try:
            return engine.complete(_request(engine, number))
        finally:
            expected.worker_done()

    with engine.expect(_ANSWERS) as expected, ThreadPoolExecutor(_ANSWERS) as pool:
        list(pool.map(ask, range(_ANSWERS)))
    engine.unload()
    rows: list[Any] = [_row(number) for number in range(_ROWS)]
    config = LoraTrainingConfig(epochs=1, validation_fraction=0.0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = train_lora(load(engine.source), rows, Path(folder), config=config)
    finally:
        release()
    NOTES.note(engine.source.name, "training", report.tokens, report.seconds)
    NOTES.write()
    return NOTES.known(engine.source.name)


def _request(engine: LocalEngine, number: int) -> lm15.Request:
    return lm15.Request(
        model=f"{MODEL_PREFIX}{engine.source.name}",
        system=_SYSTEM,
        messages=(lm15.Message.user(_text(number)),),
        config=lm15.Config(max_tokens=_REPLY_TOKENS, temperature=0.0),
    )


def _row(number: int) -> dict[str, Any]:
    answer = f"[[ ## label ## ]]\n{'odd' if number % 2 else 'even'}\n\n[[ ## completed ## ]]"
    texts = (("system", _SYSTEM), ("user", _text(number)), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in texts]}


def _text(number: int) -> str:
    return f"[[ ## text ## ]]\nOrder {number} of our customer arrived {number} days late, and he asks for the reason."
