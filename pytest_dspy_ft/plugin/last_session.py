"""The last session of each experiment, kept in the store: what exporting a stage asks for its verdicts.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.required import RequiredGates
from pytest_dspy_ft.plugin.session import session_of
from pytest_dspy_ft.plugin.whole import WholeSession


class LastSession:
    """Hooks that say in the record what a session left out, and keep it; registered where the user looks.

    Args:
        config: Of the session.
        whole: Knows why a session is not the whole.
        gates: Knows which gates were not judged.
    """

    def __init__(self, config: pytest.Config, whole: WholeSession, gates: RequiredGates) -> None:
        self._config = config
        self._session = session_of(config)
        self._whole = whole
        self._gates = gates
        self._problem = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Complete the record, first, so that reports have it; then keep it."""
        if not self._session.in_use or self._session.options.instead:
            return
        records, collected = self._session.records, collected_tests(self._config)
        records.note_commit(collected.commit, collected.dirty)
        reasons = self._whole.reasons(session, records.run(), exitstatus, beyond_reach=False)
        records.note_left_out(reasons, self._gates.unjudged_gates())
        if self._session.options.frozen:
            return
        from pytest_dspy_ft.store.folder import StoreFolder
        from pytest_dspy_ft.store.sessions import keep_session

        try:
            keep_session(StoreFolder(self._session.options.store), records.run())
        except StoreError as problem:
            self._problem = str(problem)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say so where it could not be kept."""
        if self._problem:
            terminalreporter.write_line(f"this session's verdicts were not kept: {self._problem}", yellow=True)
