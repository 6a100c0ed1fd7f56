"""DSPy's door to launched training: put on a model of this machine that another process, or another machine, trains."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.errors import HostedError, LMError, TrainingError
from pytest_dspy_ft.finetune.hosted.journal import now
from pytest_dspy_ft.finetune.launched.choice import launcher_for
from pytest_dspy_ft.finetune.launched.context import LaunchContext
from pytest_dspy_ft.finetune.launched.journal import PREFIX, LaunchedEntry, new_name, read_entry
from pytest_dspy_ft.finetune.launched.log import LaunchProgress
from pytest_dspy_ft.finetune.launched.protocol import TRL, Launcher
from pytest_dspy_ft.finetune.launched.run import Handover, LaunchedRun
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.insides.training import Provider, TrainDataFormat, TrainingJob, TrainingStatus
from pytest_dspy_ft.local.adapters import adapter_digest
from pytest_dspy_ft.local.provider import split_model_name
from pytest_dspy_ft.local.training.config import LoraTrainingConfig
from pytest_dspy_ft.local.weights import model_place, resolve_source

NEITHER = ("shared_prefix", "activation_gib")
"""Settings that change the speed of a training in this process, and no numbers."""


class LaunchedTrainingJob(TrainingJob):  # type: ignore[misc]
    """A training elsewhere, watched by a thread of this process.

    Attributes:
        crash: What stopped the watching thread, where that was no ordinary error.
        result_facts: What the run says of itself; empty until it has succeeded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.crash: BaseException | None = None
        self.wake = threading.Event()
        self.run: LaunchedRun | None = None
        self.result_facts: dict[str, Any] = {}

    @property
    def entry(self) -> LaunchedEntry | None:
        """The training as it is written down; None before that."""
        return None if self.run is None else self.run.entry

    @property
    def progress(self) -> LaunchProgress | None:
        """How far it is; None before the first sign of life."""
        return None if self.run is None else self.run.progress

    def status(self) -> TrainingStatus:
        """Where it stands, in DSPy's words."""
        if self.run is None:
            return TrainingStatus.not_started
        if not self.done():
            return TrainingStatus.running
        return TrainingStatus.succeeded if self.result_facts else TrainingStatus.failed

    def leave(self, seconds: float = 10.0) -> str:
        """Stop watching the training, which goes on, and say how to come back to it.

        Args:
            seconds: How long to wait for a call under way: it may be the one that starts it.
        """
        self.wake.set()
        if self.thread is not None:
            self.thread.join(seconds)
        if self.run is None or not self.run.entry.attempt:
            return "no training was started yet"
        return self.run.hint()


class LaunchedProvider(Provider):  # type: ignore[misc]
    """Trains LoRAs by a launcher and hands them to the engine that serves their base model.

    Args:
        engine: The serving engine.
        context: Who trains, and for which stage.
    """

    def __init__(self, engine: Any, context: LaunchContext) -> None:
        super().__init__()
        self.engine, self.launcher, self._context = engine, context.launcher, context
        self.finetunable = True
        self.TrainingJob = LaunchedTrainingJob

    def __deepcopy__(self, memo: dict[int, Any]) -> LaunchedProvider:
        """Return itself: DSPy deep-copies programs with their LMs, and an adapter must reach the one serving engine."""
        return self

    def finetune(
        self,
        job: LaunchedTrainingJob,
        model: str,
        train_data: list[dict[str, Any]],
        train_data_format: TrainDataFormat | str | None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Train and return the new model's name; DSPy calls this in the job's thread.

        Of ``train_kwargs``, ``output_dir`` says where the LoRA is copied to, ``seed`` is the training's;
        ``progress`` is not used. The others are fields of ``LoraTrainingConfig``.

        Raises:
            TrainingError: Rows or settings are wrong, the training failed, or its result is not what was ordered.
            JobPendingError: It goes on without us.
            LMError: The base model is not there.
        """
        try:
            return self._finetune(job, model, train_data, dict(train_kwargs or {}))
        except Exception:
            raise
        except BaseException as error:
            job.crash = error  # DSPy's thread would die of it without a word, and whoever waits would wait for ever
            raise HostedError(f"the thread that watched the training was stopped by {type(error).__name__}") from error

    def _finetune(
        self, job: LaunchedTrainingJob, model: str, rows: list[dict[str, Any]], settings: dict[str, Any]
    ) -> str:
        from pytest_dspy_ft.local.handover.order_files import TrlTraining, write_order
        from pytest_dspy_ft.local.handover.received import check_received

        base, adapter = split_model_name(model)
        output_dir, seed = Path(settings.pop("output_dir")), settings.pop("seed", 0)
        settings.pop("progress", None)
        config = launch_config(settings, self.launcher)
        source = resolve_source(base)
        init_adapter = self._adapter_folder(adapter) if adapter else None
        digest = digest_json(
            {
                "base": source.fingerprint(),
                "rows": rows,
                "config": {k: v for k, v in dataclasses.asdict(config).items() if k not in NEITHER},
                "seed": seed,
                "start": adapter_digest(init_adapter) if init_adapter is not None else None,
                "engine": self.launcher.engine,
            },
            length=16,
        )
        training = TrlTraining(source, rows, config, seed, init_adapter, digest)
        here = bool(getattr(self.launcher, "runs_here", False))
        handover = Handover(
            lambda folder, processes: write_order(folder, training, processes, here=here),
            lambda folder: check_received(folder, source, digest, by_trl=self.launcher.engine == TRL),
            self._context.timeout,
        )
        folder, entry = self._entry(digest, model, model_place(source), len(rows))
        handover = dataclasses.replace(handover, how_to_cancel=f"{self._context.how_to_cancel} {entry.job}")
        earlier = None
        if entry.attempt and entry.launcher != self.launcher.name:
            earlier = launcher_for(entry.named)
        job.run = LaunchedRun(self.launcher, folder, entry, handover, job.wake, earlier=earlier)
        facts = job.run.run()
        shutil.copytree(folder / "output" / "adapter", output_dir, dirs_exist_ok=True)
        name = adapter_digest(output_dir)
        self.engine.add_adapter(name, output_dir)
        job.result_facts = facts
        return f"{MODEL_PREFIX}{base}+{name}"

    def _entry(self, digest: str, model: str, place: str, rows: int) -> tuple[Path, LaunchedEntry]:
        """The training as an earlier session wrote it down, or a new one; with its folder."""
        context, number = self._context, 1
        while True:
            folder = context.folder / f"{PREFIX}{digest}-{number}"
            entry = read_entry(folder)
            if entry is None:
                fresh = LaunchedEntry(
                    job=new_name(digest),
                    digest=digest,
                    launcher=self.launcher.name,
                    named=getattr(self.launcher, "named", self.launcher.name),
                    model=model,
                    place=place,
                    rows=rows,
                    session=context.session,
                    created=now(),
                )
                return folder, fresh
            if not (context.rebuild and entry.job in context.spent and entry.session != context.session):
                # Where the base model lies is this session's to say: the cache may have moved.
                return folder, entry.model_copy(update={"place": place})
            number += 1

    def _adapter_folder(self, name: str) -> Path:
        try:
            return Path(self.engine.adapter_path(name))
        except LMError as error:
            raise TrainingError(f"cannot go on from the adapter {name!r}: its folder is not known here") from error


def local_config(settings: Mapping[str, Any]) -> LoraTrainingConfig:
    """The settings of a training of a model of this machine, checked.

    Raises:
        TrainingError: One is unknown or out of range.
    """
    given = {name: value for name, value in settings.items() if name not in ("output_dir", "seed", "progress")}
    seed = settings.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TrainingError(f"train_kwargs: seed={seed!r}: must be a whole number")
    try:
        return LoraTrainingConfig.from_kwargs(given)
    except TrainingError as error:
        raise TrainingError(f"train_kwargs: {error}") from None


def launch_config(settings: Mapping[str, Any], launcher: Launcher) -> LoraTrainingConfig:
    """The settings of a training, checked for the launcher that is to carry it out.

    Raises:
        TrainingError: One is unknown, out of range, or does not go with the number of processes.
    """
    config = local_config(settings)
    if launcher.processes is not None and launcher.processes > config.batch_size:
        raise TrainingError(
            f"batch_size={config.batch_size} rows cannot be shared out among {launcher.processes} processes: a step "
            f"has the same rows however many there are; use at most {config.batch_size}, or a larger batch_size"
        )
    return config
