"""What is shown of work, by a clock that the test turns: from its first seconds to its end, and never much."""

from __future__ import annotations

import itertools

import pytest

from pytest_dspy_ft import progress
from pytest_dspy_ft.progress import SilentProgress, shown_on, waiting_for
from pytest_dspy_ft.progress.display import MOST_SECONDS
from pytest_dspy_ft.text import duration
from tests.progress.clock import Watched


def test_short_work_is_not_worth_a_line() -> None:
    watched = Watched()
    with watched.task("tuned: training", 100, "steps") as task:
        watched.pass_seconds(1.5)
        task.advance(100)
    assert watched.lines == []


def test_work_that_turns_out_long_is_told_of_though_it_tells_nothing_itself() -> None:
    watched = Watched()
    with watched.task("tuned: training", 100, "steps"):
        watched.pass_seconds(2)
        assert watched.lines == ["dspy: tuned: training - 0/100 steps - 2.0 s"]


def test_a_log_has_lines_at_growing_intervals_and_one_at_the_end() -> None:
    watched = Watched()
    with watched.task("tuned: training", 100, "steps") as task:
        for second in range(1, 61):
            task.advance(second)
            watched.pass_seconds(1)
    assert watched.lines == [
        "dspy: tuned: training - 2/100 steps - 2.0 s",
        "dspy: tuned: training - 12/100 steps (1.0/s) - 12 s, about 1 min 28 s left",
        "dspy: tuned: training - 24/100 steps (1.0/s) - 24 s, about 1 min 16 s left",
        "dspy: tuned: training - 48/100 steps (1.0/s) - 48 s, about 52 s left",
        "dspy: tuned: training - 60/100 steps (1.0/s) - took 1 min",
    ]


def test_hours_are_some_lines_with_no_long_gap_between_them() -> None:
    watched, told = Watched(), []
    with watched.task("tuned: training"):
        for second in range(3 * 3600):
            before = len(watched.stream.getvalue())
            watched.clock.now += 1
            watched.beat()
            if len(watched.stream.getvalue()) > before:
                told.append(second)
    gaps = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert len(told) < 50
    assert max(gaps) <= MOST_SECONDS + 1


def test_on_a_terminal_there_is_a_word_within_a_second_and_it_never_stands_still() -> None:
    watched, seen = Watched(live=True), []
    with watched.task("tuned: training", 10, "steps"):
        for _ in range(60):
            watched.pass_seconds(1)
            seen.append(watched.lines)
    assert all(len(lines) == 1 for lines in seen)
    assert all(earlier != later for earlier, later in itertools.pairwise(seen))
    assert watched.lines == ["dspy: tuned: training - 0/10 steps - took 1 min"]


def test_what_came_out_stays() -> None:
    watched = Watched(live=True)
    with watched.task("tuned: evaluating on dev", 4, "examples") as task:
        task.advance(2, note="score so far 50.0%")
        watched.pass_seconds(3)
        assert watched.lines == [
            "dspy: tuned: evaluating on dev - 2/4 examples (1.5 s each) - 3.0 s, about 3.0 s left - score so far"[:76]
            + "..."
        ]
        task.advance(4, note="score 75.0%, 1 unparsed")
    assert watched.lines == [
        "dspy: tuned: evaluating on dev - 4/4 examples (1.3/s) - took 3.0 s - score 75.0%, 1 unparsed"
    ]


@pytest.mark.parametrize(("error", "said"), [(KeyError, "failed after 3.0 s"), (KeyboardInterrupt, "interrupted")])
def test_work_that_did_not_come_to_its_end_says_so(error: type[BaseException], said: str) -> None:
    watched = Watched()

    def fail() -> None:
        with watched.task("tuned", 4, "steps") as task:
            task.advance(1)
            watched.pass_seconds(3)
            raise error

    with pytest.raises(error):
        fail()
    assert watched.lines[-1].startswith(f"dspy: tuned - 1/4 steps - {said}")


def test_of_work_inside_other_work_the_inner_is_told() -> None:
    watched = Watched()
    with watched.passing("building"):
        with watched.task("loading"):
            watched.pass_seconds(25)
        watched.pass_seconds(9)
        assert watched.lines == [
            "dspy: loading - 2.0 s",
            "dspy: loading - 12 s",
            "dspy: loading - 24 s",
            "dspy: loading - took 25 s",
        ]
        watched.pass_seconds(2)
    assert watched.lines[4:] == ["dspy: building - 35 s"]


def test_many_short_pieces_inside_long_work_do_not_hide_it() -> None:
    watched = Watched()
    with watched.passing("building"):
        for _ in range(30):
            with watched.task("loading"):
                watched.pass_seconds(0.5)
    assert watched.lines == ["dspy: building - 2.0 s", "dspy: building - 12 s"]


def test_quiet_sessions_keep_nothing_and_verbose_ones_all() -> None:
    for settings, lines in (({"quiet": True}, 0), ({"all_kept": True}, 1)):
        watched = Watched(live=True, **settings)
        with watched.task("loading", kept=True):
            watched.pass_seconds(1)
            assert watched.lines == ["dspy: loading - 1.0 s"]
        with watched.passing("looking"):
            watched.pass_seconds(1)
        assert len(watched.lines) == lines


def test_after_closing_nothing_is_shown() -> None:
    watched = Watched(live=True)
    with watched.task("loading"):
        watched.pass_seconds(3)
        watched.close()
        watched.pass_seconds(3)
    assert watched.lines == []


def test_names_that_drive_a_terminal_do_not() -> None:
    watched = Watched()
    with watched.task("tu\x1b[31mned\n\r", 4, "steps") as task:
        task.advance(1, note="re\x1b[2Jply\nnext")
        watched.pass_seconds(3)
    assert watched.lines[0].startswith("dspy: tuned - 1/4 steps")
    assert "\x1b" not in watched.stream.getvalue()


# --- several processes -----------------------------------------------------------------------------------------------


def test_who_does_what_and_those_who_do_the_same_are_told_together() -> None:
    watched = Watched()
    watched.begin("gw0", 0, "tuned: building", None, "", True)
    watched.begin("gw1", 0, "waiting for worker gw0", None, "", True)
    watched.begin("gw2", 0, "waiting for worker gw0", None, "", True)
    watched.pass_seconds(2)
    assert watched.lines == [
        "dspy: [gw0] tuned: building - 2.0 s",
        "dspy: [gw1, gw2] waiting for worker gw0 - 2.0 s",
    ]
    watched.end("gw0", 0, "done")
    watched.end("gw1", 0, "done")
    watched.end("gw2", 0, "done")
    assert watched.lines[2:] == [
        "dspy: [gw0] tuned: building - took 2.0 s",
        "dspy: [gw2] waiting for worker gw0 - took 2.0 s",
    ]


def test_on_a_terminal_one_line_has_all_of_them_and_loses_who_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_dspy_ft.progress.screen.WIDTH", 120)
    watched = Watched(live=True)
    watched.begin("gw0", 0, "training", 10, "steps", True)
    watched.begin("gw1", 0, "waiting", None, "", True)
    watched.pass_seconds(1)
    assert watched.lines == ["dspy: [gw0] training - 0/10 steps - 1.0 s; [gw1] waiting - 1.0 s"]
    watched.leave("gw0")
    watched.pass_seconds(1)
    assert watched.lines == ["dspy: [gw1] waiting - 2.0 s"]


# --- where work is told of -------------------------------------------------------------------------------------------


def test_silence() -> None:
    with SilentProgress().task("tuned", 4) as task:
        task.advance(1, total=5, note="x")


def test_work_anywhere_is_shown_where_this_process_shows_its_progress() -> None:
    watched = Watched()
    with shown_on(watched), progress.task("loading"):
        watched.pass_seconds(2)
    with progress.task("loading more"):
        watched.pass_seconds(5)
    assert watched.lines == ["dspy: loading - 2.0 s", "dspy: loading - took 2.0 s"]


def test_a_wait_is_shown_once_it_is_one() -> None:
    watched = Watched()
    with waiting_for(watched.task, "builds tuned"):
        watched.pass_seconds(5)
    assert watched.lines == []
    with waiting_for(watched.task, "builds tuned") as waiting:
        for _ in range(6):
            waiting("another session")
            watched.pass_seconds(0.5)
    assert watched.lines == [
        "dspy: waiting for another session that builds tuned - 2.0 s",
        "dspy: waiting for another session that builds tuned - took 3.0 s",
    ]


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
