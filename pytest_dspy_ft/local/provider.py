"""Training on this machine as a DSPy provider: ``dspy.LM(..., engine=engine, provider=LocalProvider(engine))``.

Cheap to import and to construct: torch is first imported when a training starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.errors import LMError, TrainingError
from pytest_dspy_ft.insides.training import (
    Provider,
    TrainDataFormat,
    TrainingJob,
    TrainingStatus,
    get_finetune_directory,
)
from pytest_dspy_ft.local.adapters import WEIGHTS, adapter_digest
from pytest_dspy_ft.local.pace import NOTES
from pytest_dspy_ft.local.weights import load, release, resolve_source

if TYPE_CHECKING:
    from pytest_dspy_ft.local.training.run import TrainingReport
    from pytest_dspy_ft.local.training.trainer import TrainingProgress


class AdapterEngine(Protocol):
    """The part of the serving engine (`LocalEngine`) that the provider needs."""

    def add_adapter(self, name: str, path: Path) -> Any:
        """Serve the LoRA in `path` as ``local:BASE+name``."""

    def adapter_path(self, name: str) -> Path:
        """Return the folder of a LoRA that it serves; an LMError if there is none of this name."""

    def unload(self) -> None:
        """Free the memory of the model until the next request."""


class LocalTrainingJob(TrainingJob):  # type: ignore[misc]
    """A training in a thread of this process.

    Attributes:
        progress: Its state after the latest step; None before the first.
        report: Its record; None until it has succeeded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.progress: TrainingProgress | None = None
        self.report: TrainingReport | None = None
        self._cancel_wanted = threading.Event()
        self._status = TrainingStatus.not_started

    def status(self) -> TrainingStatus:
        """Return the job's state in DSPy's terms."""
        return self._status

    def cancel(self) -> bool:
        """Ask the training to stop after its current step; its result will be a `TrainingCancelledError`.

        Returns:
            False if it is over already.
        """
        # Not Future.cancel: DSPy's thread sets a result in any case, which a cancelled future refuses.
        if self.done():
            return False
        self._cancel_wanted.set()
        return True

    def cancel_wanted(self) -> bool:
        """Return True once `cancel` was called."""
        return self._cancel_wanted.is_set()


class LocalProvider(Provider):  # type: ignore[misc]
    """Trains LoRAs on this machine and hands them to the engine that serves their base model."""

    trains_on_this_machine = True
    """Whoever starts a training may say where it writes, with which seed, and watch it (see `finetune`)."""

    def __init__(self, engine: AdapterEngine) -> None:
        super().__init__()
        self.engine = engine
        self.finetunable = True
        self.TrainingJob = LocalTrainingJob

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalProvider:
        """Return itself: DSPy deep-copies programs with their LMs, and an adapter must reach the one serving engine."""
        return self

    @staticmethod
    def is_provider_model(model: str) -> bool:
        """Return True for the name of a local model, ``local:NAME`` or ``local:NAME+ADAPTER``."""
        return model.startswith(MODEL_PREFIX)

    def kill(self, lm: Any, launch_kwargs: dict[str, Any] | None = None) -> None:
        """Free the memory that inference holds; called before a training. The next request loads the model again."""
        self.engine.unload()

    def finetune(
        self,
        job: LocalTrainingJob,
        model: str,
        train_data: list[dict[str, Any]],
        train_data_format: TrainDataFormat | str | None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Train and return the new model's name; DSPy calls this in the job's thread.

        Args:
            job: Told of progress, asked whether to stop.
            model: ``local:NAME``, or ``local:NAME+ADAPTER`` to continue from that adapter.
            train_data: Rows of ``{"messages": [...]}``.
            train_data_format: "chat"; None counts as that.
            train_kwargs: Fields of `LoraTrainingConfig`, and `output_dir` (where the adapter goes; default: a folder
                named after its content under DSPy's fine-tune directory), `seed` (default 0), `progress` (called with
                a `TrainingProgress` after each step).

        Returns:
            ``local:NAME+`` and the first 12 hex digits of the adapter's SHA-256; the engine serves it already.

        Raises:
            TrainingError: Model, format, rows or settings are wrong, or the training failed.
            LMError: The base model is unknown or cannot be loaded.
        """
        job._status = TrainingStatus.running
        try:
            name = self._finetune(job, model, train_data, train_data_format, dict(train_kwargs or {}))
        except BaseException:
            job._status = TrainingStatus.cancelled if job.cancel_wanted() else TrainingStatus.failed
            raise
        finally:
            release()  # the engine serves from a model of its own
        job._status = TrainingStatus.succeeded
        return name

    def _finetune(
        self,
        job: LocalTrainingJob,
        model: str,
        rows: list[dict[str, Any]],
        row_format: TrainDataFormat | str | None,
        settings: dict[str, Any],
    ) -> str:
        base, adapter = split_model_name(model)
        if row_format is not None and row_format != TrainDataFormat.CHAT:
            raise TrainingError(
                f"train_data_format={row_format!r}: the local provider trains on chats (TrainDataFormat.CHAT)"
            )
        output_dir = settings.pop("output_dir", None)
        seed = settings.pop("seed", 0)
        listener: Callable[[TrainingProgress], None] | None = settings.pop("progress", None)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TrainingError(f"seed={seed!r}: must be a whole number")

        from pytest_dspy_ft.local.training.config import LoraTrainingConfig
        from pytest_dspy_ft.local.training.run import train_lora

        try:
            config = LoraTrainingConfig.from_kwargs(settings)
        except TrainingError as error:
            raise TrainingError(f"train_kwargs: {error} (and output_dir, seed, progress)") from None

        def on_progress(progress: TrainingProgress) -> None:
            job.progress = progress
            if listener is not None:
                listener(progress)

        source = resolve_source(base)
        folder = Path(output_dir) if output_dir is not None else _scratch_folder()
        try:
            job.report = train_lora(
                load(source),
                rows,  # type: ignore[arg-type]  # checked row by row there
                folder,
                config=config,
                init_adapter=self._adapter_folder(adapter) if adapter else None,
                seed=seed,
                progress=on_progress,
                should_stop=job.cancel_wanted,
            )
            NOTES.note(source.name, "training", job.report.tokens, job.report.seconds)
            digest = adapter_digest(folder)
            if output_dir is None:
                folder = _move_to_digest(folder, digest)
                job.report = dataclasses.replace(job.report, output_dir=folder)
        except BaseException:
            if output_dir is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self.engine.add_adapter(digest, folder)
        return f"{MODEL_PREFIX}{base}+{digest}"

    def _adapter_folder(self, name: str) -> Path:
        try:
            return self.engine.adapter_path(name)  # where it is now: a finished build has moved it
        except LMError as error:
            message = f"cannot go on from the adapter {name!r}: its folder is not known in this process"
            raise TrainingError(message) from error


def split_model_name(model: str) -> tuple[str, str | None]:
    """``local:NAME+ADAPTER`` -> (NAME, ADAPTER); without an adapter (NAME, None).

    Raises:
        TrainingError: It is not a local model's name.
    """
    if not model.startswith(MODEL_PREFIX) or model == MODEL_PREFIX:
        raise TrainingError(f"{model!r} is no local model; expected {MODEL_PREFIX}NAME or {MODEL_PREFIX}NAME+ADAPTER")
    base, plus, adapter = model.removeprefix(MODEL_PREFIX).rpartition("+")
    return (base, adapter) if plus else (adapter, None)


def _scratch_folder() -> Path:
    return Path(get_finetune_directory()) / f".local-{os.getpid()}-{uuid.uuid4().hex}"


def _move_to_digest(scratch: Path, digest: str) -> Path:
    """Move a finished adapter to the place its content gives it; one that is there already is the same one."""
    place = scratch.with_name(f"local-{digest}")
    with contextlib.suppress(OSError):
        scratch.rename(place)
    if scratch.exists():
        if not (place / WEIGHTS).is_file():
            raise TrainingError(f"cannot move the trained adapter to {place}")
        shutil.rmtree(scratch, ignore_errors=True)
    return place
