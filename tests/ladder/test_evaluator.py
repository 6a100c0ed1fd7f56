"""Evaluations: made once, from the store alone, and going on where they were interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.checksums import value_checksum
from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.lms.prices import Prices
from tests.ladder.helpers import STORE, counted, predict, scripted, writes
from tests.parity import CALLS, make_experiment
from tests.scripted import experiment, scripted_lm


def test_what_was_measured_once_is_shown_at_the_prices_of_now() -> None:
    prices = Prices.from_lines(["toy/* = 1 2"])
    first = Ladder(make_experiment()).evaluate("finetuned")
    calls = CALLS.read_text().count("\n")
    later = Ladder(make_experiment(), prices=prices)
    priced = later.evaluate("finetuned")
    assert first.cost is None, "nobody knows the price of a toy"
    tokens = priced.usage
    assert tokens.cost == pytest.approx(tokens.input_tokens * 1e-6 + tokens.output_tokens * 2e-6)
    assert later.build("prompt_optimized").record.usage.cost == 0.0, "it called no LM"
    assert Ladder(make_experiment()).evaluate("finetuned").cost is None
    assert CALLS.read_text().count("\n") == calls, "a price is no reason to call anything again"
    assert Ladder(make_experiment(), store="other", prices=prices).evaluate("finetuned").cost == priced.cost


def test_an_evaluation_is_made_once() -> None:
    first = Ladder(make_experiment(), STORE).evaluate("baseline")
    calls = len(CALLS.read_text().splitlines())
    ladder = Ladder(make_experiment(), STORE)
    again = ladder.evaluate("baseline")
    assert (first.loaded, again.loaded) == (False, True)
    assert again.examples == first.examples
    assert ladder.evaluate("baseline") is again
    assert len(CALLS.read_text().splitlines()) == calls == 10


def test_a_rebuilt_stage_is_measured_anew() -> None:
    lm = scripted()
    Ladder(counted(lm, writes("SAME"), writes("SAME")), STORE).evaluate("below")
    calls = len(lm.engine.requests)
    result = Ladder(counted(lm, writes("SAME"), writes("SAME")), STORE, rebuild=["below"]).evaluate("below")
    assert not result.loaded
    assert len(lm.engine.requests) == 2 * calls


def test_frozen_judges_from_the_store_alone() -> None:
    Ladder(make_experiment(), STORE).evaluate("prompt_optimized")
    calls = CALLS.read_text()
    frozen = Ladder(make_experiment(), STORE, frozen=True)
    assert frozen.evaluate("prompt_optimized").loaded
    with pytest.raises(StoreError, match=r"'finetuned'.*never built before.*without --dspy-frozen"):
        frozen.build("finetuned")
    with pytest.raises(StoreError, match="'baseline' of experiment 'parity' on dev is not in the store"):
        frozen.evaluate("baseline")
    with pytest.raises(StoreError, match="changed: seed"):
        Ladder(make_experiment(seed=3), STORE, frozen=True).build("prompt_optimized")
    assert CALLS.read_text() == calls
    assert not Path("jobs.log").exists()


class StopAfter:
    """Progress that interrupts the session after so many examples."""

    def __init__(self, count: int) -> None:
        self.count = count

    def task(self, title: str, total: float | None = None, unit: str = "it") -> Any:
        import contextlib

        class Task:
            def advance(task, done: float, *, total: float | None = None, note: str = "") -> None:  # noqa: N805
                if done >= self.count:
                    raise KeyboardInterrupt

        return contextlib.nullcontext(Task())


def interrupt(lm: Any, after: int) -> list[Path]:
    import time

    answer = lm.engine.complete

    def unhurried(request: Any) -> Any:
        time.sleep(0.03)  # the interrupted thread has to keep up with the one that answers
        return answer(request)

    lm.engine.complete = unhurried
    with pytest.raises(KeyboardInterrupt):
        Ladder(experiment(predict(), lm, count=100), STORE, num_threads=1, progress=StopAfter(after)).evaluate(
            "baseline"
        )
    return list(STORE.glob("evaluations/*/*/*.partial.jsonl"))


def finished_in(journal: Path) -> list[str]:
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return [line["result"]["id"] for line in lines if "result" in line]  # others say what the results rest on


def test_an_interrupted_evaluation_goes_on_where_it_stopped() -> None:
    first = scripted()
    [journal] = interrupt(first, 4)
    finished = finished_in(journal)
    assert 4 <= len(finished) < 10
    second = scripted()
    result = Ladder(experiment(predict(), second, count=100), STORE).evaluate("baseline")
    assert len(second.engine.requests) == 10 - len(finished)
    done = {e.id for e in result.examples}
    assert set(finished) <= done
    assert result.n == 10
    assert result.score == 1.0
    assert not result.loaded
    assert list(STORE.rglob("*.partial.jsonl")) == []


def test_a_half_written_line_of_the_journal_is_ignored() -> None:
    [journal] = interrupt(scripted(), 4)
    whole = [line for line in journal.read_text().splitlines() if line]
    third = [number for number, line in enumerate(whole) if "result" in json.loads(line)][2]
    journal.write_text("\n".join(whole[:third]) + "\n" + whole[third][:37])
    [outputs] = STORE.glob("outputs/*/*/*.partial.jsonl")
    written = outputs.read_text().splitlines()
    third = [number for number, line in enumerate(written) if "output" in json.loads(line)][2]
    outputs.write_text("\n".join(written[:third]) + "\n" + written[third][:37])
    second = scripted()
    result = Ladder(experiment(predict(), second, count=100), STORE).evaluate("baseline")
    assert len(second.engine.requests) == 8
    assert (result.n, result.score) == (10, 1.0)


def as_of_other_code(journal: Path, key: str) -> None:
    """Let a journal's results rest on other code than there is."""
    names = {"experiment": "scripted", "stage": "baseline", "on": "dev"}
    owner = {**names, key: journal.name[len("dev-") :].split(".")[0]}
    lines = []
    for line in map(json.loads, journal.read_text().splitlines()):
        if "footprint" in line:
            line["footprint"]["functions"] = dict.fromkeys(line["footprint"]["functions"], "0" * 64)
            covered = {"v": line["v"], "footprint": line["footprint"]} if key == "outputs" else line["footprint"]
            line["checksum"] = value_checksum(owner, covered)
        lines.append(json.dumps(line))
    journal.write_text("\n".join(lines) + "\n")


def test_an_interrupted_evaluation_whose_code_changed_starts_again() -> None:
    """What a helper is, its user's source does not say: the journals say what is in them rests on."""
    [journal] = interrupt(scripted(), 4)
    finished = finished_in(journal)
    as_of_other_code(journal, "key")
    second = scripted()
    result = Ladder(experiment(predict(), second, count=100), STORE).evaluate("baseline")
    assert len(second.engine.requests) == 10 - len(finished), "only the metric is another: what was answered stands"
    assert (result.n, result.score) == (10, 1.0)


def test_an_interrupted_evaluation_whose_program_changed_starts_again() -> None:
    [journal] = interrupt(scripted(), 4)
    [outputs] = STORE.glob("outputs/*/*/*.partial.jsonl")
    as_of_other_code(journal, "key")
    as_of_other_code(outputs, "outputs")
    second = scripted()
    Ladder(experiment(predict(), second, count=100), STORE).evaluate("baseline")
    assert len(second.engine.requests) == 10


def test_a_twice_interrupted_evaluation_loses_nothing() -> None:
    [journal] = interrupt(scripted(), 2)
    journal.write_text(journal.read_text() + '{"id": "half')
    once = len(finished_in(journal))
    [journal] = interrupt(scripted(), once + 2)
    twice = len(finished_in(journal))
    assert twice >= once + 1
    last = scripted()
    Ladder(experiment(predict(), last, count=100), STORE).evaluate("baseline")
    assert len(last.engine.requests) == 10 - twice


def test_an_interrupted_evaluation_of_a_local_lm_starts_again() -> None:
    assert interrupt(scripted(model="local:toy"), 4) == []
    lm = scripted(model="local:toy")
    Ladder(experiment(predict(), lm, count=100), STORE).evaluate("baseline")
    assert len(lm.engine.requests) == 10


def test_what_failed_before_an_interruption_is_tried_again() -> None:
    def down(fields: Any, request: Any) -> str:
        raise RuntimeError("the provider is down")

    interrupt(scripted_lm(down, num_retries=0), 4)
    result = Ladder(experiment(predict(), scripted(), count=100), STORE).evaluate("baseline")
    assert result.errors == 0
    assert result.score == 1.0
