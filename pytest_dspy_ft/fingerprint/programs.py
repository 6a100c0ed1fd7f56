"""What DSPy's objects are: signatures, programs, optimizers, retrievers and LMs."""

from __future__ import annotations

import re
import sys
from typing import Any

from pytest_dspy_ft.fingerprint.credentials import without_credentials
from pytest_dspy_ft.fingerprint.objects import ObjectWalk
from pytest_dspy_ft.fingerprint.origin import is_user_code
from pytest_dspy_ft.fingerprint.versions import unsaid_model_types
from pytest_dspy_ft.fingerprint.walk import attributes_of, name_of
from pytest_dspy_ft.insides.fields import (
    ASYNC_ENGINE,
    COMPILED,
    DERIVED,
    LM_STATE,
    NOISE,
    PREDICTOR_STATE,
    SCRIPTED_ENGINES,
)

_RANDOM_STAGE = re.compile(r"[0-9a-f]{16}$")


class ProgramWalk(ObjectWalk):
    """Describes DSPy's objects.

    Args:
        bare: Leave out the LMs of the predictors of a program that is described itself: they have their own place in a
            key. Predictors elsewhere (in a metric, a tool, a global) bring theirs.
    """

    def __init__(self, *, bare: bool = True) -> None:
        super().__init__()
        self._bare = bare

    def python(self, value: Any) -> Any:
        """Describe a DSPy object, or any other."""
        dspy = sys.modules.get("dspy")
        if dspy is None or not hasattr(dspy, "Signature"):  # being imported
            return super().python(value)
        if isinstance(value, type):
            return self._signature(value) if issubclass(value, dspy.Signature) else super().python(value)
        if isinstance(value, dspy.BaseLM):
            return {"lm": self.lm(value)}
        if isinstance(value, dspy.Module):
            return self._program(value)
        if isinstance(value, dspy.Example):
            return {"example": self.describe(value.toDict())}
        described = self._elsewhere_python(value)
        if isinstance(value, dspy.Tool):
            described["func"] = self.describe(value.func, ".func")
        return described

    def _elsewhere_python(self, value: Any) -> Any:
        before, self._bare = self._bare, False
        try:
            return super().python(value)
        finally:
            self._bare = before

    def _signature(self, signature: Any) -> Any:
        fields = [
            [
                name,
                self.annotation(field.annotation),
                self.describe(field.json_schema_extra or {}),
                None if field.is_required() else self.describe(field.get_default()),
            ]
            for name, field in signature.fields.items()
        ]
        return {"signature": signature.instructions, "fields": fields}

    def _program(self, program: Any) -> Any:
        dspy = sys.modules["dspy"]
        # A handed-out program is of a class that binds it to its LM; the one that the user wrote is what counts.
        written = getattr(type(program), "__dspy_ft_written__", type(program))
        described: dict[str, Any] = {"program": self.class_content(written)}
        state = attributes_of(program)
        if isinstance(program, dspy.Predict):
            described["signature"] = self.describe(program.signature, ".signature")
            described["demos"] = [self.describe(dict(demo)) for demo in program.demos]
            described["config"] = self.describe(program.config, ".config")
            left = {k: v for k, v in state.items() if k not in NOISE | PREDICTOR_STATE}
            if not _RANDOM_STAGE.match(str(state.get("stage", "0" * 16))):
                left["stage"] = state["stage"]
            if not self._bare and state.get("lm") is not None:
                left["lm"] = state["lm"]
        else:
            left = {k: v for k, v in state.items() if k not in NOISE or not _left_behind(k, v)}
        return {**described, "parts": self.named(left)}

    def settings_of(self, value: Any, state: dict[str, Any]) -> dict[str, Any]:
        """An object's state; of DSPy's own objects without what a run leaves, or what follows from the rest."""
        if not is_user_code(type(value)):
            state = {name: v for name, v in state.items() if name not in NOISE}
        for base in type(value).__mro__:
            if base.__module__.startswith("dspy.") and (derived := DERIVED.get(f"{base.__module__}.{base.__name__}")):
                state = {name: v for name, v in state.items() if name not in derived}
        return state

    # --- LMs ---------------------------------------------------------------------------------------------------------

    def lm(self, lm: Any) -> dict[str, Any]:
        """The identity of an LM; see :func:`~pytest_dspy_ft.fingerprint.lm_identity`."""
        cls = type(lm)
        settings = self.describe(without_credentials(getattr(lm, "kwargs", {})))
        identity: dict[str, Any] = {"class": name_of(cls), "model": lm.model, "settings": settings}
        if getattr(lm, "model_type", "chat") not in unsaid_model_types():
            identity["model_type"] = lm.model_type
        if getattr(lm, "use_developer_role", False):
            identity["use_developer_role"] = True
        if is_user_code(cls):
            identity["source"] = self.class_content(cls)
        identity |= self._own_state(lm)
        engine = getattr(lm, "engine", "auto")
        if engine is None:
            engine = attributes_of(lm).get(ASYNC_ENGINE)
        if not isinstance(engine, str) and engine is not None and not _is_scripted(engine):
            identity["engine"] = engine.identity() if hasattr(engine, "identity") else self.describe(engine, ".engine")
        return identity

    def _own_state(self, lm: Any) -> dict[str, Any]:
        """What an LM keeps beyond what DSPy's classes do: a deployment, a rule, scripted answers."""
        state = {name: v for name, v in attributes_of(lm).items() if name not in LM_STATE}
        if not is_user_code(type(lm)):
            state = {name: v for name, v in state.items() if not name.startswith("_")}
        if "answers" in state and hasattr(state["answers"], "__reduce__") and hasattr(state["answers"], "__next__"):
            state["answers"] = _iterated(state["answers"])
        described = self.named(state)
        return {"state": described} if described else {}


def _left_behind(name: str, value: Any) -> bool:
    """Whether a run of DSPy's left a value on a program: calls, compiled candidates. Other values are settings."""
    if name in ("callbacks", COMPILED):
        return True
    if name == "history":
        return isinstance(value, list) and all(isinstance(v, dict) and "messages" in v for v in value)
    if name == "candidate_programs":
        return isinstance(value, list) and bool(value) and all(isinstance(v, (dict, tuple, list)) for v in value)
    return value is None and name == "lm"


def _iterated(iterator: Any) -> Any:
    """What a list's iterator goes through, wherever it has come to."""
    made = iterator.__reduce__()
    return made[1][0] if isinstance(made, tuple) and len(made) > 1 and made[1] else []


def _is_scripted(engine: Any) -> bool:
    return type(engine).__module__.startswith(SCRIPTED_ENGINES)  # it reads the LM's answers
