"""A budget: never passed, whatever runs at once, and nothing paid for is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Ladder, Stage
from pytest_dspy_ft.errors import BudgetError
from pytest_dspy_ft.lms.budget import Budget, FileLedger, Ledger, MemoryLedger
from pytest_dspy_ft.lms.prices import Price, Prices
from tests.scripted import CHAT, numbers, reply, scripted_lm

CALL = 0.107
"""A call of the scripted engine: 100 tokens in, 7 out, at a dollar for a thousand."""
PRICES = Prices([("toy/*", Price(1000.0, 1000.0))])


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def experiment(lm: Any, **changes: Any) -> Experiment:
    examples = numbers(40)
    settings = {
        "program": dspy.Predict("text -> label"),
        "dataset": Dataset(train=examples[:20], dev=examples[20:], test=[]),
        "metric": right,
        "lm": lm,
        "adapter": CHAT,
    }
    return Experiment("numbers", **{**settings, **changes})


def parity(fields: Any, request: Any) -> str:
    return reply(label="even" if int(fields["text"]) % 2 == 0 else "odd")


@pytest.fixture(params=["memory", "file"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return MemoryLedger() if request.param == "memory" else FileLedger(tmp_path / "work" / "spend.json")


@pytest.mark.parametrize("threads", [1, 4])
def test_an_evaluation_stops_before_the_limit_and_goes_on_where_it_stopped(ledger: Ledger, threads: int) -> None:
    lm = scripted_lm(parity, max_tokens=20)
    limit = 10 * CALL + 0.4  # room for ten calls, and for the bound of the last one
    budget = Budget(limit, PRICES, ledger)
    stopped = Ladder(experiment(lm), budget=budget, prices=PRICES, num_threads=threads)
    with pytest.raises(BudgetError, match=r"--dspy-max-cost=1\.47: stopped before the next call of toy/scripted"):
        stopped.evaluate("baseline")
    made = len(lm.engine.requests)
    assert 8 <= made < 14
    assert budget.spent == pytest.approx(made * CALL)
    assert budget.spent <= limit
    assert "--dspy-max-cost" in stopped.record().stopped
    # What was paid for is not paid for again.
    result = Ladder(experiment(lm), prices=PRICES).evaluate("baseline")
    assert (len(lm.engine.requests), result.score) == (20, 1.0)


def test_an_optimizer_does_not_swallow_the_stop() -> None:
    asked: list[str] = []  # not the engine's own list: this optimizer copies engines

    def rule(fields: Any, request: Any) -> str:
        asked.append(fields["text"])
        return parity(fields, request)

    lm = scripted_lm(rule, max_tokens=20)
    lm.cache = True  # a hosted LM's default
    demos = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=16, max_labeled_demos=0)
    made = experiment(lm, stages=[Stage("prompted", demos)])
    with pytest.raises(BudgetError, match="stopped before"):
        Ladder(made, budget=Budget(5 * CALL + 0.4, PRICES), prices=PRICES).build("prompted")
    before = list(asked)
    assert 4 <= len(before) <= 8
    # The answers of the build that was stopped are in the store.
    Ladder(made, prices=PRICES).build("prompted")
    assert not set(asked[len(before) :]) & set(before)
    assert len(set(asked)) == 16


def test_a_model_without_a_price_is_refused_before_any_call() -> None:
    lm = scripted_lm(parity)
    with pytest.raises(BudgetError, match=r"the price of toy/scripted is not known.*dspy_prices = toy/scripted ="):
        Ladder(experiment(lm), budget=Budget(5.0)).evaluate("baseline")
    assert lm.engine.requests == []


def test_a_model_that_costs_nothing_needs_no_room() -> None:
    lm = scripted_lm(parity)
    free = Prices([("toy/*", Price(0.0, 0.0))])
    assert Ladder(experiment(lm), budget=Budget(0.0, free)).evaluate("baseline").score == 1.0


def test_a_handed_out_program_stops_too() -> None:
    ladder = Ladder(experiment(scripted_lm(parity, max_tokens=20)), budget=Budget(0.25, PRICES))
    program = ladder.program("baseline")
    assert program(text="4").label == "even"
    with pytest.raises(BudgetError):
        program(text="5")


def test_what_is_spent_beside_calls_counts(ledger: Ledger) -> None:
    budget = Budget(5.0, PRICES, ledger)
    budget.allow(2.0, "training")
    assert budget.spent == 2.0
    over = r"--dspy-max-cost=5: stopped before the training of finetuned, which may cost up to \$4\.0"
    with pytest.raises(BudgetError, match=over):
        budget.allow(4.0, "the training of finetuned")
    with pytest.raises(BudgetError, match="what the training costs is not known"):
        budget.allow(None, "the training")
    assert budget.spent == 2.0


def test_what_a_killed_process_had_set_aside_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "spend.json"
    code = (
        "import sys, os; from pathlib import Path; from pytest_dspy_ft.lms.budget import FileLedger\n"
        "assert FileLedger(Path(sys.argv[1])).reserve(2.0, 5.0).ticket; os._exit(1)"
    )
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=environment)
    assert len(json.loads(path.read_text())["aside"]) == 1
    ledger = FileLedger(path)
    assert ledger.spent == 2.0
    assert ledger.reserve(3.5, 5.0).ticket is None


def test_a_call_waits_for_room_that_others_may_leave(ledger: Ledger) -> None:
    """Bounds are far above what calls cost: work under way must not make the next call give up."""
    budget = Budget(1.0, PRICES, ledger)
    ticket = ledger.reserve(0.9, 1.0).ticket
    assert ticket is not None
    timer = threading.Timer(0.2, lambda: ledger.release(ticket))
    timer.start()
    budget.allow(0.5, "work")
    timer.join()
    assert budget.spent == 0.5
