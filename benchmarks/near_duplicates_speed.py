"""How long the search for near-duplicates across splits takes, and that it finds what was planted.

    python benchmarks/near_duplicates_speed.py --examples 100000

Two kinds of texts: words drawn from a vocabulary of 20 000 as they are in English (Zipf), and tickets written from few
templates, the hard case: almost everything is alike. One example in a hundred of dev and test is a copy of one in train
with a word in thirty replaced.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from pytest_dspy_ft.experiment.near_duplicates import THRESHOLD, member_sets
from pytest_dspy_ft.experiment.similar_pairs import similar_pairs

TEMPLATES = (
    "hello i bought {} from your {} last {} and it still does not {} please {} me as soon as you {}",
    "my {} stopped to {} after the {} of {} and nobody could {} what the {} is about",
    "where do i {} the {} that you promised in {} my {} says it would {} by {}",
    "please {} the {} on my {} since i did not {} it and the {} is {} too high",
)


def texts_of(kind: str, n: int, generator: np.random.Generator) -> list[str]:
    """So many texts of about 30 words."""
    if kind == "words":
        ranks = np.minimum(generator.zipf(1.2, (n, 30)), 20_000)
        return [" ".join(f"w{rank}" for rank in row) for row in ranks]
    fillers = generator.integers(0, 300, (n, 12))
    return [TEMPLATES[row[0] % 4].format(*(f"f{i}" for i in row)) + f" {row[6]} {row[7]} {row[8]}" for row in fillers]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    n = parser.parse_args().examples
    for kind in ("words", "templates"):
        generator = np.random.default_rng(0)
        texts = texts_of(kind, n, generator)
        groups = np.repeat([0, 1, 2], [n - 2 * (n // 10), n // 10, n // 10]).tolist()
        planted = set()
        for index in range(n - 2 * (n // 10), n, 100):
            source = int(generator.integers(0, n - 2 * (n // 10)))
            row = texts[source].split()
            row[int(generator.integers(1, len(row) - 1))] = "replaced"
            texts[index] = " ".join(row).capitalize() + "!"
            planted.add((source, index))
        start = time.perf_counter()
        found = {
            (first, second): similarity
            for first, second, similarity in similar_pairs(member_sets(texts), groups, THRESHOLD)
        }
        seconds = time.perf_counter() - start
        above = sum(pair in found for pair in planted)
        print(
            f"{kind}: {n} examples in {seconds:.2f} s, {len(found)} pairs from {THRESHOLD:.0%} on; "
            f"of {len(planted)} planted {above} found"
        )


if __name__ == "__main__":
    main()
