"""The model card of an exported program: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.records.receipt import STATE_FILE, Receipt, ShippedGate, ShippedModel
from pytest_dspy_ft.text import bracket, one_line, percent

KNOWN_BASES = {"smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Of the models that the package knows by a name of its own: their name on Hugging Face, and their license."""


def render_card(receipt: Receipt) -> str:
    """The model card of a receipt."""
    return "\n".join([*_front_matter(receipt), "", *_body(receipt)]) + "\n"


def base_of(model: str) -> tuple[str, str]:
    """A model's base on Hugging Face and its license, each empty where it is not known."""
    if not model.startswith(MODEL_PREFIX):
        return "", ""
    name = model.removeprefix(MODEL_PREFIX).partition("+")[0]
    if name in KNOWN_BASES:
        return KNOWN_BASES[name]
    return (name, "") if name.count("/") == 1 and not name.startswith((".", "/", "~")) else ("", "")


def _front_matter(receipt: Receipt) -> Iterator[str]:
    bases = list(dict.fromkeys(base_of(model.model) for model in receipt.models))
    names, licenses = [name for name, _ in bases if name], {license_ for _, license_ in bases if license_}
    yield "---"
    if len(licenses) == 1:
        yield f"license: {licenses.pop()}"
    if names:
        yield "base_model:"
        yield from (f"- {_quoted(name)}" for name in names)
    if any(model.adapter for model in receipt.models):
        yield "library_name: peft"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("dspy", "pytest-dspy-ft", *(["lora"] if _loras(receipt) else [])))
    yield "---"


def _loras(receipt: Receipt) -> list[str]:
    return list(dict.fromkeys(model.adapter for model in receipt.models if model.adapter))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


def _body(receipt: Receipt) -> Iterator[str]:
    yield f"# {_plain(receipt.experiment)}: {_plain(receipt.stage)}"
    yield ""
    yield f"A DSPy program (`{_code(receipt.program)}`), exported with all that it takes to answer as it did when it"
    yield "was tested. Written by pytest-dspy-ft; `receipt.json` holds all figures, and the hash of every file."
    yield ""
    yield from _proof(receipt)
    yield "## Scores"
    yield ""
    yield "| split | n | score | 95% interval | errors | unparsed |"
    yield "|---|---|---|---|---|---|"
    for score in receipt.scores:
        figures = f"{percent(score.score)} | {bracket(score.interval)} | {score.errors} | {score.unparsed}"
        yield f"| {score.on} | {score.n} | {figures} |"
        for name, said in score.metrics.items():
            yield f"| {score.on}, {_plain(name)} | {score.n} | {percent(said.score)} | {bracket(said.interval)} | | |"
    if not receipt.scores:
        yield "| | | not measured | | | |"
    yield ""
    yield "## Gates"
    yield ""
    yield "| gate | on | observed | verdict | |"
    yield "|---|---|---|---|---|"
    yield from (_gate(gate) for gate in receipt.gates)
    yield ""
    yield from _models(receipt)
    yield "## Data"
    yield ""
    yield "| split | examples | digest of their ids |"
    yield "|---|---|---|"
    for on, data in receipt.data.items():
        yield f"| {on} | {data.n} | {data.digest or 'not measured'} |"
    yield ""
    yield from _loading(receipt)


def _proof(receipt: Receipt) -> Iterator[str]:
    if receipt.passed:
        yield f"All gates of this stage passed in the session of {receipt.session}{_commit(receipt)}."
        yield ""
        return
    yield "> **Not proven.** It was exported all the same (`--anyway`):"
    yield from (f"> - {_plain(reason)}" for reason in receipt.unproven)
    yield ""


def _commit(receipt: Receipt) -> str:
    if not receipt.commit:
        return ""
    state = " and uncommitted changes" if receipt.dirty else ""
    return f", at commit `{receipt.commit}`{state}"


def _gate(gate: ShippedGate) -> str:
    verdict = gate.verdict or "not judged"
    note = gate.note if gate.required else "asks something of another stage"
    shown = f"`{_code(gate.expression)}`{f' by `{_code(gate.by)}`' if gate.by else ''}"
    return f"| {shown} | {gate.on} | {_plain(gate.observed)} | {verdict} | {_plain(note)} |"


def _models(receipt: Receipt) -> Iterator[str]:
    yield "## Models"
    yield ""
    yield from (f"- {_model(model)}" for model in receipt.models)
    yield ""
    if not receipt.trainings:
        return
    yield "## Training"
    yield ""
    yield "| stage | model | rows | steps | loss at the end |"
    yield "|---|---|---|---|---|"
    for job in receipt.trainings:
        loss = "" if job.train_loss is None else f"{job.train_loss:.4g}"
        steps = "" if job.steps is None else str(job.steps)
        yield f"| {_plain(job.stage)} | `{_code(job.model)}` | {job.rows} | {steps} | {loss} |"
    yield ""
    for job in receipt.trainings:
        if job.settings:
            settings = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(job.settings.items()))
            yield f"`{_code(job.model)}` was trained with `{_code(settings)}`."
            yield ""


def _model(model: ShippedModel) -> str:
    parts = [f"`{_code(model.model)}`"]
    base, license_ = base_of(model.model)
    if base:
        parts.append(f"base model {base}" + (f" ({license_})" if license_ else ""))
    if model.adapter:
        parts.append(f"LoRA in `adapters/{_code(model.adapter)}`")
    if model.weights:
        parts.append(f"weights of the base model `{model.weights}`")
    if model.address:
        parts.append(f"at {_plain(model.address)}")
    settings = ", ".join(f"{name}={json.dumps(value)}" for name, value in model.settings.items())
    return ", ".join([*parts, *([f"`{_code(settings)}`"] if settings else [])])


def _loading(receipt: Receipt) -> Iterator[str]:
    given = ", ".join(f"{need.partition(':')[0]}=..." for need in receipt.needs)
    yield "## How to load it"
    yield ""
    yield "```python"
    yield "import pytest_dspy_ft"
    yield ""
    yield f'program = pytest_dspy_ft.load("this folder"{f", {given}" if given else ""})'
    yield "```"
    yield ""
    if receipt.needs:
        yield from (f"- {_plain(need)}" for need in receipt.needs)
        yield ""
    yield "Every file is held against the receipt first. The program brings its LM and its adapter along, in any"
    yield "thread, and under `acall`. Keys are read from the environment."
    if STATE_FILE in receipt.files:
        yield f"Plain DSPy reads `{STATE_FILE}` with `program.load(...)`: prompts and demos, without the LM."
    if _loras(receipt):
        yield "A server without LoRA takes what `python -m pytest_dspy_ft merge` writes of this folder."
    versions = ", ".join(f"{name} {version}" for name, version in receipt.versions.items())
    yield ""
    yield f"Judged with {_plain(versions) or 'versions that nobody noted'}; exported {receipt.exported}."


def _plain(text: str) -> str:
    """A text that can neither format the page nor break a table."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in one_line(text))
    return escaped.replace("@", "&#64;")


def _code(text: str) -> str:
    return one_line(text).replace("`", "'").replace("|", "\\|")
