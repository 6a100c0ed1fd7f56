"""``--dspy-save-baseline``: keep a whole session's results, and refuse to keep a part for the whole.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.session import DspySession

if TYPE_CHECKING:
    from pytest_dspy_ft.records.baseline import Baseline
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord

OPTION = "--dspy-save-baseline"


def check_files(session: DspySession) -> None:
    """Read the file to compare with, and make sure that the one to save to is ours to replace.

    Raises:
        pytest.UsageError: If either is no baseline that can be read here.
    """
    options = session.options
    if options.compare is None and options.save_baseline is None:
        return  # in every session that has the plugin installed: load nothing for it
    from pytest_dspy_ft.errors import RecordError
    from pytest_dspy_ft.records.baseline import read_baseline

    if options.compare is not None:
        try:
            session.baseline = read_baseline(options.compare)
        except RecordError as error:
            raise pytest.UsageError(f"--dspy-compare={options.compare_as}: {error}") from None
    if options.save_baseline is not None and options.save_baseline.exists():
        try:
            session.replaced = read_baseline(options.save_baseline)
        except RecordError as error:
            raise pytest.UsageError(
                f"{OPTION}={options.save_baseline}: {error}. It was left as it is: name another file, or delete it"
            ) from None


def foreseen(config: pytest.Config, session: DspySession) -> list[str]:
    """Why this session cannot be saved, as far as the command line tells."""
    reasons = []
    if session.options.limit is not None:
        reasons.append(f"--dspy-limit={session.options.limit} looks at a part of the examples")
    if config.getoption("lf", False):
        reasons.append("--lf runs a part of the tests")
    chosen = [argument for argument in config.args if "::" in argument]
    if chosen:
        reasons.append(f"single tests were chosen ({_some(chosen)})")
    return reasons


def save(config: pytest.Config, pytest_session: pytest.Session, session: DspySession, exitstatus: int) -> None:
    """Save this session as a baseline, or say why not; then the exit status of a session that passed is 4.

    Who asks for a baseline and goes on to commit a file must not be left with the old one unnoticed.
    """
    path = session.options.save_baseline
    if path is None:
        return
    from pytest_dspy_ft.errors import RecordError
    from pytest_dspy_ft.records.baseline import baseline_of, write_baseline

    if config.getoption("collectonly", False) or session.options.plan:
        session.saved = (
            f"baseline not saved: {'--dspy-plan' if session.options.plan else '--collect-only'} measures nothing"
        )
        return
    run = session.record()
    reasons = [*_reasons(config, pytest_session, session, run, exitstatus)]
    if not reasons:
        try:
            written = write_baseline(path, baseline_of(run))
        except RecordError as error:
            reasons.append(str(error))
        else:
            session.saved = f"baseline saved to {path}" if written else f"baseline {path} says the same: left as it is"
            return
    session.saved = f"baseline NOT saved to {path}: {'; '.join(dict.fromkeys(reasons))}"
    session.save_refused = True
    if exitstatus == pytest.ExitCode.OK:
        pytest_session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _reasons(
    config: pytest.Config, pytest_session: pytest.Session, session: DspySession, run: RunRecord, exitstatus: int
) -> Iterator[str]:
    """Why this session is not the whole story."""
    yield from foreseen(config, session)
    yield from run.incomplete
    if exitstatus == pytest.ExitCode.INTERRUPTED:
        yield "the session was interrupted"
    elif exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        yield "pytest had an internal error"
    stopped = pytest_session.shouldfail or pytest_session.shouldstop
    if stopped:
        yield f"the session stopped early ({stopped})"
    yield from session.collection_errors
    if not run.experiments:
        yield "no experiment was measured"
    survey = session.survey
    if survey.dropped:
        count = len(survey.dropped)
        yield f"{count} test{'s' * (count != 1)} that use{'s' * (count == 1)} an experiment {_were(count)} deselected"
    for name, scope in survey.scopes.items():
        if not _covered(config, scope):
            where = "anywhere in the project" if scope == "." else f"in {scope}"
            yield f"experiment {name!r} can be used {where}, and only {_some(config.args)} was run"
    records = {experiment.name: experiment for experiment in run.experiments}
    for name in dict.fromkeys([*survey.scopes, *records]):
        record = records.get(name)
        if record is None:
            yield f"nothing of experiment {name!r} was measured"
        else:
            yield from _gaps(session, record)
    if session.replaced is not None:
        yield from _losses(session.replaced, records)
    if session.options.compare == session.options.save_baseline:
        for record in records.values():
            if record.comparison is not None and not record.comparison.passed:
                yield f"experiment {record.name!r} did not pass the comparison with this very file"


def _gaps(session: DspySession, record: ExperimentRecord) -> Iterator[str]:
    """What this session should have measured of an experiment and did not."""
    name, survey = record.name, session.survey
    if record.stopped:
        yield f"experiment {name!r} was stopped: {record.stopped}"
    failed = [build.stage for build in record.stages if build.status == "failed"]
    skipped = [build.stage for build in record.stages if build.status == "skipped"]
    beyond = sorted({*survey.missed.get(name, ()), *skipped})
    if failed:
        yield f"stage {_some(failed)} of experiment {name!r} failed"
    if beyond:
        yield f"stage {_some(beyond)} of experiment {name!r} is out of this session's reach (--dspy-stage)"
    for stage, on in sorted(survey.wanted.get(name, ())):
        if stage not in failed and record.result(stage, on) is None:  # type: ignore[arg-type]
            yield f"stage {stage} of experiment {name!r} was not measured on {on}"


def _losses(old: Baseline, records: dict[str, ExperimentRecord]) -> Iterator[str]:
    """What the file holds that this session did not measure."""
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


def _covered(config: pytest.Config, scope: str) -> bool:
    """Whether the paths that were run hold all tests that could use an experiment."""
    if config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        return True
    place = (config.rootpath / PurePosixPath(scope)).resolve()
    run = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return any(place.is_relative_to(path) for path in run)


def _some(words: Iterable[str | Path]) -> str:
    found = [str(word) for word in words]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
