"""Fingerprints of programs, optimizers, adapters and LMs: what is theirs counts, and no secret is ever in them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from pytest_dspy_ft.fingerprint import canonical, fingerprint, lm_identity
from pytest_dspy_ft.redaction import is_secret
from tests.fingerprint.conftest import Loader, changed
from tests.scripted import scripted_lm

# --- programs -------------------------------------------------------------------------------------------------------


def ticket(instructions: str = "Sort.", kind: Any = str, desc: str = "the label", **demo: Any) -> Any:
    signature = dspy.Signature(
        {"text": (str, dspy.InputField()), "label": (kind, dspy.OutputField(desc=desc))}, instructions
    )
    program = dspy.Predict(signature)
    program.demos = [dspy.Example(text="a", label="b", **demo)] if demo else []
    return program


@pytest.mark.parametrize(
    "other",
    [
        lambda: ticket("Sort well."),
        lambda: ticket(kind=bool),
        lambda: ticket(kind=Literal["a", "b"]),
        lambda: ticket(desc="some label"),
        lambda: ticket(augmented=True),
        lambda: dspy.ChainOfThought(ticket().signature),
        lambda: dspy.Predict(ticket().signature, temperature=0.5),
    ],
)
def test_programs_differ(other: Callable[[], Any]) -> None:
    assert fingerprint(ticket()) == fingerprint(ticket())
    assert fingerprint(other()) == fingerprint(other())
    assert fingerprint(ticket()) != fingerprint(other())


def test_demos_differ_by_content_and_order() -> None:
    one, two, three = ticket(), ticket(), ticket()
    a, b = dspy.Example(text="a", label="x"), dspy.Example(text="b", label="y")
    one.demos, two.demos, three.demos = [a, b], [b, a], [dict(a), dict(b)]
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one) == fingerprint(three), "a demo is a demo, loaded or made"


def test_literal_choices_matter() -> None:
    assert fingerprint(ticket(kind=Literal["a", "b"])) != fingerprint(ticket(kind=Literal["a", "c"]))


def test_the_fields_of_an_output_model_matter(load: Loader) -> None:
    source = """
import dspy
from pydantic import BaseModel
class Answer(BaseModel):
    label: str
class Sort(dspy.Signature):
    text: str = dspy.InputField()
    answer: list[Answer] = dspy.OutputField()
program = dspy.Predict(Sort)
"""
    assert changed(load, "program", "    label: str\n", "    label: str\n    sure: bool\n", source)


def test_the_members_of_an_output_enum_matter(load: Loader) -> None:
    source = """
import dspy, enum
class Label(enum.Enum):
    A = "a"
class Sort(dspy.Signature):
    text: str = dspy.InputField()
    label: Label = dspy.OutputField()
program = dspy.Predict(Sort)
"""
    assert changed(load, "program", '    A = "a"\n', '    A = "a"\n    B = "b"\n', source)


def test_the_code_and_settings_of_a_module_matter(load: Loader) -> None:
    source = """
import dspy
TOP = 3
class Program(dspy.Module):
    def __init__(self, k=2):
        super().__init__()
        self.k = k
        self.predict = dspy.Predict("text -> label")
    def forward(self, text):
        return self.predict(text=text[:TOP])
program = Program()
"""
    assert changed(load, "program", "k=2", "k=3", source)
    assert changed(load, "program", "text[:TOP]", "text[TOP:]", source)
    assert changed(load, "program", "TOP = 3", "TOP = 4", source)
    assert not changed(load, "program", "        self.k = k\n", "        # keep\n        self.k = k\n", source)


# --- optimizers, adapters -------------------------------------------------------------------------------------------


def test_train_kwargs_of_bootstrap_finetune_matter() -> None:
    def made(**kwargs: Any) -> str:
        return fingerprint(dspy.BootstrapFinetune(metric=None, **kwargs))

    assert made(train_kwargs={"epochs": 1}) == made(train_kwargs={"epochs": 1})
    assert made(train_kwargs={"epochs": 1}) != made(train_kwargs={"epochs": 2})
    assert made() != made(train_kwargs={"epochs": 2})
    assert made(multitask=False) != made()
    lm = scripted_lm(lambda f, r: "")
    assert made(train_kwargs={lm: {"epochs": 1}}) != made(train_kwargs={lm: {"epochs": 2}})


def test_describing_an_optimizer_does_not_change_it() -> None:
    optimizer = dspy.BootstrapFinetune(metric=None, train_kwargs={"epochs": 1})
    canonical(optimizer)
    assert dict(optimizer.train_kwargs) == {}


def test_the_metric_of_an_optimizer_matters(load: Loader) -> None:
    source = (
        "import dspy\ndef metric(e, p, trace=None): return p.label == 'x'\n"
        "made = dspy.BootstrapFewShot(metric=metric, max_labeled_demos=3)\n"
    )
    assert changed(load, "made", "== 'x'", "!= 'x'", source)
    assert changed(load, "made", "max_labeled_demos=3", "max_labeled_demos=4", source)


def test_adapters_differ() -> None:
    prints = [
        fingerprint(a)
        for a in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.ChatAdapter(use_json_adapter_fallback=False))
    ]
    assert len({*prints}) == 3
    assert fingerprint(dspy.ChatAdapter()) == fingerprint(dspy.ChatAdapter())


def test_partials_methods_and_builtins() -> None:
    assert fingerprint(functools.partial(int, base=2)) != fingerprint(functools.partial(int, base=3))
    assert fingerprint(len) != fingerprint(max)
    assert fingerprint([].append) == fingerprint([].append)


# --- LMs and secrets ------------------------------------------------------------------------------------------------


def lm(**settings: Any) -> Any:
    return dspy.LM(settings.pop("model", "openai/gpt-4o-mini"), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"model": "openai/gpt-4o"},
        {"api_base": "http://here:1/v1"},
        {"max_tokens": 7},
        {"top_p": 1},
    ],
)
def test_lms_differ(settings: dict[str, Any]) -> None:
    assert fingerprint(lm()) == fingerprint(lm())
    assert fingerprint(lm()) != fingerprint(lm(**settings))


def test_engines_differ() -> None:
    one, two = (scripted_lm(lambda f, r: "", engine_name=name) for name in ("one", "two"))
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one) == fingerprint(one.copy())


PLANTED = "sk-planted-0123456789"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": PLANTED},
        {"azure_ad_token": PLANTED},
        {"aws_secret_access_key": PLANTED},
        {"vertex_credentials": PLANTED},
        {"headers": {"Authorization": PLANTED}},
    ],
)
def test_secrets_are_never_written_and_never_matter(settings: dict[str, Any]) -> None:
    made = lm(**settings)
    assert PLANTED not in json.dumps([canonical(made), lm_identity(made), canonical({"lms": [made]})])
    assert fingerprint(made) == fingerprint(lm()), "another key is the same LM"


@pytest.mark.parametrize(
    "settings", [{"extra_headers": {"Authorization": PLANTED}}, {"extra_body": {"auth": {"api_key": PLANTED}}}]
)
def test_nested_secrets_are_never_written(settings: dict[str, Any]) -> None:
    assert PLANTED not in json.dumps(lm_identity(lm(**settings)))


def test_secrets_of_objects_are_not_written() -> None:
    class Client:
        def __init__(self, key: str) -> None:
            self.api_key, self.url = key, "http://here"

    text = json.dumps(canonical(Client("sk-" + "given")))
    assert "sk-given" not in text
    assert "http://here" in text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api_key", True),
        ("OPENAI_API_KEY", True),
        ("authorization", True),
        ("max_tokens", False),
        ("max_completion_tokens", False),
        ("temperature", False),
        ("tokenizer", False),
        ("keyword", False),
    ],
)
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_packages_of_an_environment_below_this_one_are_installed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layered environments (`uv run --with`, a .pth file) have more than one folder of packages."""
    layer = tmp_path / "below" / "site-packages"
    layer.mkdir(parents=True)
    (layer / "a_layered_package.py").write_text("def helper():\n    return 1\n")
    monkeypatch.syspath_prepend(layer)
    import a_layered_package  # type: ignore[import-not-found]

    assert "return 1" not in json.dumps(canonical(a_layered_package.helper))
