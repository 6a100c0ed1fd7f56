"""What is published: wheel and source distribution as they are built, installed, and used by a project."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from pytest_dspy_ft import __version__
from tests.conftest import PARITY, REPOSITORY
from tests.plugin.projects import LADDER

pytest.importorskip("hatchling")

PACKAGE = REPOSITORY / "pytest_dspy_ft"
NOT_PUBLISHED = (".dspy_ft", "__pycache__", ".safetensors", ".gguf", ".pyc", "dspy_cache", "dspy_recordings/.work")


def build(source: Path, target: Path, *kinds: str) -> list[Path]:
    """Build distributions, without a network."""
    words = [word for kind in kinds for word in ("-t", kind)]
    command = [sys.executable, "-m", "hatchling", "build", *words, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    return sorted(target.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel."""
    sdist, wheel = sorted(
        build(REPOSITORY, tmp_path_factory.mktemp("dist"), "sdist", "wheel"), key=lambda path: path.suffix
    )
    return sdist, wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    inside = contents(built[1])
    code = {name for name in inside if ".dist-info/" not in name}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert code == {path.relative_to(REPOSITORY).as_posix() for path in files}
    assert "pytest_dspy_ft/py.typed" in code
    assert "pytest_dspy_ft/report/page/page.html" in code  # the page's templates
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_its_metadata_say_what_is_true(built: tuple[Path, Path]) -> None:
    inside = contents(built[1])
    [name] = [name for name in inside if name.endswith(".dist-info/METADATA")]
    said = Parser().parsestr(inside[name].decode())
    assert said["Name"] == "pytest-dspy-ft"
    assert said["Version"] == __version__
    assert said["Requires-Python"] == ">=3.11"
    urls = dict(url.split(", ") for url in said.get_all("Project-URL") or [])
    assert set(urls) == {"Repository", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://") for url in urls.values())
    assert said["Description-Content-Type"] == "text/markdown"
    [points] = [text for name, text in inside.items() if name.endswith("entry_points.txt")]
    assert points.decode().split() == ["[pytest11]", "dspy_ft", "=", "pytest_dspy_ft.plugin"]


def test_the_source_distribution_builds_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert [name for name in names if any(part in name for part in NOT_PUBLISHED)] == []
    [folder] = tmp_path.iterdir()
    for needed in ("tests/conftest.py", "constraints.txt", "action.yml", ".ci/run", "docs/architecture.md"):
        assert (folder / needed).is_file(), needed
    [again] = build(folder, tmp_path / "again", "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


@pytest.fixture(scope="module")
def python(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed beside what it needs."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", built[1]]
    subprocess.run([sys.executable, *install], check=True)
    (needs := folder / "needs").mkdir()  # all that is installed here, but for this package itself
    for packages in filter(Path.is_dir, (Path(entry) for entry in sys.path if "-packages" in entry)):
        for path in packages.iterdir():
            mine = "pytest_dspy_ft" in path.name or path.suffix == ".pth"
            if not mine and not (needs / path.name).exists():
                (needs / path.name).symlink_to(path)
    [installed] = (folder / "venv" / "lib").glob("python*/site-packages")
    (installed / "needs.pth").write_text(f"{needs}\n")
    return python


def ask(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith(("GITHUB", "PYTEST"))}
    return subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**environment, "DSPY_CACHEDIR": str(folder / "cache"), "COLUMNS": "132"},
        capture_output=True,
        text=True,
    )


def test_a_project_uses_what_was_installed(python: Path, tmp_path: Path) -> None:
    where = ask(python, "-c", "import pytest_dspy_ft as p; print(p.__file__, p.__version__)", folder=tmp_path).stdout
    assert where.split()[0].startswith(str(python.parent.parent))
    assert where.split()[1] == __version__
    assert "--dspy-stage=STAGE" in ask(python, "-m", "pytest", "--help", folder=tmp_path).stdout
    (tmp_path / "pytest.ini").write_text("[pytest]\nrequired_plugins = pytest-dspy-ft\npythonpath = .\n")
    (tmp_path / "parity.py").write_text(PARITY)
    (tmp_path / "conftest.py").write_text(
        "import pytest\nfrom parity import make_experiment\n\n"
        "@pytest.fixture(scope='session')\ndef dspy_experiment():\n    return make_experiment()\n"
    )
    (tmp_path / "test_it.py").write_text(LADDER)
    ran = ask(python, "-m", "pytest", "--dspy-stage=finetune", "--dspy-report=run.html", folder=tmp_path)
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr
    assert f"pytest-dspy-ft {__version__}" in (tmp_path / "run.html").read_text(encoding="utf-8")
    listed = ask(python, "-m", "pytest_dspy_ft", "ls", folder=tmp_path)
    assert listed.returncode == 0
    assert "prompt_optimized" in listed.stdout
