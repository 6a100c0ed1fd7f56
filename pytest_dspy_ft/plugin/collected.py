"""What the collection of tests tells of a session: what it will measure, and what of the project it leaves out.

Taken in each process that collects; under pytest-xdist the workers send it to the controller, which collects nothing.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Location = tuple[str, int | None, str]


@dataclass
class Survey:
    """What is known of the session once its tests are collected."""

    apart: list[tuple[str, Location, str]] = field(default_factory=list)
    """Comparisons that xdist's controller judges: node id, location, experiment."""
    scopes: dict[str, str] = field(default_factory=dict)
    """By experiment, the folder (or file) whose tests can use it, relative to the root."""
    beyond: dict[str, dict[str, str]] = field(default_factory=dict)
    """By experiment, the stages that ``--dspy-stage`` does not reach, and what would."""
    missed: dict[str, set[str]] = field(default_factory=dict)
    """By experiment, those of them that a chosen test needs."""
    wanted: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """By experiment, the stages and splits that the gates of the chosen tests measure."""
    dropped: list[str] = field(default_factory=list)
    """Node ids of tests that may measure an experiment, were collected, and were not chosen."""
    seen: list[Any] = field(default_factory=list)
    """All collected tests that may measure an experiment; this process's own."""

    def to_json(self) -> str:
        """As text: xdist carries nothing richer."""
        return json.dumps(
            {
                "apart": self.apart,
                "scopes": self.scopes,
                "beyond": self.beyond,
                "missed": {name: sorted(stages) for name, stages in self.missed.items()},
                "wanted": {name: sorted(pairs) for name, pairs in self.wanted.items()},
                "dropped": self.dropped,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Read what :meth:`to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        return cls(
            apart=[(nodeid, tuple(location), name) for nodeid, location, name in content["apart"]],
            scopes=content["scopes"],
            beyond=content["beyond"],
            missed={name: set(stages) for name, stages in content["missed"].items()},
            wanted={name: {(stage, on) for stage, on in pairs} for name, pairs in content["wanted"].items()},
            dropped=content["dropped"],
        )


def scope_of(definition: Any) -> str:
    """The folder, or the file, whose tests can use a fixture; ``.`` for the root and for plugins."""
    return str(definition.baseid).split("::")[0] or "."
