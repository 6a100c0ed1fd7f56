"""What an experiment is declared with, held against what each part has to be: a class is no instance, nothing no LM."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.insides.fields import INPUT_KEYS
from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.text import did_you_mean, listed

_EXAMPLE_LM = "dspy.LM('openai/gpt-4o-mini')"


def given_as(value: Any, instance: str) -> str:
    """What was given in place of something, and the instance that was meant where it is a class.

    Args:
        value: What was given.
        instance: How an instance is written, after the class's name.
    """
    if isinstance(value, type):
        return f"the class {value.__name__}; give an instance: {value.__name__}{instance}"
    return "None" if value is None else type(value).__name__


def check_program(where: str, program: Any) -> None:
    """Refuse what is no program: a class, a signature, a program without predictors.

    Raises:
        ExperimentError: Saying what would be one.
    """
    if isinstance(program, type) and hasattr(program, "input_fields"):
        name = program.__name__
        raise ExperimentError(f"{where}: program is the signature {name}; give a module: dspy.Predict({name})")
    if isinstance(program, str):
        raise ExperimentError(f"{where}: program must be a dspy.Module, not str: dspy.Predict({program!r})")
    if isinstance(program, type):
        raise ExperimentError(f"{where}: program is {given_as(program, '()')}")
    if not hasattr(program, "named_predictors"):
        raise ExperimentError(
            f"{where}: program must be a dspy.Module, such as dspy.Predict(MySignature), "
            f"not {given_as(program, '()')}{_or_return(program)}"
        )
    if not program.named_predictors():
        raise ExperimentError(
            f"{where}: program has no predictor: give dspy.Predict(MySignature), or a module that holds one as an "
            "attribute"
        )


def check_lm(what: str, lm: Any, *, fixture: str = "") -> None:
    """Refuse what is no LM: a name, a class, nothing.

    Args:
        what: Names it, for messages.
        lm: What was given.
        fixture: The fixture that would give one, where there is one.

    Raises:
        ExperimentError: Saying what would be one.
    """
    if isinstance(lm, str):
        raise ExperimentError(f"{what} must be a dspy.LM; use {fixture}dspy.LM({lm!r})")
    if isinstance(lm, type):
        raise ExperimentError(f"{what} is the class {lm.__name__}; give an instance: {_EXAMPLE_LM}")
    if not hasattr(lm, "model"):
        raise ExperimentError(
            f"{what} must be a dspy.LM such as {_EXAMPLE_LM}, not {given_as(lm, '()')}{_or_return(lm, 'dspy_lm')}"
        )


def check_dataset(where: str, dataset: Any) -> None:
    """Refuse what is no dataset.

    Raises:
        ExperimentError: Saying how one is made.
    """
    if hasattr(dataset, "split") and not isinstance(dataset, (str, type)):
        return
    what = (
        "is the class Dataset"
        if isinstance(dataset, type)
        else f"must be a Dataset, not {given_as(dataset, '')}{_or_return(dataset)}"
    )
    raise ExperimentError(
        f"{where}: dataset {what}; use Dataset.from_examples([...]) or Dataset(train=[...], dev=[...], test=[...])"
    )


def check_adapter(where: str, adapter: Any) -> None:
    """Refuse what is no adapter.

    Raises:
        ExperimentError: Saying what would be one.
    """
    if isinstance(adapter, type):
        raise ExperimentError(f"{where}: adapter is {given_as(adapter, '()')}")
    if adapter is not None and not callable(getattr(adapter, "format", None) if not isinstance(adapter, str) else None):
        raise ExperimentError(f"{where}: adapter must be a dspy.Adapter such as dspy.ChatAdapter(), not {adapter!r}")


def check_stages(where: str, stages: Any) -> None:
    """Refuse what is no list of stages.

    Raises:
        ExperimentError: Saying what would be one.
    """
    if isinstance(stages, (str, type)) or not isinstance(stages, Iterable):
        raise ExperimentError(
            f"{where}: stages must be a list of them, not {given_as(stages, '(...)')}: stages=[Stage('name', ...)]"
        )


def input_problem(where: str, program: Any, dataset: Any) -> str:
    """Hold the inputs that a program takes against those that the examples give.

    Returns:
        That no example gives one of them, or that the program does not take what an example gives; else an empty text.
    """
    given = [frozenset(keys) for split in SPLITS for ex in dataset.held(split) if (keys := vars(ex).get(INPUT_KEYS))]
    kinds = list(dict.fromkeys(given))
    everything = sorted(frozenset().union(*kinds))
    for name in _signature_inputs(program):
        if kinds and name not in everything:
            return (
                f"{where}: the program's input {name!r} is an input of no example; theirs are "
                f"{listed(everything)}{did_you_mean(name, everything)}; rename one side, or name it in inputs=[...]"
            )
    forward = _own_forward(program)
    for names in kinds if forward is not None else ():
        if problem := _misfit(forward, sorted(names)):
            return (
                f"{where}: {type(program).__name__}.{forward.__name__}() {problem}, and is called with the inputs of "
                f"an example, {listed(sorted(names))}: rename one side, or name the right fields in inputs=[...]"
            )
    return ""


def _or_return(value: Any, fixture: str = "") -> str:
    """A hint at what gives None though nobody wrote it."""
    if value is not None:
        return ""
    return f": does the fixture {fixture} end with a return?" if fixture else ": does what makes it return something?"


def _signature_inputs(program: Any) -> list[str]:
    """The inputs that a program of DSPy's own classes asks for, by its signature; none of a class of the user's."""
    if not type(program).__module__.startswith("dspy."):
        return []
    signature = getattr(program, "signature", None) or getattr(getattr(program, "predict", None), "signature", None)
    fields = getattr(signature, "input_fields", {})
    return [name for name, info in fields.items() if info.is_required() and "History" not in str(info.annotation)]


def _own_forward(program: Any) -> Any:
    """The method that a program of the user's is called by; None where that is DSPy's, or cannot be told."""
    kind = type(program)
    if kind.__module__.startswith("dspy.") or not str(getattr(kind.__call__, "__module__", "")).startswith("dspy."):
        return None
    # Looked up beside the attribute itself: DSPy logs a warning where `forward` is read, as if it were to be called.
    found = (inspect.getattr_static(program, name, None) for name in ("forward", "aforward"))
    function = next((method for method in found if callable(method)), None)
    if not inspect.isfunction(function) or function.__module__.startswith("dspy."):
        return None
    return types.MethodType(function, program)


def _misfit(function: Any, names: Sequence[str]) -> str:
    """Why a function cannot be called with these keywords; empty where it can, or does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError:
        return f"takes {listed(_names(signature.parameters.values()))}"
    return ""


def _names(parameters: Collection[inspect.Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters]
