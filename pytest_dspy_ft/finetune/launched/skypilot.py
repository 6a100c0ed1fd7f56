"""``--dspy-train=skypilot:TASK.yaml``: TRL as a managed job of SkyPilot, on whatever cloud the task's file names.

The file names the hardware, and a bucket that is mounted at ``/dspy-ft``; the order travels through it, both ways.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.launched.clients import (
    INSTALL_TRL,
    TRANSFER_SECONDS,
    call,
    call_json,
    log_of,
    newest,
    require,
)
from pytest_dspy_ft.finetune.launched.protocol import TRL, LaunchState, State, TrainingOrder

MOUNT = "/dspy-ft"
EXAMPLE = "resources: {accelerators: 'A100:1'}\n  file_mounts: {/dspy-ft: {source: 's3://MY-BUCKET', mode: MOUNT}}"

COPIERS = {
    "s3": (["aws", "s3", "sync", "--only-show-errors"], "pip install awscli"),
    "gs": (["gcloud", "storage", "rsync", "--recursive"], "https://cloud.google.com/sdk/docs/install"),
}
"""Who copies a folder to and from a bucket, by the bucket's scheme."""

STATES: dict[str, State] = {
    "PENDING": "waiting",
    "SUBMITTED": "waiting",
    "STARTING": "waiting",
    "SUCCEEDED": "succeeded",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "FAILED_SETUP": "failed",
    "FAILED_PRECHECKS": "failed",
    "FAILED_NO_RESOURCE": "failed",
    "FAILED_CONTROLLER": "failed",
}


class SkyPilot:
    """Trains as a managed job, in one process for each GPU of the machine.

    Args:
        task: The task's file; its ``run`` and ``setup`` are ours to fill in.

    Raises:
        TrainingError: There is none, or it does not say what is needed.
    """

    name = "skypilot"
    engine = TRL
    processes: int | None = None
    pause = 30.0
    settle = 30.0

    def __init__(self, task: str) -> None:
        self._path = Path(task).expanduser()
        if not task:
            raise TrainingError(f"skypilot: name a task's file, such as skypilot:train.yaml with\n  {EXAMPLE}")

    def check(self) -> None:
        """Find out whether the clients are installed and the task's file says what is needed.

        Raises:
            MissingDependencyError: A client is not installed.
            TrainingError: The file does not say what is needed.
        """
        copier, hint = self._copier()
        require("sky", "pip install skypilot")
        require(copier[0], hint)

    def submit(self, order: TrainingOrder) -> str:
        """Copy the order to the bucket and launch the job."""
        task, copier = self._task(), self._copier()[0]
        call([*copier, str(order.folder), f"{self._bucket()}/{order.name}"], seconds=TRANSFER_SECONDS)
        model = None
        if order.model_folder is not None:
            model = f"{MOUNT}/models/{order.model_folder.name}"
            target = f"{self._bucket()}/models/{order.model_folder.name}"
            call([*copier, str(order.model_folder), target], seconds=TRANSFER_SECONDS)
        setup = f"{task['setup']}\n{INSTALL_TRL}" if task.get("setup") else INSTALL_TRL
        command = shlex.join(order.command(python="python", folder=f"{MOUNT}/{order.name}", model=model))
        written = order.folder / "skypilot-task.yaml"
        # JSON is YAML that needs no further package to be written.
        written.write_text(json.dumps({**task, "name": order.submission, "setup": setup, "run": command}), "utf-8")
        call(["sky", "jobs", "launch", "-y", "-d", "-n", order.submission, str(written)], seconds=TRANSFER_SECONDS)
        return order.submission

    def status(self, order: TrainingOrder) -> LaunchState:
        """How the newest job of this name stands."""
        job, state = newest(self._queue(), order.submission, STATES)
        if not job or state.state == "waiting":
            return state
        log = log_of(["sky", "jobs", "logs", "--no-follow", job])
        return dataclasses.replace(state, log=log, log_place=f"sky jobs logs {job}")

    def fetch(self, order: TrainingOrder) -> None:
        """Copy the result from the bucket."""
        source, target = f"{self._bucket()}/{order.name}/output", order.folder / "output"
        target.mkdir(exist_ok=True)
        call([*self._copier()[0], source, str(target)], seconds=TRANSFER_SECONDS)

    def cancel(self, order: TrainingOrder) -> None:
        """End the job."""
        if job := newest(self._queue(), order.submission, STATES)[0]:
            call(["sky", "jobs", "cancel", "-y", job])

    def _queue(self) -> Any:
        return call_json(["sky", "jobs", "queue", "--all", "--output", "json"])

    def _task(self) -> dict[str, Any]:
        import yaml

        try:
            task = yaml.safe_load(self._path.read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise TrainingError(f"skypilot:{self._path}: the task's file cannot be read: {error}") from None
        if not isinstance(task, dict) or task.get("run"):
            raise TrainingError(f"skypilot:{self._path}: a task without run: is needed, such as\n  {EXAMPLE}")
        return task

    def _bucket(self) -> str:
        mounts = self._task().get("file_mounts") or {}
        mount = mounts.get(MOUNT)
        source = str(mount.get("source", "")) if isinstance(mount, dict) else ""
        if source.partition("://")[0] not in COPIERS:
            raise TrainingError(
                f"skypilot:{self._path}: a bucket ({', '.join(f'{scheme}://...' for scheme in COPIERS)}) must be "
                f"mounted at {MOUNT}, for the order and its result:\n  {EXAMPLE}"
            )
        return source.rstrip("/")

    def _copier(self) -> tuple[list[str], str]:
        return COPIERS[self._bucket().partition("://")[0]]
