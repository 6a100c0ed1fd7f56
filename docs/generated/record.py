"""The record's JSON Schema, as tables to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).resolve().parents[1] / "report.schema.json"


def markdown() -> str:
    """The record itself, then every kind of object in it: fields, types, what they mean."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = [_object(schema.get("title", "RunRecord"), schema)]
    parts += [_object(name, part) for name, part in sorted(schema["$defs"].items()) if "properties" in part]
    return "\n\n".join(parts)


def _object(name: str, schema: dict[str, Any]) -> str:
    lines = [f"## {name} {{ #{name.lower()} }}", " ".join(schema.get("description", "").split()).replace("``", "`")]
    required = set(schema.get("required", ()))
    rows = ["| field | type | |", "|---|---|---|"]
    for field, value in schema["properties"].items():
        text = " ".join(value.get("description", "").split()).replace("``", "`").replace("|", r"\|")
        default = "" if field in required else f" default: `{json.dumps(value.get('default'))}`."
        rows.append(f"| `{field}` | {kind(value)} | {(text + default).strip()} |")
    return "\n\n".join([*(line for line in lines if line), "\n".join(rows)])


def kind(schema: dict[str, Any]) -> str:
    """The type of a value in words, with a link to objects that are described here."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return "(" + ", ".join(kind(one) for one in schema["prefixItems"]) + ")"
        return "list of " + kind(schema.get("items", {}))
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return "object of " + kind(values) if isinstance(values, dict) else "object"
    return str(schema.get("type", "any JSON"))
