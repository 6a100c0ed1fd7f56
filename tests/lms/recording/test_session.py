"""Recordings and keys in whole pytest sessions, against a server on this machine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lms.chat import Body, ChatServer, failure, last_text, parity, serving

KEY = "sk-planted-0123456789abcdef"
TUNED = "ft:base:org::abc"

CONFTEST = """
import os
import dspy, pytest
from dspy.clients.provider import Provider, TrainingJob
from parity import Labels, examples, right_label
from pytest_dspy_ft import Dataset, Experiment, Stage

KEY = os.environ.get("GIVEN_KEY") or os.environ.get("OPENAI_API_KEY")


class Elsewhere(Provider):
    def __init__(self):
        super().__init__()
        self.finetunable = True
        self.TrainingJob = TrainingJob

    @staticmethod
    def finetune(job, model, train_data, train_data_format, train_kwargs=None):
        if not KEY or "training" in model:
            raise RuntimeError(f"the service does not like the key {KEY}")
        return "openai/ft:base:org::abc"


class Broken(dspy.Predict):
    def forward(self, **inputs):
        raise KeyError(KEY)


def broken(example, prediction, trace=None):
    raise KeyError(KEY)


def make(trouble):
    optimizer, arguments = dspy.BootstrapFewShot(metric=right_label, max_bootstrapped_demos=2), {}
    if "WITH_MIPRO" in os.environ:
        optimizer = dspy.MIPROv2(
            metric=right_label, auto=None, num_candidates=2, max_bootstrapped_demos=1, max_labeled_demos=1
        )
        arguments = {"num_trials": 2, "minibatch": False}
    settings = {"api_key": os.environ["GIVEN_KEY"]} if "GIVEN_KEY" in os.environ else {}
    program = (Broken if trouble == "program" else dspy.Predict)(
        Labels.with_instructions(os.environ.get("INSTRUCTIONS", "Say even or odd."))
    )
    lm = dspy.LM(f"openai/{trouble}", api_base=os.environ["ADDRESS"], provider=Elsewhere(), num_retries=0, **settings)
    return Experiment(
        "hosted" if trouble == "base" else trouble,
        program=program,
        dataset=Dataset.from_examples(examples(range(30)), split=(0.6, 0.2, 0.2)),
        metric=broken if trouble == "metric" else right_label,
        lm=lm,
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        stages=[
            Stage("prompted", optimizer, compile_args=arguments),
            Stage("tuned", dspy.BootstrapFinetune(metric=right_label), teacher="prompted"),
        ],
    )


@pytest.fixture(scope="session", params=os.environ.get("TROUBLES", "base").split(","))
def dspy_experiment(request):
    return make(request.param)
"""

TESTS = """
import pytest

@pytest.mark.dspy_gate("baseline >= 50%")
@pytest.mark.dspy_gate("baseline >= 50%", on="test")
def test_baseline(): ...

@pytest.mark.dspy_gate("prompted >= baseline")
def test_prompted(): ...

@pytest.mark.dspy_gate("tuned >= 90%")
@pytest.mark.dspy_gate("cost(tuned) <= cost(baseline) * 2")
def test_tuned(): ...

def test_one_call(dspy_program):
    assert dspy_program("tuned")(text="8").label == "even"
"""


def answers(body: Body) -> str:
    """Parity where it is asked; "fine" for every field of what a prompt optimizer asks."""
    text = last_text(body)
    wanted = re.findall(r"`\[\[ ## (\w+) ## \]\]`", text.split("Respond with the corresponding")[-1])
    if wanted == ["label", "completed"]:
        return parity(body)
    return "\n\n".join(f"[[ ## {field} ## ]]\nfine" for field in wanted)


@pytest.fixture
def hosted(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    project.makeconftest(CONFTEST)
    project.makepyfile(test_hosted=TESTS)
    project.makeini("[pytest]\ndspy_stage = all\ndspy_prices = openai/* = 1.00 2.00\n")
    return project


def server(**settings: Any) -> Any:
    return serving(**{"rule": answers, "keys": frozenset({KEY}), "models": {"base", TUNED}, **settings})


def table(result: Any) -> list[str]:
    """The lines of the stage table, without what the time of a call shows."""
    lines = result.stdout.lines
    start = next(i for i, line in enumerate(lines) if line.startswith("stage "))
    return [line for line in lines[start : start + 5] if line.strip()]


def record(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[ChatServer, Any]:
    """A session that records; the address stays in the environment, where nobody listens afterwards."""
    with server() as running:
        monkeypatch.setenv("ADDRESS", running.address)
        result = project.runpytest_subprocess("--dspy-record=once", *arguments)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    return running, result


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["one process", "two workers"])
def test_a_fork_runs_every_gate(
    hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    if not workers:
        monkeypatch.setenv("WITH_MIPRO", "yes")
    running, before = record(hosted, monkeypatch, *workers)
    monkeypatch.delenv("OPENAI_API_KEY")
    after = hosted.runpytest_subprocess("--dspy-offline", "--dspy-store=elsewhere", *workers)
    assert after.ret == 0, after.stdout.str() + after.stderr.str()
    after.assert_outcomes(passed=4)
    after.stdout.fnmatch_lines(["*LM calls (*replayed from recordings)*"])
    assert table(after) == table(before), "scores, tokens and costs are those of the recording"
    folder = hosted.path / "dspy_recordings"
    files = sorted(file.name for file in folder.glob("*.jsonl"))
    assert files == ["complete.jsonl", "jobs.jsonl", "openai-base.jsonl", "openai-ft-base-org-abc.jsonl"]
    for file in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        identities = [next(iter(line.values())) for line in lines if "text" not in line]
        assert identities == sorted(set(identities))
    if not workers:
        assert any("proposed_instruction" in last_text(body) for body in running.calls()), "MIPROv2's proposals, too"
    assert not list((folder / ".work").glob("*.jsonl"))


def test_a_changed_prompt_shows_what_is_not_recorded(hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    record(hosted, monkeypatch, "-k", "baseline")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("INSTRUCTIONS", "Say whether it is even.")
    result = hosted.runpytest_subprocess("--dspy-record=none", "-k", "baseline")
    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        [
            "*stage 'baseline' could not be evaluated on dev: openai/base was asked something that is not recorded*",
            "*the nearest recorded call differs in:*",
            "*message 1 of 2 (system):*",
            "*recorded - *Say even or odd.*",
            "*asked    + *Say whether it is even.*",
            "*--dspy-record=once*",
        ]
    )
    assert not (hosted.path / "dspy_recordings/.work/journal.jsonl").exists()


def test_a_recorded_stage_and_a_replayed_one_have_one_key(
    hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(hosted, monkeypatch, "--dspy-store=one")
    assert hosted.runpytest_subprocess("--dspy-record=none", "--dspy-store=two").ret == 0

    def keys(store: str) -> list[str]:
        root = hosted.path / store
        return sorted(
            str(path.relative_to(root))
            for kind in ("stages", "evaluations")
            for path in root.joinpath(kind).rglob("*.json")
        )

    assert keys("one") == keys("two")
    # A store that was filled by replaying serves a session that calls, and one that is frozen.
    monkeypatch.delenv("OPENAI_API_KEY")
    frozen = hosted.runpytest_subprocess("--dspy-frozen", "--dspy-store=two", "-k", "not one_call")
    frozen.assert_outcomes(passed=3, deselected=1)


def test_the_stage_runs_at_the_address_it_was_built_at(
    hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading a saved program drops an LM's address and provider; the store's programs have theirs."""
    with server() as running:
        monkeypatch.setenv("ADDRESS", running.address)
        assert hosted.runpytest_subprocess().ret == 0
        asked = len(running.requests)
        shutil.rmtree(hosted.path / "dspy_cache")  # where DSPy itself would find the answer
        loaded = hosted.runpytest_subprocess("-k", "one_call")
        assert loaded.ret == 0, loaded.stdout.str()
        assert [body["model"] for _, body in running.requests[asked:]] == [TUNED]
        assert running.headers[-1]["Authorization"] == f"Bearer {KEY}"
    program = next((hosted.path / ".dspy_ft/stages/hosted/tuned").rglob("program.json")).read_text("utf-8")
    assert f"openai/{TUNED}" in program
    assert KEY not in program
    # Another address is another LM: what was measured there does not count here.
    with server() as other:
        monkeypatch.setenv("ADDRESS", other.address)
        assert hosted.runpytest_subprocess("-k", "baseline").ret == 0
        assert other.requests


@pytest.mark.parametrize(
    ("ini", "arguments", "message"),
    [
        ("", ("--dspy-offline", "--dspy-record=once"), "*--dspy-offline and --dspy-record=once*"),
        ("", ("--dspy-frozen", "--dspy-record=all"), "*--dspy-frozen and --dspy-record=all*"),
        ("dspy_record = always", (), "*dspy_record = always: choices are none, once, all*"),
        ("", ("--dspy-record=never",), "*--dspy-record*invalid choice*never*"),
    ],
)
def test_options_that_make_no_sense(
    hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ini: str, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("ADDRESS", "http://127.0.0.1:9/v1")
    hosted.makeini(f"[pytest]\n{ini}\n")
    result = hosted.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


TROUBLES = ("base", "wrong_key", "quota", "outage", "bad_request", "program", "metric", "training")


@pytest.mark.parametrize("given", [False, True], ids=["in the environment", "given to the LM"])
def test_no_key_is_ever_written_or_shown(hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    """A session in which everything fails that can, each failure with the key in its message."""
    if given:
        monkeypatch.delenv("OPENAI_API_KEY")
        monkeypatch.setenv("GIVEN_KEY", KEY)
    monkeypatch.setenv("TROUBLES", ",".join(TROUBLES))
    echo = f"we know your key {KEY}, and 'Bearer {KEY}'"
    faults = {
        "wrong_key": failure(401, echo, "invalid_api_key"),
        "quota": failure(429, echo, "insufficient_quota"),
        "outage": failure(503, echo, Retry_After="9999"),
        "bad_request": failure(400, echo),
    }
    hosted.makepyfile(
        test_hosted=TESTS
        + """

def test_key(dspy_ladder):
    import logging
    from conftest import KEY
    print(KEY)
    logging.warning("the key is %s", KEY)
    logging.getLogger("dspy").error(f"the key is {KEY}")
    assert KEY == "another"
"""
    )
    models = {*TROUBLES, TUNED}
    with server(models=models, faults=lambda body, number: faults.get(body["model"])) as running:
        monkeypatch.setenv("ADDRESS", running.address)
        result = hosted.runpytest_subprocess(
            "--dspy-record=once", "-rA", "--showlocals", "--log-cli-level=INFO", "--junitxml=junit.xml",
            "--dspy-report=r.json", "--dspy-report=r.md", "--dspy-report=r.html", "-o", "dspy_num_threads=2",
        )  # fmt: skip
    shown = result.stdout.str() + result.stderr.str()
    assert result.ret == 1, shown
    for trouble in TROUBLES:
        assert re.search(rf"FAILED .*test_\w+\[{trouble}\]", shown), trouble
    assert KEY not in shown, [line for line in shown.splitlines() if KEY in line][:5]
    assert "***" in shown
    for name in ("junit.xml", "r.json", "r.md", "r.html", "dspy_recordings/openai-base.jsonl"):
        assert (hosted.path / name).is_file()
    holding = [
        path.relative_to(hosted.path)
        for path in sorted(hosted.path.rglob("*"))
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert holding == []


def test_paths_are_beside_the_ini_file(hosted: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted.makeini("[pytest]\ndspy_record = once\ndspy_recordings = kept/calls\n")
    with server() as running:
        monkeypatch.setenv("ADDRESS", running.address)
        assert hosted.runpytest_subprocess("-k", "baseline").ret == 0
    assert (hosted.path / "kept/calls/openai-base.jsonl").is_file()
    assert Path("kept").resolve().parent == hosted.path
