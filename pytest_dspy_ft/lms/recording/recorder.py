"""Calls replayed, recorded, or refused with the nearest recorded one, while recordings are in use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from pytest_dspy_ft.errors import RecordingError
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.insides.lm_calls import CallResult, kept_record
from pytest_dspy_ft.lms.recording.folder import RecordingFolder, file_name
from pytest_dspy_ft.lms.recording.nearest import explain_missing
from pytest_dspy_ft.lms.recording.requests import key_of, question_of, reply_of, result_of
from pytest_dspy_ft.lms.resolve import is_local

Mode = Literal["none", "once", "all"]


class Recorder:
    """Answers LM calls from recordings, and records those that are made.

    An equal call (model, address, messages, settings, rollout) is made once in a session and has one answer, as with
    DSPy's own cache; repeats are told apart by their ``rollout_id``. So a session that records and one that replays see
    the same, whatever the order of their threads.

    Args:
        folder: The recordings.
        mode: ``none`` replays only; ``once`` makes and records what is missing; ``all`` makes and records every call.
        lms: Patterns of models that are recorded; without any, all that do not run on this machine.
    """

    def __init__(self, folder: RecordingFolder, mode: Mode, lms: Sequence[str] = ()) -> None:
        self.folder = folder
        self.mode = mode
        self.missing: list[str] = []
        """Why calls were refused, in words."""
        self.live = self.replayed = 0
        self._failed: set[str] = set()
        self._lms = tuple(lms)

    @property
    def offline(self) -> bool:
        """True where nothing but recordings may answer."""
        return self.mode == "none"

    def covers(self, lm: Any) -> bool:
        """True for an LM whose calls are recorded; one that runs on this machine needs neither network nor key."""
        model = str(getattr(lm, "model", ""))
        return any(fnmatchcase(model, pattern) for pattern in self._lms) if self._lms else not is_local(lm)

    # --- calls -------------------------------------------------------------------------------------------------------

    def known(self, lm: Any, call: Any) -> CallResult | None:
        """The recorded answer to a call; None where it is to be made.

        Raises:
            RecordingError: If it is not recorded and may not be made.
        """
        question = question_of(lm, call)
        line = self.folder.get("call", key_of(question), of_this_session=self.mode == "all")
        if line is not None:
            self.replayed += 1
            result = result_of(lm, line["reply"], logprobs=bool(call.legacy.get("logprobs")))
            result.cost_details["seconds"] = line.get("seconds", 0.0)
            return result
        if not self.offline:
            return None
        message = explain_missing(question, self.folder.all("call"), str(self.folder.path))
        self.missing.append(f"{message}\n  record it where there is a key: --dspy-record=once")
        raise RecordingError(self.missing[-1])

    def keep(self, lm: Any, call: Any, result: CallResult, *, seconds: float) -> CallResult:
        """Record an answer; give back the one that counts: another thread's or process's, if it was faster.

        Raises:
            RecordingError: If it cannot be written down: what it is part of is not complete, and fails.
        """
        self.live += 1
        try:
            return self._kept(lm, call, result, seconds)
        except (TypeError, ValueError, RecursionError) as problem:
            self.missing.append(
                f"an answer of {lm.model} cannot be recorded ({problem}): let its LM give text, numbers, lists and "
                "dicts, or record other LMs only (dspy_record_lms)"
            )
            raise RecordingError(self.missing[-1]) from problem

    def note_failure(self, lm: Any, call: Any) -> None:
        """Note that a call has no answer to record, unless it gets one yet: what it is part of is not complete."""
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            self._failed.add(key_of(question_of(lm, call)))
            return
        self._failed.add(f"no JSON: {lm.model}")

    def _kept(self, lm: Any, call: Any, result: CallResult, seconds: float) -> CallResult:
        question = question_of(lm, call)
        reply = reply_of(result)
        if result.cache_hit:  # an interrupted build paid for it; what it used stands in what was kept of it
            reply |= _kept_usage(lm, call)
        line = {"call": key_of(question), **question, "reply": reply, "seconds": round(seconds, 2)}
        counted = self.folder.add("call", line, file_name(lm.model), over_older=self.mode == "all")
        self._failed.discard(line["call"])
        if counted is line or counted["reply"] == reply:
            return result
        other = result_of(lm, counted["reply"], logprobs=bool(call.legacy.get("logprobs")))
        other.usage, other.cost, other.cost_details = result.usage, result.cost, result.cost_details  # it was paid, too
        return other

    # --- hosted fine-tuning jobs, stages, evaluations ----------------------------------------------------------------

    def job(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """The recorded result of a fine-tuning job; None where it is to be run.

        Args:
            order: What the job is, as JSON: equal for equal jobs.

        Raises:
            RecordingError: If it is not recorded and may not be run.
        """
        line = self.folder.get("job", digest_json(order, length=20), of_this_session=self.mode == "all")
        if line is not None:
            result: dict[str, Any] = line["result"]
            return result
        if not self.offline:
            return None
        others = [j for j in self.folder.all("job") if j["stage"] == order["stage"]]
        known = "; ".join(_job_differences(order, other) for other in others) or "no job of this stage is recorded"
        self.missing.append(
            f"no fine-tuning of {order['model']} on these {order['rows']} rows is recorded "
            f"in {self.folder.path} ({known}); record it where there is a key: --dspy-record=once"
        )
        raise RecordingError(self.missing[-1])

    def keep_job(self, order: dict[str, Any], result: dict[str, Any]) -> None:
        """Record what a job came to."""
        line = {"job": digest_json(order, length=20), **order, "result": result}
        self.folder.add("job", line, "jobs", over_older=self.mode == "all")

    def is_complete(self, key: str) -> bool:
        """True once all calls of a stage or an evaluation were recorded, so that one from the store may stand."""
        return self.folder.get("complete", key, of_this_session=self.mode == "all") is not None

    def mark_complete(self, key: str, what: str) -> None:
        """Note that all calls of a stage or an evaluation were recorded; not where one of the session's was not."""
        if not self.offline and not self._failed:
            self.folder.add("complete", {"complete": key, "what": what}, "complete", over_older=self.mode == "all")


def _kept_usage(lm: Any, call: Any) -> dict[str, Any]:
    record = kept_record(lm, call)
    if not isinstance(record, dict):
        return {}
    return {name: record[name] for name in ("usage", "cost") if record.get(name)}


def _job_differences(order: dict[str, Any], other: dict[str, Any]) -> str:
    words = []
    for name in sorted(order):
        if order[name] != other.get(name):
            known = "" if name in ("rows_digest", "settings") else f" {other.get(name)!r}"
            words.append(f"{name}{known}" if known else f"other {name.removesuffix('_digest')}")
    return f"recorded with {', '.join(words)}"
