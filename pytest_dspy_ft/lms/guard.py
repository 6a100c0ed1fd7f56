"""A provider's failures in front of DSPy's optimizers, which take any failure for a wrong answer, and go on."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from pytest_dspy_ft.errors import DspyFtError, ProviderError
from pytest_dspy_ft.lms.failures import (
    describe_exception,
    describe_provider_failure,
    explain_refusal,
    failed_at_provider,
    failure_status,
    is_invalid_request,
    judge_failure,
    retry_after,
)
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.lms.providers import Providers

REFUSALS = 8
"""So many inputs refused, and none answered: the LM refuses all of them."""


class ProviderGuard:
    """Says how long to wait before a failed call is made again, and keeps the failure that no waiting helps.

    Args:
        what: What is being done, for messages.
        patience: How long a failing provider is waited for.
        providers: Know whether there is patience left for a provider, and who has answered in this session.
    """

    def __init__(self, what: str, patience: Patience, providers: Providers | None = None) -> None:
        self._what, self.patience = what, patience
        self._providers = providers or Providers()
        self._refusal: ProviderError | None = None
        self.cause: DspyFtError | None = None
        """Why no further call is to be made; None while calls may be made."""
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._answered: set[str] = set()

    def note_answer(self, model: str) -> None:
        """Note that a model answers: what it refuses, it refuses for what was asked."""
        self._answered.add(model)

    def _answers(self, model: str) -> bool:
        return model in self._answered or self._providers.answers(model)

    def at_end(self) -> DspyFtError | None:
        """Why what was done does not count: the cause, or that a model refused all that it was asked."""
        if self.cause is None and not all(map(self._answers, self._refused)):
            return self._refusal
        return self.cause

    def pause(self, lm: Any, error: Exception, attempt: int) -> float | None:
        """Seconds until a failed call is made again; None when it is not.

        Args:
            lm: The LM that was asked.
            error: What the call raised.
            attempt: How often the call had been made again before.
        """
        verdict = judge_failure(error)
        if verdict == "own" and is_invalid_request(error):
            self._note_refusal(lm, error)  # too long, perhaps; where all are, they are asked in a way it does not take
            return None
        if verdict == "own" and not failed_at_provider(error):
            return None
        if verdict == "transient" and attempt < self.patience.rounds:
            hint = retry_after(error)
            pause = self.patience.wait(attempt, [] if hint is None else [hint])
            if pause is not None and self._providers.may_wait(lm.model, pause):
                return pause
        if verdict == "refused":
            self._note_refusal(lm, error)
            return None
        if verdict == "fatal":
            message = explain_refusal(error, lm)
        else:
            again = "did not come back" if verdict == "transient" else "the answer is unknown"
            message = (
                f"the provider of {lm.model} failed, and {again}; run it again once it is back, answers it "
                f"already gave are kept\n  {describe_exception(error)}"
            )
        self.cause = self.cause or ProviderError(f"{self._what}: {message}")
        return None

    def _note_refusal(self, lm: Any, error: Exception) -> None:
        """An input that is refused is a wrong answer to an optimizer; where all are, there is nothing to optimize."""
        with self._lock:
            self._refused[lm.model] += 1
            if self._answers(lm.model):
                return
            message = f"{lm.model} answered nothing: {describe_provider_failure(error)}"
            if failure_status(error) in (403, 404):
                message = explain_refusal(error, lm)
            self._refusal = ProviderError(f"{self._what}: {message}")
            if self._refused[lm.model] >= REFUSALS:
                self.cause = self.cause or self._refusal
