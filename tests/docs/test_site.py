"""The site is built with every warning an error, loads nothing from elsewhere, and can be searched from the disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium, as wide as a phone lets it be, which finds no other machine."""
    webdriver = pytest.importorskip("selenium.webdriver")
    places = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(places):
        pytest.skip("chromium or chromedriver is not installed (apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --window-size=500,900"
    for flag in [*flags.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(places[1]))
    driver.implicitly_wait(30)
    yield driver
    driver.quit()


def test_the_site_is_read_and_searched_from_the_disk(site: Path, browser: Any) -> None:
    browser.get((site / "reference" / "gates.html").as_uri())
    browser.execute_script("document.querySelector('label[for=__search]').click()")
    browser.find_element("css selector", "input.md-search__input").send_keys("max-cost")
    found = browser.find_element("css selector", ".md-search-result__link")
    assert "costs.html" in found.get_attribute("href") or "troubleshooting.html" in found.get_attribute("href")
    for page in ("index", "explanation/calibration", "reference/record", "reference/api", "how-to/baselines"):
        browser.get((site / f"{page}.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), page
    assert browser.get_log("browser") == []  # nothing was asked of others, and no script failed


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
