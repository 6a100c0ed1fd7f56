"""The sentences of the low_bootstrap example: reproducible, labelled as its generator says, without leakage."""

from __future__ import annotations

import json
from itertools import chain, combinations
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "low_bootstrap"
DATA = "sentences"


def test_the_generator_writes_the_file_byte_for_byte(example, made):
    written = example.generator.to_json(chain.from_iterable(made.values()))
    assert written.encode("utf-8") == (EXAMPLE / "sentences.json").read_bytes()


def test_another_seed_gives_other_sentences(example, made):
    assert [s.text for s in example.generator.generate(seed=1)["test"]] != [s.text for s in made["test"]]


def test_a_thousand_rows_of_two_fields():
    rows = json.loads((EXAMPLE / "sentences.json").read_text(encoding="utf-8"))
    assert len(rows) == 1000
    assert all(list(row) == ["text", "entities"] for row in rows)
    assert len({row["text"] for row in rows}) == 1000


def test_every_label_stands_in_its_text_in_its_order(splits):
    for row in chain.from_iterable(splits.values()):
        places = [row["text"].find(entity) for entity in row["entities"]]
        assert places == sorted(places)
        assert -1 not in places
        assert len(set(row["entities"])) == len(row["entities"])


def test_what_is_no_entity_is_never_labelled(example, splits):
    generator = example.generator
    never = {*generator.DAYS, *generator.MONTHS, *generator.NATIONS, *generator.ROLES, *generator.THINGS}
    labelled = {entity for row in chain.from_iterable(splits.values()) for entity in row["entities"]}
    assert not never & labelled


def test_texts_are_short_and_hold_few_entities(splits):
    for rows in splits.values():
        assert max(len(row["text"].split()) for row in rows) <= 15
        counts = {len(row["entities"]) for row in rows}
        assert counts == {0, 1, 2, 3}
        assert sum(not row["entities"] for row in rows) / len(rows) <= 0.15


def test_no_two_splits_share_a_template_or_a_name(made):
    for part in ("template", "entities"):
        held = [
            {s.template for s in sentences} if part == "template" else {e for s in sentences for e in s.entities}
            for sentences in made.values()
        ]
        assert all(held)
        for one, other in combinations(held, 2):
            assert not one & other


def test_no_near_copies_across_splits(example, splits):
    score, *pair = example.checks.nearest_across(splits, top=1)[0]
    assert score < example.checks.THRESHOLD, pair


def test_nearest_across_finds_a_near_copy(example, splits):
    row = splits["train"][0]
    name = row["entities"][0]
    planted = {**row, "text": row["text"].replace(name, "Zanzibar"), "entities": ["Zanzibar", *row["entities"][1:]]}
    score, _, text = example.checks.nearest_across({**splits, "test": [*splits["test"], planted]}, top=1)[0]
    assert score > example.checks.THRESHOLD
    assert text == planted["text"]


def test_a_rule_on_capital_letters_does_not_solve_it(example, splits):
    for rows in splits.values():
        assert 0.4 < example.checks.accuracy(rows) < 0.9
