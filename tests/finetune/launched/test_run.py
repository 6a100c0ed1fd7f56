"""A launched training through its life: started once, left, found, killed, refused, ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pytest_dspy_ft.cli import main
from pytest_dspy_ft.errors import JobPendingError, TrainingError
from pytest_dspy_ft.finetune.launched import local_processes
from pytest_dspy_ft.finetune.launched.journal import ENTRY, read_entry, write_entry
from tests.finetune.launched.world import STEPS, OneProcess, World, is_alive, wait_for


def pid_of(world: World) -> int:
    return int(json.loads((world.folder / "process.json").read_text())["pid"])


def test_what_is_trained_is_taken_by_later_sessions(world: World) -> None:
    first = world.session()
    assert first.run() == {"steps": STEPS, "resumed_at": 0}
    assert (world.entry().attempt, first.resumed) == (1, False)
    assert (first.progress.step, first.progress.total_steps, first.progress.loss) == (STEPS, STEPS, 1 / STEPS)
    second = world.session()
    assert second.run() == {"steps": STEPS, "resumed_at": 0}
    assert second.resumed
    assert world.starts() == 1


def test_one_that_is_left_goes_on_and_is_found(world: World) -> None:
    world.allow(1)
    run = world.session()
    outcome = world.background(run)
    wait_for(lambda: run.progress and run.progress.step == 1)
    world.wake.set()
    assert isinstance(outcome(), JobPendingError)
    hint = run.hint()
    assert "goes on (torchrun): the same command finds it; to cancel it: end it dspy-ft-d1-abc" in hint
    assert local_processes.is_running(world.folder)

    found = world.session()
    outcome = world.background(found)
    wait_for(lambda: found.progress)
    world.allow(STEPS)
    assert outcome() == {"steps": STEPS, "resumed_at": 0}
    assert found.resumed
    assert world.starts() == 1


def test_one_whose_start_was_cut_off_is_found_by_its_folder(world: World) -> None:
    """The session was killed after it had started the training, and before it could note what it is called there."""
    world.allow(1)
    outcome = world.background(world.session())
    wait_for(lambda: world.starts() == 1 and world.entry().reference)
    world.wake.set()
    outcome()
    write_entry(world.folder, world.entry().model_copy(update={"reference": ""}))
    outcome = world.background(world.session())
    world.allow(STEPS)
    assert outcome()["steps"] == STEPS
    assert world.starts() == 1


def test_a_second_start_waits_for_nothing_and_starts_nothing(world: World) -> None:
    world.allow(1)
    outcome = world.background(world.session())
    wait_for(lambda: world.starts() == 1)
    first = pid_of(world)
    command = OneProcess()._command(world.session().order)
    assert local_processes.start(world.folder, command, os.environ) == first
    world.allow(STEPS)
    assert outcome()["steps"] == STEPS
    assert world.starts() == 1


@pytest.mark.parametrize("victim", ["supervisor", "trainer"])
def test_one_that_is_killed_fails_the_session_and_goes_on_in_the_next(world: World, victim: str) -> None:
    world.allow(2)
    run = world.session()
    outcome = world.background(run)
    wait_for(lambda: run.progress and run.progress.step == 2)
    trainer = int(world.starts_file.read_text())
    os.kill(pid_of(world) if victim == "supervisor" else trainer, signal.SIGKILL)
    error = outcome()
    assert isinstance(error, TrainingError)
    how = "it was killed" if victim == "supervisor" else "it was ended by SIGKILL"
    assert f"failed: {how} at step 2 of {STEPS}" in str(error)
    assert f"the whole log: {world.folder / 'log.txt'}" in str(error)
    wait_for(lambda: not is_alive(trainer))

    world.allow(STEPS)
    again = world.session()
    assert again.run() == {"steps": STEPS, "resumed_at": 2}
    assert (world.entry().attempt, world.starts(), again.resumed) == (2, 2, False)


def test_a_failure_shows_the_end_of_the_log_and_is_tried_once_a_session(world: World) -> None:
    world.fails_at = 3
    with pytest.raises(TrainingError, match=r"torchrun.*failed: it ended with status 1 at step 3 of 4") as caught:
        world.session().run()
    assert "\n    CUDA out of memory\n" in str(caught.value)
    assert "dspy-ft progress" not in str(caught.value)
    assert world.starts() == 1
    world.fails_at = None
    assert world.session().run() == {"steps": STEPS, "resumed_at": 3}


def test_what_is_refused_is_trained_anew_from_the_first_step(world: World) -> None:
    world.refusal = "what came back has the rank 64, and 16 was ordered"
    with pytest.raises(TrainingError, match=r"rank 64.*it is not used \(it lies in .*output\)"):
        world.session().run()
    assert world.entry().refused == world.refusal
    world.refusal = ""
    assert world.session().run() == {"steps": STEPS, "resumed_at": 0}
    assert (world.entry().refused, world.starts()) == ("", 2)


def test_what_ended_after_its_result_was_written_is_no_failure(world: World) -> None:
    run = world.session()
    run.run()
    (world.folder / "ended.json").write_text('{"status": -9}')
    assert world.session().run()["steps"] == STEPS
    (world.folder / "ended.json").unlink()
    assert world.session().run()["steps"] == STEPS
    assert world.starts() == 1


def test_a_damaged_entry_starts_nothing(world: World) -> None:
    world.session().run()
    path = world.folder / ENTRY
    path.write_text(path.read_text().replace('"rows": 3', '"rows": 4'))
    with pytest.raises(TrainingError, match=r"not as it was written.*checksum.*delete"):
        read_entry(world.folder)


class Another(OneProcess):
    name = "another"


def test_another_launcher_goes_on_with_what_the_first_started(world: World) -> None:
    world.allow(1)
    outcome = world.background(world.session())
    wait_for(lambda: world.starts() == 1)
    world.wake.set()
    outcome()
    outcome = world.background(world.session(Another(), earlier=OneProcess()))
    world.allow(STEPS)
    assert outcome()["steps"] == STEPS
    assert (world.starts(), world.entry().launcher) == (1, "torchrun")


def test_trainings_are_listed_and_ended_by_name(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world.folder = tmp_path / "store" / "jobs" / "e" / "s" / "key" / "launched-d1-1"
    world.allow(1)
    run = world.session()
    outcome = world.background(run)
    wait_for(lambda: run.progress)
    assert main(["trainings", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert f"dspy-ft-d1-abc  torchrun    running (process {pid_of(world)}), step 1 of {STEPS}" in shown
    assert "local:toy on 3 rows" in shown
    assert main(["trainings", str(tmp_path / "store"), "--cancel", "dspy-ft-d1-abc"]) == 0
    assert isinstance(outcome(), TrainingError)
    assert not local_processes.is_running(world.folder)
    assert main(["trainings", str(tmp_path / "store"), "--cancel", "nobody"]) == 2
    assert main(["trainings", str(tmp_path / "empty")]) == 0
    assert "no training was launched" in capsys.readouterr().out
