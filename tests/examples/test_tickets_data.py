"""The tickets of the ticket_sorting example: reproducible, balanced, and without leakage between the splits."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket_sorting"
DATA = "tickets"


def test_the_generator_writes_the_file_byte_for_byte(example, made):
    written = example.generator.to_json(chain.from_iterable(made.values()))
    assert written.encode("utf-8") == (EXAMPLE / "tickets.json").read_bytes()


def test_another_seed_gives_other_tickets(example, made):
    other = example.generator.generate(seed=1)
    assert [t.text for t in other["test"]] != [t.text for t in made["test"]]


def test_a_thousand_rows_of_two_fields():
    rows = json.loads((EXAMPLE / "tickets.json").read_text(encoding="utf-8"))
    assert len(rows) == 1000
    assert all(list(row) == ["text", "category"] for row in rows)
    assert len({row["text"] for row in rows}) == 1000


def test_each_split_holds_the_five_categories_in_equal_parts(example, splits):
    for split, size in example.generator.SPLITS.items():
        counts = Counter(row["category"] for row in splits[split])
        assert counts == dict.fromkeys(("billing", "technical", "account", "feature_request", "other"), size // 5)


def test_the_order_is_shuffled(splits):
    for rows in splits.values():
        labels = [row["category"] for row in rows]
        assert max(Counter(labels[: len(labels) // 4]).values()) < len(labels) // 4 * 0.4


def test_lengths_are_in_range(splits):
    lengths = sorted(len(row["text"].split()) for rows in splits.values() for row in rows)
    assert lengths[0] >= 6
    assert lengths[-1] <= 70
    assert 22 <= lengths[len(lengths) // 2] <= 28


def test_no_near_copies_across_splits(example, splits):
    score, *pair = example.checks.nearest_across(splits, top=1)[0]
    assert score < example.checks.THRESHOLD, pair


def test_nearest_across_finds_a_near_copy(example, splits):
    row = splits["train"][0]
    planted = {**splits, "test": [*splits["test"][:-1], {**row, "text": row["text"] + " Thanks."}]}
    score, _, text, _, _ = example.checks.nearest_across(planted, top=1)[0]
    assert score > example.checks.THRESHOLD
    assert text.startswith(row["text"])


def test_no_two_splits_share_the_sentence_that_carries_the_ask(example, made):
    asks = {split: {ticket.phrasing.text for ticket in tickets} for split, tickets in made.items()}
    assert {split: len(texts) for split, texts in asks.items()} == {"train": 200, "dev": 100, "test": 100}
    for one, other in combinations(asks.values(), 2):
        assert not one & other


def test_every_scenario_is_in_every_split(made):
    scenarios = [{(t.category, t.phrasing.scenario) for t in tickets} for tickets in made.values()]
    assert scenarios[0] == scenarios[1] == scenarios[2]


def test_a_few_tickets_are_ambiguous(made):
    for tickets in made.values():
        assert 0.03 <= sum(t.ambiguous for t in tickets) / len(tickets) <= 0.12


def test_a_keyword_rule_does_not_solve_it(example, splits):
    for rows in splits.values():
        assert example.checks.accuracy([example.checks.keyword_rule(row["text"]) for row in rows], rows) < 0.65
