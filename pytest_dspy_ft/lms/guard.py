"""A provider's failures in front of DSPy's optimizers, which take any failure for a wrong answer, and go on."""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.errors import DspyFtError, ProviderError
from pytest_dspy_ft.lms.failures import describe_exception, explain_refusal, judge_failure, retry_after
from pytest_dspy_ft.lms.patience import Patience


class ProviderGuard:
    """Says how long to wait before a failed call is made again, and keeps the failure that no waiting helps.

    Args:
        what: What is being done, for messages.
        patience: How long a failing provider is waited for.
    """

    def __init__(self, what: str, patience: Patience) -> None:
        self._what, self.patience = what, patience
        self.cause: DspyFtError | None = None
        """Why no further call is to be made; None while calls may be made."""

    def pause(self, lm: Any, error: Exception, attempt: int) -> float | None:
        """Seconds until a failed call is made again; None when it is not.

        Args:
            lm: The LM that was asked.
            error: What the call raised.
            attempt: How often the call had been made again before.
        """
        verdict = judge_failure(error)
        if verdict == "own":
            return None
        if verdict == "transient" and attempt < self.patience.rounds:
            hint = retry_after(error)
            pause = self.patience.wait(attempt, [] if hint is None else [hint])
            if pause is not None:
                return pause
        if verdict == "fatal":
            message = explain_refusal(error, lm)
        else:
            message = (
                f"the provider of {lm.model} failed, and did not come back; run it again once it is back, answers it "
                f"already gave are kept\n  {describe_exception(error)}"
            )
        self.cause = self.cause or ProviderError(f"{self._what}: {message}")
        return None
