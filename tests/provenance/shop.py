"""A project as a user would write it, file by file: a metric with helpers of every kind, a program with a tool and a
retriever, types, an LM class, an adapter and a judge of its own. Tests change one thing in it at a time."""

from __future__ import annotations

FILES = {
    "data.json": """[
    {"text": "0", "label": "even"}, {"text": "1", "label": "odd"}, {"text": "2", "label": "even"},
    {"text": "3", "label": "odd"}, {"text": "4", "label": "even"}, {"text": "5", "label": "odd"}]
""",
    "words.txt": "even odd\n",
    "shop/__init__.py": "",
    "shop/text.py": '''
"""Text."""
import functools
import re

LIMIT = 10
UNUSED = 1
WORD = re.compile("[a-z]+")
TABLE = {"even": "even", "odd": "odd"}

def clean(text):
    """Tidy."""
    return text.strip().lower()

def neighbour(text):
    return 1

@functools.lru_cache(maxsize=None)
def norm(text):
    return clean(text)[:LIMIT]

def looked_up(text):
    return TABLE.get(text, WORD.findall(text))

def rare(text):
    return text
''',
    "shop/deco.py": """
import functools

def times(count):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            for _ in range(count):
                result = function(*args)
            return result
        return wrapper
    return decorate

@times(2)
def settled(text):
    return text
""",
    "shop/lazy.py": """
SUFFIX = ""

def finish(text):
    return text + SUFFIX
""",
    "shop/pkg/__init__.py": "",
    "shop/pkg/helpers.py": """
DEPTH = 3

def trim(text):
    return text[: DEPTH * 10]

def spare(text):
    return text
""",
    "shop/stats.py": """
class Counter:
    weight = 1.0

    def __init__(self, mode):
        self.calls = 0
        self.mode = mode
        self.cache = {}

    def bump(self, text):
        self.calls += 1
        self.cache[text] = self.calls
        return self.mode == "strict" and self.weight > 0

    def idle(self):
        return 0

STATS = Counter("strict")
""",
    "shop/config.py": """
import dataclasses
import enum
import logging
import threading
from types import SimpleNamespace

CONFIG = SimpleNamespace(threshold=0.5, sort_key="label", stop_token="x", stage="prod", lm="small", history=("a",))
LOG = logging.getLogger("shop")
LOCK = threading.Lock()

class Mode(enum.Enum):
    EXACT = "exact"
    LOOSE = "loose"

@dataclasses.dataclass
class Limits:
    low: int = 0
    high: int = 9

MODE = Mode.EXACT
LIMITS = Limits()
SCALE = 1
""",
    "shop/types.py": '''
from typing import Literal
import dspy
import pydantic

class Reason(pydantic.BaseModel):
    words: str = pydantic.Field(default="", description="why")

class Answer(pydantic.BaseModel):
    label: str
    reason: Reason = Reason()

Label = Literal["even", "odd", "neither"]

class Sort(dspy.Signature):
    """Sort the number."""
    text: str = dspy.InputField()
    hint: str = dspy.InputField(desc="what is known")
    label: Label = dspy.OutputField(desc="even or odd")
''',
    "shop/search.py": """
class Retriever:
    def __init__(self, corpus):
        self.corpus = corpus

    def search(self, text):
        return self.corpus[int(text) % len(self.corpus)]

RETRIEVER = Retriever(["zero", "one", "two"])
""",
    "shop/tools.py": """
def lookup(text: str) -> str:
    return word(text)

def word(text):
    return "w" + text
""",
    "shop/lm.py": """
import dspy
from tests.scripted import ScriptedEngine, fields_of, reply

def parity(fields, request):
    return reply(label="even" if int(fields["text"]) % 2 == 0 else "odd")

class HouseEngine(ScriptedEngine):
    def __init__(self, style):
        super().__init__(parity, name="house")
        self.style = style

    def complete(self, request):
        CALLS.append(request)
        return super().complete(request)

CALLS = []

class HouseLM(dspy.LM):
    def __init__(self, *, house="left", **settings):
        super().__init__("house/parity", engine=HouseEngine("plain"), cache=False, **settings)
        self.house = house

def make():
    return HouseLM(temperature=0.0)
""",
    "shop/adapter.py": """
import dspy

class HouseAdapter(dspy.ChatAdapter):
    mark = "-"

    def format(self, signature, demos, inputs):
        return super().format(signature, demos, inputs)

ADAPTER = HouseAdapter(use_json_adapter_fallback=False)
""",
    "shop/program.py": """
import dspy
from shop.search import RETRIEVER
from shop.tools import lookup
from shop.types import Sort

class Sorter(dspy.Module):
    def __init__(self, k=1, note="n"):
        super().__init__()
        self.k, self.note = k, note
        self.tool = dspy.Tool(lookup)
        self.sort = dspy.Predict(Sort)

    def forward(self, text):
        hint = RETRIEVER.search(text) + self.tool(text=text) + self.note
        return self.sort(text=text, hint=hint)

    def unused(self):
        return 0
""",
    "declare.py": """
import dspy
import shop.pkg.helpers
from shop import config, text
from shop.adapter import ADAPTER
from shop.config import LIMITS, LOCK, LOG, MODE
from shop.deco import settled
from shop.lm import make
from shop.program import Sorter
from shop.stats import STATS
from shop.text import norm
from pytest_dspy_ft import Dataset, Experiment, Stage

def metric(example, prediction, trace=None):
    from shop.lazy import finish
    LOG.debug("judged")
    with LOCK:
        counted = STATS.bump(prediction.label)
    said = finish(settled(norm(prediction.label)))
    if len(said) > 100:
        said = text.rare(said)
    fits = config.CONFIG.threshold < 1 and LIMITS.low <= LIMITS.high and MODE.value and config.SCALE
    return bool(counted and fits and shop.pkg.helpers.trim(text.looked_up(said)) == example.label)

def few(program, *, trainset, teacher):
    program.sort.demos = [dict(trainset[0].items(), hint="h")]
    return program

def experiment():
    data = Dataset.from_file("data.json", inputs=["text"], split=(0.34, 0.66, 0))
    return Experiment("shop", program=Sorter(), dataset=data, metric=metric, lm=make(), adapter=ADAPTER,
                      stages=[Stage("few", few)])
""",
}
