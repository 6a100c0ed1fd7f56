"""DSPy programs: true copies, and what they hold as data."""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import BaseModel

from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.insides.optimizers import mark_compiled


def adapter_of(experiment: Experiment) -> Any:
    """The experiment's adapter, the one that was configured when it was declared, or the one DSPy would use."""
    return next(filter(None, (experiment.adapter, experiment.ambient_adapter)), None) or dspy.ChatAdapter()


def copy_program(program: Any) -> Any:
    """A copy that shares nothing but the LMs with the original.

    A plain deep copy clones every LM with its engine, and DSPy's own copy helper forgets LMs below the top level.
    """
    try:
        copied = copy.deepcopy(program, {id(lm): lm for lm in _lms_in(program)})  # the memo makes it reuse these LMs
    except Exception:
        # Something in it cannot be copied (a client, a lock): DSPy's way copies what can be.
        copied = program.deepcopy()
        for (_, old), (_, new) in zip(program.named_predictors(), copied.named_predictors(), strict=True):
            new.lm = old.lm
    mark_compiled(copied, False)
    return copied


def _lms_in(program: Any) -> list[Any]:
    """Every LM that a program holds, on its predictors or in attributes, lists and dicts of its modules."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    todo = [program]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dspy.BaseLM):
            found[id(value)] = value
        elif isinstance(value, dspy.Module):
            todo.extend(vars(value).values())
        elif isinstance(value, Mapping):
            todo.extend(value.values())
        elif isinstance(value, (list, tuple)):
            todo.extend(value)
    return list(found.values())


def program_state(program: Any) -> dict[str, Any]:
    """Prompts, demos and settings of every predictor, for people to read: JSON, whatever stands in them."""
    state = {}
    for name, predictor in program.named_predictors():
        signature = predictor.signature
        fields = [
            {"name": field, "prefix": extra.get("prefix", ""), "description": extra.get("desc", "")}
            for field, extra in ((f, info.json_schema_extra or {}) for f, info in signature.fields.items())
        ]
        state[name] = {
            "signature": {"instructions": signature.instructions, "fields": fields},
            "demos": [_readable(dict(demo.items())) for demo in predictor.demos],
            "config": _readable(predictor.config),
        }
    return state


def _readable(value: Any) -> Any:
    if value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, enum.Enum):
        return _readable(value.value)
    if isinstance(value, BaseModel):
        return {name: _readable(item) for name, item in value}
    if isinstance(value, (Mapping, dspy.Example)):
        return {str(key): _readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_readable(item) for item in value), key=str)
    return str(value)


def restore_state(program: Any, state: Mapping[str, Any]) -> None:
    """Put a state from a store of before, whose builds held no more than DSPy dumps, on a program; LMs untouched.

    Raises:
        ValueError: If the program has other predictors than the state.
    """
    predictors = dict(program.named_predictors())
    if predictors.keys() != state.keys():
        raise ValueError(f"it holds predictors {sorted(state)}, the program has {sorted(predictors)}")
    for name, saved in state.items():
        predictor, lm = predictors[name], predictors[name].lm
        predictor.load_state({**saved, "lm": None, "traces": [], "train": []})
        predictor.lm = lm
