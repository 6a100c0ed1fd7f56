"""Mistakes in files of examples, and in labels."""

from __future__ import annotations

import json

from tests.mistakes.mistake import Mistake

_FILE = "Dataset.from_file('tickets.{}', inputs=['text'])"
_TYPED = """
class Kind(enum.Enum):
    BILLING = "billing"
    TECHNICAL = "technical"

class Item(pydantic.BaseModel):
    name: str
    price: float

class Typed(dspy.Signature):
    text: str = dspy.InputField()
    label: {kind} = dspy.OutputField()
"""


def _rows(label: object, wrong: object, at: int = 3) -> str:
    rows = [{"text": f"number {n}", "label": wrong if n == at else label} for n in range(30)]
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"


def _typed(name: str, kind: str, label: object, wrong: object, what: str, right: tuple[str, ...]) -> Mistake:
    return Mistake(
        name,
        (what,),
        ("tickets.json:5 (row 4)", "'label'"),
        right,
        declared={
            "above": _TYPED.format(kind=kind),
            "program": "dspy.Predict(Typed)",
            "dataset": _FILE.format("json"),
        },
        files={"tickets.json": _rows(label, wrong)},
    )


DATA = (
    Mistake(
        "a file that is not there",
        ("no such file",),
        ("tickets.json", "conftest.py:16"),
        ("tickets.jsonl",),
        declared={"dataset": _FILE.format("json")},
        files={"tickets.jsonl": "{}\n"},
    ),
    Mistake(
        "broken JSON",
        ("broken JSON",),
        ("tickets.json:2:",),
        ("a comma or a closing bracket is missing",),
        declared={"dataset": _FILE.format("json")},
        files={"tickets.json": '[{"text": "a", "label": "b"}\n{}]\n'},
    ),
    Mistake(
        "JSON Lines called .json",
        ("broken JSON",),
        ("tickets.json:2:",),
        (".jsonl",),
        declared={"dataset": _FILE.format("json")},
        files={"tickets.json": '{"text": "a"}\n{"text": "b"}\n'},
    ),
    Mistake(
        "an input field that is misspelt",
        ("'txt' is missing",),
        ("tickets.json:2 (row 1)",),
        ("'text'",),
        declared={"dataset": "Dataset.from_file('tickets.json', inputs=['txt'])"},
        files={"tickets.json": _rows("even", "even")},
    ),
    Mistake(
        "a table of semicolons",
        ("'text' is missing",),
        ("tickets.csv:2",),
        ("commas",),
        declared={"dataset": _FILE.format("csv")},
        files={"tickets.csv": "text;label\n1;odd\n2;even\n"},
    ),
    Mistake(
        "shares that do not sum to 1",
        ("1.1, not to 1",),
        ("conftest.py:16",),
        ("(0.7, 0.1, 0.2)",),
        declared={"dataset": "Dataset.from_examples(examples(), split=(0.8, 0.1, 0.2))"},
    ),
    Mistake(
        "an example in two splits",
        ("two splits, train and dev",),
        ("conftest.py:16",),
        ("keep only one of them", "into the same split"),
        declared={"dataset": "Dataset(train=examples(range(9)), dev=examples(range(8, 20)))"},
    ),
    Mistake(
        "examples without inputs",
        ("inputs are not set",),
        ("examples[0]", "conftest.py:16"),
        (".with_inputs(",),
        declared={"dataset": "Dataset.from_examples([dspy.Example(text='1', label='odd')] * 30)"},
    ),
    Mistake(
        "dicts for examples",
        ("dict is not a dspy.Example",),
        ("[0]", "conftest.py:16"),
        ("with_inputs(",),
        declared={"dataset": "Dataset.from_examples([{'text': '1', 'label': 'odd'}] * 30)"},
    ),
    Mistake(
        "an example without a label",
        ("no label",),
        ("tickets.json:5 (row 4)",),
        ("take them out",),
        declared={"dataset": _FILE.format("json")},
        files={"tickets.json": _rows("even", None)},
    ),
    Mistake(
        "an unknown suffix",
        ("'.xlsx'",),
        ("tickets.xlsx",),
        (".csv",),
        declared={"dataset": _FILE.format("xlsx")},
        files={"tickets.xlsx": "a"},
    ),
    _typed("a label that is no member of an Enum", "Kind", "billing", "biling", 'is "biling"', ("'billing'",)),
    _typed("a label that is none of a Literal's", "typing.Literal['a', 'b']", "a", "c", 'is "c"', ("'a'",)),
    _typed("a label that is no number", "int", 3, "three", 'is "three"', ("int",)),
    _typed("a label that is no bool", "bool", True, "perhaps", 'is "perhaps"', ("bool",)),
    _typed("a label that lacks a field", "Item", {"name": "x", "price": 1}, {"name": "x"}, "price", ("Item",)),
    _typed("a label that is no list", "list[int]", [1], "one", 'is "one"', ("list[int]",)),
)
