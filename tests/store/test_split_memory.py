"""What a store remembers of splits: it only ever grows, in any number of processes, and never stands in the way."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest

from pytest_dspy_ft import Dataset, Gate, Ladder, Stage
from pytest_dspy_ft.errors import StoreError, StoreWarning
from pytest_dspy_ft.gates.wear import MOST_PROGRAMS, WORN, is_worn
from pytest_dspy_ft.store.inventory import take_inventory
from pytest_dspy_ft.store.record import record_of_store
from pytest_dspy_ft.store.split_memory import RememberedSplits, SplitMemory
from pytest_dspy_ft.store.store import Store
from tests.ladder.helpers import parity_rule, predict
from tests.scripted import experiment, numbers, scripted_lm

FEW = Stage("few", dspy.LabeledFewShot(k=2))


def remembered(store: Path | Store) -> RememberedSplits:
    return SplitMemory(store if isinstance(store, Store) else Store(store, read_only=True), "scripted").read()


def ladder(store: Path | Store, dataset: Dataset | None = None, **options: object) -> Ladder:
    dataset = dataset or Dataset.from_examples(numbers(40))
    made = experiment(predict(), scripted_lm(parity_rule), [FEW], dataset=dataset)
    return Ladder(made, store, num_threads=2, **options)  # type: ignore[arg-type]


def test_additions_of_many_at_once_are_all_kept(tmp_path: Path) -> None:
    def add(n: int) -> None:
        fresh = RememberedSplits(frozenset([f"d{n}", "d"]), frozenset([f"t{n}"]), frozenset([f"p{n % 3}"]))
        SplitMemory(Store(tmp_path), "scripted").remember(fresh)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    found = remembered(tmp_path)
    assert found.dev == {"d", *(f"d{n}" for n in range(40))}
    assert found.test == {f"t{n}" for n in range(40)}
    assert found.programs == {"p0", "p1", "p2"}


def test_what_is_known_writes_nothing_and_nothing_stands_there_twice(tmp_path: Path) -> None:
    ladder(tmp_path).evaluate("baseline", "dev")
    path = SplitMemory(Store(tmp_path), "scripted").path
    before = path.stat().st_mtime_ns, path.read_bytes()
    again = ladder(tmp_path)
    again.evaluate("baseline", "dev")
    again.evaluate("few", "dev")
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    dataset = Dataset.from_examples(numbers(40))
    content = json.loads(path.read_text("utf-8"))
    assert content["dev"] == sorted(dataset.inputs_ids("dev"))
    assert content["test"] == sorted(dataset.inputs_ids("test"))


@pytest.mark.parametrize("damage", ["not json", '{"dev": []}', ""])
def test_damage_is_set_aside_and_the_memory_begins_anew(tmp_path: Path, damage: str) -> None:
    ladder(tmp_path).evaluate("baseline", "dev")
    path = SplitMemory(Store(tmp_path), "scripted").path
    path.write_text(damage, encoding="utf-8")
    assert record_of_store(take_inventory(tmp_path)).incomplete[-1] == "damaged, left out: splits/scripted/splits.json"
    with pytest.warns(StoreWarning, match="memory of the splits of experiment 'scripted' is damaged"):
        made = ladder(tmp_path)
    made.evaluate("baseline", "dev")
    assert remembered(tmp_path).dev
    assert list((tmp_path / "set_aside").iterdir())


def test_one_digit_changed_by_hand_is_damage(tmp_path: Path) -> None:
    SplitMemory(Store(tmp_path), "scripted").remember(RememberedSplits(frozenset(["aaaa"])))
    path = SplitMemory(Store(tmp_path), "scripted").path
    path.write_text(path.read_text("utf-8").replace("aaaa", "aaab"), encoding="utf-8")
    with pytest.warns(StoreWarning, match="checksum"):
        assert remembered(tmp_path) == RememberedSplits()


def test_another_versions_memory_stays_beside_ours(tmp_path: Path) -> None:
    memory = SplitMemory(Store(tmp_path), "scripted")
    memory.path.parent.mkdir(parents=True)
    theirs = json.dumps({"schema_version": 99, "checksum": "x", "dev": {}})
    memory.path.write_text(theirs, encoding="utf-8")
    assert memory.read() == RememberedSplits()
    memory.remember(RememberedSplits(frozenset(["a"])))
    assert memory.path.read_text("utf-8") == theirs
    assert memory.read().dev == {"a"}


def test_a_store_that_cannot_be_written_costs_the_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder(tmp_path).evaluate("baseline", "dev")
    grown = Dataset.from_examples(numbers(80))
    ladder(tmp_path, grown).evaluate("baseline", "dev")
    SplitMemory(Store(tmp_path), "scripted").path.unlink()

    def full(self: SplitMemory, fresh: RememberedSplits) -> RememberedSplits:
        with Store(tmp_path).writing():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(SplitMemory, "remember", full)
    made = ladder(tmp_path, grown)
    assert made.evaluate("baseline", "dev").loaded
    [said] = [text for text in made.record().cautions if "is not remembered" in text]
    assert "No space left on device" in said
    with pytest.raises(StoreError):
        SplitMemory(Store(tmp_path, read_only=True), "scripted").remember(RememberedSplits(frozenset(["a"])))


def test_a_memory_that_may_not_be_read_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder(tmp_path).evaluate("baseline", "dev")
    before = SplitMemory(Store(tmp_path), "scripted").path.read_bytes()

    def locked(path: Path, owner: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("pytest_dspy_ft.store.split_memory.read_entry", locked)
        made = ladder(tmp_path, Dataset.from_examples(numbers(80)))
        made.evaluate("baseline", "dev")
    assert "is not remembered: cannot read" in made.record().cautions[0]
    assert SplitMemory(Store(tmp_path), "scripted").path.read_bytes() == before


def test_frozen_and_read_only_add_nothing(tmp_path: Path) -> None:
    ladder(tmp_path).evaluate("baseline", "test")
    SplitMemory(Store(tmp_path), "scripted").path.unlink()
    for store, options in ((tmp_path, {"frozen": True}), (Store(tmp_path, read_only=True), {})):
        made = ladder(store, None, **options)
        assert made.evaluate("baseline", "test").loaded
        assert made.record().tested_programs == 1
        assert remembered(tmp_path) == RememberedSplits()


def test_a_part_of_the_examples_is_remembered_as_a_part(tmp_path: Path) -> None:
    whole = Dataset.from_examples(numbers(40))
    ladder(tmp_path, limit=2).evaluate("baseline", "test")
    found = remembered(tmp_path)
    assert found.test == set(whole.inputs_ids("test")[:2])
    assert found.dev == set(whole.inputs_ids("dev")[:2])
    assert found.programs == frozenset()  # a look at two examples wears nothing
    assert ladder(tmp_path).record().cautions == ()
    ladder(tmp_path).evaluate("baseline", "test")
    assert remembered(tmp_path).test == set(whole.inputs_ids("test"))
    ladder(tmp_path, limit=2).evaluate("baseline", "test")
    assert len(remembered(tmp_path).programs) == 1


def test_different_programs_are_counted_once_each(tmp_path: Path) -> None:
    made = ladder(tmp_path)
    for stage in ("baseline", "few", "baseline"):
        made.evaluate(stage, "test")
    made.evaluate("few", "dev")
    made.evaluate(dspy.Predict("text -> label"), "test")
    assert made.record().tested_programs == len(remembered(tmp_path).programs) == 3
    later = ladder(tmp_path)
    later.evaluate("few", "test")
    assert later.record().tested_programs == 3
    assert record_of_store(take_inventory(tmp_path)).experiments[0].tested_programs == 3


def test_a_worn_test_split_is_said(tmp_path: Path) -> None:
    assert [is_worn(n) for n in (MOST_PROGRAMS, MOST_PROGRAMS + 1)] == [False, True]
    assert 1 - 0.975**MOST_PROGRAMS < 0.5 < 1 - 0.975 ** (MOST_PROGRAMS + 1)
    earlier = frozenset(f"program {n}" for n in range(MOST_PROGRAMS - 1))
    SplitMemory(Store(tmp_path), "scripted").remember(RememberedSplits(programs=earlier))
    made = ladder(tmp_path)
    made.evaluate("baseline", "test")
    assert WORN not in made.record().cautions
    made.evaluate("few", "test")
    assert WORN in made.record().cautions


# --- Examples that changed sides -------------------------------------------------------------------------------------


def test_a_mended_label_is_still_the_same_example(tmp_path: Path) -> None:
    before = numbers(40)
    ladder(tmp_path, Dataset(train=before[:20], dev=before[20:30], test=before[30:])).evaluate("few", "dev")
    mended = [e.copy(label="even") for e in before]
    swapped = Dataset(train=[*mended[:19], mended[25], mended[35], mended[36]], dev=mended[30:31], test=mended[37:])
    made = ladder(tmp_path, swapped)
    headline = (
        "3 examples of train were in dev or test in earlier sessions (dev 1, test 2); 1 example changed between dev "
        "and test"
    )
    assert headline in made.record().cautions
    assert made.judge(Gate.parse("baseline >= 1%", on="dev")).caution == ""
    verdict = made.judge(Gate.parse("few >= 1%", on="dev"))
    assert verdict.caution == (
        "gate `few >= 1%` judges `few`, trained on 3 examples that earlier sessions had in dev or test: the score "
        "cannot be held against theirs"
    )
    assert f"CAUTION: {verdict.caution}" in verdict.message
    assert made.judge(Gate.parse("tokens(few) <= 9999", on="dev")).caution == ""


def test_deleting_the_file_lets_the_store_forget(tmp_path: Path) -> None:
    before = numbers(40)
    ladder(tmp_path, Dataset(train=before[:20], dev=before[20:])).evaluate("baseline", "dev")
    other = Dataset(train=before[20:], dev=before[:20])
    assert ladder(tmp_path, other).record().cautions
    SplitMemory(Store(tmp_path), "scripted").path.unlink()
    assert ladder(tmp_path, other).record().cautions == ()
