"""Gates: what can be written, what it means, and what the failing test says."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates import expression as expressions
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, Outcome, StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.usage import Usage


def result(
    stage: str,
    scores: Iterable[float],
    *,
    on: Split = "dev",
    outcomes: Mapping[int, Outcome] | None = None,
    ids: Iterable[str] | None = None,
    tokens: int = 100,
    cost: float | None = 0.001,
    seconds: float = 0.5,
    cached: int = 0,
) -> StageResult:
    """A stage's evaluation with these scores; ids are ex0, ex1, ..."""
    scores = list(scores)
    names = list(ids) if ids is not None else [f"ex{i}" for i in range(len(scores))]
    usage = Usage(lm_calls=1, cached_calls=cached, input_tokens=tokens, cost=cost, seconds=seconds)
    examples = []
    for i, (name, score) in enumerate(zip(names, scores, strict=True)):
        outcome = (outcomes or {}).get(i, "scored")
        error = f"KeyError: 'answer' in {name}" if outcome == "error" else None
        prediction = {"category": "billing" if score == 1 else "other"}
        examples.append(
            ExampleResult(id=name, score=score, outcome=outcome, prediction=prediction, error=error, usage=usage)
        )
    return StageResult(experiment="tickets", stage=stage, on=on, lm="openai/x", key="k", examples=tuple(examples))


def share(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def verdict(expression: str, /, *, seed: int = 0, rates=None, examples=None, **stages) -> VerdictRecord:
    """Judge by the figures as they are; a stage is a StageResult or its scores."""
    return sure(expression, None, seed=seed, rates=rates, examples=examples, **stages)


def sure(
    expression: str, confidence: float | None = 0.95, /, *, seed=0, rates=None, examples=None, **stages
) -> VerdictRecord:
    gate = Gate.parse(expression, confidence=confidence)
    results = {name: s if isinstance(s, StageResult) else result(name, s) for name, s in stages.items()}
    return judge(gate, results, rates, experiment="tickets", examples=examples, seed=seed)


def caret(error: BaseException) -> str:
    """What the expression holds from the caret on."""
    lines = str(error).splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip() == "^")
    return lines[at - 1][lines[at].index("^") :]


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
            ("a >= foo(b)", "there are cost, tokens, latency", "foo(b)"),
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
            Gate.parse(expression)

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


class TestSettings:
    def test_defaults(self):
        gate = Gate.parse("a >= b")
        assert (gate.on, gate.confidence, gate.undecided, gate.lm) == ("dev", None, "fail", None)

    @pytest.mark.parametrize(
        ("settings", "fragment"),
        [
            ({"on": "validation"}, "train, dev, test"),
            ({"on": "tset"}, "did you mean 'test'"),
            ({"on": None}, "train, dev, test"),
            ({"undecided": "ignore"}, "fail, pass, warn"),
            ({"confidence": 95}, "did you mean 0.95?"),
            ({"confidence": 0}, "between 0 and 1"),
            ({"confidence": float("nan")}, "between 0 and 1"),
            ({"confidence": "95%"}, "a number such as 0.95"),
            ({"confidence": True}, "a number such as 0.95"),
            ({"lm": ""}, "'openai/*'"),
            ({"lm": 3}, "'openai/*'"),
        ],
    )
    def test_wrong(self, settings, fragment):
        with pytest.raises(GateError) as error:
            Gate.parse("a >= b", **settings)
        assert fragment in str(error.value)

    def test_applies_to(self):
        assert Gate.parse("a >= b").applies_to("anything")
        gate = Gate.parse("a >= b", lm="openai/gpt-4o*")
        assert gate.applies_to("openai/gpt-4o-mini")
        assert not gate.applies_to("local:smollm2-135m")

    def test_stages(self):
        gate = Gate.parse("cost(a) * bootstrap_rate(b) <= cost(c) * bootstrap_rate(c)")
        assert gate.stages == {"a", "b", "c"}
        assert gate.score_stages == {"a", "c"}
        assert gate.build_stages == {"b"}

    def test_settings_can_be_replaced(self):
        gate = dataclasses.replace(Gate.parse("a >= b"), confidence=0.9)
        assert gate.confidence == 0.9
        assert gate.stages == {"a", "b"}

    def test_check_names(self):
        known = ["baseline", "prompt_optimized", "finetuned"]
        Gate.parse("finetuned >= prompt_optimized").check_names(known)
        with pytest.raises(GateError) as error:
            Gate.parse("baseline <= tokens(finetund) * 0 / tokens(baseline)").check_names(known)
        assert "did you mean `finetuned`?" in str(error.value)
        assert "baseline, prompt_optimized, finetuned" in str(error.value)
        assert caret(error.value).startswith("finetund)")

    def test_hyphenated_name(self):
        with pytest.raises(GateError, match="fine_tuned"):
            Gate.parse("fine-tuned >= 88%").check_names(["baseline", "fine-tuned"])

    def test_import_is_light(self):
        code = (
            "import sys, pytest_dspy_ft.gates.gate as g; g.Gate.parse('a >= 1%'); "
            "print([m for m in ('numpy', 'dspy', 'pytest', 'pydantic') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestArithmetic:
    """The parser against an oracle that is built alongside each random expression."""

    VALUES: Mapping[str, Fraction] = {
        "a": Fraction(1, 3),
        "b": Fraction(7, 11),
        "c": Fraction(0),
        "stage_4": Fraction(1),
        "é": Fraction(2, 7),
    }

    def build(self, draw: random.Random, depth: int) -> tuple[str, Callable[[], Fraction], int]:
        """(text, oracle, how tightly it binds: 1 sum, 2 product, 3 factor)."""
        kind = draw.choice(["name", "number", "percent"] + ["binary"] * 4 + ["minus", "call"]) if depth else "name"
        if kind == "name":
            name = draw.choice(list(self.VALUES))
            return name, lambda: self.VALUES[name], 3
        if kind in ("number", "percent"):
            digits = (
                draw.choice(["0", "1", "0.25", ".5", "1.", "0.1"]) if kind == "number" else f"{draw.randrange(200)}"
            )
            value = Fraction(digits.rstrip(".")) / (100 if kind == "percent" else 1)
            return digits + draw.choice(["%", " %"]) * (kind == "percent"), lambda: value, 3
        if kind == "minus":
            text, oracle, binds = self.build(draw, depth - 1)
            return f"-{text if binds == 3 else f'({text})'}", lambda: -oracle(), 3
        if kind == "call":
            name = draw.choice(["min", "max"])
            parts = [self.build(draw, depth - 1) for _ in range(draw.randrange(1, 4))]
            pick = min if name == "min" else max
            return f"{name}({', '.join(p[0] for p in parts)})", lambda: pick([p[1]() for p in parts]), 3
        left, right, operator = self.build(draw, depth - 1), self.build(draw, depth - 1), draw.choice("+-*/")
        binds = 1 if operator in "+-" else 2
        a = left[0] if left[2] >= binds else f"({left[0]})"
        b = right[0] if right[2] > binds else f"({right[0]})"
        blank = draw.choice(["", " "])
        compute = {
            "+": lambda: left[1]() + right[1](),
            "-": lambda: left[1]() - right[1](),
            "*": lambda: left[1]() * right[1](),
            "/": lambda: left[1]() / right[1](),
        }[operator]
        return f"{a}{blank}{operator}{blank}{b}", compute, binds

    def test_random_expressions(self):
        draw = random.Random(11)
        compared = divided = 0
        for _ in range(3000):
            text, oracle, _ = self.build(draw, draw.randrange(1, 5))
            try:
                condition = Gate.parse(f"{text} >= a * 0%").condition
            except GateError as error:
                assert any(word in str(error) for word in ("out of reach", "divides by zero")), text  # noqa: PT017
                continue
            try:
                expected = oracle()
            except ZeroDivisionError:
                divided += 1
                with pytest.raises(ZeroDivisionError):
                    expressions.exactly(condition.left, lambda q: self.VALUES[q.stage])
                continue
            assert expressions.exactly(condition.left, lambda q: self.VALUES[q.stage]) == expected, text
            compared += 1
            form = expressions.affine(condition.left)
            if form is not None:
                assert sum(k * self.VALUES[q.stage] for q, k in form[0].items()) + form[1] == expected, text
        assert compared > 1500
        assert divided > 20

    def test_precedence(self):
        values = {"a": Fraction(1, 2), "b": Fraction(1, 4), "c": Fraction(1, 8)}
        for text, expected in {
            "a - b - c": Fraction(1, 8),
            "a / b / c": Fraction(16),
            "a + b * c": Fraction(17, 32),
            "-a * b": Fraction(-1, 8),
            "a * -b": Fraction(-1, 8),
            "a - 50% * b": Fraction(3, 8),
        }.items():
            condition = Gate.parse(f"{text} >= a").condition
            assert expressions.exactly(condition.left, lambda q: values[q.stage]) == expected


class TestExactness:
    def test_thirds(self):
        assert verdict("a >= b", a=share(1, 3), b=[0.0, 1.0, 0.0]).verdict == "PASS"
        assert verdict("a > b", a=share(1, 3), b=[0.0, 1.0, 0.0]).verdict == "FAIL"

    @pytest.mark.parametrize("expression", ["a >= 80%", "a >= 0.8", "a >= 70% + 10%", "a >= b + 10%", "80% <= a"])
    def test_ties_pass(self, expression):
        record = verdict(expression, a=share(8, 10), b=share(7, 10))
        assert record.verdict == "PASS"
        assert record.margin == 0.0

    def test_strict_ties_fail(self):
        assert verdict("a > 80%", a=share(8, 10)).verdict == "FAIL"
        assert verdict("a < 80%", a=share(8, 10)).verdict == "FAIL"
        assert verdict("a <= 80%", a=share(8, 10)).verdict == "PASS"

    def test_no_slack_where_all_is_counted(self):
        assert verdict("a >= 80.0000000000001%", a=share(8, 10)).verdict == "FAIL"

    def test_float_scores_tie_with_decimals(self):
        """0.3 is a hair below 3/10 in binary; three graded scores of 1/3 add up to a hair below 1."""
        assert verdict("a >= 30%", a=[0.3] * 7).verdict == "PASS"
        assert verdict("a > 30%", a=[0.3] * 7).verdict == "FAIL"
        assert verdict("a >= b", a=[1 / 3] * 3, b=share(1, 3)).verdict == "PASS"
        assert verdict("a - b >= 0.2", a=[0.7] * 3, b=[0.5] * 3).verdict == "PASS"
        assert verdict("a >= 30.00001%", a=[0.3] * 7).verdict == "FAIL"
        assert verdict("bootstrap_rate(a) >= 60%", rates={"a": 0.6}).verdict == "PASS"
        assert verdict(
            "cost(a) <= cost(b) / 15", a=result("a", [1] * 9, cost=1e-4), b=result("b", [1] * 9, cost=1.5e-3)
        ).passed

    def test_errors_and_unparsed_stay_in_the_denominator(self):
        a = result("a", [1, 1, 0, 0], outcomes={2: "unparsed", 3: "error"})
        assert verdict("a >= 50%", a=a).verdict == "PASS"
        assert verdict("a >= 51%", a=a).verdict == "FAIL"
        assert verdict("errors(a) <= 25%", a=a).verdict == "PASS"
        assert verdict("unparsed(a) < 25%", a=a).verdict == "FAIL"


class TestMeasures:
    def test_each(self):
        a = result("a", share(3, 4), tokens=212, cost=0.0012, seconds=1.25)
        assert verdict("cost(a) <= 0.0012", a=a).observed == "$0.0012"
        assert verdict("tokens(a) <= 300", a=a).observed == "212"
        assert verdict("latency(a) <= 2", a=a).observed == "1.2 s"

    def test_unknown_price(self):
        with pytest.raises(GateError, match="no known price"):
            verdict("cost(a) <= 1", a=result("a", [1.0], cost=None))

    @pytest.mark.parametrize("measure", ["cost", "tokens", "latency"])
    def test_cached_answers_are_not_measured(self, measure):
        with pytest.raises(GateError, match="response cache"):
            verdict(f"{measure}(a) <= 1", a=result("a", [1.0], cached=1))

    def test_bootstrap_rate(self):
        assert verdict("bootstrap_rate(a) >= 60%", rates={"a": 0.43}).verdict == "FAIL"
        record = sure("bootstrap_rate(a) >= 60%", rates={"a": 0.61})
        assert (record.verdict, record.interval, record.observed) == ("PASS", None, "61.0%")

    @pytest.mark.parametrize("rates", [None, {}, {"a": None}])
    def test_no_bootstrap_rate(self, rates):
        with pytest.raises(GateError, match="fine-tuned"):
            verdict("bootstrap_rate(a) >= 60%", rates=rates)

    def test_division_by_zero_never_passes(self):
        for expression in ("a / b >= 2", "a / b <= 2", "a / b < 2", "a >= b / b"):
            for confidence in (None, 0.95):
                record = sure(expression, confidence, a=share(3, 4), b=share(0, 4))
                assert record.verdict == "FAIL"
                assert not record.passed
                assert record.margin < 0
                assert record.observed == "division by zero"
                assert "multiply instead of dividing" in record.message


class TestPairing:
    def test_by_id_not_by_position(self):
        a = result("a", [1, 0, 1, 0], ids=["p", "q", "r", "s"])
        b = result("b", [0, 1, 0, 1], ids=["s", "r", "q", "p"])
        assert "0 fixed, 0 broke" in verdict("a >= b", a=a, b=b).message

    def test_different_examples(self):
        a = result("a", [1, 0, 1], ids=["p", "q", "r"])
        b = result("b", [0, 1], ids=["p", "x"])
        with pytest.raises(GateError) as error:
            verdict("a >= b", a=a, b=b)
        assert "2 only in `a` (q, r)" in str(error.value)
        assert "1 only in `b` (x)" in str(error.value)

    def test_repeated_examples(self):
        a = result("a", [1, 0, 1], ids=["p", "p", "q"])
        assert sure("a >= b - 90%", a=a, b=result("b", [1, 1, 1], ids=["p", "q", "p"])).verdict == "PASS"
        with pytest.raises(GateError, match="not evaluated on the same examples"):
            verdict("a >= b", a=a, b=result("b", [1, 1, 1], ids=["p", "q", "q"]))

    def test_absurd_numbers(self):
        expression = "a >= " + " * ".join(["1e15"] + ["a * 1e15"] * 20)
        with pytest.raises(GateError, match="too large"):
            verdict(expression, a=[1.0, 0.0])

    def test_missing_result(self):
        with pytest.raises(GateError, match="`b` has not been evaluated on dev"):
            verdict("a >= b", a=[1.0])

    def test_other_split(self):
        with pytest.raises(GateError, match="is on test"):
            verdict("a >= 50%", a=result("a", [1.0], on="test"))

    def test_no_examples(self):
        with pytest.raises(GateError, match="no examples"):
            verdict("a >= 0%", a=[])


class TestConfidence:
    def test_three_verdicts(self):
        assert sure("a >= 70%", a=share(90, 100)).verdict == "PASS"
        assert sure("a >= 85%", a=share(90, 100)).verdict == "UNDECIDED"
        assert sure("a >= 97%", a=share(90, 100)).verdict == "FAIL"
        assert sure("a <= 97%", a=share(90, 100)).verdict == "PASS"
        assert sure("a <= 70%", a=share(90, 100)).verdict == "FAIL"

    def test_single_share_is_exact(self):
        record = sure("a >= 70%", a=share(8, 10))
        assert record.interval == pytest.approx((0.4439 - 0.7, 0.9748 - 0.7), abs=1e-4)
        assert sure("70% >= 2 * a - a", a=share(8, 10)).interval == pytest.approx(
            (0.7 - 0.9748, 0.7 - 0.4439), abs=1e-4
        )
        a = result("a", share(9, 10), outcomes={9: "error"})
        assert sure("errors(a) <= 50%", a=a).interval == pytest.approx((0.5 - 0.4450, 0.5 - 0.0025), abs=1e-4)

    def test_paired_difference_is_tango(self):
        before = [0.0] * 1 + [1.0] * 7 + [1.0] * 1 + [0.0] * 12
        after = [1.0] * 1 + [0.0] * 7 + [1.0] * 1 + [0.0] * 12
        for expression in ("a >= b", "b <= a", "a - b >= 0", "0 <= a - b"):
            record = sure(expression, a=after, b=before)
            assert record.verdict == "FAIL"
            assert record.interval == pytest.approx((-0.517, -0.026), abs=6e-4)
        assert sure("a >= b - 60%", a=after, b=before).interval == pytest.approx((0.083, 0.574), abs=6e-4)

    def test_pairing_decides_what_single_intervals_cannot(self):
        """84 and 92 of 100: unpaired they cannot be told apart, paired they can."""
        before, after = share(84, 100), share(92, 100)
        assert sure("a > b", a=after, b=before).verdict == "PASS"
        assert sure("a >= 84%", a=after).verdict == "PASS"
        assert sure("b < 88%", b=before).verdict == "UNDECIDED"

    def test_identical_scores_are_not_certain(self):
        same = share(40, 60)
        assert sure("a >= b", a=same, b=same).verdict == "UNDECIDED"
        assert sure("a >= 93% * b", a=share(5, 5), b=share(5, 5)).verdict == "UNDECIDED"
        assert sure("a >= max(b, c)", a=same, b=same, c=same).verdict == "UNDECIDED"
        assert sure("a >= 99%", a=share(10, 10)).verdict == "UNDECIDED"
        assert sure("a >= b - 10%", a=same, b=same).verdict == "PASS"

    def test_a_stage_against_itself_is_certain(self):
        assert sure("a >= a", a=share(3, 9)).interval == (0.0, 0.0)
        assert sure("a >= a", a=share(3, 9)).verdict == "PASS"
        assert sure("a > a", a=share(3, 9)).verdict == "FAIL"

    def test_strictness_at_the_edge(self):
        flat = result("a", share(3, 9), tokens=100)
        assert sure("tokens(a) >= 100", a=flat).verdict == "PASS"
        assert sure("tokens(a) > 100", a=flat).verdict == "FAIL"
        assert sure("tokens(a) < 101", a=flat).verdict == "PASS"

    @pytest.mark.parametrize(
        "expression",
        [
            "a >= 93% * b",
            "a >= max(b, c) + 10%",
            "a / b >= 1.2",
            "a * c >= b",
            "min(a, b) >= 40%",
            "(a - b) / (1 - b) > c",
        ],
    )
    def test_any_expression_has_one(self, expression):
        draw = random.Random(3)
        stages = {
            name: [float(draw.random() < p) for _ in range(80)] for name, p in (("a", 0.9), ("b", 0.7), ("c", 0.5))
        }
        record = sure(expression, **stages)
        assert record.interval is not None
        assert record.interval[0] <= record.margin <= record.interval[1]
        assert record.interval[0] < record.interval[1]
        assert record == sure(expression, **stages), "one seed, one verdict"
        assert sure(expression, seed=1, **stages).interval == pytest.approx(record.interval, rel=0.1, abs=0.02)

    def test_graded_scores(self):
        draw = random.Random(5)
        before = [draw.random() * 0.8 for _ in range(100)]
        after = [min(1.0, x + 0.1 * draw.random()) for x in before]
        assert sure("a > b", a=after, b=before).verdict == "PASS"
        assert sure("a >= b + 10%", a=after, b=before).verdict == "FAIL"

    def test_costs(self):
        assert sure("cost(a) <= cost(b) / 15", a=result("a", share(5, 9), cost=1e-5), b=result("b", share(5, 9))).passed

    def test_one_example(self):
        assert sure("a >= 50%", a=[1.0]).verdict == "UNDECIDED"
        assert sure("a >= 50%", a=[0.7]).verdict == "UNDECIDED"
        record = sure("tokens(a) <= 500", a=[1.0])
        assert (record.verdict, record.interval) == ("UNDECIDED", None)

    @pytest.mark.parametrize(("undecided", "passed"), [("fail", False), ("pass", True), ("warn", True)])
    def test_undecided(self, undecided, passed):
        gate = Gate.parse("a >= 85%", confidence=0.95, undecided=undecided)
        record = judge(gate, {"a": result("a", share(90, 100))})
        assert (record.verdict, record.passed, record.undecided) == ("UNDECIDED", passed, undecided)

    def test_undecided_never_saves_a_fail(self):
        gate = Gate.parse("a >= 97%", confidence=0.95, undecided="pass")
        assert not judge(gate, {"a": result("a", share(50, 100))}).passed

    def test_records_survive_json(self):
        for record in (sure("a >= 85%", a=share(9, 10)), verdict("a / b >= 2", a=share(1, 2), b=share(0, 2))):
            assert VerdictRecord.model_validate_json(record.model_dump_json()) == record
            json.loads(record.model_dump_json(), parse_constant=pytest.fail)

    def test_large_samples(self):
        draw = random.Random(0)
        stages = {name: result(name, [float(draw.random() < 0.8) for _ in range(5000)]) for name in "abcde"}
        record = sure("a >= max(b, c) * d / e", **stages)
        assert record.interval is not None


class TestObserved:
    @pytest.mark.parametrize(
        ("expression", "observed"),
        [
            # a side is a plain number: the other side
            ("a >= 88%", "88.3%"),
            ("88% <= a", "88.3%"),
            ("a - b >= 10%", "+33.3 pts"),
            ("b - a >= 10%", "-33.3 pts"),
            ("a / b >= 2", "1.61x"),
            ("(a + b) / 2 >= 50%", "71.7%"),
            # a side is something times a number: the ratio
            ("a >= 93% * b", "1.61x"),
            ("a >= b * 2", "1.61x"),
            ("a >= b / 2", "1.61x"),
            ("b >= 93% * a", "0.62x"),
            ("cost(b) <= cost(a) / 15", "0.041x"),
            # otherwise: the difference
            ("a >= b", "+33.3 pts"),
            ("a >= b + 10%", "+33.3 pts"),
            ("a >= 10% + b", "+33.3 pts"),
            ("a >= b - 10%", "+33.3 pts"),
            ("a >= max(b, c) + 10%", "+21.7 pts"),
            ("b <= a", "-33.3 pts"),
            ("cost(b) <= cost(a)", "-$0.0012"),
            ("tokens(a) <= tokens(b)", "+112 tokens"),
            ("latency(a) <= latency(b)", "+1.5 s"),
            ("unparsed(a) <= errors(b)", "+0.0 pts"),
        ],
    )
    def test_rule(self, expression, observed):
        a = result("a", share(53, 60), tokens=212, cost=0.00122, seconds=2.0)
        b = result("b", share(33, 60), cost=0.00005)
        assert verdict(expression, a=a, b=b, c=share(40, 60)).observed == observed

    def test_ratio_to_nothing_is_a_difference(self):
        assert verdict("a >= 93% * b", a=share(1, 2), b=share(0, 2)).observed == "+50.0 pts"

    def test_never_rounds_onto_the_other_side(self):
        assert verdict("a >= 88%", a=share(8796, 10000)).observed == "87.96%"
        assert verdict("a >= b + 1%", a=share(10999, 20000), b=share(10800, 20000)).observed == "+0.995 pts"
        assert verdict("a < 88%", a=share(8796, 10000)).observed == "87.96%"


class TestMessage:
    def failing(self, **settings) -> str:
        before = share(40, 60)
        after = [0.0] * 7 + [1.0] * 33 + [1.0] * 2 + [0.0] * 18
        a = result("finetuned", after, outcomes={1: "unparsed", 2: "error"})
        b = result("prompt_optimized", before)
        examples = {
            f"ex{i}": {"inputs": {"text": f"ticket {i} \x1b[31m\n" + "x" * 5000}, "expected": {"category": "billing"}}
            for i in range(60)
        }
        return verdict("finetuned >= prompt_optimized", finetuned=a, prompt_optimized=b, examples=examples).message

    def test_tells_the_story(self):
        message = self.failing()
        for part in (
            "Gate `finetuned >= prompt_optimized` failed (on dev, n = 60): observed -8.3 pts",
            "left side 58.3%, right side 66.7%: margin -8.3 pts",
            "58.3% (35/60; 1 unparsed, 1 error)",
            "66.7% (40/60; 0 unparsed, 0 errors)",
            "ERRORS: 1 of 60 examples of finetuned could not be measured",
            "first: ex2: KeyError: 'answer' in ex2",
            "2 fixed, 7 broke of 60 examples (prompt_optimized -> finetuned)",
            "broke ex0: text='ticket 0",
            "expected category='billing'",
            "prompt_optimized category='billing'",
            "finetuned category='other'",
            "finetuned UNPARSED",
            "and 2 more broke",
            "Look next: the errors of finetuned",
            "within the noise at n = 60",
        ):
            assert part in message, message

    def test_is_short_and_printable(self):
        message = self.failing()
        assert len(message.splitlines()) < 40
        assert max(map(len, message.splitlines())) < 260
        assert all(line.isprintable() for line in message.splitlines())

    def test_pass_is_shorter(self):
        message = verdict("a >= b", a=share(9, 10), b=share(5, 10)).message
        assert "passed" in message
        assert "4 fixed, 0 broke" in message
        assert "Look next" not in message

    def test_interval(self):
        message = sure("a >= b", a=share(9, 10), b=share(8, 10)).message
        assert "is undecided" in message
        assert "95% interval of the margin: -" in message
        assert "on both sides of 0" in message
        assert "examples would tell" in message

    def test_no_number_of_examples_decides_a_tie(self):
        assert "allow for a small loss" in sure("a >= b", a=share(9, 10), b=share(9, 10)).message

    def test_direction_of_the_flips(self):
        for expression in ("a >= b", "b <= a", "a - b >= 0%", "a / b > 1", "a >= max(b, c)", "0 < a - b"):
            message = verdict(expression, a=share(9, 10), b=share(5, 10), c=share(4, 10)).message
            assert "4 fixed, 0 broke of 10 examples (b -> a)" in message, message

    def test_unrelated_stages_have_no_flips(self):
        assert "fixed" not in verdict("a + b >= c", a=share(5, 10), b=share(5, 10), c=share(4, 10)).message
        assert "fixed" not in verdict("a >= 50%", a=share(5, 10)).message

    def test_format_trouble(self):
        a = result("a", share(5, 10), outcomes=dict.fromkeys(range(5, 10), "unparsed"))
        assert "5 of 10 replies of a could not be read" in verdict("a >= 90%", a=a).message

    def test_wrong_answers_of_one_stage(self):
        examples = {"ex9": {"inputs": {"text": "hello"}, "expected": {"category": "billing"}}}
        message = verdict("a >= 95%", a=share(9, 10), examples=examples).message
        assert "wrong ex9: text='hello'" in message
        assert "a category='other'" in message

    def test_many_stages_stay_readable(self):
        names = [f"stage_{i}" for i in range(12)]
        stages = {name: result(name, share(1, 9), outcomes={8: "error"}) for name in names}
        message = verdict(f"{names[0]} > max({', '.join(names[1:])})", **stages).message
        assert len(message.splitlines()) < 40
        assert "and 6 more stages" in message

    def test_experiment_and_settings_are_kept(self):
        record = sure(" a  >= 50% ", 0.9, a=share(9, 10))
        assert (record.experiment, record.expression, record.on, record.confidence) == (
            "tickets",
            "a  >= 50%",
            "dev",
            0.9,
        )


def test_coverage_of_an_unsmooth_gate():
    """``a >= max(b, c)`` with b and c equally good, where a resampled maximum is biased."""
    import numpy as np

    from pytest_dspy_ft.statistics import margin_interval

    generator = np.random.default_rng(4)
    held, runs = 0, 300
    for _ in range(runs):
        luck = generator.random((60, 1)) * 0.5 + generator.random((60, 3)) * 0.5
        scores = (luck < np.array([0.7, 0.6, 0.6])).astype(float)
        truth = 0.82 - 0.68  # P(u + v < 2p) for two uniforms
        low, high = margin_interval(scores, lambda m: m[:, 0] - np.maximum(m[:, 1], m[:, 2]), resamples=2000)
        held += low <= truth <= high
    assert held / runs > 0.95 - 4 * (0.95 * 0.05 / runs) ** 0.5
