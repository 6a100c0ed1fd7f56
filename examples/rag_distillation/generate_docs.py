"""Write passages.json and questions.json: a product's documentation, and 1 000 questions about it with their answers.

The product is *Fernwick*, an invented controller for greenhouses. ``facts.txt`` holds what there is to know, written by
hand: 200 subjects (probes, error codes, settings, spare parts, crop recipes, API calls, releases, repair depots) with
four facts each, and 16 passages of general advice that no question asks about. ``wordings.txt`` holds the words.

Each subject is one passage, and the only one that knows its facts. Five questions ask about it: one for each fact, and
one for the way back, from a fact to the subject's name. Answers are spans of the passage.

The splits (800 train, 100 dev, 100 test) share no subject: the passage that answers a dev or test question answers no
train question, so what a fine-tuned model may have learned by heart does not help it there. The index holds all
passages, as it would in use. Questions of different splits are worded differently, too.

Run from anywhere; writes beside this file. The same seed gives the same bytes:

    python examples/rag_distillation/generate_docs.py
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SEED = 20261124
FOLDER = Path(__file__).parent
FACTS = "abcd"
BACK = "i"
HELD_OUT = {"dev": 20, "test": 20}
"""How many subjects only this split asks about."""

# What an indirect question stands behind. Each split has its own.
OPENINGS = {
    "train": (
        "Can you tell me {}?",
        "I need to know {}.",
        "Do you happen to know {}?",
        "Please look up {}.",
        "A customer asks about {}.",
        "I forgot {}.",
        "Remind me of {}.",
    ),
    "dev": ("Could you find out {}?", "My colleague wonders about {}.", "For the report I want {}."),
    "test": ("Would you check {} for me?", "We were discussing {}.", "Let me have {}, please."),
}
# Indirect questions that are clauses ("what the Wren measures") do not stand behind these words.
_NO_CLAUSE = ("Remind me of", "For the report I want", "Let me have")
_CLAUSE = (
    "what ",
    "which ",
    "how ",
    "where ",
    "when ",
    "over which",
    "after ",
    "at what",
    "for how",
    "from when",
    "since",
)


@dataclass(frozen=True)
class Subject:
    """One thing the documentation knows: its name and its facts by letter."""

    kind: str
    name: str
    facts: tuple[tuple[str, str], ...]

    @property
    def words(self) -> dict[str, str]:
        """What a wording may refer to."""
        return {"name": self.name, **dict(self.facts)}


@dataclass(frozen=True)
class Question:
    """A question, its answer, and which passage holds it."""

    question: str
    answer: str
    passage: int
    about: str
    """Letter of the fact, or ``i`` for the way back."""


@dataclass(frozen=True)
class Docs:
    """All of it."""

    passages: tuple[str, ...]
    questions: dict[str, tuple[Question, ...]]
    """By split, in the order of the file."""


def sections(path: Path) -> dict[str, list[str]]:
    """The lines below each ``[heading]`` of a file; blank lines and comments left out."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def read_subjects() -> list[Subject]:
    subjects = []
    for kind, lines in sections(FOLDER / "facts.txt").items():
        for line in lines if kind != "general" else ():
            name, *facts = (cell.strip() for cell in line.split("|"))
            subjects.append(Subject(kind, name, tuple(zip(FACTS, facts, strict=True))))
    return subjects


def read_wordings() -> tuple[dict[str, list[str]], dict[tuple[str, str], list[str]]]:
    """Ways to write a passage, by kind; five questions in the order of ``wordings.txt``, by kind and letter."""
    passages: dict[str, list[str]] = {}
    questions: dict[tuple[str, str], list[str]] = {}
    for kind, lines in sections(FOLDER / "wordings.txt").items():
        for line in lines:
            if line.startswith("= "):
                passages.setdefault(kind, []).append(line[2:])
            else:
                letter, *forms = (cell.strip() for cell in line.split("|"))
                questions[kind, letter] = forms
    return passages, questions


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def ask(forms: list[str], split: str, plain_in: str, dice: random.Random) -> str:
    """One wording of a question, with the names still to be filled in.

    Args:
        forms: From :func:`read_wordings`.
        split: Where it goes.
        plain_in: Which of dev and test has the plain one of the wordings held out for them.
        dice: Decides among what fits.
    """
    if split == "train":
        indirect = dice.random() < 0.4
        form = forms[2] if indirect else dice.choice(forms[:2])
    else:
        indirect = split != plain_in
        form = forms[4] if indirect else forms[3]
    if not indirect:
        return form
    clause = form.startswith(_CLAUSE)
    openings = [o for o in OPENINGS[split] if not (clause and o.startswith(_NO_CLAUSE))]
    return dice.choice(openings).format(form)


def assign(subjects: list[Subject], dice: random.Random) -> dict[str, list[int]]:
    """Positions of the subjects by split, every kind as evenly as it goes."""
    kinds = dict.fromkeys(subject.kind for subject in subjects)
    queues = {kind: [i for i, s in enumerate(subjects) if s.kind == kind] for kind in kinds}
    for queue in queues.values():
        dice.shuffle(queue)
    order = list(kinds)
    splits: dict[str, list[int]] = {"train": [], "dev": [], "test": []}
    for split, size in HELD_OUT.items():
        dice.shuffle(order)
        splits[split] = [queues[order[i % len(order)]].pop() for i in range(size)]
    splits["train"] = [i for queue in queues.values() for i in queue]
    return splits


def generate(seed: int = SEED) -> Docs:
    """Everything, from the facts and a seed."""
    dice = random.Random(seed)
    subjects = read_subjects()
    forms, wordings = read_wordings()
    texts = [sentence(dice.choice(forms[s.kind]).format(**s.words)) for s in subjects]
    general = sections(FOLDER / "facts.txt")["general"]
    places = list(range(len(subjects) + len(general)))
    dice.shuffle(places)
    passages = [""] * len(places)
    for place, text in zip(places, [*texts, *general], strict=True):
        passages[place] = text
    questions, turns = {}, list(wordings)  # five to a kind: what dev has of one kind, test has of the next
    for split, members in assign(subjects, dice).items():
        asked = []
        for i in members:
            words = subjects[i].words
            for letter in (*FACTS, BACK):
                wording = subjects[i].kind, letter
                plain_in = "dev" if turns.index(wording) % 2 else "test"
                text = ask(wordings[wording], split, plain_in, dice).format(**words)
                answer = words["name"] if letter == BACK else words[letter]
                asked.append(Question(sentence(text), answer, places[i], letter))
        dice.shuffle(asked)
        questions[split] = tuple(asked)
    return Docs(tuple(passages), questions)


def to_json(rows: Iterable[object]) -> str:
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def question_rows(docs: Docs) -> list[dict[str, str]]:
    return [{"question": q.question, "answer": q.answer} for split in docs.questions.values() for q in split]


if __name__ == "__main__":
    docs = generate()
    for name, rows in (("passages.json", docs.passages), ("questions.json", question_rows(docs))):
        (FOLDER / name).write_text(to_json(rows), encoding="utf-8", newline="\n")
        print(f"{FOLDER / name}: {len(rows)}")
