"""One comment on a pull request of GitHub: found, written anew in place, and nothing else touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dspy_ft.files import write_atomically
from pytest_dspy_ft.pull_requests.one_comment import marker
from pytest_dspy_ft.records.run_file import record_json
from tests.finetune.hosted.http_faults import Call, Fault
from tests.pull_requests.code_hosts import BOT, SOMEBODY, GitHubServer
from tests.pull_requests.conftest import Comment
from tests.report.test_html import full_run

Job = Callable[..., None]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A record with failed gates."""
    path = tmp_path / "run.json"
    write_atomically(path, record_json(full_run()))
    return path


def once(fault: Fault, *, method: str, path: str = "") -> Callable[[Call], Fault | None]:
    """A fault of the first such request."""
    left = [fault]
    return lambda call: left.pop() if left and call.method == method and path in call.path else None


def test_the_first_run_writes_a_comment_and_later_ones_write_it_anew(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    with GitHubServer() as server:
        github_job(server)
        server.put("thanks for this", SOMEBODY)
        code, said, _ = comment(saved, "--page=https://github.test/page")
        assert (code, said) == (0, "comment created: https://github.test/o/r/pull/7#issuecomment-2\n")
        text = server.comments[1]["body"]
        assert text.startswith("<!-- pytest-dspy-ft comment ")
        assert "dspy: <code>tickets</code>" in text
        assert "gates hold**" in text
        foot = "[report](https://github.test/page) · [log](https://github.test/o/r/actions/runs/99) · commit c0ffeec"
        assert foot in text
        write_atomically(saved, record_json(full_run(said="refund")))
        assert comment(saved)[:2] == (0, "comment updated: https://github.test/o/r/pull/7#issuecomment-2\n")
        assert "refund" in server.comments[1]["body"]
        assert comment(saved)[1].startswith("comment unchanged: ")
        assert [one["body"] == "thanks for this" for one in server.comments] == [True, False]


def test_each_key_has_its_comment(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer() as server:
        github_job(server)
        for key in ("3.11", "3.12 --> x", "3.11", "3.12 --> x"):
            assert comment(saved, "--key", key)[0] == 0
        bodies = [one["body"] for one in server.comments]
        assert [body.split("\n")[1] for body in bodies] == ["`3.11`", "`3.12 --> x`"]
        assert all(body.split("\n")[0].count("--") == 2 for body in bodies)  # nothing in a key ends the marker early


def test_a_comment_is_found_behind_many_pages_of_others(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer() as server:
        github_job(server)
        for number in range(250):
            server.put(f"comment {number}", SOMEBODY)
        server.put(f"{marker('')}\nof last week")
        assert comment(saved)[1].startswith("comment updated: ")
        assert len(server.comments) == 251
        assert [call.path for call in server.calls].count("/repos/o/r/issues/7/comments") == 3


def test_what_others_wrote_is_never_touched_whatever_stands_in_it(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    """Who may comment could otherwise plant the marker, have our words put under their name, and edit them."""
    with GitHubServer() as server:
        github_job(server)
        planted = server.put(f"{marker('')}\nall gates pass", SOMEBODY)
        other_bot = server.put(f"{marker('')}\nall gates pass", {"login": "other[bot]", "type": "Bot"})
        quoting = server.put(f"> {marker('')}\nwhat is this?", BOT)
        assert comment(saved)[1].startswith("comment created: ")
        assert planted["body"].endswith("all gates pass")
        assert other_bot["body"].endswith("all gates pass")
        assert quoting["body"].endswith("what is this?")
        assert server.deleted == []


def test_a_users_token_finds_the_users_comment(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer(who="somebody") as server:
        github_job(server)
        server.put(f"{marker('')}\nold", SOMEBODY)
        assert comment(saved)[1].startswith("comment updated: ")


def test_where_nobody_says_whose_token_it_is_a_bots_comment_counts(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    with GitHubServer(who=None) as server:
        github_job(server)
        server.put(f"{marker('')}\nold", SOMEBODY)
        server.put(f"{marker('')}\nold", BOT)
        assert comment(saved)[1] == "comment updated: https://github.test/o/r/pull/7#issuecomment-2\n"


def test_two_jobs_wrote_at_the_same_moment_and_one_comment_stays(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    with GitHubServer() as server:
        github_job(server)
        server.put(f"{marker('')}\nof one job")
        server.put(f"{marker('')}\nof the other")
        said = "comment updated, 1 more of the same key deleted: https://github.test/o/r/pull/7#issuecomment-1\n"
        assert comment(saved)[:2] == (0, said)
        assert server.deleted == [2]


def test_a_comment_that_somebody_deletes_meanwhile_is_written_again(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    def delete(call: Call) -> None:
        if call.method == "PATCH":
            server.comments.clear()

    with GitHubServer(faults=delete) as server:
        github_job(server)
        server.put(f"{marker('')}\nold")
        assert comment(saved)[1] == "comment created: https://github.test/o/r/pull/7#issuecomment-2\n"


# --- what goes wrong for a moment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["drop", "half", "failed", "garbage"])
def test_a_comment_that_may_have_been_written_is_not_written_twice(
    saved: Path, comment: Comment, github_job: Job, kind: str
) -> None:
    """The request was carried out, and its answer lost."""
    with GitHubServer(faults=once(Fault(kind), method="POST", path="comments")) as server:
        github_job(server)
        code, said, _ = comment(saved)
        assert (code, said) == (0, "comment unchanged: https://github.test/o/r/pull/7#issuecomment-1\n")
        assert len(server.comments) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 502),
        Fault("status", 503, {"Retry-After": "0"}),
        Fault("status", 429, {"Retry-After": "0"}),
        Fault("status", 403, {"Retry-After": "0"}),  # the secondary limit
        Fault("lost"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_what_passes_is_waited_out(saved: Path, comment: Comment, github_job: Job, fault: Fault, method: str) -> None:
    with GitHubServer(faults=once(fault, method=method, path="comments")) as server:
        github_job(server)
        if method == "PATCH":
            server.put(f"{marker('')}\nold")
        assert comment(saved)[0] == 0
        assert len(server.comments) == 1
        assert "dspy: <code>tickets</code>" in server.comments[0]["body"]


def test_a_limit_that_lasts_longer_than_patience_is_said(saved: Path, comment: Comment, github_job: Job) -> None:
    far = Fault("status", 403, {"Retry-After": "3600"}, {"message": "You have exceeded a secondary rate limit"})
    with GitHubServer(faults=lambda call: far if "comments" in call.path else None) as server:
        github_job(server)
        code, _, problem = comment(saved)
        assert code == 1
        assert "asks to wait 1 h 00 min; given up after 1 tries" in problem


def test_a_host_that_stays_down_is_given_up(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer(faults=lambda call: Fault("status", 500)) as server:
        github_job(server)
        code, _, problem = comment(saved, "--patience=0.1")
        assert code == 1
        assert "HTTP 500" in problem
        assert "given up after" in problem


# --- what does not pass: said, in the log and on the run's page ------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "event", "said"),
    [
        (
            GitHubServer(may_write=False),
            None,
            "the token may not: a workflow needs `permissions: pull-requests: write`, and",
        ),
        (GitHubServer(locked=True), None, "the conversation is locked"),
        (GitHubServer(), {"pull_request": {"number": 8}}, "there is no such pull request, or the token may not see it"),
    ],
    ids=["fork", "locked", "not there"],
)
def test_a_refusal_is_said_where_it_is_seen(
    saved: Path, tmp_path: Path, comment: Comment, github_job: Job, server: GitHubServer, event: object, said: str
) -> None:
    with server:
        github_job(server, event)
        code, out, err = comment(saved)
        assert code == 1
        assert err.startswith("no comment was written to pull request ")
        assert said in err
        assert out.startswith("::warning title=no comment on the pull request::no comment was written")
        summary = (tmp_path / "summary.md").read_text()
        assert summary.startswith("earlier\n> ⚠️ no comment was written")
        assert server.comments == []


def test_a_wrong_token_is_never_shown(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer() as server:
        github_job(server, token="ghp_another_token_1234567890")
        code, out, err = comment(saved)
        assert code == 1
        assert "the token is wrong or has expired" in err
        assert "ghp_another" not in out + err  # GitHub's answer held it


def test_a_comment_that_the_host_does_not_take_is_said_in_its_words(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    with GitHubServer(longest=100) as server:
        github_job(server)
        code, _, err = comment(saved)
        assert code == 1
        assert "GitHub refused it" in err
        assert "HTTP 422, Validation Failed; body is too long" in err


def test_without_a_token_a_pull_request_or_a_repository_it_says_what_is_missing(
    saved: Path, comment: Comment, github_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GitHubServer() as server:
        github_job(server, event={"ref": "refs/heads/main"})
        assert comment(saved)[:2] == (0, "no comment: this job runs for no pull request; --pr names one\n")
        monkeypatch.delenv("GITHUB_TOKEN")
        assert "set GITHUB_TOKEN or GH_TOKEN in the environment" in comment(saved, "--pr=7")[2]
        monkeypatch.setenv("GH_TOKEN", "ghs_planted_token_1234567890")
        monkeypatch.delenv("GITHUB_REPOSITORY")
        assert "--repo is missing: OWNER/NAME" in comment(saved, "--pr=7")[2]
        assert server.calls == []


def test_a_repository_that_is_none_asks_nobody(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer() as server:
        github_job(server)
        code, _, err = comment(saved, "--repo=o/r/../../x")
        assert code == 1
        assert "write OWNER/NAME" in err
        assert server.calls == []


# --- a workflow that the fork's one started, which may write ---------------------------------------------------------

STARTED = {
    "workflow_run": {
        "event": "pull_request",
        "head_branch": "typo",
        "head_sha": "a" * 40,
        "head_repository": {"owner": {"login": "fork"}},
        "html_url": "https://github.test/o/r/actions/runs/98",
    }
}


def test_a_workflow_that_another_one_started_finds_the_forks_pull_request(
    saved: Path, comment: Comment, github_job: Job
) -> None:
    with GitHubServer() as server:
        github_job(server, STARTED)
        server.pulls = [
            {"number": 6, "head": {"label": "fork:typo", "sha": "b" * 40}},
            {"number": 7, "head": {"label": "fork:typo", "sha": "a" * 40}},
        ]
        assert comment(saved)[:1] == (0,)
        assert "[log](https://github.test/o/r/actions/runs/98) · commit aaaaaaa" in server.comments[0]["body"]


def test_a_branch_that_has_moved_on_gets_no_comment(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer() as server:
        github_job(server, STARTED)
        server.pulls = [{"number": 7, "head": {"label": "fork:typo", "sha": "b" * 40}}]
        assert comment(saved)[:2] == (0, "no comment: this job runs for no pull request; --pr names one\n")
        assert server.comments == []


# --- without GitHub's environment ------------------------------------------------------------------------------------


def test_any_ci_names_repository_and_pull_request_itself(
    saved: Path, comment: Comment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GitHubServer() as server:
        monkeypatch.setenv("GH_TOKEN", "ghs_planted_token_1234567890")
        arguments = (saved, f"--api={server.root}", "--repo=o/r", "--pr=7", "--run=https://ci.test/1")
        assert comment(*arguments)[1].startswith("comment created: ")
        assert "[log](https://ci.test/1)" in server.comments[0]["body"]


def test_print_asks_nobody(saved: Path, comment: Comment, github_job: Job) -> None:
    with GitHubServer() as server:
        github_job(server)
        code, text, _ = comment(saved, "--print")
        assert code == 0
        assert "dspy: <code>tickets</code>" in text
        assert server.calls == []


def test_the_command_loads_neither_dspy_nor_torch_nor_pytest(saved: Path) -> None:
    script = (
        "import sys; from pytest_dspy_ft.cli import main; main(['comment', sys.argv[1], '--print']);"
        "assert not {'dspy', 'torch', 'litellm', 'pytest'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(saved)], check=True, capture_output=True)
