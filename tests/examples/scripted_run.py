"""Run one of the docs' scripts on a scripted LM: ``python -m tests.examples.scripted_run SCRIPT ARGUMENTS``.

Before it is trained the LM answers no bare prompt, and half of those with demos right; some replies are unreadable. So
the script meets what it is corrected for, in seconds and without weights.
"""

from __future__ import annotations

import json
import runpy
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.scripted import reply, scripted_lm

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = {
    "ticket_sorting/tickets.json": "text",
    "rag_distillation/questions.json": "question",
    "better_together/problems.json": "problem",
    "low_bootstrap/sentences.json": "text",
}
OUTPUTS = ("category", "answer", "entities")


def known_answers() -> dict[str, dict[str, Any]]:
    """The outputs of every example of every script, by its input."""
    known = {}
    for path, key in DATA.items():
        for row in json.loads((EXAMPLES / path).read_text("utf-8")):
            known[row[key].strip()] = {name: row[name] for name in OUTPUTS if name in row}
    return known


def main() -> None:
    """Run the script with ``resolve_lm`` giving the scripted LM."""
    script = EXAMPLES / "docs_as_scripts" / sys.argv[1]
    known = known_answers()

    def rule(fields: Mapping[str, str], request: Any) -> str:
        asked = next((fields[key] for key in DATA.values() if key in fields), "").strip()
        outputs, draw = known.get(asked), zlib.crc32(asked.encode()) % 10
        if outputs is None or draw < 2 or (len(request.messages) < 3 and "tuned" not in request.model):
            return "I do not know."
        shown = {name: json.dumps(value) if isinstance(value, list) else value for name, value in outputs.items()}
        if draw == 2:
            return reply(reasoning="cut off")
        if draw < 5:
            return reply(reasoning="so", **dict.fromkeys(shown, "[]" if "entities" in shown else "0"))
        return reply(reasoning="so", **shown)

    lm = scripted_lm(rule)
    sys.path.insert(0, str(script.parent))
    import plain

    plain.resolve_lm = lambda name, **settings: lm
    sys.argv = [str(script), *sys.argv[2:]]
    runpy.run_path(str(script), run_name="__main__")
    print("rows of each training:", *(len(rows) for _, rows, _ in lm.provider.jobs))


if __name__ == "__main__":
    main()
