"""Look at sentences.json with plain means: how hard is it, and is there leakage between the splits?

Prints the counts, the lengths, what a rule on capital letters reaches, and the sentences of different splits that are
most alike:

    python examples/low_bootstrap/check_sentences.py
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from generate_sentences import DAYS, MONTHS, NATIONS, SPLITS, generate

THRESHOLD = 0.5
"""Sentences of different splits that share this much of their wording, names left out, would be near-copies."""

Rows = list[dict[str, Any]]


def load() -> dict[str, Rows]:
    """The rows of sentences.json by split."""
    rows = json.loads(Path(__file__).with_name("sentences.json").read_text(encoding="utf-8"))
    ends = [0]
    for size in SPLITS.values():
        ends.append(ends[-1] + size)
    return {split: rows[start:end] for split, (start, end) in zip(SPLITS, pairwise(ends), strict=True)}


def capitals_rule(text: str) -> list[str]:
    """What one would write in five minutes: runs of capitalized words, but for a first word that is a common one."""
    common = {*DAYS, *MONTHS, *NATIONS, "The", "In", "On", "A", "I", "We", "Is", "Our", "My", "Dr", "Mr", "Mrs"}
    runs = re.findall(r"[A-Z]\w*(?: (?:[A-Z]\w*|\d+))*", text)
    return [name for run in runs if (name := " ".join(word for word in run.split() if word not in common))]


def accuracy(rows: Rows) -> float:
    """Share of the rows on which the rule finds exactly the entities."""
    return sum(set(capitals_rule(row["text"])) == set(row["entities"]) for row in rows) / len(rows)


def wording(row: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """Pairs of neighbouring words, every name a blank."""
    text = row["text"]
    for entity in row["entities"]:
        text = text.replace(entity, "_")
    words = re.findall(r"\w+", text.lower())
    return frozenset(pairwise(words))


def nearest_across(splits: dict[str, Rows], top: int = 10) -> list[tuple[float, str, str]]:
    """The ``top`` pairs of different splits whose wording is most alike: (Jaccard similarity, text, text)."""
    forms = {split: {wording(row): row["text"] for row in rows} for split, rows in splits.items()}
    found = [
        (len(a & b) / len(a | b), forms[one][a], forms[other][b])
        for one, other in combinations(forms, 2)
        for a in forms[one]
        for b in forms[other]
        if a & b
    ]
    return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))[:top]


def main() -> None:
    """Print it all."""
    splits = load()
    everything = [row for rows in splits.values() for row in rows]
    made = [sentence for sentences in generate().values() for sentence in sentences]
    print(f"as the generator writes them: {[s.text for s in made] == [row['text'] for row in everything]}")
    print(f"distinct texts: {len({row['text'] for row in everything})}")
    for split, rows in splits.items():
        counts = Counter(len(row["entities"]) for row in rows)
        shares = ", ".join(f"{n} with {count}" for count, n in sorted(counts.items()))
        print(f"{split:6} entities: {shares}; rule on capital letters {accuracy(rows):.0%}")
    lengths = sorted(len(row["text"].split()) for row in everything)
    print(f"words: {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}")
    print(f"most alike across splits, names left out (near-copy from {THRESHOLD}):")
    for score, text, other in nearest_across(splits):
        print(f"  {score:.2f}  {text!r} / {other!r}")


if __name__ == "__main__":
    main()
