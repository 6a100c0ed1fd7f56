"""``python -m pytest_dspy_ft trend`` and ``export-mlflow``, and what the other commands say of a history."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.cli import main
from pytest_dspy_ft.records.history import HistoryPoint
from pytest_dspy_ft.records.run_file import record_json
from pytest_dspy_ft.report.mlflow_run import mlflow_run
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.history import HISTORY_FILE, History
from tests.records.histories import point
from tests.report.test_html import full_run

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow's client is not installed (pip install mlflow-skinny)"
)


def filled(root: Path, *points: HistoryPoint) -> Path:
    History(StoreFolder(root)).append(points)
    return root


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([*map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


# --- trend -----------------------------------------------------------------------------------------------------------


def test_a_table_for_each_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path, point(0.5, 1), point(0.7, 2), point(0.9, 2, experiment="other"))
    code, out, _ = said(capsys, "trend", store)
    assert code == 0
    assert [line.strip("= ") for line in out.splitlines() if line.startswith("==")] == [
        "dspy trend: tickets",
        "dspy trend: other",
    ]
    assert "50.0%  70.0%  +20.0 [" in out
    code, out, _ = said(capsys, "trend", store, "--experiment", "other")
    assert "tickets" not in out


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path, point(0.5, 1), point(0.7, 2, base="toy/new"), point(0.7, 3, base="toy/new"))
    [series] = json.loads(said(capsys, "trend", store, "--json", "--last", 2)[1])["tickets"]
    assert (series["stage"], series["on"]) == ("finetuned", "dev")
    assert [p["score"] for p in series["points"]] == [0.7, 0.7]
    [series] = json.loads(said(capsys, "trend", store, "--json")[1])["tickets"]
    assert [p["changed"] for p in series["points"]] == [[], ["LM"], []]
    assert series["change"]["difference"] == pytest.approx(0.2)
    assert series["change"]["shared"] is None


def test_the_choice_narrows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path, point(0.5, 1), point(0.6, 1, on="test"), point(0.7, 2, base="toy/new"), point(stage="s"))
    chosen = json.loads(said(capsys, "trend", store, "--json", "--stage", "finetuned", "--on", "dev")[1])["tickets"]
    assert [p["score"] for p in chosen[0]["points"]] == [0.5, 0.7]
    chosen = json.loads(said(capsys, "trend", store, "--json", "--lm", "toy/new")[1])["tickets"]
    assert [p["score"] for p in chosen[0]["points"]] == [0.7]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--experiment", "x"], "--experiment x: the history of {} has none; it has tickets"),
        (["--stage", "x"], "--stage x: the history of {} has none; it has finetuned"),
        (["--on", "test"], "--on test: the history of {} has none; it has dev"),
        (["--lm", "x"], "--lm x: the history of {} has none; it has toy/lm"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_names_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    code, out, err = said(capsys, "trend", filled(tmp_path, point()), *arguments)
    assert (code, out) == (2, "")
    assert error.format(tmp_path) in err


def test_without_a_history_it_says_what_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "trend", tmp_path)
    assert code == 2
    assert f"{tmp_path} has no history yet; every whole session (no -k," in err
    code, _, err = said(capsys, "trend", tmp_path / "gone")
    assert code == 2
    assert "gone does not exist; a session makes one, by default .dspy_ft" in err


def test_lines_that_were_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path, point(day=1), point(day=2))
    with (store / HISTORY_FILE).open("a") as file:
        file.write('{"v": 9}\n{"v": 1}\n')
    out = said(capsys, "trend", store)[1]
    assert "NOTE: damaged lines of history.jsonl were left out: 4" in out
    assert "NOTE: 1 of the lines were written by another version" in out


# --- export-mlflow ---------------------------------------------------------------------------------------------------


def run_file(folder: Path, **changes: Any) -> Path:
    path = folder / "run.json"
    path.write_text(record_json(full_run().model_copy(update={"commit": "a" * 40, "dirty": False, **changes})))
    return path


def test_what_is_logged() -> None:
    run = full_run().model_copy(update={"commit": "a" * 40, "dirty": True, "incomplete": ("interrupted",)})
    logged = mlflow_run(run, run.experiments[0])
    assert logged.params["lm"] == run.experiments[0].lm
    assert logged.params["stages"].startswith("baseline, prompt_optimized, finetuned")
    [measured] = [r for r in run.experiments[0].results if (r.stage, r.on) == ("finetuned", "dev")]
    assert logged.metrics["score.finetuned.dev"] == measured.score
    assert (logged.metrics["score_low.finetuned.dev"], logged.metrics["score_high.finetuned.dev"]) == measured.interval
    assert logged.metrics["errors.prompt_optimized.dev"] == 1
    assert all(isinstance(value, float) for value in logged.metrics.values())
    assert logged.tags["mlflow.source.git.commit"] == "a" * 40
    assert (logged.tags["dspy_ft.dirty"], logged.tags["dspy_ft.incomplete"]) == ("true", "interrupted")
    assert logged.name.endswith(" aaaaaaa")


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="MLflow's client is installed")
def test_without_mlflow_the_error_names_the_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "export-mlflow", run_file(tmp_path))
    assert code == 2
    assert "export-mlflow needs MLflow's client" in err
    assert "pip install 'pytest-dspy-ft[mlflow]'" in err


def test_a_file_that_is_no_record_is_an_error_before_mlflow_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "export-mlflow", tmp_path / "gone.json")
    assert (code, "gone.json" in err, "mlflow" in err) == (2, True, False)
    code, _, err = said(capsys, "export-mlflow", run_file(tmp_path, experiments=()))
    assert (code, "holds no experiment: there is nothing to log" in err) == (2, True)


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file store of MLflow's, the one that its client can do without a server or a database."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return (tmp_path / "runs").as_uri()


@needs_mlflow
@pytest.mark.filterwarnings("default")
def test_a_record_is_logged_once_with_its_reports(
    tmp_path: Path, tracking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    path = run_file(tmp_path)
    code, out, _ = said(capsys, "export-mlflow", path, "--tracking-uri", tracking, "--run-name", "nightly")
    assert code == 0
    assert "logged as run " in out
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(full_run().experiments[0].name)
    [run] = client.search_runs([experiment.experiment_id])
    expected = mlflow_run(full_run().model_copy(update={"commit": "a" * 40, "dirty": False}), full_run().experiments[0])
    assert run.data.metrics == pytest.approx(expected.metrics)
    assert run.data.params == expected.params
    assert expected.tags.items() <= run.data.tags.items()
    assert (run.info.run_name, run.info.status) == ("nightly", "FINISHED")
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"report.json", "report.md", "report.html"}
    code, out, _ = said(capsys, "export-mlflow", path, "--tracking-uri", tracking)
    assert (code, "was logged before as run " in out) == (0, True)
    assert len(client.search_runs([experiment.experiment_id])) == 1
    client.update_run(run.info.run_id, status="RUNNING")  # as a kill leaves it
    assert "logged as run " + run.info.run_id in said(capsys, "export-mlflow", path, "--tracking-uri", tracking)[1]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert said(capsys, "export-mlflow", path, "--tracking-uri", tracking, "--experiment", "mine")[0] == 0
    assert client.get_experiment_by_name("mine") is not None


@needs_mlflow
@pytest.mark.filterwarnings("default")
def test_a_server_that_is_not_there_is_one_line(
    tmp_path: Path, tracking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "export-mlflow", run_file(tmp_path), "--tracking-uri", "http://127.0.0.1:9")
    assert code == 2
    assert "MLflow did not take experiment" in err
    assert err.count("\n") == 1
