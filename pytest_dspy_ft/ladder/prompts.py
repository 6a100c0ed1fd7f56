"""The prompts of a stage's program, as text and as digests: another DSPy that writes the same ones changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.insides.adapters import asked_signature, chat_messages

Prompts = dict[str, dict[str, str]]
"""By predictor, digests of its prompts by the id of the example that they ask about."""

EXAMPLES: Final = 24
"""So many examples are looked at, spread over the split."""


def prompts_of(experiment: Experiment, program: Any, lm: Any) -> Prompts:
    """The prompts that a program's predictors write, each for the same examples, by DSPy as it is installed.

    What other predictors would give a predictor is left empty. Where no prompt can be written, there is none.

    Args:
        experiment: Whose examples and adapter they are written with.
        program: The program of a stage.
        lm: The LM of predictors without one of their own.
    """
    examples = _examples(experiment)
    adapter, lms = adapter_of(experiment), predictor_lms(program, lm)
    return {
        name: {
            identity: digest
            for identity, example in examples.items()
            if (digest := _digest(adapter, lms[name], predictor, example)) is not None
        }
        for name, predictor in program.named_predictors()
    }


def compare_prompts(then: Mapping[str, Mapping[str, str]], now: Prompts) -> Literal["same", "changed", "unknown"]:
    """Whether a program's prompts are what they were; unknown where some predictor has no example in common.

    Args:
        then: Those that are kept; empty where none are.
        now: Those of now.
    """
    if not then:
        return "unknown"
    if then.keys() != now.keys():
        return "changed"
    common = {name: then[name].keys() & now[name].keys() for name in now}
    if any(then[name][one] != now[name][one] for name, ids in common.items() for one in ids):
        return "changed"
    return "same" if all(common.values()) else "unknown"


def _examples(experiment: Experiment) -> dict[str, Any]:
    dataset = experiment.dataset
    split: Any = next((name for name in ("train", "dev", "test") if dataset.sizes[name]), "train")
    pairs = list(zip(dataset.ids(split), dataset.held(split), strict=True))
    every = -(-len(pairs) // EXAMPLES) or 1
    return dict(pairs[::every])


def _digest(adapter: Any, lm: Any, predictor: Any, example: Any) -> str | None:
    signature = predictor.signature
    inputs = {field: example.get(field, "") for field in signature.input_fields}
    try:
        asked = asked_signature(adapter, lm, signature, getattr(predictor, "config", {}), inputs)
        messages = chat_messages(adapter.format(asked, predictor.demos, inputs))
        return digest_json([[message["role"], message["content"]] for message in messages], length=16)
    except Exception:  # an adapter or a field of the user's own, or an input that another predictor gives
        return None


def sample_prompts(experiment: Experiment, predictor: Any, examples: Iterable[Any]) -> list[list[dict[str, Any]]]:
    """A predictor's prompts for a few examples, as messages, what other predictors give it left out.

    Returns:
        None of them, where an adapter or a field of the user's own does not allow it.
    """
    adapter, signature = adapter_of(experiment), predictor.signature
    prompts = []
    for example in examples:
        inputs = {field: example.get(field, "") for field in signature.input_fields}
        try:
            prompts.append(chat_messages(adapter.format(signature, predictor.demos, inputs)))
        except Exception:  # a guess is not worth a failure
            return []
    return prompts
