"""``pytest_dspy_ft.load``: what was exported answers as it did when it was gated, and nothing of it was changed."""

from __future__ import annotations

import asyncio
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

import pytest_dspy_ft
from pytest_dspy_ft import ExportError, ExportWarning
from pytest_dspy_ft.cli import main
from tests.lms.chat import serving
from tests.parity import Labels, ParityEngine, toy_lm
from tests.shipping.exports import answers_elsewhere, export, gated_answers, receipt_in


def numbers(*values: int) -> list[dict[str, str]]:
    return [{"text": str(value)} for value in values]


@pytest.mark.parametrize(
    ("stage", "on", "inputs"),
    [
        ("baseline", "dev", numbers(*range(80, 90))),
        ("prompt_optimized", "dev", numbers(*range(80, 90))),
        ("finetuned", "test", numbers(*range(90, 100))),
    ],
)
def test_another_process_gets_the_gated_answers(
    gated: pytest.Pytester, stage: str, on: str, inputs: list[dict[str, str]]
) -> None:
    assert export(gated.path, stage) == 0
    found = answers_elsewhere(
        gated.path / "out", inputs, imports="import parity", given=", lm=parity.toy_lm()", path=gated.path
    )
    assert found == gated_answers(gated.path / ".dspy_ft", stage, on)
    assert len({answer["label"] for answer in found}) == (1 if stage == "baseline" else 2)


def files_of(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def test_a_changed_byte_of_any_file_is_refused(gated: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(gated.path, "finetuned") == 0
    out = gated.path / "out"
    names = files_of(out)
    assert names == ["README.md", "program.json", "receipt.json", "state.json"]
    for name in names:
        whole = (out / name).read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            (out / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(ExportError, match=f"{name} is not as it was written"):
                pytest_dspy_ft.load(out, lm=toy_lm())
        assert main(["verify", str(out)]) == 1
        assert name in capsys.readouterr().err
        (out / name).write_bytes(whole + b"\n")
        with pytest.raises(ExportError, match=f"{name} is not as it was written"):
            pytest_dspy_ft.load(out, lm=toy_lm())
        (out / name).unlink()
        with pytest.raises(ExportError, match=f"{name} is missing"):
            pytest_dspy_ft.load(out, lm=toy_lm())
        (out / name).write_bytes(whole)
    (out / "adapters").mkdir()
    (out / "adapters" / "more.txt").write_text("more", "utf-8")
    with pytest.raises(ExportError, match=r"more\.txt is no part of what was exported"):
        pytest_dspy_ft.load(out, lm=toy_lm())
    (out / "adapters" / "more.txt").unlink()
    assert main(["verify", str(out)]) == 0
    assert "all 4 files as they were written" in capsys.readouterr().out
    pytest_dspy_ft.load(out, lm=toy_lm())


@pytest.fixture
def program(gated: pytest.Pytester) -> Any:
    """The exported fine-tuned stage, loaded here."""
    assert export(gated.path, "finetuned") == 0
    return pytest_dspy_ft.load(gated.path / "out", lm=toy_lm())


def test_it_brings_its_lm_and_adapter_along_whatever_is_configured(program: Any) -> None:
    with dspy.context(lm=None, adapter=dspy.JSONAdapter()):
        assert program(text="4").label == "even"
    assert program.get_lm().model == "toy/tuned-80"


def test_it_is_called_from_many_threads(program: Any) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> str:
        if number < 8:
            barrier.wait(30)
        return str(program(text=str(number)).label)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(40)))
    assert found == ["odd" if number % 2 else "even" for number in range(40)]


def test_it_is_awaited(gated: pytest.Pytester) -> None:
    assert export(gated.path, "finetuned") == 0

    class Awaited:
        async def complete(self, request: Any) -> Any:
            return ParityEngine().complete(request)

    lm = dspy.LM("toy/parity", engine=ParityEngine(), async_engine=Awaited(), cache=False)
    program = pytest_dspy_ft.load(gated.path / "out", lm=lm)

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(program.acall(text=str(number)) for number in range(10)))

    labels = [answer.label for answer in asyncio.run(ask_all())]
    assert labels == ["odd" if number % 2 else "even" for number in range(10)]


def test_it_is_a_module_like_any_other(program: Any, tmp_path: Path) -> None:
    outer = dspy.Module()
    outer.inner = program
    assert outer.inner(text="3").label == "odd"
    assert program.deepcopy()(text="4").label == "even"
    program.lm = None  # the toy engine cannot say how it is made again, and DSPy saves LMs with their engines
    program.save(tmp_path / "state.json")
    plain = dspy.Predict(Labels)
    plain.load(tmp_path / "state.json")
    assert plain.signature.instructions == Labels.instructions


def test_plain_dspy_reads_the_state(gated: pytest.Pytester) -> None:
    assert export(gated.path, "prompt_optimized") == 0
    plain = dspy.Predict(Labels)
    plain.load(gated.path / "out" / "state.json")
    assert len(plain.demos) == 3


def test_the_given_program_is_put_on_the_gated_state_and_stays_as_it_is(gated: pytest.Pytester) -> None:
    assert export(gated.path, "prompt_optimized") == 0
    written = dspy.Predict(Labels)
    loaded = pytest_dspy_ft.load(gated.path / "out", written, lm=toy_lm())
    assert len(loaded.demos) == 3
    assert loaded(text="4").label == "even"
    assert written.demos == []
    for wrong, said in (
        (dspy.Predict, "an object, not its class"),
        (dspy.ChainOfThought(Labels), "it is a dspy.predict.chain_of_thought.ChainOfThought"),
        (dspy.Predict(Labels.with_instructions("Guess.")), "the signature of predictor 'self' would be another"),
    ):
        with pytest.raises(ExportError, match=said):
            pytest_dspy_ft.load(gated.path / "out", wrong, lm=toy_lm())


def test_another_dspy_is_said(gated: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export(gated.path, "finetuned") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pytest_dspy_ft.load(gated.path / "out", lm=toy_lm())
    monkeypatch.setattr(dspy, "__version__", "3.9.0")
    with pytest.warns(ExportWarning, match=r"was gated with dspy 3\.4\.1, and this is 3\.9\.0"):
        pytest_dspy_ft.load(gated.path / "out", lm=toy_lm())


def test_an_engine_of_the_user_s_has_to_be_given(gated: pytest.Pytester) -> None:
    assert export(gated.path, "finetuned") == 0
    assert [need.partition(":")[0] for need in receipt_in(gated.path / "out").needs] == ["lm"]
    with pytest.raises(ExportError, match=r"'toy/parity' cannot be made again here.*load\(DIR, lm=\.\.\.\)"):
        pytest_dspy_ft.load(gated.path / "out")


HOSTED = """
import dspy, pytest
from parity import Labels, make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    import os
    lm = dspy.LM("openai/base", api_base=os.environ["BASE"], api_key=os.environ["SORTER_KEY"], temperature=0.3,
                 max_tokens=77, stop=["###"], cache=False)
    return make_experiment(lm=lm, program=dspy.ChainOfThought(Labels), stages=make_experiment().stages_list[:1])
"""

HOSTED_GATES = """
import pytest

@pytest.mark.dspy_gate("prompt_optimized >= 90%")
def test_it(): ...
"""


def test_a_hosted_stage_keeps_address_and_settings_and_no_key(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "sk-right"
    monkeypatch.setenv("SORTER_KEY", key)
    stages = "[Stage('prompt_optimized', dspy.LabeledFewShot(k=3))]"
    source = HOSTED.replace("make_experiment().stages_list[:1]", stages)
    project.makeconftest(source.replace("import dspy, pytest", "import dspy, pytest\nfrom pytest_dspy_ft import Stage"))
    project.makepyfile(test_it=HOSTED_GATES)

    def rule(body: dict[str, Any]) -> str:
        from tests.lms.chat import last_text
        from tests.scripted import fields_of, reply

        number = int(fields_of(last_text(body))["text"])
        label = "even" if number % 2 == 0 and number != 84 else "odd"
        return reply(reasoning=f"I look at {number}.", label=label)

    with serving(rule=rule, keys=frozenset({key})) as server:
        monkeypatch.setenv("BASE", server.address)
        project.runpytest_inprocess("-p", "no:xdist", "--dspy-stage=prompt").assert_outcomes(passed=1)
        assert export(project.path, "prompt_optimized") == 0
        out = project.path / "out"
        for path in out.iterdir():
            assert key not in path.read_text("utf-8")
        model = receipt_in(out).models[0]
        assert (model.model, model.address) == ("openai/base", server.address)
        assert model.settings["temperature"] == 0.3
        asked = server.calls()[-1]
        found = answers_elsewhere(out, numbers(*range(80, 90)))
        assert found == gated_answers(project.path / ".dspy_ft", "prompt_optimized", "dev")
        assert len({answer["label"] for answer in found}) == 2
        now = server.calls()[-1]
        wanted = {name: value for name, value in asked.items() if name != "messages"}
        assert {name: value for name, value in now.items() if name != "messages"} == wanted
        assert wanted["max_tokens" if "max_tokens" in wanted else "max_completion_tokens"] == 77
        monkeypatch.delenv("SORTER_KEY")
        with pytest.raises(ExportError, match="SORTER_KEY, which held api_key of the LM 'openai/base', is not set"):
            pytest_dspy_ft.load(out)
        # A server of the merged weights, say: it answers in place of the stage's LM, with the stage's settings.
        other = dspy.LM("openai/base-merged", api_base=server.address, api_key=key, cache=False, max_tokens=50)
        program = pytest_dspy_ft.load(out, lm=other)
        assert program.get_lm().model == "openai/base-merged"
        assert program.get_lm().kwargs["temperature"] == 0.3
        assert program.get_lm().kwargs["max_tokens"] == 50
        assert program.get_lm().kwargs["stop"] == ["###"]
