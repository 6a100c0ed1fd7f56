"""The diagnosis of a collection of traces: what it counts, what it advises and why, and that it is never lost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, LabeledFinetune, Ladder, Stage
from pytest_dspy_ft.errors import BuildError, ExperimentError
from pytest_dspy_ft.records.build import BuildRecord
from tests.finetune.programs import TRAIN, TwoSteps, one_step_rule, parity, right, tune, two_step_rule
from tests.scripted import experiment, jobs_of, numbers, reply, scripted_lm


def tried(program: Any, lm: Any, optimizer: Any, store: str = "store", **changes: Any) -> tuple[BuildRecord, str]:
    """Build one fine-tuned stage; its record, and the message where it failed."""
    stage = {k: changes.pop(k) for k in ("accept", "min_traces", "teacher") if k in changes}
    ladder = Ladder(experiment(program, lm, [Stage("tuned", optimizer, **stage)], **changes), Path(store))
    message = ""
    try:
        ladder.build("tuned")
    except BuildError as error:
        message = str(error)
    return next(record for record in ladder.record().stages if record.stage == "tuned"), message


def remedies(record: BuildRecord) -> dict[str, str]:
    """Names of the remedies, in their order, with the evidence."""
    assert record.bootstrap is not None
    return {remedy.name: remedy.evidence for remedy in record.bootstrap.remedies}


def predict() -> Any:
    return dspy.Predict("text -> label")


# --- where it failed ------------------------------------------------------------------------------------------------


def troubled_rule(fields: Any, request: Any) -> str:
    """``spell`` is unreadable for every fifth number, ``judge`` raises for every seventh and is wrong for others."""
    if "text" in fields:
        return "no \x1b[31midea" if int(fields["text"]) % 5 == 0 else reply(word=f"w{fields['text']}")
    n = int(fields["word"].removeprefix("w"))
    if n % 7 == 0:
        raise RuntimeError("the engine is down")
    return reply(label="wrong" if n % 3 else parity(str(n)))


UNREADABLE = sum(n % 5 == 0 for n in range(TRAIN))
DOWN = sum(n % 5 != 0 and n % 7 == 0 for n in range(TRAIN))
WRONG = sum(n % 5 != 0 and n % 7 != 0 and n % 3 != 0 for n in range(TRAIN))


def test_every_failure_is_counted_at_its_predictor() -> None:
    record, message = tried(TwoSteps(), scripted_lm(troubled_rule), tune())
    traces = record.bootstrap
    assert traces is not None
    assert (traces.rejected, traces.unparsed, traces.raised) == (WRONG, UNREADABLE, DOWN)
    assert traces.kept == TRAIN - WRONG - UNREADABLE - DOWN
    spell, judge = traces.predictors
    assert (spell.predictor, spell.unparsed, spell.raised) == ("spell", UNREADABLE, 0)
    assert (judge.predictor, judge.unparsed, judge.raised) == ("judge", 0, DOWN)
    assert (spell.calls, judge.calls) == (TRAIN - UNREADABLE, TRAIN - UNREADABLE - DOWN)
    assert spell.rows == judge.rows == traces.kept
    assert f"{UNREADABLE} in spell" in remedies(record)["readable_replies"]
    assert f"{DOWN} in judge" in remedies(record)["mend_failures"]
    assert "the engine is down" in remedies(record)["mend_failures"]
    assert "unreadable in spell" in message
    assert "raised in judge" in message


def test_the_predictor_is_found_where_the_program_raises_anew() -> None:
    class Wrapping(TwoSteps):
        def forward(self, text: str) -> Any:
            try:
                return super().forward(text)
            except Exception as error:
                raise ValueError("could not do it") from error

    record, _ = tried(Wrapping(), scripted_lm(lambda f, r: 1 / 0), tune())
    assert record.bootstrap is not None
    assert [(p.predictor, p.raised) for p in record.bootstrap.predictors] == [("spell", TRAIN), ("judge", 0)]


def test_a_failure_of_the_programs_own_is_no_predictors() -> None:
    class Picky(TwoSteps):
        def forward(self, text: str) -> Any:
            super().forward(text)
            raise KeyError("its own")

    record, message = tried(Picky(), scripted_lm(two_step_rule), tune())
    assert record.bootstrap is not None
    assert [p.raised for p in record.bootstrap.predictors] == [0, 0]
    assert {example.predictor for example in record.bootstrap.examples} == {None}
    assert "its own" in message


# --- examples -------------------------------------------------------------------------------------------------------


def test_examples_show_what_was_asked_expected_and_answered() -> None:
    record, _ = tried(TwoSteps(), scripted_lm(troubled_rule), tune())
    assert record.bootstrap is not None
    first = {example.outcome: example for example in reversed(record.bootstrap.examples)}
    assert first["rejected"].inputs == {"text": "1"}
    assert first["rejected"].expected == {"label": "odd"}
    assert first["rejected"].reply == "label: wrong"
    assert first["rejected"].score == 0.0
    assert first["unparsed"].reply == "no \\u001b[31midea", "a reply cannot drive the terminal"
    assert "the engine is down" in first["raised"].error
    assert len(record.bootstrap.examples) == 9, "a few of each"


def test_examples_are_bounded_and_on_one_line() -> None:
    lm = scripted_lm(lambda f, r: reply(label="bad\n" + "x" * 100_000))
    record, message = tried(predict(), lm, tune())
    assert len(message) < 3000
    assert record.bootstrap is not None
    assert all(len(e.reply) < 400 and "\n" not in e.reply for e in record.bootstrap.examples)


def test_examples_that_no_dataset_has_checked_are_shown_as_they_are() -> None:
    odd = [dspy.Example(text=str(n), label=object()).with_inputs("text") for n in range(12)]
    stage = Stage("tuned", tune(lambda e, p, t=None: False), compile_args={"trainset": odd})
    ladder = Ladder(experiment(predict(), scripted_lm(one_step_rule), [stage]), Path("store"))
    with pytest.raises(BuildError, match="0 of 12"):
        ladder.build("tuned")
    assert len(kept_in(next(Path("store/traces").rglob("traces.jsonl")).parent)) == 12


# --- remedies, and their evidence -----------------------------------------------------------------------------------


def quarters(example: Any, prediction: Any, trace: Any = None) -> float:
    """0, 0.25, 0.5 and 0.75, eight of each."""
    return float(int(example.text) % 4) / 4


def test_other_thresholds_say_what_they_would_keep() -> None:
    record, message = tried(predict(), scripted_lm(one_step_rule), tune(quarters), accept=0.75)
    traces = record.bootstrap
    assert traces is not None
    assert traces.thresholds == ((0.25, 24), (0.5, 16), (0.75, 8))
    assert traces.histogram == (8, 0, 8, 0, 0, 8, 0, 8, 0, 0)
    assert "16 of the 24 rejected score above 0" in remedies(record)["relaxed_metric"]
    assert "accept=0.5 would keep 16, accept=0.25 would keep 24" in message
    assert "scores: 0 x 8, 0.25 x 8, 0.5 x 8, 0.75 x 8" in message


def test_many_scores_are_told_in_tenths() -> None:
    record, message = tried(
        predict(), scripted_lm(one_step_rule), tune(lambda e, p, t=None: int(e.text) / 100), accept=0.9
    )
    assert record.bootstrap is not None
    assert sum(record.bootstrap.histogram) == TRAIN
    assert record.bootstrap.thresholds[:3] == ((0.1, 22), (0.2, 12), (0.3, 2))
    assert "scores: 0 to 0.1 x 10, 0.1 to 0.2 x 10" in message


def test_answers_near_the_label_speak_for_a_lenient_metric_and_others_for_a_stronger_teacher() -> None:
    rows = [dspy.Example(text=str(n), label="the big red house").with_inputs("text") for n in range(40)]
    answers = {0: "the big blue house", 1: "no idea", 2: "a red house"}
    lm = scripted_lm(lambda f, r: reply(label=answers[int(f["text"]) % 3]))
    record, _ = tried(predict(), lm, tune(), dataset=Dataset.from_examples(rows))
    found = remedies(record)
    near = sum(n % 3 != 1 for n in range(TRAIN))
    assert list(found)[:2] == ["relaxed_metric", "stronger_teacher"], "the most traces first"
    assert f"{near} of the {TRAIN} rejected score 0 although they hold at least half" in found["relaxed_metric"]
    assert f"{TRAIN - near} of the {TRAIN} rejected score 0 and hold less than half" in found["stronger_teacher"]


def test_answers_that_are_right_in_parts_speak_for_sub_tasks() -> None:
    rows = numbers(40, colour=lambda n: "red")
    lm = scripted_lm(lambda f, r: reply(label="wrong", colour="red"))
    record, _ = tried(dspy.Predict("text -> label, colour"), lm, tune(), dataset=Dataset.from_examples(rows))
    assert f"{TRAIN} of the {TRAIN} rejected have some labelled fields right" in remedies(record)["smaller_subtasks"]


def test_labels_are_offered_only_where_they_hold_every_output() -> None:
    wrong = scripted_lm(lambda f, r: reply(reasoning="hm", label="wrong"))
    assert "labels" in remedies(tried(predict(), wrong, tune())[0])
    assert "labels" not in remedies(tried(dspy.ChainOfThought("text -> label"), wrong, tune())[0])


def test_labels_that_the_metric_turns_down_are_what_is_to_be_mended() -> None:
    record, message = tried(predict(), scripted_lm(one_step_rule), LabeledFinetune(metric=lambda e, p, t=None: False))
    assert list(remedies(record)) == ["labels"]
    assert "make labels and metric agree" in message


def test_the_data_it_would_take_is_reckoned_from_the_rate() -> None:
    record, _ = tried(predict(), scripted_lm(one_step_rule), tune(lambda e, p, t=None: int(e.text) < 8))
    assert "at this rate (25%) 10 kept traces take about 40" in remedies(record)["more_data"]


def test_a_collection_that_went_well_needs_no_remedy() -> None:
    record, _ = tried(predict(), scripted_lm(one_step_rule), tune())
    assert record.bootstrap is not None
    assert not record.bootstrap.low
    assert record.bootstrap.remedies == ()


# --- the minimum ----------------------------------------------------------------------------------------------------


def few(example: Any, prediction: Any, trace: Any = None) -> bool:
    return int(example.text) < 4


def test_the_minimum_is_the_stages_to_set() -> None:
    record, message = tried(predict(), scripted_lm(one_step_rule), tune(few), min_traces=4)
    assert (record.status, message) == ("built", "")
    lm = scripted_lm(one_step_rule)
    record, message = tried(predict(), lm, tune(few), "other", min_traces=5)
    assert record.status == "failed"
    assert jobs_of(lm) == []
    assert "4 of 32" in message
    assert "at least 5 are needed" in message


def test_a_minimum_raised_since_the_build_holds_for_the_build_in_the_store() -> None:
    assert tried(predict(), scripted_lm(one_step_rule), tune(few), min_traces=4)[0].status == "built"
    record, message = tried(predict(), scripted_lm(one_step_rule), tune(few), min_traces=5)
    assert record.status == "failed"
    assert "at least 5 are needed" in message
    lm = scripted_lm(one_step_rule)
    assert tried(predict(), lm, tune(few), min_traces=3)[0].status == "loaded", "it changes nothing that was built"


def test_a_refusal_is_remembered() -> None:
    record, _ = tried(predict(), scripted_lm(one_step_rule), tune(few))
    lm = scripted_lm(one_step_rule)
    again, message = tried(predict(), lm, tune(few))
    assert lm.engine.requests == []
    assert "4 of 32" in message
    assert "--dspy-rebuild=tuned" in message
    assert (again.bootstrap, again.usage.lm_calls) == (record.bootstrap, 0)
    assert Path(re.findall(r"with all replies: (.+)", message)[0]).is_file()


def test_a_refusal_holds_for_its_minimum_its_key_and_no_rebuild() -> None:
    tried(predict(), scripted_lm(one_step_rule), tune(few))
    lm = scripted_lm(one_step_rule)
    assert tried(predict(), lm, tune(few), min_traces=4)[0].status == "built", "few enough are asked for now"
    tried(predict(), scripted_lm(one_step_rule), tune(few), "other")
    lm = scripted_lm(one_step_rule)
    assert tried(predict(), lm, tune(lambda e, p, t=None: True), "other")[0].status == "built", "another metric"
    lm = scripted_lm(one_step_rule)
    stages = [Stage("tuned", tune(few))]
    with pytest.raises(BuildError):
        Ladder(experiment(predict(), lm, stages), Path("other"), rebuild=["tuned"]).build("tuned")
    assert len(lm.engine.requests) == TRAIN


def test_a_refusal_is_not_remembered_where_something_raised() -> None:
    tried(TwoSteps(), scripted_lm(troubled_rule), tune())
    lm = scripted_lm(two_step_rule)
    assert tried(TwoSteps(), lm, tune())[0].status == "built", "what failed then answers now"


def test_a_frozen_session_knows_a_refusal() -> None:
    tried(predict(), scripted_lm(one_step_rule), tune(few))
    ladder = Ladder(
        experiment(predict(), scripted_lm(one_step_rule), [Stage("tuned", tune(few))]), "store", frozen=True
    )
    with pytest.raises(BuildError, match="4 of 32"):
        ladder.build("tuned")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "10", True])
def test_a_minimum_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ExperimentError, match="min_traces"):
        Stage("tuned", tune(), min_traces=wrong)


# --- nothing is lost ------------------------------------------------------------------------------------------------


def kept_in(folder: Path, name: str = "traces.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_a_refused_stage_keeps_its_traces_and_its_record() -> None:
    record, message = tried(TwoSteps(), scripted_lm(troubled_rule), tune())
    assert record.status == "failed"
    assert record.usage.lm_calls == 2 * TRAIN - UNREADABLE - DOWN, "what was spent on it is counted"
    assert record.bootstrap is not None
    path = Path(re.findall(r"every trace, with all replies: (.+)", message)[0])
    traces = kept_in(path.parent)
    assert path.name == "traces.jsonl"
    assert [int(t["inputs"]["text"]) for t in traces] == list(range(TRAIN))
    assert sum(t["outcome"] == "unparsed" for t in traces) == UNREADABLE
    assert traces[5]["reply"] == "no \x1b[31midea", "in full, as it came"
    assert traces[1]["steps"][0] == {"predictor": "spell", "inputs": {"text": "1"}, "outputs": {"word": "w1"}}
    assert "what helps" in (path.parent / "bootstrap.txt").read_text("utf-8")
    [written] = json.loads((path.parent / "bootstrap.json").read_text("utf-8"))
    assert written == json.loads(record.bootstrap.model_dump_json())


def test_a_built_stage_holds_its_traces_in_its_folder() -> None:
    ladder = Ladder(experiment(predict(), scripted_lm(one_step_rule), [Stage("tuned", tune())]), Path("store"))
    folder = ladder.build("tuned").build.folder
    assert len(kept_in(folder)) == TRAIN
    assert {"bootstrap.json", "bootstrap.txt", "traces.jsonl"} <= ladder.build("tuned").build.manifest["files"].keys()
    assert not list(Path("store/traces").rglob("*.jsonl")), "they are in one place"


def test_a_training_that_fails_keeps_the_traces() -> None:
    lm = scripted_lm(one_step_rule)

    def fail(*args: Any, **kwargs: Any) -> str:
        raise RuntimeError("out of luck")

    lm.provider.finetune = fail
    record, message = tried(predict(), lm, tune())
    assert "out of luck" in message
    assert record.bootstrap is not None
    assert record.bootstrap.kept == TRAIN
    [path] = Path("store/traces").rglob("traces.jsonl")
    assert len(kept_in(path.parent)) == TRAIN


# --- several collections --------------------------------------------------------------------------------------------


def better_together(metric: Any) -> Any:
    prompt = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=1, max_labeled_demos=1)
    return dspy.BetterTogether(metric=right, p=prompt, w=tune(metric))


def test_every_collection_of_a_combining_optimizer_is_kept() -> None:
    seen: list[str] = []

    def stricter(example: Any, prediction: Any, trace: Any = None) -> bool:
        seen.append(example.text)
        return len(seen) <= TRAIN or int(example.text) % 2 == 0

    stage = Stage("both", better_together(stricter), compile_args={"strategy": "w -> w", "valset": numbers(4)})
    ladder = Ladder(experiment(predict(), scripted_lm(one_step_rule), [stage]), Path("store"), num_threads=1)
    built = ladder.build("both")
    first, second = built.record.bootstraps
    assert (first.kept, second.kept) == (TRAIN, TRAIN // 2)
    assert built.record.bootstrap == second
    assert [len(kept_in(built.build.folder, name)) for name in ("traces.jsonl", "traces-2.jsonl")] == [TRAIN, TRAIN]
    assert "collection 2 of 2" in (built.build.folder / "bootstrap.txt").read_text("utf-8")


def test_a_refused_step_of_a_combining_optimizer_gives_its_diagnosis() -> None:
    optimizer = better_together(lambda e, p, t=None: False)
    stage = Stage("both", optimizer, compile_args={"strategy": "p -> w", "valset": numbers(4)})
    ladder = Ladder(experiment(predict(), scripted_lm(one_step_rule), [stage]), Path("store"))
    with pytest.raises(BuildError, match="step 'w'") as caught:
        ladder.build("both")
    assert "\n  what helps:\n" in str(caught.value)
    assert list(Path("store/traces").rglob("traces.jsonl"))
