"""Rows in tokens, held out or in batches."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pytest_dspy_ft.errors import TrainingError  # noqa: E402
from pytest_dspy_ft.local.training.batch import EncodedRow, shared_batch  # noqa: E402
from pytest_dspy_ft.local.training.config import LoraTrainingConfig  # noqa: E402
from pytest_dspy_ft.local.training.rows import encode_rows, plan_epoch, split_validation  # noqa: E402
from tests.local.training.tiny import chat, random_rows, tickets, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.model


def test_labels_are_the_reply_and_its_end_of_turn() -> None:
    tokenizer = tiny_tokenizer()
    rows = tickets(3)
    for row, encoded in zip(rows, encode_rows(rows, tokenizer), strict=True):
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert list(encoded.ids[: encoded.prompt_length]) == prompt
        reply = row["messages"][-1]["content"]
        assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == reply + "<|im_end|>"
    batch = shared_batch(encode_rows(rows, tokenizer))
    expected = "".join(row["messages"][-1]["content"] + "<|im_end|>" for row in rows)
    assert tokenizer.decode(batch.targets) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 1: no 'messages'"),
        ({"messages": []}, "row 1: 'messages' must be a list"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}, "row 1: message 0 lacks"),
        ({"messages": [{"role": "tool", "content": ""}, {"role": "assistant", "content": "x"}]}, "the role 'tool'"),
        ({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}]}, "not text"),
        ({"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}, "is the user's"),
        (chat("question", "  "), "row 1: the reply is empty"),
    ],
)
def test_a_bad_row_is_named(row: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        encode_rows([*tickets(1), row], tiny_tokenizer())


def test_few_rows_are_all_trained_on() -> None:
    rows = random_rows(19, 3)
    kept, held = split_validation(rows, LoraTrainingConfig(), 0)
    assert (len(kept), held) == (19, [])


def test_batches_keep_predictors_together_and_hold_every_row_once() -> None:
    rows = [EncodedRow((1, 2), 1, "a" if i % 3 else "b", i) for i in range(50)]
    rows += [EncodedRow((1, 2), 1, "c", 50), EncodedRow((1, 2), 1, "d", 51)]
    batches = plan_epoch(rows, 8, seed=3, epoch=0)
    assert sorted(row.number for batch in batches for row in batch) == list(range(52))
    assert sorted({row.group for row in batch} == {"c", "d"} for batch in batches).count(True) == 1
    assert all(len({row.group for row in batch}) == 1 or len(batch) == 2 for batch in batches)
    assert min(map(len, batches[:])) >= 2
    assert batches == plan_epoch(rows, 8, seed=3, epoch=0)
    assert batches != plan_epoch(rows, 8, seed=3, epoch=1)
