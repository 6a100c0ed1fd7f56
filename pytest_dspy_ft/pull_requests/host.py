"""What a code host must be able to do with the comments of one pull request, in our words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_dspy_ft.errors import CommentError


class UnansweredError(CommentError):
    """Nobody knows whether a comment was written: the connection broke, or the host answered with 5xx."""


class CommentGoneError(CommentError):
    """The comment is not there any more: somebody deleted it meanwhile."""


@dataclass(frozen=True)
class HostedComment:
    """A comment as a host has it."""

    id: int
    text: str
    url: str
    """Where people read it; empty where the host does not say."""


class CommentHost(Protocol):
    """The comments of one pull request."""

    most_characters: int
    """The longest comment that the host takes, with some room left."""

    def own_comments(self) -> Sequence[HostedComment]:
        """The comments that whoever the token belongs to has written, the oldest first.

        Those of others are left alone, whatever stands in them: who copies our marker must not get our words.

        Raises:
            CommentError: If they cannot be listed.
        """
        ...

    def create(self, text: str) -> HostedComment:
        """Write a new comment.

        Raises:
            UnansweredError: If nobody knows whether it was written.
            CommentError: If it was not.
        """
        ...

    def update(self, comment: HostedComment, text: str) -> HostedComment:
        """Write another text into a comment.

        Raises:
            CommentGoneError: If it is not there any more.
            CommentError: If it cannot be written.
        """
        ...

    def delete(self, comment: HostedComment) -> None:
        """Delete a comment; one that is gone already is no error.

        Raises:
            CommentError: If it cannot be deleted.
        """
        ...
