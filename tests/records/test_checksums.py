"""Saved records, baselines, recordings and kept answers: what was changed since is said, never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_dspy_ft.errors import RecordError, RecordingError, RecordingWarning, StoreWarning
from pytest_dspy_ft.lms.cache import KeptResponses
from pytest_dspy_ft.lms.recording.folder import RecordingFolder
from pytest_dspy_ft.records.baseline import baseline_of, read_baseline, write_baseline
from pytest_dspy_ft.records.evaluation import ExampleResult, StageResult
from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord
from pytest_dspy_ft.records.run_file import read_record, record_json


def record() -> RunRecord:
    examples = tuple(ExampleResult(id=f"e{n}", score=n % 2) for n in range(4))
    result = StageResult(experiment="x", stage="baseline", on="dev", lm="toy/a", key="k", examples=examples)
    one = ExperimentRecord(name="x", lm="toy/a", seed=0, sizes={"dev": 4}, order=("baseline",), results=(result,))
    return RunRecord(created="2026-11-30T00:00:00+00:00", experiments=(one,))


def test_a_changed_baseline_is_refused_and_one_of_before_is_read(tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    write_baseline(file, baseline_of(record()))
    saved = read_baseline(file)
    assert not write_baseline(file, saved), "the same again leaves it alone"
    content = json.loads(file.read_text())
    rows = content["experiments"][0]["examples"]["dev"]
    rows[0]["scores"]["baseline"], rows[1]["scores"]["baseline"] = 1, 0  # the mean stays
    file.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="'x' is not as it was saved: its checksum"):
        read_baseline(file)
    del content["experiments"][0]["checksum"]
    file.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="checksum"):
        read_baseline(file)
    file.write_text(json.dumps({**content, "schema_version": 1}))
    assert read_baseline(file).experiments[0].name == "x"


def test_a_changed_record_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(record_json(record()))
    assert read_record(file) == record()
    content = json.loads(file.read_text())
    content["experiments"][0]["results"][0]["examples"][0]["score"] = 1.0
    file.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="its checksum does not match"):
        read_record(file)
    file.write_text(json.dumps({name: value for name, value in content.items() if name != "checksum"}))
    assert read_record(file).checksum == "", "of before"


LINE: dict[str, Any] = {"call": "k1", "model": "toy/a", "messages": [], "reply": {"text": "even"}}


def test_a_changed_recording_is_an_error_at_its_line(tmp_path: Path) -> None:
    folder = RecordingFolder(tmp_path)
    folder.add("call", LINE, "toy-a", over_older=False)
    folder.merge()
    assert RecordingFolder(tmp_path).get("call", "k1") == LINE
    file = tmp_path / "toy-a.jsonl"
    file.write_text(file.read_text().replace("even", "odd"))
    with pytest.raises(RecordingError, match=r"toy-a.jsonl:1: not as it was recorded"):
        RecordingFolder(tmp_path)
    file.write_text(json.dumps(LINE) + "\n")
    assert RecordingFolder(tmp_path).get("call", "k1") == LINE, "of before, or meant"


def test_a_damaged_line_of_a_sessions_recordings_is_said_and_missing(tmp_path: Path) -> None:
    folder = RecordingFolder(tmp_path)
    folder.add("call", LINE, "toy-a", over_older=False)
    folder.add("call", {**LINE, "call": "k2"}, "toy-a", over_older=False)
    journal = tmp_path / ".work" / "journal.jsonl"
    journal.write_text(journal.read_text().replace("even", "odd", 1))
    with pytest.warns(RecordingWarning, match="not as it was written"):
        again = RecordingFolder(tmp_path)
    assert (again.get("call", "k1"), again.get("call", "k2")) == (None, {**LINE, "call": "k2"})


def test_recordings_are_read_for_a_plan_without_a_change(tmp_path: Path) -> None:
    RecordingFolder(tmp_path).add("call", LINE, "toy-a", over_older=False)
    for name in ("lock", ".gitignore"):
        (tmp_path / ".work" / name).unlink(missing_ok=True)
    assert RecordingFolder(tmp_path, read_only=True).get("call", "k1") == LINE
    assert [p.name for p in (tmp_path / ".work").iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("damage", ["even->evil", "answer->answes", "half", "folder"])
def test_a_damaged_answer_is_asked_for_again(tmp_path: Path, damage: str) -> None:
    kept = KeptResponses(tmp_path, "scope")
    kept.put({"q": 1}, {"text": "even"})
    assert kept.get({"q": 1}) == {"text": "even"}
    [file] = tmp_path.rglob("*.json")
    old, arrow, new = damage.partition("->")
    text = file.read_text()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_text(text.replace(old, new) if arrow else text[:20])
    with pytest.warns(StoreWarning, match="asked for again"):
        assert KeptResponses(tmp_path, "scope").get({"q": 1}) is None


def test_an_answer_in_anothers_place_and_one_of_before(tmp_path: Path) -> None:
    kept = KeptResponses(tmp_path, "scope")
    kept.put({"q": 1}, "one")
    [one] = tmp_path.rglob("*.json")
    kept.put({"q": 2}, "two")
    [two] = set(tmp_path.rglob("*.json")) - {one}
    two.write_bytes(one.read_bytes())
    with pytest.warns(StoreWarning):
        assert kept.get({"q": 2}) is None
    one.with_name(one.name.replace(".v2", "")).write_text('"before"')
    one.unlink()
    assert kept.get({"q": 1}) == "before"
