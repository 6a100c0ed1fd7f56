"""Fingerprints of code and data: equal for equal work, different for different work."""

from __future__ import annotations

import dataclasses
import enum
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import BaseModel

from pytest_dspy_ft.fingerprint import canonical, digest_json, fingerprint
from tests.fingerprint.conftest import METRIC, Loader, changed
from tests.scripted import reply, scripted_lm

# --- equal work -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    helper = lambda x: normal(x)\n", "    # why not\n\n    helper = (lambda x:\n        normal(x))\n"),
        ("tolerance=0.1):", "tolerance = 0.1,\n):"),
        ("BAR = 0.5\n", "BAR = 0.5  # half\nUNUSED = 3\n"),
        ('{"a", "b"}', '{"b",   "a"}'),
        ("def outer(limit)", "def unrelated():\n    return 1\n\ndef outer(limit)"),
    ],
)
def test_what_changes_no_work_changes_no_fingerprint(load: Loader, old: str, new: str) -> None:
    assert not changed(load, "metric", old, new)


def test_the_order_of_keys_does_not_matter_but_that_of_lists_does() -> None:
    assert fingerprint({"a": 1, "b": {2, 3}}) == fingerprint({"b": {3, 2}, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})


def test_values_of_different_types_differ() -> None:
    values = [None, True, 1, 1.5, "1", b"1", "true", [], {}, float("nan"), float("inf"), {1}, frozenset(), "None"]
    prints = [fingerprint(v) for v in values]
    assert len({*prints}) == len(values)


def test_copies_of_a_program_are_equal() -> None:
    program = dspy.ChainOfThought("question -> answer")
    assert (
        fingerprint(program)
        == fingerprint(program.deepcopy())
        == fingerprint(dspy.ChainOfThought("question -> answer"))
    )


def test_what_a_run_leaves_behind_is_not_part_of_a_program() -> None:
    program = dspy.Predict("text -> label")
    before = fingerprint(program)
    program.lm = scripted_lm(lambda f, r: reply(label="x"))
    program(text="1")
    program.traces.append(1)
    assert program.history
    assert fingerprint(program) == before, "the LM has a part of its own in a stage's key"


_SEEDED = """
import sys
from pytest_dspy_ft.fingerprint import fingerprint
sys.path.insert(0, sys.argv[1])
import seeded
print(*[fingerprint(getattr(seeded, name)) for name in sys.argv[2:]])
"""


def seeded(tmp_path: Path, source: str, *names: str, seeds: str = "123") -> set[str]:
    """Fingerprints as processes with different hash seeds see them."""
    (tmp_path / "seeded.py").write_text(source)
    root = str(Path(__file__).resolve().parents[2])
    lines = set()
    for seed in seeds:
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}
        command = [sys.executable, "-c", _SEEDED, str(tmp_path), *names]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
        lines.add(done.stdout.splitlines()[-1])
    return lines


def test_hash_seeds_do_not_matter(tmp_path: Path) -> None:
    names = ["metric", "instance", "closed", "partial", "Metric", "WORDS", "by_settings"]
    assert len(seeded(tmp_path, METRIC, *names)) == 1


def test_hash_seeds_do_not_matter_for_a_program(tmp_path: Path) -> None:
    source = """
import dspy
program = dspy.ChainOfThought(dspy.Signature("text, tags: set[str] -> label: str", "Do it."))
program.predict.demos = [dspy.Example(text="a", tags={"x", "y", "z"}, label="b")]
optimizer = dspy.BootstrapFinetune(metric=None, train_kwargs={"epochs": 2})
"""
    assert len(seeded(tmp_path, source, "program", "optimizer", seeds="12")) == 1


def test_hash_seeds_do_not_matter_where_there_is_no_source(tmp_path: Path) -> None:
    source = """
space = {"__name__": "made"}
exec('def made(example, prediction, trace=None): return prediction.label in {"yes", "no", "maybe", "never"}', space)
made = space["made"]
"""
    assert len(seeded(tmp_path, source, "made")) == 1


def test_the_keys_of_dspys_optimizers_are_those_of_every_process(tmp_path: Path) -> None:
    source = """
import dspy
from pytest_dspy_ft.ladder.recipe import without_run_state
def metric(example, prediction, trace=None): return prediction.label in {"a", "b", "c"}
lm = dspy.LM("openai/gpt-4o-mini")
made = [
    dspy.MIPROv2(metric=metric, auto="light", prompt_model=lm, task_model=lm),
    dspy.LabeledFewShot(k=3),
    dspy.BootstrapFewShot(metric=metric),
    dspy.BootstrapFewShotWithRandomSearch(metric=metric),
    dspy.BetterTogether(metric=metric, p=dspy.LabeledFewShot(), w=dspy.BootstrapFinetune(metric=metric)),
]
optimizers = [without_run_state(optimizer) for optimizer in made]
"""
    assert len(seeded(tmp_path, source, "optimizers", seeds="12")) == 1


# --- different work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("metric", "bool(PATTERN)", "not PATTERN"),
        ("metric", "tolerance=0.1", "tolerance=0.2"),
        ("metric", "BAR = 0.5", "BAR = 0.6"),
        ("metric", '{"a", "b"}', '{"a", "c"}'),
        ("metric", 're.compile("x+")', 're.compile("x*")'),
        ("metric", "text.lower() if", "text.upper() if"),
        ("metric", "lower=True", "lower=False"),
        ("metric", "lambda x: normal(x)", "lambda x: normal(x + '')"),
        ("closed", "outer(1)", "outer(2)"),
        ("closed", "limit > 0", "limit > 5"),
        ("partial", "(normal, lower=False)", "(normal, lower=None)"),
        ("instance", "Metric()", "Metric(0.6)"),
        ("instance", "weight = 1.0", "weight = 2.0"),
        ("instance", "len(prediction.label) >", "len(prediction.label) >="),
        ("Metric", "bar=0.5)", "bar=0.9)"),
    ],
)
def test_what_changes_the_work_changes_the_fingerprint(load: Loader, name: str, old: str, new: str) -> None:
    assert changed(load, name, old, new)


def test_a_constant_used_by_a_property_matters(load: Loader) -> None:
    assert changed(load, "Metric", "BAR = 0.5", "BAR = 0.6")


def test_a_global_settings_object_matters(load: Loader) -> None:
    assert changed(load, "by_settings", "SETTINGS = Settings()", "SETTINGS = Settings(bar=0.9)")


JUDGE = """
import dspy
class Grade(dspy.Signature):
    "Grade it."
    answer: str = dspy.InputField()
    good: bool = dspy.OutputField()
judge = dspy.Predict(Grade)
def metric(example, prediction, trace=None):
    return judge(answer=prediction.answer).good
"""


def test_the_prompt_of_a_judge_in_a_metric_matters(load: Loader) -> None:
    assert changed(load, "metric", "Grade it.", "Grade it strictly.", JUDGE)


@pytest.mark.parametrize("attribute", ["lm", "stage", "train"])
def test_attributes_of_a_users_metric_matter_whatever_they_are_called(load: Loader, attribute: str) -> None:
    source = f"""
class Metric:
    def __init__(self, value):
        self.{attribute} = value
    def __call__(self, example, prediction, trace=None):
        return self.{attribute} == 1
"""
    module = load(source)
    assert fingerprint(module.Metric(1)) != fingerprint(module.Metric(2))


def test_the_lm_of_a_judge_in_a_metric_matters(load: Loader) -> None:
    class Metric:
        def __init__(self, judge: Any) -> None:
            self.judge = judge

    one, two = (scripted_lm(lambda f, r: "", model=f"toy/{name}") for name in "ab")
    assert fingerprint(Metric(one)) != fingerprint(Metric(two))


def test_a_class_attribute_set_later_matters(load: Loader) -> None:
    assert changed(load, "instance", "instance = Metric()", "Metric.weight = 3.0\ninstance = Metric()")


def test_two_lambdas_differ(load: Loader) -> None:
    module = load("one = lambda e, p: p == 1\ntwo = lambda e, p: p == 2\n")
    assert fingerprint(module.one) != fingerprint(module.two)


def test_two_lambdas_on_one_line_differ(load: Loader) -> None:
    module = load("one, two = (lambda e, p: p == 1), (lambda e, p: p == 2)\n")
    assert fingerprint(module.one) != fingerprint(module.two)


def test_a_lambda_inside_an_expression_is_its_code(load: Loader) -> None:
    def made(text: str) -> str:
        return fingerprint(
            load(f"many = dict(\n    one=[\n  lambda e, p: {text}\n], two=2)\none = many['one'][0]\n").one
        )

    assert made("p == 1") == made("p == 1 # one")
    assert made("p == 1") != made("p == 2")


def made_by_exec(text: str, **names: Any) -> Any:
    space: dict[str, Any] = dict(names)
    exec(text, space)
    return space["made"]


def test_functions_from_exec_with_a_module_name() -> None:
    one, two = (made_by_exec(f"def made(e, p): return p == {n}", __name__="nowhere") for n in (1, 2))
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one) == fingerprint(made_by_exec("def made(e, p): return p == 1", __name__="nowhere"))


def test_functions_from_exec_without_a_module_name() -> None:
    one, two = (made_by_exec(f"def made(e, p): return p == {n}") for n in (1, 2))
    assert fingerprint(one) != fingerprint(two)


def test_a_function_that_knows_itself_ends(load: Loader) -> None:
    source = """
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def metric(example, prediction, trace=None): return even(3)
"""
    assert changed(load, "metric", "n != 0", "n > 0", source)


def test_objects_in_a_circle_end() -> None:
    def circle(value: int) -> list[Any]:
        first: dict[str, Any] = {"value": value}
        first["self"] = [first]
        return [first]

    assert fingerprint(circle(1)) == fingerprint(circle(1))
    assert fingerprint(circle(1)) != fingerprint(circle(2))


def test_the_same_object_twice_is_no_circle() -> None:
    shared = [1]
    assert canonical([shared, shared]) == [[1], [1]]


def test_an_object_may_speak_for_itself() -> None:
    class Index:
        def __init__(self, name: str, handle: object) -> None:
            self.name, self.handle = name, handle

        def __dspy_ft_key__(self) -> dict[str, str]:
            return {"index": self.name}

    assert fingerprint(Index("a", object())) == fingerprint(Index("a", open))
    assert fingerprint(Index("a", 1)) != fingerprint(Index("b", 1))


def test_enums_paths_dataclasses_models_and_arrays() -> None:
    import numpy as np

    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    class Name(str, enum.Enum):  # noqa: UP042 - the mixed-in kind is what users have
        ONE = "one"

    @dataclasses.dataclass
    class Point:
        x: int

    class Model(BaseModel):
        x: int

    assert fingerprint(Color.RED) != fingerprint(Color.BLUE)
    assert fingerprint(Name.ONE) != fingerprint("one")
    assert fingerprint(Path("a/b")) != fingerprint("a/b")
    assert fingerprint(Point(1)) == fingerprint(Point(1)) != fingerprint(Point(2))
    assert fingerprint(Model(x=1)) == fingerprint(Model(x=1)) != fingerprint(Model(x=2))
    assert fingerprint(np.array([1, 2])) == fingerprint(np.array([1, 2])) != fingerprint(np.array([2, 1]))
    assert fingerprint(np.array([1], "int32")) != fingerprint(np.array([1], "int64"))
