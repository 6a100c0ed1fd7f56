"""The program of this example: find three passages, answer from them; and the metric that judges the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import dspy
import numpy as np

# Names such as FW-1020, 3.4 or /beds/water are one word each.
WORD = r"(?u)\w+(?:[-./:]\w+)*"


class Passages:
    """A text collection that is searched by BM25.

    What it finds is determined by its texts and ``k``: they are its fingerprint in the store, so that a changed
    passage builds and measures anew. It never changes, so copies of a program share it.

    Args:
        texts: The passages.
        k: How many of them a search gives.
    """

    def __init__(self, texts: Sequence[str], k: int = 3, index: bm25s.BM25 | None = None) -> None:
        self.texts = tuple(texts)
        self.k = k
        if index is None:
            index = bm25s.BM25(method="bm25+")
            index.index(_words(self.texts), show_progress=False)
        self._index = index

    def __call__(self, query: str) -> list[str]:
        """The ``k`` passages that fit a question best, the best first; of equal ones, the earlier first."""
        words = _words([query])[0]
        scores = self._index.get_scores(words) if words else np.zeros(len(self.texts))
        return [self.texts[i] for i in np.argsort(-scores, kind="stable")[: self.k]]

    @classmethod
    def of(cls, path: Path) -> Passages:
        """Those of a JSON file."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def save(self, folder: Path) -> None:
        """Write texts and index."""
        self._index.save(folder)
        (folder / "passages.json").write_text(json.dumps({"k": self.k, "texts": self.texts}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Passages:
        """Read what :meth:`save` wrote; nothing is indexed again."""
        saved = json.loads((folder / "passages.json").read_text(encoding="utf-8"))
        return cls(saved["texts"], saved["k"], bm25s.BM25.load(folder))

    def __dspy_ft_key__(self) -> Any:
        return [self.texts, self.k, WORD]

    def __deepcopy__(self, memo: dict[int, Any]) -> Passages:
        return self


def _words(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", token_pattern=WORD, return_ids=False, show_progress=False)


class AnswerFromDocs(dspy.Signature):
    """Answer the question based on the provided context."""

    context: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class RAG(dspy.Module):
    """Retrieve, then answer.

    Args:
        retrieve: Finds passages for a question.
        generate: Answers from them.
    """

    def __init__(self, retrieve: Passages, generate: dspy.Module) -> None:
        super().__init__()
        self.retrieve = retrieve
        self.generate = generate

    def context(self, question: str) -> str:
        """What the question is answered from: the best passage last, next to the question."""
        return "\n\n".join(reversed(self.retrieve(question)))

    def forward(self, question: str) -> dspy.Prediction:
        return self.generate(context=self.context(question), question=question)

    def save(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """As DSPy saves a program, and the index beside it."""
        super().save(path, *args, **kwargs)
        self.retrieve.save(Path(path).with_suffix(".index"))

    def load(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        super().load(path, *args, **kwargs)
        self.retrieve = Passages.load(Path(path).with_suffix(".index"))


def token_f1(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    """How well two sets of words agree, as the docs count it."""
    gold, answered = set(example.answer.lower().split()), set(prediction.answer.lower().split())
    if not gold or not answered:
        return float(gold == answered)
    shared = len(gold & answered)
    if not shared:
        return 0.0
    precision, recall = shared / len(answered), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


class TerseChatAdapter(dspy.ChatAdapter):
    """DSPy's chat format without the reminder of the format after every input, and without a second try in JSON.

    The reminder stands between the question and the answer, where it costs a small model's attention, and a CPU's time.
    """

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str | None:
        return None
