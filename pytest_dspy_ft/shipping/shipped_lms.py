"""The LMs of a stage as they are made again elsewhere: model, settings, address, adapter; never a key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import dspy

from pytest_dspy_ft.constants import CLOSING_MARKER, MODEL_PREFIX
from pytest_dspy_ft.errors import ExportError, LMError
from pytest_dspy_ft.evaluation.anatomy import lm_node
from pytest_dspy_ft.evaluation.lm_state import secret_settings, settings_of
from pytest_dspy_ft.evaluation.values import Reader, UnkeptError, Writer
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.local.async_engine import AsyncLocalEngine
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.weights import check_available
from pytest_dspy_ft.records.receipt import ADAPTERS
from pytest_dspy_ft.redaction import is_no_key, without_secrets

_GREEDY: Final = {"temperature": 0.0, "max_tokens": 256, "stop": [CLOSING_MARKER]}
"""What the engine of this machine does where its LM does not say: a server is told."""


class LMTable:
    """The LMs of a program, by number; number 0 is the one that the stage was put on.

    Args:
        stage_lm: The LM that is bound around calls of the program.
        adapters: By the name of an adapter, its folder below the store.

    Attributes:
        live: The LMs.
    """

    def __init__(self, stage_lm: Any, adapters: Mapping[str, str]) -> None:
        self.live: list[Any] = [stage_lm]
        self._adapters = adapters

    def index(self, lm: Any) -> int:
        """The number of an LM."""
        for number, known in enumerate(self.live):
            if known is lm:
                return number
        self.live.append(lm)
        return len(self.live) - 1

    def entries(self) -> list[dict[str, Any]]:
        """The LMs as JSON. One that could not be made again says why (``needed``)."""
        return [self._entry(lm) for lm in self.live]

    def _entry(self, lm: Any) -> dict[str, Any]:
        entry: dict[str, Any] = {"model": lm.model}
        adapter = lm.model.partition("+")[2] if is_local(lm) else ""
        if adapter:
            entry["adapter"] = adapter
            if adapter not in self._adapters:
                return {**entry, "needed": f"the adapter {adapter!r} lies outside the store"}
        first = self.live[0]
        if lm is not first and _differs_in_model_only(lm, first):
            return {**entry, "of": 0}
        try:
            return {**entry, **_written(lm)}
        except UnkeptError as error:
            return {**entry, "needed": error.why}


def _differs_in_model_only(lm: Any, other: Any) -> bool:
    if type(lm) is not type(other) or secret_settings(lm) != secret_settings(other):
        return False
    return bool(lm_node(other.copy(model=lm.model)) == lm_node(lm))


def _written(lm: Any) -> dict[str, Any]:
    settings = settings_of(lm)
    if without_secrets(settings) != settings:
        raise UnkeptError((), "its settings or its address hold a key")
    written = {"settings": Writer().write(settings), "keys": _where_keys_are(lm)}
    engine = getattr(lm, "engine", None)
    if is_local(lm) and isinstance(engine, LocalEngine):
        return {**written, "engine": engine.dump_state(), "weights": engine.identity()["fingerprint"]}
    if type(lm) is dspy.LM and isinstance(engine, str):
        return {**written, "spec": engine}
    raise UnkeptError((), "it has a class or an engine of its own")


def _where_keys_are(lm: Any) -> dict[str, dict[str, str]]:
    """Where each key is found again: in a variable of the environment, or (empty) nowhere that is known."""
    found = {}
    for name, key in secret_settings(lm).items():
        if isinstance(key, str) and is_no_key(key):
            found[name] = {"placeholder": key}
            continue
        variables = [variable for variable in sorted(os.environ) if os.environ[variable] == key]
        found[name] = {"environment": variables[0]} if variables else {}
    return found


def make_lms(entries: Sequence[Mapping[str, Any]], folder: Path, given: Any = None) -> list[Any]:
    """The LMs of an exported program.

    Args:
        entries: From :meth:`LMTable.entries`.
        folder: The exported program's, with its adapters.
        given: An LM in place of the stage's; see :func:`pytest_dspy_ft.load`.

    Raises:
        ExportError: If one cannot be made again here.
    """
    first = entries[0]
    if given is not None and not _is_declared(given, first):
        instead = _with_settings(given, first)
        return [instead if entry.get("of") == 0 or entry is first else _made(entry, folder) for entry in entries]
    if given is not None:
        _check_weights(given, first)
    base = _with_adapter(given, first, folder) if given is not None else _made(first, folder)
    made = [base]
    for entry in entries[1:]:
        if entry.get("of") == 0:
            made.append(_with_adapter(base, entry, folder) if "adapter" in entry else base.copy(model=entry["model"]))
        else:
            made.append(_made(entry, folder))
    return made


def _is_declared(given: Any, entry: Mapping[str, Any]) -> bool:
    """True for an LM that stands for the one that the stage was declared with: its other models are named after it."""
    if "engine" in entry and isinstance(getattr(given, "engine", None), LocalEngine):
        return True
    return given.model in (entry["model"], entry["model"].partition("+")[0])


def _made(entry: Mapping[str, Any], folder: Path) -> Any:
    if "needed" in entry:
        raise ExportError(
            f"the LM {entry['model']!r} cannot be made again here: {entry['needed']}; give the one that the stage was "
            "declared with: load(DIR, lm=...)"
        )
    settings = Reader(lambda _: None).read(entry["settings"])
    if "engine" in entry:
        return _local(entry, settings, folder)
    for name, where in entry["keys"].items():
        if "placeholder" in where:
            settings[name] = where["placeholder"]
        elif "environment" in where:
            if where["environment"] not in os.environ:
                raise ExportError(
                    f"the environment variable {where['environment']}, which held {name} of the LM {entry['model']!r}, "
                    "is not set"
                )
            settings[name] = os.environ[where["environment"]]
    if "max_completion_tokens" in settings:
        settings["max_tokens"] = settings.pop("max_completion_tokens")  # DSPy's name for it is still the old one
    return dspy.LM(entry["model"], engine=entry["spec"], **settings)


def _local(entry: Mapping[str, Any], settings: dict[str, Any], folder: Path) -> Any:
    try:
        engine = LocalEngine.load_state(dict(entry["engine"]))
    except LMError as error:
        raise ExportError(
            f"the base model of {entry['model']!r} is not here: {error}; where it lies elsewhere, say where: "
            "load(DIR, lm=resolve_lm('local:FOLDER'))"
        ) from None
    check_available(engine.source)
    lm = dspy.LM(entry["model"], engine=engine, async_engine=AsyncLocalEngine(engine), **settings)
    _check_weights(lm, entry)
    return _with_adapter(lm, entry, folder)


def _check_weights(lm: Any, entry: Mapping[str, Any]) -> None:
    """Refuse a base model of other weights than the stage was gated with."""
    engine = getattr(lm, "engine", None)
    if "weights" in entry and isinstance(engine, LocalEngine) and engine.source.fingerprint() != entry["weights"]:
        raise ExportError(
            f"the weights of {lm.model!r} here are {engine.source.fingerprint()}, and the stage was gated with "
            f"{entry['weights']}: its answers would be others"
        )


def _with_adapter(lm: Any, entry: Mapping[str, Any], folder: Path) -> Any:
    """The LM, once its engine serves the adapter that an entry names."""
    if name := entry.get("adapter"):
        engine = getattr(lm, "engine", None)
        if not isinstance(engine, LocalEngine):
            raise ExportError(f"{entry['model']!r} is a LoRA, and the LM {lm.model!r} that was given loads none")
        engine.add_adapter(name, folder / ADAPTERS / name)
        if lm.model.startswith(MODEL_PREFIX):
            return lm.copy(model=f"{lm.model.partition('+')[0]}+{name}")
    return lm


def _with_settings(given: Any, entry: Mapping[str, Any]) -> Any:
    """An LM that answers in place of the stage's, with the stage's settings where it has none of its own."""
    if "settings" not in entry:
        return given
    settings = Reader(lambda _: None).read(entry["settings"])
    wanted = {**(_GREEDY if "engine" in entry else {}), **{k: v for k, v in settings.items() if k in _OF_REPLIES}}
    if "engine" in entry and "stop" in settings:
        stop = settings["stop"]
        wanted["stop"] = [*([stop] if isinstance(stop, str) else stop), CLOSING_MARKER]
    missing = {name: value for name, value in wanted.items() if given.kwargs.get(name) is None}
    return given.copy(**missing) if missing else given


_OF_REPLIES: Final = frozenset(
    {"temperature", "max_tokens", "stop", "top_p", "top_k", "seed", "n", "presence_penalty", "frequency_penalty"}
)
"""Settings that say how a reply is made, whoever makes it."""
