"""Models of this machine on a server that really runs them: the same text in the same dtype, and which dtype it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft.errors import ExportError, ServingError
from pytest_dspy_ft.lms.adapter_probe import clean
from pytest_dspy_ft.lms.serving import Serving
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.merged_folder import write_merged
from tests.lms.chat import serving
from tests.lms.model_server import ModelServer, answered_by
from tests.local.chats import chat
from tests.local.test_adapters import make_adapter

QUESTION = "I was charged twice this month."


@pytest.fixture
def trained(tiny: Any, tmp_path: Path) -> Iterator[Any]:
    """An LM with an adapter, on this machine in float32."""
    folder = tiny("llama")
    engine = LocalEngine(folder, device="cpu", dtype="float32")
    make_adapter(folder, tmp_path / "lora", seed=1)
    engine.add_adapter("lora", tmp_path / "lora")
    yield dspy.LM(f"local:{folder}+lora", engine=engine, cache=False, max_tokens=24, num_retries=0)
    engine.shutdown()


def answers(lm: Any) -> str:
    return clean(lm.engine.complete(chat(QUESTION, model=lm.model, max_tokens=24)).text)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_a_server_of_the_same_dtype_answers_alike(trained: Any, dialect: str) -> None:
    base = trained.model.partition("+")[0]
    there = LocalEngine.load_state(trained.engine.dump_state())
    with serving(ModelServer, dialect=dialect, rule=answered_by(there, base), keys=frozenset()) as state:
        with Serving(state.address) as group:
            served = group.served(trained)
            assert answers(served) == answers(trained)
            assert group.remarks == ()
            group.confirm(served)
            plain = group.served(trained.copy(model=base))
            assert answers(plain) == answers(trained.copy(model=base)) != answers(served)
        assert state.loaded == [{}]


def test_another_dtype_is_named(trained: Any) -> None:
    base = trained.model.partition("+")[0]
    there = LocalEngine(trained.engine.source, device="cpu", dtype="float32")
    ours = trained.copy(engine=trained.engine.in_dtype("bfloat16"))
    settings: dict[str, Any] = {"rule": answered_by(there, base), "keys": frozenset()}
    with serving(ModelServer, **settings) as state, Serving(state.address) as group:
        group.served(ours)
        (said,) = group.remarks
        assert "otherwise than this machine does in bfloat16" in said
        assert "as this machine would in float32" in said
    for engine in (there, ours.engine):
        engine.shutdown()


def test_a_base_model_in_an_adapters_place_is_found_out(trained: Any) -> None:
    base = trained.model.partition("+")[0]
    there = LocalEngine(trained.engine.source, device="cpu", dtype="bfloat16")
    settings: dict[str, Any] = {"rule": answered_by(there, base), "keys": frozenset(), "silent": True}
    with (
        serving(ModelServer, **settings) as state,
        Serving(state.address) as group,
        pytest.raises(ServingError, match="answers with its base model"),
    ):
        group.served(trained)
    there.shutdown()


def test_a_model_is_written_as_a_folder_that_answers_alike(trained: Any, tmp_path: Path) -> None:
    source, folder, half = trained.engine.source.name, tmp_path / "written", tmp_path / "half"
    write_merged(source, None, folder, dtype="float32")
    again = LocalEngine(str(folder), device="cpu", dtype="float32")
    again.add_adapter("lora", tmp_path / "lora")
    assert answers(trained.copy(model=f"local:{folder}+lora", engine=again)) == answers(trained)
    again.shutdown()
    with pytest.raises(ExportError, match="holds something already"):
        write_merged(source, None, folder, dtype="float32")
    write_merged(source, None, half, dtype="bfloat16")
    assert (half / "model.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
