"""The receipt of an exported program: what it is, which session vouches for it, and what every file's bytes are."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from pytest_dspy_ft.errors import ExportError
from pytest_dspy_ft.records.base import AS_WRITTEN, Kind, Record, Split, first_problem
from pytest_dspy_ft.records.gate import VerdictName
from pytest_dspy_ft.records.run import MetricSummary
from pytest_dspy_ft.redaction import redact

RECEIPT: Final = "receipt.json"
CARD: Final = "README.md"
PROGRAM_FILE: Final = "program.json"
"""The program as the package reads it."""
STATE_FILE: Final = "state.json"
"""The program's state as plain DSPy reads it."""
ADAPTERS: Final = "adapters"
"""The folder of an exported program that holds its LoRA folders, each under its adapter's name."""

RECEIPT_FORMAT: Final = 1
"""Raised when an earlier version could not read a receipt, or load what it is of."""


class ShippedData(Record):
    """One split that the stage was trained or measured on."""

    n: int
    digest: str = ""
    """Of the ids of its examples, whatever their order; empty where the session did not measure the stage on it."""


class ShippedScore(Record):
    """The stage measured on one split."""

    on: Split
    n: int
    score: float
    interval: tuple[float, float]
    """At 95 % confidence."""
    errors: int = 0
    unparsed: int = 0
    metrics: dict[str, MetricSummary] = {}


class ShippedGate(Record):
    """A gate that names the stage, and what became of it."""

    expression: str
    on: Split
    by: str | None = None
    verdict: VerdictName | None
    """None: it was not judged."""
    required: bool
    """Whether it is a gate of this stage, which had to pass; else it asks something of another one."""
    observed: str = ""
    margin: float | None = None
    interval: tuple[float, float] | None = None
    """Of the margin, where a confidence was asked for."""
    confidence: float | None = None
    test: str = ""
    note: str = ""
    """Why it was not judged, or what to know before believing it."""


class ShippedTraining(Record):
    """A training that the stage rests on."""

    stage: str
    model: str
    predictors: tuple[str, ...] = ()
    rows: int = 0
    steps: int | None = None
    train_loss: float | None = None
    job: str | None = None
    settings: dict[str, JsonValue] = {}
    """Of a training on this machine; elsewhere the service keeps them."""


class ShippedModel(Record):
    """A language model that the program asks."""

    model: str
    weights: str = ""
    """Digest of its base model's weights, for one of this machine; elsewhere a name is all there is."""
    address: str = ""
    adapter: str = ""
    settings: dict[str, JsonValue] = {}
    """How its replies are made: temperature, limits, stops."""


class Receipt(Record):
    """What an exported program is, and what vouches for it."""

    receipt_format: int = RECEIPT_FORMAT
    experiment: str
    stage: str
    kind: Kind
    key: str
    """What the build is filed under in the store: a hash of all that determines it."""
    build: str
    """Content hash of the build."""
    exported: str
    """ISO 8601, UTC."""
    built: str = ""
    passed: bool
    """Whether all gates of the stage passed in the session below."""
    unproven: tuple[str, ...] = ()
    """Why they do not vouch for it; it was exported all the same (``--anyway``)."""
    session: str = ""
    """When the session that judged the gates ended; empty where there is none."""
    record: str = ""
    """Where that session's record was read: the file's name, or the store's last session."""
    record_digest: str = ""
    """SHA-256 of that file."""
    commit: str = ""
    dirty: bool | None = None
    gates: tuple[ShippedGate, ...] = ()
    scores: tuple[ShippedScore, ...] = ()
    data: dict[Split, ShippedData] = {}
    models: tuple[ShippedModel, ...] = ()
    trainings: tuple[ShippedTraining, ...] = ()
    program: str
    """The class of the program as it was written."""
    code: dict[str, str] = {}
    """Digests of the user's classes that the program is made of."""
    imports: tuple[str, ...] = ()
    """Modules that loading it imports."""
    needs: tuple[str, ...] = ()
    """What has to be given to load it, and why."""
    versions: dict[str, str] = {}
    """Of the session that judged."""
    files: dict[str, str] = {}
    """SHA-256 of every other file, by its path."""
    checksum: str = ""
    """SHA-256 of all the rest."""


def receipt_text(receipt: Receipt) -> str:
    """The receipt as the text of its file, which its checksum covers."""
    content = json.loads(redact(receipt.model_dump_json(exclude={"checksum"})))
    return _text({**content, "checksum": _digest(content)})


def parsed_receipt(text: str, name: str) -> Receipt:
    """The receipt in a file's text.

    Args:
        text: The text.
        name: The file, for messages.

    Raises:
        ExportError: It is not as it was written, to the last character, or another version wrote it.
    """
    try:
        content: Any = json.loads(text)
        version = content["receipt_format"]
        checksum = content["checksum"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise ExportError(f"{name} is not as it was written: it is no receipt of an exported program") from None
    if type(version) is int and version > RECEIPT_FORMAT:
        raise ExportError(f"{name} was written by a newer pytest-dspy-ft (format {version}): load it with that one")
    plain = {key: value for key, value in content.items() if key != "checksum"}
    if checksum != _digest(plain) or text != _text(content):
        raise ExportError(f"{name} is not as it was written: its checksum does not match")
    try:
        return Receipt.model_validate(content, context=AS_WRITTEN)
    except ValidationError as error:
        raise ExportError(f"{name} was written by another version: {first_problem(error)}") from None


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
