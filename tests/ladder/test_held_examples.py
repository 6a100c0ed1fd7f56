"""Examples that chose a program, or stand in it: found wherever an optimizer holds them."""

from __future__ import annotations

import functools
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Ladder, Stage
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.guards import selection_leaks
from tests.ladder.helpers import predict, right, scripted, writes


def rows(numbers: Any) -> list[Any]:
    return [dspy.Example(text=str(n), label="even" if n % 2 == 0 else "odd").with_inputs("text") for n in numbers]


DATA = Dataset(train=rows(range(10)), dev=rows(range(10, 20)), test=rows(range(20, 30)))
VALSET = rows(range(10, 20))


def make(stages: Any, program: Any = None) -> Any:
    settings = {"dataset": DATA, "stages": stages, "metric": right, "lm": scripted()}
    return Experiment("tickets", program=program or predict(), **settings)


def chooses(program: Any, *, trainset: Any, teacher: Any = None, valset: Any = None) -> Any:
    return program


class Chooser:
    """A callable as optimizer, and a base for others."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)

    def __call__(self, program: Any, *, trainset: Any, teacher: Any = None) -> Any:
        return program


class Slotted(Chooser):
    __slots__ = ("kept",)


class AsksForDev(Chooser):
    def __call__(self, program: Any, *, trainset: Any, teacher: Any = None) -> Any:
        return chooses(program, trainset=trainset, valset=self.data.dev)


class Method:
    def __init__(self, valset: Any) -> None:
        self.deep = {"a": [{"b": valset}]}

    def optimize(self, program: Any, *, trainset: Any, teacher: Any = None) -> Any:
        return program


def closure(held: Any) -> Any:
    return lambda program, *, trainset, teacher=None: chooses(program, trainset=trainset, valset=held)


def closure_of_dataset(data: Any) -> Any:
    return lambda program, *, trainset, teacher=None: chooses(program, trainset=trainset, valset=data.dev)


def from_global(program: Any, *, trainset: Any, teacher: Any = None) -> Any:
    return chooses(program, trainset=trainset, valset=VALSET)


def from_global_dataset(program: Any, *, trainset: Any, teacher: Any = None) -> Any:
    def inner() -> Any:
        return DATA.dev

    return chooses(program, trainset=trainset, valset=inner())


def from_helper(program: Any, *, trainset: Any, teacher: Any = None) -> Any:
    return from_global(program, trainset=trainset)


def from_default(program: Any, *, trainset: Any, teacher: Any = None, extra: Any = VALSET) -> Any:
    return program


@functools.wraps(chooses)
def wrapped(program: Any, **given: Any) -> Any:
    return from_global(program, **given)


def clean(program: Any, *, trainset: Any, teacher: Any = None) -> Any:
    return chooses(program, trainset=DATA.train, valset=trainset)


def without_inputs() -> list[Any]:
    return [dspy.Example(text=e.text, label="?") for e in VALSET]


def slotted() -> Any:
    held = Slotted()
    held.kept = VALSET
    return held


HOLDERS: dict[str, Any] = {
    "closure": closure(VALSET),
    "closure of the dataset": closure_of_dataset(DATA),
    "closure of part": closure(VALSET[:1]),
    "relabelled, without inputs": closure(without_inputs()),
    "partial": functools.partial(chooses, valset=VALSET),
    "partial of partial": functools.partial(functools.partial(chooses, valset=VALSET), teacher=None),
    "attribute": Chooser(valset=VALSET),
    "nested attribute": Method(VALSET).optimize,
    "slots": slotted(),
    "dataset of an object": AsksForDev(data=DATA),
    "optimizer in an attribute": Chooser(inner=Chooser(valset=tuple(VALSET))),
    "global": from_global,
    "global dataset": from_global_dataset,
    "global of a helper": from_helper,
    "default": from_default,
    "wrapped": wrapped,
    "attribute of a function": functools.partial(Chooser(inner=closure(VALSET))),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_examples_are_found_wherever_they_are_held(holder: str) -> None:
    declared = make(stages=[Stage("chosen", HOLDERS[holder])])
    assert set(selection_leaks(declared)["chosen"]) == {"train", "dev"}


@pytest.mark.parametrize(
    "compile_args",
    [{"valset": VALSET}, {"settings": {"valset": VALSET}}, {"make": functools.partial(rows, VALSET)}],
)
def test_compile_args_of_any_shape(compile_args: Any) -> None:
    declared = make(stages=[Stage("chosen", chooses, compile_args=compile_args)])
    assert "dev" in selection_leaks(declared)["chosen"]


@pytest.mark.parametrize("optimizer", [clean, closure(DATA), Chooser(data=DATA), dspy.LabeledFewShot(k=2)])
def test_who_holds_but_train_or_asks_for_no_other_split_is_clean(optimizer: Any) -> None:
    declared = make(stages=[Stage("chosen", optimizer)])
    assert set(selection_leaks(declared)["chosen"]) == {"train"}


def remembers(program: Any, *, trainset: Any, teacher: Any = None) -> Any:
    program.demos = [dict(VALSET[0].items())]
    return program


@pytest.mark.parametrize(
    ("stages", "gate", "found"),
    [
        ([Stage("s", writes("x", VALSET[:2]))], "s >= baseline", "`s` (2 of 10"),
        ([Stage("s", writes("x", without_inputs()[:1]))], "s >= baseline", "`s` (1 of 10"),
        ([Stage("s", remembers)], "s >= 1%", "`s` (1 of 10"),
        ([Stage("r", remembers), Stage("s", writes("x"), start="r")], "s >= 1%", "`r` (1 of 10"),
        ([Stage("s", writes("x", DATA.train[:3]))], "s >= 1%", ""),
        ([Stage("s", remembers)], "tokens(s) <= 9999", ""),
        ([Stage("s", remembers)], "baseline >= 1%", ""),
    ],
)
def test_demos_that_are_examples_of_the_split(tmp_path: Any, stages: Any, gate: str, found: str) -> None:
    def ladder() -> Ladder:
        return Ladder(make(stages), tmp_path)

    for _ in ("built", "loaded"):
        note = ladder().demo_note(Gate.parse(gate))
        assert found in note
        assert bool(note) == bool(found)
    assert not ladder().demo_note(Gate.parse(gate, on="test"))


def test_the_program_as_written_may_hold_them_too(tmp_path: Any) -> None:
    program = predict()
    program.demos = VALSET[:2]
    ladder = Ladder(make([], program), tmp_path)
    assert "`baseline` (2 of 10" in ladder.demo_note(Gate.parse("baseline >= 50%"))
