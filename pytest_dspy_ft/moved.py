"""Modules and names in the places they had: they still import, with a DeprecationWarning that names the new place.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NEW_PLACES: dict[str, tuple[str, ...]] = {
    "baselines": ("records.baseline",),
    "bootstrap": ("finetune.traces", "finetune.rows"),
    "budget": ("lms.budget",),
    "build": ("ladder.compile", "ladder.recipe", "ladder.preflight", "ladder.trained_models", "evaluation.programs"),
    "comparing": ("gates.regression",),
    "correction": ("gates.holm",),
    "dataset": ("experiment.dataset", "experiment.example_id", "experiment.split_sizes"),
    "details": ("store.build_details",),
    "diagnosis": ("finetune.diagnosis", "finetune.remedies"),
    "diagnosis_text": ("report.diagnosis",),
    "estimates": ("ladder.estimates",),
    "evaluate": ("evaluation.evaluate", "evaluation.score"),
    "execution": ("evaluation.run", "lms.patience", "lms.failures"),
    "explanations": ("gates.explain", "gates.observed", "report.examples"),
    "expressions": ("gates.expression",),
    "faults": ("lms.failures", "redaction"),
    "guards": ("gates.guards", "gates.evidence"),
    "hosted": ("finetune.hosted",),
    "hosted.clients": ("finetune.hosted.openai_api.access", "finetune.hosted.registry"),
    "hosted.journal": ("finetune.hosted.journal",),
    "hosted.ordering": ("finetune.hosted.job_runner",),
    "hosted.orders": ("finetune.hosted.job_request",),
    "hosted.preflight": ("finetune.hosted.preflight",),
    "hosted.provider": ("finetune.hosted.provider",),
    "hosted.retries": ("finetune.hosted.retries", "finetune.hosted.openai_api.failures"),
    "hosted.service": ("finetune.hosted.openai_api.service", "finetune.hosted.port"),
    "hosted.vendors": ("finetune.hosted.openai_api.lifetimes",),
    "intervals": ("gates.intervals",),
    "inventory": ("store.inventory",),
    "metering": ("lms.usage",),
    "near_duplicates": ("experiment.near_duplicates",),
    "optimizers": ("experiment.optimizers",),
    "parsing": ("gates.parser", "gates.tokens"),
    "planning": ("ladder.plan", "records.plan"),
    "prices": ("lms.prices",),
    "pruning": ("store.prune",),
    "reading": ("experiment.files",),
    "recording": ("lms.recording",),
    "recording.folder": ("lms.recording.folder",),
    "recording.gate": ("lms.calls",),
    "recording.recorder": ("lms.calls", "lms.recording.recorder"),
    "repeats": ("evaluation.repeats",),
    "resolution": ("gates.power",),
    "responses": ("lms.cache",),
    "results": tuple(
        f"records.{name}" for name in ("evaluation", "run", "build", "gate", "comparison", "usage", "base", "pairing")
    ),
    "saved": ("records.run_file", "records.schema"),
    "serving": ("lms.serving",),
    "trace_files": ("finetune.trace_files",),
    "trajectories": ("records.trajectories",),
    "wording": ("text",),
}
"""By old name, the modules where its content is now; all below this package."""

NEW_HOMES: dict[str, dict[str, str]] = {
    "experiment": {"BASELINE": "stage", "Experiment": "experiment", "Stage": "stage"},
    "finetune": {"TraceFinetune": "optimizer"},
    "gates": {"Evidence": "evidence", "Gate": "gate", "judge": "verdict"},
    "ladder": {"BuiltStage": "builder", "Ladder": "ladder"},
    "lms": {"is_local": "resolve", "resolve_lm": "resolve"},
    "store": {"Build": "store", "Store": "store"},
    "statistics": {
        "exact_interval": "shares",
        "margin_interval": "bootstrap",
        "score_interval": "scores",
        "wilson_interval": "shares",
    },
}
"""By room that was a module before: the names it gave, and the module in it where each is now."""


class MovedModules:
    """A finder, asked after all others, for the old names; and the loader of what it finds."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of an old name; None for any other, which then is not found, as always."""
        package, _, old = fullname.partition(".")
        if package != __package__ or old not in NEW_PLACES:
            return None
        return ModuleSpec(fullname, self, is_package=old in ("hosted", "recording"))  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary, empty module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module answer with what is in the new places."""
        places = [f"{__package__}.{place}" for place in NEW_PLACES[module.__name__.partition(".")[2]]]

        def find(name: str) -> Any:
            if not name.startswith("__"):
                for place in places:
                    new = importlib.import_module(place)
                    if hasattr(new, name):
                        return getattr(new, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find  # type: ignore[method-assign]
        warnings.warn(f"{module.__name__} has moved to {', '.join(places)}", DeprecationWarning, stacklevel=2)


def moved_names(room: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a room that was a module before.

    Args:
        room: The room's full name.
    """

    def find(name: str) -> Any:
        home = NEW_HOMES[room.rpartition(".")[2]].get(name)
        if home is None:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        warnings.warn(f"{name} of {room} has moved to {room}.{home}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(f"{room}.{home}"), name)

    return find
