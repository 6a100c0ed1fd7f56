"""One change at a time, then a second session: what must be seen is built or scored anew and named, what does not
matter is loaded, and what cannot be seen was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.provenance.sessions import session, write
from tests.provenance.shop import FILES

SEEN: dict[str, tuple[str, str, str, str]] = {
    # metric
    "metric: its own body": ("declare.py", 'LOG.debug("judged")', "pass", "declare.metric"),
    "metric: helper behind lru_cache": ("shop/text.py", "clean(text)[:LIMIT]", "clean(text)[:LIMIT + 1]", "norm"),
    "metric: helper of a helper": ("shop/text.py", ".strip().lower()", ".strip()", "shop.text.clean"),
    "metric: constant of a helper": ("shop/text.py", "LIMIT = 10", "LIMIT = 9", "shop.text.LIMIT"),
    "metric: function of an imported module": ("shop/text.py", "TABLE.get(text,", "TABLE.get(text + '',", "looked_up"),
    "metric: table of a helper": ("shop/text.py", '"odd": "odd"', '"odd": "odd", "o": "odd"', "TABLE"),
    "metric: pattern of a helper": ("shop/text.py", "[a-z]+", "[a-y]+", "WORD"),
    "metric: body below a wraps decorator": ("shop/deco.py", "    return text\n", "    return text + ''\n", "settled"),
    "metric: setting of a decorator": ("shop/deco.py", "@times(2)", "@times(3)", "settled"),
    "metric: the decorator's own code": ("shop/deco.py", "for _ in range(count)", "for _ in range(count + 1)", "deco"),
    "metric: function imported in its body": ("shop/lazy.py", "text + SUFFIX", "SUFFIX + text", "shop.lazy.finish"),
    "metric: constant behind an import in its body": ("shop/lazy.py", 'SUFFIX = ""', 'SUFFIX = "!"', "SUFFIX"),
    "metric: function by a dotted module": ("shop/pkg/helpers.py", "DEPTH * 10", "DEPTH * 11", "helpers.trim"),
    "metric: constant in a dotted module": ("shop/pkg/helpers.py", "DEPTH = 3", "DEPTH = 4", "helpers.DEPTH"),
    "metric: method of a global object": ("shop/stats.py", 'self.mode == "strict"', 'self.mode != "lax"', "bump"),
    "metric: state of a global object": ("shop/stats.py", 'Counter("strict")', 'Counter("lax")', "STATS.mode"),
    "metric: class attribute in the body": ("shop/stats.py", "weight = 1.0", "weight = 2.0", "weight"),
    "metric: class attribute from outside": ("shop/stats.py", "STATS =", "Counter.weight = 2.0\nSTATS =", "weight"),
    "metric: method from outside": (
        "shop/stats.py",
        "STATS =",
        "def bump(self, text):\n    return False\nCounter.bump = bump\nSTATS =",
        "bump",
    ),
    "metric: namespace": ("shop/config.py", "threshold=0.5", "threshold=0.6", "CONFIG.threshold"),
    "metric: attribute that ends in key": ("shop/config.py", 'sort_key="label"', 'sort_key="text"', "sort_key"),
    "metric: attribute that ends in token": ("shop/config.py", 'stop_token="x"', 'stop_token="y"', "stop_token"),
    "metric: attribute called stage": ("shop/config.py", 'stage="prod"', 'stage="test"', "CONFIG.stage"),
    "metric: attribute called lm": ("shop/config.py", 'lm="small"', 'lm="large"', "CONFIG.lm"),
    "metric: attribute called history": ("shop/config.py", 'history=("a",)', 'history=("b",)', "CONFIG.history"),
    "metric: another enum member": ("shop/config.py", "MODE = Mode.EXACT", "MODE = Mode.LOOSE", "MODE"),
    "metric: an enum member's value": ("shop/config.py", 'EXACT = "exact"', 'EXACT = "strict"', "MODE"),
    "metric: a dataclass's default": ("shop/config.py", "high: int = 9", "high: int = 8", "LIMITS"),
    "metric: a constant by its module": ("shop/config.py", "SCALE = 1", "SCALE = 2", "SCALE"),
    "metric: branch that no example reached": ("shop/text.py", "    return text\n", "    return text + ''\n", "rare"),
    "metric: a name bound to another function": (
        "shop/text.py",
        "def rare(text)",
        "def norm(text):\n    return text\n\ndef rare(text)",
        "norm",
    ),
    # program
    "program: forward": ("shop/program.py", "+ self.note", "+ self.note + ''", "Sorter.forward"),
    "program: an attribute": ("shop/program.py", 'note="n"', 'note="m"', ""),
    "program: a tool's body": ("shop/tools.py", "return word(text)", "return word(text) + ''", "lookup"),
    "program: a tool's helper": ("shop/tools.py", 'return "w" + text', 'return "v" + text', "shop.tools.word"),
    "program: a retriever's corpus": ("shop/search.py", '"two"', '"three"', "RETRIEVER.corpus"),
    "program: a retriever's method": ("shop/search.py", "int(text) % len", "(int(text) + 1) % len", "search"),
    "program: instructions": ("shop/types.py", "Sort the number.", "Sort this number.", ""),
    "program: a field's description": ("shop/types.py", 'desc="even or odd"', 'desc="odd or even"', ""),
    "program: a field's type by an alias": ("shop/types.py", '"neither"]', '"none"]', ""),
    "program: another predictor": ("shop/program.py", "dspy.Predict(Sort)", "dspy.ChainOfThought(Sort)", ""),
    # LM, adapter, optimizer, data
    "lm: temperature": ("shop/lm.py", "temperature=0.0", "temperature=0.1", ""),
    "lm: a setting of any name": ("shop/lm.py", "temperature=0.0", "temperature=0.0, thinking={'budget': 1}", ""),
    "lm: min_tokens": ("shop/lm.py", "temperature=0.0", "temperature=0.0, min_tokens=2", ""),
    "lm: a penalty": ("shop/lm.py", "temperature=0.0", "temperature=0.0, presence_penalty=0.1", ""),
    "lm: attribute of its class": ("shop/lm.py", 'house="left"', 'house="right"', ""),
    "lm: code of its engine": ("shop/lm.py", "CALLS.append(request)\n", "CALLS.append(request); pass\n", "complete"),
    "lm: function of its engine": ("shop/lm.py", '["text"]) % 2 == 0', '["text"]) % 2 != 1', "shop.lm.parity"),
    "adapter: method": ("shop/adapter.py", "return super().format(", "return  super().format(*[], ", "format"),
    "adapter: attribute": ("shop/adapter.py", 'mark = "-"', 'mark = "+"', ""),
    "adapter: setting": ("shop/adapter.py", "fallback=False", "fallback=True", ""),
    "optimizer: its body": ("declare.py", 'hint="h"', 'hint="i"', ""),
    "data: a dev example": ("data.json", '"text": "3"', '"text": "7"', ""),
    "data: a train example": ("data.json", '"text": "1"', '"text": "9"', ""),
}

SAME: dict[str, tuple[str, str, str]] = {
    "a comment": ("shop/text.py", "LIMIT = 10", "# ten\nLIMIT = 10"),
    "formatting": ("shop/text.py", "clean(text)[:LIMIT]", "clean( text )[ : LIMIT ]"),
    "lines that move": ("shop/text.py", "import functools", "\n\n\nimport functools"),
    "a neighbour": ("shop/text.py", "return 1", "return 2"),
    "a new neighbour": ("shop/text.py", "def rare", "def fresh():\n    return 0\n\ndef rare"),
    "an unused constant": ("shop/text.py", "UNUSED = 1", "UNUSED = 2"),
    "a function of a module that nobody calls": ("shop/pkg/helpers.py", "return text\n", "return 1\n"),
    "a new module": ("shop/fresh.py", "", "X = 1\n"),
    "a file that nobody reads": ("words.txt", "even odd", "odd even"),
    "a logger's level": ("shop/config.py", 'getLogger("shop")', 'getLogger("shop")\nLOG.setLevel(10)'),
    "a name for a lock": ("shop/config.py", "threading.Lock()", "MUTEX = threading.Lock()"),
    "an import that nobody uses": ("declare.py", "import dspy\n", "import dspy\nimport json\n"),
    "the order of attributes": ("shop/config.py", 'threshold=0.5, sort_key="label"', 'sort_key="label", threshold=0.5'),
    "the order of a table": ("shop/text.py", '"even": "even", "odd": "odd"', '"odd": "odd", "even": "even"'),
    "data's formatting": ("data.json", '{"text": "0", "label": "even"}', '{"label": "even",   "text": "0"}'),
}


def changed(folder: Path, file: str, before: str, after: str) -> None:
    text = FILES.get(file, "")
    assert before in text, "the change changes nothing"
    write(folder, {file: text.replace(before, after, 1)})


@pytest.mark.parametrize("name", SEEN)
def test_a_change_that_matters_is_seen_and_named(shop: Path, name: str) -> None:
    file, before, after, named = SEEN[name]
    changed(shop, file, before, after)
    second = session()
    assert not second.loaded
    assert named in second.why
    # What was answered stands where only the metric is another; whatever else changed, the program is asked again.
    if name.startswith("metric"):
        assert second.calls == 0, second.why
    elif name.startswith(("program", "adapter", "data: a dev")):
        assert second.calls, second.why
    assert session().loaded  # made anew once, not for ever


@pytest.mark.parametrize("name", SAME)
def test_a_change_that_does_not_matter_costs_nothing(shop: Path, name: str) -> None:
    changed(shop, *SAME[name])
    second = session()
    assert second.loaded, second.why


SAID: dict[str, tuple[str, str, str, str]] = {
    "a file that is read": (
        "shop/lazy.py",
        "    return text + SUFFIX",
        "    with open('words.txt') as stream:\n        return text + stream.read()[:0]",
        "finish reads files",
    ),
    "a file that pathlib reads": (
        "shop/lazy.py",
        "def finish(text):\n    return text + SUFFIX",
        "from pathlib import Path\n\ndef finish(text):\n    return text + Path('words.txt').read_text()[:0]",
        "finish reads files",
    ),
    "an environment variable": (
        "shop/lazy.py",
        "def finish(text):\n    return text + SUFFIX",
        "import os\n\ndef finish(text):\n    return text + os.environ.get('SHOP', '')",
        "finish reads environment variables",
    ),
    "an object without readable state": (
        "shop/lazy.py",
        "def finish(text):\n    return text + SUFFIX",
        "import zlib\n\nPACKER = zlib.compressobj()\n\ndef finish(text):\n    return text if PACKER else ''",
        "PACKER",
    ),
    "state that running changes": ("shop/text.py", "LIMIT = 10", "LIMIT = 10", "STATS.calls changes while it runs"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_cannot_be_seen_is_listed_and_said_once(shop: Path, name: str) -> None:
    file, before, after, said = SAID[name]
    changed(shop, file, before, after)
    (shop / "store").rename(shop / "before")
    first = session()
    assert any(said in what for what in first.unseen)
    assert first.why.count(said) == (0 if "while it runs" in said else 1)
    (shop / "words.txt").write_text("even\n")
    second = session()
    assert second.loaded, second.why
    assert not second.why


def test_an_object_speaks_for_itself(shop: Path) -> None:
    speaks = """
class Packer:
    def __init__(self):
        self.handle = object()
    def __dspy_ft_key__(self):
        return VERSION

VERSION = 1
PACKER = Packer()

def finish(text):
    return text if PACKER else ''
"""
    write(shop, {"shop/lazy.py": speaks})
    assert not session().loaded
    assert session().loaded
    write(shop, {"shop/lazy.py": speaks.replace("VERSION = 1", "VERSION = 2")})
    assert "PACKER" in session().why


def test_nothing_changed_in_another_checkout(shop: Path) -> None:
    second = session()
    assert second.loaded, second.why


KEYS = {
    "by its look": "KEY = os.environ.get('HOUSE')",
    "by its name": "API_KEY = os.environ.get('SHOP_PASS')",
    "by its variable": "ACCESS = os.environ.get('SHOP_TOKEN')",
    "an attribute": "import types\nACCESS = types.SimpleNamespace(api=os.environ.get('SHOP_TOKEN'))",
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_not_compared(shop: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whose key it is, and whether there is one, differs from machine to machine: a store serves all of them."""
    name = KEYS[kind].rpartition("\n")[2].partition(" ")[0]
    written = f"import os\n{KEYS[kind]}\n\ndef finish(text):\n    return text if {name} else text\n"
    write(shop, {"shop/lazy.py": written})

    def set_key(value: str) -> None:
        for variable in ("HOUSE", "SHOP_PASS", "SHOP_TOKEN"):
            monkeypatch.setenv(variable, value) if value else monkeypatch.delenv(variable)

    set_key("sk-one-0123456789abcdef" if kind == "by its look" else "correct horse")
    first = session()
    assert not first.loaded
    assert "credential" not in first.why
    assert any(what.endswith("is a credential") for what in first.unseen)
    set_key("sk-two-0123456789abcdef" if kind == "by its look" else "battery staple")
    second = session()
    assert second.loaded, second.why
    set_key("")
    third = session()
    assert third.loaded, third.why
    for entry in (shop / "store").rglob("*.json"):
        assert "correct horse" not in entry.read_text("utf-8")
