"""Calls recorded in one session and replayed in another: the same answers, numbers and keys, whatever the order."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import RecordingError
from pytest_dspy_ft.lms.calls import recording
from pytest_dspy_ft.lms.recording.folder import RecordingFolder
from tests.scripted import experiment, jobs_of, numbers, reply, scripted_lm

FOLDER = Path("recordings")


def parity(fields: Mapping[str, str], request: Any) -> str:
    return reply(label="even" if int(fields["text"]) % 2 == 0 else "odd")


def dead(fields: Mapping[str, str], request: Any) -> str:
    raise AssertionError("nothing may be asked while recordings answer")


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def ladder(rule: Any, store: str, *, lm: Any = None, **changes: Any) -> Ladder:
    stages = [
        Stage("prompted", dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2)),
        Stage("tuned", dspy.BootstrapFinetune(metric=right), teacher="prompted"),
    ]
    made = experiment(dspy.Predict("text -> label"), lm or scripted_lm(rule), stages, **changes)
    return Ladder(made, store, num_threads=4)


def measured(one: Ladder) -> list[Any]:
    """What two sessions must agree on."""
    results = [one.evaluate(stage, on) for stage in ("baseline", "prompted", "tuned") for on in ("dev", "test")]  # type: ignore[arg-type]
    return [
        (r.stage, r.on, r.key, [(e.id, e.score, e.prediction, e.usage.tokens, e.usage.lm_calls) for e in r.examples])
        for r in results
    ]


def test_a_whole_ladder_is_replayed_without_a_call() -> None:
    with recording(FOLDER, "once"):
        first = ladder(parity, "one")
        before = measured(first)
    asked = first.experiment.lm.engine.requests
    with recording(FOLDER, "none") as recorder:
        second = ladder(dead, "two")
        assert measured(second) == before
    assert second.experiment.lm.engine.requests == []
    assert jobs_of(second.experiment.lm) == []
    assert recorder.replayed >= len(asked) > 0
    assert [s.key for s in second.record().stages] == [s.key for s in first.record().stages]
    assert second.build("tuned").record.lm == first.build("tuned").record.lm == "toy/tuned-1"
    usage = second.evaluate("baseline").usage
    assert usage.replayed_calls == usage.lm_calls == second.evaluate("baseline").n
    assert first.evaluate("baseline").usage.replayed_calls == 0


def test_what_is_recorded_is_not_asked_again() -> None:
    with recording(FOLDER, "once"):
        before = measured(ladder(parity, "one"))
    again = ladder(dead, "two")
    with recording(FOLDER, "once") as recorder:
        assert measured(again) == before
    assert recorder.live == 0


def test_a_store_full_of_results_does_not_keep_calls_from_being_recorded() -> None:
    full = ladder(parity, "store")
    before = measured(full)
    with recording(FOLDER, "once"):
        once = ladder(parity, "store")
        assert measured(once) == before
    assert once.record().stages[0].reason == "its LM calls are to be recorded"
    with recording(FOLDER, "none"):
        assert measured(ladder(dead, "empty")) == before
    with recording(FOLDER, "once"):  # all of it is there now: the store counts again
        loaded = ladder(dead, "store")
        measured(loaded)
    assert {s.status for s in loaded.record().stages} == {"loaded"}


def test_all_records_anew() -> None:
    def other(fields: Mapping[str, str], request: Any) -> str:
        return reply(label="even")

    with recording(FOLDER, "once"):
        measured(ladder(parity, "store"))
    with recording(FOLDER, "all") as recorder:
        fresh = ladder(other, "store")
        assert fresh.evaluate("baseline").score == 0.5
    assert recorder.live == fresh.evaluate("baseline").n
    with recording(FOLDER, "none"):
        assert ladder(dead, "empty").evaluate("baseline").score == 0.5


def test_files_are_sorted_and_the_same_whatever_the_order() -> None:
    def record(folder: str, order: list[int]) -> dict[str, str]:
        lm, program = scripted_lm(parity, temperature=0.0), dspy.Predict("text -> label")
        program.demos = [dspy.Example(text=f"{n} " + "x" * 200, label="even") for n in range(4)]
        with recording(folder, "once"), ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: ask(program, lm, n), order))
        return {
            file.name: "\n".join(_without_seconds(line) for line in file.read_text("utf-8").splitlines())
            for file in Path(folder).glob("*.jsonl")
        }

    numbers_ = list(range(30))
    one = record("one", numbers_)
    random.Random(1).shuffle(numbers_)
    assert record("two", numbers_) == one
    assert list(one) == ["toy-scripted.jsonl"]
    lines = [json.loads(line) for line in one["toy-scripted.jsonl"].splitlines()]
    assert sum("text" in line for line in lines) == 5, "the system text and four demos stand there once"
    keys = [line["call"] for line in lines if "call" in line]
    assert keys == sorted(keys)
    assert len(keys) == 30


def ask(program: Any, lm: Any, n: int, **settings: Any) -> str:
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return str(program(text=str(n), config=settings).label)


def _without_seconds(line: str) -> str:
    content = json.loads(line)
    for name in ("seconds", "checksum"):  # a line's checksum covers its seconds
        content.pop(name, None)
    return json.dumps(content)


def test_rollouts_are_recorded_apart() -> None:
    count = iter(range(100))
    lm, program = (
        scripted_lm(lambda f, r: reply(label=str(next(count))), temperature=1.0),
        dspy.Predict("text -> label"),
    )
    with recording(FOLDER):
        said = [ask(program, lm, 1, rollout_id=rollout) for rollout in (1, 2, 3)]
        assert ask(program, lm, 1, rollout_id=2) == said[1], "an equal call has one answer"
        assert ask(program, lm, 1, temperature=0.5, rollout_id=1) == "3"
    assert said == ["0", "1", "2"]
    silent = scripted_lm(dead, temperature=1.0)
    with recording(FOLDER, "none"):
        assert [ask(program, silent, 1, rollout_id=rollout) for rollout in (3, 2, 1)] == said[::-1]
        with pytest.raises(RecordingError, match=r"rollout: 4, recorded with \d"):
            ask(program, silent, 1, rollout_id=4)


def test_a_missing_call_shows_the_nearest_one() -> None:
    program = dspy.Predict("text -> label")
    with recording(FOLDER):
        for n in (1, 2, 30):
            ask(program, scripted_lm(parity, temperature=0.0), n)
    lm = scripted_lm(dead, temperature=0.0)
    with recording(FOLDER, "none"):
        with pytest.raises(RecordingError) as caught:
            ask(program, lm, 31)
        message = str(caught.value)
        assert "toy/scripted was asked something that is not recorded in" in message
        assert "message 2 of 2 (user)" in message
        assert "recorded - 30" in message
        assert "asked    + 31" in message
        assert "--dspy-record=once" in message
        with pytest.raises(RecordingError, match=r"setting temperature: 0.7, recorded with 0.0"):
            ask(program, lm, 30, temperature=0.7)
        longer = dspy.Predict(dspy.Signature("text -> label", "Say more."))
        with pytest.raises(RecordingError, match=r"message 1 of 2 \(system\)") as caught:
            ask(longer, lm, 30)
        assert "Say more." in str(caught.value)
        with pytest.raises(RecordingError, match=r"model: 'toy/other', recorded with 'toy/scripted'"):
            ask(program, scripted_lm(dead, "toy/other", temperature=0.0), 30)


def test_with_no_recording_at_all_it_says_so() -> None:
    with recording(FOLDER, "none"), pytest.raises(RecordingError, match="nothing is recorded there at all"):
        ask(dspy.Predict("text -> label"), scripted_lm(dead), 1)
    assert not FOLDER.exists()


def test_a_missing_call_ends_an_evaluation_at_once() -> None:
    with recording(FOLDER):
        ladder(parity, "one", count=40).evaluate("baseline")
    with recording(FOLDER, "none") as recorder:
        later = ladder(dead, "two", dataset=_other_data())
        with pytest.raises(RecordingError, match=r"stage 'baseline' could not be evaluated on dev: .*not recorded"):
            later.evaluate("baseline")
    assert 1 <= len(recorder.missing) <= 4
    assert not list(Path("two").rglob("dev-*.json"))


def test_a_missing_call_is_not_taken_for_a_wrong_answer_by_an_optimizer() -> None:
    """DSPy's optimizers score what raises 0, and would build another program from it."""
    with recording(FOLDER):
        ladder(parity, "one").evaluate("baseline")
    with recording(FOLDER, "none"), pytest.raises(RecordingError, match=r"stage 'prompted': .*not recorded"):
        ladder(dead, "two").build("prompted")


def test_a_missing_job_says_what_differs() -> None:
    with recording(FOLDER):
        ladder(parity, "one").build("tuned")
    lm = scripted_lm(parity)
    other = Stage("tuned", dspy.BootstrapFinetune(metric=right, train_kwargs={"n_epochs": 7}), start="prompted")
    changed = experiment(dspy.Predict("text -> label"), lm, [_prompted(), other])
    with (
        recording(FOLDER, "none"),
        pytest.raises(RecordingError, match=r"no fine-tuning of toy/scripted .*recorded with .*other settings"),
    ):
        Ladder(changed, "two").build("tuned")


def _prompted() -> Stage:
    return Stage("prompted", dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2))


def _other_data() -> Any:
    from pytest_dspy_ft import Dataset

    return Dataset.from_examples(numbers(80)[40:])


def test_local_models_answer_for_themselves_unless_they_are_to_be_recorded() -> None:
    program = dspy.Predict("text -> label")
    with recording(FOLDER, "none"):
        assert ask(program, scripted_lm(parity, "local:toy"), 2) == "even"
    with recording(FOLDER, "once", ["local:*"]):
        ask(program, scripted_lm(parity, "local:toy"), 2)
        ask(program, scripted_lm(parity, "toy/hosted"), 2)
    with recording(FOLDER, "none", ["local:*"]):
        assert ask(program, scripted_lm(dead, "local:toy"), 2) == "even"
    assert [file.name for file in FOLDER.glob("*.jsonl")] == ["local-toy.jsonl"]


def test_async_calls_are_recorded_and_replayed() -> None:
    class Engine:
        async def complete(self, request: Any) -> Any:
            return scripted_lm(lambda f, r: reply(label="even")).engine.complete(request)

    program = dspy.Predict("text -> label")

    async def said(lm: Any) -> str:
        with dspy.context(lm=lm):
            return str((await program.acall(text="2")).label)

    lm = scripted_lm(dead)
    with recording(FOLDER):
        assert asyncio.run(said(lm.copy(engine=lm.engine, async_engine=Engine()))) == "even"
    with recording(FOLDER, "none"):
        assert asyncio.run(said(lm)) == "even"


def test_two_processes_record_into_one_folder() -> None:
    one, two = RecordingFolder(FOLDER, "session"), RecordingFolder(FOLDER, "session")

    def add(folder: RecordingFolder, who: str) -> None:
        for n in range(100):
            line = {"call": f"{n:03}", "messages": [{"role": "user", "content": str(n)}], "by": who}
            folder.add("call", line, "model", over_older=False)

    threads = [threading.Thread(target=add, args=pair) for pair in ((one, "one"), (two, "two"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.get("call", f"{n:03}") for n in range(100)] == [two.get("call", f"{n:03}") for n in range(100)]
    one.merge()
    two.merge()
    lines = (FOLDER / "model.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["call"] for line in lines] == [f"{n:03}" for n in range(100)]


def test_what_a_killed_session_recorded_is_not_lost() -> None:
    killed = RecordingFolder(FOLDER, "killed")
    killed.add("call", {"call": "a", "messages": [{"role": "user", "content": "x"}]}, "model", over_older=False)
    with (FOLDER / ".work" / "journal.jsonl").open("a") as stream:
        stream.write('{"session": "killed", "file": "mo')  # in the middle of a line
    later = RecordingFolder(FOLDER, "later")
    assert later.get("call", "a") is not None
    later.add("call", {"call": "b", "messages": [{"role": "user", "content": "y"}]}, "model", over_older=False)
    later.merge()
    assert [json.loads(line)["call"] for line in (FOLDER / "model.jsonl").read_text("utf-8").splitlines()] == ["a", "b"]
    assert sorted(RecordingFolder(FOLDER)._lines["call"]) == ["a", "b"]


def test_a_damaged_file_is_named() -> None:
    FOLDER.mkdir()
    (FOLDER / "model.jsonl").write_text('{"call": "a", "messages": []}\n<<<<<<< HEAD\n')
    with pytest.raises(RecordingError, match=r"model\.jsonl:2: not a recording"):
        RecordingFolder(FOLDER)


class OddLM(dspy.BaseLM):
    """Its replies hold a set, which JSON has no words for."""

    forward_contract = "legacy"

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        message = SimpleNamespace(content=reply(label="odd"), tool_calls=None)
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "odd": {1, 2}}
        choice = SimpleNamespace(message=message, finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=usage, model=self.model)


def complete(folder: Path) -> list[str]:
    return [json.loads(line)["what"] for line in (folder / "complete.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
def test_an_answer_that_cannot_be_recorded_fails_what_it_is_part_of() -> None:
    with recording(FOLDER, "once"):
        one = Ladder(experiment(dspy.Predict("text -> label"), OddLM(model="toy/odd", cache=False)), "one")
        with pytest.raises(RecordingError, match=r"an answer of toy/odd cannot be recorded .*set is not JSON"):
            one.evaluate("baseline")
    assert complete(FOLDER) == ["scripted: stage baseline"], "the evaluation is not complete"


def test_what_a_failed_call_is_part_of_is_not_complete() -> None:
    def some(fields: Mapping[str, str], request: Any) -> str:
        if fields["text"] == "33":
            raise ValueError("no answer to this one")
        return parity(fields, request)

    with recording(FOLDER, "once"):
        result = Ladder(experiment(dspy.Predict("text -> label"), scripted_lm(some)), "one").evaluate("baseline")
    assert result.errors == 1
    assert complete(FOLDER) == ["scripted: stage baseline"]
