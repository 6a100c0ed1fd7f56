"""The files beside the code: each is what its readers take, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from pytest_dspy_ft import __version__
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("citation-file-format", "CITATION.cff"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-actions", "action.yml"),
        ("github-workflows", ".github/workflows/*.yml"),
    ],
)
def test_files_are_what_their_readers_take(schema: str, files: str) -> None:
    pytest.importorskip("check_jsonschema")
    paths = sorted(map(str, REPOSITORY.glob(files)))
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_of_this_version_and_project() -> None:
    assert CITATION["version"] == __version__
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Repository"]
    assert CITATION["url"] == PROJECT["urls"]["Documentation"]


def test_the_changelog_has_this_version_with_its_date() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", text, flags=re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1] == (__version__, CITATION["date-released"])


def test_the_install_page_has_every_extra() -> None:
    page = (REPOSITORY / "docs/reference/install.md").read_text(encoding="utf-8")
    rows = [cell for line in page.splitlines() if line.startswith("| `") for cell in [line.split("|")[1]]]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(PROJECT["optional-dependencies"]) - {"docs"}


def test_the_workflow_tries_every_python_that_the_classifiers_name() -> None:
    tests = yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert tests["jobs"]["tests"]["strategy"]["matrix"]["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"


def test_contributing_sets_up_what_ci_does() -> None:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ci = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    console = re.findall(r"^\$ (.*)$", page, flags=re.MULTILINE)
    wanted = [line.replace("pip install --quiet", "pip install") for line in ci.splitlines()]
    for command in (part for line in console for part in line.split(" && ")):
        if command.startswith(("pip ", "pytest -n", "ruff", "mypy", "lint-imports", "vulture")):
            assert command in wanted, command


def test_links_lead_somewhere() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md", "docs/reference/install.md", "docs/reference/versions.md"):
        path = REPOSITORY / name
        for target in re.findall(r"\]\(([^)#]+)\S*\)", path.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), (name, target)
