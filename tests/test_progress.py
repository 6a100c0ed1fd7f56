"""Progress as plain lines, by a clock that the test turns."""

from __future__ import annotations

import io

import pytest

from pytest_dspy_ft import progress
from pytest_dspy_ft.progress import LineProgress, SilentProgress
from pytest_dspy_ft.text import duration


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def shown(clock: Clock, steps: list[tuple[float, float]], prefix: str = "", total: float | None = 100) -> list[str]:
    """The lines for a task that is told ``done`` at the second ``at`` since its start."""
    stream = io.StringIO()
    start = clock.now
    with LineProgress(stream, prefix).task("tuned: training", total, "steps") as task:
        for at, done in steps:
            clock.now = start + at
            task.advance(done)
    return stream.getvalue().splitlines()


def test_short_work_is_not_worth_a_word(clock: Clock) -> None:
    assert shown(clock, [(0.1, 10), (0.9, 100)]) == []


def test_a_line_when_it_turns_out_long_then_now_and_then_and_at_the_end(clock: Clock) -> None:
    steps = [(0.5, 1), (2, 10), (3, 15), (16.9, 50), (17, 50), (31, 90), (40, 100)]
    assert shown(clock, steps) == [
        "",
        "dspy: tuned: training - 10/100 steps - about 18 s left",
        "dspy: tuned: training - 50/100 steps - about 17 s left",
        "dspy: tuned: training - 100/100 steps - about 0.0 s left",
        "dspy: tuned: training - 100/100 steps - took 40 s",
    ]


def test_many_reports_are_few_lines(clock: Clock) -> None:
    assert len(shown(clock, [(n / 10, n / 6) for n in range(600)])) == 1 + 1 + 3 + 1


def test_without_a_total_it_says_how_long_already(clock: Clock) -> None:
    assert shown(clock, [(5, 7)], total=None) == [
        "",
        "dspy: tuned: training - 7 steps - 5.0 s so far",
        "dspy: tuned: training - 7 steps - took 5.0 s",
    ]


def test_nothing_done_yet_divides_by_nothing(clock: Clock) -> None:
    assert shown(clock, [(5, 0)])[1] == "dspy: tuned: training - 0/100 steps - 5.0 s so far"


def test_a_prefix_says_who_speaks(clock: Clock) -> None:
    assert shown(clock, [(5, 50)], prefix="[gw1] ")[1].startswith("dspy: [gw1] tuned: training - 50/100")


def test_a_note_and_a_total_that_comes_late(clock: Clock) -> None:
    stream = io.StringIO()
    with LineProgress(stream).task("tuned", None, "steps") as task:
        clock.now += 2
        task.advance(1, total=4, note="loss 0.5")
    assert stream.getvalue().splitlines()[1] == "dspy: tuned - 1/4 steps - about 6.0 s left - loss 0.5"


def test_a_task_ends_also_when_its_work_fails(clock: Clock) -> None:
    stream = io.StringIO()

    def fail() -> None:
        with LineProgress(stream).task("tuned", 4, "steps") as task:
            clock.now += 2
            task.advance(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stream.getvalue().splitlines()[-1] == "dspy: tuned - 1/4 steps - took 2.0 s"


def test_a_terminal_gets_a_bar_that_leaves_no_trace() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with LineProgress(stream).task("tuned", 4, "steps") as task:
        task.advance(4, note="quick")
    assert stream.getvalue().strip() == ""


def test_silence() -> None:
    with SilentProgress().task("tuned", 4) as task:
        task.advance(1, total=5, note="x")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (161, "2 min 41 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
