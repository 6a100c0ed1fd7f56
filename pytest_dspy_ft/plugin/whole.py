"""Whether a session is the whole: what it left out of all that the project's tests would measure.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.compat import paths_run
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord


class WholeSession:
    """Knows why a session is not the whole; registered in the process the user looks at.

    Args:
        config: Of the session.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session = session_of(config)
        self._uncollected: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected: a session without it is not the whole."""
        if report.failed:
            self._uncollected.append(f"{report.nodeid} could not be collected")

    def reasons_of_command_line(self) -> list[str]:
        """Why this session is not the whole, as far as the command line tells."""
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
            reasons.append(f"single tests were chosen ({first_three(chosen)})")
        return reasons

    def reasons(
        self, session: pytest.Session, run: RunRecord, exitstatus: int, *, beyond_reach: bool = True
    ) -> Iterator[str]:
        """Why this session is not the whole; nothing where it is.

        Args:
            session: Pytest's.
            run: What was measured.
            exitstatus: With which the session ends.
            beyond_reach: Count stages that tests need and ``--dspy-stage`` does not reach.
        """
        yield from self.reasons_of_command_line()
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
                yield f"experiment {name!r} can be used {where}, and only {first_three(self._config.args)} was run"
        records = {experiment.name: experiment for experiment in run.experiments}
        for name in dict.fromkeys([*collected.folders, *records]):
            if name in records:
                yield from self._unmeasured(records[name], beyond_reach)
            elif beyond_reach or collected.to_measure.get(name):
                yield f"nothing of experiment {name!r} was measured"

    def _was_run(self, folder: str) -> bool:
        """True where the paths that were run hold all tests of a folder."""
        paths = paths_run(self._config)
        place = (self._config.rootpath / PurePosixPath(folder)).resolve()
        return paths is None or any(place.is_relative_to(path) for path in paths)

    def _unmeasured(self, record: ExperimentRecord, beyond_reach: bool) -> Iterator[str]:
        """Reasons in what this session should have measured of an experiment and did not."""
        name, collected = record.name, collected_tests(self._config)
        if record.stopped:
            yield f"experiment {name!r} was stopped: {record.stopped}"
        failed = [build.stage for build in record.stages if build.status == "failed"]
        skipped = [build.stage for build in record.stages if build.status == "skipped"]
        out_of_reach = sorted({*collected.needed_out_of_reach.get(name, ()), *skipped})
        if failed:
            yield f"stage {first_three(failed)} of experiment {name!r} failed"
        if out_of_reach and beyond_reach:
            stages = first_three(out_of_reach)
            yield f"stage {stages} of experiment {name!r} is out of this session's reach (--dspy-stage)"
        for stage, on in collected.to_measure.get(name, ()):
            if stage not in failed and record.result(stage, on) is None:  # type: ignore[arg-type]
                yield f"stage {stage} of experiment {name!r} was not measured on {on}"


def first_three(words: Iterable[str]) -> str:
    """The first three, and how many more there are."""
    found = list(words)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
