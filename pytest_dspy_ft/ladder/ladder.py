"""The ladder of one experiment in one session: every stage built or loaded once, every evaluation made once.

This is the core's front door. It knows nothing of pytest: use it from a script or a notebook::

    ladder = Ladder(experiment, store=".dspy_ft")
    print(ladder.evaluate("finetuned", on="test").score)
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pytest_dspy_ft.evaluation.binding import Binding, bound_program
from pytest_dspy_ft.evaluation.programs import adapter_of, copy_program
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.finetune.kept_collections import KeptCollection
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.guards import demo_note, examples_in, scored_stages
from pytest_dspy_ft.gates.held_examples import SplitIndex
from pytest_dspy_ft.gates.sliced import SlicedGate
from pytest_dspy_ft.gates.slices import Slice
from pytest_dspy_ft.gates.verdict import judge, judge_decided
from pytest_dspy_ft.ladder.builder import StageBuilder
from pytest_dspy_ft.ladder.built_stage import BuiltStage
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.evaluator import StageEvaluator
from pytest_dspy_ft.ladder.foresight import require_answers
from pytest_dspy_ft.ladder.recipe import Recipe, describe_declaration
from pytest_dspy_ft.ladder.settings import LadderOptions, LadderSettings
from pytest_dspy_ft.ladder.shown_examples import ShownExamples
from pytest_dspy_ft.ladder.slicing import Slicings
from pytest_dspy_ft.ladder.split_watch import SplitWatch
from pytest_dspy_ft.lms.cache import KeptResponses
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.progress import in_passing, shown_on
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.build import StageDetails
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.output import Reply
from pytest_dspy_ft.records.run import ExampleContent, ExperimentRecord
from pytest_dspy_ft.report.notebook import experiment_html
from pytest_dspy_ft.store.build_details import read_details
from pytest_dspy_ft.store.store import Store
from pytest_dspy_ft.text import LINE, counted, shorten


class Ladder:
    """Builds, evaluates and judges the stages of one experiment.

    Args:
        experiment: What to build.
        store: Where builds and evaluations are kept; a :class:`Store` or its directory.
        options: ``frozen``, ``rebuild``, ``limit``, ``num_threads``, ``prices``, ``repeats``, ``max_errors``,
            ``progress``, ``session``, ``job_timeout``, ``budget``, ``patience``, ``serving``, ``launcher``,
            ``measure_anew``, ``rescore``, ``stopping``: each as
            :class:`~pytest_dspy_ft.ladder.settings.LadderSettings` explains it.

    Attributes:
        experiment: The experiment, with no more examples than ``limit`` allows.
        store: The store.
        settings: The options, with defaults filled in.
    """

    def __init__(
        self, experiment: Experiment, store: Store | Path | str = ".dspy_ft", **options: Unpack[LadderOptions]
    ) -> None:
        self.settings = settings = LadderSettings.from_options(options)
        self.experiment = experiment if settings.limit is None else experiment.limited(settings.limit)
        self.store = store if isinstance(store, Store) else Store(store)
        describe_declaration(self.experiment)
        self._context = LadderContext(self.experiment, self.store, settings)
        self._builder = StageBuilder(self._context)
        self._evaluator = StageEvaluator(self._context, self._builder)
        self._watch = SplitWatch(self._context)
        self._slicings = Slicings(self.experiment, limited=settings.limit is not None)
        self._sliced: dict[Gate, SlicedGate] = {}
        self._verdicts: list[VerdictRecord] = []
        self._split_index = SplitIndex(self.experiment.dataset)
        self._held: dict[str, dict[Split, set[str]]] = {}
        self._metric = fingerprint(experiment.metric, with_lms=True)[:16]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A setting by its name: ``ladder.budget`` is ``ladder.settings.budget``."""
            if name in LadderOptions.__annotations__ and "settings" in vars(self):
                return getattr(self.settings, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        record = self.record()
        stages = f"{len(record.stages)} of {counted(len(record.order), 'stage')}"
        done = f"{counted(len(record.results), 'evaluation')}, {counted(len(record.verdicts), 'verdict')}"
        return shorten(f"Ladder({self.experiment.name!r}: {stages}, {done})", LINE)

    def _repr_html_(self) -> str:
        """For notebooks: what this session knows so far; nothing is built or measured for it."""
        return experiment_html(self.record())

    def __enter__(self) -> Ladder:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what was started elsewhere for models to answer; it is started again where it is needed again."""
        self._context.endpoints.close()

    # --- stages ------------------------------------------------------------------------------------------------------

    def build(self, name: str) -> BuiltStage:
        """The stage, loaded from the store where it is there, built where it is not.

        Raises:
            ExperimentError: If there is no such stage.
            BuildError: If it, or a stage it needs, cannot be built. A failed build is not tried again in this session.
            StoreError: In a frozen session, if it is not in the store.
        """
        with shown_on(self.settings.progress):
            self._context.begin()
            built = self._builder.build(name)
        self._watch.worked()
        return built

    def program(self, stage: str) -> Any:
        """A copy of a stage's program, ready to call anywhere: its LM and adapter come with it."""
        built = self.build(stage)
        program, lm = copy_program(built.program), built.lm
        cache: KeptResponses | None = None
        if is_local(lm):
            # Same weights, same prompt, greedy: the same answer. Keeping it spares loading the model for one call.
            for predictor in program.predictors():
                predictor.lm = None if predictor.lm is None else predictor.lm.copy(cache=True)
            cache = KeptResponses(self.store.root / "responses", digest_json(lm_identity(lm)))
            lm = lm.copy(cache=True)
        return bound_program(program, Binding(lm, adapter_of(self.experiment), cache, self._context.calling))

    def recipe(self, name: str) -> Recipe:
        """The recipe of a stage (all that determines it), found out without building or calling anything."""
        return self._builder.recipe(name)

    def find(self, name: str) -> BuiltStage | None:
        """The stage as the store has it; None where it would have to be built."""
        return self._builder.find(name)

    def kept_traces(self, name: str) -> KeptCollection | None:
        """The traces that a stage would be trained on without collecting any; None where it would collect."""
        return self._builder.kept_traces(name)

    def why(self, name: str) -> str:
        """The reason why a stage that is not in the store has to be built: which part of its key changed."""
        return self._builder.why(name)

    def skip(self, name: str, reason: str) -> None:
        """Note that a stage is out of this session's reach."""
        self._builder.skip(name, reason)

    def details(self, stage: str) -> StageDetails | None:
        """Prompts, demos and losses of a stage; None where this session neither built nor loaded it."""
        built = self._builder.in_session(stage)
        return None if built is None else read_details(stage, built.build)

    # --- evaluations -------------------------------------------------------------------------------------------------

    def evaluate(self, stage_or_program: str | Any, on: Split = "dev") -> StageResult:
        """A stage, or any program, measured on a split.

        Args:
            stage_or_program: A stage's name, or a ``dspy.Module``. Predictors without an LM run on the experiment's.
            on: ``train``, ``dev`` or ``test``.

        Raises:
            ExperimentError: If there is no such stage or split, the split is empty, or a slice function fails on it.
            BuildError: If the stage cannot be built.
            ProviderError: If the LM's provider refuses to answer (key, quota, unknown model).
            RecordingError: If only recordings may answer, and one is missing.
            ServingError: If the server that is to answer does not, or does not load an adapter.
            StoreError: In a frozen session, if the evaluation is not in the store.
        """
        return self._evaluated(stage_or_program, on)

    def _evaluated(self, stage_or_program: str | Any, on: Split, *, partly: bool = False) -> StageResult:
        self._slicings.check(on)
        name = stage_or_program if isinstance(stage_or_program, str) else "a program"
        looking = in_passing(self.settings.progress, f"{name}: looking into the store, on {on}")
        with shown_on(self.settings.progress), looking:
            self._context.begin()
            result = self._evaluator.evaluate(stage_or_program, on, partly=partly)
        self._watch.measured(result)
        return result

    def find_evaluation(self, name: str, on: Split) -> StageResult | None:
        """A stage's evaluation as the store has it; None where it would have to be measured."""
        return self._evaluator.find(name, on)

    def _is_measured(self, name: str, on: Split) -> bool:
        return self.find_evaluation(name, on) is not None or bool(self.why_scored_again(name, on))

    def why_unmeasured(self, name: str, on: Split) -> str:
        """Why the store's evaluation of a stage does not count, in words; empty where it has none."""
        return self._evaluator.why_unmeasured(name, on)

    def why_scored_again(self, name: str, on: Split) -> str:
        """Why stored outputs of a stage would be scored again, and the program not run; empty where it would be."""
        return self._evaluator.why_scored_again(name, on)

    def repeats_of(self, name: str) -> int:
        """How many times each example will be evaluated on a stage; where it is not built yet, as its LM suggests."""
        return self._evaluator.repeats_of(name)

    def foreseen_end(self, name: str, on: Split) -> str:
        """When measuring a stage would end early, in words; empty where it will be measured on the whole split."""
        return self._evaluator.foreseen_end(name, on)

    def contents(self, on: Split) -> dict[str, ExampleContent]:
        """The examples of a split by id, as data."""
        described = self._context.described_examples(on)
        return {identity: ExampleContent.model_validate(content) for identity, content in described.items()}

    # --- gates -------------------------------------------------------------------------------------------------------

    def judge(
        self,
        gate: Gate,
        test: str = "",
        *,
        caution: str = "",
        divisor: int = 1,
        slice_divisors: Mapping[str, int] | None = None,
    ) -> VerdictRecord:
        """Build and evaluate what a gate names, judge it, and put the verdict into the record.

        Args:
            gate: The gate.
            test: Node id of the test that holds it, for reports.
            caution: A note that its verdict is to be marked with.
            divisor: Divides the error that its confidence allows, since other gates are judged beside it.
            slice_divisors: The same for each slice of a gate with ``by=``; None: corrected for its own slices alone.
        """
        if gate.by is not None:
            verdict = self._weigh_slices(gate, slice_divisors or self.sliced(gate).own_divisors())
        else:
            verdict = self.weigh(gate, divisor).model_copy(update={"tried": divisor})
        caution = "; ".join(dict.fromkeys(text for text in (caution, self._watch.note(gate)) if text))
        lines = [verdict.message]
        if caution:
            lines.append(f"  CAUTION: {caution}")
        if gate.by is None and divisor > 1 and gate.confidence is not None:
            error = f"error {1 - gate.confidence:.3g} / {divisor}"
            lines.append(f"  corrected by Holm's method for the session's other gates: {error}")
        marks = {"test": test, "caution": caution, "message": "\n".join(lines)}
        self._verdicts.append(verdict.model_copy(update=marks))
        return self._verdicts[-1]

    def weigh(self, gate: Gate, divisor: int = 1) -> VerdictRecord:
        """Build and evaluate what a gate names, and judge it, without a record of it.

        Args:
            gate: The gate.
            divisor: Divides the error that its confidence allows.
        """
        if gate.by is not None:
            own = self.sliced(gate).own_divisors()
            return self._weigh_slices(gate, {name: divisor * number for name, number in own.items()})
        results = self.measured(gate)
        gate = gate.corrected(divisor)
        decision = self._evaluator.ends.decide(gate, results)
        if decision is None and any(result.stopped for result in results.values()):
            results = {name: self.evaluate(name, gate.on) for name in results}
            decision = self._evaluator.ends.decide(gate, results)
        told: dict[str, Any] = {
            "experiment": self.experiment.name,
            "examples": self._shown_examples(gate.on) if results else {},
            "ladder": self._measured_on(gate.on),
            "seed": self.experiment.seed,
            "max_errors": self.settings.max_errors,
        }
        if decision is not None:
            parts = {name: result.part(decision.examples) for name, result in results.items()}
            return judge_decided(gate, parts, decision, **told)
        return judge(gate, results, self._rates(gate), **told)

    def measured(self, gate: Gate) -> dict[str, StageResult]:
        """The evaluations that a gate needs, by stage; some may have ended early, when all their gates were decided."""
        gate.check_names(self.experiment.stages, self.experiment.metrics)
        if not self.settings.frozen:
            require_answers(self.experiment, gate.score_stages, functools.partial(self._is_measured, on=gate.on))
        partly = self._evaluator.ends.knows(gate)
        return {name: self._evaluated(name, gate.on, partly=partly) for name in sorted(gate.score_stages)}

    def _rates(self, gate: Gate) -> dict[str, float | None]:
        """Build what a gate names the traces of: its stages' bootstrap rates."""
        bootstraps = {name: self.build(name).record.bootstrap for name in sorted(gate.build_stages)}
        return {name: None if kept is None else kept.rate for name, kept in bootstraps.items()}

    def slices(self, gate: Gate) -> tuple[Slice, ...]:
        """The slices that a gate with ``by=`` is judged in; nothing is built or measured.

        Raises:
            GateError: If there is no such field or slice function, or it makes no slices.
        """
        return self._slicings.of_gate(gate)

    def sliced(self, gate: Gate) -> SlicedGate:
        """Build and evaluate what a gate with ``by=`` names: the gate in its slices, to be judged."""
        if gate not in self._sliced:
            slices = self.slices(gate)
            results, rates = self.measured(gate), self._rates(gate)
            self._sliced[gate] = SlicedGate(
                gate, slices, results, rates, seed=self.experiment.seed, max_errors=self.settings.max_errors
            )
        return self._sliced[gate]

    def _weigh_slices(self, gate: Gate, divisors: Mapping[str, int]) -> VerdictRecord:
        return self.sliced(gate).judge(
            divisors,
            experiment=self.experiment.name,
            examples=self._shown_examples(gate.on),
            ladder=self._measured_on(gate.on),
        )

    def _shown_examples(self, on: Split) -> ShownExamples:
        return ShownExamples(self._context.described_examples(on), functools.partial(self._replies_to, on))

    def _replies_to(self, on: Split, example: str, stage: str) -> list[Reply]:
        result = self._evaluator.results.get((stage, on))
        return [] if result is None else self._evaluator.replies(result, [example]).get(example, [])

    def replies(self, result: StageResult, examples: Collection[str]) -> dict[str, list[Reply]]:
        """The LM's answers for some examples of an evaluation, by example, as they came.

        Args:
            result: The evaluation.
            examples: Ids of examples; those whose answers are not kept are left out.
        """
        return self._evaluator.replies(result, examples)

    def demo_note(self, gate: Gate) -> str:
        """Build what a gate names, and explain that examples it is judged on stand in a prompt; empty if none do."""
        stages = dict.fromkeys(needed for stage in scored_stages(gate) for needed in self.experiment.closure(stage))
        for name in stages:
            if name not in self._held:
                self._held[name] = self._split_index.held(examples_in(self.build(name).program))
        return demo_note(gate, {name: self._held[name] for name in stages}, self._split_index) if stages else ""

    def _measured_on(self, on: Split) -> list[StageResult]:
        """The evaluations of the ladder's stages on a split, the lowest stage first."""
        results = self._evaluator.results
        found = (results.get((stage, on)) for stage in self.experiment.stages)
        return [result for result in found if result is not None and result.n]

    # --- the record --------------------------------------------------------------------------------------------------

    def caution(self, text: str) -> None:
        """Note something that readers of the figures should know."""
        self._context.caution(text)

    def record(self, *, verdicts_from: int = 0) -> ExperimentRecord:
        """All that this session knows of the experiment so far.

        Args:
            verdicts_from: Leave out so many verdicts, the earliest.
        """
        records, results = self._builder.records, tuple(self._evaluator.results.values())
        return ExperimentRecord(
            name=self.experiment.name,
            **self._context.declared(),
            stopped=self._context.stopped,
            stages=tuple(records[name] for name in self.experiment.stages if name in records),
            results=results,
            slices=self._slicings.records(result.on for result in results),
            verdicts=tuple(self._verdicts[verdicts_from:]),
            cautions=tuple(self._context.cautions),
            metric=self._metric,
            tested_programs=self._watch.tested_programs,
        )
