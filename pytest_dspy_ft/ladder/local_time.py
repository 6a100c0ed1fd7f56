"""How long work with a model of this machine will take: from the machine's pace, and what the work consists of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.finetune.settings import finetuners, training_settings
from pytest_dspy_ft.ladder.settings import LadderSettings
from pytest_dspy_ft.lms.resolve import runs_here
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.pace import NOTES, Pace, reply_work
from pytest_dspy_ft.local.training.config import LoraTrainingConfig

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, roughly."""

TRIED = "this machine's pace, tried just now"


class LocalTime:
    """Seconds for answers and trainings of local models, in one plan.

    Where a model's pace on this machine is known from work that was done, that counts; where not, and its weights are
    on this machine, a short trial tells it. Nothing is downloaded.

    Args:
        settings: The session's: whose servers answer, who trains, where progress is shown.
    """

    def __init__(self, settings: LadderSettings) -> None:
        self._settings = settings
        self._paces: dict[str, tuple[Pace, str]] = {}

    def answering(self, lm: Any, prompts: Sequence[Any], reply: float) -> tuple[float | None, str]:
        """Seconds for one call of an LM, and what they rest on; None where that is not known.

        Args:
            lm: The LM.
            prompts: A few of the call's prompts, as messages.
            reply: The tokens of a reply.
        """
        if self._settings.serving is not None or not self._is_ours(lm):
            return None, ""
        pace, basis = self._pace(lm)
        limit = lm.kwargs.get("max_tokens")
        own = _own_tokens(prompts)
        work = reply_work(own, min(reply, limit) if limit else reply)
        return (None, "") if pace.answering is None else (work * pace.answering, basis)

    def loading(self, lm: Any) -> float:
        """Seconds until the model can answer, 0 where that is not known or it is loaded."""
        if self._settings.serving is not None or not self._is_ours(lm) or lm.engine.loaded:
            return 0.0
        return self._pace(lm)[0].loading or 0.0

    def training(
        self, lm: Any, optimizer: Any, rows: int, prompts: Sequence[Any], labels: float
    ) -> tuple[float | None, str]:
        """Seconds for a training, and what they rest on; None where that is not known.

        Args:
            lm: The LM that is trained.
            optimizer: Its settings count.
            rows: How many rows it is trained on.
            prompts: A few of their prompts, as messages.
            labels: The tokens that a row teaches.
        """
        if self._settings.launcher is not None or not self._is_ours(lm):
            return None, ""
        config = _config(training_settings(lm, finetuners(optimizer)[0]))
        pace, basis = self._pace(lm)
        if config is None or pace.training is None:
            return None, ""
        held_out = config.validation_fraction if rows >= config.validation_min_rows else 0.0
        trained = rows * (1 - held_out)
        steps = math.ceil(trained / config.batch_size) * config.epochs
        own = _own_tokens(prompts)
        shared = sum(map(_tokens, prompts)) / max(len(prompts), 1) - own
        tokens = config.epochs * trained * (own + labels) + steps * shared
        return tokens * pace.training, basis

    def _is_ours(self, lm: Any) -> bool:
        return runs_here(lm) and isinstance(getattr(lm, "engine", None), LocalEngine)

    def _pace(self, lm: Any) -> tuple[Pace, str]:
        engine: LocalEngine = lm.engine
        name = engine.source.name
        if name not in self._paces:
            pace = NOTES.known(name)
            basis = f"this machine's pace of {pace.noted}"
            if pace.answering is None or pace.training is None:
                pace, basis = self._tried(engine) or pace, TRIED
            self._paces[name] = pace, basis
        return self._paces[name]

    def _tried(self, engine: LocalEngine) -> Pace | None:
        """The pace by a short trial; None where the model cannot be tried at once."""
        if self._settings.frozen or not engine.quickly_asked:
            return None
        from pytest_dspy_ft.local.pace_trial import try_out

        title = f"how fast this machine is with {engine.source.name}: a short trial, made once"
        with self._settings.progress.task(title):
            try:
                return try_out(engine)
            except Exception:  # an estimate is not worth a failure; the work itself will say what is missing
                return None


def _config(settings: Mapping[str, Any]) -> LoraTrainingConfig | None:
    try:
        return LoraTrainingConfig.from_kwargs({name: value for name, value in settings.items() if name != "seed"})
    except DspyFtError:  # said when the stage is built, and by the checks before it
        return None


def _own_tokens(prompts: Sequence[Any]) -> float:
    """The mean length of prompts beyond what all of them begin with."""
    texts = [_text(prompt) for prompt in prompts]
    if len(texts) < 2:
        return sum(map(_tokens, prompts)) / max(len(texts), 1)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))
    return sum(len(text) - shared for text in texts) / len(texts) / CHARACTERS_PER_TOKEN


def _tokens(prompt: Any) -> float:
    return len(_text(prompt)) / CHARACTERS_PER_TOKEN


def _text(prompt: Any) -> str:
    return json.dumps(prompt, default=str)
