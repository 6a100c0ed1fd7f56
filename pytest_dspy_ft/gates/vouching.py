"""Whether a session's record vouches for a built stage: were all of its gates judged there, and did they pass?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.expression import quantities
from pytest_dspy_ft.gates.parser import parse
from pytest_dspy_ft.records.gate import UnjudgedGate, VerdictRecord
from pytest_dspy_ft.records.receipt import ShippedGate
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord


def objections(run: RunRecord, experiment: str, stage: str, build: tuple[str, str]) -> list[str]:
    """Why a record does not vouch for a build; empty where it does.

    Args:
        run: The record of a session.
        experiment: The experiment's name.
        stage: The stage's.
        build: Key and content hash of the build.
    """
    record = next((e for e in run.experiments if e.name == experiment), None)
    if record is None:
        return [f"the session has no experiment {experiment!r}"]
    return list(_objections(run, record, stage, build))


def gates_of(run: RunRecord, experiment: str, stage: str) -> tuple[ShippedGate, ...]:
    """The gates of a record that name a stage, and what became of them."""
    record = next((e for e in run.experiments if e.name == experiment), None)
    if record is None:
        return ()
    judged = [_judged(verdict, record, stage) for verdict in record.verdicts if _names(verdict.expression, stage)]
    lacking = [_unjudged(gate, record, stage) for gate in _lacking(run, record, stage)]
    return (*judged, *lacking)


def _objections(run: RunRecord, record: ExperimentRecord, stage: str, build: tuple[str, str]) -> Iterator[str]:
    yield from (f"the session is not the whole story: {reason}" for reason in run.incomplete)
    yield from (f"the session was not the whole: {reason}" for reason in run.partial if reason not in run.incomplete)
    if record.limit is not None and not any("--dspy-limit" in reason for reason in run.partial):
        yield f"the session looked at no more than {record.limit} examples (--dspy-limit)"
    if record.stopped and record.stopped not in run.incomplete:
        yield f"the session was stopped: {record.stopped}"
    known = next((b for b in record.stages if b.stage == stage), None)
    if known is None or (known.key, known.digest) != build:
        what = "has no build of it" if known is None or not known.digest else "has another build of it"
        yield f"the session {what}: {_short(known.digest) if known else 'none'}, and the store's is {_short(build[1])}"
    for result in record.results:
        if result.stage != stage:
            continue
        if result.build and result.build != build[1]:
            yield f"its evaluation on {result.on} measured another build ({_short(result.build)})"
        if result.stopped:
            yield f"its evaluation on {result.on} ended early, before all {result.planned_n} examples were measured"
    gates = [gate for gate in gates_of(run, record.name, stage) if gate.required]
    if not gates:
        yield f"no gate of stage {stage!r} was judged"
    for gate in gates:
        if gate.verdict is None:
            yield f"gate {_title(gate)} was not judged: {gate.note or 'nobody says why'}"
        elif gate.verdict != "PASS":
            yield f"gate {_title(gate)} is {gate.verdict}: {gate.observed}"


def _lacking(run: RunRecord, record: ExperimentRecord, stage: str) -> Iterator[UnjudgedGate]:
    for gate in run.unjudged:
        if gate.experiment in ("", record.name) and _names(gate.expression, stage):
            yield gate


def _judged(verdict: VerdictRecord, record: ExperimentRecord, stage: str) -> ShippedGate:
    return ShippedGate(
        expression=verdict.expression,
        on=verdict.on,
        by=verdict.by,
        verdict=verdict.verdict,
        required=is_gate_of(verdict.expression, stage, record.order),
        observed=verdict.observed,
        margin=verdict.margin,
        interval=verdict.interval,
        confidence=verdict.confidence,
        test=verdict.test,
        note=verdict.caution,
    )


def _unjudged(gate: UnjudgedGate, record: ExperimentRecord, stage: str) -> ShippedGate:
    return ShippedGate(
        expression=gate.expression,
        on=gate.on,
        by=gate.by,
        verdict=None,
        required=is_gate_of(gate.expression, stage, record.order),
        test=gate.test,
        note=gate.reason,
    )


def is_gate_of(expression: str, stage: str, order: Sequence[str]) -> bool:
    """True for a gate that asks something of a stage: it stands on the left, or is the highest that the gate names.

    ``finetuned >= prompt_optimized`` is a gate of ``finetuned``: where it fails, that is no word against the prompt.
    """
    if (stages := _stages(expression)) is None:
        return True
    left, named = stages
    if stage in left:
        return True
    places = {name: order.index(name) if name in order else len(order) for name in named}
    return stage in named and places[stage] == max(places.values())


def _names(expression: str, stage: str) -> bool:
    stages = _stages(expression)
    return stages is None or stage in stages[1]


def _stages(expression: str) -> tuple[set[str], set[str]] | None:
    """The stages on the left side, and all that are named; None for what a version wrote that knows more gates."""
    try:
        condition = parse(expression)
    except GateError:
        return None
    left = {quantity.stage for quantity in quantities(condition.left)}
    return left, left | {quantity.stage for quantity in quantities(condition.right)}


def _title(gate: ShippedGate) -> str:
    return f"`{gate.expression}`{f' by {gate.by}' if gate.by else ''} on {gate.on}"


def _short(digest: str) -> str:
    return digest[:12] or "none"
