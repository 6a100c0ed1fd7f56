"""``--dspy-train=torchrun[:N]``: TRL in N processes of this machine."""

from __future__ import annotations

import importlib.util
import os

from pytest_dspy_ft.errors import MissingDependencyError, TrainingError
from pytest_dspy_ft.finetune.launched import local_processes
from pytest_dspy_ft.finetune.launched.protocol import TRL, LaunchState, TrainingOrder, environment_for
from pytest_dspy_ft.local.weights import default_device

INSTALL = 'pip install "pytest-dspy-ft[trl]"'


class Torchrun:
    """Trains on this machine, with ``torch.distributed.run``.

    Args:
        processes: How many; None: one for each GPU.

    Raises:
        TrainingError: That is no number of processes.
    """

    name = "torchrun"
    engine = TRL
    runs_here = True
    pause = 1.0

    def __init__(self, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise TrainingError(f"torchrun:{processes}: at least one process is needed, such as torchrun:2")
        self.processes = processes

    @classmethod
    def from_text(cls, rest: str) -> Torchrun:
        """The launcher that ``torchrun[:N]`` names, by what follows the colon.

        Raises:
            TrainingError: It is no number.
        """
        if not rest:
            return cls()
        try:
            return cls(int(rest))
        except ValueError:
            raise TrainingError(f"torchrun:{rest}: a number of processes is needed, such as torchrun:2") from None

    def check(self) -> None:
        """Find out whether TRL is installed.

        Raises:
            MissingDependencyError: It is not; the message holds the command to run.
            TrainingError: Processes cannot be left running on this system.
        """
        if not hasattr(os, "fork"):
            raise TrainingError("torchrun leaves its training running when the session ends, for which it needs POSIX")
        if importlib.util.find_spec("trl") is None:
            raise MissingDependencyError(f"torchrun trains with TRL, which is not installed: {INSTALL}")

    def submit(self, order: TrainingOrder) -> str:
        """Start it; a session of its own holds it."""
        environment = environment_for(order.processes, _cores(), os.environ)
        if order.model_folder is not None:
            environment.setdefault("HF_HUB_OFFLINE", "1")
        return str(local_processes.start(order.folder, self._command(order), environment))

    def status(self, order: TrainingOrder) -> LaunchState:
        """How it stands."""
        return local_processes.state(order.folder)

    def fetch(self, order: TrainingOrder) -> None:
        """Nothing to do: it writes where it is looked for."""

    def cancel(self, order: TrainingOrder) -> None:
        """End it."""
        local_processes.end(order.folder)

    def _command(self, order: TrainingOrder) -> list[str]:
        command = order.command()
        if order.processes is None and default_device() == "cpu":
            command[command.index("gpu")] = "1"
        return command


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
