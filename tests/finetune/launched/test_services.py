"""Launchers elsewhere, each against programs that stand for its service's: the four calls, and what interrupts them."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import MissingDependencyError, TrainingError
from pytest_dspy_ft.finetune.launched.choice import launcher_for
from pytest_dspy_ft.finetune.launched.hf_jobs import HfJobs
from pytest_dspy_ft.finetune.launched.skypilot import SkyPilot
from tests.finetune.launched.world import STEPS, World, wait_for

DOCS = Path(__file__).parents[3] / "docs" / "how-to" / "training.md"


def slurm_of_the_docs() -> Any:
    """The launcher that the docs show, as it stands there."""
    [code] = [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S) if "Slurm" in block]
    module = types.ModuleType("mycluster")
    exec(compile(code, str(DOCS), "exec"), module.__dict__)
    return module.Slurm()


def skypilot(tmp_path: Path) -> SkyPilot:
    task = tmp_path / "train.yaml"
    task.write_text(
        "resources: {accelerators: 'A100:2'}\nfile_mounts: {/dspy-ft: {source: 's3://mine', mode: MOUNT}}\n"
    )
    return SkyPilot(str(task))


MAKERS: dict[str, Callable[[Path], Any]] = {
    "hf-jobs": lambda tmp_path: HfJobs("a10g-small"),
    "skypilot": skypilot,
    "slurm": lambda tmp_path: slurm_of_the_docs(),
}


@pytest.fixture(params=list(MAKERS))
def launcher(request: pytest.FixtureRequest, tmp_path: Path, service: Path) -> Any:
    made = MAKERS[request.param](tmp_path)
    made.pause, made.settle = 0.05, 0.0
    return made


def submissions(service: Path) -> list[str]:
    return [(folder / "name").read_text() for folder in sorted(service.glob("job-*"))]


def test_left_found_and_fetched(launcher: Any, service: Path, world: World) -> None:
    if hasattr(launcher, "check"):
        launcher.check()
    world.allow(1)
    run = world.session(launcher)
    outcome = world.background(run)
    wait_for(lambda: run.progress)
    world.wake.set()
    outcome()
    found = world.session(launcher)
    outcome = world.background(found)
    wait_for(lambda: found.progress)
    world.allow(STEPS)
    assert outcome() == {"steps": STEPS, "resumed_at": 0}
    assert submissions(service) == ["dspy-ft-d1-abc-1"]
    assert (world.entry().launcher, found.resumed) == (launcher.name, True)


def test_a_start_whose_answer_was_cut_off_is_found_by_its_name(
    launcher: Any, service: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SERVICE_CUTS", "1")
    with pytest.raises(Exception, match=r"could not start it: .*(connection was cut|status 1)"):
        world.session(launcher).run()
    monkeypatch.delenv("FAKE_SERVICE_CUTS")
    assert world.session(launcher).run()["steps"] == STEPS
    assert submissions(service) == ["dspy-ft-d1-abc-1"]


def test_a_start_that_never_happened_is_made_by_the_next_session(
    launcher: Any, service: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SERVICE_DOWN", "1")
    with pytest.raises(TrainingError, match="could not start it"):
        world.session(launcher).run()
    monkeypatch.delenv("FAKE_SERVICE_DOWN")
    assert world.session(launcher).run()["steps"] == STEPS
    assert submissions(service) == ["dspy-ft-d1-abc-2"]


def test_one_that_fails_there_goes_on_from_its_checkpoint(launcher: Any, service: Path, world: World) -> None:
    world.fails_at = 2
    with pytest.raises(TrainingError, match=r"failed: .* at step 2 of 4(.|\n)*CUDA out of memory(.|\n)*whole log: "):
        world.session(launcher).run()
    world.fails_at = None
    assert world.session(launcher).run() == {"steps": STEPS, "resumed_at": 2}
    assert submissions(service) == ["dspy-ft-d1-abc-1", "dspy-ft-d1-abc-2"]


def test_cancelled(launcher: Any, world: World) -> None:
    world.allow(1)
    run = world.session(launcher)
    outcome = world.background(run)
    wait_for(lambda: run.progress)
    launcher.cancel(run.order)
    error = outcome()
    assert isinstance(error, TrainingError)
    assert "was cancelled at step 1 of 4" in str(error)


def test_the_model_of_this_machine_goes_along(service: Path, tmp_path: Path, world: World) -> None:
    for launcher in (HfJobs("a10g-small"), skypilot(tmp_path)):
        base = tmp_path / "base"
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text("{}")
        run = world.session(launcher)
        run.entry = run.entry.model_copy(update={"place": str(base), "attempt": 1})
        world.folder.mkdir(exist_ok=True)
        world._prepare(world.folder, None)
        launcher.submit(run.order)
    assert len(list(service.rglob("models/base/config.json"))) == 2


def test_what_is_missing_is_said_before_anything_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="'hf' is not installed: pip install"):
        HfJobs("a10g-small").check()
    with pytest.raises(MissingDependencyError, match="'sky' is not installed"):
        skypilot(tmp_path).check()
    with pytest.raises(TrainingError, match="name the hardware"):
        launcher_for("hf-jobs")
    with pytest.raises(TrainingError, match=r"skypilot:nowhere\.yaml: the task's file cannot be read"):
        SkyPilot("nowhere.yaml").check()
    plain = tmp_path / "plain.yaml"
    plain.write_text(json.dumps({"resources": {}}))
    with pytest.raises(TrainingError, match=r"a bucket .* must be mounted at /dspy-ft"):
        SkyPilot(str(plain)).check()
