"""``--dspy-train=hf-jobs:FLAVOR``: TRL on a machine of Hugging Face Jobs, by the ``hf`` program.

The order is copied to a private bucket of the account, which the job mounts; the result is copied back from there.
"""

from __future__ import annotations

import dataclasses
import shlex

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

IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
BUCKET = "dspy-ft-trainings"
TIMEOUT = "24h"
OURS = "launched.json"
"""What is not copied: our own notes."""

STATES: dict[str, State] = {
    "SCHEDULING": "waiting",
    "RUNNING": "running",
    "COMPLETED": "succeeded",
    "ERROR": "failed",
    "CANCELED": "cancelled",
    "DELETED": "cancelled",
}


class HfJobs:
    """Trains on Hugging Face Jobs, in one process for each GPU of the machine.

    Args:
        flavor: The hardware, as ``hf jobs hardware`` lists it, such as ``a10g-small``.

    Raises:
        TrainingError: None is named.
    """

    name = "hf-jobs"
    engine = TRL
    processes: int | None = None
    pause = 15.0
    settle = 20.0

    def __init__(self, flavor: str) -> None:
        if not flavor:
            raise TrainingError("hf-jobs: name the hardware, such as hf-jobs:a10g-small (hf jobs hardware lists it)")
        self._flavor = flavor

    def check(self) -> None:
        """Find out whether ``hf`` is there and knows who asks.

        Raises:
            MissingDependencyError: It is not installed.
            TrainingError: Nobody is logged in.
        """
        require("hf", "pip install -U huggingface_hub")
        self._account()

    def submit(self, order: TrainingOrder) -> str:
        """Copy the order to the bucket and start the job."""
        account = self._account()
        call(["hf", "buckets", "create", f"{account}/{BUCKET}", "--private", "--exist-ok", "--quiet"])
        place = self._place(order, account)
        call(["hf", "buckets", "sync", str(order.folder), place, "--exclude", OURS], seconds=TRANSFER_SECONDS)
        volumes = ["-v", f"{place}:/order:rw"]
        model = None
        if order.model_folder is not None:
            model, source = "/model", f"hf://buckets/{account}/{BUCKET}/models/{order.model_folder.name}"
            call(["hf", "buckets", "sync", str(order.model_folder), source], seconds=TRANSFER_SECONDS)
            volumes += ["-v", f"{source}:/model:ro"]
        command = shlex.join(order.command(python="python", folder="/order", model=model))
        run = ["hf", "jobs", "run", "--detach", "--json", "--name", order.submission, "--flavor", self._flavor]
        run += ["--timeout", TIMEOUT, "--secrets", "HF_TOKEN", *volumes, IMAGE, "bash", "-c"]
        return str(call_json([*run, f"{INSTALL_TRL} && exec {command}"])["id"])

    def status(self, order: TrainingOrder) -> LaunchState:
        """How the newest job of this name stands."""
        listed = call_json(["hf", "jobs", "ls", "--all", "--json", "--name", order.submission])
        job, state = newest(listed, order.submission, STATES)
        if not job or state.state == "waiting":
            return state
        log = log_of(["hf", "jobs", "logs", "--tail", "100", job])
        return dataclasses.replace(state, log=log, log_place=f"hf jobs logs {job}")

    def fetch(self, order: TrainingOrder) -> None:
        """Copy the result from the bucket."""
        source = f"{self._place(order, self._account())}/output"
        command = ["hf", "buckets", "sync", source, str(order.folder / "output"), "--exclude", "checkpoints/*"]
        call(command, seconds=TRANSFER_SECONDS)

    def cancel(self, order: TrainingOrder) -> None:
        """End the job."""
        job = (
            order.reference
            or newest(
                call_json(["hf", "jobs", "ls", "--all", "--json", "--name", order.submission]), order.submission, STATES
            )[0]
        )
        if job:
            call(["hf", "jobs", "cancel", job])

    def _account(self) -> str:
        return str(call_json(["hf", "auth", "whoami", "--json"])["user"])

    def _place(self, order: TrainingOrder, account: str) -> str:
        return f"hf://buckets/{account}/{BUCKET}/{order.name}"
