"""What is ordered from a fine-tuning service: rows, settings, and the key that tells one order from another."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.fingerprint import digest_json

HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
VALIDATION_FRACTION = 0.1
VALIDATION_MIN_ROWS = 100
"""With fewer rows all are trained on."""
SUFFIX_LENGTH = 40
MINIMUM_ROWS = 10
"""What the API asks for."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a hosted model is trained: what ``train_kwargs`` may hold.

    Attributes:
        n_epochs, batch_size, learning_rate_multiplier: The API's; ``"auto"`` (the default) leaves them to the service.
        seed: Of the training; default: the experiment's.
        suffix: Part of the model's name; default: experiment and stage.
        validation_fraction: Share of the rows held out to measure a validation loss, if there are at least
            ``validation_min_rows``; never trained on. 0 holds out none.
        deployment: Azure only: the name under which the model will be deployed; default: the model's own name.
    """

    n_epochs: int | str = "auto"
    batch_size: int | str = "auto"
    learning_rate_multiplier: float | str = "auto"
    seed: int | None = None
    suffix: str | None = None
    validation_fraction: float = VALIDATION_FRACTION
    validation_min_rows: int = VALIDATION_MIN_ROWS
    deployment: str | None = None

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> Settings:
        """The settings that ``train_kwargs`` describe.

        Raises:
            TrainingError: If one is unknown (the message lists the choices) or out of range.
        """
        known = list(cls.__dataclass_fields__)
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise TrainingError(
                f"unknown training setting {', '.join(map(repr, unknown))} for a hosted model; "
                f"choose from {', '.join(known)}"
            )
        settings = cls(**kwargs)
        settings._check()
        return settings

    def _check(self) -> None:
        for name, kind, least in (
            ("n_epochs", int, 1),
            ("batch_size", int, 1),
            ("learning_rate_multiplier", (int, float), 0),
        ):
            value = getattr(self, name)
            number = isinstance(value, kind) and not isinstance(value, bool)
            if value != "auto" and not (number and value >= least and value > 0):
                raise TrainingError(
                    f"{name}={value!r}: must be 'auto' or a {'whole number' if kind is int else 'number'} above 0"
                )
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise TrainingError(f"seed={self.seed!r}: must be a whole number")
        fraction = self.validation_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 0.5:
            raise TrainingError(f"validation_fraction={fraction!r}: must be a number from 0 to 0.5")
        if isinstance(self.validation_min_rows, bool) or not isinstance(self.validation_min_rows, int):
            raise TrainingError(f"validation_min_rows={self.validation_min_rows!r}: must be a whole number")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those that were set; the others are the service's choice."""
        return {name: value for name in HYPERPARAMETERS if (value := getattr(self, name)) != "auto"}

    def epochs(self, rows: int) -> int:
        """How often each row will be trained on, by OpenAI's published rule where it is the service's choice."""
        if isinstance(self.n_epochs, int):
            return self.n_epochs
        if rows * 3 < 100:
            return min(25, 100 // max(rows, 1))
        return 3 if rows * 3 <= 25_000 else max(1, 25_000 // rows)


@dataclass(frozen=True)
class Order:
    """One fine-tuning job, before it is one."""

    model: str
    """As the API knows it."""
    rows: tuple[Row, ...]
    validation: tuple[Row, ...]
    settings: Settings
    seed: int
    suffix: str
    address: str
    stage_key: str
    experiment: str
    stage: str

    @property
    def key(self) -> str:
        """What makes two orders one: the same rows for the same stage, model, settings and place."""
        return digest_json(
            {
                "stage": self.stage_key,
                "model": self.model,
                "rows": [list(self.rows), list(self.validation)],
                "hyperparameters": self.settings.hyperparameters,
                "seed": self.seed,
                "address": self.address,
            }
        )

    def metadata(self, generation: int) -> dict[str, str]:
        """What the job is marked with at the service, so that it is found again."""
        return {
            "dspy_ft_job": self.key,
            "dspy_ft_generation": str(generation),
            "dspy_ft_stage_key": self.stage_key,
            "dspy_ft_experiment": self.experiment[:500],
            "dspy_ft_stage": self.stage[:500],
        }


def make_order(
    rows: Sequence[Row],
    settings: Settings,
    *,
    model: str,
    address: str,
    stage_key: str,
    experiment: str,
    stage: str,
    seed: int,
) -> Order:
    """Split rows into training and validation, and settle what is left open.

    Args:
        rows: All rows.
        settings: From ``train_kwargs``.
        model: As the API knows it.
        address: Where the job will run.
        stage_key: Key of the stage.
        experiment: Its experiment's name.
        stage: Its name.
        seed: The experiment's.
    """
    seed = settings.seed if settings.seed is not None else seed
    held: set[int] = set()
    count = round(len(rows) * settings.validation_fraction)
    if len(rows) >= settings.validation_min_rows and count and len(rows) - count >= MINIMUM_ROWS:
        held = set(random.Random(seed).sample(range(len(rows)), count))
    return Order(
        model=model,
        rows=tuple(row for i, row in enumerate(rows) if i not in held),
        validation=tuple(row for i, row in enumerate(rows) if i in held),
        settings=settings,
        seed=seed,
        suffix=settings.suffix or slug(f"{experiment}-{stage}"),
        address=address,
        stage_key=stage_key,
        experiment=experiment,
        stage=stage,
    )


def slug(name: str) -> str:
    """A name as part of a model's name: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:SUFFIX_LENGTH].strip("-")


def as_file(rows: Sequence[Row]) -> bytes:
    """Rows as the API wants them: one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
