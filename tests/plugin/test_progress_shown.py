"""What a session says while it works, in every way that pytest can be run: past capture, on terminals, from workers."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.plugin.projects import GATES, run
from tests.progress.clock import terminal

MODES = ("--capture=fd", "--capture=sys", "--capture=tee-sys", "-s", "-q", "-v", "-vv", "--tb=no")
EVALUATED = r"dspy: baseline: evaluating on dev - 10/10 examples( \(.*\))? - took .* - score 50\.0%"

HELD = """
import os, pathlib, time
import parity

def held(engine, request, complete=parity.ParityEngine.complete):
    # Answers once the test has seen that the session speaks, and after a minute in any case.
    pathlib.Path("asked").touch()
    for _ in range(600):
        if pathlib.Path("go").exists() or pathlib.Path("silence").exists():
            break
        time.sleep(0.1)
    else:
        pathlib.Path("silence").touch()
    return complete(engine, request)

parity.ParityEngine.complete = held
"""
"""Put into a conftest.py, holds every answer of the LM back until there is a file ``go``."""


@pytest.fixture
def held(project: pytest.Pytester) -> pytest.Pytester:
    """A project whose LM answers once the test lets it."""
    project.makepyfile(GATES)
    conftest = project.path / "conftest.py"
    conftest.write_text(f"{conftest.read_text()}\n{HELD}")
    return project


def let_go_when(held: pytest.Pytester, process: subprocess.Popen[bytes], read: int, *wanted: str) -> str:
    """What a session writes; its LM answers as soon as all that is wanted was written."""
    said = b""
    while True:
        ready, _, _ = select.select([read], [], [], 1.0)
        try:
            part = os.read(read, 65536) if ready else b""
        except OSError:  # a terminal ends so
            break
        said += part
        if all(re.search(one, said.decode(errors="replace")) for one in wanted):
            (held.path / "go").touch()
        if (ready and not part) or (not ready and process.poll() is not None):
            break
    process.wait(timeout=120)
    text = said.decode(errors="replace").replace("\r\n", "\n")
    assert not (held.path / "silence").exists(), text
    return text


def on_a_terminal(held: pytest.Pytester, *arguments: str, wanted: tuple[str, ...], **environment: str) -> str:
    controller, end = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    settings = {**kept, "TERM": "xterm", "COLUMNS": "100", **environment}
    process = subprocess.Popen(command, cwd=held.path, env=settings, stdin=end, stdout=end, stderr=end)
    os.close(end)
    try:
        return let_go_when(held, process, controller, *wanted)
    finally:
        os.close(controller)


def into_a_log(held: pytest.Pytester, *arguments: str, wanted: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    process = subprocess.Popen(command, cwd=held.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    with process.stdout:
        return let_go_when(held, process, process.stdout.fileno(), *wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_session_speaks_while_its_lm_is_silent_whatever_is_captured(held: pytest.Pytester, mode: str) -> None:
    said = into_a_log(held, mode, wanted=(r"dspy: baseline: evaluating on dev - 0/10 examples - \d",))
    assert re.search(EVALUATED, said), said
    assert "\x1b" not in said
    assert "\r" not in said


def test_a_terminal_shows_one_line_that_moves_and_keeps_what_came_out(held: pytest.Pytester) -> None:
    moved = r"evaluating on dev - 0/10 examples - 0.*evaluating on dev - 0/10 examples - [2-9]"
    said = on_a_terminal(held, "-p", "no:xdist", wanted=(f"(?s){moved}",))
    rows = terminal(re.sub(r"\x1b\[[\d;]*m", "", said))
    start = next(number for number, row in enumerate(rows) if row.startswith("collected"))
    first, second = rows[start + 1 : start + 5][-2:]
    assert re.fullmatch(EVALUATED, first), rows
    assert re.match(r"test_a_terminal_\w+\.py \.", second), rows
    assert not [row for row in rows[start:] if " 0/10" in row], rows


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTEST_ADDOPTS": "--color=no"}])
def test_a_terminal_that_is_to_be_plain_gets_lines(held: pytest.Pytester, plain: dict[str, str]) -> None:
    said = on_a_terminal(held, wanted=("evaluating on dev - 0/10 examples",), **plain)
    assert all(line.isprintable() for line in said.splitlines() if "dspy: " in line)
    assert re.search(EVALUATED, said)


def test_double_quiet_sessions_speak_as_long_as_it_lasts_and_keep_nothing(held: pytest.Pytester) -> None:
    said = into_a_log(held, "-qq", wanted=("evaluating on dev - 0/10 examples",))
    assert "took" not in said


def test_workers_speak_through_the_terminal_of_their_controller(held: pytest.Pytester) -> None:
    (held.path / "test_more.py").write_text(GATES)
    wanted = (
        r"dspy: \[gw[01]\] baseline: evaluating on dev - 0/10 examples",
        r"dspy: \[gw[01]\] waiting for worker gw[01] \(since .*\) that measures baseline on dev",
    )
    said = into_a_log(held, "-n", "2", wanted=wanted)
    assert re.search(r"dspy: \[gw[01]\] baseline: evaluating on dev - 10/10 examples", said), said


def test_workers_share_one_line_of_a_terminal(held: pytest.Pytester) -> None:
    said = on_a_terminal(held, "-n", "2", wanted=(r"\rdspy: \[gw[01]\] baseline: evaluating on dev - 0/10 examples",))
    rows = terminal(re.sub(r"\x1b\[[\d;]*m", "", said))
    assert not [row for row in rows if " 0/10" in row], rows


def test_a_session_says_for_whom_it_waits_and_since_when(held: pytest.Pytester) -> None:
    first = threading.Thread(target=into_a_log, args=[held], kwargs={"wanted": ("what never is",)})
    first.start()
    while not (held.path / "asked").exists():
        first.join(0.1)
        assert first.is_alive()
    wait = r"dspy: waiting for another session \(process \d+ on .*, since .*\) that measures baseline on dev - \d"
    said = into_a_log(held, wanted=(wait,))
    first.join()
    assert re.search(r"that measures baseline on dev - took", said), said


def test_without_pytests_terminal_nothing_is_said(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_SECONDS", "0.4")
    project.makepyfile(GATES)
    result = project.runpytest_subprocess("-p", "no:terminal", "--dspy-num-threads=1")
    assert (result.ret, result.outlines, result.errlines) == (0, [], [])


def test_a_frozen_session_and_one_that_loads_have_nothing_to_tell(saved: pytest.Pytester) -> None:
    result = run(saved, "--dspy-frozen")
    assert [line for line in result.outlines if line.startswith("dspy: ") and "took" in line] == []


SLOW_DSPY = """
import importlib.util, pathlib, sys, time

class Slow:
    # DSPy takes its time, until the test has seen that this is said.
    def find_spec(self, name, path=None, target=None):
        if name == "dspy.utils":
            for _ in range(600):
                if pathlib.Path("go").exists():
                    break
                time.sleep(0.1)
            else:
                pathlib.Path("silence").touch()

sys.meta_path.insert(0, Slow())
import dspy
"""


def test_the_import_of_dspy_is_told_where_it_is_for_us(held: pytest.Pytester) -> None:
    conftest = held.path / "conftest.py"
    conftest.write_text(SLOW_DSPY + conftest.read_text())
    assert "dspy: importing DSPy - " in into_a_log(held, wanted=("dspy: importing DSPy - ",))


def test_projects_that_use_dspy_without_us_hear_nothing(project: pytest.Pytester) -> None:
    (project.path / "conftest.py").write_text("import time, slow\n")
    Path(project.path / "slow.py").write_text(SLOW_DSPY.replace("range(600)", "range(30)"))
    project.makepyfile("def test_it(): ...")
    result = project.runpytest_subprocess("-q")
    result.assert_outcomes(passed=1)
    assert "dspy:" not in result.stdout.str() + result.stderr.str()
