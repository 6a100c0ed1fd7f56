"""A gate's text as tokens, and errors that point into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from pytest_dspy_ft.errors import GateError

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?(?:\s*%)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<operator>[<>=!~]+|\*\*|//|&&|\|\||[-+*/%(),])"
)
_LIKENESS = {"≥": ">=", "≤": "<=", "−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "≠": "!="}


def complain(expression: str, position: int, problem: str) -> GateError:
    """An error about an expression, with a caret under the place."""
    shown = "".join(" " if c.isspace() else c for c in expression)
    return GateError(f"dspy_gate: {problem}\n    {shown}\n    {' ' * min(position, len(shown))}^")


@dataclass(frozen=True)
class Token:
    """A number with its ``%`` if it has one, a name, an operator, or the end of the text."""

    kind: Literal["number", "name", "operator", "end"]
    text: str
    start: int

    @property
    def compares(self) -> bool:
        """True for a comparison, also one that is written wrongly."""
        return self.kind == "operator" and self.text[0] in "<>=!~"


def tokenize(expression: str) -> list[Token]:
    """All tokens, and the end as the last.

    Raises:
        GateError: A character belongs to none.
    """
    position, tokens = 0, []
    while position < len(expression):
        if expression[position].isspace():
            position += 1
            continue
        found = _TOKEN.match(expression, position)
        if found is None:
            raise complain(expression, position, _strange(expression[position]))
        kind = cast(Literal["number", "name", "operator"], found.lastgroup)
        tokens.append(Token(kind, "".join(found.group().split()), position))
        position = found.end()
    return [*tokens, Token("end", "", len(expression.rstrip()))]


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
