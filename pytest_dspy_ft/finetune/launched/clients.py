"""Command-line clients of services: run with a limit of time, their answers read as JSON, their failures in words."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from pytest_dspy_ft.errors import MissingDependencyError, TrainingError
from pytest_dspy_ft.finetune.launched.protocol import LaunchState, State

SECONDS = 120.0
"""That a client may take to answer."""
TRANSFER_SECONDS = 3600.0
"""That files may take on their way."""
SHOWN = 1500

INSTALL_TRL = "python -m pip install --quiet 'trl>=1.16' 'peft>=0.18'"
"""What a bare machine needs before it can train."""


def require(program: str, hint: str) -> None:
    """Make sure that a client is installed.

    Raises:
        MissingDependencyError: It is not; the message holds the command to run.
    """
    if shutil.which(program) is None:
        raise MissingDependencyError(f"the program {program!r} is not installed: {hint}")


def call(command: Sequence[str], *, seconds: float = SECONDS) -> str:
    """What a client prints.

    Raises:
        TrainingError: It cannot be run, takes too long, or fails; the message holds the end of what it said.
    """
    shown = " ".join(command[:4])
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise TrainingError(f"{shown} ... has not answered for {seconds:g} s") from None
    except OSError as error:
        raise TrainingError(f"{shown} ... cannot be run: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-SHOWN:]
        raise TrainingError(f"{shown} ... failed with status {done.returncode}: {said}")
    return done.stdout


def call_json(command: Sequence[str], *, seconds: float = SECONDS) -> Any:
    """What a client prints as JSON.

    Raises:
        TrainingError: As :func:`call`, or it is no JSON.
    """
    text = call(command, seconds=seconds)
    start = min((place for place in (text.find("["), text.find("{")) if place >= 0), default=-1)
    try:
        return json.loads(text[start:] if start >= 0 else text)
    except ValueError:
        raise TrainingError(f"{' '.join(command[:4])} ... printed no JSON: {text[:200]!r}") from None


def newest(jobs: Any, name: str, states: dict[str, State]) -> tuple[str, LaunchState]:
    """The newest job of a name in a service's list, the first one being the newest: (its id, how it stands).

    Args:
        jobs: The list, as its client prints it.
        name: The job's.
        states: What the service's words mean; one that is not among them means that it goes on.
    """
    for job in jobs if isinstance(jobs, list) else ():
        if name in (job.get("name"), job.get("job_name")):
            word = str(job.get("status"))
            return str(job.get("job_id", job.get("id"))), LaunchState(states.get(word, "running"), word.lower())
    return "", LaunchState("unknown")


def log_of(command: Sequence[str]) -> str:
    """The log that a client prints; empty where it cannot be had: that ends no training."""
    try:
        return call(command)
    except TrainingError:
        return ""
