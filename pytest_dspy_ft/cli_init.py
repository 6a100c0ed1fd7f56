"""``python -m pytest_dspy_ft init``: a first ladder that runs as it is, written into a folder. No dspy, no torch."""

from __future__ import annotations

import argparse
import configparser
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.errors import InitError
from pytest_dspy_ft.files import write_atomically

EMBEDDED = "local"
LADDER = ("conftest.py", "test_messages.py", "messages.json")
WORKFLOW = ".github/workflows/dspy-gates.yml"

_TEMPLATES = {
    "conftest.py": "conftest.py.j2",
    "test_messages.py": "test_messages.py.j2",
    "messages.json": "messages.json",
    "pytest.ini": "pytest.ini.j2",
    WORKFLOW: "workflow.yml.j2",
    ".gitignore": "gitignore.j2",
}

_PURPOSES = {
    "conftest.py": "the program, its data, metric and stages\nchange first: (1) data, (2) task, (3) metric",
    "test_messages.py": "the gates: what each stage has to reach\nthen: the numbers, once you have yours",
    "messages.json": "200 labelled messages: put your file here",
    "pytest.ini": "pytest stops where the plugin is missing",
    WORKFLOW: "CI: a gate that was not judged fails",
    ".gitignore": "keeps the store, .dspy_ft, out of git",
}

_KEYS = {"together_ai": "TOGETHERAI_API_KEY", **dict.fromkeys(("bedrock", "ollama", "ollama_chat", "vertex_ai"), "")}
"""The variable that holds a provider's key, where it is not PROVIDER_API_KEY; "": there is none, or more than one."""


@dataclass(frozen=True)
class _Fate:
    """What became of one file."""

    name: str
    standing: str
    """``written``; ``there already``, word for word; or ``left as it is``, where another one is there."""
    hint: str = ""
    """What is to be done about it."""


def add_init_command(commands: Any) -> None:
    """Add the command to the command line's."""
    init = commands.add_parser(
        "init",
        help="write a first ladder into a folder",
        description="Write a first ladder into a folder: a program, labelled examples, gates, settings of pytest and a "
        "CI workflow, each explained where it stands. Nothing that is there is changed.",
    )
    init.add_argument("folder", nargs="?", type=Path, default=Path(), help="default: this one; made if missing")
    init.add_argument(
        "--dspy-lm",
        default=EMBEDDED,
        metavar="MODEL",
        help="write it for this LM: local (the embedded model, the default), local:PATH-or-HF-ID, or a model of DSPy's "
        "such as openai/gpt-4o-mini",
    )
    init.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    folder, lm = options.folder, options.dspy_lm.strip()
    if folder.exists() and not folder.is_dir():
        raise InitError(f"{folder} is a file; init writes into a folder")
    provider, slash, model = lm.partition("/")
    if lm != EMBEDDED and not lm.startswith(MODEL_PREFIX) and not (provider and slash and model):
        raise InitError(
            f"--dspy-lm={lm}: use local (the embedded model), local:PATH-or-HF-ID, or a model of DSPy's with its "
            "provider, such as openai/gpt-4o-mini"
        )
    texts = _texts(folder, lm)
    if taken := [name for name in LADDER if _differs(folder / name, texts[name])]:
        own = shlex.quote(str(folder / "first_ladder"))
        raise InitError(
            f"nothing was written: {', '.join(taken)} in {folder.resolve()} would have to be overwritten. A ladder "
            f"needs files of its own; give it a folder: python -m pytest_dspy_ft init {own}"
        )
    fates = [_write(folder, name, text, lm) for name, text in texts.items()]
    print("\n".join(_said(folder, fates, lm)))
    return 0


def _differs(path: Path, text: str) -> bool:
    """True where something else is there: another file, a folder, a link that leads nowhere."""
    return not _is_free(path) and not (path.is_file() and _read(path) == text)


def _is_free(path: Path) -> bool:
    return not path.exists() and not path.is_symlink()


def _write(folder: Path, name: str, text: str, lm: str) -> _Fate:
    """Write one file, where none of its name is there."""
    path, binding = folder / name, _BINDING + ("" if lm == EMBEDDED else f"\ndspy_lm = {lm}")
    if name == "pytest.ini" and (other := _configured_in(folder)):
        if other == name and not _differs(path, text):
            return _Fate(name, "there already")
        standing = "left as it is" if other == name else "not written"
        return _Fate(name, standing, f"{other} sets pytest up; add to it:\n{binding}")
    if _is_free(path):
        write_atomically(path, text)
        root = _repository_above(folder) if name == WORKFLOW else None
        return _Fate(name, "written", "" if root is None else f"move it to {root / WORKFLOW}: GitHub looks there")
    if not _differs(path, text):
        return _Fate(name, "there already")
    if name == ".gitignore":
        if path.is_file() and any(line.strip().strip("/") == ".dspy_ft" for line in _read(path).splitlines()):
            return _Fate(name, "there already")
        return _Fate(name, "left as it is", "add the line: .dspy_ft/")
    return _Fate(name, "left as it is")


_BINDING = "required_plugins = pytest-dspy-ft\naddopts = --strict-markers"


def _texts(folder: Path, lm: str) -> dict[str, str]:
    """The files for an LM, by name."""
    from jinja2 import Environment, StrictUndefined

    provider = lm.partition("/")[0]
    local = lm == EMBEDDED or lm.startswith(MODEL_PREFIX)
    root = _repository_above(folder)
    words = {
        "lm": lm,
        "bundled": lm == EMBEDDED,
        "local": local,
        "key": "" if local else _KEYS.get(provider, f"{provider.upper()}_API_KEY"),
        "folder": "" if root is None else folder.resolve().relative_to(root).as_posix(),
    }
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    place = resources.files("pytest_dspy_ft").joinpath("first_ladder")
    texts = {}
    for name, template in _TEMPLATES.items():
        text = place.joinpath(template).read_text(encoding="utf-8")
        texts[name] = environment.from_string(text).render(words) if template.endswith(".j2") else text
    return texts


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _configured_in(folder: Path) -> str:
    """The file that sets pytest up for a folder: its own, or that of a folder above in the same repository; or ""."""
    root = _repository_above(folder)
    here = folder.resolve()
    for place in [here, *here.parents]:
        for name in ("pytest.ini", ".pytest.ini", "pytest.toml", "pyproject.toml", "tox.ini", "setup.cfg"):
            if (path := place / name).is_file() and _has_pytest(path):
                return name if place == here else str(path)
        if root is None or place == root:
            return ""
    return ""


def _has_pytest(path: Path) -> bool:
    if path.suffix == ".toml":
        try:
            content = tomllib.loads(_read(path))
        except tomllib.TOMLDecodeError:
            return False
        return path.name == "pytest.toml" or "pytest" in content.get("tool", {})
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(_read(path))
    except configparser.Error:
        return False
    return path.name.endswith("pytest.ini") or parser.has_section(
        "tool:pytest" if path.name == "setup.cfg" else "pytest"
    )


def _repository_above(folder: Path) -> Path | None:
    """The root of the git repository that a folder lies in; None where it is one itself, or lies in none."""
    here = folder.resolve()
    if (here / ".git").exists():
        return None
    return next((place for place in here.parents if (place / ".git").exists()), None)


def _said(folder: Path, fates: list[_Fate], lm: str) -> Iterator[str]:
    """What was done, what each file is for, and what to run next."""
    yield f"A first ladder in {folder.resolve()}:"
    yield ""
    width = max(len(fate.name) for fate in fates)
    for fate in fates:
        lines = _PURPOSES[fate.name].split("\n")
        if fate.standing != "written":
            lines.append(f"{fate.standing.upper() if fate.hint else fate.standing}")
        for name, line in zip_longest([fate.name], [*lines, *filter(None, fate.hint.split("\n"))], fillvalue=""):
            yield f"  {name:<{width}}  {line}"
    yield ""
    yield "Run next:"
    if folder.resolve() != Path.cwd():
        yield f"  cd {shlex.quote(str(folder))}"
    if lm == EMBEDDED:
        yield "  pytest                         the program as written, then a table"
        yield "  pytest --dspy-stage=finetune   all stages: built once, in minutes, and kept"
    else:
        yield "  pytest --dspy-stage=all --dspy-plan   what it would take; no call is made"
        yield "  pytest --dspy-stage=all               all stages, then a table"
