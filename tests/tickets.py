"""A world of 200 tickets in five categories: a stage that is better as a whole, and loses one of them.

Untaught, the engine has 28 of 40 right in each category, and 32 of 40 refunds. With demos it has 38 of 40, and 15
refunds: it takes 22 of them for billing, says something of its own to two, and one reply breaks the format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from pytest_dspy_ft import Dataset, Experiment, Stage

CATEGORIES = ("billing", "technical", "account", "shipping", "refund")
EACH = 40


class TicketEngine:
    """Answers by rule: ``refund 17: please help`` is the 18th ticket about a refund."""

    def complete(self, request: Request) -> Response:
        text = request.messages[-1].parts[0].text.split("[[ ## text ## ]]")[-1].strip()
        with Path("calls.log").open("a", encoding="utf-8") as log:
            log.write(f"{text.splitlines()[0]}\n")
        category, number = text.split(":")[0].split()
        said = self.answer(category, int(number), taught=len(request.messages) > 1)
        reply = f"[[ ## category ## ]]\n{said}\n\n[[ ## completed ## ]]" if said else "I would rather not say"
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(reply),
            finish_reason="stop",
            usage=Usage(input_tokens=10, output_tokens=5),
        )

    def answer(self, category: str, number: int, *, taught: bool) -> str:
        if category != "refund":
            wrong = "technical" if category == "billing" else "billing"
            return category if number < (38 if taught else 28) else wrong
        if not taught:
            return category if number < 32 else "account"
        return "refund" if number < 15 else "Billing" if number < 37 else "complaint" if number < 39 else ""

    def identity(self) -> dict[str, str]:
        return {"engine": "tickets"}

    def __deepcopy__(self, memo: dict[int, Any]) -> TicketEngine:
        return self


class ClassifyTicket(dspy.Signature):
    """Say what the ticket is about."""

    text: str = dspy.InputField()
    category: str = dspy.OutputField()


def same_category(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.category == example.category)


def tickets(numbers: range) -> list[Any]:
    rows = []
    for number in numbers:
        for category in CATEGORIES:
            waited = " me, this has waited for weeks" if number % 2 == 0 else ""
            text = f"{category} {number}: please help{waited}"
            urgent = {"urgent": number % 4 == 0} if number % 3 else {}
            rows.append(dspy.Example(text=text, category=category, **urgent).with_inputs("text"))
    return rows


def make_tickets(**changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "program": dspy.Predict(ClassifyTicket),
        "dataset": Dataset(train=tickets(range(100, 102)), dev=tickets(range(EACH)), test=tickets(range(90, 92))),
        "metric": same_category,
        "lm": dspy.LM("toy/tickets", engine=TicketEngine(), cache=False, num_retries=0),
        "adapter": dspy.ChatAdapter(use_json_adapter_fallback=False),
        "stages": [Stage("prompt_optimized", dspy.LabeledFewShot(k=3))],
    }
    return Experiment("tickets", **{**settings, **changes})
