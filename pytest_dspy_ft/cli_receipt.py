"""The receipt of a stage that is about to be exported: gathered from its build and the session that vouches for it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.errors import ExportError
from pytest_dspy_ft.gates.vouching import gates_of
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.measured import MeasuredStage
from pytest_dspy_ft.records.receipt import (
    ADAPTERS,
    Receipt,
    ShippedData,
    ShippedModel,
    ShippedTraining,
)
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.redaction import plain_address
from pytest_dspy_ft.store.entries import DamagedEntryError, OtherVersionError
from pytest_dspy_ft.store.export_folder import TRAINING_FILE
from pytest_dspy_ft.store.inventory import Inventory, StoredBuild
from pytest_dspy_ft.store.shipments import read_shipment, shipment_path

_ADDRESSES = ("api_base", "base_url")
_OF_REPLIES = ("temperature", "max_tokens", "max_completion_tokens", "stop", "top_p", "seed", "model_type", "n")


@dataclass(frozen=True)
class ExportSession:
    """The session whose verdicts count."""

    run: RunRecord
    """Its record."""
    measured: tuple[MeasuredStage, ...]
    """What it measured."""
    source: str
    """Where that was read."""
    digest: str
    """SHA-256 of that file."""


@dataclass(frozen=True)
class ExportSources:
    """What a receipt is gathered from."""

    stored: StoredBuild
    inventory: Inventory
    session: ExportSession | None
    """None where there is none."""

    @property
    def run(self) -> RunRecord | None:
        """The session's record."""
        return None if self.session is None else self.session.run

    def measured(self, on: Split | None = None) -> Iterator[MeasuredStage]:
        """What the session measured of the build that is exported, on one split or on all."""
        of = (self.stored.record.stage, self.stored.build.digest)
        for one in () if self.session is None else self.session.measured:
            if (one.stage, one.build) == of and on in (None, one.score.on):
                yield one

    @property
    def record(self) -> ExperimentRecord | None:
        """The session's record of the experiment."""
        name = self.stored.record.experiment
        return None if self.run is None else next((e for e in self.run.experiments if e.name == name), None)

    def shipment(self) -> dict[str, Any]:
        """What the stage is outside of its session.

        Raises:
            ExportError: If the store has not got it, or it cannot be exported.
        """
        build = self.stored.build
        try:
            shipment = read_shipment(build)
        except (DamagedEntryError, OtherVersionError) as problem:
            raise ExportError(
                f"{shipment_path(build)} is not as it was written: {problem}; remove it, and run the "
                "stage's tests: they write it again without building anything"
            ) from None
        if shipment is None:
            raise ExportError(
                f"the store does not have stage {self.stored.record.stage!r} in a form for other processes: run its "
                "tests once with this version and without --dspy-frozen; nothing is built again. A stage that is "
                "compiled anew in each session (dspy.KNNFewShot) cannot be exported"
            )
        if "problem" in shipment:
            raise ExportError(
                f"stage {self.stored.record.stage!r} cannot be exported: {shipment['problem']}, as it was written down"
            )
        if shipment["whole"] is None and shipment["changes"] is None:
            raise ExportError(
                f"stage {self.stored.record.stage!r} cannot be exported: its program comes back neither from data "
                f"({shipment['not_whole']}) nor from the program as it was written ({shipment['not_changes']})"
            )
        return shipment


def receipt_of(sources: ExportSources, shipment: Mapping[str, Any], unproven: tuple[str, ...]) -> Receipt:
    """The receipt, but for the hashes of the files.

    Args:
        sources: What it is gathered from.
        shipment: What the stage is outside of its session.
        unproven: Why its gates do not vouch for it.
    """
    stored, run = sources.stored, sources.run
    experiment, stage = stored.name
    return Receipt(
        experiment=experiment,
        stage=stage,
        kind=stored.record.kind,
        key=stored.record.key,
        build=stored.build.digest,
        exported=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        built=stored.created,
        passed=not unproven,
        unproven=unproven,
        session=run.created if run is not None else "",
        record=sources.session.source if sources.session is not None else "",
        record_digest=sources.session.digest if sources.session is not None else "",
        commit=run.commit if run is not None else "",
        dirty=run.dirty if run is not None else None,
        gates=gates_of(run, experiment, stage) if run is not None else (),
        scores=tuple(one.score for one in sources.measured()),
        data=_data(sources),
        models=tuple(_model(entry, shipment["lms"]) for entry in shipment["lms"]),
        trainings=tuple(_trainings(sources)),
        program=shipment["program"],
        code=shipment["code"],
        imports=tuple(shipment["modules"]) if shipment["whole"] is not None else (),
        needs=tuple(_needs(shipment)),
        versions={**run.environment, **run.versions} if run is not None else {},
    )


def _data(sources: ExportSources) -> dict[Any, ShippedData]:
    record, manifest = sources.record, sources.stored.build.manifest
    sizes = record.sizes if record is not None else (manifest.get("declared") or {}).get("sizes", {})
    data = {}
    for on in SPLITS:
        measured = next(sources.measured(on), None)
        digest = "" if measured is None else measured.ids
        if measured is None and on == "train":
            digest = str(manifest["parts"].get("train", ""))
        if on in sizes:
            data[on] = ShippedData(n=sizes[on] if measured is None else measured.score.n, digest=digest)
    return data


def _model(entry: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> ShippedModel:
    full = {**entries[entry["of"]], **entry} if "of" in entry else entry
    settings = {name: value for name, value in (full.get("settings") or {}).items() if value is not None}
    address = next((settings[name] for name in _ADDRESSES if isinstance(settings.get(name), str)), "")
    return ShippedModel(
        model=without_folder(entry["model"]),
        weights=full.get("weights", ""),
        address=plain_address(address) or "",
        adapter=entry.get("adapter", ""),
        settings={name: settings[name] for name in _OF_REPLIES if name in settings},
    )


def without_folder(model: str) -> str:
    """A model's name without the folders that it lies in on one machine."""
    if not model.startswith(MODEL_PREFIX):
        return model
    base, plus, adapter = model.removeprefix(MODEL_PREFIX).partition("+")
    is_id = base.count("/") == 1 and not base.startswith((".", "/", "~"))
    if is_id:
        return model
    last = base.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"{MODEL_PREFIX}{last}{plus}{adapter}"


def _trainings(sources: ExportSources) -> Iterator[ShippedTraining]:
    """The trainings of the build and of those that it stands on, the first one first."""
    known = {(*b.name, b.build.digest): b for b in sources.inventory.builds}
    seen: dict[str, StoredBuild] = {}
    waiting = [sources.stored]
    while waiting:
        stored = waiting.pop()
        if stored.build.digest not in seen:
            seen[stored.build.digest] = stored
            above = [known.get((stored.record.experiment, name, d)) for name, d in stored.upstream.items()]
            waiting += [b for b in above if b is not None]
    for stored in reversed(seen.values()):
        for job in stored.record.training:
            fields = {name: getattr(job, name) for name in ("predictors", "rows", "steps", "train_loss", "job")}
            model, settings = without_folder(job.model), _training_settings(stored, job.model)
            yield ShippedTraining(stage=stored.record.stage, model=model, settings=settings, **fields)


def _training_settings(stored: StoredBuild, model: str) -> dict[str, Any]:
    """How a LoRA of this machine was trained, as its trainer noted it beside it; nothing where it did not."""
    name = f"{ADAPTERS}/{model.partition('+')[2]}/{TRAINING_FILE}"
    if name not in stored.build.manifest["files"]:
        return {}
    noted = stored.build.read(name)
    settings = {key: value for key, value in noted.get("config", {}).items() if value is not None}
    return {**settings, **({"seed": noted["seed"]} if "seed" in noted else {})}


def _needs(shipment: Mapping[str, Any]) -> Iterator[str]:
    """What has to be given to ``load``, and why, each as ``NAME: reason``."""
    if shipment["whole"] is None:
        yield f"program: the program as it was written, a {shipment['program']}, since {shipment['not_whole']}"
    if shipment["adapter"] is None:
        yield f"adapter: a {shipment['adapter_class']}, since {shipment['not_adapter']}"
    for entry in shipment["lms"]:
        if "needed" in entry:
            model = without_folder(entry["model"])
            yield f"lm: the LM that the stage was declared with ({model}), since {entry['needed']}"
            break
