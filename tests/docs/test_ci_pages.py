"""The pages for CI services: their files are what each service takes, and their commands are commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dspy_ft import __version__
from pytest_dspy_ft.cli import make_parser
from tests.conftest import REPOSITORY

NAMES = ("ci-github", "ci-gitlab", "ci-azure", "ci-jenkins", "shared-store", "forks", "drift")
PAGES = {name: (REPOSITORY / "docs/how-to" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [(name, *found.groups()) for name, page in PAGES.items() for found in BLOCK.finditer(page)]
SCHEMAS = {
    "# .github/workflows/": "github-workflows",
    "# the step": "github-workflows",
    "# .gitlab-ci.yml": "gitlab-ci",
    "# azure-pipelines.yml": "azure-pipelines",
}
ACTION = yaml.safe_load((REPOSITORY / "action.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(body: str) -> Any:
    """A YAML block; steps alone as those of a job."""
    read = yaml.safe_load(body)
    if body.startswith("# the step"):
        return {"on": "push", "jobs": {"gates": {"runs-on": "ubuntu-latest", "steps": read}}}
    return {("on" if key is True else key): value for key, value in read.items()}  # YAML 1.1 reads `on` as true


def entries(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a file."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from entries(item)


YAMLS = [(name, body, parsed(body)) for name, kind, body in BLOCKS if kind == "yaml"]
STEPS = [step for _, _, content in YAMLS for step in entries(content) if "pytest-dspy-ft@" in str(step.get("uses"))]


def test_blocks_are_of_kinds_that_are_checked_here() -> None:
    assert {kind for _, kind, _ in BLOCKS} == {"yaml", "console", "ini", "groovy"}
    assert all(any(body.startswith(first) for first in SCHEMAS) for _, body, _ in YAMLS)
    assert len(STEPS) >= 4


def test_files_are_what_their_services_take(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    files: dict[str, list[str]] = {}
    for number, (name, body, content) in enumerate(YAMLS):
        path = tmp_path / f"{name}-{number}.yml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        schema = next(schema for first, schema in SCHEMAS.items() if body.startswith(first))
        files.setdefault(schema, []).append(str(path))
    assert len(files) == 3
    for schema, paths in files.items():
        check = [sys.executable, "-m", "check_jsonschema", "--regex-variant=nonunicode"]  # as Azure's needs it
        done = subprocess.run([*check, "--builtin-schema", f"vendor.{schema}", *paths], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--help"]
    done = subprocess.run(command, cwd=tmp_path_factory.mktemp("help"), check=True, capture_output=True, text=True)
    return {*re.findall(r"--[a-z][\w-]+", done.stdout), "--junitxml"}  # help shows its other spelling


def commands() -> list[tuple[str, list[str]]]:
    """What the pages' scripts and consoles run of ours, page by page."""
    found = []
    for name, kind, body in BLOCKS:
        for line in re.findall(r"(?:^|[\s:-])((?:pytest|python -m pytest_dspy_ft) [^\n]*)", body):
            if kind in ("yaml", "console", "groovy"):
                command = re.split(r" \|\| | && ", line)[0]
                found.append((name, shlex.split(re.sub(r"\$\{?\w+\}?", "7", command))))
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: " ".join(value) if value else "")
def test_commands_name_what_exists(page: str, words: list[str], options: set[str]) -> None:
    if words[0] == "pytest":
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= options
    else:
        make_parser().parse_args(words[3:])  # it exits where it does not know a word


def test_every_page_has_a_command_or_the_action() -> None:
    pages = {name for name, _ in commands()}
    assert pages == set(NAMES)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step["with"].get("stage")))
def test_the_action_is_used_as_it_is(step: dict[str, Any], options: set[str]) -> None:
    assert step["uses"] == f"pytest-dspy-ft/pytest-dspy-ft@v{__version__}"
    assert set(step["with"]) <= set(ACTION["inputs"])
    given = shlex.split(step["with"].get("pytest-args", ""))
    assert {word.split("=")[0] for word in given} <= options
    for extra in re.findall(r"pytest-dspy-ft\[([\w,]+)\]", step["with"]["install"]):
        assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_table_of_inputs_is_that_of_the_action() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|([^|]*)\|", PAGES["ci-github"].split("## Inputs")[1], flags=re.MULTILINE)
    assert {name for name, _ in rows} == set(ACTION["inputs"])
    shown = {name: default.strip("` ") for name, default in rows if name not in ("key", "token")}
    assert shown == {name: str(ACTION["inputs"][name].get("default", "")) for name in shown}
    outputs = PAGES["ci-github"].split("Outputs: ")[1].split("\n")[0]
    assert set(re.findall(r"`([\w-]+)`", outputs)) == set(ACTION["outputs"])


def test_one_version_of_each_action_everywhere() -> None:
    texts = [*PAGES.values(), (REPOSITORY / "action.yml").read_text("utf-8")]
    texts += [path.read_text("utf-8") for path in (REPOSITORY / ".github/workflows").glob("*.yml")]
    used: dict[str, set[str]] = {}
    for action, version in re.findall(r"uses: ([\w./-]+)@([\w.-]+)", "\n".join(texts)):
        used.setdefault(action.removesuffix("/restore").removesuffix("/save"), set()).add(version)
    assert {action: versions for action, versions in used.items() if len(versions) > 1} == {}
    assert "actions/cache" in used


def test_links_lead_somewhere() -> None:
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\S*\)", page):
            assert target.startswith("https://") or (REPOSITORY / "docs/how-to" / target).exists(), (name, target)
