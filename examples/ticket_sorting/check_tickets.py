"""Look at tickets.json with plain means: how hard is it, and is there leakage between the splits?

Prints the counts, the lengths, what a keyword rule and two bag-of-words classifiers (trained on the train split) reach,
and the pairs of tickets of different splits that are most alike. Needs scikit-learn for the classifiers alone:

    python examples/ticket_sorting/check_tickets.py
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from generate_tickets import CATEGORIES, SPLITS, generate, shingles, similarity

THRESHOLD = 0.5  # tickets of different splits that share this much of their 3-word shingles would be near-copies
Rows = list[dict[str, str]]

# What one would write in five minutes. The first category with the most hits wins; no hit at all: other.
KEYWORDS = {
    "billing": r"invoice|bill|charge|refund|payment|paid|price|subscription|discount|vat|card|cost",
    "technical": r"error|crash|bug|broken|slow|doesn't work|not work|loading|load|fail|export|sync|update",
    "account": r"login|log in|password|account|user|admin|permission|profile|e-mail|email|access|role|sign in|code",
    "feature_request": r"feature|please add|would be nice|wish|could you|option|missing|support for|allow|let me",
}


def load() -> dict[str, Rows]:
    """The rows of tickets.json by split."""
    rows = json.loads(Path(__file__).with_name("tickets.json").read_text(encoding="utf-8"))
    ends = [0]
    for size in SPLITS.values():
        ends.append(ends[-1] + size)
    return {split: rows[start:end] for split, (start, end) in zip(SPLITS, pairwise(ends), strict=True)}


def keyword_rule(text: str) -> str:
    hits = {category: len(re.findall(pattern, text.lower())) for category, pattern in KEYWORDS.items()}
    best = max(hits, key=lambda category: hits[category])
    return best if hits[best] else "other"


def accuracy(predicted: Iterable[str], rows: Rows) -> float:
    return sum(guess == row["category"] for guess, row in zip(predicted, rows, strict=True)) / len(rows)


def nearest_across(splits: dict[str, Rows], top: int = 10) -> list[tuple[float, str, str, str, str]]:
    """The ``top`` most alike pairs from different splits: (similarity, split, text, split, text).

    Only pairs that share a shingle are looked at: all others have similarity 0.
    """
    where = [(split, row["text"], shingles(row["text"])) for split, rows in splits.items() for row in rows]
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs: set[tuple[int, int]] = set()
    for i, (split, _, grams) in enumerate(where):
        for gram in grams:
            pairs.update((j, i) for j in holders[gram] if where[j][0] != split)
            holders[gram].append(i)
    found = [(similarity(where[i][2], where[j][2]), *where[i][:2], *where[j][:2]) for i, j in sorted(pairs)]
    return sorted(found, key=lambda pair: -pair[0])[:top]


def bag_of_words(splits: dict[str, Rows]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    train = splits["train"]
    kinds = {
        "words, 1-2 grams": TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        "characters, 2-5 grams": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    }
    for name, vectorizer in kinds.items():
        model = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000))
        with threadpool_limits(1):  # several threads get into each other's way on so little
            model.fit([row["text"] for row in train], [row["category"] for row in train])
        for split in ("dev", "test"):
            guesses = list(model.predict([row["text"] for row in splits[split]]))
            print(f"  {name + ' + logistic regression':45} {split:5} {accuracy(guesses, splits[split]):6.1%}", end="")
            wrong = Counter(r["category"] for g, r in zip(guesses, splits[split], strict=True) if g != r["category"])
            print("   wrong: " + ", ".join(f"{c} {wrong[c]}" for c in CATEGORIES))


def main() -> None:
    splits = load()
    everything = [row for rows in splits.values() for row in rows]

    print("tickets by split and category")
    print(" " * 8 + "".join(f"{category:>17}" for category in CATEGORIES))
    for split, rows in splits.items():
        counts = Counter(row["category"] for row in rows)
        print(f"  {split:6}" + "".join(f"{counts[category]:17}" for category in CATEGORIES))
    made = [ticket for tickets in generate().values() for ticket in tickets]
    marked = Counter(ticket.category for ticket in made if ticket.ambiguous)
    print(f"  ambiguous: {sum(marked.values())} ({', '.join(f'{c} {marked[c]}' for c in CATEGORIES)})")
    print(f"  as the generator writes them: {[t.text for t in made] == [row['text'] for row in everything]}")
    print(f"  distinct texts: {len({row['text'] for row in everything})}")

    print("\nwords per ticket")
    lengths = sorted(len(row["text"].split()) for row in everything)
    marks = {
        f"{q}%": lengths[min(len(lengths) - 1, q * len(lengths) // 100)] for q in (0, 5, 10, 25, 50, 75, 90, 95, 100)
    }
    print("  " + "  ".join(f"{q}: {value}" for q, value in marks.items()))
    for category in CATEGORIES:
        own = sorted(len(row["text"].split()) for row in everything if row["category"] == category)
        print(f"  {category:16} median {own[len(own) // 2]}")

    print("\naccuracy without a language model")
    for split, rows in splits.items():
        print(f"  {'keyword rule':45} {split:5} {accuracy(map(keyword_rule, (r['text'] for r in rows)), rows):6.1%}")
    bag_of_words(splits)

    nearest = nearest_across(splits)
    verdict = "no near-copies" if nearest[0][0] < THRESHOLD else "NEAR-COPIES"
    print(f"\nmost alike across splits (3-word shingles, Jaccard; near-copy from {THRESHOLD}): {verdict}")
    for score, split, text, other_split, other in nearest:
        print(f"  {score:.2f}  {split}: {text!r}\n        {other_split}: {other!r}")


if __name__ == "__main__":
    main()
