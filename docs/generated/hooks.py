"""What MkDocs calls while it builds the site: pages and parts of pages that are made from the code and the examples.

A page says ``<!-- generated: NAME -->`` where a part belongs; :data:`PARTS` makes it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # the `mkdocs` command does not look beside itself

from docs.generated import commands, contents, examples, fixtures, options, record, texts  # noqa: E402

PARTS: dict[str, Callable[[], str]] = {
    "commands": commands.markdown,
    "fixtures": fixtures.markdown,
    "options": options.markdown,
    "readme": texts.readme,
    "record": record.markdown,
    "store": texts.store,
}
"""By the name that a page gives it, a part that is made when the site is built."""

CONTENTS = "contents"
"""The part that lists a section's pages, as the navigation has them."""
PLACE = re.compile(r"^<!-- generated: (\w+) -->$", flags=re.MULTILINE)
ROLE = re.compile(r":(?:class|data|func|meth|mod|attr):\s*<code>~?([^<]*)</code>")


def pages() -> dict[str, str]:
    """The pages that lie outside of ``docs/``, by their place in the site: examples and the changelog."""
    return {**examples.pages(), "reference/changes.md": texts.changelog()}


def filled(markdown: str) -> str:
    """The page with its generated parts in their places; the list of a section's pages is not among these.

    Raises:
        KeyError: If there is no part of a name.
    """
    return PLACE.sub(lambda match: match[0] if match[1] == CONTENTS else PARTS[match[1]](), markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    for place, content in pages().items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the places that a page has for generated parts."""
    place = f"<!-- generated: {CONTENTS} -->"
    return filled(markdown).replace(place, contents.markdown(page) if place in markdown else "")


def on_page_content(html: str, **_: Any) -> str:
    """Show what docstrings refer to by Sphinx's roles as code, by its last name."""
    return ROLE.sub(lambda match: f"<code>{match[1].rpartition('.')[2]}</code>", html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Nothing is asked of others when a page is read."""
    address = f"{'../' * page.file.src_uri.count('/')}javascripts/offline_search.js"
    return asking_nobody(output, f'<script src="{address}"></script>')


def on_post_template(output: str, **_: Any) -> str:
    """Nothing is asked of others by the page for what is not found, which a server shows."""
    return asking_nobody(output, "")


def asking_nobody(output: str, search: str) -> str:
    """A page without what the theme would ask others for.

    Args:
        output: The page.
        search: What stands for the script that MkDocs' offline plugin would load from a server. The other thing is how
            many stars the repository has, which the theme asks GitHub.
    """
    output = re.sub(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>', search, output)
    return output.replace(' data-md-component="source"', "")
