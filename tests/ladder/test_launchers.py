"""Stages that a launcher trains: their keys, and what is found out before any trace is collected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage, launcher_for
from pytest_dspy_ft.errors import BuildError, TrainingError
from pytest_dspy_ft.finetune.launched.choice import HERE
from pytest_dspy_ft.finetune.launched.hf_jobs import HfJobs
from pytest_dspy_ft.finetune.launched.torchrun import Torchrun
from tests.ladder.helpers import STORE, predict, right, scripted
from tests.lms.served_world import local_lm
from tests.scripted import experiment


class Elsewhere(Torchrun):
    """Trains with an engine of its own."""

    name, engine = "elsewhere", "axolotl"

    def check(self) -> None:
        raise TrainingError("axolotl is not installed: pip install axolotl")


def declared(lm: Any, **train_kwargs: Any) -> Any:
    tuned = dspy.BootstrapFinetune(metric=right, train_kwargs=train_kwargs)
    return experiment(predict(), lm, [Stage("prompted", dspy.LabeledFewShot(k=2)), Stage("tuned", tuned)])


def keys(lm: Any, launcher: Any) -> dict[str, str]:
    ladder = Ladder(declared(lm), STORE, launcher=launcher)
    return {name: ladder.recipe(name).key for name in ("baseline", "prompted", "tuned")}


def test_the_engine_that_trains_is_part_of_the_key_and_nothing_else_of_a_launcher() -> None:
    here = keys(local_lm(), None)
    by_trl = keys(local_lm(), Torchrun(2))
    assert [name for name in here if here[name] != by_trl[name]] == ["tuned"]
    assert keys(local_lm(), Torchrun(7)) == by_trl
    assert keys(local_lm(), HfJobs("a10g-small")) == by_trl
    assert keys(local_lm(), Elsewhere(2))["tuned"] not in (here["tuned"], by_trl["tuned"])


def test_a_model_that_is_trained_by_its_service_is_no_matter_of_a_launcher() -> None:
    assert keys(scripted(), Torchrun(2)) == keys(scripted(), None)


@pytest.mark.parametrize(
    ("launcher", "train_kwargs", "words"),
    [
        (Torchrun(2), {"rank": 8}, "unknown training setting 'rank'; here that is 'r'; choose from r, alpha"),
        (Torchrun(2), {"epochs": 0}, "epochs=0: must be a whole number at least 1"),
        (Torchrun(9), {}, "batch_size=8 rows cannot be shared out among 9 processes"),
        (Elsewhere(2), {}, "axolotl is not installed: pip install axolotl"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_asked(
    launcher: Any, train_kwargs: dict[str, Any], words: str
) -> None:
    lm = local_lm()
    with pytest.raises(BuildError) as caught:
        Ladder(declared(lm, **train_kwargs), STORE, launcher=launcher).build("tuned")
    assert words in str(caught.value)
    assert "stage 'tuned'" in str(caught.value)
    assert not lm.engine.requests


def test_launchers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher_for(HERE) is None
    assert getattr(launcher_for("torchrun"), "processes", 0) is None
    two = launcher_for(" torchrun:2 ")
    assert (getattr(two, "processes", 0), getattr(two, "engine", "")) == (2, "trl")
    own = launcher_for(f"{__name__}:Elsewhere")
    assert getattr(own, "name", "") == "elsewhere"


def test_launchers_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.py").write_text(
        f"from {__name__} import Elsewhere\ndef make(text='1'):\n    return Elsewhere(int(text))\n"
    )
    info = tmp_path / "cluster-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cluster\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest_dspy_ft.launchers]\ncluster = cluster:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert getattr(launcher_for("cluster"), "processes", 0) == 1
    assert getattr(launcher_for("cluster:5"), "processes", 0) == 5
    with pytest.raises(TrainingError, match="choose from here, torchrun, hf-jobs, skypilot, cluster"):
        launcher_for("clutter")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torchun:2", "did you mean 'torchrun'"),
        ("here:2", "'here:2' is no launcher"),
        ("torchrun:two", "a number of processes is needed"),
        ("torchrun:0", "at least one process is needed"),
        ("nowhere.slurm:launcher", "No module named 'nowhere'; the module must be importable"),
        (f"{__name__}:Nothing", "has no Nothing"),
        (
            f"{__name__}:predict",
            "which is no launcher: it lacks submit, status, fetch, cancel, name, engine, processes",
        ),
    ],
)
def test_what_is_no_launcher_is_said(text: str, words: str) -> None:
    with pytest.raises(TrainingError) as caught:
        launcher_for(text)
    assert words in str(caught.value)
