"""What DSPy prints and logs while it works on a stage: in the stage's log, and nowhere else; what users print stays."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
import tqdm

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.ladder import library_output
from pytest_dspy_ft.ladder.library_output import LibraryOutput, logged
from tests.scripted import experiment, reply, scripted_lm

LOG = Path("store/stages/scripted/tuned/dspy.log")


def parity(inputs: Mapping[str, str], request: Any) -> str:
    return reply(label="even" if int(inputs["text"]) % 2 == 0 else "odd")


def unreadable(inputs: Mapping[str, str], request: Any) -> str:
    return "no field at all"


class Talkative(dspy.Module):
    """A program that prints, logs and draws a bar of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("text -> label")

    def forward(self, text: str) -> dspy.Prediction:
        print(f"program asked {text}")
        for _ in tqdm.tqdm([1], desc="program's bar"):
            pass
        return self.answer(text=text)


def loud(example: Any, prediction: Any, trace: Any = None) -> bool:
    print("metric asked", file=sys.stderr)
    return bool(prediction.label == example.label)


class Searching(dspy.teleprompt.teleprompt.Teleprompter):  # type: ignore[misc]
    """Evaluates the program as DSPy's optimizers do, with bars; in threads, and one inside another."""

    def compile(self, student: Any, *, trainset: list[Any], **settings: Any) -> Any:
        for threads in (1, 4):
            evaluate = dspy.Evaluate(devset=trainset[:6], metric=loud, display_progress=True, num_threads=threads)
            evaluate(student)
        return dspy.BootstrapFewShot(metric=loud, max_bootstrapped_demos=2).compile(student, trainset=trainset[:6])


def build(stage: Stage, rule: Any = parity) -> Ladder:
    ladder = Ladder(experiment(Talkative(), scripted_lm(rule), [stage]), store="store")
    ladder.build(stage.name)
    return ladder


def test_bars_and_log_lines_are_in_the_stages_log_and_prints_of_program_and_metric_are_not(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    build(Stage("tuned", Searching()))
    out, err = capsys.readouterr()
    log = LOG.read_text()
    assert "Average Metric: 6" in log  # the line that DSPy logs, and its bars
    assert "Bootstrapped 2 full traces" in log
    assert log.count("100%") >= 2
    assert len(log.splitlines()) < 20  # of each bar what it was last
    assert "building" in log.splitlines()[0]
    for said in ("Average Metric", "Bootstrapped", "dspy.evaluate"):
        assert said not in out + err + caplog.text
    assert out.count("program asked") >= 12
    assert err.count("metric asked") >= 12
    assert "program's bar" in err
    assert not any(words in log for words in ("program asked", "metric asked", "program's bar"))


def test_steps_of_better_together_share_the_log() -> None:
    class Scored(Searching):
        def compile(self, student: Any, *, trainset: list[Any], **settings: Any) -> Any:
            return super().compile(student, trainset=trainset)

    better = dspy.BetterTogether(metric=loud, a=Scored(), b=dspy.LabeledFewShot(k=1))
    arguments = {"strategy": "a -> b", "valset": []}
    lm = scripted_lm(parity)
    program = Talkative()
    program.answer.lm = lm
    Ladder(experiment(program, lm, [Stage("tuned", better, kind="prompt", compile_args=arguments)]), "store").build(
        "tuned"
    )
    assert LOG.read_text().count("Average Metric: 6") >= 2


def test_a_failed_stage_names_the_log_and_the_last_error_in_it() -> None:
    class Failing(Searching):
        def compile(self, student: Any, **settings: Any) -> Any:
            super().compile(student, **settings)
            raise RuntimeError("out of ideas")

    with pytest.raises(BuildError) as failed:
        build(Stage("tuned", Failing()), unreadable)
    message = str(failed.value)
    assert "out of ideas" in message
    assert f"what DSPy logged meanwhile: {LOG.absolute()} (errors: " in message
    assert "ERROR dspy" in LOG.read_text()


def test_what_measuring_makes_dspy_log_is_in_the_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    class Careless(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("text -> label")

        def forward(self, text: str) -> dspy.Prediction:
            return self.answer(text=text, unknown_field="x")

    ladder = Ladder(experiment(Careless(), scripted_lm(parity)), store="store")
    ladder.evaluate("baseline")
    log = (LOG.parents[1] / "baseline" / "dspy.log").read_text()
    assert "measuring on dev" in log
    assert "unknown_field" in log
    assert "unknown_field" not in "".join(capsys.readouterr())


def test_keys_are_not_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecretkey1234567890")
    logger = logging.getLogger("dspy.evaluate.evaluate")

    class Leaking(dspy.teleprompt.teleprompt.Teleprompter):  # type: ignore[misc]
        def compile(self, student: Any, *, trainset: list[Any], **settings: Any) -> Any:
            logger.error("401: key sk-verysecretkey1234567890 was refused")
            return student

    build(Stage("tuned", Leaking()))
    log = LOG.read_text()
    assert "401: key *** was refused" in log
    assert "verysecret" not in log


def test_the_log_is_no_part_of_the_build_and_a_store_without_it_is_whole() -> None:
    digest = build(Stage("tuned", Searching())).build("tuned").build.digest
    LOG.unlink()
    again = Ladder(experiment(Talkative(), scripted_lm(parity), [Stage("tuned", Searching())]), store="store")
    built = again.build("tuned")
    assert (built.record.status, built.build.digest) == ("loaded", digest)
    built.build.verify()


def test_what_dspy_shows_on_request_stays(capsys: pytest.CaptureFixture[str]) -> None:
    lm = scripted_lm(parity)
    dspy.Predict("text -> label")(text="4", lm=lm)
    with logged(LibraryOutput(LOG, "building")):
        lm.inspect_history(n=1)
    assert "even" in capsys.readouterr().out
    assert not LOG.exists()


def test_streams_are_as_they_were_afterwards_also_for_those_who_kept_ours(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with logged(LibraryOutput(LOG, "building")):
        kept = sys.stdout
    assert (sys.stdout, sys.stderr) == before
    print("said later", file=kept)
    assert capsys.readouterr().out == "said later\n"


def test_lines_of_several_threads_are_whole() -> None:
    output = LibraryOutput(LOG, "building")

    def say(name: str) -> None:
        for number in range(50):
            for piece in (f"{name} ", f"{number}", "\n"):
                output.write(piece)

    threads = [threading.Thread(target=say, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    output.finish()
    lines = LOG.read_text().splitlines()[1:]
    assert sorted(lines) == sorted(f"{name} {number}" for name in "abcd" for number in range(50))


def test_a_log_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_output, "MOST_BYTES", 1000)
    for number in range(5):
        output = LibraryOutput(LOG, f"building {number}")
        output.write("x" * 1000 + "\n")
    assert "building 4" in LOG.read_text()
    assert "building 3" in LOG.with_name("dspy.log.1").read_text()
    assert len(list(LOG.parent.iterdir())) == 2


def test_where_the_log_cannot_be_written_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    Path("store").write_text("a file where a folder should be")
    with logged(LibraryOutput(LOG, "building")):
        logging.getLogger("dspy.evaluate.evaluate").error("something failed")
    assert "something failed" in capsys.readouterr().err


def test_an_optimizer_says_where_it_is() -> None:
    output = LibraryOutput(LOG, "building")
    output.write("2026/12/01 05:43:41 INFO dspy.x: ==> STEP 2: PROPOSE INSTRUCTION CANDIDATES <==\n")
    assert output.step == "STEP 2: PROPOSE INSTRUCTION CANDIDATES"
    output.write("2026/12/01 05:43:41 INFO dspy.x: == Trial 3 / 10 - Minibatch ==\nScores so far: []\n")
    assert output.step == "Trial 3 / 10"


def test_who_listens_to_dspy_itself_goes_on_to_hear_it_and_all_is_as_it_was_afterwards() -> None:
    class Heard(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.said.append(record.getMessage())

    logger, heard = logging.getLogger("dspy"), Heard()
    logger.addHandler(heard)
    before = (set(logger.handlers), logger.propagate)
    try:
        with logged(LibraryOutput(LOG, "building")):
            logging.getLogger("dspy.evaluate").warning("heard")
        assert (set(logger.handlers), logger.propagate) == before
    finally:
        logger.removeHandler(heard)
    assert heard.said == ["heard"]
    assert LOG.read_text().endswith("WARNING dspy.evaluate: heard\n")
