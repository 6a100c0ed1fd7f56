"""What a provider failed is its failure also where the program catches it, in whatever thread or task."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMInvalidRequestError, LMServerError

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.lms.patience import Patience
from tests.ladder.helpers import parity_rule
from tests.scripted import experiment, scripted_lm

GUESS = dspy.Prediction(label="even")
Ask = Callable[..., Any]


def plainly(ask: Ask, text: str) -> Any:
    try:
        return ask(text=text)
    except Exception:
        return GUESS


def as_another(ask: Ask, text: str) -> Any:
    try:
        return ask(text=text)
    except Exception:
        pass
    raise ValueError("no answer")


def parallel(ask: Ask, text: str) -> Any:
    pairs = [(ask, dspy.Example(text=text).with_inputs("text"))]
    return dspy.Parallel(num_threads=2, max_errors=9, disable_progress_bar=True)(pairs)[0] or GUESS


def executor(ask: Ask, text: str) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(plainly, ask, text).result()


def thread(ask: Ask, text: str) -> Any:
    found: list[Any] = []
    one = threading.Thread(target=lambda: found.append(plainly(ask, text)))
    one.start()
    one.join()
    return found[0]


def thread_pool(ask: Ask, text: str) -> Any:
    with ThreadPool(1) as pool:
        return pool.apply(plainly, (ask, text))


def tasks(ask: Ask, text: str) -> Any:
    async def both() -> Any:
        tried = asyncio.to_thread(ask, text=text)
        return (await asyncio.gather(tried, return_exceptions=True))[0]

    found = asyncio.run(both())
    return GUESS if isinstance(found, Exception) else found


def again(ask: Ask, text: str) -> Any:
    for _ in range(3):
        try:
            return ask(text=text)
        except Exception:
            continue
    return GUESS


class Catching(dspy.Module):
    def __init__(self, how: Callable[[Ask, str], Any]) -> None:
        super().__init__()
        self.predict = dspy.Predict("text -> label")
        self.how = how

    def forward(self, text: str) -> Any:
        return self.how(self.predict, text)


def failing(error: Exception, times: int = 10**6) -> Any:
    """Fails every fifth number, so many times each."""
    seen: Counter[str] = Counter()

    def rule(fields: Any, request: Any) -> str:
        seen[fields["text"]] += 1
        if int(fields["text"]) % 5 == 3 and seen[fields["text"]] <= times:
            raise error
        return parity_rule(fields, request)

    return rule


def evaluated(tmp_path: Path, rule: Any, program: Any, **changes: Any) -> Any:
    lm = scripted_lm(rule, num_retries=0)
    declared = experiment(program, lm, **changes)
    return Ladder(declared, tmp_path, patience=Patience(rounds=1, sleep=lambda s: None)).evaluate("baseline", "train")


@pytest.mark.parametrize("how", [plainly, as_another, parallel, executor, thread, thread_pool, tasks, again])
def test_a_caught_failure_is_the_providers(how: Any, tmp_path: Path) -> None:
    result = evaluated(tmp_path, failing(LMServerError("down")), Catching(how))
    failed = [example for example in result.examples if example.outcome == "error"]
    assert len(failed) == result.n // 5
    assert {example.fault for example in failed} == {"provider"}
    assert result.score == 1 - len(failed) / result.n


@pytest.mark.parametrize("how", [plainly, thread, again])
def test_a_failure_that_was_made_good_is_none(how: Any, tmp_path: Path) -> None:
    result = evaluated(tmp_path, failing(LMServerError("down"), times=1), Catching(how))
    assert (result.errors, result.score) == (0, 1)


def test_a_judge_whose_failure_the_metric_catches_measured_nothing(tmp_path: Path) -> None:
    judge = scripted_lm(failing(LMServerError("down")), "toy/judge", num_retries=0)

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        try:
            with dspy.context(lm=judge):
                return bool(dspy.Predict("text -> label")(text=example.text).label == prediction.label)
        except Exception:
            return False

    result = evaluated(tmp_path, parity_rule, dspy.Predict("text -> label"), metric=metric)
    failed = [example for example in result.examples if example.outcome == "error"]
    assert len(failed) == result.n // 5
    assert {example.fault for example in failed} == {"provider"}


@pytest.mark.parametrize(
    ("error", "errors"),
    [(LMServerError("down"), True), (LMInvalidRequestError("no", provider_code="content_filter", status=400), False)],
    ids=["an outage", "a filter"],
)
def test_falling_back_to_another_model_is_design_for_what_is_refused_and_no_answer_in_an_outage(
    error: Exception, errors: bool, tmp_path: Path
) -> None:
    other = scripted_lm(parity_rule, "toy/other", num_retries=0)

    def fall_back(ask: Ask, text: str) -> Any:
        try:
            return ask(text=text)
        except Exception:
            return dspy.Predict("text -> label")(text=text, lm=other)

    result = evaluated(tmp_path, failing(error), Catching(fall_back))
    assert result.errors == (result.n // 5 if errors else 0)
