"""For tests of one's own: an LM that answers by a script.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from pytest_dspy_ft.testing.script import ScriptedCall, ScriptedReply
from pytest_dspy_ft.testing.scripted_lm import ScriptedLM

__all__ = ["ScriptedCall", "ScriptedLM", "ScriptedReply"]
