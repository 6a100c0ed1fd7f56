"""Reading gates: from ``"finetuned >= 93% * teacher"`` to a tree, or to an error that points at what is wrong.

Nothing is ever handed to ``eval`` or to Python's own parser: the grammar has a dozen tokens, ``88%`` is not Python,
and a parser of our own can point at the place that is wrong.

Grammar::

    gate    = sum ( ">=" | ">" | "<=" | "<" ) sum
    sum     = product { ( "+" | "-" ) product }
    product = factor { ( "*" | "/" ) factor }
    factor  = "-" factor | number [ "%" ] | stage | call | "(" sum ")"
    call    = ( "min" | "max" ) "(" sum { "," sum } ")" | measure "(" stage ")"

Sides are checked for their units as they are read: a score cannot be compared with tokens, and ``finetuned >= 88`` is
an error that suggests ``88%``. A number without a stage takes the unit of what it is compared with or added to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.expression import (
    MEASURES,
    PURE,
    RESERVED,
    Condition,
    Dimension,
    Extreme,
    Negative,
    Node,
    Number,
    Operation,
    Quantity,
    describe,
    exactly,
    unmeasured,
)

_MAX_LENGTH = 1000
_MAX_DEPTH = 50
_LARGEST = Fraction(10) ** 15
_SMALLEST = 1 / _LARGEST


def complain(expression: str, position: int, problem: str) -> GateError:
    """An error about an expression, with a caret under the place."""
    shown = "".join(" " if c.isspace() else c for c in expression)
    return GateError(f"dspy_gate: {problem}\n    {shown}\n    {' ' * min(position, len(shown))}^")


# -- reading ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<operator>[<>=!~]+|\*\*|//|&&|\|\||[-+*/%(),])"
)
_LIKENESS = {"≥": ">=", "≤": "<=", "−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "≠": "!="}
_WRONG_COMPARISON = {
    "=>": "`=>` is not a comparison; write `>=`",
    "=<": "`=<` is not a comparison; write `<=`",
    "=": "`=` is not a comparison; write `>=` (or `<=`)",
    "==": "a measured mean almost never equals a number exactly, so `==` cannot be a gate; write `>=` or `<=`, "
    "or a gate for each bound",
    "!=": "a measured mean differs from nearly every number, so `!=` cannot be a gate; write `>` or `<`",
    "<>": "`<>` cannot be a gate; write `>` or `<`",
}
_WRONG_OPERATOR = {
    "**": "there are no powers in a gate; write the product, as in `a * a`",
    "//": "there is no integer division in a gate; write `/`",
}
_CONNECTIVES = {"and", "or", "not", "&&", "||"}


@dataclass(frozen=True)
class _Token:
    kind: Literal["number", "name", "operator", "end"]
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class _Side:
    """A piece of an expression and what is known of its value before anything is measured."""

    node: Node
    start: int
    dimension: Dimension = PURE
    constant: Fraction | None = None
    percent: bool = False
    bounds: tuple[Fraction, Fraction] | None = None
    """Range of a value made of scores and shares; None for ratios, and for what has a unit."""

    @property
    def words(self) -> str:
        if self.constant is not None:
            return "a percentage" if self.percent else "a number"
        if self.dimension == PURE:
            if isinstance(self.node, Quantity):
                return "a score" if self.node.measure == "score" else "a share"
            return "a ratio" if self.bounds is None else "a combination of scores"
        return describe(self.dimension)


def parse(expression: str) -> Condition:
    """Read a gate.

    Args:
        expression: Such as ``"prompt_optimized >= baseline + 10%"``.

    Returns:
        The condition, its units checked. Stage names are not checked: the stages are not known here.

    Raises:
        GateError: It is not a gate; the message says why, where, and what would be right.
    """
    if not isinstance(expression, str):
        raise GateError(
            f"dspy_gate: the expression must be a string such as 'finetuned >= 88%', not {type(expression).__name__}"
        )
    if not expression.strip():
        raise GateError("dspy_gate: the expression is empty; write a comparison such as 'finetuned >= 88%'")
    if len(expression) > _MAX_LENGTH:
        raise GateError(f"dspy_gate: the expression has {len(expression)} characters; at most {_MAX_LENGTH} are read")
    return _Parser(expression).condition()


class _Parser:
    def __init__(self, expression: str):
        self.expression = expression
        self.tokens = list(self._tokenize())
        self.index = 0
        self.depth = 0
        self.positions: dict[str, int] = {}

    # tokens

    def _tokenize(self) -> list[_Token]:
        text, position, tokens = self.expression, 0, []
        while position < len(text):
            if text[position].isspace():
                position += 1
                continue
            found = _TOKEN.match(text, position)
            if found is None:
                raise self.wrong(position, self._strange(text[position]))
            kind = found.lastgroup
            assert kind in ("number", "name", "operator")
            tokens.append(_Token(kind, found.group(), position, found.end()))  # type: ignore[arg-type]
            position = found.end()
        return [*tokens, _Token("end", "", len(text.rstrip()), len(text))]

    @staticmethod
    def _strange(character: str) -> str:
        if character in _LIKENESS:
            return f"`{character}` is not understood; write `{_LIKENESS[character]}`"
        if character == "$":
            return "`$` is not understood; costs are in US dollars already: write the number alone, as in `0.002`"
        if character in "\"'`":
            return f"quotes ({character}) are not understood; write stage names as they are"
        if character in "[]{}":
            return f"`{character}` is not understood; group with parentheses ( )"
        return f"{character!r} is not understood"

    def wrong(self, position: int, problem: str) -> GateError:
        return complain(self.expression, position, problem)

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def at(self, *texts: str) -> bool:
        return self.token.kind == "operator" and self.token.text in texts

    def take(self) -> _Token:
        token = self.token
        self.index += token.kind != "end"
        return token

    # grammar

    def condition(self) -> Condition:
        left = self.sum()
        comparison = self.take_comparison()
        right = self.sum()
        token = self.token
        if token.kind == "operator" and token.text[0] in "<>=!~":
            raise self.wrong(token.start, "a gate is one comparison, this is a second one; write a dspy_gate for each")
        if token.kind != "end":
            raise self.wrong(token.start, self._no_operator(token))
        both = self.meet(left, right, comparison.start, "compare")
        if both.constant is not None:
            raise self.wrong(
                left.start, "no stage is named, so there is nothing to test; write e.g. `finetuned >= 88%`"
            )
        text = comparison.text
        assert text in (">=", ">", "<=", "<")
        return Condition(
            self.expression,
            text,  # type: ignore[arg-type]
            left.node,
            right.node,
            both.dimension,
            both.bounds is not None,
            self.positions,
        )

    def take_comparison(self) -> _Token:
        token = self.token
        if self.at(">=", ">", "<=", "<"):
            return self.take()
        if token.kind == "end":
            raise self.wrong(token.start, "there is no comparison; write e.g. `... >= 88%`")
        if token.kind == "operator" and token.text[0] in "<>=!~":
            problem = _WRONG_COMPARISON.get(token.text, f"`{token.text}` is not a comparison; use >=, >, <= or <")
            raise self.wrong(token.start, problem)
        raise self.wrong(token.start, self._no_operator(token))

    def _no_operator(self, token: _Token) -> str:
        before = self.tokens[self.index - 1]
        if token.text in _CONNECTIVES:
            return f"`{token.text}`: a gate is one comparison; write a dspy_gate for each"
        if token.text in _WRONG_OPERATOR:
            return _WRONG_OPERATOR[token.text]
        if token.text == "%":
            return "`%` can only follow a number, as in `88%`"
        if token.text == ")":
            return "this `)` closes nothing"
        if token.text == ",":
            return "a comma can only stand between the arguments of min() and max(); decimals are written 0.88"
        if token.kind in ("name", "number") or token.text == "(":
            times = f"{before.text if before.text != ')' else '(...)'} * {token.text if token.text != '(' else '(...)'}"
            if before.text == "%":
                times = f"{self.tokens[self.index - 2].text}% * {token.text if token.text != '(' else '(...)'}"
            if before.kind == "name" and token.text == "(":
                return f"`{before.text}` is not a function"
            return f"an operator is missing before `{token.text}`; to multiply, write `{times}`"
        return f"`{token.text}` is not understood here"

    def sum(self) -> _Side:
        return self.chain(self.product, ("+", "-"))

    def product(self) -> _Side:
        return self.chain(self.factor, ("*", "/"))

    def chain(self, operand: Callable[[], _Side], operators: tuple[str, str]) -> _Side:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.wrong(self.token.start, f"the expression is nested more than {_MAX_DEPTH // 2} deep")
        left, length = operand(), 0
        while self.at(*operators):
            operator = self.take()
            length += 1
            if length > _MAX_DEPTH:
                raise self.wrong(operator.start, f"more than {_MAX_DEPTH} terms in a row")
            left = self.combine(operator, left, operand())
        self.depth -= 1
        return left

    def factor(self) -> _Side:
        token = self.take()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "name":
            return self.name(token)
        if token.text == "(":
            inside = self.sum()
            self.close(token)
            return inside
        if token.text == "-":
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise self.wrong(token.start, f"the expression is nested more than {_MAX_DEPTH // 2} deep")
            side = self.factor()
            self.depth -= 1
            bounds = side.bounds and (-side.bounds[1], -side.bounds[0])
            constant = None if side.constant is None else -side.constant
            return _Side(Negative(side.node), token.start, side.dimension, constant, side.percent, bounds)
        if token.kind == "end":
            raise self.wrong(token.start, "the expression ends where a stage, a number or `(` should follow")
        if token.text == "%":
            raise self.wrong(token.start, "`%` can only follow a number, as in `88%`")
        if token.text in _WRONG_OPERATOR:
            raise self.wrong(token.start, _WRONG_OPERATOR[token.text])
        raise self.wrong(token.start, f"a stage, a number or `(` should stand here, not `{token.text}`")

    def close(self, opening: _Token) -> None:
        if not self.at(")"):
            if self.token.kind == "end":
                raise self.wrong(opening.start, "this `(` is never closed")
            if self.token.text[0] in "<>=!~":
                raise self.wrong(
                    self.token.start, "a comparison cannot stand inside parentheses; a gate is one comparison"
                )
            raise self.wrong(self.token.start, self._no_operator(self.token))
        self.take()

    def number(self, token: _Token) -> _Side:
        mantissa, _, exponent = token.text.replace("_", "").lower().partition("e")
        if len(mantissa) > 20 or len(exponent) > 3:
            raise self.wrong(token.start, "this number is too long to mean anything")
        value = Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)
        if value and not _SMALLEST <= value <= _LARGEST:
            raise self.wrong(token.start, "this number is too far from anything that could be measured")
        percent = self.at("%")
        if percent:
            self.take()
            value /= 100
        return _Side(Number(value), token.start, constant=value, percent=percent)

    def name(self, token: _Token) -> _Side:
        calls = self.at("(")
        if token.text in _CONNECTIVES:
            raise self.wrong(token.start, f"`{token.text}`: a gate is one comparison; write a dspy_gate for each")
        if not calls:
            if token.text in RESERVED:
                form = "stage, ..." if token.text in ("min", "max") else "stage"
                raise self.wrong(
                    token.start,
                    f"`{token.text}` is a word of the gate language: write `{token.text}({form})`; "
                    "a stage of this name cannot be gated, so give the stage another name",
                )
            return self.quantity("score", token)
        opening = self.take()
        if token.text in ("min", "max"):
            return self.extreme(token, opening)
        if token.text not in MEASURES:
            choices = ", ".join([*MEASURES, "min", "max"])
            raise self.wrong(token.start, f"there is no function `{token.text}`; there are {choices}")
        argument = self.take()
        if argument.kind != "name" or argument.text in RESERVED or not self.at(")"):
            where = argument.start if argument.kind != "name" or argument.text in RESERVED else self.token.start
            raise self.wrong(where, f"{token.text}() takes the name of one stage, as in `{token.text}(finetuned)`")
        self.take()
        return self.quantity(token.text, argument, token.start)

    def quantity(self, measure: str, stage: _Token, start: int | None = None) -> _Side:
        quantity = Quantity(measure, stage.text)
        self.positions.setdefault(stage.text, stage.start)
        bounds = (Fraction(0), Fraction(1)) if quantity.share else None
        return _Side(quantity, stage.start if start is None else start, quantity.dimension, bounds=bounds)

    def extreme(self, name: _Token, opening: _Token) -> _Side:
        if self.at(")"):
            raise self.wrong(self.token.start, f"{name.text}() needs something to choose from")
        first = self.sum()
        sides, total = [first], first
        while self.at(","):
            self.take()
            sides.append(self.sum())
            total = self.meet(total, sides[-1], sides[-1].start, "compare")
            if total.bounds is not None:
                total = self.pick(name.text, total, sides)
        self.close(opening)
        node = Extreme(name.text, tuple(side.node for side in sides))
        constant = exactly(node, unmeasured) if total.constant is not None else None
        return _Side(node, name.start, total.dimension, constant, any(s.percent for s in sides), total.bounds)

    @staticmethod
    def pick(name: str, total: _Side, sides: list[_Side]) -> _Side:
        choose = min if name == "min" else max
        ranges = [side.bounds or (side.constant or Fraction(0),) * 2 for side in sides]
        bounds = (choose(low for low, _ in ranges), choose(high for _, high in ranges))
        return _Side(total.node, total.start, total.dimension, bounds=bounds)

    # units

    def combine(self, operator: _Token, left: _Side, right: _Side) -> _Side:
        node = Operation(operator.text, left.node, right.node)
        if operator.text in ("+", "-"):
            both = self.meet(left, right, operator.start, "add" if operator.text == "+" else "subtract")
            bounds = both.bounds and self.reach(operator.text, left, right)
            dimension = both.dimension
        elif operator.text == "*":
            dimension = _sum(left.dimension, right.dimension, 1)
            bounds = self.reach("*", left, right)
        else:
            if right.constant == 0:
                raise self.wrong(right.start, "this divides by zero")
            dimension = _sum(left.dimension, right.dimension, -1)
            bounds = self.reach("/", left, right) if right.constant is not None else None
        constant = None
        if left.constant is not None and right.constant is not None:
            constant, bounds = exactly(node, unmeasured), None
            if constant and not _SMALLEST <= abs(constant) <= _LARGEST:
                raise self.wrong(operator.start, "this number is too far from anything that could be measured")
        return _Side(node, left.start, dimension, constant, left.percent or right.percent, bounds)

    @staticmethod
    def reach(operator: str, left: _Side, right: _Side) -> tuple[Fraction, Fraction] | None:
        a, b = (side.bounds or (side.constant is not None and (side.constant,) * 2) for side in (left, right))
        if not a or not b:
            return None
        if operator == "+":
            return a[0] + b[0], a[1] + b[1]
        if operator == "-":
            return a[0] - b[1], a[1] - b[0]
        ends = [x * y if operator == "*" else x / y for x in a for y in b]
        return min(ends), max(ends)

    def meet(self, left: _Side, right: _Side, position: int, verb: str) -> _Side:
        """Check that two sides can be compared or added; the result carries their common unit."""
        if left.constant is not None and right.constant is not None:
            return left
        if left.constant is None and right.constant is None:
            if left.dimension != right.dimension:
                raise self.wrong(position, f"cannot {verb} {left.words} and {right.words}: their units differ")
            return left if left.bounds is None else right
        constant, other = (left, right) if left.constant is not None else (right, left)
        value = constant.constant
        assert value is not None
        if other.dimension != PURE:
            if constant.percent and value:
                raise self.wrong(
                    constant.start, f"cannot {verb} a percentage and {other.words}; for a part, multiply by it"
                )
        elif other.bounds is not None and not constant.percent and abs(value) > max(map(abs, other.bounds)):
            low, high, number = (f"{float(x):g}" for x in (*other.bounds, value))
            hint = f"did you mean `{number}%`?" if abs(value) <= 100 else "write a percentage such as `88%`"
            share = other.words.replace("share", "share, not a count: it")
            raise self.wrong(constant.start, f"{number} is out of reach: {share} lies in {low} to {high}; {hint}")
        return other


def _sum(left: Dimension, right: Dimension, sign: int) -> Dimension:
    a, b, c = (x + sign * y for x, y in zip(left, right, strict=True))
    return a, b, c
