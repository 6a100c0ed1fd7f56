"""Which outputs of the store count now: those of the same program, examples, LM and adapter, whatever the metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_dspy_ft.evaluation.kept_predictions import KeptPredictions
from pytest_dspy_ft.ladder.context import LadderContext, Measuring
from pytest_dspy_ft.ladder.earlier_results import outputs_of_results
from pytest_dspy_ft.ladder.evaluation_task import EvaluationTask
from pytest_dspy_ft.records.footprint import NOT_COMPARED, Footprint
from pytest_dspy_ft.records.output import Output, OutputsFacts
from pytest_dspy_ft.store.outputs import StoredOutputs


@dataclass
class KnownOutputs:
    """The outputs that count."""

    calls: dict[str, list[Output]] = field(default_factory=dict)
    """By ``call_id``: what a program gave, or failed. What its provider failed is not among them."""
    failed: dict[str, list[Output]] = field(default_factory=dict)
    """What the provider failed: asked again, but where no LM may be called."""
    footprints: list[Footprint] = field(default_factory=list)
    """What they rest on."""
    facts: OutputsFacts | None = None
    """What is known of them all, where they are whole."""
    doubt: str = ""
    """Why outputs that the store has do not count; empty where all do, or there are none."""
    of_file: bool = False
    """Those of the whole file count."""
    of_journal: bool = False
    """Those of an evaluation under way count."""
    renewed: bool = False
    """An evaluation that ended early in another session does not count: this session makes it anew."""
    earlier: bool = False
    """An earlier version kept them, as part of its scores."""
    batched: bool = False
    """An LM of this machine answered several of the calls at once: their seconds are those of its batches."""

    def whole(self, call_ids: Iterable[str], *, with_failures: bool = False) -> bool:
        """True where no call is missing."""
        return all(one in self.calls or (with_failures and one in self.failed) for one in call_ids)

    def leave_out(self, unrestorable: Mapping[str, str], *, all_of_them: bool) -> None:
        """Leave out what cannot be given again: it is to be made anew.

        Args:
            unrestorable: Why, by ``call_id``.
            all_of_them: Make the others anew too: single answers of a batch would come out as others.
        """
        self.doubt = f"a prediction cannot be given again: {next(iter(unrestorable.values()))}"
        self.calls = {} if all_of_them else {i: some for i, some in self.calls.items() if i not in unrestorable}
        if not self.calls:
            self.of_file = self.of_journal = False

    def chosen(self, *, with_failures: bool = False) -> list[Output]:
        """All that count, one by one."""
        failed = [o for one, outputs in self.failed.items() if one not in self.calls for o in outputs[-1:]]
        return [o for outputs in self.calls.values() for o in outputs] + (failed if with_failures else [])


def predictions_of(context: LadderContext, task: EvaluationTask) -> KeptPredictions:
    """Writes down and gives again what the task's program predicts."""
    experiment = context.experiment
    examples = [example for split in ("train", "dev", "test") for example in getattr(experiment.dataset, split)[:1]]
    return KeptPredictions([task.program, experiment.program, experiment.metric, experiment.adapter, *examples])


def known_outputs(
    context: LadderContext, task: EvaluationTask, measuring: Measuring, kept: KeptPredictions
) -> KnownOutputs:
    """The outputs of the store that count for a task.

    Args:
        context: The experiment in this session.
        task: What is to be measured.
        measuring: What that rests on now.
        kept: Gives predictions again.
    """
    known = KnownOutputs()
    for stored in context.store.load_outputs(task.outputs_place):
        session = stored.facts.session if stored.facts is not None else None
        ended = stored.facts is not None  # whole, or under way since its verdicts were decided
        if (ended or not stored.under_way) and context.must_renew(task.name, task.outputs_key, session):
            known.renewed |= stored.under_way
            continue
        if doubt := _doubt(context, stored, measuring):
            known.doubt = known.doubt or doubt
            continue
        _add(known, stored)
    examples = context.experiment.examples(task.on)
    if not known.calls and not known.failed and not context.rebuilds(task.name):
        outputs_of_results(context, task, measuring, kept, known)
    if task.answered_here and not known.whole(task.call_ids(examples), with_failures=context.settings.frozen):
        return KnownOutputs(doubt=known.doubt)  # single answers of a batch would come out as others
    return known


def _doubt(context: LadderContext, stored: StoredOutputs, measuring: Measuring) -> str:
    """Why outputs are not believed now; empty where they are."""
    if doubt := context.doubt(stored.footprint, measuring.answering):
        return doubt
    assert stored.footprint is not None, "else it is doubted"
    left = {name for name, digests in stored.footprint.state.items() if NOT_COMPARED in digests.values()}
    read = sorted(left & measuring.judging.state_read()) if left else []
    return f"the metric reads {read[0].replace(':', '.')}, which running the program changes" if read else ""


def _add(known: KnownOutputs, stored: StoredOutputs) -> None:
    for call_id, outputs in stored.calls.items():
        settled = [output for output in outputs if output.fault != "provider"]
        if settled:
            known.calls[call_id] = settled
        else:
            known.failed[call_id] = outputs
    known.footprints += [stored.footprint] if stored.footprint is not None else []
    known.facts = known.facts or (None if stored.under_way else stored.facts)
    known.batched |= bool(stored.facts is not None and stored.facts.batched)
    known.of_file |= not stored.under_way
    known.of_journal |= stored.under_way
