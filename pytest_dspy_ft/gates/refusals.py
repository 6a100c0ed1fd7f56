"""Gates that are written correctly and cannot be meant: they can only pass or only fail, or ask for `0.88%`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import cast

from pytest_dspy_ft.gates.expression import (
    Comparison,
    Condition,
    Extreme,
    Negative,
    Node,
    Number,
    Operation,
    Quantity,
    quantities,
)
from pytest_dspy_ft.gates.ranges import Certainty, cancels, certainty

_ONE_PERCENT = Fraction(1, 100)
_LONGEST_SHOWN = 60
_SOUND = {
    "score": ">= 80%",
    "bootstrap_rate": ">= 60%",
    "errors": "<= 5%",
    "unparsed": "<= 5%",
    "cost": "<= 0.002",
    "tokens": "<= 500",
    "latency": "<= 2",
}
"""What might well be asked of each measure."""
_ALWAYS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}
_NEVER = {">=": "as high as", ">": "above", "<=": "as low as", "<": "below"}
_WITH_EQUALITY: dict[Comparison, Comparison] = {">": ">=", "<": "<="}


def refusal(condition: Condition, comparison: int) -> tuple[int, str] | None:
    """Find what speaks against judging a condition at all.

    Args:
        condition: A condition whose syntax and units are right.
        comparison: Where its comparison stands in the expression.

    Returns:
        (position, problem): the place to point at, and what is wrong and would be right. None for a sound gate.
    """
    certain = certainty(condition)
    if certain is not None:
        constant = next((side for side in (condition.left, condition.right) if isinstance(side, Number)), None)
        place = comparison if constant is None else constant.start
        return place, f"this gate can only {certain}: {_reason(condition, comparison, certain)}"
    number = _slipped_percent(condition)
    if number is None:
        return None
    meant = number.value * 100
    likely = f"`{float(100 * meant):g}%`" if meant >= _ONE_PERCENT else "a share such as `88%`"
    return number.start, (
        f"`{number.written}` is less than one in a hundred, which nearly any score reaches; did you mean {likely}? "
        "(`88%` and `0.88` are one number)"
    )


# --- Gates that can only pass, or only fail --------------------------------------------------------------------------


def _reason(condition: Condition, comparison: int, certain: Certainty) -> str:
    """Why a gate can only pass or fail, and what would be right."""
    if cancels(condition):
        names = " and ".join(f"`{quantity}`" for quantity in condition.quantities)
        verb = "cancels" if len(condition.quantities) == 1 else "cancel"
        return f"{names} {verb} out, whatever is measured; compare two stages, as in `finetuned >= baseline`"
    sides = (condition.left, condition.right)
    for quantity, limit in (sides, sides[::-1]):
        if isinstance(quantity, Quantity) and not quantities(limit):
            is_left = quantity is condition.left
            return f"{_range(quantity)}; {_better_limit(condition, quantity, limit, is_left, certain)}"
    left, right = _texts(condition, comparison)
    how = f"always {_ALWAYS[condition.comparison]}" if certain == "pass" else f"never {_NEVER[condition.comparison]}"
    advice = _with_equality(condition, certain) or (
        "compare with what can be missed, as in `finetuned >= baseline + 5%`"
        if certain == "pass"
        else "compare with what can be reached"
    )
    return f"{left} is {how} {right}, whatever is measured; {advice}"


def _range(quantity: Quantity) -> str:
    if quantity.share:
        kind = "a score" if quantity.is_score else "a share"
        return f"`{quantity}` is {kind}, which lies in 0% to 100%"
    return f"`{quantity}` is never below 0"


def _better_limit(condition: Condition, quantity: Quantity, limit: Node, is_left: bool, certain: Certainty) -> str:
    wants_more = condition.upward == is_left
    if certain == "fail":
        ends = "at most 100% can be asked for" if wants_more else "at least 0 can be asked for"
        return _with_equality(condition, certain) or ends
    sound = _SOUND["score" if quantity.is_score else quantity.measure]
    if sound.startswith("<") and isinstance(limit, Number) and limit.value == 1 and not limit.written.endswith("%"):
        return f"`{limit.written}` is 100%; did you mean `1%`?"
    return f"ask for what can be missed, as in `{quantity} {sound}`"


def _with_equality(condition: Condition, certain: Certainty) -> str:
    """The advice to allow equality where a gate that can only fail would then be a sound one."""
    allowed = _WITH_EQUALITY.get(condition.comparison)
    if certain == "pass" or allowed is None or certainty(replace(condition, comparison=allowed)) is not None:
        return ""
    return f"did you mean `{allowed}`?"


def _texts(condition: Condition, comparison: int) -> tuple[str, str]:
    """Both sides as they are written, or their names where that is long."""
    sides = condition.expression[:comparison], condition.expression[comparison + len(condition.comparison) :]
    left, right = (" ".join(side.split()) for side in sides)
    return (
        f"`{left}`" if len(left) <= _LONGEST_SHOWN else "the left side",
        f"`{right}`" if len(right) <= _LONGEST_SHOWN else "the right side",
    )


# --- 0.88% where 88% is meant ----------------------------------------------------------------------------------------


def _slipped_percent(condition: Condition) -> Number | None:
    """A share below 1 %, with a decimal point and a ``%``, as the least that a score must reach.

    A distance (``a >= b + 0.5%``, ``a - b >= 0.5%``) and the most that a share may reach (``unparsed(a) <= 0.5%``) may
    well be that small.
    """
    sides = (condition.left, condition.right)
    larger, smaller = sides if condition.upward else sides[::-1]
    if not _is_level(larger):
        return None
    if isinstance(larger, Operation) and larger.operator == "/" and _is_slipped(larger.right):
        return cast(Number, larger.right)
    return next((number for number in _least(smaller) if _is_slipped(number)), None)


def _is_level(node: Node) -> bool:
    """True for what goes up and down with scores: made of scores and shares of traces, nothing subtracted."""
    named = quantities(node)
    return bool(named) and all(q.is_score or q.measure == "bootstrap_rate" for q in named) and not _subtracts(node)


def _subtracts(node: Node) -> bool:
    match node:
        case Negative():
            return True
        case Operation(operator, left, right):
            return operator == "-" or _subtracts(left) or _subtracts(right)
        case Extreme(_, arguments):
            return any(map(_subtracts, arguments))
        case _:
            return False


def _least(node: Node) -> Iterator[Number]:
    """The numbers that a side is or is a multiple of, or chooses from by ``min()`` or ``max()``."""
    match node:
        case Extreme(_, arguments):
            for argument in arguments:
                yield from _least(argument)
        case _:
            yield from _factors(node)


def _factors(node: Node) -> Iterator[Number]:
    match node:
        case Number():
            yield node
        case Operation("*", left, right):
            yield from _factors(left)
            yield from _factors(right)
        case Operation("/", left, _):
            yield from _factors(left)
        case _:
            pass


def _is_slipped(node: Node) -> bool:
    return (
        isinstance(node, Number)
        and 0 < node.value < _ONE_PERCENT
        and node.written.endswith("%")
        and "." in node.written
    )
