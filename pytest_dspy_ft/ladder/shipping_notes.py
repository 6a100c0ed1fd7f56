"""A stage that a session has, noted for exporting: its program, LMs and adapter as another process can have them."""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.evaluation.programs import adapter_of, copy_program
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.ladder.built_stage import BuiltStage
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.shipping.shipped_program import StageToShip
from pytest_dspy_ft.store.shipments import keep_shipment
from pytest_dspy_ft.store.store import Store


def note_for_shipping(store: Store, experiment: Experiment, built: BuiltStage) -> None:
    """Keep beside a build what exporting it takes."""

    def make() -> dict[str, Any]:
        try:
            return written()
        except Exception as problem:  # of the user's objects: the session goes on, and exporting says it
            return {"problem": describe_exception(problem)}

    def written() -> dict[str, Any]:
        stage = StageToShip(
            written=copy_program(experiment.program),
            built=built.program,
            lm=built.lm,
            adapter=adapter_of(experiment),
            adapters=_adapters(store, built),
        )
        return {**stage.as_json(), "adapters": dict(stage.adapters)}

    keep_shipment(store, built.build, make)


def _adapters(store: Store, built: BuiltStage) -> dict[str, str]:
    """The folders of the LoRAs that a stage runs on, by name, as far as they lie in the store."""
    found = {}
    for lm in [built.lm, *built.lms.values()]:
        name = str(lm.model).partition("+")[2] if is_local(lm) else ""
        find = getattr(getattr(lm, "engine", None), "adapter_path", None)
        if not name or find is None:
            continue
        try:
            folder = find(name)
        except LMError:
            continue
        if folder.is_relative_to(store.root):
            found[name] = folder.relative_to(store.root).as_posix()
    return found
