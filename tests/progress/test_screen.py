"""One terminal for pytest and for us: nothing that either has written is lost, and each goes on where it was."""

from __future__ import annotations

import io

from pytest_dspy_ft.progress.screen import WIDTH, Screen
from pytest_dspy_ft.progress.work import columns
from tests.progress.clock import terminal


class Pytest:
    """Writes to the same stream, and hands us the line it is at."""

    def __init__(self, *, live: bool) -> None:
        self.stream, self.line = io.StringIO(), ""
        self.screen = Screen(self.stream, live=live, line_of_others=lambda: self.line)

    def write(self, text: str) -> None:
        self.screen.hand_over(text)
        self.stream.write(text)
        self.line = (self.line + text).rpartition("\n")[2]

    @property
    def rows(self) -> list[str]:
        return terminal(self.stream.getvalue())


def test_a_line_that_comes_and_goes_leaves_pytests_dots_as_they_were() -> None:
    pytest = Pytest(live=True)
    pytest.write("test_it.py ..")
    pytest.screen.show("working, 10 s")
    pytest.screen.show("working")
    assert pytest.rows == ["test_it.py ..", "working"]
    pytest.write(".")
    pytest.screen.show("working")
    pytest.screen.clear()
    pytest.write(". [100%]\n")
    assert pytest.rows == ["test_it.py .... [100%]"]


def test_a_line_that_stays_comes_between_and_pytest_begins_its_line_again() -> None:
    for live in (True, False):
        pytest = Pytest(live=live)
        pytest.write("test_it.py::test_one ")
        if live:
            pytest.screen.show("working")
        pytest.screen.say("worked")
        pytest.screen.say("worked more")
        pytest.write("PASSED\n")
        pytest.write("test_it.py::test_two PASSED\n")
        assert pytest.rows == [
            "test_it.py::test_one",
            "worked",
            "worked more",
            "test_it.py::test_one PASSED",
            "test_it.py::test_two PASSED",
        ]


def test_dots_are_not_shown_twice_and_those_that_follow_keep_their_columns() -> None:
    pytest = Pytest(live=False)
    pytest.write("test_it.py ..")
    pytest.screen.say("worked")
    pytest.write(".")
    assert pytest.rows == ["test_it.py ..", "worked", "test_it.py   ."]


def test_where_pytest_begins_a_new_line_nothing_is_repeated() -> None:
    pytest = Pytest(live=False)
    pytest.write("test_it.py ")
    pytest.screen.say("worked")
    pytest.write("\n!!! interrupted\n")
    assert pytest.rows == ["test_it.py", "worked", "", "!!! interrupted"]


def test_a_log_gets_no_control_characters() -> None:
    pytest = Pytest(live=False)
    pytest.write("test_it.py ")
    pytest.screen.say("worked")
    pytest.write(".\n")
    assert pytest.stream.getvalue().replace("\n", "").isprintable()


def test_a_line_that_is_shown_never_wraps() -> None:
    for letter in "x訓":
        screen = Screen(stream := io.StringIO(), live=True)
        screen.show(letter * 200)
        (row,) = terminal(stream.getvalue())
        assert row.endswith("...")
        assert 75 < columns(row) < WIDTH


def test_a_terminal_that_is_gone_is_no_reason_to_fail() -> None:
    screen = Screen(stream := io.StringIO(), live=True)
    stream.close()
    screen.show("working")
    screen.say("worked")
    screen.hand_over("")
