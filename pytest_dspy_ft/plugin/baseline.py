"""``--dspy-save-baseline``: keep a whole session's results, and refuse to keep a part for the whole.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.compat import paths_run
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.records.baseline import Baseline
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord


class BaselineSaver:
    """Hooks that save the session; registered with ``--dspy-save-baseline``, in the process the user looks at.

    Args:
        config: Of the session.
        path: The file to save to.

    Raises:
        pytest.UsageError: If the file is there and not ours to replace.
    """

    def __init__(self, config: pytest.Config, path: Path) -> None:
        from pytest_dspy_ft.records.baseline import read_baseline

        self._config = config
        self._path = path
        self._session = session_of(config)
        self._replaced: Baseline | None = None
        self._uncollected: list[str] = []
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
        reasons = self._reasons_of_command_line()
        return [f"dspy: this session will not be saved as a baseline: {'; '.join(reasons)}"] if reasons else []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected: a session without it is not the whole."""
        if report.failed:
            self._uncollected.append(f"{report.nodeid} could not be collected")

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

    def _reasons_of_command_line(self) -> list[str]:
        """Why this session cannot be saved, as far as the command line tells."""
        reasons = []
        if self._session.options.limit is not None:
            reasons.append(f"--dspy-limit={self._session.options.limit} looks at a part of the examples")
        if (rule := self._session.options.stop_early) is not None:
            reasons.append(
                f"--dspy-stop-early={rule} may end evaluations before all examples are measured (-o dspy_stop_early= "
                "turns off what the ini file asks for)"
            )
        if self._config.getoption("lf", False):
            reasons.append("--lf runs a part of the tests")
        chosen = [argument for argument in self._config.args if "::" in argument]
        if chosen:
            reasons.append(f"single tests were chosen ({_first_three(chosen)})")
        return reasons

    def _reasons(self, session: pytest.Session, run: RunRecord, exitstatus: int) -> Iterator[str]:
        """Why this session is not the whole, and so is not saved."""
        yield from self._reasons_of_command_line()
        yield from run.incomplete
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            yield "the session was interrupted"
        elif exitstatus == pytest.ExitCode.INTERNAL_ERROR:
            yield "pytest had an internal error"
        stopped = session.shouldfail or session.shouldstop
        if stopped:
            yield f"the session stopped early ({stopped})"
        yield from self._uncollected
        if not run.experiments:
            yield "no experiment was measured"
        collected = collected_tests(self._config)
        if (count := len(collected.deselected)) == 1:
            yield "1 test that uses an experiment was deselected"
        elif count:
            yield f"{count} tests that use an experiment were deselected"
        for name, folder in collected.folders.items():
            if not self._was_run(folder):
                where = "anywhere in the project" if folder == "." else f"in {folder}"
                yield f"experiment {name!r} can be used {where}, and only {_first_three(self._config.args)} was run"
        records = {experiment.name: experiment for experiment in run.experiments}
        for name in dict.fromkeys([*collected.folders, *records]):
            if name in records:
                yield from self._unmeasured(records[name])
            else:
                yield f"nothing of experiment {name!r} was measured"
        if self._replaced is not None:
            yield from _losses(self._replaced, records)
        if self._session.options.compare == self._path:
            for record in records.values():
                if record.comparison is not None and not record.comparison.passed:
                    yield f"experiment {record.name!r} did not pass the comparison with this very file"

    def _was_run(self, folder: str) -> bool:
        """True where the paths that were run hold all tests of a folder."""
        paths = paths_run(self._config)
        place = (self._config.rootpath / PurePosixPath(folder)).resolve()
        return paths is None or any(place.is_relative_to(path) for path in paths)

    def _unmeasured(self, record: ExperimentRecord) -> Iterator[str]:
        """Reasons in what this session should have measured of an experiment and did not."""
        name, collected = record.name, collected_tests(self._config)
        if record.stopped:
            yield f"experiment {name!r} was stopped: {record.stopped}"
        failed = [build.stage for build in record.stages if build.status == "failed"]
        skipped = [build.stage for build in record.stages if build.status == "skipped"]
        out_of_reach = sorted({*collected.needed_out_of_reach.get(name, ()), *skipped})
        if failed:
            yield f"stage {_first_three(failed)} of experiment {name!r} failed"
        if out_of_reach:
            stages = _first_three(out_of_reach)
            yield f"stage {stages} of experiment {name!r} is out of this session's reach (--dspy-stage)"
        for stage, on in collected.to_measure.get(name, ()):
            if stage not in failed and record.result(stage, on) is None:  # type: ignore[arg-type]
                yield f"stage {stage} of experiment {name!r} was not measured on {on}"


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


def _first_three(words: Iterable[str]) -> str:
    found = list(words)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
