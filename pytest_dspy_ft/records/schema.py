"""The JSON Schema of a session's record as a file."""

from __future__ import annotations

from typing import Any

from pytest_dspy_ft.records.run import RunRecord

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The JSON Schema of what ``--dspy-report=FILE.json`` writes."""
    content = RunRecord.model_json_schema(mode="serialization")
    return {"$schema": SCHEMA_ID, "title": "pytest-dspy-ft run record", **_without_titles(content)}


def _without_titles(value: Any) -> Any:
    """The schema without the titles that pydantic derives from names: they say nothing new."""
    if isinstance(value, dict):
        return {k: _without_titles(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in value] if isinstance(value, list) else value
