"""The site is built with every warning an error, loads nothing from elsewhere, and can be searched from the disk."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("mkdocs", reason="the site's packages are not installed: pip install -e '.[docs]'")

LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"?(https?:[^\"\s>]+)[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = [
            found[0]
            for found in LOADED.finditer(page.read_text("utf-8"))
            if not re.search(r"rel=\"?(canonical|edit)", found[0])
        ]
        assert loaded == [], page


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text("utf-8")), style


def test_the_search_works_from_the_disk(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text("utf-8")
    assert "Gates and markers" in index
    assert 'src="../javascripts/offline_search.js"' in (site / "reference" / "gates.html").read_text("utf-8")


def test_parts_that_are_made_from_the_code_are_there(site: Path) -> None:
    assert "--dspy-max-cost" in (site / "reference" / "options.html").read_text("utf-8")
    assert "VerdictRecord" in (site / "reference" / "record.html").read_text("utf-8")
    assert "generated:" not in "".join(page.read_text("utf-8") for page in site.rglob("*.html"))
    api = (site / "reference" / "api.html").read_text("utf-8")
    for name in ("Experiment", "Stage", "Dataset", "Ladder", "StageResult", "Gate", "LabeledFinetune", "load"):
        assert f'id="pytest_dspy_ft.{name}"' in api, name
    assert not re.search(r":(class|data|func|meth|mod|attr):", api)


def test_nothing_but_the_site_is_published(site: Path) -> None:
    assert not [*site.rglob("*.py"), *site.rglob("__pycache__")]
