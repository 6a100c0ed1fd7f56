"""Gates that can only pass or only fail, and `0.88%` for 88 %: refused with reason, place and remedy."""

from __future__ import annotations

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from tests.gates.cases import caret


@pytest.mark.parametrize(
    ("expression", "fragments", "at"),
    [
        ("a >= a", ("`a` cancels out", "`finetuned >= baseline`"), ">= a"),
        ("a <= a", ("`a` cancels out",), "<= a"),
        ("a - a >= 0", ("`a` cancels out",), "0"),
        ("a - b >= a - b", ("`a` and `b` cancel out",), ">= a - b"),
        ("a * b <= b * a", ("`a` and `b` cancel out",), "<= b * a"),
        ("max(a, a) >= a", ("can only pass",), ">= a"),
        ("0 * a >= 0", ("`a` cancels out",), "0"),
        ("tokens(a) <= tokens(a)", ("`tokens(a)` cancels out",), "<= tokens(a)"),
        ("errors(a) <= 1", ("a share, which lies in 0% to 100%", "`1` is 100%; did you mean `1%`?"), "1"),
        ("1.0 >= unparsed(a)", ("`1.0` is 100%; did you mean `1%`?",), "1.0 >= unparsed(a)"),
        ("errors(a) <= 100%", ("ask for what can be missed, as in `errors(a) <= 5%`",), "100%"),
        ("unparsed(a) <= 250%", ("as in `unparsed(a) <= 5%`",), "250%"),
        ("unparsed(a) >= 0%", ("can only pass",), "0%"),
        ("a >= 0", ("`a` is a score, which lies in 0% to 100%", "as in `a >= 80%`"), "0"),
        ("a > -1%", ("as in `a >= 80%`",), "> -1%"),
        ("0% <= a", ("as in `a >= 80%`",), "0% <= a"),
        ("a <= 1", ("as in `a >= 80%`",), "1"),
        ("bootstrap_rate(a) >= 0", ("as in `bootstrap_rate(a) >= 60%`",), "0"),
        ("cost(a) >= 0", ("`cost(a)` is never below 0", "`cost(a) <= 0.002`"), "0"),
        ("tokens(a) >= 0", ("`tokens(a) <= 500`",), "0"),
        ("latency(a) > -1", ("`latency(a) <= 2`",), "> -1"),
        ("2 * a <= 200%", ("`2 * a` is always at most `200%`", "can be missed"), "200%"),
        ("max(a, b) >= a", ("`max(a, b)` is always at least `a`",), ">= a"),
        ("min(a, b) <= a", ("`min(a, b)` is always at most `a`",), "<= a"),
        ("a <= max(b, a)", ("is always at most",), "<= max(b, a)"),
        ("max(a, b) >= min(b, c)", ("is always at least",), ">= min(b, c)"),
        ("max(a, b) >= (a + b) / 2", ("is always at least",), ">= (a + b) / 2"),
        ("a + b >= a", ("is always at least",), ">= a"),
        ("a >= a * 50%", ("is always at least",), ">= a * 50%"),
        ("a >= a - 5%", ("cancels out",), ">= a - 5%"),
        ("cost(a) <= 2 * cost(a)", ("is always at most",), "<= 2 * cost(a)"),
        ("a - b >= -100%", ("is always at least",), ">= -100%"),
        ("a * b <= a", ("is always at most",), "<= a"),
        ("a * a <= a", ("is always at most",), "<= a"),
        ("a + unparsed(a) <= 1", ("is always at most",), "1"),
        ("a / (1 + b) >= 0", ("is always at least",), "0"),
        ("max(a, 50%) >= 40%", ("is always at least",), "40%"),
    ],
)
def test_can_only_pass(expression, fragments, at):
    with pytest.raises(GateError) as error:
        Gate.parse(expression)
    assert "this gate can only pass: " in str(error.value)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert caret(error.value) == at


@pytest.mark.parametrize(
    ("expression", "fragments", "at"),
    [
        ("a >= 101%", ("which lies in 0% to 100%", "at most 100% can be asked for"), "101%"),
        ("a > 1", ("did you mean `>=`?",), "1"),
        ("a > 100%", ("did you mean `>=`?",), "100%"),
        ("a < 0", ("did you mean `<=`?",), "0"),
        ("errors(a) < 0%", ("did you mean `<=`?",), "0%"),
        ("errors(a) <= -1%", ("at least 0 can be asked for",), "<= -1%"),
        ("cost(a) < 0", ("`cost(a)` is never below 0; did you mean `<=`?",), "0"),
        ("a > a", ("`a` cancels out",), "> a"),
        ("a >= a + 5%", ("`a` cancels out",), ">= a + 5%"),
        ("a > max(a, b)", ("`a` is never above `max(a, b)`", "did you mean `>=`?"), "> max(a, b)"),
        ("a > b + 100%", ("did you mean `>=`?",), "> b + 100%"),
        ("a - b >= 101%", ("is never as high as `101%`", "compare with what can be reached"), "101%"),
        ("min(a, 50%) >= 60%", ("is never as high as `60%`",), "60%"),
        ("2 * a * b / (a + b) >= 101% * 1", ("is never as high as",), ">= 101% * 1"),
        ("a / b < 0", ("is never below `0`", "did you mean `<=`?"), "0"),
    ],
)
def test_can_only_fail(expression, fragments, at):
    with pytest.raises(GateError) as error:
        Gate.parse(expression)
    assert "this gate can only fail: " in str(error.value)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert caret(error.value) == at


@pytest.mark.parametrize(
    ("expression", "meant", "at"),
    [
        ("finetuned >= 0.88%", "did you mean `88%`?", "0.88%"),
        ("finetuned >= 0.88 %", "did you mean `88%`?", "0.88 %"),
        ("finetuned > .9%", "did you mean `90%`?", ".9%"),
        ("0.875% <= finetuned", "did you mean `87.5%`?", "0.875% <= finetuned"),
        ("finetuned >= 0.05%", "did you mean `5%`?", "0.05%"),
        ("finetuned >= 0.001%", "a share such as `88%`?", "0.001%"),
        ("student >= 0.93% * teacher", "did you mean `93%`?", "0.93% * teacher"),
        ("student >= teacher * 0.93%", "did you mean `93%`?", "0.93%"),
        ("student / teacher >= 0.93%", "did you mean `93%`?", "0.93%"),
        ("student / 0.93% >= teacher", "did you mean `93%`?", "0.93% >= teacher"),
        ("min(a, b) >= 0.8%", "did you mean `80%`?", "0.8%"),
        ("(a + b) / 2 >= 0.8%", "did you mean `80%`?", "0.8%"),
        ("a >= max(b, 0.88%)", "did you mean `88%`?", "0.88%)"),
        ("bootstrap_rate(a) >= 0.6%", "did you mean `60%`?", "0.6%"),
    ],
)
def test_a_share_a_hundred_times_too_small(expression, meant, at):
    with pytest.raises(GateError) as error:
        Gate.parse(expression)
    assert meant in str(error.value)
    assert "less than one in a hundred" in str(error.value)
    assert caret(error.value) == at


@pytest.mark.parametrize(
    "expression",
    [
        "a >= 88%",
        "a >= 100%",
        "a < 100%",
        "a > 0",
        "a <= 0%",
        "a <= 99.9%",
        "unparsed(a) <= 0%",
        "errors(a) < 1",
        "bootstrap_rate(a) >= 100%",
        "cost(a) <= 0",
        "latency(a) > 0",
        "a >= b",
        "a > a * b",
        "a - b >= c - b",
        "a >= 2 * a - b",
        "a > a * 50%",
        "a - b >= -99%",
        "max(a, b) > a",
        "max(a, b) >= a + 1%",
        "max(a, b) > min(a, b)",
        "min(a, b) >= b",
        "a + errors(b) <= 1",
        "a + errors(a) <= 1",
        "a + unparsed(a) >= 1",
        "a / b >= 0",
        "a / a >= 1",
        "(a - b) / (1 - b) <= 1",
        "2 * a * b / (a + b) >= c",
        "cost(a) <= 2 * cost(b)",
        "tokens(a) <= tokens(b) + tokens(a) * 50%",
        "0 * a + b >= 40%",
        # shares that small which are meant
        "unparsed(a) <= 0.5%",
        "errors(a) <= 0.88%",
        "a <= 0.5%",
        "a >= b + 0.5%",
        "a >= b - 0.5%",
        "a + 0.5% >= b",
        "a - b >= 0.5%",
        "a - b >= 0.5% * b",
        "a >= b - 0.5% * b",
        "a >= 99.5% * b",
        "a >= 1.5%",
        "a >= 1%",
        "a >= 0.0088",
        "a / max(b, 0.1%) >= 2",
        "cost(a) <= 0.9% * cost(b)",
    ],
)
def test_sound_gates_are_read(expression):
    assert Gate.parse(expression).stages
