"""What the four scripts share: their command line, and settings for the embedded LM. The rest of each is plain DSPy."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from pytest_dspy_ft import resolve_lm

EXAMPLES = Path(__file__).resolve().parents[1]


class ForgivingChatAdapter(dspy.ChatAdapter):
    """A reply that cannot be read is a wrong answer instead of an exception.

    ``BootstrapFinetune`` dies on the first unreadable reply among its traces, and ``Evaluate`` at the tenth. So the
    format must not fail: such a reply has empty outputs, which a metric scores 0.
    """

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)  # a second try in JSON costs a call and cannot be trained on

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = super().parse(signature, completion)
        except AdapterParseError:
            empty: dict[Any, Any] = {str: "", list[str]: []}
            fields = {name: empty.get(field.annotation) for name, field in signature.output_fields.items()}
        return fields


def student_for(program: dspy.Module, teacher: dspy.Module | None) -> dspy.Module:
    """A copy of a program, with the instructions that its teacher has: those are what the training rows carry."""
    student = program.deepcopy()
    if teacher is not None:
        for mine, theirs in zip(student.predictors(), teacher.predictors(), strict=True):
            mine.signature = mine.signature.with_instructions(theirs.signature.instructions)
    return student


class Run:
    """One run of a script: ``--lm``, ``--teacher-lm`` and ``--limit``, or their environment variables.

    Args:
        description: The script's docstring.
        max_tokens: Where the embedded LM's replies are cut off; one that does not keep the format runs on to there.
    """

    def __init__(self, description: str, max_tokens: int = 32) -> None:
        parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
        parser.add_argument(
            "--lm",
            default=os.environ.get("DSPY_LM", "local"),
            help="a DSPy model string such as openai/gpt-4o-mini, or local (the default): the embedded LM",
        )
        parser.add_argument(
            "--teacher-lm",
            default=os.environ.get("DSPY_TEACHER_LM"),
            help="the expensive model, where the script has one; default: as --lm",
        )
        parser.add_argument("--limit", type=int, help="train on N examples, evaluate on four: a quick look")
        arguments = parser.parse_args()
        self.limit: int | None = arguments.limit
        self.local = arguments.lm.startswith("local")
        settings = {"max_tokens": max_tokens} if self.local else {}
        self.lm = resolve_lm(arguments.lm, **settings)
        self.teacher_lm = resolve_lm(arguments.teacher_lm, **settings) if arguments.teacher_lm else self.lm
        logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)  # a warning for each reply cut at max_tokens

    def load(self, path: str) -> list[dict[str, Any]]:
        """The rows of a sibling example's JSON file."""
        rows: list[dict[str, Any]] = json.loads((EXAMPLES / path).read_text(encoding="utf-8"))
        return rows

    def split(self, examples: list[dspy.Example]) -> tuple[list[dspy.Example], ...]:
        """The docs' split, 80/10/10, cut to ``--limit``."""
        first, second = round(0.8 * len(examples)), round(0.9 * len(examples))
        parts = (examples[:first], examples[first:second], examples[second:])
        if self.limit is None:
            return parts
        return tuple(part[:n] for part, n in zip(parts, (self.limit, 4, 4), strict=True))  # four threads answer at once

    @property
    def search(self) -> dict[str, Any]:
        """How hard MIPROv2 searches: as the docs do, or next to nothing with ``--limit``."""
        if self.limit is None:
            return {"auto": "medium"}
        quick = {"auto": None, "num_candidates": 3, "max_bootstrapped_demos": 0, "max_labeled_demos": 4}
        # A model of this size writes no instructions worth trying, and each is written one token after the other.
        return {**quick, "prompt_model": self.lm.copy(max_tokens=16)} if self.local else quick

    def search_on(self, trainset: list[dspy.Example]) -> dict[str, Any]:
        """Arguments for ``MIPROv2.compile`` that go with ``search``."""
        if self.limit is None:
            return {"trainset": trainset}
        proposers = dict.fromkeys([f"{what}_aware_proposer" for what in ("program", "data", "tip", "fewshot")], False)
        examples = {"trainset": trainset[8:], "valset": trainset[:8]}
        return {**examples, "num_trials": 3, "minibatch": False, **proposers}

    @property
    def tuning(self) -> dict[str, Any]:
        """``train_kwargs``: what the embedded LM's training takes; a hosted one has its own defaults."""
        return {"epochs": 2, "learning_rate": 1.5e-3, "batch_size": 4} if self.local else {}
