"""Baselines: what one session measured, in a file to commit and to hold later sessions against.

A baseline holds scores, not predictions: ids, the score of every example in every stage, what was built, and what the
scores depend on (LM, metric, sizes, versions). What a further metric says of a stage stands there as a stage of its
own, ``f1(finetuned)``. Stages stand in the order of the ladder and examples in the order of their ids, one a line, so
that a diff shows what changed and nothing else. Saved again with nothing changed, the file
stays as it is, byte for byte.

Programs that a test evaluated by itself are no stages and are not kept: nothing names them from one session to the
next.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pytest_dspy_ft.checksums import CHECKSUM
from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.records.base import SPLITS, Kind, Record, Split, first_problem
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.pairing import Copy, by_copy
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.redaction import redact

FORMAT: Literal["pytest-dspy-ft baseline"] = "pytest-dspy-ft baseline"
BASELINE_VERSION = 2
"""2 has a checksum for each experiment; 1, without them, is read too."""

_AND_METRIC = "-"

SavedScore = Annotated[float, Field(ge=0.0, le=1.0)] | Literal["unparsed", "error"]
"""A score in [0, 1]; or why the example scored 0 without one."""


class SavedStage(Record):
    """A stage as it was built."""

    name: str
    kind: Kind
    lm: str
    key: str
    """What the stage was built from, as in the store."""
    digest: str
    """What came out."""


class SavedEvaluation(Record):
    """One stage measured on one split; its scores stand with the examples."""

    stage: str
    on: Split
    key: str
    """What the evaluation is filed under in the store."""
    n: int
    score: float
    """The mean score, for people: it is checked against the examples when the file is read."""

    @property
    def metric_key(self) -> str:
        """What a further metric's scores are filed under, beside the evaluation; empty for the experiment's own."""
        return self.key.partition(_AND_METRIC)[2]

    def found_in(self, load: Callable[[str, Split, str], StageResult | None]) -> StageResult | None:
        """The evaluation that it was saved from, given how one is loaded: by stage, split and key."""
        metric, _, rest = self.stage.rpartition("(")
        result = load(rest.removesuffix(")"), self.on, self.key.partition(_AND_METRIC)[0])
        if result is None or not metric:
            return result
        return _seen_by(result, metric) if metric in result.metrics else None


class SavedExample(Record):
    """One example and its score in every stage measured on its split."""

    id: str
    inputs: str
    """The id of its inputs alone: the same inputs under another id have another label."""
    scores: dict[str, SavedScore]

    def score(self, stage: str) -> float:
        """The example's score in a stage; 0 where it could not be read or measured."""
        score = self.scores[stage]
        return 0.0 if isinstance(score, str) else score


class SavedExperiment(Record):
    """One experiment, as a session measured it."""

    name: str
    lm: str
    metric: str
    """Fingerprint of the metric."""
    seed: int
    sizes: dict[Split, int]
    stages: tuple[SavedStage, ...]
    evaluations: tuple[SavedEvaluation, ...]
    examples: dict[Split, tuple[SavedExample, ...]]
    """By split, in the order of their ids; an example that stands twice in a split has two lines."""

    def stage(self, name: str) -> SavedStage | None:
        """The stage of this name, if it was built."""
        return next((s for s in self.stages if s.name == name), None)

    def evaluation(self, stage: str, on: Split) -> SavedEvaluation | None:
        """The evaluation of one stage on one split, if there was one."""
        return next((e for e in self.evaluations if e.stage == stage and e.on == on), None)


class Baseline(Record):
    """A baseline file's content."""

    format: Literal["pytest-dspy-ft baseline"] = FORMAT
    schema_version: int = BASELINE_VERSION
    created: str
    """ISO 8601, UTC."""
    versions: dict[str, str]
    experiments: tuple[SavedExperiment, ...]

    def experiment(self, name: str) -> SavedExperiment | None:
        """The experiment of this name, if it is in the file."""
        return next((e for e in self.experiments if e.name == name), None)


# --- from records ----------------------------------------------------------------------------------------------------


def baseline_of(run: RunRecord) -> Baseline:
    """The part of a session that a baseline keeps."""
    experiments = sorted(run.experiments, key=lambda experiment: experiment.name)
    return Baseline(
        created=run.created,
        versions=dict(sorted(run.versions.items())),
        experiments=tuple(map(saved_experiment, experiments)),
    )


def saved_experiment(record: ExperimentRecord) -> SavedExperiment:
    """The part of an experiment's record that a baseline keeps."""
    results = [
        seen
        for split in SPLITS
        for stage in record.order
        if (result := record.result(stage, split)) is not None and result.n and not result.stopped
        for seen in (result, *(_seen_by(result, name) for name in result.metrics))
    ]
    built = {build.stage: build for build in record.stages if build.status in ("built", "loaded")}
    measured = list(dict.fromkeys(result.on for result in results))
    return SavedExperiment(
        name=record.name,
        lm=record.lm,
        metric=record.metric,
        seed=record.seed,
        sizes=record.sizes,
        stages=tuple(
            SavedStage(name=name, kind=b.kind, lm=b.lm or record.lm, key=b.key, digest=b.digest)
            for name in record.order
            if (b := built.get(name)) is not None
        ),
        evaluations=tuple(SavedEvaluation(stage=r.stage, on=r.on, key=r.key, n=r.n, score=r.score) for r in results),
        examples={split: _examples(record, [r for r in results if r.on == split]) for split in measured},
    )


def _seen_by(result: StageResult, name: str) -> StageResult:
    """An evaluation as a further metric sees it, under a name and a key that no other has."""
    key = f"{result.key}{_AND_METRIC}{result.metrics[name]}"
    return result.metric(name).model_copy(update={"stage": f"{name}({result.stage})", "key": key})


def _examples(record: ExperimentRecord, results: Sequence[StageResult]) -> tuple[SavedExample, ...]:
    """The examples of a split with their scores, copies of one example each for itself."""
    rows: dict[Copy, dict[str, SavedScore]] = {}
    for result in results:
        for key, example in by_copy(result.examples).items():
            rows.setdefault(key, {})[result.stage] = _score(example)
    return tuple(
        SavedExample(id=key[0], inputs=_inputs_id(record, key[0]), scores=scores)
        for key, scores in sorted(rows.items(), key=itemgetter(0))
    )


def _inputs_id(record: ExperimentRecord, identity: str) -> str:
    """The id of an example's inputs, as ``experiment.example_id.inputs_id`` has it; empty where they are not known."""
    content = record.examples.get(identity)
    return "" if content is None else digest_json({"inputs": content.inputs}, length=len(identity))


def _score(example: ExampleResult) -> SavedScore:
    # Repeats can be right in part and still hold one that was not: then the score says more than the outcome.
    return example.score if example.outcome == "scored" or example.score > 0 else example.outcome


def still_holds(then: SavedExperiment, result: StageResult) -> bool:
    """True where a result is the very one that was saved: one of the same key may have been measured anew since."""
    today = {key: _score(example) for key, example in by_copy(result.examples).items()}
    saved = by_copy(row for row in then.examples.get(result.on, ()) if result.stage in row.scores)
    return today == {key: row.scores[result.stage] for key, row in saved.items()}


# --- files -----------------------------------------------------------------------------------------------------------


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        RecordError: It is not there, is no baseline, is damaged, or has a schema version that is not known here.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"there is no file {path}; make it with --dspy-save-baseline={path.name}") from None
    except OSError as problem:
        raise RecordError(f"cannot read {path}: {problem.strerror or problem}") from None
    except ValueError as problem:  # no JSON, or no UTF-8
        raise RecordError(f"{path} is no JSON, so it is no baseline: {problem}{_conflict(path)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RecordError(f'{path} is no baseline: it lacks "format": "{FORMAT}"; --dspy-save-baseline writes one')
    version = content.get("schema_version")
    if version not in (1, BASELINE_VERSION):
        newer = isinstance(version, int) and version > BASELINE_VERSION
        fix = "a newer pytest-dspy-ft wrote it: upgrade, or save it anew" if newer else "save it anew"
        raise RecordError(
            f"{path} has schema version {version!r}; this pytest-dspy-ft reads version {BASELINE_VERSION}; {fix}"
        )
    if version == BASELINE_VERSION:
        _check_checksums(path, content)
    try:
        baseline = Baseline.model_validate({**content, "schema_version": BASELINE_VERSION})
    except ValidationError as problem:
        raise RecordError(f"{path} is damaged: {first_problem(problem)}; save it anew") from None
    for name, trouble in _inconsistencies(baseline):
        raise RecordError(f"{path} is damaged: experiment {name!r}: {trouble}; save it anew")
    return baseline


def _check_checksums(path: Path, content: dict[str, Any]) -> None:
    """Hold each experiment against its checksum, and take the checksums out.

    Raises:
        RecordError: One does not match.
    """
    experiments = content.get("experiments")
    for saved in experiments if isinstance(experiments, list) else ():
        if isinstance(saved, dict) and saved.pop(CHECKSUM, None) != _checksum(saved):
            raise RecordError(
                f"{path}: experiment {saved.get('name')!r} is not as it was saved: its checksum does not match (a "
                "hand, a merge or damage changed it); restore the file, or save it anew"
            )


def _checksum(saved: dict[str, Any]) -> str:
    return digest_json(_whole(saved))


def _conflict(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return " (it holds the marks of a merge conflict)" if "\n<<<<<<< " in text or text.startswith("<<<<<<< ") else ""


def _inconsistencies(baseline: Baseline) -> Iterator[tuple[str, str]]:
    """Contradictions that cannot stand in a file that was written in one piece: merges and hands leave such."""
    names = [experiment.name for experiment in baseline.experiments]
    yield from ((name, "it stands there twice") for name in dict.fromkeys(names) if names.count(name) > 1)
    for experiment in baseline.experiments:
        for evaluation in experiment.evaluations:
            rows = [e for e in experiment.examples.get(evaluation.on, ()) if evaluation.stage in e.scores]
            mean = sum(row.score(evaluation.stage) for row in rows) / max(len(rows), 1)
            if len(rows) != evaluation.n or abs(mean - evaluation.score) > 1e-9:
                yield (
                    experiment.name,
                    f"stage {evaluation.stage!r} on {evaluation.on} says n = {evaluation.n}, score {evaluation.score}, "
                    f"but its examples are {len(rows)} with a mean of {mean}",
                )


def write_baseline(path: Path, baseline: Baseline) -> bool:
    """Write a baseline in one step: a kill at any moment leaves either the old file or the new one.

    Returns:
        False where the file already says the same of every experiment: then it is left alone.

    Raises:
        RecordError: The file cannot be written.
    """
    target = path.resolve()  # a link is kept, what it leads to is replaced
    with contextlib.suppress(RecordError):
        if read_baseline(target).experiments == baseline.experiments:
            return False
    try:
        write_atomically(target, rendered(baseline))
    except OSError as problem:
        raise RecordError(f"cannot write {path}: {problem.strerror or problem}") from None
    return True


def rendered(baseline: Baseline) -> str:
    """The text of a baseline file: JSON, one fact a line."""
    content = json.loads(redact(baseline.model_dump_json()))
    for saved in content["experiments"]:
        saved[CHECKSUM] = _checksum(saved)
    return "".join(_lines(content, depth=0)) + "\n"


# Objects of these lists stand on one line each; all else is spread out.
_ONE_LINE = frozenset({"stages", "evaluations", *SPLITS})


def _lines(value: Any, depth: int, key: str = "") -> Iterator[str]:
    inner = " " * (depth + 1)
    if isinstance(value, dict) and value:
        yield "{"
        for index, (name, item) in enumerate(value.items()):
            yield f"{',' if index else ''}\n{inner}{_compact(name)}: "
            yield from _lines(item, depth + 1, name)
        yield f"\n{' ' * depth}}}"
    elif isinstance(value, list) and value:
        yield "["
        for index, item in enumerate(value):
            yield f"{',' if index else ''}\n{inner}"
            yield from [_compact(item)] if key in _ONE_LINE else _lines(item, depth + 1)
        yield f"\n{' ' * depth}]"
    else:
        yield _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(_whole(value), ensure_ascii=False, allow_nan=False)


def _whole(value: Any) -> Any:
    """Whole scores as whole numbers: 1, not 1.0."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
