"""What pages say of the code, held against the code: options, fixtures, gates, variables, exit codes, tables."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import data_needed
from docs.generated import commands, fixtures, options, record, texts
from pytest_dspy_ft.cli import FAILED, MISUSED
from pytest_dspy_ft.gates.parser import parse
from pytest_dspy_ft.plugin.options import TABLE
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PACKAGE = REPOSITORY / "pytest_dspy_ft"
READ = re.compile(r"environ(?:\.get\(|\.setdefault\(|\[)\s*\"([A-Z_]+)\"")
HELD = re.compile(r"\"([A-Z]+(?:_[A-Z]+)*_(?:KEY|TOKEN|URL|BASE|ENDPOINT|PROJECT_ID|DEPLOYMENT|CONFIG|API_VERSION))\"")
NOT_FOR_USERS = {"RANK", "WORLD_SIZE", "TIKTOKEN_CACHE_DIR", "LITELLM_LOCAL_MODEL_COST_MAP", "GOMP_SPINCOUNT"}
"""Variables of the processes that the code starts, and of the libraries that it uses."""
OF_SERVICES = ("CI_", "GH_", "GITHUB_", "GITLAB_")
"""Begin the variables that CI services set by themselves; their pages name what people have to set."""


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    command = [sys.executable, "-m", "pytest", "--help"]
    folder = tmp_path_factory.mktemp("help")
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_page_of_options_has_what_is_registered(help_text: str) -> None:
    shown = options.markdown()
    registered = dict(re.findall(r"^  (--dspy-[a-z-]+)(?:=(\w+))?", help_text, flags=re.MULTILINE))
    for name, metavar in registered.items():
        assert f"### `{name}{'=' + metavar if metavar else ''}`" in shown
    for name in re.findall(r"^  (dspy_\w+) \(", help_text, flags=re.MULTILINE):
        assert f"`{name}`" in shown
    assert len(registered) > 20


def test_every_option_has_its_group_and_leads_to_a_page_that_says_more() -> None:
    fields = [entry.field for entry in TABLE]
    grouped = [field for group in options.GROUPS.values() for field in group]
    assert sorted(grouped) == sorted(fields), "docs/generated/options.py: GROUPS"
    assert set(options.MORE) <= set(fields)


def test_options_in_prose_exist(help_text: str) -> None:
    known = set(re.findall(r"--dspy-[a-z-]+", help_text))
    known |= {entry.option for entry in TABLE}
    for file in [REPOSITORY / "README.md", *DOCS.rglob("*.md")]:
        assert set(re.findall(r"--dspy-[a-z]+(?:-[a-z]+)*", file.read_text("utf-8"))) <= known, file
    inis = {entry.ini for entry in TABLE}
    for file in DOCS.rglob("*.md"):
        for name in re.findall(r"^(dspy_\w+) = ", file.read_text("utf-8"), flags=re.MULTILINE):
            assert name in inis, file


def test_the_page_of_fixtures_has_those_of_the_plugin(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    result = pytester.runpytest_subprocess("--fixtures", "-q")
    there = set(re.findall(r"^(dspy_\w+)", result.stdout.str(), flags=re.MULTILINE))
    assert set(re.findall(r"^\| `(dspy_\w+)` \|", fixtures.markdown(), flags=re.MULTILINE)) == there


@pytest.mark.parametrize("expression", re.findall(r"^\| `([^`]*(?:>=|<=)[^`]*)` \|", page("reference/gates.md"), re.M))
def test_gates_in_the_table_are_gates(expression: str) -> None:
    parse(expression)


def test_commands_have_usage_and_arguments() -> None:
    shown = commands.markdown()
    for name in commands.subcommands():
        assert f"\n## {name}\n" in f"\n{shown}"
    assert "--older-than DAYS" in shown
    assert "%(" not in shown


def test_the_record_is_described() -> None:
    shown = record.markdown()
    assert "## VerdictRecord { #verdictrecord }" in shown
    for target in re.findall(r"\]\(#(\w+)\)", shown):
        assert f"{{ #{target} }}" in shown


def test_the_store_has_its_layout() -> None:
    assert "stages/EXPERIMENT/STAGE/KEY/current.json" in texts.store()
    assert texts.store().endswith("damaged entries\n```")


def test_environment_variables_are_those_of_the_code() -> None:
    code = "\n".join(file.read_text("utf-8") for file in PACKAGE.rglob("*.py"))
    there = {*READ.findall(code), *HELD.findall(code)} - NOT_FOR_USERS
    there = {name for name in there if not name.startswith(OF_SERVICES)}
    shown = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page("reference/environment.md")))
    assert {"DSPY_FT_CACHE", "OPENAI_API_KEY", "CRUSOE_DEPLOYMENT"} <= there
    assert there - shown == set()
    assert {name for name in shown if name not in code} == {"ANTHROPIC_API_KEY"}


def test_exit_codes_of_commands() -> None:
    own = page("reference/exit-codes.md").partition("## python -m pytest_dspy_ft")[2]
    assert re.findall(r"^\| (\d) \|", own, flags=re.MULTILINE) == ["0", str(FAILED), str(MISUSED)]


@pytest.mark.parametrize("name", ["threshold", "gain"])
def test_tables_of_data_are_what_their_script_prints(name: str) -> None:
    assert data_needed.TABLES[name]() in page("how-to/how-much-data.md")


def test_the_power_of_few_examples_is_what_the_script_finds() -> None:
    """One row: the whole table takes longer."""
    row = " | ".join(["50", *(f"{data_needed.power(gain, 0.05, 50):.0%}" for gain in data_needed.GAINS)])
    assert f"| {row} |" in page("how-to/how-much-data.md")


def test_readme_fits_a_screen_and_shows_a_gate_and_a_table() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    first = readme.partition("**Try it**")[0]
    assert "@pytest.mark.dspy_gate(" in first
    assert "95% CI" in first
    assert first.count("\n") < 50
    assert readme.count("\n") < 120


def test_one_python_file_says_where_the_documentation_is() -> None:
    """Its address stands once in the package; in TOML, YAML and README, which can read no Python, it is the same."""
    homes = [file for file in PACKAGE.rglob("*.py") if "github.io" in file.read_text("utf-8")]
    assert homes == [PACKAGE / "constants.py"]
    assert Path(texts.__file__).parent == DOCS / "generated"
