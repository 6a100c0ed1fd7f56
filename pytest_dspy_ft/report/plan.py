"""A plan as lines of text: every step, why it is needed, what it would take and what that figure rests on."""

from __future__ import annotations

from collections.abc import Callable

from pytest_dspy_ft.records.plan import Plan, PlanStep
from pytest_dspy_ft.report.tables import Column, laid_out
from pytest_dspy_ft.text import duration, grouped

UNKNOWN = "?"


def render_plan(plan: Plan, *, unicode: bool = True) -> list[str]:
    """The lines of a plan. Figures that cannot be known are ``?``; a total that lacks one says so.

    Args:
        plan: The plan of one experiment.
        unicode: False for a terminal that shows ASCII only.
    """
    steps = plan.steps
    count = {action: sum(step.action == action for step in steps) for action in ("build", "measure", "score", "load")}
    head = [
        f"lm {plan.lm}",
        f"{count['build']} to build, {count['measure']} to measure, "
        + (f"{count['score']} to score again from stored outputs, " if count["score"] else "")
        + f"{count['load']} in the store",
        _total("LM calls", plan.total("lm_calls"), lambda n: f"{grouped(n)} LM calls"),
        _total("tokens", plan.total("tokens"), lambda n: f"{grouped(n)} tokens"),
        _total("cost", plan.total("cost"), lambda n: f"${n:,.2f}"),
        _total("time", plan.total("seconds"), duration),
    ]
    lines = [(" · " if unicode else " - ").join(head), ""]
    problems = [f"(!) {problem}" for problem in plan.problems]
    if problems and not steps:
        return [*lines, *problems]
    if not steps:
        return [*lines, "no test within reach needs a stage; --dspy-stage says how far up the ladder to go"]
    heads = ("step", "because", "LM calls", "tokens", "time", "cost", "estimated from")
    columns = zip(*map(_row, steps), strict=True)
    words = ("step", "because", "estimated from")
    table = laid_out(
        [Column(head, cells, "left" if head in words else "right") for head, cells in zip(heads, columns, strict=True)]
    )
    return [*lines, *table, *([""] if problems else []), *problems]


def _row(step: PlanStep) -> list[str]:
    what = f"{step.action} {step.stage}" + (f" on {step.on}" if step.on else "")
    if step.action == "load":
        return [what, ", ".join(filter(None, ("in the store", step.why))), "", "", "", "", ""]
    calls = _known(step.lm_calls, grouped)
    return [
        what,
        step.why,
        f"<={calls}" if step.at_most and step.lm_calls else calls,
        _known(step.tokens, grouped),
        _known(step.seconds, lambda n: duration(n) if n else "0"),
        _known(step.cost, lambda n: f"${n:,.2f}" if not n or n >= 0.01 else "<$0.01"),
        step.basis,
    ]


def _known(value: float | None, write: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else write(value)


def _total(what: str, total: tuple[float, bool], write: Callable[[float], str]) -> str:
    value, known = total
    if known:
        return f"about {write(value)}"
    return f"at least {write(value)}" if value else f"{what} not known"
