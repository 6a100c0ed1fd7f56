"""A job of a CI: the command as it is run there, and the environment that it finds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.cli import main
from pytest_dspy_ft.pull_requests import api_client
from tests.pull_requests.code_hosts import TOKEN, GitHubServer

Comment = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CI these tests run in is none of theirs; and nobody waits for long."""
    for name in os.environ:
        if name.startswith(("GITHUB_", "GH_", "GITLAB_", "CI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(api_client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def github_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """The environment of a job of GitHub Actions."""

    def set_up(server: GitHubServer, event: dict[str, Any] | None = None, token: str = TOKEN) -> None:
        event = {"pull_request": {"number": 7, "head": {"sha": "c0ffee" * 6 + "abcd"}}} if event is None else event
        (tmp_path / "event.json").write_text(json.dumps(event))
        (tmp_path / "summary.md").write_text("earlier\n")
        for name, value in {
            "ACTIONS": "true",
            "API_URL": server.root,
            "EVENT_PATH": str(tmp_path / "event.json"),
            "REPOSITORY": "o/r",
            "RUN_ID": "99",
            "SERVER_URL": "https://github.test",
            "SHA": "f" * 40,
            "STEP_SUMMARY": str(tmp_path / "summary.md"),
            "TOKEN": token,
        }.items():
            monkeypatch.setenv(f"GITHUB_{name}", value)

    return set_up


@pytest.fixture
def comment(capsys: pytest.CaptureFixture[str]) -> Comment:
    """Run the command; gives its exit code, and what it said on stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["comment", *map(str, arguments)])
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return code, said.out, said.err

    return run
