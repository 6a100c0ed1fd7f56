"""``python -m pytest_dspy_ft init``: what it writes is a project that runs; what is there stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.test_cli import cli

FILES = {"conftest.py", "test_messages.py", "messages.json", "pytest.ini", ".gitignore"}
WORKFLOW = ".github/workflows/dspy-gates.yml"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git/" not in path.as_posix())
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in files}


def session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "PYTEST_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "DSPY_CACHEDIR": str(folder.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_empty_folder_gets_a_ladder_whose_every_file_is_explained(tmp_path: Path) -> None:
    done = cli("init", tmp_path / "new")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(contents(tmp_path / "new")) == {*FILES, WORKFLOW}
    for name in (*FILES, WORKFLOW):
        assert re.search(rf"^  {re.escape(name)} +\w", done.stdout, re.MULTILINE), name
    assert "pytest --dspy-stage=finetune" in done.stdout
    assert max(map(len, done.stdout.replace(str(tmp_path), "").splitlines())) <= 80


@pytest.mark.parametrize("lm", ["local", "local:org/model", "openai/gpt-4o-mini"])
def test_what_is_written_is_a_project_that_pytest_accepts(tmp_path: Path, lm: str) -> None:
    cli("init", tmp_path / "new", f"--dspy-lm={lm}")
    for name, text in contents(tmp_path / "new").items():
        assert max(map(len, text.splitlines())) <= (200 if name == "messages.json" else 120), name
        if name.endswith((".py", ".ini", ".yml")):
            assert "{{" not in text.replace("${{", ""), name
            assert "\n\n\n\n" not in text, name
    lint = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--line-length=120",
            "--select=E,F,W,I,B",
            tmp_path / "new",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout
    found = session(tmp_path / "new", "--collect-only", "-q", "--dspy-stage=all", "--dspy-lm=openai/gpt-4o-mini")
    assert found.returncode == 0, found.stdout + found.stderr
    assert ("test_messages.py::test_finetuned" in found.stdout) == lm.startswith("local")
    assert "Warning" not in found.stdout, "its own gates can be told with its own examples"


def test_the_settings_for_an_lm_are_written(tmp_path: Path) -> None:
    cli("init", tmp_path / "new", "--dspy-lm=openai/gpt-4o-mini")
    assert "dspy_lm = openai/gpt-4o-mini\n" in (tmp_path / "new" / "pytest.ini").read_text("utf-8")
    steps = yaml.safe_load((tmp_path / "new" / WORKFLOW).read_text("utf-8"))["jobs"]["gates"]["steps"]
    (gates,) = [step for step in steps if step.get("run", "").startswith("pytest ")]
    assert gates["env"] == {"OPENAI_API_KEY": "${{ secrets.OPENAI_API_KEY }}"}
    assert "--dspy-require" in gates["run"]
    assert not any("torch" in step.get("run", "") for step in steps)


def test_the_options_in_the_files_exist(tmp_path: Path) -> None:
    cli("init", tmp_path / "new")
    known = session(tmp_path, "--help").stdout
    for name, text in contents(tmp_path / "new").items():
        for option in re.findall(r"--dspy-[a-z-]+", text):
            assert option in known, f"{name}: {option}"
    assert "dspy_require" in known


def test_a_second_time_nothing_changes(tmp_path: Path) -> None:
    cli("init", tmp_path)
    before = contents(tmp_path)
    again = cli("init", tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("there already") == len(before)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["conftest.py", "test_messages.py", "messages.json"])
def test_a_ladder_of_ones_own_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("# mine\n", "utf-8")
    done = cli("init", cwd=tmp_path)
    assert done.returncode == 2
    assert f"nothing was written: {name} in {tmp_path} would have to be overwritten" in done.stderr
    assert contents(tmp_path) == {name: "# mine\n"}
    advice = done.stderr.split("python -m pytest_dspy_ft ")[-1].split()
    assert cli(*advice, cwd=tmp_path).returncode == 0
    assert (tmp_path / "first_ladder" / "conftest.py").is_file()


@pytest.mark.parametrize("name", ["conftest.py", WORKFLOW, ".gitignore"])
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_file_is_left_too(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if kind == "folder" else path.symlink_to(tmp_path / "nowhere")
    done = cli("init", cwd=tmp_path)
    assert done.returncode == (2 if name == "conftest.py" else 0)
    assert "Traceback" not in done.stderr
    assert path.is_dir() if kind == "folder" else path.is_symlink()


def test_a_folder_with_a_space_can_be_copied_from_the_advice(tmp_path: Path) -> None:
    assert "  cd 'my gates'\n" in cli("init", "my gates", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-q'\n"),
        ("pytest.ini", "[pytest]\naddopts = -q\n"),
        ("tox.ini", "[pytest]\naddopts = -q\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = -q\n"),
    ],
)
def test_settings_of_pytest_are_left_and_not_hidden(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / ".gitignore").write_text("*.pyc\n", "utf-8")
    done = cli("init", "--dspy-lm=openai/gpt-4o", cwd=tmp_path)
    assert done.returncode == 0
    assert f"{name} sets pytest up; add to it:" in done.stdout
    for line in ("required_plugins = pytest-dspy-ft", "dspy_lm = openai/gpt-4o", "add the line: .dspy_ft/"):
        assert line in done.stdout
    there = contents(tmp_path)
    assert (there[name], there[".gitignore"]) == (text, "*.pyc\n")
    assert ("pytest.ini" in there) == (name == "pytest.ini")


def test_a_pyproject_without_pytest_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'mine'\n", "utf-8")
    cli("init", cwd=tmp_path)
    assert (tmp_path / "pytest.ini").is_file()


def test_in_a_folder_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", "utf-8")
    done = cli("init", "tests/gates", cwd=tmp_path)
    assert f"move it to {tmp_path / WORKFLOW}" in done.stdout
    assert f"{tmp_path / 'pyproject.toml'} sets pytest up" in done.stdout
    job = yaml.safe_load((tmp_path / "tests/gates" / WORKFLOW).read_text("utf-8"))["jobs"]["gates"]
    assert job["defaults"]["run"]["working-directory"] == "tests/gates"
    assert "  cd tests/gates\n" in done.stdout


@pytest.mark.parametrize("lm", ["gpt-4o", "openai/", "/gpt", ""])
def test_an_lm_that_is_none_is_refused(tmp_path: Path, lm: str) -> None:
    done = cli("init", tmp_path / "new", f"--dspy-lm={lm}")
    assert done.returncode == 2
    assert "such as openai/gpt-4o-mini" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    done = cli("init", tmp_path / "file")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a file" in done.stderr
