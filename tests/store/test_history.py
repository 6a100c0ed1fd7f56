"""``history.jsonl``: lines are added whole, also by several processes; what is damaged or foreign harms nothing."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.store.folder import StoreFolder
from pytest_dspy_ft.store.history import HISTORY_FILE, History
from tests.records.histories import point


def history(root: Path) -> History:
    return History(StoreFolder(root))


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    points = [point(stage="baseline"), point(cost=None, tokens=12.5, gates={"PASS": 2}, metrics={"f1": 0.5})]
    assert history(tmp_path).append(points) == 2
    assert history(tmp_path).read().points == points
    assert (tmp_path / ".gitignore").exists(), "a store that was made for it is one that is not committed"


def test_points_are_in_the_order_of_time_whoever_was_first_to_write(tmp_path: Path) -> None:
    for day in (3, 1, 2):
        history(tmp_path).append([point(day=day)])
    assert [p.day for p in history(tmp_path).read().points] == ["2026-11-01", "2026-11-02", "2026-11-03"]


@pytest.mark.parametrize(
    ("change", "added"),
    [
        ({}, 0),
        ({"dirty": True}, 0),
        ({"loaded": False}, 1),
        ({"score": 0.9}, 1),
        ({"commit": "f" * 40}, 1),
        ({"gates": {"FAIL": 1}}, 1),
        ({"stage": "other"}, 1),
        ({"on": "test"}, 1),
        ({"experiment": "other"}, 1),
    ],
    ids=str,
)
def test_a_point_that_only_repeats_the_newest_is_left_out(
    tmp_path: Path, change: dict[str, object], added: int
) -> None:
    history(tmp_path).append([point()])
    again = point(loaded=True).model_copy(update={"created": "2026-11-20T10:00:00+00:00", **change})
    assert history(tmp_path).append([again]) == added
    assert len(history(tmp_path).read().points) == 1 + added


def test_what_goes_back_to_an_earlier_state_is_news(tmp_path: Path) -> None:
    for key in ("a", "b", "a"):
        assert history(tmp_path).append([point(key=key, loaded=True)]) == 1
    assert [p.key for p in history(tmp_path).read().points] == ["a", "b", "a"], "the last point is today's"


@pytest.mark.parametrize("cut", [1, 2, 50])
def test_half_a_line_at_the_end_is_no_damage(tmp_path: Path, cut: int) -> None:
    history(tmp_path).append([point(day=1), point(day=2)])
    path = tmp_path / HISTORY_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    lines = history(tmp_path).read()
    kept = 2 if cut == 1 else 1  # without its line's end the point is whole
    assert len(lines.points) + len(lines.damaged) == kept
    assert not lines.damaged
    history(tmp_path).append([point(day=3)])
    lines = history(tmp_path).read()
    assert (len(lines.points), lines.damaged) == (kept + 1, [])


def test_damaged_lines_stay_where_they_are_and_are_named(tmp_path: Path) -> None:
    history(tmp_path).append([point(day=day) for day in (1, 2, 3)])
    path = tmp_path / HISTORY_FILE
    path.write_text(path.read_text().replace('"score": 0.8', '"score": 0.9', 1))
    lines = history(tmp_path).read()
    assert (len(lines.points), lines.damaged) == (2, [1])
    history(tmp_path).append([point(day=4)])
    assert path.read_text().count("\n") == 4
    assert history(tmp_path).read().damaged == [1]


def test_lines_of_another_version_stay_and_are_counted(tmp_path: Path) -> None:
    history(tmp_path).append([point()])
    path = tmp_path / HISTORY_FILE
    foreign = json.dumps({"v": 7, "checksum": "?", "point": {"unheard": "of"}}) + "\n"
    path.write_text(foreign + path.read_text() + foreign)
    assert history(tmp_path).append([point(loaded=True)]) == 0, "the newest line that can be read says the same"
    history(tmp_path).append([point(day=2)])
    lines = history(tmp_path).read()
    assert (len(lines.points), lines.foreign, lines.damaged) == (2, 2, [])
    assert path.read_text().count(foreign) == 2


def _add_some(root: Path, stage: str) -> None:
    for day in range(1, 11):
        history(root).append([point(day=day, stage=stage)])


def test_several_processes_add_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    workers = [fork.Process(target=_add_some, args=(tmp_path, f"stage_{i}")) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = history(tmp_path).read()
    assert (len(lines.points), lines.damaged) == (30, [])


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="opened for reading only"):
        History(StoreFolder(tmp_path, read_only=True)).append([point()])
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write to the store .*choose another with --dspy-store"):
        history(tmp_path / "taken").append([point()])


def test_without_a_file_there_is_no_history(tmp_path: Path) -> None:
    assert history(tmp_path / "nowhere").read().points == []
    (tmp_path / HISTORY_FILE).mkdir()
    assert history(tmp_path).read().points == []
