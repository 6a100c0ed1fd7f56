"""The settings of a gate beside its expression."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from tests.gates.cases import caret


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
            ({"confidence": 0}, "at least 0.5 and below 1, such as 0.95, not 0"),
            ({"confidence": 1}, "at least 0.5 and below 1"),
            ({"confidence": 0.05}, "not 0.05; did you mean 0.95?"),
            ({"confidence": 0.1}, "did you mean 0.9?"),
            ({"confidence": 0.4999}, "at least 0.5"),
            ({"confidence": 5}, "at least 0.5"),
            ({"confidence": -0.95}, "at least 0.5"),
            ({"confidence": float("nan")}, "at least 0.5"),
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

    @pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.9999])
    def test_confidence(self, confidence):
        assert Gate.parse("a >= b", confidence=confidence).confidence == confidence

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
