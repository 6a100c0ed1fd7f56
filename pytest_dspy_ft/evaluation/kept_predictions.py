"""Predictions as JSON that gives the same ones again, so that another metric can judge them later.

Kept are the fields with their types, all completions, and the usage that DSPy tracked. A prediction that holds what no
JSON gives again (an open file, an object whose class nothing declares) is not kept, and its output says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import dspy
from pydantic import JsonValue

from pytest_dspy_ft.evaluation.known import Known, full_name
from pytest_dspy_ft.evaluation.values import Path, Reader, UnkeptError, Writer, place
from pytest_dspy_ft.experiment.copies import copy_fields
from pytest_dspy_ft.insides.predictions import COMPLETIONS, FIELDS, OWN, USAGE, Completions, columns_of
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.records.output import Output

Kept = tuple[dict[str, JsonValue] | None, str]
"""A prediction as tagged JSON, or None and why there is none."""


class UnrestorableError(Exception):
    """A prediction cannot be given again as it was; the message says why."""


class KeptPredictions:
    """Writes predictions down and gives them again.

    Args:
        roots: What leads to the classes that may stand in them: the program, the metric, the examples.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._known = Known(roots)
        self._known.look()  # at once: it is asked from many threads

    def write(self, prediction: Any, shown: Mapping[str, JsonValue] | None) -> Kept:
        """A prediction as tagged JSON, or why it cannot be kept.

        Args:
            prediction: The prediction as the program returned it.
            shown: The same for people. Where that is exactly what it holds, its fields are not written twice.
        """
        try:
            written = _writable(prediction, _PredictionWriter(self._known))
            if "$value" not in written and written["fields"] == shown and _plain(shown):
                del written["fields"]
            elif self._again(self._read(written, shown)) != self._again(prediction):
                return None, "it is another one when it is read again"
            text = json.dumps(written, ensure_ascii=False)
        except UnkeptError as error:
            return None, f"{place(error.path, 'prediction')}: {error.why}"
        except Exception as error:  # code of the user's own, in what stands in it
            return None, describe_exception(error, 200)
        return json.loads(text), ""

    def read(self, output: Output) -> Any:
        """The prediction that an output holds.

        Raises:
            UnrestorableError: It holds none, or names what is not there.
        """
        if output.values is None:
            raise UnrestorableError(output.unkept or "its prediction was not kept")
        try:
            return self._read(output.values, output.prediction)
        except Exception as error:  # a class that is gone, a field that it has no more: whatever its code raises
            raise UnrestorableError(describe_exception(error, 200)) from None

    def _again(self, prediction: Any) -> Any:
        return _PredictionWriter(self._known).write(prediction)

    def _read(self, written: Mapping[str, Any], shown: Mapping[str, JsonValue] | None) -> Any:
        reader = _PredictionReader(self._known.class_named)
        if "$value" in written:
            return reader.read(written["$value"])
        return _prediction({"fields": dict(shown or {}), **written}, reader)


class _PredictionReader(Reader):
    """Reads predictions inside of predictions."""

    def tagged(self, tag: str, content: Any) -> Any:
        if tag == "prediction":
            return _prediction(content, self)
        return super().tagged(tag, content)


class _PredictionWriter(Writer):
    """Names only classes that are found again."""

    def __init__(self, known: Known) -> None:
        super().__init__()
        self._known = known

    def named(self, cls: type, path: Path) -> str:
        if (name := self._known.name_of_class(cls)) is None:
            raise UnkeptError(path, f"nothing that is declared leads to its class {full_name(cls)}")
        return name

    def _example(self, value: Any, path: Path) -> Any:
        if isinstance(value, dspy.Prediction):
            return {"$prediction": _writable(value, self)}
        return super()._example(value, path)


def _prediction(written: Mapping[str, Any], reader: Reader) -> Any:
    prediction = dspy.Prediction()
    held, fields = vars(prediction), reader.read(written["fields"])
    held[FIELDS] = copy_fields(fields)
    if (completions := written.get("completions")) is not None:
        columns = {name: [value] for name, value in fields.items()} if completions is True else reader.read(completions)
        held[COMPLETIONS] = Completions(columns)
    held[USAGE] = reader.read(written.get("usage"))
    held.update(reader.read(written.get("more", {})))
    return prediction


def _writable(prediction: Any, writer: Writer) -> dict[str, Any]:
    if type(prediction) is not dspy.Prediction:
        return {"$value": writer.write(prediction)}
    held = vars(prediction)
    fields = _fields(held[FIELDS], writer)
    written: dict[str, Any] = {"fields": fields}
    completions = held.get(COMPLETIONS)
    if completions is not None:
        columns = _fields(columns_of(completions), writer)
        same = isinstance(fields, dict) and columns == {name: [value] for name, value in fields.items()}
        written["completions"] = True if same else columns
    if (usage := held.get(USAGE)) is not None:
        written["usage"] = writer.write(usage)
    if more := {name: value for name, value in held.items() if name not in OWN}:
        written["more"] = writer.write(more)
    return written


def _fields(fields: Any, writer: Writer) -> Any:
    return writer.write(dict(fields), ())


def _plain(value: Any) -> bool:
    """True for JSON that no tag could be taken for."""
    if isinstance(value, dict):
        return all(not name.startswith("$") and _plain(item) for name, item in value.items())
    return all(map(_plain, value)) if isinstance(value, list) else True
