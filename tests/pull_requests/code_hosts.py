"""GitHub and GitLab on the loopback: comments in pages, tokens that may less, and faults to order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.finetune.hosted.http_faults import ApiError, Call, Fault, FaultyHandler
from tests.finetune.hosted.loopback import LoopbackService, Routes

TOKEN = "ghs_planted_token_1234567890"
BOT = {"login": "github-actions[bot]", "type": "Bot"}
SOMEBODY = {"login": "somebody", "type": "User"}


class AnswerError(ApiError):
    """An answer with a status, a body and headers of its own."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, "")
        self.body, self.headers = body, headers or {}


class GitHubHandler(FaultyHandler):
    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise AnswerError(401, {"message": f"Bad credentials: {headers.get('Authorization')}"})


class GitHubServer(LoopbackService):
    """GitHub, with the repository ``o/r`` and its pull request 7.

    Args:
        faults: Asked about each request.
        may_write: False for the token that a fork's pull request gets.
        who: What the token's viewer is; None for a server without GraphQL.
        locked: The conversation is locked.
        longest: The most characters of a comment.
    """

    handler = GitHubHandler

    def __init__(
        self,
        *,
        faults: Callable[[Call], Fault | None] = lambda call: None,
        may_write: bool = True,
        who: str | None = "github-actions[bot]",
        locked: bool = False,
        longest: int = 65_536,
    ) -> None:
        super().__init__(faults=faults)
        self.may_write, self.who, self.locked, self.longest = may_write, who, locked, longest
        self.comments: list[dict[str, Any]] = []
        self.pulls: list[dict[str, Any]] = []
        self.deleted: list[int] = []
        self.next = 1

    def put(self, body: str, user: Mapping[str, str] = BOT) -> dict[str, Any]:
        """A comment that is there."""
        number, self.next = self.next, self.next + 1
        url = f"https://github.test/o/r/pull/7#issuecomment-{number}"
        self.comments.append({"id": number, "body": body, "user": dict(user), "html_url": url})
        return self.comments[-1]

    def routes(self) -> Routes:
        of_pull = r"/repos/o/r/issues/7/comments"
        return [
            ("POST", r"/graphql", self._viewer),
            ("GET", r"/user", self._user),
            ("GET", of_pull, self._list),
            ("POST", of_pull, self._create),
            ("PATCH", r"/repos/o/r/issues/comments/(\d+)", self._update),
            ("DELETE", r"/repos/o/r/issues/comments/(\d+)", self._remove),
            ("GET", r"/repos/o/r/pulls", self._pulls),
        ]

    def handle(self, method: str, path: str, query: dict[str, str], headers: Mapping[str, str], body: bytes) -> Any:
        try:
            return super().handle(method, path, query, headers, body)
        except ApiError as error:
            if not isinstance(error, AnswerError):
                raise AnswerError(404, {"message": "Not Found"}) from None
            raise

    def _viewer(self, *, body: bytes, **_: Any) -> Any:
        assert json.loads(body) == {"query": "{viewer{login}}"}
        if self.who is None:
            raise AnswerError(404, {"message": "Not Found"})
        return {"data": {"viewer": {"login": self.who}}}

    def _user(self, **_: Any) -> Any:
        raise AnswerError(403, {"message": "Resource not accessible by integration"})

    def _list(self, *, query: dict[str, str], **_: Any) -> Any:
        raise self._page(self.comments, query)

    def _page(self, entries: list[dict[str, Any]], query: dict[str, str]) -> AnswerError:
        page, size = int(query["page"]), int(query["per_page"])
        more = page * size < len(entries)
        headers = {"Link": '<https://elsewhere.test/steal?page=2>; rel="next"'} if more else {}
        return AnswerError(200, entries[(page - 1) * size : page * size], headers)

    def _check_write(self) -> None:
        if not self.may_write:
            raise AnswerError(403, {"message": "Resource not accessible by integration"})
        if self.locked:
            raise AnswerError(403, {"message": "Unable to create comment because issue is locked."})

    def _create(self, *, body: bytes, **_: Any) -> Any:
        self._check_write()
        text = json.loads(body)["body"]
        if len(text) > self.longest:
            raise AnswerError(422, {"message": "Validation Failed", "errors": [{"message": "body is too long"}]})
        raise AnswerError(201, self.put(text))

    def _update(self, number: str, *, body: bytes, **_: Any) -> Any:
        self._check_write()
        for comment in self.comments:
            if comment["id"] == int(number):
                comment["body"] = json.loads(body)["body"]
                return comment
        raise AnswerError(404, {"message": "Not Found"})

    def _remove(self, number: str, **_: Any) -> Any:
        self._check_write()
        self.comments = [comment for comment in self.comments if comment["id"] != int(number)]
        self.deleted.append(int(number))
        raise AnswerError(204, b"")

    def _pulls(self, *, query: dict[str, str], **_: Any) -> Any:
        raise self._page([p for p in self.pulls if p["head"]["label"] == query["head"]], query)


class GitLabHandler(FaultyHandler):
    def _check_key(self, path: str, headers: Mapping[str, str]) -> None:
        if headers.get("PRIVATE-TOKEN") != TOKEN:
            raise AnswerError(401, {"message": "401 Unauthorized"})


class GitLabServer(LoopbackService):
    """GitLab, with the project ``group/p`` and its merge request 3."""

    handler = GitLabHandler

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[dict[str, Any]] = []

    def routes(self) -> Routes:
        notes = r"/projects/group%2Fp/merge_requests/3/notes"
        return [
            ("GET", r"/user", lambda **_: {"id": 40}),
            ("GET", notes, lambda **_: self.notes),
            ("POST", notes, self._create),
            ("PUT", notes + r"/(\d+)", self._update),
        ]

    def _create(self, *, body: bytes, **_: Any) -> Any:
        self.notes.append({"id": len(self.notes) + 1, "body": json.loads(body)["body"], "author": {"id": 40}})
        raise AnswerError(201, self.notes[-1])

    def _update(self, number: str, *, body: bytes, **_: Any) -> Any:
        self.notes[int(number) - 1]["body"] = json.loads(body)["body"]
        return self.notes[int(number) - 1]
