"""The word problems of the better_together example: reproducible, right, and without leakage between the splits."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "better_together"
DATA = "problems"


def test_the_generator_writes_the_file_byte_for_byte(example, made):
    written = example.generator.to_json(chain.from_iterable(made.values()))
    assert written.encode("utf-8") == (EXAMPLE / "problems.json").read_bytes()


def test_another_seed_gives_other_problems(example, made):
    other = example.generator.generate(seed=1)
    assert [p.problem for p in other["test"]] != [p.problem for p in made["test"]]


def test_a_thousand_distinct_problems_in_the_promised_proportions(splits):
    rows = [row for rows in splits.values() for row in rows]
    assert len(rows) == len({row["problem"] for row in rows}) == 1000
    assert all(list(row) == ["problem", "reasoning", "answer", "steps", "distractors"] for row in rows)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 800, "dev": 100, "test": 100}
    for rows in splits.values():
        counts = Counter(row["steps"] for row in rows)
        assert {steps: count / len(rows) for steps, count in counts.items()} == {1: 0.5, 2: 0.25, 3: 0.15, 4: 0.1}
        assert sum(row["distractors"] for row in rows) / len(rows) == 0.4


def test_the_worked_reasoning_is_right_and_leads_to_the_answer(example, splits):
    for row in chain.from_iterable(splits.values()):
        equations = example.checks.recomputed(row["reasoning"])
        assert len(equations) == row["steps"]
        for is_really, says in equations:
            assert is_really == pytest.approx(says)
        assert equations[-1][1] == row["answer"] > 0


def test_a_problem_holds_the_numbers_it_needs_and_one_more_for_a_distractor(example, splits):
    for row in chain.from_iterable(splits.values()):
        assert len(example.checks.numbers(row["problem"])) == row["steps"] + 1 + row["distractors"]


def test_no_rule_that_does_not_read_solves_it(example, splits):
    rows = list(chain.from_iterable(splits.values()))
    easiest = [row for row in rows if row["steps"] == 1]
    assert max(example.checks.accuracy(rule, easiest) for rule in example.checks.RULES.values()) < 0.35


def test_no_two_problems_share_setting_operations_and_numbers(made):
    recipes = [problem.recipe for problem in chain.from_iterable(made.values())]
    assert len(set(recipes)) == len(recipes)


def test_no_near_copies_across_splits(example, splits):
    assert example.checks.near_copies(splits) == []


@pytest.mark.parametrize(
    "copy",
    [
        "Zoe has 4 albums with 7 marbles in each. Zoe finds 9 more in the attic. How many marbles does Zoe have now?",
        "Yuki has 4 albums with 7 coins in each. Yuki is 8 years old. Yuki finds 9 more in the attic. "
        "How many coins does Yuki have now?",
    ],
    ids=["another name and thing", "a distractor more"],
)
def test_near_copies_are_found(example, copy):
    original = "Ada has 4 albums with 7 coins in each. Ada finds 9 more in the attic. How many coins does Ada have now?"
    planted = {"train": [{"problem": original}], "test": [{"problem": copy}]}
    assert example.checks.near_copies(planted)[0] == ("train", original, "test", copy)


def test_other_numbers_are_no_near_copy(example):
    one = "Ada has 4 coins. Ada finds 9 more in the attic. How many coins does Ada have now?"
    other = "Ada has 4 coins. Ada finds 8 more in the attic. How many coins does Ada have now?"
    assert example.checks.near_copies({"train": [{"problem": one}], "test": [{"problem": other}]}) == []
