"""Comments on a pull request of GitHub or GitHub Enterprise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pytest_dspy_ft.errors import CommentError
from pytest_dspy_ft.pull_requests.api_client import ApiClient, RefusedRequestError
from pytest_dspy_ft.pull_requests.host import CommentGoneError, HostedComment

GITHUB_HEADERS = {
    "Authorization": "Bearer TOKEN",
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
}


class GitHubComments:
    """The comments of one pull request.

    Args:
        client: With :data:`GITHUB_HEADERS`.
        repository: ``OWNER/NAME``.
        number: The pull request's.
    """

    most_characters = 60_000
    """GitHub refuses more than 65 536."""

    def __init__(self, client: ApiClient, repository: str, number: int) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise CommentError(f"{repository!r} is no repository: write OWNER/NAME")
        self._client, self._repository, self._number = client, repository, number
        self._who: str | None = None

    def own_comments(self) -> Sequence[HostedComment]:
        """The token's own comments, the oldest first."""
        who = self._who = self._who or self._login()
        try:
            listed = list(self._client.pages(f"/repos/{self._repository}/issues/{self._number}/comments"))
        except RefusedRequestError as refused:
            raise self._explained(refused) from None
        own = [_comment(one) for one in listed if isinstance(one, dict) and _is_by(one, who)]
        return sorted(own, key=lambda comment: comment.id)

    def create(self, text: str) -> HostedComment:
        """Write a new comment."""
        path = f"/repos/{self._repository}/issues/{self._number}/comments"
        try:
            return _comment(self._client.request("POST", path, content={"body": text}, repeatable=False))
        except RefusedRequestError as refused:
            raise self._explained(refused) from None

    def update(self, comment: HostedComment, text: str) -> HostedComment:
        """Write another text into a comment."""
        path = f"/repos/{self._repository}/issues/comments/{comment.id}"
        try:
            return _comment(self._client.request("PATCH", path, content={"body": text}))
        except RefusedRequestError as refused:
            if refused.status in (404, 410):
                raise CommentGoneError(str(refused)) from None
            raise self._explained(refused) from None

    def delete(self, comment: HostedComment) -> None:
        """Delete a comment."""
        try:
            self._client.request("DELETE", f"/repos/{self._repository}/issues/comments/{comment.id}")
        except RefusedRequestError as refused:
            if refused.status not in (404, 410):
                raise self._explained(refused) from None

    def _login(self) -> str:
        """Whose token it is; empty where the host tells neither: then any bot counts."""
        graphql = f"{self._client.base.removesuffix('/v3')}/graphql"  # Enterprise: /api/v3 and /api/graphql
        try:  # the only question of the two that a workflow's own token may ask
            said = self._client.request("POST", graphql, content={"query": "{viewer{login}}"})
            return str(said["data"]["viewer"]["login"])
        except (RefusedRequestError, KeyError, TypeError):
            pass
        try:
            return str(self._client.request("GET", "/user")["login"])
        except (RefusedRequestError, KeyError, TypeError):
            return ""

    def _explained(self, refused: RefusedRequestError) -> CommentError:
        where = f"no comment was written to pull request {self._number} of {self._repository}"
        if refused.status == 401:
            advice = "the token is wrong or has expired"
        elif refused.status == 403 and "locked" in refused.said.lower():
            advice = "the conversation is locked"
        elif refused.status == 403:
            advice = (
                "the token may not: a workflow needs `permissions: pull-requests: write`, and one that a fork's pull "
                "request starts never has it"
            )
        elif refused.status in (404, 410):
            advice = "there is no such pull request, or the token may not see it"
        elif 300 <= refused.status < 400:
            advice = "the repository has moved: name it as it is called now"
        else:
            advice = "GitHub refused it"
        return CommentError(f"{where}: {advice} ({refused})")


def pull_request_of_branch(client: ApiClient, repository: str, head: str, commit: str) -> int | None:
    """The open pull request whose head is a branch at a commit; None where there is none.

    Args:
        client: With :data:`GITHUB_HEADERS`.
        repository: That takes the pull request, ``OWNER/NAME``.
        head: The branch as GitHub wants it: ``OWNER:BRANCH``, its owner being that of the fork.
        commit: The head's full hash.
    """
    for found in client.pages(f"/repos/{repository}/pulls", {"head": head, "state": "open"}):
        if found.get("head", {}).get("sha") == commit:
            return int(found["number"])
    return None


def _is_by(comment: dict[str, Any], who: str) -> bool:
    author = comment.get("user") or {}
    if not who:
        return author.get("type") == "Bot"
    return author.get("login") in ([who, f"{who}[bot]"] if author.get("type") == "Bot" else [who])


def _comment(said: Any) -> HostedComment:
    try:
        text = str(said.get("body") or "").replace("\r\n", "\n")
        return HostedComment(int(said["id"]), text, str(said.get("html_url") or ""))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CommentError("GitHub's answer is no comment") from None
