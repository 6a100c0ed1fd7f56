"""One training from order to result: started once, found again, watched, and left running when the session ends."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import JobPendingError, TrainingError
from pytest_dspy_ft.finetune.launched.journal import LaunchedEntry, order_of, write_entry
from pytest_dspy_ft.finetune.launched.log import PROGRESS, LaunchProgress, read_progress
from pytest_dspy_ft.finetune.launched.protocol import ENDED, Launcher, LaunchState, TrainingOrder
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.text import duration

PAUSE = 15.0
"""Seconds between two looks, where a launcher does not say."""
SHOWN_LINES = 15
"""Of a log, where a training failed."""
UNANSWERED = 300.0
"""Seconds that a launcher may fail to say how a training stands, before that is an error."""


@dataclasses.dataclass(frozen=True)
class Handover:
    """What a launched training is made of beside its launcher.

    Attributes:
        prepare: Writes the order's files into a folder, for so many processes.
        receive: Checks what came back in the folder, and gives what the run says of itself; a TrainingError refuses it.
        timeout: Seconds that this session waits; None: as long as it takes.
        how_to_cancel: Words for people.
    """

    prepare: Callable[[Path, int | None], None]
    receive: Callable[[Path], dict[str, Any]]
    timeout: float | None = None
    how_to_cancel: str = ""


class LaunchedRun:
    """Carries one training out.

    Args:
        launcher: By whom.
        earlier: By whom what is written down was started, where that was another.
        folder: The training's, in the store.
        entry: As it is written down there, or is to be.
        handover: How its files are made and what comes back is checked.
        wake: Set when nobody waits any more.

    Attributes:
        entry: As it is written down now.
        progress: How far it is; None before the first sign of it.
        resumed: Whether an earlier session had started what this one took over.
    """

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        entry: LaunchedEntry,
        handover: Handover,
        wake: threading.Event,
        *,
        earlier: Launcher | None = None,
    ) -> None:
        self._launcher, self._folder, self._handover, self._wake = launcher, folder, handover, wake
        self._earlier = earlier
        self.entry = entry
        self.progress: LaunchProgress | None = None
        self.resumed = False

    @property
    def order(self) -> TrainingOrder:
        """The order as the launcher is given it."""
        return order_of(self._folder, self.entry)

    def run(self) -> dict[str, Any]:
        """Have it trained, or take what came of it already.

        Returns:
            What the run says of itself; the LoRA lies in ``output/adapter`` of the folder.

        Raises:
            TrainingError: It failed, or what came back is not what was ordered.
            JobPendingError: It goes on without us.
        """
        state = self._found()
        if state is None:
            state = self._submit()
        if state.state not in ENDED:
            state = self._watch(state)
        if state.state != "succeeded" and not self._is_done():
            raise TrainingError(self._failure(state))
        return self._receive()

    def _is_done(self) -> bool:
        """True where the result is there: it is written last, so whatever ended the training came too late."""
        return (self._folder / "output" / "result.json").is_file() and not self.entry.refused

    def _found(self) -> LaunchState | None:
        """How what an earlier session started stands; None where it has to be started, again or for the first time."""
        if not self.entry.attempt or self.entry.refused:
            return None
        wanted = self._launcher
        self._launcher = self._earlier or wanted
        try:
            state = self._ask()
            if state.state == "unknown" and (settle := getattr(self._launcher, "settle", 0.0)):
                self._wake.wait(settle)  # a list may lag behind what was started
                state = self._ask()
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{self._launcher.name} does not say how the training {self.entry.job} stands, which an earlier "
                f"session started: {describe_exception(error)}; run again when it answers"
            ) from error
        if state.state not in ("waiting", "running") and self._is_done():
            state = dataclasses.replace(state, state="succeeded")
        self.resumed = state.state in ("waiting", "running", "succeeded")
        if not self.resumed:
            self._launcher = wanted
            if self.progress is not None:
                self.progress = dataclasses.replace(self.progress, note="started again")
        return state if self.resumed else None

    def _submit(self) -> LaunchState:
        """Start it; what will be asked for is written down first."""
        entry, output = self.entry, self._folder / "output"
        if entry.refused:
            shutil.rmtree(output, ignore_errors=True)
        (output / "result.json").unlink(missing_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        processes = self._launcher.processes
        self._handover.prepare(self._folder, processes)
        update = {"attempt": entry.attempt + 1, "processes": processes, "reference": "", "refused": ""}
        named = getattr(self._launcher, "named", self._launcher.name)
        self._note(**update, launcher=self._launcher.name, named=named)
        try:
            self._note(reference=str(self._launcher.submit(self.order) or ""))
        except Exception as error:
            raise TrainingError(
                f"{self._launcher.name} could not start it: {describe_exception(error, 2000)}"
            ) from error
        return LaunchState("waiting")

    def _watch(self, state: LaunchState) -> LaunchState:
        """Wait for the end, and say how far it is meanwhile."""
        started = heard = time.monotonic()
        pause = getattr(self._launcher, "pause", PAUSE)
        while True:
            try:
                state = self._ask()
                heard = time.monotonic()
            except Exception as error:
                if time.monotonic() - heard > UNANSWERED:
                    raise JobPendingError(
                        f"{self._launcher.name} has not said for {duration(UNANSWERED)} how the training stands "
                        f"({describe_exception(error)}); {self.hint()}"
                    ) from error
            if state.state in ENDED:
                return state
            if state.state == "unknown" and time.monotonic() - started > UNANSWERED:
                raise TrainingError(f"{self._launcher.name} knows nothing of the training {self.entry.job} any more")
            if self._handover.timeout is not None and time.monotonic() - started > self._handover.timeout:
                raise JobPendingError(f"not done after {duration(self._handover.timeout)}: {self.hint()}")
            if self._wake.wait(pause):
                raise JobPendingError("nobody waits for the training any more")

    def _ask(self) -> LaunchState:
        state = self._launcher.status(self.order)
        self.progress = read_progress(state) or self.progress
        return state

    def _receive(self) -> dict[str, Any]:
        try:
            self._launcher.fetch(self.order)
        except Exception as error:
            raise TrainingError(
                f"it is trained, and {self._launcher.name} could not bring the result: {describe_exception(error)}; "
                "the same command tries again"
            ) from error
        try:
            return self._handover.receive(self._folder)
        except TrainingError as error:
            self._note(refused=str(error))
            raise TrainingError(f"{error}; it is not used (it lies in {self._folder / 'output'})") from None

    def _failure(self, state: LaunchState) -> str:
        """What failed, in words, with the end of the log and where all of it lies."""
        lines = [line for line in state.log.splitlines() if line.strip() and not line.startswith(PROGRESS)]
        what = "was cancelled" if state.state == "cancelled" else f"failed{f': {state.word}' if state.word else ''}"
        far = f" at step {self.progress.step} of {self.progress.total_steps}" if self.progress is not None else ""
        shown = "".join(f"\n    {line[:300]}" for line in lines[-SHOWN_LINES:])
        where = f"\n  the whole log: {state.log_place}" if state.log_place else ""
        return (
            f"the training by {self._launcher.name} ({self.entry.job}) {what}{far}{shown}{where}\n"
            "  the same command trains on, from the last checkpoint where there is one"
        )

    def hint(self) -> str:
        """How to come back to a training that goes on, or to end it."""
        cancel = f"; to cancel it: {self._handover.how_to_cancel}" if self._handover.how_to_cancel else ""
        return f"the training {self.entry.job} goes on ({self._launcher.name}): the same command finds it{cancel}"

    def _note(self, **changes: Any) -> None:
        self.entry = self.entry.model_copy(update=changes)
        write_entry(self._folder, self.entry)
