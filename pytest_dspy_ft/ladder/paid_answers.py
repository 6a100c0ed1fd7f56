"""LM answers that a stage's build paid for: found again by the next attempt, also after its optimizer was mended."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.files import write_json_atomically
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.ladder.recipe import Recipe
from pytest_dspy_ft.lms.cache import KeptResponses
from pytest_dspy_ft.redaction import without_password

_ASKED = ("dspy", "lm", "own_lms", "adapter")
"""The parts of a key that say who is asked, and how."""


class PaidAnswers:
    """The kept answers of one stage.

    Args:
        folder: Where answers are kept.
        experiment: Name of the experiment.
        recipe: The stage's recipe.
    """

    def __init__(self, folder: Path, experiment: str, recipe: Recipe) -> None:
        address = without_password(str(recipe.lm.kwargs.get("api_base")))
        digests = recipe.part_digests
        self._folder = folder
        own = digest_json({"stage": recipe.key, "address": address})
        trains = recipe.collecting is not None  # what was answered before a training holds for others, too
        self._scope = digest_json({"traces": recipe.traces_key, "address": address}) if trains else own
        self._before = [own] if trains else []
        self._asked = digest_json({"address": address, **{name: digests[name] for name in _ASKED}})
        name = digest_json({"experiment": experiment, "stage": recipe.stage.name}, length=16)
        self._unkept_file = folder / f"unkept-{name}.json"

    def responses(self) -> KeptResponses:
        """Answers to this very stage, and to earlier ones of its name that were paid for and could not be kept."""
        earlier = [scope for scope, asked in self._unkept().items() if asked == self._asked and scope != self._scope]
        return KeptResponses(self._folder, self._scope, [*self._before, *earlier])

    @contextlib.contextmanager
    def counting_if_unkept(self) -> Iterator[None]:
        """Have the answers count for the stage's next attempt if the block raises a BuildError."""
        try:
            yield
        except BuildError:
            write_json_atomically(self._unkept_file, {**self._unkept(), self._scope: self._asked})
            raise
        with contextlib.suppress(OSError):
            self._unkept_file.unlink(missing_ok=True)

    def _unkept(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, str] = json.loads(self._unkept_file.read_text(encoding="utf-8"))
            return found
        return {}
