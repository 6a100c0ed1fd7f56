"""Golden files: what sessions print and write today, without what differs from machine to machine and run to run.

``DSPY_FT_GOLDEN=write`` writes them anew; without it a difference fails with a unified diff.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

WRITE = os.environ.get("DSPY_FT_GOLDEN") == "write"

# Values of these JSON keys are times, or identify a process or an installation.
_VOLATILE = re.compile(
    r"created|session|versions|environment|version|.*seconds.*|points_per_minute|finished|started|.*_at"
)
_SUBSTITUTIONS = [
    (r"\S*pytest_dspy_ft/\S+\.py:\d+: (\w+Warning.*)\n.*", r"‹package›: \1"),
    (r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?( UTC)?)?\b", "‹date›"),
    (r"\d{4}&#45;\d\d&#45;\d\dT\d\d(&#58;\d\d){2}&#43;00&#58;00", "‹date›"),
    (r">\+\d{1,3}(\s\d{3})+<", ">‹points per minute›<"),
    (r'<td class="n">\d+\.\d\d</td>', '<td class="n">‹seconds›</td>'),
    (r"(is not in the store) .*…", r"\1 …"),  # cut to the line's width, wherever that is in the path
    (r"\b[0-9a-f]{32}\b", "‹key›"),
    (r"(?<![\d.])\d+(\.\d+)?m?s\b", "‹time›"),
    (r"(?<![\d.])\d+(\.\d+)? (ms|s|seconds|min|h)\b", "‹time›"),
    (r"‹time›( ‹time›| \(\d+:\d\d:\d\d\))+", "‹time›"),
    (r'\b(time|hostname)="[^"]*"', r'\1=""'),
    (r"(pytest-dspy-ft|dspy|pytest) \d+\.\d+(\.\d+)?", r"\1 ‹version›"),
]


def normalised(text: str, *folders: Path) -> str:
    """The text without folders, dates, durations, versions and the store's keys; rules of one length."""
    for folder in sorted(folders, key=lambda f: -len(str(f))):
        text = text.replace(str(folder), "‹project›")
    for pattern, substitute in _SUBSTITUTIONS:
        text = re.sub(pattern, substitute, text)
    text = re.sub(r"^([=_-])\1{3,} (.*?) \1{3,}$", r"\1\1\1 \2 \1\1\1", text, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def without_volatile(value: Any) -> Any:
    """JSON whose times, sessions and versions are gone but in place, and whose long lists of examples are cut."""
    if isinstance(value, dict):
        kept = {k: f"‹{k}›" if _VOLATILE.fullmatch(k) and v else without_volatile(v) for k, v in value.items()}
        ids = [k for k in kept if re.fullmatch(r"[0-9a-f]{16}", k)]
        return {k: v for k, v in kept.items() if k not in ids[2:]} | ({"...": _digest(kept)} if len(ids) > 2 else {})
    if isinstance(value, list):
        items = [without_volatile(v) for v in value]
        if len(items) > 10 and isinstance(items[0], dict):
            odd = [v for v in items[1:] if v.get("outcome", "scored") != "scored"]
            return [items[0], *odd, {"...": _digest(items)}]
        return items
    return value


def json_text(text: str, *folders: Path) -> str:
    """JSON as it is compared."""
    value = without_volatile(json.loads(text))
    return normalised(json.dumps(value, indent=1, ensure_ascii=False), *folders)


def html_text(text: str, *folders: Path) -> str:
    """HTML as it is compared: a tag a line, styles and scripts by their digest."""
    text = normalised(text, *folders)

    def short(found: re.Match[str]) -> str:
        return f"{found[1]}{len(found[2])} characters, {_digest(found[2])}{found[3]}"

    text = re.sub(r"(<(?:style|script)[^>]*>)(.*?)(</(?:style|script)>)", short, text, flags=re.DOTALL)
    return text.replace("><", ">\n<")


def check(path: Path, text: str) -> None:
    """Compare a text with a golden file, or write it there.

    Raises:
        pytest.fail.Exception: It differs; the message is a unified diff.
    """
    if WRITE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    if text != golden:
        diff = difflib.unified_diff(golden.splitlines(), text.splitlines(), f"golden {path.name}", "now", lineterm="")
        pytest.fail("\n".join([*list(diff)[:200], "DSPY_FT_GOLDEN=write writes it anew"]), pytrace=False)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
