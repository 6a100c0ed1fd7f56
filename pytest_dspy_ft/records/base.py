"""What all records share: their base class, and the words for splits and kinds of work."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Split = Literal["train", "dev", "test"]

Kind = Literal["baseline", "prompt", "finetune", "better_together"]

KINDS: tuple[Kind, ...] = ("baseline", "prompt", "finetune", "better_together")

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error rather than a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def first_problem(error: ValidationError) -> str:
    """Where a record is not what it should be, and why: the first place that was found."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
