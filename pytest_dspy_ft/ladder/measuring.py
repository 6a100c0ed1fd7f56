"""One evaluation made: stored outputs are scored, calls that are missing are made, and all is kept as it comes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_dspy_ft.errors import ProviderError
from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.evaluation.evaluate import Measurement
from pytest_dspy_ft.evaluation.kept_predictions import KeptPredictions
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.evaluation.repeats import evaluate_repeatedly, merged
from pytest_dspy_ft.evaluation.rescore import Rescored, Scoring, score_outputs
from pytest_dspy_ft.evaluation.run import Call, Runtime
from pytest_dspy_ft.evaluation.score import Metrics
from pytest_dspy_ft.experiment.example_id import describe, example_id
from pytest_dspy_ft.ladder.answering import answering, confirm, ready
from pytest_dspy_ft.ladder.context import LadderContext, Measuring
from pytest_dspy_ft.ladder.evaluation_task import EvaluationTask
from pytest_dspy_ft.ladder.recipe import metric_keys
from pytest_dspy_ft.ladder.stopping import Parts
from pytest_dspy_ft.ladder.stored_outputs import KnownOutputs
from pytest_dspy_ft.lms.cache import NoResponses, responses_from
from pytest_dspy_ft.lms.reachable import unanswerable
from pytest_dspy_ft.lms.resolve import begin_work, is_local
from pytest_dspy_ft.provenance.footprint import joined
from pytest_dspy_ft.records.base import writable
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.output import Output, OutputsFacts, shortened_middle
from pytest_dspy_ft.store.evaluation_journal import EvaluationJournal
from pytest_dspy_ft.store.outputs import OutputsJournal

WAITED = "its calls waited for each other's batches; --dspy-num-threads=1"
"""Why an evaluation does not count where calls are made one by one."""


@dataclass(frozen=True)
class Begun:
    """What an evaluation begins with."""

    measuring: Measuring
    kept: KeptPredictions
    known: KnownOutputs
    earlier: Mapping[str, ExampleResult]
    """Scores that stay as they are, by ``call_id``; of the further metrics, those that have not changed."""
    earlier_footprint: Footprint | None = None
    """What these rest on."""
    anew: bool = False
    """Nothing of before counts."""

    def settled(self, names: Collection[str]) -> dict[str, ExampleResult]:
        """Earlier scores that lack none of these further metrics."""
        return {one: call for one, call in self.earlier.items() if not call.asked or set(names) <= call.further.keys()}


class Followed:
    """What runs for an evaluation: for the program, and apart from that for the metric."""

    def __init__(self, measuring: Measuring) -> None:
        modules = measuring.whole.modules()
        self.program = measuring.answering.following(modules)
        self.metric = measuring.judging.following(modules, aside=True)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """The block in which calls are made."""
        with self.program.follower.session(), self.metric.follower.session():
            yield

    def footprint(self) -> Footprint:
        """What both rest on so far."""
        return joined(self.program.footprint(), self.metric.footprint())


def score_again(
    context: LadderContext, task: EvaluationTask, begun: Begun, journal: EvaluationJournal | None
) -> StageResult | dict[str, str]:
    """Score whole outputs; no call of the program is made.

    Args:
        context: The experiment in this session.
        task: What is measured.
        begun: What the store has of it.
        journal: Has scores of an evaluation that was interrupted, and takes more; None: nothing is written down, no LM
            is called, and a metric that asks one is an error.

    Returns:
        The evaluation, ``rescored`` where anything was; or why predictions could not be given again, by ``call_id``.

    Raises:
        ExperimentError: If the metric asks for an LM, and there is none, or none may be asked.
    """
    followed, frozen = Followed(begun.measuring), journal is None
    followed.program.rest_on(*begun.known.footprints, begun.earlier_footprint)
    done: dict[str, ExampleResult] = begun.settled(context.experiment.metrics)
    settings: dict[str, Any] = {"frozen": frozen, "whole": True}
    if journal is not None:
        done |= journal.done
        settings["record"] = journal.add
        followed.program.rest_on(journal.footprint)
        journal.rest_on(followed.footprint())
    outputs = [one for one in begun.known.chosen(with_failures=frozen) if one.call_id not in done]
    with responses_from(NoResponses()), context.paying(), followed.session():
        scored = _scored(context, task, begun, followed, outputs, **settings)
    if scored.unrestorable:
        return scored.unrestorable
    by_call = {**{call_id: [result] for call_id, result in done.items()}, **scored.results}
    results = assembled(context.experiment.examples(task.on), task.repeats, by_call)
    context.note_unseen(followed.metric.footprint())
    facts = begun.known.facts or OutputsFacts(lm=task.model, batched=begun.known.batched or None)
    result = _result(context, task, results, followed.footprint(), facts)
    names = {"rescored": "scored" if scored.results else "", "outputs": "" if begun.known.earlier else result.outputs}
    return result.model_copy(update=names)


def measure_missing(
    context: LadderContext,
    task: EvaluationTask,
    begun: Begun,
    journal: EvaluationJournal,
    outputs: OutputsJournal,
    untried: bool,
    parts: Parts | None = None,
) -> StageResult:
    """Score what outputs there are, make the calls that are missing, and write all down as it comes.

    Args:
        context: The experiment in this session.
        task: What is measured.
        begun: What the store has of it.
        journal: Has scores of an evaluation that was interrupted, and takes more.
        outputs: Takes what calls of the program gave.
        untried: Nothing tells yet that the metrics can work: they are tried on the first answers.
        parts: How it may end early; None: it is made as a whole.

    Returns:
        The evaluation; one that ended early is under way for the store, and what was measured is kept as such.

    Raises:
        ExperimentError: If the metric asks for an LM, and there is none.
        MetricError: If the metrics are untried, and what one returned for a first answer is no score.
        ProviderError: If the LM's provider refuses to answer.
        RecordingError: If only recordings may answer, and one is missing.
    """
    started, experiment, followed = time.monotonic(), context.experiment, Followed(begun.measuring)
    metrics = experiment.metrics
    done = {} if begun.anew else {**begun.settled(metrics), **journal.done}
    if not begun.known.of_journal or task.answered_here:
        outputs.discard()
    for output in begun.known.chosen() if begun.known.earlier else ():
        outputs.add(output)
    followed.program.rest_on(*begun.known.footprints, begun.earlier_footprint, journal.footprint)

    def note(footprint: Footprint | None = None) -> None:
        outputs.add(followed.program.footprint())
        journal.rest_on(followed.footprint())

    made: list[str] = []

    def keep(output: Output, call: Call) -> None:
        made.append(output.id)
        outputs.add(kept_output(output, call, begun.kept))

    note()
    followed.program.seen = followed.metric.seen = note
    with responses_from(NoResponses()), context.paying():
        with followed.session():
            todo = [output for output in begun.known.chosen() if output.call_id not in done]
            scored = _scored(context, task, begun, followed, todo, record=journal.add)
        done |= {call_id: results[-1] for call_id, results in scored.results.items()}
        task = ready(context, task)
        _require_answers(task)
        begin_work(task.lm)
        runtime = replace(_runtime(context, task, followed), keeps=True)
        measurement = Measurement(
            experiment.examples(task.on) if parts is None else parts.unordered,
            experiment.metric,
            runtime,
            context.settings.progress,
            f"{task.name}: evaluating on {task.on}",
            done,
            further=metrics,
            untried=untried,
            record=journal.add,
            keep=keep,
        )
        with followed.session(), answering(context, task):
            if parts is None:
                results = evaluate_repeatedly(task.program, measurement, task.repeats)
            else:
                results = _in_parts(task, measurement, parts)
        confirm(context, task, journal, outputs)
    seconds = time.monotonic() - started
    facts = OutputsFacts(
        lm=task.model,
        build=task.digest,
        session=context.settings.session,
        wall_seconds=seconds,
        batched=begun.known.batched or _batched(context, task),
    )
    if len(results) < (n := len(measurement.examples)):
        if task.answered_here:
            outputs.discard()
        else:
            outputs.add(facts)
        stopped = _result(context, task, results, followed.footprint(), facts)
        return stopped.model_copy(update={"planned": n, "loaded": not made})
    outputs.finish(facts, followed.program.footprint(), with_earlier=begun.known.of_file)
    footprint = followed.footprint()
    context.note_unseen(footprint)
    return _result(context, task, results, footprint, facts)


def _in_parts(task: EvaluationTask, measurement: Measurement, parts: Parts) -> list[ExampleResult]:
    """The results of one part after the other until all is decided, in the order of the split."""
    n, results, start = len(parts.examples), list[ExampleResult](), 0
    for end in parts.ends(measurement.runtime.threads(n)):
        title = f"{measurement.title} ({start + 1} to {end} of {n})"
        part = replace(measurement, examples=parts.examples[start:end], title=title)
        results += evaluate_repeatedly(task.program, part, task.repeats)
        start = end
        if end < n and parts.decided(results):
            break
    places = {id(example): place for place, example in enumerate(measurement.examples)}
    measured = zip(parts.examples, results, strict=False)
    return [result for _, result in sorted(measured, key=lambda pair: places[id(pair[0])])]


def kept_output(output: Output, call: Call, kept: KeptPredictions) -> Output:
    """An output with what scoring it again takes, and with its example for people to read."""
    values, unkept = kept.write(call.prediction, output.prediction) if output.scorable else (None, "")
    if values is not None and writable(values) != values:
        values, unkept = None, "it holds a key, or a text that no file can hold as it is"
    content = describe(call.example)
    return output.model_copy(
        update={
            "values": values,
            "unkept": writable(unkept),
            "inputs": _bounded(writable(content["inputs"])),
            "expected": _bounded(writable(content["expected"])),
        }
    )


def _require_answers(task: EvaluationTask) -> None:
    """See that somebody can answer, before calls are made that would be waited for.

    Raises:
        ProviderError: No key is there, or nobody listens.
    """
    for lm in {id(each): each for each in predictor_lms(task.program, task.lm).values()}.values():
        if why := unanswerable(lm):
            raise ProviderError(why)


def _bounded(value: Any) -> Any:
    """An example's fields for people to read: an image or a book in one of them would be there once for every stage."""
    if isinstance(value, str):
        return shortened_middle(value)
    if isinstance(value, dict):
        return {name: _bounded(item) for name, item in value.items()}
    return [_bounded(item) for item in value] if isinstance(value, list) else value


def assembled(
    examples: Sequence[Any], repeats: int, results: Mapping[str, Sequence[ExampleResult]]
) -> list[ExampleResult]:
    """The results of examples out of those of single calls; of copies of an example, each gets its own."""
    seen: Counter[str] = Counter()
    found = []
    for example in examples:
        identity = example_id(example)
        number, seen[identity] = seen[identity], seen[identity] + 1
        ids = [identity] if repeats == 1 else [f"{identity}#{repeat}" for repeat in range(repeats)]
        calls = [results[one][min(number, len(results[one]) - 1)] for one in ids]
        found.append(calls[0] if repeats == 1 else merged(calls))
    return found


def _scored(
    context: LadderContext,
    task: EvaluationTask,
    begun: Begun,
    followed: Followed,
    outputs: Sequence[Output],
    **settings: Any,
) -> Rescored:
    if not outputs:
        return Rescored()
    experiment = context.experiment
    scoring = Scoring(
        experiment.examples(task.on),
        Metrics(experiment.metric, experiment.metrics, context.judge),
        _runtime(context, task, followed),
        context.settings.progress,
        f"{task.name}: scoring stored outputs on {task.on}",
        standing=begun.earlier,
        **settings,
    )
    return score_outputs(outputs, begun.kept, scoring)


def _runtime(context: LadderContext, task: EvaluationTask, followed: Followed) -> Runtime:
    settings = context.settings
    runtime = Runtime(task.lm, adapter_of(context.experiment), settings.num_threads, settings.patience)
    return replace(runtime, around=followed.program.one, judging=followed.metric.one, judge=context.judge)


def _result(
    context: LadderContext,
    task: EvaluationTask,
    results: Sequence[ExampleResult],
    footprint: Footprint,
    facts: OutputsFacts,
) -> StageResult:
    return StageResult(
        experiment=context.experiment.name,
        stage=task.name,
        on=task.on,
        lm=task.model,
        key=task.key,
        examples=tuple(results),
        wall_seconds=facts.wall_seconds,
        session=context.settings.session,
        build=task.digest,
        unseen=footprint.unseen,
        footprint=footprint,
        judge_lm=context.judge_digest if any(map(_asked_judge, results)) else "",
        outputs=task.outputs_key,
        batched=facts.batched,
        metrics=metric_keys(context.experiment),
    )


def _asked_judge(result: ExampleResult) -> bool:
    """True where a metric asked an LM."""
    return result.judge is not None or any(said.judge is not None for said in result.further.values())


def _batched(context: LadderContext, task: EvaluationTask) -> bool:
    """True where an LM of this process answers several calls of a program at once."""
    if task.served or not any(map(is_local, predictor_lms(task.program, task.lm).values())):
        return False
    return Runtime(task.lm, None, context.settings.num_threads).threads(len(context.experiment.examples(task.on))) > 1
