"""Look at problems.json with plain means: are the answers right, how hard is it, is there leakage between the splits?

Prints counts, what rules without any language model reach, and the problems of different splits that are most alike:

    python examples/better_together/check_problems.py
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from generate_problems import NAMES, SETTINGS, SPLITS

Rows = list[dict[str, Any]]
Skeleton = tuple[str, tuple[float, ...]]

NUMBER = re.compile(r"\d+(?:\.\d+)?")
THINGS = sorted({thing for setting in SETTINGS for thing in setting.things}, key=len, reverse=True)
MASK = re.compile(rf"\b(?:{'|'.join((*NAMES, *THINGS))})\b")


def load() -> dict[str, Rows]:
    """The rows of problems.json by split."""
    rows = json.loads(Path(__file__).with_name("problems.json").read_text(encoding="utf-8"))
    ends = [0]
    for size in SPLITS.values():
        ends.append(ends[-1] + size)
    return {split: rows[start:end] for split, (start, end) in zip(SPLITS, pairwise(ends), strict=True)}


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def skeletons(row: dict[str, Any]) -> list[Skeleton]:
    """The story's sentences without names, things and numbers, and its numbers; also without each one of its sentences.

    Two problems with a skeleton in common differ in a name, a thing or one sentence (a distractor, say): near-copies.
    """
    sentences = [
        (NUMBER.sub("#", MASK.sub("_", s)), tuple(numbers(s))) for s in re.split(r"(?<=[.?]) ", row["problem"])
    ]
    numbered = [i for i, (_, found) in enumerate(sentences) if found]
    kept = [sentences, *([s for j, s in enumerate(sentences) if j != i] for i in numbered[1:])]
    return [
        (" ".join(text for text, _ in some), tuple(n for _, found in some for n in found))
        for some in kept
        if sum(len(found) for _, found in some) > 1
    ]


def near_copies(splits: dict[str, Rows]) -> list[tuple[str, str, str, str]]:
    """Pairs of problems of different splits with the same story and numbers: (split, problem, split, problem)."""
    holders: defaultdict[Skeleton, list[tuple[str, str]]] = defaultdict(list)
    found = []
    for split, rows in splits.items():
        for row in rows:
            for skeleton in dict.fromkeys(skeletons(row)):
                found += [(*other, split, row["problem"]) for other in holders[skeleton] if other[0] != split]
                holders[skeleton].append((split, row["problem"]))
    return found


def recomputed(reasoning: str) -> list[tuple[float, float]]:
    """For each equation of a worked reasoning: what it comes to, and what it says that it comes to."""
    operations: dict[str, Callable[[float, float], float]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    checked = []
    for equation in reasoning.split("; "):
        left, sign, right, _, result = equation.split()
        checked.append((operations[sign](float(left), float(right)), float(result)))
    return checked


# What one would try without reading: always the same operation on the numbers that the problem holds.
RULES: dict[str, Callable[[list[float]], float]] = {
    "add all numbers": sum,
    "take all from the first": lambda found: found[0] - sum(found[1:]),
    "multiply all numbers": prod,
    "the first number": lambda found: found[0],
    "the last number": lambda found: found[-1],
}


def accuracy(rule: Callable[[list[float]], float], rows: Rows) -> float:
    return sum(abs(rule(numbers(row["problem"])) - row["answer"]) < 0.01 for row in rows) / len(rows)


def main() -> None:
    splits = load()
    everything = [row for rows in splits.values() for row in rows]
    print("problems by split and number of steps")
    for split, rows in splits.items():
        counts = Counter(row["steps"] for row in rows)
        distracted = sum(row["distractors"] for row in rows)
        print(
            f"  {split:6}" + "".join(f"{counts[n]:6}" for n in sorted(counts)) + f"   with a distractor: {distracted}"
        )
    print(f"  distinct texts: {len({row['problem'] for row in everything})}")
    words = sorted(len(row["problem"].split()) for row in everything)
    print(f"  words: {words[0]} to {words[-1]}, median {words[len(words) // 2]}")

    print("\naccuracy of rules that do not read, by number of steps")
    for name, rule in RULES.items():
        print(f"  {name:24}", end="")
        for n in sorted({row["steps"] for row in everything}):
            print(f"{accuracy(rule, [row for row in everything if row['steps'] == n]):8.1%}", end="")
        print()

    found = near_copies(splits)
    print(f"\nnear-copies across splits: {len(found) or 'none'}")
    for split, problem, other_split, other in found[:10]:
        print(f"  {split}: {problem!r}\n  {other_split}: {other!r}")


if __name__ == "__main__":
    main()
