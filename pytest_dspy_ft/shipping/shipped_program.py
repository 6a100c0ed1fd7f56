"""A built program as JSON that needs no session: whole, and as what changes the program as it was written.

The whole holds a program of DSPy's modules, and of classes that can be imported, whose attributes are data. The changes
need the written program, and so come back for any program: whoever loads it gives it.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy

from pytest_dspy_ft.evaluation.anatomy import Anatomy, differences, shown, written_class
from pytest_dspy_ft.evaluation.known import full_name
from pytest_dspy_ft.evaluation.program_state import Change, StateReader, StateWriter
from pytest_dspy_ft.evaluation.programs import copy_program, program_state
from pytest_dspy_ft.evaluation.values import Path, UnkeptError, Writer, place
from pytest_dspy_ft.fingerprint import fingerprint, is_user_code
from pytest_dspy_ft.shipping.names import ImportableNames, is_of_tests
from pytest_dspy_ft.shipping.shipped_lms import LMTable

FORMAT: Final = 1
"""Of what :meth:`StageToShip.written` gives."""


class ShipmentWriter(StateWriter):
    """A :class:`StateWriter` whose LMs stand in a table of their own."""

    def __init__(self, start: Any, built: Any, names: ImportableNames, lms: LMTable) -> None:
        self._lms = lms  # first: the base class compares, and writes, as it is made
        super().__init__(start, built, names)  # type: ignore[arg-type]

    def other(self, value: Any, path: Path) -> Any:
        """LMs, adapters, and what else is no data."""
        if isinstance(value, dspy.BaseLM):
            return {"$lm": self._lms.index(value)}
        if isinstance(value, dspy.Adapter):
            return Writer.object(self, value, type(value), path)
        return super().other(value, path)

    def object(self, value: Any, kind: type, path: Path) -> Any:
        """An object of the user's."""
        return self.other(value, path) if isinstance(value, dspy.BaseLM) else super().object(value, kind, path)


class ShipmentReader(StateReader):
    """Reads what :class:`ShipmentWriter` wrote.

    Args:
        start: The program that changes are made to; it is changed.
        names: What classes and functions may be named.
        lms: The LMs, by number.
    """

    def __init__(self, start: Any, names: ImportableNames, lms: list[Any]) -> None:
        super().__init__(start, names)  # type: ignore[arg-type]
        self._lms = lms

    def tagged(self, tag: str, content: Any) -> Any:
        """The value of a tag and its content."""
        return self._lms[content] if tag == "lm" else super().tagged(tag, content)


@dataclass(frozen=True)
class StageToShip:
    """A built stage, to be written down for other processes.

    Args:
        written: The program as the experiment declares it.
        built: The program as it was built.
        lm: The LM that the stage was put on.
        adapter: The DSPy adapter that it runs with.
        adapters: By the name of a LoRA, its folder below the store.
    """

    written: Any
    built: Any
    lm: Any
    adapter: Any
    adapters: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """All that it takes to have the program again. What cannot be written is None, and says why beside it."""
        table = LMTable(self.lm, self.adapters)
        alone = ImportableNames()
        whole, not_whole = _form(dspy.Module(), self.built, alone, table)
        changes, not_changes = _form(copy_program(self.written), self.built, ImportableNames([self.written]), table)
        adapter, not_adapter = _adapter(self.adapter, alone, table)
        return {
            "format": FORMAT,
            "program": full_name(written_class(self.written)),
            "code": code_of(self.built),
            "whole": whole,
            "not_whole": not_whole,
            "modules": sorted(alone.modules),
            "changes": changes,
            "not_changes": not_changes,
            "adapter": adapter,
            "adapter_class": full_name(type(self.adapter)),
            "not_adapter": not_adapter,
            "lms": table.entries(),
            "prompts": program_state(self.built),
            "state": _state(self.built),
        }


def _form(start: Any, built: Any, names: ImportableNames, lms: LMTable) -> tuple[list[Change] | None, str]:
    """What makes a program of another one, or why that cannot be written down: nothing may come back changed."""
    writer = ShipmentWriter(start, built, names, lms)
    if writer.lost:
        return None, _lost(writer.lost[0])
    try:
        back = ShipmentReader(start, names, lms.live).apply(json.loads(json.dumps(writer.changes)))
        found = next(differences(Anatomy(built).root, Anatomy(back).root), None)
    except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
        return None, f"{type(error).__name__}: {error}"
    if found is not None:
        path, was, comes_back = found
        return None, f"{place(path)} is {shown(was)} and would come back as {shown(comes_back)}"
    return writer.changes, ""


def _adapter(adapter: Any, names: ImportableNames, lms: LMTable) -> tuple[Any, str]:
    try:
        return ShipmentWriter(None, None, names, lms).write(adapter, (("attribute", "adapter"),)), ""
    except UnkeptError as error:
        return None, _lost(error)


def _lost(error: UnkeptError) -> str:
    why = error.why
    if "is not among those that program, data and optimizer have" in why:
        name = why.removeprefix("its class ").partition(" is not among")[0]
        where = "is of a module that only pytest imports" if is_of_tests(name) else "cannot be imported by that name"
        why = f"its class {name} {where}"
    return f"{place(error.path)}: {why}"


def _state(program: Any) -> Any:
    """The program's state as DSPy saves it, without LMs: for ``program.load`` of plain DSPy; None where it cannot."""
    try:
        bare = copy_program(program)
        bare.set_lm(None)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "state.json"
            bare.save(file)
            return json.loads(file.read_bytes())
    except Exception:  # a demo or an attribute that DSPy cannot write down; ours are kept otherwise
        return None


def code_of(program: Any) -> dict[str, str]:
    """Digests of the user's code that a program's modules consist of, by the name of the class."""
    classes = {written_class(module) for _, module in program.named_sub_modules()}
    return {full_name(cls): fingerprint(cls, length=16) for cls in classes if is_user_code(cls)}


def program_from(content: Mapping[str, Any], lms: list[Any], given: Any = None) -> Any:
    """The program that :meth:`StageToShip.as_json` wrote.

    Args:
        content: What it wrote.
        lms: The LMs, by number.
        given: The program as it was written, which is not changed; None to have it without.

    Raises:
        ValueError: If it does not fit the given program, names something that is not here, or has other prompts.
    """
    if given is None:
        made = ShipmentReader(dspy.Module(), ImportableNames(), lms).apply(content["whole"])
    else:
        made = ShipmentReader(copy_program(given), ImportableNames([given]), lms).apply(content["changes"])
    gated, here = content["prompts"], json.loads(json.dumps(program_state(made)))
    if gated.keys() != here.keys():
        raise ValueError(f"it has the predictors {', '.join(here)}, and the gated one {', '.join(gated)}")
    for name, prompt in gated.items():
        if changed := [part for part in prompt if here[name].get(part) != prompt[part]]:
            raise ValueError(f"the {' and '.join(changed)} of predictor {name!r} would be another than the gated")
    return made


def adapter_from(content: Mapping[str, Any], lms: list[Any]) -> Any:
    """The DSPy adapter that :meth:`StageToShip.as_json` wrote; ValueError for one whose class is not here."""
    return ShipmentReader(dspy.Module(), ImportableNames(), lms).read(content["adapter"])
