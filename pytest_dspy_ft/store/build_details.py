"""What a build consists of, read from its folder for people: prompts, demos, losses."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from pytest_dspy_ft.records.build import FieldRecord, LossCurve, LossPoint, PredictorRecord, StageDetails
from pytest_dspy_ft.store.build import Build

MOST_POINTS = 1000
"""More steps than this are thinned: a curve on a page shows no more."""
PROGRAM = "program.json"
TRAINING_LOG = "training_log.jsonl"


def read_details(stage: str, build: Build) -> StageDetails:
    """A stage's prompts, and how its training went. Losses that cannot be read are left out.

    Raises:
        StoreError: Its program is damaged.
    """
    state = build.read(PROGRAM)["state"]
    logs = sorted(build.folder.glob(f"adapters/**/{TRAINING_LOG}"))
    curves = tuple(LossCurve(name=log.parent.name, points=points) for log in logs if (points := _points(log)))
    return StageDetails(
        stage=stage,
        digest=build.digest,
        predictors=tuple(_predictor(name, saved) for name, saved in state.items()),
        curves=curves,
    )


def _predictor(name: str, state: dict[str, Any]) -> PredictorRecord:
    signature = state.get("signature") or {}
    return PredictorRecord(
        name=name,
        instructions=str(signature.get("instructions", "")),
        fields=tuple(
            FieldRecord(name=str(f.get("name", "")), prefix=f.get("prefix", ""), description=_description(f))
            for f in signature.get("fields", [])
        ),
        demos=tuple(dict(demo) for demo in state.get("demos", [])),
    )


def _description(field: dict[str, Any]) -> str:
    """The user's description of a field; DSPy puts ``${name}`` where nothing was said."""
    text = str(field.get("description", ""))
    return "" if text.startswith("${") and text.endswith("}") else text


def _points(log: Path) -> tuple[LossPoint, ...]:
    points = []
    with contextlib.suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                entry = json.loads(line)
                point = {k: entry.get(k) for k in ("loss", "validation_loss")}
                finite = {k: v if v is not None and math.isfinite(v) else None for k, v in point.items()}
                points.append(LossPoint(step=entry["step"], epoch=entry.get("epoch") or 0.0, **finite))
    every = -(-len(points) // MOST_POINTS)
    return tuple(p for i, p in enumerate(points) if i % every == 0 or p.validation_loss is not None)
