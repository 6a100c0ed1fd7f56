"""Reading gates: from ``"finetuned >= 93% * teacher"`` to a tree, or to an error that points at what is wrong.

Nothing is ever handed to ``eval`` or to Python's own parser: the grammar has a dozen tokens, ``88%`` is not Python,
and a parser of our own can point at the place that is wrong. (One on `ast` needs the same tokens, and the same checks
of their order before it, for the same messages: it was longer.)

Grammar::

    gate    = sum ( ">=" | ">" | "<=" | "<" ) sum
    sum     = product { ( "+" | "-" ) product }
    product = factor { ( "*" | "/" ) factor }
    factor  = "-" factor | number [ "%" ] | stage | call | "(" sum ")"
    call    = ( "min" | "max" ) "(" sum { "," sum } ")" | of | quantile "(" of ")"
    of      = ( measure | metric ) "(" stage ")"

Sides are checked for their units as they are read: a score cannot be compared with tokens, and ``finetuned >= 88`` is
an error that suggests ``88%``. A number without a stage takes the unit of what it is compared with or added to. What
is read is then held against `pytest_dspy_ft.gates.refusals`: a gate that can only pass tests nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from fractions import Fraction
from typing import cast

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.expression import (
    FUNCTIONS,
    MEASURES,
    PURE,
    QUANTILES,
    RESERVED,
    SPREAD,
    Comparison,
    Condition,
    Extreme,
    Negative,
    Number,
    Operation,
    Quantity,
    exact_value,
)
from pytest_dspy_ft.gates.refusals import refusal
from pytest_dspy_ft.gates.sides import Side, bounds_of, unit_of_product
from pytest_dspy_ft.gates.tokens import Token, complain, tokenize
from pytest_dspy_ft.text import did_you_mean

_MAX_LENGTH = 1000
_MAX_DEPTH = 50
_LARGEST = Fraction(10) ** 15
_SMALLEST = 1 / _LARGEST

_COMPARISONS: tuple[Comparison, ...] = (">=", ">", "<=", "<")
_WRONG_COMPARISON = {
    "=>": "`=>` is not a comparison; write `>=`",
    "=<": "`=<` is not a comparison; write `<=`",
    "=": "`=` is not a comparison; write `>=` (or `<=`)",
    "==": "a measured mean almost never equals a number exactly, so `==` cannot be a gate; write `>=` or `<=`, "
    "or a gate for each bound",
    "!=": "a measured mean differs from nearly every number, so `!=` cannot be a gate; write `>` or `<`",
    "<>": "`<>` cannot be a gate; write `>` or `<`",
}
_MISPLACED = {
    "**": "there are no powers in a gate; write the product, as in `a * a`",
    "//": "there is no integer division in a gate; write `/`",
    "%": "`%` can only follow a number, as in `88%`",
}
_CONNECTIVES = ("and", "or", "not", "&&", "||")
_NOT_AN_OPERATOR = {
    **_MISPLACED,
    **{word: f"`{word}`: a gate is one comparison; write a dspy_gate for each" for word in _CONNECTIVES},
    ")": "this `)` closes nothing",
    ",": "a comma can only stand between the arguments of min() and max(); decimals are written 0.88",
}


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
    parser = _Parser(expression)
    try:
        return parser.condition()
    except GateError:
        for name, position in parser.metrics.items():  # read as a further metric, and likely a measure misspelt
            if hint := did_you_mean(name, FUNCTIONS, quoted="`{}`".format):
                raise complain(expression, position, no_function(name, hint)) from None
        raise


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = tokenize(expression)
        self.index = 0
        self.depth = 0
        self.positions: dict[str, int] = {}
        self.metrics: dict[str, int] = {}

    def wrong(self, position: int, problem: str) -> GateError:
        return complain(self.expression, position, problem)

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def at(self, *texts: str) -> bool:
        return self.token.text in texts

    def take(self) -> Token:
        token = self.token
        self.index += token.kind != "end"
        return token

    # grammar

    def condition(self) -> Condition:
        left = self.sum()
        comparison = self.take_comparison()
        right = self.sum()
        if self.token.compares:
            problem = "a gate is one comparison, this is a second one; write a dspy_gate for each"
            raise self.wrong(self.token.start, problem)
        if self.token.kind != "end":
            raise self.no_operator()
        both = self.unify(left, right, comparison.start, "compare")
        if both.constant is not None:
            problem = "no stage is named, so there is nothing to test; write e.g. `finetuned >= 88%`"
            raise self.wrong(left.start, problem)
        text = cast(Comparison, comparison.text)
        shares = both.bounds is not None
        condition = Condition(
            self.expression, text, left.node, right.node, both.dimension, shares, self.positions, self.metrics
        )
        refused = refusal(condition, comparison.start)
        if refused is not None:
            raise self.wrong(*refused)
        return condition

    def take_comparison(self) -> Token:
        token = self.take()
        if token.text in _COMPARISONS:
            return token
        if token.kind == "end":
            raise self.wrong(token.start, "there is no comparison; write e.g. `... >= 88%`")
        if token.compares:
            problem = _WRONG_COMPARISON.get(token.text, f"`{token.text}` is not a comparison; use >=, >, <= or <")
            raise self.wrong(token.start, problem)
        self.index -= 1
        raise self.no_operator()

    def no_operator(self) -> GateError:
        """The error about a token that stands where an operator should."""
        before, token = (
            "(...)" if token.text in ("(", ")") else token.text
            for token in self.tokens[self.index - 1 : self.index + 1]
        )
        problem = f"an operator is missing before `{self.token.text}`; to multiply, write `{before} * {token}`"
        return self.wrong(self.token.start, _NOT_AN_OPERATOR.get(self.token.text, problem))

    def sum(self) -> Side:
        return self.chain(self.product, ("+", "-"))

    def product(self) -> Side:
        return self.chain(self.factor, ("*", "/"))

    def chain(self, operand: Callable[[], Side], operators: tuple[str, str]) -> Side:
        left, length = self.nested(operand, self.token), 0
        while self.at(*operators):
            operator = self.take()
            length += 1
            if length > _MAX_DEPTH:
                raise self.wrong(operator.start, f"more than {_MAX_DEPTH} terms in a row")
            left = self.combine(operator, left, self.nested(operand, self.token))
        return left

    def nested(self, read: Callable[[], Side], token: Token) -> Side:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.wrong(token.start, f"the expression is nested more than {_MAX_DEPTH // 2} deep")
        side = read()
        self.depth -= 1
        return side

    def factor(self) -> Side:
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
            side = self.nested(self.factor, token)
            bounds = side.bounds and (-side.bounds[1], -side.bounds[0])
            constant = None if side.constant is None else -side.constant
            return Side(Negative(side.node), token.start, side.dimension, constant, side.percent, bounds)
        if token.kind == "end":
            raise self.wrong(token.start, "the expression ends where a stage, a number or `(` should follow")
        problem = f"a stage, a number or `(` should stand here, not `{token.text}`"
        raise self.wrong(token.start, _MISPLACED.get(token.text, problem))

    def close(self, opening: Token) -> None:
        if self.token.kind == "end":
            raise self.wrong(opening.start, "this `(` is never closed")
        if self.token.compares:
            problem = "a comparison cannot stand inside parentheses; a gate is one comparison"
            raise self.wrong(self.token.start, problem)
        if not self.at(")"):
            raise self.no_operator()
        self.take()

    def number(self, token: Token) -> Side:
        percent = token.text.endswith("%")
        mantissa, _, exponent = token.text.rstrip("%").replace("_", "").lower().partition("e")
        if len(mantissa) > 20 or len(exponent) > 3:
            raise self.wrong(token.start, "this number is too long to mean anything")
        value = Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)
        if value and not _SMALLEST <= value <= _LARGEST:
            raise self.wrong(token.start, "this number is too far from anything that could be measured")
        value /= 100 if percent else 1
        return Side(Number(value, token.text, token.start), token.start, constant=value, percent=percent)

    def name(self, token: Token) -> Side:
        calls = self.at("(")
        if token.text in _CONNECTIVES:
            raise self.wrong(token.start, _NOT_AN_OPERATOR[token.text])
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
        if token.text in QUANTILES:
            return self.quantile(token)
        side = self.quantity(token.text, self.stage_of(token), token.start)
        if token.text not in MEASURES:
            self.metrics.setdefault(token.text, token.start)
        return side

    def stage_of(self, function: Token) -> Token:
        """The stage in the parentheses of a function, whose opening one was read."""
        argument = self.take()
        if argument.kind != "name" or argument.text in RESERVED or not self.at(")"):
            where = argument.start if argument.kind != "name" or argument.text in RESERVED else self.token.start
            form = f"takes the name of one stage, as in `{function.text}(finetuned)`"
            if function.text in MEASURES:
                raise self.wrong(where, f"{function.text}() {form}")
            problem = f"`{function.text}` is none of {', '.join(FUNCTIONS)}; a further metric of the experiment {form}"
            raise self.wrong(function.start, problem)
        self.take()
        return argument

    def quantile(self, name: Token) -> Side:
        """Such as ``p95(latency(finetuned))``, whose opening parenthesis was read."""
        of = f"{', '.join(SPREAD[:-1])} or {SPREAD[-1]} of a stage"
        form = f"{name.text}() takes {of}, as in `{name.text}(latency(finetuned))`"
        measure = self.take()
        if measure.text not in SPREAD or not self.at("("):
            raise self.wrong(measure.start, form)
        self.take()
        stage = self.stage_of(measure)
        if not self.at(")"):
            raise self.wrong(self.token.start, form)
        self.take()
        return self.quantity(measure.text, stage, name.start, QUANTILES[name.text])

    def quantity(self, measure: str, stage: Token, start: int | None = None, percentile: int = 0) -> Side:
        quantity = Quantity(measure, stage.text, percentile)
        self.positions.setdefault(stage.text, stage.start)
        bounds = (Fraction(0), Fraction(1)) if quantity.share else None
        return Side(quantity, stage.start if start is None else start, quantity.dimension, bounds=bounds)

    def extreme(self, name: Token, opening: Token) -> Side:
        if self.at(")"):
            raise self.wrong(self.token.start, f"{name.text}() needs something to choose from")
        first = self.sum()
        sides, total = [first], first
        while self.at(","):
            self.take()
            sides.append(self.sum())
            total = self.unify(total, sides[-1], sides[-1].start, "compare")
            if total.bounds is not None:
                choose = min if name.text == "min" else max
                ranges = [side.range for side in sides if side.range is not None]
                total = replace(total, bounds=(choose(low for low, _ in ranges), choose(high for _, high in ranges)))
        self.close(opening)
        node = Extreme(name.text, tuple(side.node for side in sides))
        constant = exact_value(node) if total.constant is not None else None
        return Side(node, name.start, total.dimension, constant, any(s.percent for s in sides), total.bounds)

    def combine(self, operator: Token, left: Side, right: Side) -> Side:
        node = Operation(operator.text, left.node, right.node)
        bounds = bounds_of(operator.text, left, right)
        if operator.text in ("+", "-"):
            both = self.unify(left, right, operator.start, "add" if operator.text == "+" else "subtract")
            dimension = both.dimension
            bounds = both.bounds and bounds
        elif operator.text == "*":
            dimension = unit_of_product(left.dimension, right.dimension, 1)
        else:
            if right.constant == 0:
                raise self.wrong(right.start, "this divides by zero")
            dimension = unit_of_product(left.dimension, right.dimension, -1)
        constant = None
        if left.constant is not None and right.constant is not None:
            constant, bounds = exact_value(node), None
            if constant and not _SMALLEST <= abs(constant) <= _LARGEST:
                raise self.wrong(operator.start, "this number is too far from anything that could be measured")
        return Side(node, left.start, dimension, constant, left.percent or right.percent, bounds)

    def unify(self, left: Side, right: Side, position: int, verb: str) -> Side:
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


def no_function(name: str, hint: str, metrics: Collection[str] = ()) -> str:
    """What to say of a function that there is none of, with the choices."""
    named = ", ".join(metrics) or f"none yet; Experiment(metrics={{{name!r}: ...}}) adds one"
    return f"there is no function `{name}`{hint}\n    functions: {', '.join(FUNCTIONS)}\n    metrics: {named}"
