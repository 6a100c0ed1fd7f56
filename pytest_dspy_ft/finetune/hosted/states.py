"""The states of jobs in the words of many services, and what each means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pytest_dspy_ft.finetune.hosted.port import JobState

_WORDS: Final[Mapping[JobState, str]] = {
    "waiting": "validating_files validating validated queued pending created creating submitted scheduled scheduling "
    "waiting accepted not_started notstarted initializing starting preparing provisioning new received enqueued",
    "running": "running in_progress inprogress training active processing started executing compressing uploading "
    "finalizing finishing evaluating saving pausing resuming resumed re_queueing cancelling canceling cancel_requested "
    "cancellation_requested cancelrequested user_cancel_requested stopping early_stopping postprocessing "
    "writing_results",
    "paused": "paused suspended on_hold",
    "succeeded": "succeeded success successful completed complete done finished trained early_stopped",
    "failed": "failed failure error errored user_error expired timeout timed_out rejected invalid system_error crashed "
    "validation_failed unhealthy",
    "cancelled": "cancelled canceled aborted stopped deleted deleting killed terminated user_cancelled user_canceled",
}
_STATES: Final = {word: state for state, words in _WORDS.items() for word in words.split()}
_PREFIX: Final = re.compile(r"^(fine_?tun(e|ing)_)?(job_)?(state|status)_")


def state_of(word: str) -> JobState | None:
    """What a service's word for a state means: ``JOB_STATE_COMPLETED`` is ``succeeded``; None for an unknown word."""
    plain = re.sub(r"[\s\-.]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word.strip())).lower()
    plain = _PREFIX.sub("", plain)
    return _STATES.get(plain) or _STATES.get(plain.removeprefix("job_"))
