"""Links lead somewhere, and every page is in the navigation. MkDocs checks them too, anchors included, where it is."""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from docs.generated import hooks
from pytest_dspy_ft.constants import DOCUMENTATION
from tests.conftest import REPOSITORY
from tests.docs.pages import FENCED, pages

DOCS = REPOSITORY / "docs"
CONFIG = yaml.load((REPOSITORY / "mkdocs.yml").read_text("utf-8"), Loader=yaml.BaseLoader)  # its tags are not ours
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


def site_pages() -> set[str]:
    """The pages of the site, those that are made while it is built included."""
    return {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | set(hooks.pages())


def links(text: str) -> Iterator[str]:
    """Where the links of a page lead, without those in code."""
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))
    yield from (target for target, _ in LINK.findall(text) if target)


def test_links_of_pages_lead_to_files() -> None:
    there = site_pages()
    for page in pages():
        for target in links(page.read_text("utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            if DOCS in page.parents:
                place = posixpath.normpath(posixpath.join(page.relative_to(DOCS).parent.as_posix(), target))
                assert place in there or (DOCS / place).exists(), f"{page}: {target}"
            else:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_links_to_the_site_lead_to_its_pages() -> None:
    there = site_pages()
    found = 0
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "pytest_dspy_ft").rglob("*.py")]:
        text = page.read_text("utf-8").replace("{DOCUMENTATION}", DOCUMENTATION)
        for target in re.findall(re.escape(DOCUMENTATION) + r"([\w./-]*)", text):
            found += 1
            place = re.sub(r"\.html$", ".md", target)
            assert not target or place in there or (DOCS / place).exists(), f"{page}: {target}"
    assert found > 10


def test_readme_leads_by_whole_addresses_and_to_the_sources() -> None:
    """A package index shows it too."""
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert all("://" in target for target in links(readme))
    assert f"]({CONFIG['repo_url']})" in readme


def test_addresses_are_the_same_everywhere() -> None:
    assert CONFIG["site_url"] == DOCUMENTATION
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    for address in project.get("urls", {}).values():
        assert address.startswith((DOCUMENTATION, CONFIG["repo_url"])), address


def test_every_page_is_in_the_navigation() -> None:
    shown = list(_places(CONFIG["nav"]))
    assert sorted(shown) == sorted(site_pages())


def _places(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for item in node.values() if isinstance(node, dict) else node:
            yield from _places(item)


def test_no_page_is_named_by_a_place_where_it_is_not() -> None:
    homes = {Path(place).name: f"docs/{place}" for place in site_pages()}
    for folder in ("docs", "benchmarks", "tests", "pytest_dspy_ft"):
        for file in (REPOSITORY / folder).rglob("*.*"):
            if file.suffix in (".py", ".md"):
                for name in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text("utf-8")):
                    assert (REPOSITORY / name).exists() or homes.get(Path(name).name, name) == name, file
