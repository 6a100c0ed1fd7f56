"""Whose code an installed file is: the user's own package is the user's code, everybody else's is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest

import pytest_dspy_ft
from pytest_dspy_ft.fingerprint.origin import clear_cache, is_user_code, is_user_file, own_packages


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages with one distribution of somebody else's."""
    folder = tmp_path / "env" / "site-packages"
    folder.mkdir(parents=True)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(folder)
    install(folder, "someones", None)
    clear_cache()
    yield folder
    clear_cache()


def install(folder: Path, name: str, origin: object, installer: str = "pip", module: str | None = None) -> Path:
    module = module or name.replace("-", "_")
    package = folder / module
    package.mkdir()
    (package / "text.py").write_text("def clean(x): return x\n")
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "RECORD").write_text(f"{module}/text.py,sha256=x,1\n{metadata.name}/RECORD,,\n")
    (metadata / "INSTALLER").write_text(installer + "\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    return package / "text.py"


LOCAL = {"url": "file:///home/me/ourapp", "dir_info": {}}
REPOSITORY = {"url": "https://host/ourapp.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}


@pytest.mark.parametrize(
    ("name", "origin", "installer", "own"),
    [
        ("our-app", LOCAL, "pip", True),
        ("our-app", REPOSITORY, "uv", True),
        ("our-app", {"url": "file:///tmp/our_app-1.0-py3-none-any.whl", "archive_info": {}}, "pip", True),
        ("our-app", {"url": "https://host/our_app-1.0.whl", "archive_info": {}}, "pip", False),
        ("our-app", None, "pip", False),
        ("our-app", LOCAL, "conda", False),
        ("torch", REPOSITORY, "pip", False),
        ("dspy", LOCAL, "pip", False),
        ("pytest-dspy-ft", LOCAL, "pip", False),
    ],
)
def test_where_a_distribution_came_from(site: Path, name: str, origin: object, installer: str, own: bool) -> None:
    file = install(site, name, origin, installer)
    assert is_user_file(file) is own
    assert (name in own_packages()) is own


def test_the_project_of_the_working_directory(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = install(site, "Our_App", None, module="ourapp")
    work = Path.cwd()
    (work / "pyproject.toml").write_text('[project]\nname = "our.app"\n')
    (work / "tests").mkdir()
    monkeypatch.chdir(work / "tests")
    clear_cache()
    assert is_user_file(file)
    assert "our-app" in own_packages()


def test_a_copied_folder_that_no_distribution_claims(site: Path) -> None:
    (site / "copied").mkdir()
    (site / "single.py").write_text("x = 1\n")
    (site / "copied" / "text.py").write_text("x = 1\n")
    assert is_user_file(site / "copied" / "text.py")
    assert is_user_file(site / "single.py")
    assert not is_user_file(site / "someones" / "text.py")


def test_names_that_are_no_files() -> None:
    assert [is_user_file(name) for name in ("<string>", "<frozen os>", "<ipython-input-1-abc>")] == [False, False, True]
    assert is_user_file(__file__)
    assert not is_user_file(pytest_dspy_ft.__file__), "an editable install is not the user's"
    assert not is_user_code(dspy.Predict)
    assert not is_user_code(json.dumps)
