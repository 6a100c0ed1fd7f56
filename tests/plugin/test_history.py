"""Whole sessions add to the store's history, one line for each stage and split; parts, plans and frozen ones do not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_dspy_ft.cli import main
from pytest_dspy_ft.plugin.commit import checked_out
from pytest_dspy_ft.records.history import HistoryPoint
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.history import History
from tests.plugin.projects import FULL, run

WHOLE = [("baseline", "dev"), ("prompt_optimized", "dev"), ("prompt_optimized", "test"), ("finetuned", "test")]


def points(project: pytest.Pytester, store: str = ".dspy_ft") -> list[HistoryPoint]:
    return History(StoreFolder(project.path / store, read_only=True)).read().points


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_whole_session_adds_a_line_for_each_stage_and_split(saved: pytest.Pytester) -> None:
    found = points(saved)
    assert [(p.stage, p.on) for p in found] == WHOLE, "the session that filled this store was one"
    tuned = found[-1]
    assert (tuned.score, tuned.n, tuned.errors, tuned.unparsed, tuned.tokens, tuned.cost) == (1.0, 10, 0, 0, 15, None)
    assert (tuned.lm, tuned.base, tuned.experiment, tuned.loaded) == ("toy/tuned-80", "toy/parity", "parity", False)
    assert tuned.interval[0] == pytest.approx(0.722, abs=0.001)
    assert tuned.gates == {"PASS": 1}, "one gate on test names it"
    assert found[0].gates == {"PASS": 2}
    assert len({p.data for p in found if p.on == "dev"}) == 1
    assert (tuned.commit, tuned.dirty) == ("", None), "there is no repository here"


def test_a_session_that_loads_everything_again_adds_nothing(saved: pytest.Pytester) -> None:
    before = points(saved)
    run(saved, FULL).assert_outcomes(passed=3)
    assert points(saved) == before


def test_each_commit_has_its_lines(saved: pytest.Pytester) -> None:
    git(saved.path, "init", "-q")
    git(saved.path, "add", "test_it.py", "conftest.py", "parity.py")
    git(saved.path, "commit", "-q", "-m", "one")
    run(saved, FULL)
    run(saved, FULL)
    new = points(saved)[4:]
    assert [(p.stage, p.on) for p in new] == WHOLE
    assert {(p.commit, p.dirty, p.loaded) for p in new} == {(git(saved.path, "rev-parse", "HEAD"), False, True)}


def test_a_changed_gate_and_a_new_measurement_are_news(saved: pytest.Pytester) -> None:
    test = saved.path / "test_it.py"
    test.write_text(test.read_text().replace("baseline >= 40%", "baseline >= 60%"))
    run(saved, FULL)
    assert [(p.stage, p.gates) for p in points(saved)[4:]] == [("baseline", {"FAIL": 1, "PASS": 1})]
    run(saved, FULL, "--dspy-rebuild=finetuned")
    assert [p.stage for p in points(saved)[5:]] in (["finetuned"], []), "a build that came out the same is loaded"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "baseline"],
        ["--deselect", "test_it.py::test_finetuned"],
        ["test_it.py::test_baseline"],
        ["test_it.py"],
        ["--dspy-limit=60"],
        ["--lf"],
        ["-x", "--dspy-rebuild=all"],
        ["--dspy-plan", "--dspy-rebuild=all"],
        ["--collect-only"],
        ["--dspy-frozen"],
    ],
    ids=" ".join,
)
def test_a_part_is_no_point(saved: pytest.Pytester, arguments: list[str]) -> None:
    test = saved.path / "test_it.py"
    test.write_text(test.read_text().replace("baseline >= 40%", "baseline >= 60%"))  # so that there would be news
    before = points(saved)
    run(saved, FULL, *arguments)
    assert points(saved) == before


@pytest.mark.parametrize("trouble", ["import", "skip", "training"])
def test_a_session_with_something_missing_is_no_point(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    if trouble == "import":
        saved.makepyfile(test_broken="import nothing_of_this_name\n")
    elif trouble == "skip":
        test = saved.path / "test_it.py"
        test.write_text(test.read_text().replace("def test_fine", '@pytest.mark.skip("no GPU")\ndef test_fine'))
    monkeypatch.setenv("PARITY_TRAINING", "fails" if trouble == "training" else "")
    run(saved, FULL, "--dspy-store=other", "--continue-on-collection-errors")
    assert points(saved, "other") == []


def test_stages_out_of_reach_do_not_keep_the_others_out(project: pytest.Pytester, saved: pytest.Pytester) -> None:
    run(saved, "--dspy-stage=baseline", "--dspy-store=other")
    assert [(p.stage, p.on) for p in points(saved, "other")] == [("baseline", "dev")]


def test_a_failed_gate_is_a_point_too(project: pytest.Pytester) -> None:
    project.makepyfile(test_it='import pytest\n\n@pytest.mark.dspy_gate("baseline >= 90%")\ndef test_it(): ...\n')
    run(project)
    assert [(p.score, p.gates) for p in points(project)] == [(0.5, {"FAIL": 1})]


def test_workers_of_xdist_add_it_once(saved: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    git(saved.path, "init", "-q")
    git(saved.path, "add", "test_it.py")
    git(saved.path, "commit", "-q", "-m", "one")
    before = len(points(saved))
    run(saved, FULL, "-n2").assert_outcomes(passed=3)
    new = points(saved)[before:]
    assert [(p.stage, p.on) for p in new] == WHOLE
    assert {p.commit for p in new} == {git(saved.path, "rev-parse", "HEAD")}


def test_a_history_that_cannot_be_written_is_said_and_fails_nothing(saved: pytest.Pytester) -> None:
    history = saved.path / ".dspy_ft" / "history.jsonl"
    history.unlink()
    history.mkdir()
    result = run(saved, FULL)
    result.stdout.fnmatch_lines(["no history was kept of this session: cannot write to the store*"])
    assert result.ret == pytest.ExitCode.OK


def test_the_page_shows_the_trend_once_there_are_two_sessions(saved: pytest.Pytester) -> None:
    test = saved.path / "test_it.py"
    page = saved.path / "run.html"
    run(saved, FULL, "--dspy-report=run.html")
    assert 'class="trend' not in page.read_text()
    test.write_text(test.read_text().replace("baseline >= 40%", "baseline >= 60%"))
    run(saved, FULL, "--dspy-report=run.html")
    assert page.read_text().count('class="trend panel') == 1, "of the stage with news; this session is among its points"
    assert "baseline on dev, 2 sessions: from 50.0% on" in page.read_text()


# --- on the command line ---------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([*map(str, arguments)])
    return code, capsys.readouterr().out


def test_a_real_change_is_paired_by_what_the_store_holds(
    saved: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """The session of the fixture, and one whose prompt has fewer demos: two builds, both evaluations kept."""
    source = saved.path / "parity.py"
    source.write_text(source.read_text().replace("LabeledFewShot(k=3)", "LabeledFewShot(k=0)"))
    run(saved, FULL)
    capsys.readouterr()
    out = said(capsys, "trend", saved.path / ".dspy_ft", "--stage", "prompt_optimized", "--on", "dev")[1]
    assert "100.0%  50.0%  -50.0 [-76.3, -8.4] paired  100.0% " in out
    assert "unpaired" not in out


def test_ls_mentions_it_prune_keeps_it_and_pages_show_it(
    saved: pytest.Pytester, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = saved.path / ".dspy_ft"
    known = History(StoreFolder(store)).read().points
    before = [p.model_copy(update={"created": "2025-01-01T00:00:00+00:00", "score": 0.25}) for p in known]
    History(StoreFolder(store)).append(before)
    assert "history of 2 sessions, 2025-01-01 to " in said(capsys, "ls", store)[1]
    said(capsys, "prune", store, "--yes", "--keep-last", 1, "--older-than", 0, "--other-versions")
    assert len(History(StoreFolder(store)).read().points) == 2 * len(known)
    page = tmp_path / "page.html"
    assert said(capsys, "report", store, "-o", page)[0] == 0
    assert page.read_text().count('class="trend panel') == len(known)
    shutil.rmtree(store / "stages")
    assert said(capsys, "trend", store)[0] == 0, "a history outlives what it was measured on"


# --- the commit ------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "inside").mkdir(parents=True)
    (folder / "file").write_text("one")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder


@pytest.mark.parametrize("with_git", [True, False], ids=["git", "no git"])
def test_the_commit_is_found_from_anywhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_git: bool
) -> None:
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "other")
    git(repository, "pack-refs", "--all")
    bare = tmp_path / "nothing"
    bare.mkdir()
    monkeypatch.setenv("GIT_DIR", ".git")  # as a hook of git has it
    if not with_git:
        monkeypatch.setenv("PATH", str(bare))
    dirty = False if with_git else None
    for folder in (repository, repository / "inside", tmp_path / "tree"):
        assert checked_out(folder) == (head, dirty)
    assert checked_out(bare) == ("", None)


def test_a_changed_file_makes_it_dirty_and_a_new_one_does_not(repository: Path) -> None:
    (repository / "new").write_text("new")
    assert checked_out(repository)[1] is False
    (repository / "file").write_text("two")
    assert checked_out(repository)[1] is True
    git(repository, "commit", "-q", "-a", "-m", "two")
    git(repository, "checkout", "-q", "--detach")
    assert checked_out(repository) == (git(repository, "rev-parse", "HEAD"), False)


def test_a_repository_without_commits_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert checked_out(tmp_path) == ("", None)


def test_a_damaged_repository_has_none(repository: Path) -> None:
    shutil.rmtree(repository / ".git" / "refs")
    (repository / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert checked_out(repository) == ("", None)
