"""The traces of a stage for every build of it that differs in its training settings only."""

from __future__ import annotations

import functools

from pytest_dspy_ft.finetune.kept_collections import KeptCollection, KeptCollections
from pytest_dspy_ft.finetune.settings import finetuners
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.ladder.build_doubts import BuildDoubts
from pytest_dspy_ft.ladder.built_stage import BuildRequest
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.provenance.footprint import Following


def stage_collections(
    context: LadderContext, doubts: BuildDoubts, request: BuildRequest, following: Following | None
) -> KeptCollections | None:
    """Where the traces of a stage are kept; None where some are collected after a training, and depend on it.

    Args:
        context: The experiment in this session.
        doubts: Says whether what they rest on is so still.
        request: The stage.
        following: Follows what collecting rests on; None where nothing is collected.
    """
    recipe, stage, session = request.recipe, request.stage, context.settings.session
    if stage.work != "finetune" or len(finetuners(stage.optimizer)) != 1:
        return None
    rests = {"traces": recipe.traces_key, "upstream": request.upstream_digests, "judge": context.judge_digest}

    def used(kept: KeptCollection) -> None:
        if kept.session != session:
            context.caution(
                f"{stage.name}: traces kept from {kept.created}, 0 LM calls; --dspy-rebuild={stage.name} collects anew"
            )

    return KeptCollections(
        context.store.collections_folder(context.experiment.name, stage.name, digest_json(rests)),
        session,
        rebuild=stage.name in context.rebuild,
        believed=functools.partial(doubts.believes, request),
        resting_on=(lambda: None) if following is None else following.footprint,
        used=used,
    )
