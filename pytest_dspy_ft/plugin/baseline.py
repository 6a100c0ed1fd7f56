"""``--dspy-save-baseline``: keep a whole session's results, and refuse to keep a part for the whole.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.plugin.session import session_of
from pytest_dspy_ft.plugin.whole import WholeSession

if TYPE_CHECKING:
    from pytest_dspy_ft.records.baseline import Baseline
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord


class BaselineSaver:
    """Hooks that save the session; registered with ``--dspy-save-baseline``, in the process the user looks at.

    Args:
        config: Of the session.
        path: The file to save to.
        whole: Knows why a session is not the whole.

    Raises:
        pytest.UsageError: If the file is there and not ours to replace.
    """

    def __init__(self, config: pytest.Config, path: Path, whole: WholeSession) -> None:
        from pytest_dspy_ft.records.baseline import read_baseline

        self._config = config
        self._path = path
        self._session = session_of(config)
        self._replaced: Baseline | None = None
        self._whole = whole
        self._outcome = ""
        self._refused = False
        if path.exists():
            try:
                self._replaced = read_baseline(path)
            except RecordError as error:
                raise pytest.UsageError(
                    f"--dspy-save-baseline={path}: {error}. It was left as it is: name another file, or delete it"
                ) from None

    def pytest_report_header(self) -> list[str]:
        """Say early what the command line already tells of the end."""
        reasons = self._whole.reasons_of_command_line()
        return [f"dspy: this session will not be saved as a baseline: {'; '.join(reasons)}"] if reasons else []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Save this session as a baseline, or say why not; then the exit status of a session that passed is 4.

        Who asks for a baseline and goes on to commit a file must not be left with the old one unnoticed. First, as
        reports that cannot be written set an exit status as well.
        """
        from pytest_dspy_ft.records.baseline import baseline_of, write_baseline

        if self._config.getoption("collectonly", False) or self._session.options.instead:
            option = self._session.options.instead or "--collect-only"
            self._outcome = f"baseline not saved: {option} measures nothing"
            return
        run = self._session.records.run()
        reasons = [*self._reasons(session, run, exitstatus)]
        if not reasons:
            try:
                written = write_baseline(self._path, baseline_of(run))
            except RecordError as error:
                reasons.append(str(error))
            else:
                self._outcome = (
                    f"baseline saved to {self._path}"
                    if written
                    else f"baseline {self._path} says the same: left as it is"
                )
                return
        self._outcome = f"baseline NOT saved to {self._path}: {'; '.join(dict.fromkeys(reasons))}"
        self._refused = True
        if exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what became of it."""
        if self._outcome:
            terminalreporter.write_line(self._outcome, **({"red": True} if self._refused else {}))

    def _reasons(self, session: pytest.Session, run: RunRecord, exitstatus: int) -> Iterator[str]:
        """Why this session is not saved: it is not the whole, or less than the file holds."""
        yield from self._whole.reasons(session, run, exitstatus)
        records = {experiment.name: experiment for experiment in run.experiments}
        if self._replaced is not None:
            yield from _losses(self._replaced, records)
        if self._session.options.compare == self._path:
            for record in records.values():
                if record.comparison is not None and not record.comparison.passed:
                    yield f"experiment {record.name!r} did not pass the comparison with this very file"


def _losses(old: Baseline, records: dict[str, ExperimentRecord]) -> Iterator[str]:
    """Reasons in what the file holds and this session did not measure."""
    for experiment in old.experiments:
        record = records.get(experiment.name)
        if record is None:
            yield (
                f"the file also holds experiment {experiment.name!r}, which this session did not run "
                "(if it is gone for good, delete the file first)"
            )
            continue
        for evaluation in experiment.evaluations:
            declared = evaluation.stage in record.order
            if declared and record.result(evaluation.stage, evaluation.on) is None:
                yield (
                    f"the file holds stage {evaluation.stage} of experiment {experiment.name!r} on {evaluation.on}, "
                    "which this session did not measure (if that is meant, delete the file first)"
                )
