"""What a CI job says of itself in its environment: the pull request it runs for, and where people read its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

Provider = Literal["github", "gitlab"]


@dataclass(frozen=True)
class Surroundings:
    """A job, as far as it is known."""

    provider: Provider
    api: str
    """The API's address."""
    repository: str = ""
    """``OWNER/NAME``, or a project's number."""
    number: int | None = None
    """The pull request's."""
    head: str = ""
    """``OWNER:BRANCH`` of the pull request, where its number is not known: a workflow that another one started."""
    commit: str = ""
    """The full hash of the pull request's last commit."""
    run: str = ""
    """Where people read the job's log."""


def surroundings(environment: Mapping[str, str], provider: Provider | None = None) -> Surroundings:
    """Read the environment.

    Args:
        environment: The process's.
        provider: What to look for; None looks which of the two it is, and takes GitHub where it is neither.
    """
    if provider == "gitlab" or (provider is None and environment.get("GITLAB_CI") == "true"):
        return _gitlab(environment)
    return _github(environment)


def _github(environment: Mapping[str, str]) -> Surroundings:
    repository, run = environment.get("GITHUB_REPOSITORY", ""), environment.get("GITHUB_RUN_ID", "")
    server = environment.get("GITHUB_SERVER_URL", "https://github.com")
    found = Surroundings(
        "github",
        environment.get("GITHUB_API_URL") or "https://api.github.com",
        repository,
        commit=environment.get("GITHUB_SHA", ""),
        run=f"{server}/{repository}/actions/runs/{run}" if repository and run else "",
    )
    event = _event(environment.get("GITHUB_EVENT_PATH", ""))
    if (number := _number(event, "pull_request")) is not None:
        return replace(found, number=number, commit=_text(event, "pull_request", "head", "sha") or found.commit)
    if "pull_request" in (event.get("issue") or {}):
        return replace(found, number=_number(event, "issue"))
    if (started := event.get("workflow_run")) and _text(event, "workflow_run", "event").startswith("pull_request"):
        owner = _text(started, "head_repository", "owner", "login")
        return replace(
            found,
            head=f"{owner}:{_text(started, 'head_branch')}" if owner else "",
            commit=_text(started, "head_sha"),
            run=_text(started, "html_url") or found.run,
        )
    return found


def _gitlab(environment: Mapping[str, str]) -> Surroundings:
    number = environment.get("CI_MERGE_REQUEST_IID", "")
    return Surroundings(
        "gitlab",
        environment.get("CI_API_V4_URL") or "https://gitlab.com/api/v4",
        environment.get("CI_MERGE_REQUEST_PROJECT_ID") or environment.get("CI_PROJECT_ID", ""),
        int(number) if number.isdigit() else None,
        commit=environment.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or environment.get("CI_COMMIT_SHA", ""),
        run=environment.get("CI_JOB_URL", ""),
    )


def _event(path: str) -> dict[str, Any]:
    """What started a workflow; empty where that is not said."""
    try:
        read = json.loads(Path(path).read_bytes()) if path else {}
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _number(event: Mapping[str, Any], name: str) -> int | None:
    number = (event.get(name) or {}).get("number")
    return number if isinstance(number, int) else None


def _text(event: Any, *names: str) -> str:
    for name in names:
        event = (event or {}).get(name)
    return event if isinstance(event, str) else ""
