"""An adapter that cannot be looked at from outside."""

from __future__ import annotations

import dspy


class Slotted:
    __slots__ = ("value",)


class Odd(Slotted):
    @property
    def value(self) -> str:  # type: ignore[override]
        raise RuntimeError("not today")


class OddAdapter(dspy.ChatAdapter):
    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)
        self.odd = Odd()
