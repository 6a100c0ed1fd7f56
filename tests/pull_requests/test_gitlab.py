"""One note on a merge request of GitLab."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.pull_requests.one_comment import marker
from pytest_dspy_ft.records.run_file import record_json
from tests.pull_requests.code_hosts import TOKEN, GitLabServer
from tests.pull_requests.conftest import Comment
from tests.report.test_html import full_run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    write_atomically(path, record_json(full_run()))
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> GitLabServer:
    with GitLabServer() as server:
        for name, value in {
            "GITLAB_CI": "true",
            "GITLAB_TOKEN": TOKEN,
            "CI_API_V4_URL": server.root,
            "CI_PROJECT_ID": "group/p",
            "CI_MERGE_REQUEST_IID": "3",
            "CI_JOB_URL": "https://gitlab.test/jobs/5",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_note_is_written_and_written_anew(saved: Path, comment: Comment, server: GitLabServer) -> None:
    server.notes.append({"id": 1, "body": f"{marker('')}\nplanted", "author": {"id": 41}})
    assert comment(saved)[:2] == (0, "comment created\n")
    write_atomically(saved, record_json(full_run(said="refund")))
    assert comment(saved)[:2] == (0, "comment updated\n")
    assert [note["body"].endswith("planted") for note in server.notes] == [True, False]
    assert "refund" in server.notes[1]["body"]
    assert "[log](https://gitlab.test/jobs/5)" in server.notes[1]["body"]


def test_a_jobs_own_token_may_not_comment(
    saved: Path, comment: Comment, server: GitLabServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", "a-job-token-1234567890")
    code, _, err = comment(saved)
    assert code == 1
    assert "GITLAB_TOKEN has to be an access token with scope `api`" in err


def test_a_pipeline_of_a_branch_comments_nowhere(
    saved: Path, comment: Comment, server: GitLabServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI_MERGE_REQUEST_IID")
    assert comment(saved)[:2] == (0, "no comment: this job runs for no pull request; --pr names one\n")
