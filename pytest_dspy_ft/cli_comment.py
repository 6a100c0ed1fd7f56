"""``python -m pytest_dspy_ft comment``: a report as one comment on a pull request. No dspy, no torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import CommentError, RecordError

if TYPE_CHECKING:
    from pytest_dspy_ft.pull_requests.api_client import ApiClient
    from pytest_dspy_ft.pull_requests.comment_text import Finished
    from pytest_dspy_ft.pull_requests.host import CommentHost
    from pytest_dspy_ft.pull_requests.surroundings import Surroundings
    from pytest_dspy_ft.records.run import RunRecord

TOKENS = {"github": ("GITHUB_TOKEN", "GH_TOKEN"), "gitlab": ("GITLAB_TOKEN",)}
"""The environment variables that a token is read from. No argument takes one: arguments show in lists of processes."""


def add_comment_command(commands: Any) -> None:
    """Add the command to the command line's."""
    comment = commands.add_parser(
        "comment",
        help="keep one comment on a pull request up to date with a report",
        description="Write saved records (.json of --dspy-report), or Markdown reports, as one comment on a pull "
        "request of GitHub or a merge request of GitLab: the comment of this --key is written anew in place, or "
        "created where there is none. In a job of GitHub Actions or GitLab CI the pull request, the API and the log "
        "are found in the environment. The token is that of GITHUB_TOKEN (or GH_TOKEN), or GITLAB_TOKEN. "
        "Exit code 0 where the comment says what is to be said, or the job runs for no pull request; 1 where it could "
        "not be written. A gate that failed changes no exit code here.",
    )
    comment.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="a record (.json) or Markdown (.md)")
    comment.add_argument(
        "--provider", choices=("github", "gitlab"), help="default: whose CI the job runs in, or GitHub"
    )
    comment.add_argument("--repo", metavar="OWNER/NAME", help="the repository, or GitLab's project by path or number")
    comment.add_argument("--pr", type=_number, metavar="N", help="the pull request or merge request")
    comment.add_argument("--key", default="", help="tells the comments of several jobs apart, and stands in them")
    comment.add_argument("--page", default="", metavar="URL", help="where the HTML page is to be had")
    comment.add_argument("--run", dest="log", metavar="URL", help="where the job's log is")
    comment.add_argument(
        "--exit-code",
        type=int,
        metavar="N",
        help="pytest's: said where no gate explains it; and a report that is missing is said rather than an error",
    )
    comment.add_argument("--api", metavar="URL", help="the API's address: GitHub Enterprise, a GitLab of one's own")
    comment.add_argument(
        "--patience", type=float, default=120.0, metavar="SECONDS", help="how long to wait for the host in all (120)"
    )
    comment.add_argument("--print", action="store_true", help="print the comment, and ask nobody")
    comment.set_defaults(run=_comment)


def _number(text: str) -> int:
    """A pull request's number; ArgumentTypeError for what is none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of a pull request")
    return int(text)


def _comment(options: argparse.Namespace) -> int:
    from pytest_dspy_ft.pull_requests.comment_text import comment_text
    from pytest_dspy_ft.pull_requests.github import GitHubComments
    from pytest_dspy_ft.pull_requests.surroundings import surroundings

    where = surroundings(os.environ, options.provider)
    job = _finished(options, where)
    if options.print:
        print(comment_text(job, GitHubComments.most_characters))
        return 0
    try:
        said = _keep(options, where, job) if options.pr or where.number or where.head else ""
    except CommentError as problem:
        return _not_commented(str(problem))
    print(said or "no comment: this job runs for no pull request; --pr names one")
    return 0


def _keep(options: argparse.Namespace, where: Surroundings, job: Finished) -> str:
    """Have the pull request show the comment; gives what was done, or nothing where there is no pull request.

    Raises:
        CommentError: If something is missing, or the host does not do it.
    """
    from pytest_dspy_ft.pull_requests.comment_text import comment_text
    from pytest_dspy_ft.pull_requests.one_comment import keep_one_comment

    with _client(options, where) as client:
        if (host := _host(client, options, where)) is None:
            return ""
        kept = keep_one_comment(host, options.key, comment_text(job, host.most_characters))
    removed = f", {kept.removed} more of the same key deleted" if kept.removed else ""
    return f"comment {kept.done}{removed}: {kept.url}".removesuffix(": ")


def _finished(options: argparse.Namespace, where: Surroundings) -> Finished:
    """What is to be said."""
    from pytest_dspy_ft.pull_requests.comment_text import Finished

    there = [path for path in options.reports if options.exit_code is None or path.exists()]
    return Finished(
        reports=[_read(path) for path in there],
        exit_code=options.exit_code,
        key=options.key,
        page=options.page,
        run=where.run if options.log is None else options.log,
        commit=where.commit,
    )


def _read(path: Path) -> RunRecord | str:
    """A record, or a report in Markdown.

    Raises:
        RecordError: If it is neither, or not there.
    """
    from pytest_dspy_ft.records.run_file import read_record

    match path.suffix.lower():
        case ".json":
            return read_record(path)
        case ".md":
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise RecordError(f"{path} is no Markdown in UTF-8") from None
    raise RecordError(f"{path} is no report that a comment can show: name a .json or .md of --dspy-report")


def _client(options: argparse.Namespace, where: Surroundings) -> ApiClient:
    """What asks the host, with the token of the environment.

    Raises:
        CommentError: If there is none.
    """
    from pytest_dspy_ft.pull_requests.api_client import ApiClient
    from pytest_dspy_ft.pull_requests.github import GITHUB_HEADERS
    from pytest_dspy_ft.pull_requests.gitlab import GITLAB_HEADERS

    names = TOKENS[where.provider]
    token = next(filter(None, (os.environ.get(name, "").strip() for name in names)), "")
    if not token:
        raise CommentError(f"there is no token: set {' or '.join(names)} in the environment")
    headers = GITLAB_HEADERS if where.provider == "gitlab" else GITHUB_HEADERS
    return ApiClient(options.api or where.api, token, headers, options.patience)


def _host(client: ApiClient, options: argparse.Namespace, where: Surroundings) -> CommentHost | None:
    """The pull request; None where the branch that the job runs for has none.

    Raises:
        CommentError: If its repository is not known, or the host does not answer.
    """
    from pytest_dspy_ft.pull_requests.github import GitHubComments, pull_request_of_branch
    from pytest_dspy_ft.pull_requests.gitlab import GitLabNotes

    number, repository = options.pr or where.number, options.repo or where.repository
    if not repository:
        raise CommentError("--repo is missing: OWNER/NAME at GitHub, a project's path or number at GitLab")
    if number is None:  # in a workflow that another one started; GitLab's jobs know theirs
        number = pull_request_of_branch(client, repository, where.head, where.commit)
    if number is None:
        return None
    return (GitLabNotes if where.provider == "gitlab" else GitHubComments)(client, repository, number)


def _not_commented(problem: str) -> int:
    """Say that there is no comment where it is seen: in the log, and in GitHub Actions on the run's page, too."""
    from pytest_dspy_ft.report.github import add_to_summary, on_github, warning_line

    print(problem, file=sys.stderr)
    if on_github():
        print(warning_line("no comment on the pull request", problem))
        add_to_summary(f"> ⚠️ {problem}\n")
    return 1
