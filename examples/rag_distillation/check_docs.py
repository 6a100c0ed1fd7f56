"""Look at passages.json and questions.json with plain means: how hard is it, and is there leakage between the splits?

Prints lengths, how often BM25 finds the passage that answers (the ceiling of every stage), what an answerer without a
language model reaches, and the questions of different splits that are most alike:

    python examples/rag_distillation/check_docs.py
"""

from __future__ import annotations

from collections import Counter

import dspy
from generate_docs import Docs, Question, generate
from rag import Passages, token_f1

THRESHOLD = 0.5  # questions of different splits that share this much of their 3-word shingles would be near-copies


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Runs of three words, the end of the text counted as one."""
    words = text.lower().strip("?.").split()
    return frozenset(tuple([*words, "."][i : i + 3]) for i in range(max(1, len(words) - 1)))


def similarity(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard: shared shingles as a share of all."""
    return len(a & b) / len(a | b)


def nearest_across(questions: dict[str, list[str]], top: int = 5) -> list[tuple[float, str, str]]:
    """The ``top`` most alike pairs of questions from different splits: (similarity, one, other)."""
    known = [(split, text, shingles(text)) for split, texts in questions.items() for text in texts]
    found = [
        (similarity(one, other), text, other_text)
        for i, (split, text, one) in enumerate(known)
        for other_split, other_text, other in known[i + 1 :]
        if split != other_split and one & other
    ]
    return sorted(found, key=lambda pair: -pair[0])[:top]


def found(docs: Docs, split: str, retrieve: Passages) -> list[bool]:
    """For each question, whether the passage that answers it is among those that retrieval gives."""
    return [docs.passages[q.passage] in retrieve(q.question) for q in docs.questions[split]]


def f1(question: Question, answer: str) -> float:
    return token_f1(dspy.Example(answer=question.answer), dspy.Prediction(answer=answer))


def main() -> None:
    docs = generate()
    lengths = sorted(len(text.split()) for text in docs.passages)
    print(f"passages: {len(docs.passages)}, words {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}")
    for split, asked in docs.questions.items():
        answers = Counter(q.answer for q in asked)
        words = sum(len(q.answer.split()) for q in asked) / len(asked)
        print(f"{split:6} {len(asked)} questions about {len({q.passage for q in asked})} passages", end="; ")
        print(f"{len(answers)} different answers of {words:.1f} words")
    train = {q.answer for q in docs.questions["train"]}
    for split in ("dev", "test"):
        known = sum(q.answer in train for q in docs.questions[split])
        print(f"answers in {split} that some train question has too: {known} of {len(docs.questions[split])}")

    print("\nthe passage that answers is found")
    for k in (1, 3, 5):
        retrieve = Passages(docs.passages, k)
        shares = {split: sum(found(docs, split, retrieve)) / len(docs.questions[split]) for split in docs.questions}
        print(f"  k = {k}: " + ", ".join(f"{split} {share:.1%}" for split, share in shares.items()))

    print("\ntoken F1 without a language model (test)")
    retrieve = Passages(docs.passages, 1)
    asked = docs.questions["test"]
    print(f"  the whole best passage   {sum(f1(q, retrieve(q.question)[0]) for q in asked) / len(asked):.1%}")
    most = Counter(q.answer for q in docs.questions["train"]).most_common(1)[0][0]
    print(f"  {most!r} every time   {sum(f1(q, most) for q in asked) / len(asked):.1%}")

    nearest = nearest_across({split: [q.question for q in asked] for split, asked in docs.questions.items()})
    verdict = "no near-copies" if nearest[0][0] < THRESHOLD else "NEAR-COPIES"
    print(f"\nmost alike across splits (3-word shingles, Jaccard; near-copy from {THRESHOLD}): {verdict}")
    for score, one, other in nearest:
        print(f"  {score:.2f}  {one!r}\n        {other!r}")


if __name__ == "__main__":
    main()
