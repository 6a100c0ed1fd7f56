"""A request for a fine-tuning job: rows, settings, and the key that tells it from others."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.hosted.journal import TrainingJobContext
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.text import did_you_mean

JOB_MARK, GENERATION_MARK = "dspy_ft_job", "dspy_ft_generation"
"""Marks by which a job is found again: the request's key, and which of the jobs with the same rows it is."""
VALIDATION_FRACTION = 0.1
VALIDATION_MIN_ROWS = 100
"""With fewer rows all are trained on."""
SUFFIX_LENGTH = 40
MINIMUM_ROWS = 10
"""To train on; so many are left where some are held out."""


S = TypeVar("S", bound="TrainingSettings")


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained elsewhere: what ``train_kwargs`` may hold at every service; each adds its own.

    Attributes:
        n_epochs: How often each row is trained on; ``"auto"`` (the default) leaves it to the service.
        seed: Of the training; default: the experiment's.
        suffix: Part of the model's name; default: experiment and stage.
        validation_fraction: Share of the rows held out to measure a validation loss, if there are at least
            ``validation_min_rows``; never trained on. 0 holds out none.
        service: Name of the service, where the LM's name and address do not tell it.
    """

    n_epochs: int | str = "auto"
    seed: int | None = None
    suffix: str | None = None
    validation_fraction: float = VALIDATION_FRACTION
    validation_min_rows: int = VALIDATION_MIN_ROWS
    service: str | None = None

    @classmethod
    def from_kwargs(cls: type[S], kwargs: Mapping[str, Any]) -> S:
        """The settings that ``train_kwargs`` describe.

        Raises:
            TrainingError: If one is unknown (the message lists the choices) or out of range.
        """
        known = list(cls.__dataclass_fields__)
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            hint = did_you_mean(unknown[0], known)
            raise TrainingError(
                f"unknown training setting {', '.join(map(repr, unknown))} for a hosted model{hint}; "
                f"choose from {', '.join(known)}"
            )
        settings = cls(**kwargs)
        settings.check()
        return settings

    def check(self) -> None:
        """Check what each setting holds; services add to it.

        Raises:
            TrainingError: Naming the one that is out of range.
        """
        self.check_numbers("n_epochs")
        if self.seed is not None and not is_number(self.seed, whole=True):
            raise TrainingError(f"seed={self.seed!r}: must be a whole number")
        fraction = self.validation_fraction
        if not is_number(fraction) or not 0 <= fraction <= 0.5:
            raise TrainingError(f"validation_fraction={fraction!r}: must be a number from 0 to 0.5")
        if not is_number(self.validation_min_rows, whole=True):
            raise TrainingError(f"validation_min_rows={self.validation_min_rows!r}: must be a whole number")

    def check_numbers(self, *names: str, fractions: tuple[str, ...] = ()) -> None:
        """Check that settings are ``"auto"`` or numbers above 0, whole ones but for ``fractions``.

        Raises:
            TrainingError: Naming the one that is not.
        """
        for name in names:
            value, whole = getattr(self, name), name not in fractions
            if value != "auto" and not (is_number(value, whole=whole) and value > 0):
                raise TrainingError(f"{name}={value!r}: must be 'auto' or a {'whole ' if whole else ''}number above 0")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What the trained weights depend on, of what was set; part of a request's key."""
        return {} if self.n_epochs == "auto" else {"n_epochs": self.n_epochs}

    @property
    def deployment_settings(self) -> Mapping[str, Any]:
        """How the result is to be made callable, as JSON; kept with what was trained."""
        return {}

    def epochs(self, rows: int) -> int:
        """How often each row will be trained on, by OpenAI's published rule where it is the service's choice."""
        if isinstance(self.n_epochs, int):
            return self.n_epochs
        if rows * 3 < 100:
            return min(25, 100 // max(rows, 1))
        return 3 if rows * 3 <= 25_000 else max(1, 25_000 // rows)


@dataclass(frozen=True)
class JobRequest:
    """One fine-tuning job, before it is one."""

    model: str
    """As the API knows it."""
    rows: tuple[ChatRow, ...]
    validation: tuple[ChatRow, ...]
    settings: TrainingSettings
    seed: int
    suffix: str
    address: str
    """Where the job will run."""
    context: TrainingJobContext

    @property
    def key(self) -> str:
        """Equal for two requests for the same job: the same rows for the same stage, model, settings and place."""
        return digest_json(
            {
                "stage": self.context.stage_key,
                "model": self.model,
                "rows": [list(self.rows), list(self.validation)],
                "hyperparameters": self.settings.hyperparameters,
                "seed": self.seed,
                "address": self.address,
            }
        )

    def file_name(self, generation: int, kind: str) -> str:
        """The name of the file with its rows: where a service keeps no marks, its jobs are found by it.

        Args:
            generation: Which of the jobs with the same rows it is for.
            kind: ``train`` or ``valid``.
        """
        again = f"-{generation}" if generation > 1 else ""
        return f"dspy-{self.context.stage_key[:12]}-{self.key[:12]}{again}-{kind}.jsonl"

    def metadata(self, generation: int) -> dict[str, str]:
        """The marks of the job at the service, by which it is found again."""
        return {
            JOB_MARK: self.key,
            GENERATION_MARK: str(generation),
            "dspy_ft_stage_key": self.context.stage_key,
            "dspy_ft_experiment": self.context.experiment[:500],
            "dspy_ft_stage": self.context.stage[:500],
        }


def generation_of_file(name: str, key: str) -> int | None:
    """Which of a request's jobs a file is for, by its name; None for a file of another request."""
    found = re.search(rf"-{key[:12]}(?:-(\d+))?-(?:train|valid)\.", name)
    return None if found is None else int(found[1] or 1)


def make_request(
    rows: Sequence[ChatRow],
    settings: TrainingSettings,
    *,
    model: str,
    address: str,
    context: TrainingJobContext,
) -> JobRequest:
    """Split rows into training and validation, and take from the context what the settings leave open."""
    seed = settings.seed if settings.seed is not None else context.seed
    held: set[int] = set()
    count = round(len(rows) * settings.validation_fraction)
    if len(rows) >= settings.validation_min_rows and count and len(rows) - count >= MINIMUM_ROWS:
        held = set(random.Random(seed).sample(range(len(rows)), count))
    return JobRequest(
        model=model,
        rows=tuple(row for i, row in enumerate(rows) if i not in held),
        validation=tuple(row for i, row in enumerate(rows) if i in held),
        settings=settings,
        seed=seed,
        suffix=settings.suffix or slug(f"{context.experiment}-{context.stage}"),
        address=address,
        context=context,
    )


def slug(name: str) -> str:
    """A name as part of a model's name: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:SUFFIX_LENGTH].strip("-")


def is_number(value: Any, *, whole: bool = False) -> bool:
    """True for a number, a whole one where that is asked for; a bool is none."""
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
