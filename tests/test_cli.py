"""``python -m pytest_dspy_ft``: reading, listing and pruning what sessions left, without pytest and without dspy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_dspy_ft.records.baseline import baseline_of, write_baseline
from pytest_dspy_ft.records.run_file import read_record
from pytest_dspy_ft.store.inventory import take_inventory
from pytest_dspy_ft.store.prune import plan_removals
from tests.conftest import PARITY, REPOSITORY
from tests.plugin.projects import LADDER

FAILING = LADDER.replace("baseline + 30%", "baseline + 70%")


def cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; it must never load dspy, torch or pytest."""
    script = (
        "import sys; from pytest_dspy_ft.cli import main; code = main(sys.argv[1:]);"
        "assert not {'dspy', 'torch', 'litellm', 'pytest'} & set(sys.modules); sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "132", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def session(folder: Path, *arguments: str) -> str:
    """Run pytest in a project; gives what it printed."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "PYTEST_"))},
        "DSPY_CACHEDIR": str(folder / "dspy_cache"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)]),
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after a session that went up the whole ladder, with one gate that fails."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "parity.py").write_text(PARITY)
    (folder / "conftest.py").write_text(
        "import pytest\nfrom parity import make_experiment\n\n"
        "@pytest.fixture(scope='session')\ndef dspy_experiment():\n    return make_experiment()\n"
    )
    (folder / "test_it.py").write_text(FAILING)
    assert "1 failed, 3 passed" in session(folder, "--dspy-stage=finetune", "--dspy-report=run.json")
    return folder


@pytest.fixture
def store(first: Path, tmp_path: Path) -> Path:
    """The store of a copy of that project; its builds look as if used two hours ago."""
    shutil.copytree(first, tmp_path / "project")
    age(tmp_path / "project" / ".dspy_ft", hours=2)
    return tmp_path / "project" / ".dspy_ft"


def age(store: Path, *, hours: float) -> None:
    then = time.time() - 3600 * hours
    for path in [store, *store.rglob("*")]:
        os.utime(path, (then, then))


def rebuilt(store: Path, demos: int = 2, stage: str = "finetune") -> None:
    """Another session with another prompt stage: another build of it, and of what stands on it."""
    source = store.parent / "parity.py"
    source.write_text(
        re.sub(r"LabeledFewShot\(k=\d\)", f"LabeledFewShot(k={demos})", source.read_text("utf-8")), "utf-8"
    )
    assert " built, " in session(store.parent, f"--dspy-stage={stage}")


def standings(store: Path) -> list[tuple[str, str]]:
    return [(b.record.stage, b.standing) for b in take_inventory(store).builds]


def test_the_trend_of_a_store_is_read_without_dspy(store: Path) -> None:
    shown = cli("trend", store)
    assert shown.returncode == 0, shown.stderr
    assert "dspy trend: parity" in shown.stdout
    assert [line.split()[:2] for line in shown.stdout.splitlines() if "%" in line and " on " not in line] == [
        ["baseline", "dev"],
        ["prompt_optimized", "dev"],
        ["prompt_optimized", "test"],
        ["finetuned", "test"],
    ]


# --- report ----------------------------------------------------------------------------------------------------------


def test_a_saved_record_is_shown_as_pytest_shows_it(store: Path) -> None:
    shown = cli("report", store.parent / "run.json")
    assert shown.returncode == 1, "a gate had failed"
    assert "dspy: parity" in shown.stdout
    assert "3 built, 0 loaded" in shown.stdout
    assert any(
        line.startswith("prompt_optimized >= baseline + 70%") and "FAIL" in line for line in shown.stdout.splitlines()
    )


def test_the_newest_state_of_a_store(store: Path) -> None:
    shown = cli("report", cwd=store.parent)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert "train 80 / dev 10 / test 10" in shown.stdout
    assert [line.split()[:3] for line in lines if "%  [" in line] == [
        ["baseline", "dev", "50.0%"],
        ["prompt_optimized", "dev", "100.0%"],
        ["prompt_optimized", "test", "100.0%"],
        ["finetuned", "test", "100.0%"],
    ]
    assert lines[-1].startswith("NOTE: made from the store, which keeps builds and evaluations but no verdicts")


def test_records_are_rendered_again_as_files(store: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "new" / name for name in ("a.html", "a.md", "a.json")]
    made = cli("report", store.parent / "run.json", *(part for path in outputs for part in ("-o", path)))
    assert made.stdout.split() == list(map(str, outputs))
    assert "parity" in outputs[0].read_text("utf-8")
    again = json.loads(outputs[2].read_text("utf-8"))
    assert again == json.loads((store.parent / "run.json").read_text("utf-8"))
    assert cli("report", store, "-o", tmp_path / "b.html").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["report", "."], "is no store of pytest-dspy-ft"),
        (["report", "conftest.py"], "conftest.py is not JSON"),
        (["report", "run.json", "-o", "x.txt"], "x.txt is no report: choose a name that ends in .json, .md, .html"),
        (["report", "run.json", "--experiment", "x"], "no experiment 'x' in run.json; it has parity"),
        (["ls", "nowhere"], "nowhere does not exist; a session makes one"),
        (["prune", "nowhere"], "nowhere does not exist"),
        (["prune", "--keep-last", "0"], "0 is not a number of builds, at least 1"),
        (["compare", "run.json", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["compare", "run.json", "conftest.py"], "conftest.py is not JSON"),
        (["compare", "run.json", "run.json", "--confidence", "2"], "2 is not a confidence of at least 0.5"),
        (["compare", "run.json", "run.json", "--confidence", "0.05"], "0.05 is not a confidence of at least 0.5"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_what_cannot_be_done_is_said(store: Path, arguments: list[str], message: str) -> None:
    done = cli(*arguments, cwd=store.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_as_a_module(store: Path) -> None:
    command = [sys.executable, "-m", "pytest_dspy_ft", "ls", str(store)]
    assert "prompt_optimized" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- compare ---------------------------------------------------------------------------------------------------------


def test_two_records_are_compared_example_by_example(store: Path) -> None:
    folder = store.parent
    same = cli("compare", "run.json", "run.json", cwd=folder)
    assert same.returncode == 0, same.stderr
    assert "3 no loss seen (80.0 points or more would have been), 1 too small" in same.stdout
    record = json.loads((folder / "run.json").read_text("utf-8"))
    (experiment,) = record["experiments"]
    worse = next(r for r in experiment["results"] if (r["stage"], r["on"]) == ("prompt_optimized", "dev"))
    for example in worse["examples"]:
        example["score"] = 0.0
    (folder / "worse.json").write_text(json.dumps(record))
    refused = cli("compare", "run.json", "worse.json", cwd=folder)
    assert refused.returncode == 2
    assert "worse.json is not as it was written: its checksum does not match" in refused.stderr
    del record["checksum"]
    (folder / "worse.json").write_text(json.dumps(record))
    shown = cli("compare", "run.json", "worse.json", cwd=folder)
    assert shown.returncode == 1
    assert "1 REGRESSED" in shown.stdout
    assert "prompt_optimized on dev: 100.0% then, 0.0% now, of 10 examples" in shown.stdout
    assert cli("compare", "worse.json", "run.json", cwd=folder).returncode == 0


def test_a_baseline_is_compared_with_a_record(store: Path) -> None:
    folder = store.parent
    write_baseline(folder / "base.json", baseline_of(read_record(folder / "run.json")))
    shown = cli("compare", "base.json", "run.json", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert "compared with base.json (saved " in shown.stdout
    assert cli("compare", "run.json", "base.json", cwd=folder).returncode == 0


def test_experiments_of_one_side_only_are_named(store: Path) -> None:
    folder = store.parent
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["experiments"][0]["name"] = "other"
    del record["checksum"]
    (folder / "other.json").write_text(json.dumps(record))
    shown = cli("compare", "run.json", "other.json", cwd=folder)
    assert shown.stdout.splitlines() == [
        "experiment parity is not in other.json",
        "experiment other is not in run.json",
    ]


# --- ls --------------------------------------------------------------------------------------------------------------


def test_ls_says_what_is_there(store: Path) -> None:
    rebuilt(store)
    assert standings(store) == [
        ("baseline", "current"),
        ("finetuned", "current"),
        ("finetuned", "older"),
        ("prompt_optimized", "current"),
        ("prompt_optimized", "older"),
    ]
    shown = cli("ls", store).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.endswith("older")] == [
        "finetuned",
        "prompt_optimized",
    ]
    data = json.loads(cli("ls", "--json", store).stdout)
    assert len(data["builds"]) == 5
    assert all(build["bytes"] > 0 for build in data["builds"])
    assert {e["stage"] for e in data["evaluations"]} == {"baseline", "prompt_optimized", "finetuned"}


def test_what_stands_on_a_build_that_is_gone_is_stale(store: Path) -> None:
    (prompt,) = [b for b in take_inventory(store).builds if b.record.stage == "prompt_optimized"]
    shutil.rmtree(prompt.build.folder.parent)
    assert standings(store) == [("baseline", "current"), ("finetuned", "stale")]


# --- prune -----------------------------------------------------------------------------------------------------------


def test_prune_alone_removes_nothing(store: Path) -> None:
    (store / "work" / "leftover").mkdir(parents=True)
    (store / "set_aside").mkdir()
    (store / "set_aside" / "damaged.json").write_text("x")
    age(store, hours=2)
    before = sorted(store.rglob("*"))
    shown = cli("prune", store)
    assert shown.returncode == 0
    assert "would remove work/leftover (0 B): a session that was killed left it" in shown.stdout
    assert "would remove set_aside/damaged.json (1 B): it was damaged, and set aside" in shown.stdout
    assert "nothing was removed: add --yes to do it" in shown.stdout
    assert sorted(store.rglob("*")) == before
    assert "removed work/leftover" in cli("prune", store, "--yes").stdout
    assert sorted(store.rglob("*")) == sorted(set(before) - {store / "work/leftover", store / "set_aside/damaged.json"})


def test_what_still_counts_survives_and_is_loaded(store: Path) -> None:
    rebuilt(store)
    age(store, hours=2)
    done = cli("prune", store, "--keep-last", 1, "--yes")
    assert done.returncode == 0
    assert "stages/parity/prompt_optimized/" in done.stdout
    assert "1 newer builds of this stage" in done.stdout
    assert standings(store) == [("baseline", "current"), ("finetuned", "current"), ("prompt_optimized", "current")]
    assert not any(e.orphaned for e in take_inventory(store).evaluations)
    again = session(store.parent, "--dspy-stage=finetune", "--dspy-frozen")
    assert "1 failed, 3 passed" in again
    assert "0 built, 3 loaded · 0 LM calls" in again
    assert cli("prune", store).stdout == "nothing to remove\n"


def test_what_was_just_used_or_is_locked_stays(store: Path) -> None:
    rebuilt(store)
    fresh = cli("prune", store, "--keep-last", 1, "--yes").stdout
    assert "a session used it within the last hour" not in fresh, "the older builds were used two hours ago"
    rebuilt(store, demos=4)
    rebuilt(store, demos=5)
    kept = cli("prune", store, "--keep-last", 1, "--yes")
    assert kept.stdout.count("a session used it within the last hour") == 4
    assert len(standings(store)) == 7
    age(store, hours=2)
    older = [b for b in take_inventory(store).builds if b.standing == "older"]
    with FileLock(store / "locks" / f"stage-{older[0].record.key}.lock"):
        locked = cli("prune", store, "--keep-last", 1, "--yes")
    assert locked.returncode == 1
    assert "it is locked: somebody works on it" in locked.stdout
    assert older[0].build.folder.is_dir()


def test_work_that_somebody_holds_the_lock_of_stays(store: Path) -> None:
    key = take_inventory(store).builds[0].record.key
    (store / "work" / f"parity-baseline-{key[:16]}-0123abcd").mkdir(parents=True)
    age(store, hours=2)
    with FileLock(store / "locks" / f"stage-{key}.lock"):
        assert "it is locked" in cli("prune", store, "--yes").stdout
    assert "a session that was killed left it" in cli("prune", store, "--yes").stdout
    assert not list((store / "work").iterdir())


def test_by_age(store: Path) -> None:
    rebuilt(store)
    inventory = take_inventory(store)
    in_a_week = time.time() + 7 * 86_400
    assert plan_removals(inventory, older_than=8, now=in_a_week)[0] == []
    removals, _ = plan_removals(inventory, older_than=6, now=in_a_week)
    builds = [r.path.parent.name for r in removals if r.path.is_relative_to(store / "stages")]
    assert builds == ["finetuned", "prompt_optimized"], "the newest of a stage stays however old it is"
    assert {r.path.suffix for r in removals} == {"", ".json", ".jsonl"}, "with their outputs"
    assert removals[0].reason == "not used for 6 days"


def test_an_older_build_that_a_newer_one_stands_on_stays(store: Path) -> None:
    rebuilt(store, stage="prompt")  # a newer prompt stage; finetuned still stands on the older one
    age(store, hours=2)
    removals, kept = plan_removals(take_inventory(store), keep_last=1)
    assert removals == []
    assert [k.reason for k in kept] == ["a build that is kept stands on it"]
    shown = cli("report", store).stdout
    assert "NOTE: experiment parity: the newest build of finetuned stands on an older one of prompt_optimized" in shown


def test_an_example_is_shown_with_its_raw_replies_without_dspy(store: Path) -> None:
    example = next(r for e in take_inventory(store).evaluations if (r := e.result) and r.stage == "baseline").examples[
        0
    ]
    shown = cli("show", store, "parity", "baseline", example.id[:10])
    assert shown.returncode == 0, shown.stderr
    assert f"parity · baseline on dev · example {example.id} · lm toy/parity" in shown.stdout
    assert "reply 1 of 1 · toy/parity · ended: stop · 10 + 5 tokens\n  | [[ ## label ## ]]\n" in shown.stdout
    assert "did you mean 'baseline'" in cli("show", store, "parity", "basline", "0").stderr


def test_a_store_is_scored_with_todays_metric(store: Path) -> None:
    source = store.parent / "parity.py"
    source.write_text(source.read_text().replace("prediction.label == example.label", "prediction.label == 'even'"))
    calls = (store.parent / "calls.log").read_text()
    command = [sys.executable, "-m", "pytest_dspy_ft", "rescore", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(store.parent), str(REPOSITORY)])}
    done = subprocess.run(command, cwd=store.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    row = r"prompt_optimized +dev +10 +100.0% +50.0% +scored again \(changed: parity.right_label\)"
    assert re.search(row, done.stdout), done.stdout
    assert (store.parent / "calls.log").read_text() == calls
