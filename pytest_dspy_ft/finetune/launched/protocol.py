"""What a launcher is: four calls that have a training carried out somewhere, and the order they are given."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

TRL = "trl"
"""The engine that ``TrainingOrder.command`` runs."""

State = Literal["waiting", "running", "succeeded", "failed", "cancelled", "unknown"]

ENDED: tuple[State, ...] = ("succeeded", "failed", "cancelled")


@dataclasses.dataclass(frozen=True)
class TrainingOrder:
    """One training to be carried out.

    Attributes:
        name: The training's, the same in every session and attempt. Letters, digits and dashes.
        folder: On this machine. It holds all that the training needs but the base model; what comes of it belongs in
            ``folder/output``: the LoRA in ``output/adapter``, and with TRL ``output/result.json``.
        model: The base model: a folder on this machine, or a Hugging Face id.
        processes: How many are to train; None: one for each GPU that is found where it runs.
        reference: What the launcher's ``submit`` gave; empty where that is not known, since it was interrupted.
        attempt: Which attempt it is, from 1: a training that died is submitted again, and goes on from the checkpoint
            in ``output``, where that is still there.
    """

    name: str
    folder: Path
    model: str
    processes: int | None = None
    reference: str = ""
    attempt: int = 1

    @property
    def submission(self) -> str:
        """A name for this very attempt: by it a launcher finds what an interrupted ``submit`` may have started."""
        return f"{self.name}-{self.attempt}"

    @property
    def model_folder(self) -> Path | None:
        """The base model's folder on this machine, to be taken along; None for one that the Hugging Face Hub has."""
        return Path(self.model) if Path(self.model).is_dir() else None

    def command(
        self, *, python: str = sys.executable, folder: str | Path | None = None, model: str | None = None
    ) -> list[str]:
        """The command that trains with TRL: it needs ``trl`` and ``peft`` where it runs, and none of this package.

        Args:
            python: The interpreter there.
            folder: Where the order's folder lies there; None: where it lies here.
            model: Where the base model lies there; None: where it lies here.
        """
        place = self.folder if folder is None else folder
        count = "gpu" if self.processes is None else str(self.processes)
        runner = [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        return [*runner, f"{place}/train_with_trl.py", str(place), *(["--model", model] if model else [])]


@dataclasses.dataclass(frozen=True)
class LaunchState:
    """How a training stands.

    Attributes:
        state: ``unknown`` where the launcher knows of no such training: none was started, or it is forgotten.
        word: The service's own word for it, for people.
        log: The end of the training's output, as far as it can be had: progress is read from it, and shown on failure.
        log_place: Where all of it lies, for people.
    """

    state: State
    word: str = ""
    log: str = ""
    log_place: str = ""


@runtime_checkable
class Launcher(Protocol):
    """Has trainings carried out. Each call may be made by another session than the one before.

    Attributes:
        name: What the training's record calls it.
        engine: What trains: ``"trl"`` where it runs ``TrainingOrder.command``, else a name of its own. It is part of
            the stage's key: weights of another engine are other weights. Where it runs is not.
        processes: How many processes train; None: one for each GPU there, or what the launcher decides.

    It may have besides: ``check()``, which finds out before anything is spent whether it can work, and raises if not;
    ``pause`` and ``settle``, seconds between two looks at a training (15) and until a list shows what was started (0);
    ``runs_here = True`` where it trains on this machine, so that the type of the weights can be decided here.
    """

    name: str
    engine: str
    processes: int | None

    def submit(self, order: TrainingOrder) -> str:
        """Start the training and return at once, with a reference to find it by. It must outlive this process.

        Raises:
            Exception: It cannot be started; the message is shown to the user.
        """

    def status(self, order: TrainingOrder) -> LaunchState:
        """How it stands; found by ``order.reference``, or by ``order.submission`` where that is empty."""

    def fetch(self, order: TrainingOrder) -> None:
        """Bring what came of it into ``order.folder / "output"``, if it is not there already."""

    def cancel(self, order: TrainingOrder) -> None:
        """End it."""


def environment_for(processes: int | None, cores: int, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a training on this machine: its processes share the cores, and none of them asks a terminal.

    Args:
        processes: How many train.
        cores: That this machine has.
        given: The environment of now.
    """
    threads = max(cores // (processes or 1), 1)
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **given, "PYTHONUNBUFFERED": "1"}
