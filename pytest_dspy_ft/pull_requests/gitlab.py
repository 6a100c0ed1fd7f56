"""Comments on a merge request of GitLab, which calls them notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pytest_dspy_ft.errors import CommentError
from pytest_dspy_ft.pull_requests.api_client import ApiClient, RefusedRequestError
from pytest_dspy_ft.pull_requests.host import CommentGoneError, HostedComment

GITLAB_HEADERS = {"PRIVATE-TOKEN": "TOKEN"}


class GitLabNotes:
    """The notes of one merge request.

    Args:
        client: With :data:`GITLAB_HEADERS`.
        project: Its number, or ``GROUP/NAME``.
        number: The merge request's, within the project (``iid``).
    """

    most_characters = 500_000
    """GitLab refuses more than a million."""

    def __init__(self, client: ApiClient, project: str, number: int) -> None:
        self._client, self._project, self._number = client, project, number
        self._notes = f"/projects/{quote(project, safe='')}/merge_requests/{number}/notes"
        self._who: int | None = None

    def own_comments(self) -> Sequence[HostedComment]:
        """The token's own notes, the oldest first."""
        try:
            if self._who is None:
                self._who = int(self._client.request("GET", "/user")["id"])
            listed = list(self._client.pages(self._notes, {"sort": "asc", "order_by": "created_at"}))
        except RefusedRequestError as refused:
            raise self._explained(refused) from None
        except (KeyError, TypeError, ValueError):
            raise CommentError("GitLab does not say whose token it is") from None
        return [_note(one) for one in listed if (one.get("author") or {}).get("id") == self._who]

    def create(self, text: str) -> HostedComment:
        """Write a new note."""
        try:
            return _note(self._client.request("POST", self._notes, content={"body": text}, repeatable=False))
        except RefusedRequestError as refused:
            raise self._explained(refused) from None

    def update(self, comment: HostedComment, text: str) -> HostedComment:
        """Write another text into a note."""
        try:
            return _note(self._client.request("PUT", f"{self._notes}/{comment.id}", content={"body": text}))
        except RefusedRequestError as refused:
            if refused.status == 404:
                raise CommentGoneError(str(refused)) from None
            raise self._explained(refused) from None

    def delete(self, comment: HostedComment) -> None:
        """Delete a note."""
        try:
            self._client.request("DELETE", f"{self._notes}/{comment.id}")
        except RefusedRequestError as refused:
            if refused.status != 404:
                raise self._explained(refused) from None

    def _explained(self, refused: RefusedRequestError) -> CommentError:
        where = f"no note was written to merge request {self._number} of project {self._project}"
        if refused.status in (401, 403):
            advice = "GITLAB_TOKEN has to be an access token with scope `api`: a job's own CI_JOB_TOKEN may not comment"
        elif refused.status == 404:
            advice = "there is no such merge request, or the token may not see it"
        else:
            advice = "GitLab refused it"
        return CommentError(f"{where}: {advice} ({refused})")


def _note(said: Any) -> HostedComment:
    try:
        return HostedComment(int(said["id"]), str(said.get("body") or "").replace("\r\n", "\n"), "")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CommentError("GitLab's answer is no note") from None
