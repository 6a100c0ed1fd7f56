"""``pytest_dspy_ft.load``: an exported program, verified and ready to call, without pytest and without a store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft.errors import ExportError, ExportWarning
from pytest_dspy_ft.evaluation.binding import Binding, bound_program
from pytest_dspy_ft.evaluation.known import full_name
from pytest_dspy_ft.records.receipt import PROGRAM_FILE, Receipt
from pytest_dspy_ft.shipping.shipped_lms import make_lms
from pytest_dspy_ft.shipping.shipped_program import FORMAT, adapter_from, code_of, program_from
from pytest_dspy_ft.store.export_folder import check_export


def load(folder: Path | str, program: Any = None, *, lm: Any = None, adapter: Any = None) -> Any:
    """An exported program, ready to call: its LM, adapter and settings come with it, as they were when it was gated.

    Every file is held against the receipt first. What DSPy is configured to does not matter where the program is
    called; it may be called from any thread, and awaited (``acall``).

    Args:
        folder: What ``python -m pytest_dspy_ft export`` wrote.
        program: The program as it was written, which is not changed. Needed where its class cannot be imported, or
            holds what is no data; the folder's ``README.md`` says so.
        lm: Instead of the LM that the stage was declared with: the same one made elsewhere (another folder, another
            key), whose trained models are then named after it; or an LM with another model's name, such as a server
            of the merged weights, which answers in place of them all. Settings that it lacks are the stage's.
        adapter: Instead of the DSPy adapter that was kept; needed where its class cannot be imported.

    Returns:
        A ``dspy.Module``.

    Raises:
        ExportError: If a byte of the folder is another one, or the program, an LM or its weights are not here.
    """
    folder = Path(folder)
    receipt = check_export(folder)
    content: dict[str, Any] = json.loads((folder / PROGRAM_FILE).read_text(encoding="utf-8"))
    if content["format"] > FORMAT:
        raise ExportError(f"{folder / PROGRAM_FILE} was written by a newer pytest-dspy-ft: load it with that one")
    if program is None and content["whole"] is None:
        raise ExportError(
            f"{folder} needs the program as it was written, a {content['program']}: load(DIR, program=...), since "
            f"{content['not_whole']}"
        )
    if program is not None and content["changes"] is None:
        raise ExportError(
            f"{folder} cannot be put on a given program, since {content['not_changes']}: leave out program="
        )
    if program is not None and not isinstance(program, dspy.Module):
        raise ExportError(f"program= is a {type(program).__name__}; it must be a dspy.Module: an object, not its class")
    for difference in _differences(receipt):
        warnings.warn(difference, ExportWarning, stacklevel=2)
    lms = make_lms(content["lms"], folder, lm)
    try:
        made = program_from(content, lms, program)
    except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
        raise ExportError(_does_not_come_back(folder, content, program, error)) from error
    for changed in _changed_code(content["code"], made):
        warnings.warn(changed, ExportWarning, stacklevel=2)
    return bound_program(made, Binding(lms[0], _adapter(folder, content, lms, adapter)))


def _differences(receipt: Receipt) -> Iterator[str]:
    """What is another one here than where the stage was gated, in words."""
    gated = receipt.versions.get("dspy", "")
    if gated and gated != dspy.__version__:
        yield (
            f"stage {receipt.stage!r} of {receipt.experiment!r} was gated with dspy {gated}, and this is "
            f"{dspy.__version__}: its prompts may be others"
        )


def _adapter(folder: Path, content: Mapping[str, Any], lms: list[Any], given: Any) -> Any:
    if given is not None:
        return given
    why = content["not_adapter"]
    if content["adapter"] is not None:
        try:
            return adapter_from(content, lms)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = str(error)
    raise ExportError(f"{folder} needs its adapter, a {content['adapter_class']}: load(DIR, adapter=...), since {why}")


def _does_not_come_back(folder: Path, content: Mapping[str, Any], given: Any, error: Exception) -> str:
    said = str(error).replace("is not among those that program, data and optimizer have", "cannot be imported here")
    if given is None:
        hint = "" if content["changes"] is None else ", or give the program as it was written: load(DIR, program=...)"
        modules = ", ".join(content["modules"])
        where = f"; put {modules} where Python finds it{hint}" if modules else hint
        return f"the program in {folder} does not come back: {said}{where}"
    wanted, has = content["program"], full_name(type(given))
    other = f" (it is a {has}, and a {wanted} was exported)" if wanted != has else ""
    return f"the program in {folder} is not made of the one that was given{other}: {said}"


def _changed_code(gated: Mapping[str, str], program: Any) -> Iterator[str]:
    """Classes of the program whose code is another one than the gated, as far as both are known."""
    here = code_of(program)
    changed = sorted(name for name in gated.keys() & here.keys() if gated[name] != here[name])
    if changed:
        yield f"the code of {', '.join(changed)} is not the code that was gated: its answers may be others"
