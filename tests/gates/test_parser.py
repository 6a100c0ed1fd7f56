"""Reading gates: what can be written, and what each refusal says and points at."""

from __future__ import annotations

import random

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from tests.gates.cases import caret


class TestParse:
    @pytest.mark.parametrize(
        "expression",
        [
            "baseline >= 65%",
            "baseline >= 0.65",
            "baseline>=.65",
            "baseline >= 65 %",
            "  baseline >= 65.5%  ",
            "65% <= baseline",
            "prompt_optimized >= baseline + 10%",
            "student_finetuned >= 93% * teacher_optimized",
            "cost(student) <= cost(teacher) / 15",
            "cost(student) <= 1e-4",
            "tokens(a) <= 1_000",
            "latency(a) < 2",
            "better_together >= max(prompt_optimized, finetuned) + 10%",
            "min(a) > -b",
            "bootstrap_rate(a) >= 60%",
            "errors(a) <= 0",
            "a / b >= 2",
            "(a - b) / (1 - b) >= 50%",
            "2 * a * b / (a + b) >= c",
            "100 * a >= 88",
            "a + b >= 150%",
            "1000 * cost(a) <= 2",
            "cost(a) / tokens(a) <= 0.001",
            "tokens(a) + 10 <= tokens(b) * 90%",
            "max(tokens(a), 100) <= tokens(b)",
            "a >= --b",
            "a\n>=\tb",
            "größe >= é",
        ],
    )
    def test_valid(self, expression):
        gate = Gate.parse(expression)
        assert gate.stages
        assert gate.expression == expression.strip()

    @pytest.mark.parametrize(
        ("expression", "fragment", "at"),
        [
            ("finetuned => 88%", "write `>=`", "=> 88%"),
            ("finetuned =< 88%", "write `<=`", "=< 88%"),
            ("finetuned = 88%", "write `>=`", "= 88%"),
            ("finetuned == 88%", "almost never equals", "== 88%"),
            ("finetuned != 88%", "cannot be a gate", "!= 88%"),
            ("finetuned >== 88%", "use >=, >, <= or <", ">== 88%"),
            ("finetuned ≥ 88%", "write `>=`", "≥ 88%"),
            ("finetuned >= 88", "did you mean `88%`?", "88"),
            ("finetuned >= baseline + 10", "did you mean `10%`?", "10"),
            ("finetuned - baseline >= 10", "did you mean `10%`?", "10"),
            ("max(a, 88) >= b", "did you mean `88%`?", "88) >= b"),
            ("min(a, b) >= 88", "did you mean `88%`?", "88"),
            ("(a + b) / 2 >= 88", "did you mean `88%`?", "88"),
            ("a >= 880", "such as `88%`", "880"),
            ("errors(a) <= 3", "not a count", "3"),
            ("60% <= baseline <= 80%", "a dspy_gate for each", "<= 80%"),
            ("a >= (b >= c)", "one comparison", ">= c)"),
            ("a >= b and c >= d", "a dspy_gate for each", "and c >= d"),
            ("88% >= 70%", "no stage is named", "88% >= 70%"),
            ("finetuned", "there is no comparison", ""),
            ("finetuned >=", "the expression ends", ""),
            (">= 88%", "a stage, a number", ">= 88%"),
            ("a >= b c", "`b * c`", "c"),
            ("a >= 93% b", "`93% * b`", "b"),
            ("a >= 2(b)", "`2 * (...)`", "(b)"),
            ("a% >= b", "only follow a number", "% >= b"),
            ("a >= 10 %%", "only follow a number", "%"),
            ("a >= (b", "never closed", "(b"),
            ("a >= b)", "closes nothing", ")"),
            ("a >= 0,88", "decimals are written 0.88", ",88"),
            ("a >= foo(b + c)", "is none of cost, tokens, latency", "foo(b + c)"),
            ("tokns(a) <= 500", "did you mean `tokens`?", "tokns(a) <= 500"),
            ("p95(a) <= 2", "p95() takes latency, cost or tokens of a stage", "a) <= 2"),
            ("p95(errors(a)) <= 2", "p95() takes latency, cost or tokens of a stage", "errors(a)) <= 2"),
            ("p95(latency(a), b) <= 2", "p95() takes latency, cost or tokens of a stage", ", b) <= 2"),
            ("p95(latency(a + b)) <= 2", "the name of one stage", "+ b)) <= 2"),
            ("p95(latency(a)) <= 50%", "percentage", "50%"),
            ("p95(latency(a)) >= tokens(a)", "their units differ", ">= tokens(a)"),
            ("f1(a) >= 88", "did you mean `88%`?", "88"),
            ("a >= b ** 2", "no powers", "** 2"),
            ("a >= b // 2", "integer division", "// 2"),
            ("a >= b / 0", "divides by zero", "0"),
            ("a >= b / (1 - 1)", "divides by zero", "1 - 1)"),
            ("a >= min()", "something to choose from", ")"),
            ("min >= 88%", "word of the gate language", "min >= 88%"),
            ("cost >= 1", "write `cost(stage)`", "cost >= 1"),
            ("cost(a + b) <= 1", "the name of one stage", "+ b) <= 1"),
            ("cost(a, b) <= 1", "the name of one stage", ", b) <= 1"),
            ("cost() <= 1", "the name of one stage", ") <= 1"),
            ("cost(min) <= 1", "the name of one stage", "min) <= 1"),
            ("tokens(a) >= b", "cannot compare tokens and a score", ">= b"),
            ("a + tokens(b) >= c", "cannot add a score and tokens", "+ tokens(b) >= c"),
            ("cost(a) <= latency(b)", "US dollars and seconds", "<= latency(b)"),
            ("cost(a) / tokens(a) <= b", "US dollars per tokens", "<= b"),
            ("tokens(a) + 10% <= tokens(b)", "multiply", "10% <= tokens(b)"),
            ("cost(a) <= $0.002", "US dollars already", "$0.002"),
            ("a >= '88%'", "quotes", "'88%'"),
            ("a.score >= 88%", "'.' is not understood", ".score >= 88%"),
            ("a[0] >= 88%", "parentheses", "[0] >= 88%"),
            ("a >= 1e999", "too far", "1e999"),
            ("a >= " + "9" * 60, "too long", "9" * 60),
            ("a >= 1e15 * 1e15 * b", "too far", "* 1e15 * b"),
            ("a >= " + "(" * 90 + "b" + ")" * 90, "nested", None),
            ("a >= " + "-" * 90 + "b", "nested", None),
            ("a >= " + "+".join(["b"] * 90), "in a row", None),
        ],
    )
    def test_invalid(self, expression, fragment, at):
        with pytest.raises(GateError) as error:
            Gate.parse(expression)
        assert fragment in str(error.value)
        if at is not None:
            assert caret(error.value) == at

    @pytest.mark.parametrize("stage", ["class", "None", "print", "ﬁne", "x²", "名"])
    def test_stage_names_are_not_pythons(self, stage):
        assert Gate.parse(f"{stage} >= 88 %").stages == {stage}

    @pytest.mark.parametrize(
        "expression", ["a >= 1 (a)", "a >= 0x1", "a >= 1j", "a >= 1if", "a >= 1 # b", "a >= \\\n1", "a\0 >= 1"]
    )
    def test_other_python_is_refused(self, expression):
        with pytest.raises(GateError, match=r"\^"):
            Gate.parse(expression)

    @pytest.mark.parametrize("expression", ["", "   ", "a" * 2000 + " >= 1", None, 0.88, ["a >= 1"]])
    def test_not_an_expression(self, expression):
        with pytest.raises(GateError):
            Gate.parse(expression)

    @pytest.mark.parametrize(
        "expression",
        [
            "__import__('os').system('true') >= 1",
            "__import__(os) >= 1",
            "exec(a) >= 1",
            "(lambda: 1)() >= a",
            "a if b else c >= 1",
            "[a for a in b] >= 1",
            "a := 3 >= 1",
            "a; b >= 1",
            "{a} >= 1",
        ],
    )
    def test_is_never_evaluated(self, expression, monkeypatch):
        for name in ("eval", "exec", "compile"):
            monkeypatch.setattr(f"builtins.{name}", lambda *_: pytest.fail("evaluated"))
        with pytest.raises(GateError):
            Gate.parse(expression).check_names(["a", "b"], ["f1"])

    def test_dunder_names_are_only_names(self):
        gate = Gate.parse("__import__ >= 50%")
        with pytest.raises(GateError, match="no stage `__import__`"):
            gate.check_names(["baseline"])

    def test_garbage_is_a_gate_error_or_a_gate(self):
        """Whatever is thrown at it: an answer or a GateError whose caret lies under the expression."""
        draw = random.Random(7)
        pieces = [
            "a",
            "b",
            "cost",
            "min",
            "max",
            "(",
            ")",
            "+",
            "-",
            "*",
            "/",
            "%",
            "1",
            "88",
            ".5",
            ">=",
            "<",
            "=",
            ",",
        ]
        pieces += [" ", "é", "$", "e9", "_", "**", "\n", "0"]
        for _ in range(4000):
            expression = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 12)))
            try:
                gate = Gate.parse(expression)
            except GateError as error:
                assert "^" in str(error) or not expression.strip()  # noqa: PT017
            else:
                assert gate.stages
