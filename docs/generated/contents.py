"""The pages of a section, as the navigation has them: what its first page lists."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any


def markdown(page: Any) -> str:
    """The other pages of a page's section, in their groups, each with its link."""
    return "\n".join(_lines(page.parent.children, page)).strip()


def _lines(children: list[Any], page: Any) -> Iterator[str]:
    for child in children:
        if child.is_section:
            yield f"\n## {child.title}\n"
            yield from _lines(child.children, page)
        elif child is not page:
            place = posixpath.relpath(child.file.src_uri, posixpath.dirname(page.file.src_uri))
            yield f"- [{child.title or _title(child)}]({place})"


def _title(page: Any) -> str:
    """The page's own title, where the navigation gives it none."""
    first: str = page.file.content_string.partition("\n")[0]
    return first.removeprefix("# ")
