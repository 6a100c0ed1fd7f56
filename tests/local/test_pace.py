"""How fast this machine is: what is noted, what is believed of it, and what a broken file does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dspy_ft.local import pace
from pytest_dspy_ft.local.pace import Pace, PaceNotes, reply_work


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSPY_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rates(found: Pace) -> tuple[float | None, float | None, float | None]:
    return found.answering, found.training, found.loading


def test_nothing_is_known_before_something_was_done() -> None:
    assert PaceNotes().known("m") == Pace()


def test_work_is_summed_and_kept(cache: Path) -> None:
    notes = PaceNotes()
    notes.note("m", "answering", 100, 1.0)
    assert not cache.exists(), "so little is not written at once"
    notes.note("m", "answering", 300, 3.0)
    notes.note("m", "training", 50, 5.0)
    notes.note("m", "loading", 1, 4.0)
    notes.note("other", "answering", 0, 1.0)
    found = PaceNotes().known("m")
    assert rates(found) == (0.01, 0.1, 4.0)
    assert found.noted
    assert PaceNotes().known("other") == Pace()


def test_what_is_not_written_yet_is_at_the_end(cache: Path) -> None:
    script = "from pytest_dspy_ft.local.pace import NOTES; NOTES.note('m', 'answering', 10, 0.5)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert PaceNotes().known("m").answering == 0.05


def test_earlier_processes_count_half(cache: Path) -> None:
    first, second = PaceNotes(), PaceNotes()
    first.note("m", "answering", 100, 10.0)
    second.note("m", "answering", 50, 50.0)
    assert PaceNotes().known("m").answering == pytest.approx((0.5 * 10 + 50) / (0.5 * 100 + 50))
    second.note("m", "answering", 50, 50.0)
    assert PaceNotes().known("m").answering == pytest.approx((0.5 * 10 + 100) / (0.5 * 100 + 100)), (
        "once, not at each note"
    )


def test_another_number_of_threads_is_another_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    PaceNotes().note("m", "training", 10, 10.0)
    assert PaceNotes().known("m").training == 1.0
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert PaceNotes().known("m").training is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"m": 1}', '{"m | x": {"noted": "2026-12-01", "answering": {"units": 0}}}']
)
def test_a_broken_file_is_none(cache: Path, content: str) -> None:
    cache.mkdir()
    (cache / pace.FILE).write_text(content, "utf-8")
    assert PaceNotes().known("m") == Pace()
    PaceNotes().note("m", "answering", 10, 10.0)
    assert PaceNotes().known("m").answering == 1.0
    assert len(json.loads((cache / pace.FILE).read_text("utf-8"))) == 1


def test_a_folder_that_cannot_be_written_to_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("DSPY_FT_CACHE", str(tmp_path / "file" / "cache"))
    PaceNotes().note("m", "answering", 10, 10.0)


def test_the_file_does_not_grow_without_end(cache: Path) -> None:
    notes = PaceNotes()
    for number in range(pace.MOST_ENTRIES + 5):
        notes.note(f"model {number}", "answering", 1, 3.0)
    assert len(json.loads((cache / pace.FILE).read_text("utf-8"))) == pace.MOST_ENTRIES


def test_a_token_of_a_reply_takes_a_step_of_its_own() -> None:
    assert reply_work(100, 10) > reply_work(110, 0)
