"""One comment for each key: found by its marker, written anew in place, created where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from pytest_dspy_ft.errors import CommentError
from pytest_dspy_ft.pull_requests.host import CommentGoneError, CommentHost, HostedComment, UnansweredError

MOST_TRIES = 3
"""How often a comment may vanish while it is being written."""


@dataclass(frozen=True)
class KeptComment:
    """What became of the comment."""

    done: Literal["created", "updated", "unchanged"]
    url: str
    removed: int = 0
    """Further comments of the same key, which two jobs had created at the same moment, and which were deleted."""


def marker(key: str) -> str:
    """The first line of a comment, which no reader sees: it says whose comment it is."""
    return f"<!-- pytest-dspy-ft comment {quote(key, safe='').replace('-', '%2D')} -->"


def keep_one_comment(host: CommentHost, key: str, text: str) -> KeptComment:
    """Have a pull request show a text in the one comment of a key.

    Args:
        host: The pull request.
        key: Tells the comments of several jobs apart.
        text: The comment, without its marker.

    Raises:
        CommentError: If it cannot be written.
    """
    mark = marker(key)
    text = f"{mark}\n{text}"
    vanished = 0
    while True:
        found = [comment for comment in host.own_comments() if comment.text.startswith(mark)]
        try:
            if not found:
                return KeptComment("created", host.create(text).url)
            first, *more = found
            if first.text == text:
                return KeptComment("unchanged", first.url, _delete(host, more))
            return KeptComment("updated", host.update(first, text).url, _delete(host, more))
        except UnansweredError:
            continue  # the host's patience has an end, and says so by another error
        except CommentGoneError:
            vanished += 1
            if vanished == MOST_TRIES:
                raise


def _delete(host: CommentHost, comments: Sequence[HostedComment]) -> int:
    """Delete comments; what cannot be deleted stays, since the first one of the key says what is to be said."""
    removed = 0
    for comment in comments:
        with contextlib.suppress(CommentError):
            host.delete(comment)
            removed += 1
    return removed
