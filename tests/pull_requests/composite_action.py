"""A composite action, run step by step as GitHub runs it; the actions that it uses are played by functions."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Uses = Callable[[dict[str, str]], Mapping[str, str]]
"""Another action: its inputs in, its outputs out; it fails by raising."""

_TOKEN = re.compile(r"'(?:[^']|'')*'|&&|\|\||!=|==|!|[()]|,|[A-Za-z_][\w.-]*|\d+|\s+")
_STATUS = re.compile(r"\b(always|cancelled|success|failure)\(\)")


@dataclass
class Outcome:
    """How the action ended."""

    code: int = 0
    log: str = ""
    ran: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""


class CompositeAction:
    """An action of ``runs: using: composite``.

    Args:
        file: The action's metadata.
        uses: The actions that its steps use, by name without version.
        contexts: ``github``, ``runner``, ``strategy``.
        environment: What the job's processes see.
        cancelled_in: The id of the step during which somebody cancels the job.
    """

    def __init__(
        self,
        file: Path,
        *,
        uses: Mapping[str, Uses],
        contexts: Mapping[str, Mapping[str, Any]],
        environment: Mapping[str, str],
        cancelled_in: str = "",
    ) -> None:
        self._action = yaml.safe_load(file.read_text(encoding="utf-8"))
        self._uses, self._environment, self._cancelled_in = uses, dict(environment), cancelled_in
        self._contexts: dict[str, Any] = {**contexts, "steps": {}}
        self._failed = self._cancelled = False

    def run(self, workspace: Path, inputs: Mapping[str, str]) -> Outcome:
        """Run all steps in a workspace."""
        known = self._action["inputs"]
        assert set(inputs) <= set(known), "an input that the action does not have is a warning, and ignored"
        given = {name: self._text(str(one.get("default", ""))) for name, one in known.items()}
        self._contexts["inputs"] = {**given, **inputs}
        outcome = Outcome()
        with tempfile.TemporaryDirectory() as folder:
            summary = Path(folder) / "summary"
            self._environment["GITHUB_STEP_SUMMARY"] = str(summary)
            for number, step in enumerate(self._action["runs"]["steps"]):
                if self._is_due(str(step.get("if", ""))):
                    outcome.ran.append(step.get("id") or step.get("uses", "run").partition("@")[0])
                    self._step(step, Path(folder) / f"{number}", workspace, outcome)
            outcome.summary = summary.read_text(encoding="utf-8") if summary.exists() else ""
        if self._failed and outcome.code == 0:
            outcome.code = 1
        outputs = self._action["outputs"]
        outcome.outputs = {name: self._text(one["value"]) for name, one in outputs.items()}
        return outcome

    def _step(self, step: dict[str, Any], files: Path, workspace: Path, outcome: Outcome) -> None:
        if "uses" in step:
            try:
                inputs = {name: self._text(self._shown(value)) for name, value in step.get("with", {}).items()}
                outputs = dict(self._uses[step["uses"].partition("@")[0]](inputs))
                failed = False
            except RuntimeError as problem:
                outcome.log += f"{problem}\n"
                outputs, failed = {}, True
        else:
            done = self._bash(step, files, workspace)
            outcome.log += done.stdout
            written = files.with_suffix(".output").read_text(encoding="utf-8").splitlines()
            outputs, failed = dict(line.split("=", 1) for line in written), done.returncode != 0
            outcome.code = done.returncode if failed else outcome.code
        if name := step.get("id"):
            self._contexts["steps"][name] = {"outputs": outputs}
            self._cancelled = self._cancelled or name == self._cancelled_in
        self._failed = self._failed or (failed and not step.get("continue-on-error"))

    def _bash(self, step: dict[str, Any], files: Path, workspace: Path) -> subprocess.CompletedProcess[str]:
        assert step["shell"] == "bash"
        script, output = files.with_suffix(".sh"), files.with_suffix(".output")
        script.write_text(self._text(step["run"]), encoding="utf-8")
        output.touch()
        env = {name: self._text(self._shown(value)) for name, value in step.get("env", {}).items()}
        folder = workspace / self._text(str(step.get("working-directory", ".")))
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
            cwd=folder,
            env={**os.environ, **self._environment, "GITHUB_OUTPUT": str(output), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def _is_due(self, condition: str) -> bool:
        """What GitHub makes of a step's ``if``: without a function of status, it holds only where all went well."""
        well = not (self._failed or self._cancelled)
        value = bool(self._value(condition)) if condition else True
        return value if _STATUS.search(condition) else well and value

    def _text(self, text: str) -> str:
        """A text with its expressions filled in."""
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: self._shown(self._value(found[1])), text)

    @staticmethod
    def _shown(value: Any) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    def _value(self, expression: str) -> Any:
        words = [word for word in _TOKEN.findall(expression) if not word.isspace()]
        assert "".join(words) == re.sub(r"\s+(?=(?:[^']*'[^']*')*[^']*$)", "", expression), expression
        python = {"&&": " and ", "||": " or ", "!": " not "}
        names: dict[str, Any] = {
            "always": lambda: True,
            "cancelled": lambda: self._cancelled,
            "success": lambda: not (self._failed or self._cancelled),
            "failure": lambda: self._failed,
        }
        code = ""
        for word in words:
            if word.startswith("'"):
                code += repr(word[1:-1].replace("''", "'"))
            elif word[0].isalpha() and word not in names:
                code += f"look({word!r})"
            else:
                code += python.get(word, word)
        return eval(code, {"__builtins__": {}}, {**names, "look": self._look})

    def _look(self, path: str) -> Any:
        value: Any = self._contexts
        root = path.split(".")[0]
        assert root in self._contexts, f"{path}: no such context"
        for name in path.split("."):
            value = (value or {}).get(name)
        return value
