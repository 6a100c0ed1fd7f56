"""What may be exported, and what its receipt says: a stage whose gates passed, in a whole session, with this build."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pytest_dspy_ft.records.run_file import read_record
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.inventory import take_inventory
from pytest_dspy_ft.store.sessions import read_last_session
from tests.plugin.projects import FULL, run
from tests.shipping.exports import GATES, export, gated_answers, receipt_in


def refusal(project: pytest.Pytester, stage: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Why a stage is not exported: nothing was written, and ``--anyway`` writes this into the receipt."""
    assert export(project.path, stage, *arguments) == 1
    said = capsys.readouterr().err
    assert not (project.path / "out").exists()
    assert export(project.path, stage, "--anyway", *arguments) == 0
    printed = capsys.readouterr().out
    receipt = receipt_in(project.path / "out")
    assert not receipt.passed
    assert receipt.unproven
    for reason in receipt.unproven:
        assert f"  {reason}\n" in said
        assert f"NOT PROVEN (--anyway): {reason}\n" in printed
    card = (project.path / "out" / "README.md").read_text("utf-8")
    assert "**Not proven.**" in card
    return said


def test_a_stage_whose_gates_passed_is_exported_with_a_receipt(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(gated.path, "finetuned") == 0
    out = gated.path / "out"
    assert str(out) in capsys.readouterr().out
    receipt, run_record = receipt_in(out), read_record(gated.path / "run.json")
    (build,) = [b for b in take_inventory(gated.path / ".dspy_ft").builds if b.record.stage == "finetuned"]
    assert (receipt.key, receipt.build) == (build.record.key, build.build.digest)
    assert receipt.passed
    assert receipt.unproven == ()
    assert [(g.expression, g.on, g.verdict, g.required) for g in receipt.gates] == [
        ("finetuned >= prompt_optimized", "test", "PASS", True)
    ]
    (score,) = receipt.scores
    result = run_record.experiments[0].result("finetuned", "test")
    assert result is not None
    assert (score.on, score.n, score.score, score.interval) == ("test", 10, result.score, result.interval)
    assert {on: data.n for on, data in receipt.data.items()} == {"train": 80, "dev": 10, "test": 10}
    assert receipt.data["train"].digest
    assert receipt.data["test"].digest
    assert {"python", "dspy", "pytest-dspy-ft"} <= receipt.versions.keys()
    assert [job.rows for job in receipt.trainings] == [80]
    assert "toy/tuned-80" in [model.model for model in receipt.models]
    assert set(receipt.files) == {"program.json", "state.json", "README.md"}
    assert not [path for path in gated.path.iterdir() if path.name.startswith(".out")], "nothing half-written is left"


def test_a_record_vouches_as_the_store_s_last_session_does(gated: pytest.Pytester) -> None:
    assert export(gated.path, "prompt_optimized", f"--record={gated.path / 'run.json'}") == 0
    receipt = receipt_in(gated.path / "out")
    assert receipt.passed
    assert receipt.record == "run.json"
    # A gate of another stage is listed, and does not bind this one.
    named = {gate.expression: gate.required for gate in receipt.gates}
    assert named == {
        "prompt_optimized >= 90%": True,
        "prompt_optimized >= baseline + 30%": True,
        "finetuned >= prompt_optimized": False,
    }


FAILING = GATES.replace("baseline + 30%", "baseline + 70%")
UNDECIDED = GATES.replace('"prompt_optimized >= 90%")', '"prompt_optimized >= 90%", confidence=0.95, undecided="pass")')


@pytest.mark.parametrize(
    ("tests", "arguments", "expected"),
    [
        (FAILING, [], "gate `prompt_optimized >= baseline + 70%` on dev is FAIL: "),
        (UNDECIDED, [], "gate `prompt_optimized >= 90%` on dev is UNDECIDED: 100.0%"),
        (
            GATES.replace("def test_prompt_optimized", '@pytest.mark.skip("not today")\ndef test_prompt_optimized'),
            [],
            "gate `prompt_optimized >= 90%` on dev was not judged: skipped: not today",
        ),
        (
            GATES.replace("def test_prompt_optimized(): ...", "def test_prompt_optimized(missing): ..."),
            [],
            "gate `prompt_optimized >= 90%` on dev was not judged: its set-up failed",
        ),
        (
            GATES.replace("prompt_optimized >= 90%", "baseline >= 30%").replace(
                "prompt_optimized >= baseline + 30%", "baseline >= 20%"
            ),
            [],
            "no gate of stage 'prompt_optimized' was judged",
        ),
        (GATES, ["-k", "prompt"], "the session was not the whole: 2 tests that use an experiment were deselected"),
        (GATES, ["test_it.py::test_prompt_optimized"], "the session was not the whole: single tests were chosen"),
        (GATES, ["--dspy-limit=20"], "--dspy-limit=20 looks at a part of the examples"),
        (GATES, ["--dspy-stop-early=curtail"], "--dspy-stop-early=curtail may end evaluations"),
    ],
    ids=["failed", "undecided", "skipped", "broken", "none", "deselected", "single", "limited", "stopped"],
)
def test_what_no_whole_session_judged_as_passed_is_refused(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str], tests: str, arguments: list[str], expected: str
) -> None:
    gated.makepyfile(test_it=tests)
    run(gated, FULL, "--dspy-report=again.json", *arguments)
    capsys.readouterr()
    assert expected in refusal(gated, "prompt_optimized", capsys)
    # The session's own record says the same.
    record = f"--record={gated.path / 'again.json'}"
    assert export(gated.path, "prompt_optimized", "--replace", record) == 1
    assert expected in capsys.readouterr().err
    # The record of the session in which they passed still vouches for the build, if the store has that one.
    if "--dspy-limit=20" not in arguments:
        assert export(gated.path, "prompt_optimized", "--replace", f"--record={gated.path / 'run.json'}") == 0


def test_a_stage_out_of_reach_does_not_keep_others_from_being_exported(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    run(gated, "--dspy-stage=prompt")
    assert export(gated.path, "prompt_optimized") == 0
    capsys.readouterr()
    assert export(gated.path, "finetuned", "--replace") == 1
    assert "gate `finetuned >= prompt_optimized` on test was not judged: skipped:" in capsys.readouterr().err


def test_a_record_of_another_build_does_not_vouch(gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    conftest = (gated.path / "conftest.py").read_text("utf-8")
    gated.makeconftest(conftest.replace("make_experiment()", "make_experiment(seed=1)"))
    run(gated, FULL, "--dspy-store=other")
    capsys.readouterr()
    arguments = f"--record={gated.path / 'run.json'}"
    assert export(gated.path, "finetuned", arguments, store="other") == 1
    assert "the session has another build of it" in capsys.readouterr().err


def test_a_record_names_the_build_that_is_exported(gated: pytest.Pytester) -> None:
    """The store has gone on to another build; the one that was gated is still there."""
    conftest = (gated.path / "conftest.py").read_text("utf-8")
    gated.makeconftest(conftest.replace("make_experiment()", "make_experiment(seed=1)"))
    run(gated, FULL)
    wanted = next(b for b in read_record(gated.path / "run.json").experiments[0].stages if b.stage == "finetuned")
    assert export(gated.path, "finetuned", f"--record={gated.path / 'run.json'}") == 0
    assert receipt_in(gated.path / "out").key == wanted.key
    assert export(gated.path, "finetuned", "--replace") == 0
    assert receipt_in(gated.path / "out").key != wanted.key


def test_a_record_that_a_hand_changed_does_not_vouch(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gated.path / ".dspy_ft" / "sessions" / "parity" / "last.json"
    path.write_text(path.read_text("utf-8").replace('"PASS"', '"FAIL"'), "utf-8")
    assert "last.json is not as it was written" in refusal(gated, "finetuned", capsys)


def test_a_store_without_a_session_vouches_for_nothing(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that only --dspy-frozen sessions, or scripts with a Ladder, have used."""
    shutil.rmtree(gated.path / ".dspy_ft" / "sessions")
    run(gated, FULL, "--dspy-frozen", "--dspy-report=frozen.json")
    capsys.readouterr()
    assert "the store keeps no session of this experiment" in refusal(gated, "finetuned", capsys)
    assert export(gated.path, "finetuned", "--replace", f"--record={gated.path / 'frozen.json'}") == 0
    assert receipt_in(gated.path / "out").passed


@pytest.mark.parametrize("file", ["program.json", "manifest.json", "shipment.json"])
def test_a_store_that_a_hand_changed_is_refused_whatever_is_asked(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    (path,) = (gated.path / ".dspy_ft" / "stages" / "parity" / "finetuned").rglob(file)
    path.write_text(path.read_text("utf-8").replace("tuned-80", "tuned-81"), "utf-8")
    assert export(gated.path, "finetuned", "--anyway") == 2
    said = capsys.readouterr().err
    assert "is not as it was" in said or "unreadable" in said
    assert not (gated.path / "out").exists()


def test_what_lies_at_the_target_stays(gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    out = gated.path / "out"
    out.mkdir()
    assert export(gated.path, "finetuned") == 0, "an empty folder is none of anybody's"
    before = (out / "receipt.json").read_bytes()
    assert export(gated.path, "baseline") == 2
    assert "--replace" in capsys.readouterr().err
    assert (out / "receipt.json").read_bytes() == before
    assert export(gated.path, "baseline", "--replace") == 0
    assert receipt_in(out).stage == "baseline"
    (out / "receipt.json").unlink()
    assert export(gated.path, "finetuned", "--replace") == 2
    assert "holds other things than an exported program" in capsys.readouterr().err
    assert (out / "program.json").is_file()


@pytest.mark.parametrize(
    ("experiment", "stage", "said"),
    [("parity", "finetund", "did you mean 'finetuned'"), ("partiy", "finetuned", "did you mean 'parity'")],
)
def test_misspelt_names_are_told(
    gated: pytest.Pytester, capsys: pytest.CaptureFixture[str], experiment: str, stage: str, said: str
) -> None:
    assert export(gated.path, stage, experiment=experiment) == 2
    assert said in capsys.readouterr().err


def test_a_session_of_workers_vouches_too(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    project.makepyfile(test_it=GATES)
    result = project.runpytest_subprocess(FULL, "-n", "2")
    result.assert_outcomes(passed=3)
    assert export(project.path, "finetuned") == 0
    receipt = receipt_in(project.path / "out")
    assert receipt.passed
    assert len(gated_answers(project.path / ".dspy_ft", "finetuned", "test")) == receipt.scores[0].n


def test_no_key_and_no_path_of_this_machine_is_in_it(gated: pytest.Pytester) -> None:
    assert export(gated.path, "finetuned") == 0
    for path in (gated.path / "out").rglob("*"):
        text = path.read_text("utf-8")
        assert str(gated.path) not in text
        assert not re.search(r"(?<![\w/.])/(?:home|tmp|root|Users)/", text), path


def test_a_receipt_is_json_that_anybody_reads(gated: pytest.Pytester) -> None:
    assert export(gated.path, "finetuned") == 0
    content = json.loads((gated.path / "out" / "receipt.json").read_text("utf-8"))
    assert content["gates"][0]["verdict"] == "PASS"
    assert content["passed"] is True
    assert Path(gated.path / "out" / "README.md").read_text("utf-8").startswith("---\n")


def test_a_session_is_kept_in_few_bytes(gated: pytest.Pytester) -> None:
    """Verdicts and figures only: evaluations are in the store already."""
    whole = read_record(gated.path / "run.json").experiments[0]
    kept = read_last_session(StoreFolder(gated.path / ".dspy_ft", read_only=True), "parity")
    assert kept is not None
    [alone] = kept.run.experiments
    assert [v.verdict for v in alone.verdicts] == ["PASS"] * 4
    assert [result.n for result in alone.results] == [0] * len(whole.results), "no example is kept twice"
    assert [(one.stage, one.score.on, one.score.n, one.score.score) for one in kept.measured] == [
        (result.stage, result.on, result.n, result.score) for result in whole.results
    ]
