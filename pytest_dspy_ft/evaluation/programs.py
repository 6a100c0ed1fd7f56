"""DSPy programs: true copies, and what they hold as data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import dspy

from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.lms.compat import mark_compiled


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
    """Prompts, demos and settings of every predictor, as JSON; LMs and what runs leave behind left out."""
    state = {}
    for name, predictor in program.named_predictors():
        bare = copy.copy(predictor)
        bare.lm = None  # an LM is kept by identity; not every engine can be dumped
        dumped = bare.dump_state(json_mode=True)
        state[name] = {k: v for k, v in dumped.items() if k not in ("lm", "traces", "train")}
        state[name]["config"] = predictor.config
    return state


def restore_state(program: Any, state: Mapping[str, Any]) -> None:
    """Put a state from :func:`program_state` on a program, LMs untouched.

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
