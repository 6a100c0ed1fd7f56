"""An experiment's splits from session to session: what the store remembers of them, and what this session adds."""

from __future__ import annotations

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.experiment.moved_examples import moved_examples
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.guards import moved_note
from pytest_dspy_ft.gates.wear import WORN, is_worn
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.store.split_memory import RememberedSplits, SplitMemory


class SplitWatch:
    """Holds today's splits against those of earlier sessions, and adds them to the store's memory.

    A session that is frozen, or only plans, adds nothing. One that looks at a part of the examples adds those, which
    were in dev and test too, but counts no program as tested.

    Args:
        context: The experiment in this session.
    """

    def __init__(self, context: LadderContext) -> None:
        self._context = context
        self._memory = SplitMemory(context.store, context.experiment.name)
        self._known = RememberedSplits()
        self._adds = not (context.settings.frozen or context.store.read_only)
        try:
            self._known = self._memory.read()
        except StoreError as error:
            self._give_up(error)
        self._has_splits = False
        self._tested: set[str] = set()
        self._moved = moved_examples(context.experiment.dataset, self._known.dev, self._known.test)
        if self._moved:
            context.caution(self._moved.headline())

    @property
    def tested_programs(self) -> int:
        """How many different programs were ever measured on the whole test split, this session's included."""
        return len(self._known.programs | self._tested)

    def note(self, gate: Gate) -> str:
        """Explain that a gate judges a stage that was trained on examples held out before; empty where none is."""
        return moved_note(gate, self._context.experiment, self._moved)

    def worked(self) -> None:
        """Remember today's splits: something was built on them, or measured."""
        if not self._has_splits:
            self._has_splits = True
            dataset = self._context.experiment.dataset
            self._remember(
                RememberedSplits(frozenset(dataset.inputs_ids("dev")), frozenset(dataset.inputs_ids("test")))
            )

    def measured(self, result: StageResult) -> None:
        """Remember today's splits, and which program was tested."""
        self.worked()
        program = result.build or result.stage
        if result.on != "test" or self._context.settings.limit is not None or program in self._tested:
            return
        self._tested.add(program)
        self._remember(RememberedSplits(programs=frozenset([program])))
        if is_worn(self.tested_programs):
            self._context.caution(WORN)

    def _remember(self, fresh: RememberedSplits) -> None:
        if not self._adds or self._known | fresh == self._known:
            return
        try:
            self._known = self._memory.remember(fresh)
        except StoreError as error:
            self._give_up(error)

    def _give_up(self, error: StoreError) -> None:
        """Go on without the memory: it is worth less than the session."""
        self._adds = False
        self._context.caution(f"what is in dev and test today is not remembered: {error}")
